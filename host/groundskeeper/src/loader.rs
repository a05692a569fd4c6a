//! Turns the drop-in folder into phases: manifest and module become a body with a policy. Schedules and runs none.
//!
//! A phase that cannot be loaded does not stop others: it is listed as refused, with the fix.

use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "dylib")]
use groundskeeper_base::write::private_folder;
use sha2::{Digest, Sha256};
#[cfg(feature = "wasm")]
use tokio::sync::Notify;

use crate::config::{GuestManifest, Manifest, ManifestBody, ManifestFile, Problem, Runtime, read_drop_in};
use crate::data::{DiskFileSystem, FileSystem, Generation};
#[cfg(feature = "wasm")]
use crate::engine::Compiler;
use crate::engine::PhaseProgram;
#[cfg(feature = "dylib")]
use crate::engine::native::Native;
use crate::engine::policy::Trust;
#[cfg(feature = "wasm")]
use crate::engine::wasm::{
    CheckFailure, Code, Guest, GuestSetup, InspectedBytes, LoadError, SetupError, Wasm,
};
use crate::registry::{PhaseSpec, Policy, RejectedPhase};
use crate::reload::PhaseFactory;

#[cfg(feature = "wasm")]
mod compiling;
mod ticket;

#[doc(hidden)]
pub use ticket::CompileTicket;

/// The result of loading a folder.
#[derive(Default)]
pub struct LoadedFolder {
    /// By file name.
    pub phases: Vec<PhaseSpec>,
    /// Files that are no valid phase. Several problems of one file are one line each.
    pub refused: Vec<RejectedPhase>,
}

/// A larger file is no module.
#[cfg(feature = "wasm")]
pub(crate) const MOST_BYTES: usize = crate::engine::wasm::MOST_BYTES;
#[cfg(not(feature = "wasm"))]
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// Loads phases, and holds what they share.
pub struct Loader {
    #[cfg(feature = "wasm")]
    wasm: Wasm,
    /// Without one, loading waits for the compiler.
    #[cfg(feature = "wasm")]
    queue: Option<compiling::CompileQueue>,
    allow_native: bool,
    #[cfg(feature = "dylib")]
    folder: PathBuf,
}

