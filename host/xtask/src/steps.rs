//! Runs commands one after the other, shows each before it runs, and measures the wall time. Decides nothing.

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// The commands that one verb runs.
pub struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub fn new() -> Self {
        Self { done: Vec::new() }
    }

    /// Runs `command` to its end, connected to this terminal.
    ///
    /// # Errors
    /// If it cannot be started, or does not end with success.
    pub fn run(&mut self, name: &str, command: Command) -> Result<()> {
        self.step(name, command, |mut command| Ok(command.status()?))
    }

    /// Runs `command` to its end. Copies both of its outputs to ours in the order of writing, and passes each line to
    /// `line`.
    ///
    /// # Errors
    /// Like [`Self::run`].
    pub fn watch(&mut self, name: &str, command: Command, line: impl FnMut(&str)) -> Result<()> {
        self.step(name, command, |command| watched(command, &mut std::io::stdout(), line))
    }

    fn step(
        &mut self,
        name: &str,
        command: Command,
        run: impl FnOnce(Command) -> Result<ExitStatus>,
    ) -> Result<()> {
        eprintln!("$ {}", shown(&command));
        let program = command.get_program().to_string_lossy().into_owned();
        let begun = Instant::now();
        let status = run(command);
        self.done.push((name.to_owned(), begun.elapsed()));
        let status = status.with_context(|| format!("{name}: cannot run {program}"))?;
        if !status.success() {
            bail!("{name}: {program} ended with {status}");
        }
        Ok(())
    }

    /// Prints the time of each step; nothing if there was only one.
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

/// Copies the output of `command` until it has ended. Does not wait for processes that it leaves behind.
fn watched(mut command: Command, out: &mut impl Write, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    const PATIENCE: Duration = Duration::from_millis(200);
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds ends of the pipe too.
    drop(command);
    let (send, pieces) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            if send.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut begun = Vec::new();
    loop {
        match pieces.recv_timeout(PATIENCE) {
            Ok(piece) => {
                out.write_all(&piece)?;
                out.flush()?;
                begun.extend(piece);
                while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                    line(&String::from_utf8_lossy(&begun[..end]));
                    begun.drain(..=end);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
        }
    }
}

/// A command in the workspace's root. Removes the variables that `cargo run` set for this process: build scripts that
/// depend on them (ring's does) would otherwise run again each time, alternating with those from the developer's shell.
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

/// A command for the cargo that started this program.
pub fn cargo(args: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), args)
}

/// The output of `program`, not connected to this terminal. None if it is not installed or fails.
///
/// # Errors
/// If it is installed but cannot be started.
pub fn output(mut command: Command) -> Result<Option<String>> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8(output.stdout)?)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot start {}", shown(&command))),
    }
}

/// The command as a user would type it, with the variables set for it.
fn shown(command: &Command) -> String {
    let quoted = |text: &str| if text.contains(' ') { format!("'{text}'") } else { text.to_owned() };
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), quoted(&value.to_string_lossy())));
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let args = command.get_args().map(|arg| quoted(&arg.to_string_lossy()));
    set.chain([program]).chain(args).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_come_line_by_line_in_their_order_and_the_end_is_kept() {
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        let script = "echo one; echo two >&2; printf thr; echo ee; (sleep 5; echo late) & exit 3";
        let ended = watched(command("sh", &["-c", script]), &mut out, |line| lines.push(line.to_owned()));
        assert_eq!(
            (lines, out),
            (["one", "two", "three"].map(str::to_owned).to_vec(), b"one\ntwo\nthree\n".to_vec())
        );
        assert_eq!(ended.unwrap().code(), Some(3));
    }
}
