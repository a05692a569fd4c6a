//! Builds a component or a shared library from a source folder. Runs compilers, never their output.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use groundskeeper::data::write_whole;
use groundskeeper::engine::wasm::{ModuleDigest, Sizes, component_of, sha256};
use groundskeeper_sdk::abi::ENTRY;

use super::beside::read;
use super::c;
use super::toolchain::{self, says};

/// The result of a build.
pub struct BuildOutput {
    /// Where the component or library was written.
    pub file: PathBuf,
    /// Digest of the file, for the `sha256` of a manifest.
    pub digest: ModuleDigest,
    /// None for a shared library.
    pub sizes: Option<Sizes>,
}

/// Compiler options for a guest: small, and one codegen unit so that equal sources make equal bytes. Names stay, for
/// backtraces.
const PROFILE: [&str; 5] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=\"debuginfo\"",
];

/// Builds the phase in `folder` (a Rust package, or C files) as a component, `<name>.wasm` in that folder or in `out`.
///
/// # Errors
/// If there is no toolchain (the error names what to install), the build fails, or the result is no phase.
pub fn build(folder: &Path, out: Option<&Path>, note: &mut dyn FnMut(&str)) -> Result<BuildOutput> {
    let (name, core) = if folder.join("Cargo.toml").is_file() {
        rust(folder, note)?
    } else if !c::files(folder)?.is_empty() {
        c::module(folder, note)?
    } else {
        bail!(no_phase(folder))
    };
    let component = component_of(&core).with_context(|| format!("the build of {name} made no phase"))?;
    let file = out.unwrap_or(folder).join(format!("{name}.wasm"));
    write_whole(&file, &component, 0o644).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(BuildOutput { digest: sha256(&component), sizes: Sizes::of(&component).ok(), file })
}

/// Builds the phase in `folder` (a Rust package, or C files that export the entry of a native phase) as a shared
/// library, `<name>.so` there or in `out`.
///
/// If the build fails or makes no library, or the C files are written for a component.
/// If the build fails, or makes no library; if the C files are written for a component.
pub fn build_native(folder: &Path, out: Option<&Path>, note: &mut dyn FnMut(&str)) -> Result<BuildOutput> {
    let (name, bytes) = if folder.join("Cargo.toml").is_file() {
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--features", "groundskeeper-sdk/dylib"]);
        let (name, library) = artifact(command, folder, note)?;
        (name, read(&library)?)
    } else if c::files(folder)?.is_empty() {
        bail!(no_phase(folder))
    } else if c::is_native(folder)? {
        c::library(folder, note)?
    } else {
        bail!(
            "no C file in {} defines {ENTRY}: they are written for a component (`groundskeeper build`); what a native \
             phase in C looks like is in docs/native-phases.md",
            folder.display()
        )
    };
    let file = out.unwrap_or(folder).join(format!("{name}.so"));
    write_whole(&file, &bytes, 0o755).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(BuildOutput { digest: sha256(&bytes), sizes: None, file })
}

fn no_phase(folder: &Path) -> String {
    format!(
        "{} has neither a Cargo.toml nor C files; name the folder of a phase, or make one with `groundskeeper new`",
        folder.display()
    )
}

fn rust(folder: &Path, note: &mut dyn FnMut(&str)) -> Result<(String, Vec<u8>)> {
    let toolchain = toolchain::pick(note).map_err(anyhow::Error::msg)?;
    // Cargo does not optimise a crate that is also an `rlib` at link time unless it builds the `cdylib` alone.
    let mut command = toolchain.cargo("rustc");
    command.args(["--release", "--lib", "--crate-type", "cdylib"]);
    for setting in PROFILE {
        command.args(["--config", setting]);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", remapped(folder));
    let (name, module) = artifact(command, folder, note)?;
    Ok((name, read(&module)?))
}

/// Compiler flags that keep local paths out of the module.
fn remapped(folder: &Path) -> OsString {
    let home = env::var_os("HOME").map(PathBuf::from);
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".cargo")));
    let rustup =
        env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".rustup")));
    let root = workspace_root(folder);
    // The folder name of each registry on this machine.
    let registries = cargo.as_ref().and_then(|cargo| fs::read_dir(cargo.join("registry/src")).ok());
    let registries =
        registries.into_iter().flatten().filter_map(|entry| Some((Some(entry.ok()?.path()), "/crates")));
    let mut flags = OsString::new();
    // Later flags win, so the widest path comes first.
    let wide = [(home, "/home"), (cargo.clone(), "/cargo"), (rustup, "/rustup")];
    let named = wide.into_iter().chain(registries).chain([(root, "/phase")]);
    let named = named.map(|(from, to)| (from, to.to_owned()));
    for (from, to) in named.chain(std_sources().map(|(from, to)| (Some(from), to))) {
        let Some(from) = from.and_then(|from| fs::canonicalize(from).ok()) else { continue };
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

/// The local path of std's sources, if they are installed, and the path that std uses otherwise. A component must have
/// the same bytes with and without the sources.
fn std_sources() -> Option<(PathBuf, String)> {
    let sysroot = says("rustc", &["--print", "sysroot"])?;
    let version = says("rustc", &["--version", "--verbose"])?;
    let hash = version.lines().find_map(|line| line.strip_prefix("commit-hash: "))?;
    Some((Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), format!("/rustc/{hash}")))
}

/// The root of the cargo workspace that contains `folder`.
fn workspace_root(folder: &Path) -> Option<PathBuf> {
    let output = Command::new("cargo")
        .args(["locate-project", "--workspace", "--message-format", "plain"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let manifest = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    manifest.parent().map(Path::to_path_buf)
}

/// Runs a `cargo build` in `folder` and finds the library that it made. Returns the package's name and the file.
fn artifact(mut command: Command, folder: &Path, note: &mut dyn FnMut(&str)) -> Result<(String, PathBuf)> {
    command.arg("--message-format=json-render-diagnostics").current_dir(folder);
    note(&format!("{} in {}", shown(&command), folder.display()));
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be run; install Rust with rustup")?;
    if !output.status.success() {
        bail!("the build failed: {}", output.status);
    }
    let manifest = fs::canonicalize(folder.join("Cargo.toml"))?;
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let is_ours = message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest);
        let kinds = message["target"]["crate_types"].as_array();
        let is_library = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"));
        if !is_ours || !is_library || message["reason"] != "compiler-artifact" {
            continue;
        }
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(|file| file.as_str());
        let library = files
            .map(PathBuf::from)
            .find(|file| file.extension().is_some_and(|extension| extension == "wasm" || extension == "so"));
        if let Some(library) = library {
            return Ok((package(&message), library));
        }
    }
    bail!(
        "{} builds no module; write into its [lib]: crate-type = [\"cdylib\", \"rlib\"]",
        manifest.display()
    )
}

/// The package name in `path+file:///x/name#0.1.0` or `path+file:///x#name@0.1.0`.
fn package(message: &serde_json::Value) -> String {
    let id = message["package_id"].as_str().unwrap_or_default();
    let (before, after) = id.split_once('#').unwrap_or(("", id));
    match after.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => before.rsplit('/').next().unwrap_or(before).to_owned(),
    }
}

pub(super) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    // The profile does not help a reader.
    let words = words.filter(|word| {
        !word.starts_with("profile.") && word != "--config" && !word.starts_with("--message-format")
    });
    words.collect::<Vec<_>>().join(" ")
}