impl Loader {
    /// A loader that uses `folder` for compiled code, and for copies of shared libraries while they are loaded. Compiles
    /// in this process, under strict limits: see [`crate::engine::Compiler`].
    ///
    /// # Errors
    /// If this machine cannot run guests.
    #[cfg_attr(
        not(any(feature = "wasm", feature = "dylib")),
        expect(unused_variables, reason = "without guests nothing is stored")
    )]
    pub fn new(folder: PathBuf, allow_native: bool) -> Result<Self, String> {
        #[cfg(feature = "wasm")]
        let wasm = Wasm::new(Some(folder.clone())).map_err(|error| error.to_string())?;
        Ok(Self {
            #[cfg(feature = "wasm")]
            wasm,
            #[cfg(feature = "wasm")]
            queue: None,
            allow_native,
            #[cfg(feature = "dylib")]
            folder,
        })
    }

    /// The same with another engine, and so with its compiler and its store of compiled code.
    #[cfg(feature = "wasm")]
    #[doc(hidden)]
    pub fn running_on(mut self, wasm: &Wasm) -> Self {
        self.wasm = wasm.clone();
        self
    }

    /// The same with another compiler.
    #[cfg(feature = "wasm")]
    pub fn compiled_by(mut self, compiler: Compiler) -> Self {
        self.wasm = self.wasm.compiled_by(compiler);
        self
    }

    /// The same, but a phase that must be compiled is refused as [`PhaseRefusal::Compiling`] until it is, and then `hint`
    /// is notified.
    #[cfg(feature = "wasm")]
    fn queued(mut self, hint: Arc<Notify>) -> Self {
        self.queue = Some(compiling::CompileQueue::new(self.wasm.clone(), hint));
        self
    }

    /// Creates the loader when the first phase is loaded: most nodes that share a process with others never need one.
    #[doc(hidden)]
    pub fn lazy(folder: PathBuf, allow_native: bool) -> PhaseFactory {
        Self::made_by(move || Self::new(folder.clone(), allow_native))
    }

    /// The same with a compiler that works in the background and notifies `hint`.
    #[cfg(feature = "wasm")]
    #[doc(hidden)]
    pub fn lazy_queued(
        folder: PathBuf,
        allow_native: bool,
        compiler: Compiler,
        hint: Arc<Notify>,
    ) -> PhaseFactory {
        Self::made_by(move || {
            let loader = Self::new(folder.clone(), allow_native)?;
            Ok(loader.compiled_by(compiler.clone()).queued(Arc::clone(&hint)))
        })
    }

    fn made_by(make: impl Fn() -> Result<Self, String> + Send + 'static) -> PhaseFactory {
        let mut loader = None;
        Box::new(move |manifest, guest, path, generation| {
            let loader = match &loader {
                Some(loader) => loader,
                // Nothing of it depends on the phase.
                None => loader.insert(make().map_err(PhaseRefusal::Machine)?),
            };
            loader.load(manifest, guest, path, generation)
        })
    }

    /// Loads every phase of `folder` that is not built in. Compiles, so it takes milliseconds to minutes.
    pub fn folder(&self, folder: &Path) -> LoadedFolder {
        let mut loaded = LoadedFolder::default();
        for file in read_drop_in(folder) {
            match self.file(&file) {
                Ok(Some(spec)) => loaded.phases.push(spec),
                Ok(None) => {}
                Err(problem) => {
                    let ManifestFile { name, path, manifest, .. } = &file;
                    tracing::warn!(phase = name, file = %path.display(), "not loaded: {problem}");
                    let refused = rejected(name, manifest.as_ref().ok(), path, None);
                    loaded.refused.push(RejectedPhase { problem, ..refused });
                }
            }
        }
        loaded
    }

    /// Loads the phase that one file of the folder declares; `None` if it is built in.
    ///
    /// # Errors
    /// The problem and its fix.
    #[doc(hidden)]
    pub fn file(&self, file: &ManifestFile) -> Result<Option<PhaseSpec>, String> {
        let manifest = match &file.manifest {
            Ok(manifest) => manifest,
            // The config has reported problems of built-in phases.
            Err(_) if file.is_built_in => return Ok(None),
            Err(problems) => {
                return Err(problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"));
            }
        };
        let ManifestBody::Guest(guest) = &manifest.body else { return Ok(None) };
        let path = file.path.parent().unwrap_or(Path::new("")).join(&guest.module);
        let module = DiskFileSystem.read(&path, MOST_BYTES as u64);
        let module = module.map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        let generation = Generation { manifest: file.text.clone(), module };
        self.load(manifest, guest, &path, &generation).map(Some).map_err(|error| error.to_string())
    }

    /// Makes a phase from `generation`, with the module's file at `path`.
    ///
    /// # Errors
    /// The problem, and whether other files may still arrive.
    fn load(
        &self,
        manifest: &Manifest,
        guest: &GuestManifest,
        path: &Path,
        generation: &Generation,
    ) -> Result<PhaseSpec, PhaseRefusal> {
        let bytes = &generation.module;
        let module: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(pinned) = guest.sha256
            && pinned != module
        {
            let found = data_encoding::HEXLOWER.encode(&module);
            return Err(PhaseRefusal::Unfinished(format!(
                "{}: its sha256 is {found}, the manifest pins another; if this is the module you mean, write that one",
                path.display()
            )));
        }
        let (body, version) = match guest.runtime {
            Runtime::Wasm => self.wasm(guest, path, bytes)?,
            Runtime::Native if !self.allow_native => {
                return Err(PhaseRefusal::Bad(
                    "native phases are off: they run with all the rights of this node; to trust them, set \
                     guests.allow_native = true"
                        .to_owned(),
                ));
            }
            Runtime::Native => self.native(guest, path, bytes)?,
        };
        Ok(PhaseSpec::guest(manifest, guest, version, body, generation.digest_with(&module)))
    }

    #[cfg(feature = "wasm")]
    fn wasm(
        &self,
        guest: &GuestManifest,
        path: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn PhaseProgram>, String), PhaseRefusal> {
        let module = |why: &dyn std::fmt::Display| PhaseRefusal::Bad(format!("{}: {why}", path.display()));
        let code = self.code(bytes)?.map_err(|error| {
            let why = format!("{}: {error}", path.display());
            match error {
                LoadError::Empty | LoadError::Broken(_) => PhaseRefusal::Unfinished(why),
                LoadError::Interrupted(_) => PhaseRefusal::NotCompiled(why),
                error if error.is_machines() => PhaseRefusal::Machine(why),
                _ => PhaseRefusal::Bad(why),
            }
        })?;
        let setup = GuestSetup {
            settings: guest.settings.clone(),
            limits: guest.limits,
            grants: guest.grants.clone(),
            instance: guest.instance,
        };
        let guest = Guest::new(&self.wasm, code, setup).map_err(|error| match error {
            SetupError::Shortage(_) => PhaseRefusal::Machine(format!("{}: {error}", path.display())),
            error => module(&error),
        })?;
        guest.check_settings().map_err(|failure| match failure {
            CheckFailure::Refused(problem) => bad_settings(&problem),
            CheckFailure::Shortage(words) => PhaseRefusal::Machine(format!("{}: {words}", path.display())),
        })?;
        let version = guest.described().version.clone();
        Ok((Arc::new(guest), version))
    }

    /// The code of a module. The outer error: it is being compiled.
    #[cfg(feature = "wasm")]
    fn code(&self, bytes: &[u8]) -> Result<Result<Arc<Code>, LoadError>, PhaseRefusal> {
        let Some(queue) = &self.queue else { return Ok(self.wasm.load(bytes)) };
        match self.wasm.inspect(bytes) {
            Ok(InspectedBytes::Compiled(code)) => Ok(Ok(code)),
            Ok(InspectedBytes::Uncompiled(module)) => queue.code(module),
            Err(error) => Ok(Err(error)),
        }
    }

    #[cfg(not(feature = "wasm"))]
    fn wasm(
        &self,
        _: &GuestManifest,
        _: &Path,
        _: &[u8],
    ) -> Result<(Arc<dyn PhaseProgram>, String), PhaseRefusal> {
        Err(PhaseRefusal::Bad("this host was built without WebAssembly (feature \"wasm\")".to_owned()))
    }

    #[cfg(feature = "dylib")]
    fn native(
        &self,
        guest: &GuestManifest,
        path: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn PhaseProgram>, String), PhaseRefusal> {
        let bad = |why: &str| PhaseRefusal::Bad(why.to_owned());
        let digest = guest.sha256.ok_or_else(|| bad("a native phase needs its sha256 in the manifest"))?;
        private_folder(&self.folder).map_err(|why| {
            PhaseRefusal::Bad(format!("folder {} for libraries: {why}", self.folder.display()))
        })?;
        let phase = Native::load_bytes(path, bytes, digest, guest.settings.clone(), &self.folder);
        let phase = phase.map_err(|error| {
            let words = error.to_string();
            if error.is_shortage() { PhaseRefusal::Machine(words) } else { PhaseRefusal::Bad(words) }
        })?;
        let version = phase.version().to_owned();
        let phase = phase.within(guest.limits);
        phase.check().map_err(|problem| bad_settings(&problem))?;
        Ok((Arc::new(phase), version))
    }

    #[cfg(not(feature = "dylib"))]
    fn native(
        &self,
        _: &GuestManifest,
        _: &Path,
        _: &[u8],
    ) -> Result<(Arc<dyn PhaseProgram>, String), PhaseRefusal> {
        Err(PhaseRefusal::Bad("this host was built without native phases (feature \"dylib\")".to_owned()))
    }
}

