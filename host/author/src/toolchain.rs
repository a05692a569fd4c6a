//! Picks a toolchain for WebAssembly from those on this machine. Installs nothing but a rustup target.
//!
//! The repository's own commands use this file too, so it depends on the standard library alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Guests have no operating system: they import the contract only.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The compiler version that the workspace requires.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");

/// A way to build for [`TARGET`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Toolchain {
    /// The active toolchain has the target.
    Plain,
    /// A system rustc without the target, but with the sources of the standard library.
    BuildStd { rustc: PathBuf, cargo: PathBuf },
}

/// Returns the first that works: the installed target, a target that rustup can add, a system toolchain that builds the
/// standard library too. Calls `note` for each attempt.
///
/// # Errors
/// If no toolchain builds for the target; names what to install.
pub fn pick(note: &mut dyn FnMut(&str)) -> Result<Toolchain, String> {
    if has_target() {
        return Ok(Toolchain::Plain);
    }
    if says("rustup", &["--version"]).is_some() {
        note(&format!("rustup target add {TARGET}"));
        let added = Command::new("rustup").args(["target", "add", TARGET]).status();
        match added {
            Ok(status) if status.success() && has_target() => return Ok(Toolchain::Plain),
            Ok(status) if status.success() => {
                note(&format!("rustup added {TARGET} to another toolchain than the one in use"));
            }
            Ok(status) => note(&format!("rustup could not add {TARGET}: {status}")),
            Err(error) => note(&format!("rustup could not be run: {error}")),
        }
    }
    system().map_err(|why| {
        format!(
            "nothing here builds for {TARGET}; either `rustup target add {TARGET}`, or install the packages rustc-web, \
             cargo-web, rust-web-src and lld with a rustc of {NEEDED} or newer ({why})"
        )
    })
}

/// Whether the active rustc has a standard library for the target.
fn has_target() -> bool {
    let folder = says("rustc", &["--print", "target-libdir", "--target", TARGET]);
    let Some(files) = folder.and_then(|folder| std::fs::read_dir(folder.trim()).ok()) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

/// The system's toolchain, or why it cannot be used.
fn system() -> Result<Toolchain, String> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    let version = says("/usr/bin/rustc", &["--version"]).ok_or("there is no /usr/bin/rustc")?;
    if version.split(' ').nth(1).and_then(major_minor).is_none_or(|found| Some(found) < major_minor(NEEDED)) {
        return Err(format!("/usr/bin/rustc is too old: {}", version.trim()));
    }
    let sysroot = says("/usr/bin/rustc", &["--print", "sysroot"]).unwrap_or_default();
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir() {
        return Err("the source of its standard library is missing".to_owned());
    }
    if !cargo.exists() {
        return Err("there is no /usr/bin/cargo".to_owned());
    }
    says("wasm-ld", &["--version"]).ok_or("there is no wasm-ld")?;
    Ok(Toolchain::BuildStd { rustc, cargo })
}

/// The output of a program, if it runs and accepts its arguments.
pub(super) fn says(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `1.95.0` as (1, 95).
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Toolchain {
    /// `cargo build`, or another command that builds, for the target. The caller adds packages and profile.
    pub fn cargo(&self, verb: &str) -> Command {
        let mut command = match self {
            Toolchain::Plain => Command::new("cargo"),
            Toolchain::BuildStd { cargo, .. } => Command::new(cargo),
        };
        command.args([verb, "--target", TARGET]);
        if let Toolchain::BuildStd { rustc, .. } = self {
            // `-Z` on a stable compiler. Cargo reads this from its own environment only, not from a config file.
            command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld").env("RUSTC", rustc);
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        }
        command
    }
}
