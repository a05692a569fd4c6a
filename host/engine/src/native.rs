//! Native phases: shared libraries that run with all rights of the process. Checks their digest; has no sandbox.

#![expect(unsafe_code, reason = "a shared library is loaded, and its functions are called")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use groundskeeper_base::read::read_regular;
use groundskeeper_base::trust;
use groundskeeper_sdk::abi::{ENTRY, NativePhase, gk_phase};
use groundskeeper_sdk::host::{Plan, Table};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use sha2::{Digest as _, Sha256};

use super::log::GuestLog;
use super::{Cost, PhaseCall, PhaseProgram, RunOutcome, RunResult, shortage};
use crate::policy::Limits;

/// As much as a component may have: larger files are not phases.
const MOST_LIBRARY_BYTES: u64 = 64 << 20;

/// Why a library cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: std::io::Error },
    #[error("{path} would run with this node's rights, and is not trusted: {why}")]
    Untrusted { path: String, why: String },
    #[error("{path}: its sha256 is {found}, the manifest pins another")]
    Digest { path: String, found: String },
    #[error("{path} cannot be loaded: {why}")]
    Load { path: String, why: String },
}

impl NativeError {
    /// Whether the machine had no memory or descriptor for it. The library may be good then.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Io { source, .. } => shortage::is_shortage([source as &(dyn std::error::Error + 'static)]),
            Self::Load { why, .. } => shortage::names_shortage(why),
            Self::Untrusted { .. } | Self::Digest { .. } => false,
        }
    }
}

/// A phase in a shared library, with its settings.
pub struct Native {
    phase: NativePhase,
    settings: String,
    digest: [u8; 32],
    limits: Limits,
}

impl Native {
    /// Reads the library at `path` and loads it like [`Native::load_bytes`].
    ///
    /// # Errors
    /// [`NativeError`]: the digest differs, other users can write to the file, or it contains no phase.
    pub fn load(
        path: &Path,
        digest: [u8; 32],
        settings: String,
        scratch: &Path,
    ) -> Result<Self, NativeError> {
        let cannot =
            |source| NativeError::Io { what: "cannot read", path: path.display().to_string(), source };
        let bytes = read_regular(path, MOST_LIBRARY_BYTES).map_err(cannot)?;
        Self::load_bytes(path, &bytes, digest, settings, scratch)
    }

    /// Loads the library `bytes`, read from `path`, if they have this digest. Copies them into `scratch`, loads the
    /// copy and never unloads it, so overwriting `path` does not change running code. Only this user may write to
    /// `scratch`.
    ///
    /// # Errors
    /// [`NativeError`]: the digest differs, other users can write to the file, or it contains no phase.
    pub fn load_bytes(
        path: &Path,
        bytes: &[u8],
        digest: [u8; 32],
        settings: String,
        scratch: &Path,
    ) -> Result<Self, NativeError> {
        let shown = || path.display().to_string();
        let io = |what: &'static str| {
            move |source| NativeError::Io { what, path: path.display().to_string(), source }
        };
        if let Some(why) = trust::distrust(path) {
            return Err(NativeError::Untrusted { path: shown(), why });
        }
        let found: [u8; 32] = Sha256::digest(bytes).into();
        if found != digest {
            let found = data_encoding::HEXLOWER.encode(&found);
            return Err(NativeError::Digest { path: shown(), found });
        }
        let copy = private_copy(bytes, &found, scratch).map_err(io("cannot copy"))?;
        let phase = open(&copy);
        // The file is not needed after this, loaded or not: mapped code stays.
        _ = fs::remove_file(&copy);
        let phase = phase.map_err(|why| NativeError::Load { path: shown(), why })?;
        Ok(Self { phase, settings, digest, limits: Limits::default() })
    }

    /// Sets the limits. Only the limits of the log have an effect on a native phase.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The phase's own version.
    pub fn version(&self) -> &str {
        self.phase.version()
    }
}

fn private_copy(bytes: &[u8], digest: &[u8; 32], scratch: &Path) -> std::io::Result<PathBuf> {
    // A unique name for each load: for a known path the loader returns the library that it already has.
    let unique =
        format!("{}-{:016x}.so", data_encoding::HEXLOWER.encode(&digest[..8]), rand::random::<u64>());
    let path = scratch.join(unique);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(bytes)?;
    Ok(path)
}

