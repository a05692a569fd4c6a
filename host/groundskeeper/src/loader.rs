//! Turns the drop-in folder into phases: manifest and module become a body with a policy. Schedules and runs none of them.
//!
//! One that cannot be loaded never keeps another from being loaded: it comes out as refused, with the way out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use groundskeeper_base::write::private_folder;
use sha2::{Digest, Sha256};

use crate::config::{
    Declared, Guest as GuestManifest, Manifest, ManifestFile, Problem, Runtime, read_manifests,
};
use crate::data::{Disk, Files, generation_digest};
use crate::engine::Body;
#[cfg(feature = "dylib")]
use crate::engine::native::Native;
use crate::engine::policy::Trust;
#[cfg(feature = "wasm")]
use crate::engine::wasm::{Guest, LoadError, Setup, Wasm};
use crate::registry::{PhaseSpec, Policy, RejectedPhase};

/// What a folder came to.
#[derive(Default)]
pub struct Loaded {
    /// By file name.
    pub phases: Vec<PhaseSpec>,
    /// Files that made no phase. Several problems of one are one line each.
    pub refused: Vec<RejectedPhase>,
}

/// What is larger is no module.
#[cfg(feature = "wasm")]
pub(crate) const MOST_BYTES: usize = crate::engine::wasm::MOST_BYTES;
#[cfg(not(feature = "wasm"))]
pub(crate) const MOST_BYTES: usize = 64 << 20;

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
        private_folder(&folder)
            .map_err(|why| format!("folder {} for compiled code: {why}", folder.display()))?;
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
                    let file = Some(path);
                    loaded.refused.push(RejectedPhase {
                        name,
                        kind,
                        file,
                        problem,
                        ..RejectedPhase::default()
                    });
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
            Ok(Manifest { body: Declared::BuiltIn, .. }) => Ok(None),
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
        let bytes = Disk.read(&path, MOST_BYTES as u64 + 1);
        let bytes = bytes.map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        self.load(manifest, guest, text, &path, &bytes).map_err(|error| error.to_string())
    }

    /// Makes a phase of what was read: the text of a manifest and the bytes of its module, which lie at `path`.
    ///
    /// # Errors
    /// What is wrong, and whether the rest of the files may still be on its way.
    pub fn load(
        &self,
        manifest: &Manifest,
        guest: &GuestManifest,
        text: &str,
        path: &Path,
        bytes: &[u8],
    ) -> Result<PhaseSpec, Unfit> {
        let module: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(pinned) = guest.sha256
            && pinned != module
        {
            let found = data_encoding::HEXLOWER.encode(&module);
            return Err(Unfit::Unfinished(format!(
                "{}: its sha256 is {found}, the manifest pins another; if this is the module you mean, write that one",
                path.display()
            )));
        }
        let (body, version) = match guest.runtime {
            Runtime::Wasm => self.wasm(guest, path, bytes)?,
            Runtime::Native => self.native(guest, path, bytes)?,
        };
        body.check().map_err(|problem| Unfit::Bad(format!("[settings]: {problem}")))?;
        Ok(PhaseSpec::guest(manifest, guest, version, body, generation_digest(&module, text)))
    }

    #[cfg(feature = "wasm")]
    fn wasm(
        &self,
        guest: &GuestManifest,
        path: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn Body>, String), Unfit> {
        let module = |why: &dyn std::fmt::Display| Unfit::Bad(format!("{}: {why}", path.display()));
        let code = self.wasm.load(bytes).map_err(|error| match error {
            LoadError::Empty | LoadError::Broken(_) => {
                Unfit::Unfinished(format!("{}: {error}", path.display()))
            }
            error => module(&error),
        })?;
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
    fn wasm(&self, _: &GuestManifest, _: &Path, _: &[u8]) -> Result<(Arc<dyn Body>, String), Unfit> {
        Err(Unfit::Bad("this host was built without WebAssembly (feature \"wasm\")".to_owned()))
    }

    fn native(
        &self,
        guest: &GuestManifest,
        path: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn Body>, String), Unfit> {
        if !self.allow_native {
            return Err(Unfit::Bad(
                "native phases are off: they run with all the rights of this node; to trust them, set \
                        guests.allow_native = true"
                    .to_owned(),
            ));
        }
        self.library(guest, path, bytes).map_err(Unfit::Bad)
    }

    #[cfg(feature = "dylib")]
    fn library(
        &self,
        guest: &GuestManifest,
        path: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn Body>, String), String> {
        let digest = guest.sha256.ok_or("a native phase needs its sha256 in the manifest")?;
        let phase = Native::load_bytes(path, bytes, digest, guest.settings.clone(), &self.folder);
        let phase = phase.map_err(|error| error.to_string())?;
        let version = phase.version().to_owned();
        Ok((Arc::new(phase.within(guest.limits)), version))
    }

    #[cfg(not(feature = "dylib"))]
    fn library(&self, _: &GuestManifest, _: &Path, _: &[u8]) -> Result<(Arc<dyn Body>, String), String> {
        Err("this host was built without native phases (feature \"dylib\")".to_owned())
    }
}

impl PhaseSpec {
    /// A phase that was dropped in: `guest` is what `manifest` says of it, `digest` is over manifest and module.
    pub fn guest(
        manifest: &Manifest,
        guest: &GuestManifest,
        version: String,
        body: Arc<dyn Body>,
        digest: [u8; 32],
    ) -> Self {
        Self {
            name: manifest.name.clone(),
            kind: guest.runtime.as_str(),
            version,
            body,
            schedule: manifest.schedule.clone(),
            policy: Policy {
                trust: Trust::Guest,
                mode: manifest.mode,
                grants: guest.grants.clone(),
                on_failure: guest.on_failure,
            },
            digest: Some(digest),
        }
    }
}

/// Why files make no phase.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// As far as can be told, the rest of it is on its way.
    #[error("{0}")]
    Unfinished(String),
    #[error("{0}")]
    Bad(String),
}
