//! A module, the manifest next to it, and the check that it is for that kind of module. Loads neither.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use groundskeeper::base::read::read_regular;
use groundskeeper::config::{Manifest, ManifestBody, ManifestFile, Problem, Runtime, read_manifests};

/// The largest module that is read: a native one has more bytes than a component may have.
const LARGEST_MODULE: u64 = 256 << 20;

pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    read_regular(file, LARGEST_MODULE).with_context(|| format!("cannot read {}", file.display()))
}

/// The name of a file without its folder and extension.
pub(super) fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Problems, one per line; all but the first start with `between`.
pub(super) fn told(problems: &[Problem], between: &str) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// The top-level text of a manifest for `key`, if the manifest can be read.
pub(super) fn written(manifest: &ManifestFile, key: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(&manifest.text).ok()?;
    Some(table.get(key)?.as_str()?.to_owned())
}

/// The runtime for a module with these bytes.
pub(super) fn runtime_of(bytes: &[u8]) -> Runtime {
    if bytes.starts_with(b"\x7fELF") { Runtime::Native } else { Runtime::Wasm }
}

/// The manifest in the folder that names the module `file`. If there is none, the manifest with the same file stem that
/// either cannot be read or names a module of the other kind.
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
        Ok(Manifest { body: ManifestBody::Guest(guest), .. }) => guest.runtime != runtime,
        Ok(_) => false,
        Err(_) => true,
    };
    let about = about.or_else(|| {
        files.iter().position(|found| found.path.file_stem() == file.file_stem() && is_other(found))
    });
    about.map(|at| files.swap_remove(at))
}

/// The problem, if the manifest is for another kind of module than `file`.
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