fn open(path: &Path) -> Result<NativePhase, String> {
    // SAFETY: loading runs the library's constructors. The operator allowed native phases and pinned this digest.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    // Never unloaded: its threads and thread-locals may outlive any call.
    let library = ManuallyDrop::new(library.map_err(|error| error.to_string())?);
    // SAFETY: by exporting this name a library declares that the function has this type; the name has no other use.
    let entry = unsafe { library.get::<unsafe extern "C" fn() -> *const gk_phase>(ENTRY.as_bytes()) };
    let entry = entry
        .map_err(|_| format!("it does not export {ENTRY}; build it with the SDK's feature \"dylib\""))?;
    // SAFETY: the entry has no parameters and returns its table, as the C header declares.
    let table = unsafe { entry() };
    // SAFETY: the table comes from the entry, and the library stays loaded.
    unsafe { NativePhase::new(table) }
}

impl PhaseProgram for Native {
    fn summary(&self) -> &str {
        self.phase.summary()
    }

    fn check(&self) -> Result<(), String> {
        self.phase.check(&self.settings)
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(self.digest)
    }

    fn settings(&self) -> Option<String> {
        Some(self.settings.clone())
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
        let returned = self.phase.run(&self.settings, &job.tick, &job.view, &mut plan);
        let mut parts = plan.into_parts();
        let mut log = GuestLog::new(&self.limits);
        parts.log.drain(..).for_each(|line| log.write(line.level, &line.text));
        RunResult { ended: RunOutcome::of(returned, parts), log: log.take(), cost: Cost::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use groundskeeper_sdk::abi::HEADER;
    use groundskeeper_sdk::phase::Tick;
    use groundskeeper_sdk::testing::world;

    use super::*;

    /// Compiles a phase in C; `body` is the code of its `run`.
    fn library(folder: &Path, body: &str) -> PathBuf {
        let source = format!(
            "#include \"groundskeeper_phase.h\"\n\
             static uint32_t check(const gk_run *run) {{ (void)run; return GK_OK; }}\n\
             static uint32_t decide(const gk_run *run) {{ {body} return GK_OK; }}\n\
             const gk_phase *groundskeeper_phase_v1(void) {{\n\
                 static const gk_phase phase = {{.size = sizeof(gk_phase), .abi = GK_ABI, .check = check, .run = decide}};\n\
                 return &phase;\n}}\n"
        );
        fs::write(folder.join("groundskeeper_phase.h"), HEADER).unwrap();
        fs::write(folder.join("phase.c"), source).unwrap();
        let mut cc = std::process::Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
        cc.args(["-std=c11", "-shared", "-fPIC", "-o", "phase.so", "phase.c"]).current_dir(folder);
        assert!(cc.status().expect("a C compiler, as Rust needs it to link").success());
        folder.join("phase.so")
    }

    #[test]
    fn a_file_that_its_own_group_may_write_is_loaded_and_one_of_all_users_is_not() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = library(folder.path(), "");
        let digest: [u8; 32] = Sha256::digest(fs::read(&path).unwrap()).into();
        let load = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Native::load(&path, digest, "{}".to_owned(), folder.path()).map(|_| ())
        };
        // As files are under an fsGroup of Kubernetes.
        load(0o664).unwrap();
        assert!(matches!(load(0o666), Err(NativeError::Untrusted { why, .. }) if why.contains("any user")));
    }

    #[test]
    fn a_flood_of_log_lines_is_cut_and_counted_as_for_components() {
        let folder = tempfile::tempdir().unwrap();
        let flood = "for (int i = 0; i < 1000; i++) run->log(run->host, GK_INFO, GK_TEXT(\"a long line\"));";
        let path = library(folder.path(), flood);
        let digest = Sha256::digest(fs::read(&path).unwrap()).into();
        let native = Native::load(&path, digest, "{}".to_owned(), folder.path()).unwrap();
        let native = native.within(Limits { log_lines: 3, log_line_bytes: 6, ..Limits::default() });
        let done = native.run(&PhaseCall { tick: Tick::default(), view: Arc::new(world()) });
        assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
        let said: Vec<&str> = done.log.iter().map(|line| line.text.as_str()).collect();
        let dropped = "997 more lines were dropped: [limits] log_lines = 3";
        assert_eq!(said, ["a long", "a long", "a long", dropped]);
    }
}
