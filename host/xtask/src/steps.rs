//! Runs commands one after the other, shows each before it runs, and keeps the wall time. Decides nothing.

use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// The commands of one verb.
pub struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub fn new() -> Self {
        Self { done: Vec::new() }
    }

    /// Runs `command` to its end, with this terminal.
    ///
    /// # Errors
    /// If it cannot be started, or ends with anything but success.
    pub fn run(&mut self, name: &str, mut command: Command) -> Result<()> {
        eprintln!("$ {}", shown(&command));
        let begun = Instant::now();
        let status = command.status();
        self.done.push((name.to_owned(), begun.elapsed()));
        let program = command.get_program().to_string_lossy().into_owned();
        let status = status.with_context(|| format!("{name}: cannot start {program}"))?;
        if !status.success() {
            bail!("{name}: {program} ended with {status}");
        }
        Ok(())
    }

    /// What each step took, for the terminal; nothing if there was only one.
    pub fn summary(&self) {
        if self.done.len() < 2 {
            return;
        }
        eprintln!();
        for (name, took) in &self.done {
            eprintln!("{:>8.1} s  {name}", took.as_secs_f64());
        }
    }
}

/// A command in the workspace's root. What `cargo run` told this process about itself is not handed on: build scripts
/// that look at it (ring's does) would run anew each time, here and in the developer's shell by turns.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if about_us.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that started this one.
pub fn cargo(args: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), args)
}

/// What `program` prints, without this terminal. None if it is not there or fails.
///
/// # Errors
/// If it is there and cannot be started.
pub fn output(mut command: Command) -> Result<Option<String>> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8(output.stdout)?)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot start {}", shown(&command))),
    }
}

/// The command as one would type it, with the variables set for it.
fn shown(command: &Command) -> String {
    let quoted = |text: &str| if text.contains(' ') { format!("'{text}'") } else { text.to_owned() };
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), quoted(&value.to_string_lossy())));
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let args = command.get_args().map(|arg| quoted(&arg.to_string_lossy()));
    set.chain([program]).chain(args).collect::<Vec<_>>().join(" ")
}
