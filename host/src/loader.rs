//! Turns the drop-in folder into phases: manifest and module become a body with a policy. Schedules and runs none of them.
//!
//! One that cannot be loaded never keeps another from being loaded: it comes out as refused, with the way out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "wasm")]
use std::{fs::File, io::Read};

use sha2::{Digest, Sha256};

use crate::config::{
    Declared, Guest as GuestManifest, Manifest, ManifestFile, Problem, Runtime, read_manifests,
};
use crate::data::private_folder as private;
use crate::engine::Body;
#[cfg(feature = "dylib")]
use crate::engine::native::Native;
#[cfg(feature = "wasm")]
use crate::engine::wasm::{Guest, Setup, Wasm, sha256};
use crate::registry::{PhaseSpec, RejectedPhase};

/// What a folder came to.
#[derive(Default)]
pub struct Loaded {
    /// By file name.
    pub phases: Vec<PhaseSpec>,
    /// Files that made no phase. Several problems of one are one line each.
    pub refused: Vec<RejectedPhase>,
}

/// Loads phases, and keeps what they share.
pub struct Loader {
    #[cfg(feature = "wasm")]
    wasm: Wasm,
    allow_native: bool,
    #[cfg(feature = "dylib")]
    folder: PathBuf,
}

impl Loader {
    /// A loader that keeps compiled code, and copies of shared libraries while they are loaded, in `folder`.
    ///
    /// # Errors
    /// If this machine cannot run guests, or the folder cannot be made or is not this user's alone.
    pub fn new(folder: PathBuf, allow_native: bool) -> Result<Self, String> {
        private(&folder).map_err(|why| format!("folder {} for compiled code: {why}", folder.display()))?;
        Ok(Self {
            #[cfg(feature = "wasm")]
            wasm: Wasm::new(Some(folder.clone())).map_err(|error| error.to_string())?,
            allow_native,
            #[cfg(feature = "dylib")]
            folder,
        })
    }

    /// Loads every phase of `folder` that is not built in. Compiles, so it takes milliseconds to seconds.
    pub fn folder(&self, folder: &Path) -> Loaded {
        let mut loaded = Loaded::default();
        for file in read_manifests(folder) {
            match self.file(&file) {
                Ok(Some(spec)) => loaded.phases.push(spec),
                Ok(None) => {}
                Err(problem) => {
                    let ManifestFile { name, path, manifest, .. } = file;
                    tracing::warn!(phase = name, file = %path.display(), "not loaded: {problem}");
                    let kind = manifest.map_or(String::new(), |manifest| manifest.kind().to_owned());
                    loaded.refused.push(RejectedPhase { name, kind, file: Some(path), problem });
                }
            }
        }
        loaded
    }

    /// Loads what one file of the folder declares; None if that is a built-in phase.
    ///
    /// # Errors
    /// What is wrong, and the way out.
    pub fn file(&self, file: &ManifestFile) -> Result<Option<PhaseSpec>, String> {
        match &file.manifest {
            Ok(Manifest { body: Declared::BuiltIn(_), .. }) => Ok(None),
            Ok(manifest @ Manifest { body: Declared::Guest(guest), .. }) => {
                let folder = file.path.parent().unwrap_or(Path::new(""));
                self.guest(manifest, guest, folder, &file.text).map(Some)
            }
            // Those of built-ins are problems of the config, which has told them.
            Err(_) if file.is_built_in => Ok(None),
            Err(problems) => Err(problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    fn guest(
        &self,
        manifest: &Manifest,
        guest: &GuestManifest,
        folder: &Path,
        text: &str,
    ) -> Result<PhaseSpec, String> {
        let path = folder.join(&guest.module);
        let (body, version) = match guest.runtime {
            Runtime::Wasm => self.wasm(guest, &path)?,
            Runtime::Native => self.native(guest, &path)?,
        };
        body.check().map_err(|problem| format!("[settings]: {problem}"))?;
        let digest = Sha256::new().chain_update(body.digest().unwrap_or_default()).chain_update(text);
        Ok(PhaseSpec::guest(manifest, guest, version, body, digest.finalize().into()))
    }

    #[cfg(feature = "wasm")]
    fn wasm(&self, guest: &GuestManifest, path: &Path) -> Result<(Arc<dyn Body>, String), String> {
        let module = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let bytes = pinned(guest, path)?;
        let code = self.wasm.load(&bytes).map_err(|error| module(&error))?;
        let setup = Setup {
            settings: guest.settings.clone(),
            limits: guest.limits,
            grants: guest.grants.clone(),
            instance: guest.instance,
        };
        let guest = Guest::new(&self.wasm, code, setup).map_err(|error| module(&error))?;
        let version = guest.described().version.clone();
        Ok((Arc::new(guest), version))
    }

    #[cfg(not(feature = "wasm"))]
    fn wasm(&self, _: &GuestManifest, _: &Path) -> Result<(Arc<dyn Body>, String), String> {
        Err("this host was built without WebAssembly (feature \"wasm\")".to_owned())
    }

    fn native(&self, guest: &GuestManifest, path: &Path) -> Result<(Arc<dyn Body>, String), String> {
        if !self.allow_native {
            return Err(
                "native phases are off: they run with all the rights of this node; to trust them, set \
                        guests.allow_native = true"
                    .to_owned(),
            );
        }
        self.library(guest, path)
    }

    #[cfg(feature = "dylib")]
    fn library(&self, guest: &GuestManifest, path: &Path) -> Result<(Arc<dyn Body>, String), String> {
        let digest = guest.sha256.ok_or("a native phase needs its sha256 in the manifest")?;
        let phase = Native::load(path, digest, guest.settings.clone(), &self.folder);
        let phase = phase.map_err(|error| error.to_string())?;
        let version = phase.version().to_owned();
        Ok((Arc::new(phase.within(guest.limits)), version))
    }

    #[cfg(not(feature = "dylib"))]
    fn library(&self, _: &GuestManifest, _: &Path) -> Result<(Arc<dyn Body>, String), String> {
        Err("this host was built without native phases (feature \"dylib\")".to_owned())
    }
}

/// The module's bytes, if they are those that the manifest names.
#[cfg(feature = "wasm")]
fn pinned(guest: &GuestManifest, path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(path)?;
    let found = sha256(&bytes);
    match guest.sha256 {
        Some(pinned) if pinned != found.0 => Err(format!(
            "{}: its sha256 is {found}, the manifest pins another; if this is the module you mean, write that one",
            path.display()
        )),
        _ => Ok(bytes),
    }
}

/// A whole file, unless it is too large to be a module.
#[cfg(feature = "wasm")]
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    // One byte more than is taken, so that what is larger is seen to be.
    let most = crate::engine::wasm::MOST_BYTES as u64 + 1;
    File::open(path).map_err(cannot)?.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}
