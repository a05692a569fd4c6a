//! Loads phases as a node would, and reports the result for each. Runs `describe` and `check`, never `run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use groundskeeper::config::{ManifestFile, Runtime, read_drop_in};
use groundskeeper::engine::PhaseProgram;
use groundskeeper::engine::wasm::{ModuleDigest, Wasm, sha256};
use groundskeeper::loader::Loader;
use serde::Serialize;

use super::beside::{manifest_of, read, runtime_of, stem, written, wrong_kind};
use super::inspect::InspectedModule;
use super::install::with_keys;
use super::scratch::ScratchFolder;

/// The result of loading one file as a node would.
#[derive(Default, Debug, Serialize)]
pub struct LoadPreview {
    /// The manifest, or a module without one.
    #[serde(serialize_with = "groundskeeper::base::paths::lossy")]
    pub file: PathBuf,
    /// The phase's name, or one made from the file name if the manifest has none.
    pub name: String,
    /// `built-in`, `wasm` or `native`; empty if the manifest does not say.
    pub kind: String,
    /// What the phase says it does. None if it was not loaded.
    pub summary: Option<String>,
    /// The phase's own version. None if it was not loaded.
    pub version: Option<String>,
    /// The module's digest, if the module was loaded.
    pub sha256: Option<String>,
    /// Why a node would not load it, with the fix.
    pub problem: Option<String>,
}

/// The problem with a native phase in commands that do not need to run it.
const NOT_TRUSTED: &str = "a native phase is not loaded unless it is trusted, for it would run with all of your rights; to \
    trust it, set guests.allow_native = true in a config and name that with --config";

impl LoadPreview {
    fn not_yet(found: &ManifestFile) -> Self {
        let kind = match &found.manifest {
            Ok(manifest) => Some(manifest.kind().to_owned()),
            Err(_) => written(found, "kind"),
        };
        Self {
            file: found.path.clone(),
            name: found.name.clone(),
            kind: kind.unwrap_or_default(),
            ..Self::default()
        }
    }

    fn of(loader: &Loader, found: &ManifestFile) -> Self {
        let mut loading = Self::not_yet(found);
        match loader.file(found) {
            Ok(Some(spec)) => {
                loading.summary = Some(spec.body.summary().to_owned());
                loading.version = Some(spec.version);
                loading.sha256 = spec.body.digest().map(|digest| ModuleDigest(digest).to_string());
            }
            Ok(None) => {}
            Err(problem) => loading.problem = Some(problem),
        }
        loading
    }
}

/// Loads every phase of a drop-in folder, in the order of file names. Components run on `wasm`.
///
/// # Errors
/// If this machine cannot run guests. A failure of one phase is that phase's problem.
pub fn load_folder(dir: &Path, allow_native: bool, wasm: &Wasm) -> Result<Vec<LoadPreview>> {
    let scratch = ScratchFolder::new()?;
    let loader = loader(&scratch, allow_native)?.running_on(wasm);
    Ok(read_drop_in(dir).iter().map(|found| LoadPreview::of(&loader, found)).collect())
}

/// Loads the native phase of `file`, a library or a manifest; None if `file` is for another kind.
///
/// # Errors
/// If it cannot be read, or has no manifest of its kind.
pub fn load_native(file: &Path, allow_native: bool) -> Result<Option<LoadPreview>> {
    let Some(manifest) = native(file)? else { return Ok(None) };
    if !allow_native {
        let problem = Some(NOT_TRUSTED.to_owned());
        return Ok(Some(LoadPreview { problem, ..LoadPreview::not_yet(&manifest) }));
    }
    let scratch = ScratchFolder::new()?;
    Ok(Some(LoadPreview::of(&loader(&scratch, allow_native)?, &manifest)))
}

/// The phase of `file`, a module or a manifest, with the setup from its manifest.
///
/// # Errors
/// If it cannot be loaded, or is a native phase and that is not allowed.
pub fn load(file: &Path, allow_native: bool, wasm: &Wasm) -> Result<Arc<dyn PhaseProgram>> {
    let Some(manifest) = native(file)? else {
        return Ok(Arc::new(InspectedModule::load(file, wasm)?.guest()?));
    };
    if !allow_native {
        bail!("{}: {NOT_TRUSTED}", file.display());
    }
    let scratch = ScratchFolder::new()?;
    let loaded = loader(&scratch, allow_native)?.file(&manifest);
    let spec = loaded.map_err(|problem| anyhow!("{}: {problem}", file.display()))?;
    Ok(spec.with_context(|| format!("{} is about a built-in phase", manifest.path.display()))?.body)
}

fn loader(scratch: &ScratchFolder, allow_native: bool) -> Result<Loader> {
    Loader::new(scratch.path().to_owned(), allow_native).map_err(anyhow::Error::msg)
}

/// The manifest of the native phase that `file` belongs to. Missing entries for module and digest are filled in as
/// `install` does.
fn native(file: &Path) -> Result<Option<ManifestFile>> {
    let (library, manifest) = if file.extension().is_some_and(|end| end == "toml") {
        let manifest = ManifestFile::read(file.to_owned());
        if written(&manifest, "kind").as_deref() != Some(Runtime::Native.as_str()) {
            return Ok(None);
        }
        let module = written(&manifest, "module");
        let module = module.unwrap_or_else(|| format!("{}.{}", manifest.name, Runtime::Native.extension()));
        (file.with_file_name(module), manifest)
    } else {
        if runtime_of(&read(file)?) != Runtime::Native {
            return Ok(None);
        }
        let manifest = manifest_of(file, Runtime::Native).with_context(|| {
            let (file, stem) = (file.display(), stem(file));
            format!("{file} has no manifest beside it; write {stem}.toml with kind = \"native\"")
        })?;
        if let Some(problem) = wrong_kind(&manifest, file, Runtime::Native) {
            bail!(problem);
        }
        (file.to_owned(), manifest)
    };
    Ok(Some(filled_in(manifest, &library)?))
}

fn filled_in(manifest: ManifestFile, library: &Path) -> Result<ManifestFile> {
    let Ok(table) = toml::from_str::<toml::Table>(&manifest.text) else { return Ok(manifest) };
    let bytes = read(library).with_context(|| format!("{} is about it", manifest.path.display()))?;
    let module = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let digest = sha256(&bytes).to_string();
    let keys = [("module", module.as_str()), ("sha256", digest.as_str())];
    let missing: Vec<_> = keys.into_iter().filter(|(key, _)| !table.contains_key(*key)).collect();
    Ok(ManifestFile::parse(manifest.path, with_keys(&manifest.text, &missing)))
}
