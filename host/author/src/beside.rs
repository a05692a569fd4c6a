//! A module, the manifest that lies beside it, and whether that is about a module of that kind. Loads neither.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use groundskeeper::config::{Declared, Manifest, ManifestFile, Problem, Runtime, read_manifests};

pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What a file is called, without its folder and ending.
pub(super) fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Problems, one a line, the next ones `between`.
pub(super) fn told(problems: &[Problem], between: &str) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// The text that a manifest gives at its top for `key`, if it can be read.
pub(super) fn written(manifest: &ManifestFile, key: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(&manifest.text).ok()?;
    Some(table.get(key)?.as_str()?.to_owned())
}

/// What a module with these bytes is run by.
pub(super) fn runtime_of(bytes: &[u8]) -> Runtime {
    if bytes.starts_with(b"\x7fELF") { Runtime::Native } else { Runtime::Wasm }
}

/// The manifest of the folder that is about the module `file`. If none is, the one that is called like it and either
/// cannot be read or is about a module of the other kind.
pub(super) fn manifest_of(file: &Path, runtime: Runtime) -> Option<ManifestFile> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let same = |module: &Path| fs::canonicalize(module).ok() == fs::canonicalize(file).ok();
    let mut files = read_manifests(folder);
    files.retain(|found| found.path.extension().is_some_and(|end| end == "toml"));
    let about = files.iter().position(|found| found.module().is_some_and(|module| same(&module)));
    let is_other = |found: &ManifestFile| match &found.manifest {
        Ok(Manifest { body: Declared::Guest(guest), .. }) => guest.runtime != runtime,
        Ok(_) => false,
        Err(_) => true,
    };
    let about = about.or_else(|| {
        files.iter().position(|found| found.path.file_stem() == file.file_stem() && is_other(found))
    });
    about.map(|at| files.swap_remove(at))
}

/// What is wrong if the manifest is about another kind of module than `file`.
pub(super) fn wrong_kind(manifest: &ManifestFile, file: &Path, runtime: Runtime) -> Option<String> {
    let kind = written(manifest, "kind")?;
    let other = match (kind.as_str(), runtime) {
        ("wasm", Runtime::Native) => "a shared library",
        ("native", Runtime::Wasm) => "a component",
        _ => return None,
    };
    Some(format!(
        "{}: kind = {kind:?}, and {} is {other}; write kind = {:?}, or name the .{} instead",
        manifest.path.display(),
        file.display(),
        runtime.as_str(),
        if runtime == Runtime::Native { "wasm" } else { "so" },
    ))
}
