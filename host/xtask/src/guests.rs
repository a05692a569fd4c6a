//! Picks a toolchain for WebAssembly and builds with it what runs there. Installs nothing but a rustup target.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo, command, output};
use crate::workspace::{Workspace, major_minor};

const TARGET: &str = "wasm32-unknown-unknown";

/// What guests are made of. Each has to build for wasm32 by itself, without anything of the host.
const PACKAGES: [&str; 2] = ["groundskeeper-sdk", "groundskeeper-phases"];

/// Phases that authors copy from.
const EXAMPLES: [&str; 6] =
    ["feeler", "group-diversity", "health-decay", "partition-watch", "stats", "topology"];

/// Guests whose imports and sizes are looked at, and the profiles they are built with: what an author has by default,
/// and what the node's own `build` makes.
const GUESTS: [&str; 2] = ["pulse", "slow-peers"];
const PROFILES: [&str; 3] = ["dev", "release", "guest"];

/// A way to build for [`TARGET`].
enum Toolchain {
    /// The active toolchain has the target.
    Plain,
    /// A system rustc without the target, but with the source of the standard library.
    BuildStd { rustc: PathBuf, cargo: PathBuf },
}

/// Builds all guest packages for wasm32, and looks at what some of them import.
///
/// # Errors
/// If no toolchain can, naming what to install; if the build fails; if a guest imports what its phase does not call.
pub fn run(steps: &mut Steps) -> Result<()> {
    let toolchain = pick(steps)?;
    for package in PACKAGES {
        steps.run(&format!("{package} for wasm32"), toolchain.cargo("build", &["--package", package]))?;
    }
    let examples: Vec<&str> = EXAMPLES.iter().flat_map(|example| ["--package", example]).collect();
    steps.run("examples for wasm32", toolchain.cargo("build", &examples))?;
    for profile in PROFILES {
        for guest in GUESTS {
            let module = ["--package", guest, "--profile", profile, "--crate-type", "cdylib"];
            steps.run(&format!("{guest}, {profile}"), toolchain.cargo("rustc", &module))?;
        }
    }
    let look = ["test", "--package", "groundskeeper-sdk", "--test", "guests", "--", "--ignored"];
    steps.run("imports and sizes", cargo(&look))
}

fn pick(steps: &mut Steps) -> Result<Toolchain> {
    if has_target()? {
        return Ok(Toolchain::Plain);
    }
    if output(command("rustup", &["--version"]))?.is_some() {
        let added = steps.run("rustup target", command("rustup", &["target", "add", TARGET]));
        match added {
            Ok(()) if has_target()? => return Ok(Toolchain::Plain),
            Ok(()) => eprintln!("xtask: rustup added {TARGET} to another toolchain than the one in use"),
            Err(error) => eprintln!("xtask: {error:#}"),
        }
    }
    let needed = Workspace::read()?.rust_version(PACKAGES[0]).unwrap_or_default();
    match system(needed)? {
        Ok(toolchain) => Ok(toolchain),
        Err(why) => bail!(
            "nothing here builds for {TARGET}; either `rustup target add {TARGET}`, or install the packages \
             rustc-web, cargo-web, rust-web-src and lld with a rustc of {}.{} or newer ({why})",
            needed.0,
            needed.1
        ),
    }
}

/// Whether the active rustc has a standard library for the target.
fn has_target() -> Result<bool> {
    let folder = output(command("rustc", &["--print", "target-libdir", "--target", TARGET]))?;
    let Some(files) = folder.and_then(|folder| std::fs::read_dir(folder.trim()).ok()) else {
        return Ok(false);
    };
    Ok(files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
}

/// The system's toolchain, or why it will not do.
fn system(needed: (u32, u32)) -> Result<Result<Toolchain, String>> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    let Some(version) = output(command("/usr/bin/rustc", &["--version"]))? else {
        return Ok(Err("there is no /usr/bin/rustc".to_owned()));
    };
    if version.split(' ').nth(1).and_then(major_minor).is_none_or(|found| found < needed) {
        return Ok(Err(format!("/usr/bin/rustc is too old: {}", version.trim())));
    }
    let sysroot = output(command("/usr/bin/rustc", &["--print", "sysroot"]))?.unwrap_or_default();
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir() {
        return Ok(Err("the source of its standard library is missing".to_owned()));
    }
    if !cargo.exists() {
        return Ok(Err("there is no /usr/bin/cargo".to_owned()));
    }
    if output(command("wasm-ld", &["--version"]))?.is_none() {
        return Ok(Err("there is no wasm-ld".to_owned()));
    }
    Ok(Ok(Toolchain::BuildStd { rustc, cargo }))
}

impl Toolchain {
    fn cargo(&self, verb: &str, rest: &[&str]) -> Command {
        let words = [&[verb, "--target", TARGET], rest].concat();
        match self {
            Toolchain::Plain => cargo(&words),
            Toolchain::BuildStd { rustc, cargo } => {
                let mut command = command(&cargo.to_string_lossy(), &words);
                // `-Z` on a stable compiler. Cargo reads this from its own environment only, not from a config file.
                command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
                command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld").env("RUSTC", rustc);
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
                command
            }
        }
    }
}