impl PhaseSpec {
    /// A drop-in phase. `guest` is the manifest's section about the guest, `digest` covers manifest and module.
    #[doc(hidden)]
    pub fn guest(
        manifest: &Manifest,
        guest: &GuestManifest,
        version: String,
        body: Arc<dyn PhaseProgram>,
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

/// The entry that the node shows for files that are no valid phase, as far as their manifest could be read.
pub(crate) fn rejected(
    name: &str,
    manifest: Option<&Manifest>,
    file: &Path,
    digest: Option<[u8; 32]>,
) -> RejectedPhase {
    RejectedPhase {
        name: name.to_owned(),
        kind: manifest.map_or(String::new(), |manifest| manifest.kind().to_owned()),
        file: Some(file.to_owned()),
        digest,
        ..RejectedPhase::default()
    }
}

#[cfg(any(feature = "dylib", feature = "wasm"))]
fn bad_settings(problem: &str) -> PhaseRefusal {
    PhaseRefusal::Bad(format!("[settings]: {problem}"))
}

/// Why files do not become a running phase.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PhaseRefusal {
    /// Other files of it may still arrive.
    #[error("{0}")]
    Unfinished(String),
    /// The phase does not run until its bytes change.
    #[error("{0}")]
    Bad(String),
    /// A failure of the machine. The files may be good.
    #[error("{0}")]
    Machine(String),
    /// As `Machine`, but the attempt may have used a minute of CPU time.
    #[error("{0}")]
    NotCompiled(String),
    /// Others are tried first. It is tried soon.
    #[error("its trial takes long, and waits for that of other phases")]
    Waits,
    /// It is being compiled.
    #[error("it is being compiled")]
    Compiling(CompileTicket),
}

impl PhaseRefusal {
    /// Whether nothing is known about the files yet: another attempt may succeed.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(self, Self::Compiling(_) | Self::Machine(_) | Self::NotCompiled(_))
    }

    pub(crate) fn known_bad(why: &str) -> Self {
        Self::Bad(format!("these bytes have failed before: {why}"))
    }
}
