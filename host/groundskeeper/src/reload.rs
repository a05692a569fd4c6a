//! Adds, replaces and removes phases of the drop-in folder while the node runs. Decides which generation of a phase runs.
//! Does not load generations itself, and runs them only in trials.
//!
//! The folder says what the operator wants. The last good generation is what runs. A scan finds files that have changed
//! and are at rest. They are loaded and tried off the tick ([`PhaseFactory`]), written to disk, and put in between two
//! ticks. If the new generation fails its first runs, the former one returns with what it had kept. Each scan asks the
//! cycle once for what it needs, and sends it at most one batch of changes. `docs/reload.md` describes the protocol step
//! by step.

use std::path::{Path, PathBuf};

use crate::config::{GuestManifest, Manifest, TrustRequirement};
use crate::data::Generation;
use crate::loader::PhaseRefusal;
use crate::registry::PhaseSpec;

mod decide;
mod exchange;
mod loading;
mod log;
mod reloader;
mod report;
mod required;
mod restore;
mod run;
mod runner;
mod scanner;
mod scans;
mod settle;
mod slot;
mod slots;
mod start;
mod tracker;
mod watch;

#[doc(hidden)]
pub use self::{
    exchange::{BetweenTicks, CycleChange},
    reloader::PhaseReloader,
    run::run,
    start::StartFrom,
    tracker::{FileTracker, QUIET},
    watch::Watcher,
};
pub use report::{ConfigReport, PhaseChange, ReloadCounts, ReloadEvent, ReloadReport};
pub use run::ReloadHandle;
pub(crate) use run::ScanThread;
#[cfg(feature = "node")]
pub(crate) use runner::good_for;

/// Makes a phase from a manifest, its section about the guest, the path of the module, and the files as they were read.
#[doc(hidden)]
pub type PhaseFactory =
    Box<dyn FnMut(&Manifest, &GuestManifest, &Path, &Generation) -> Result<PhaseSpec, PhaseRefusal> + Send>;

/// Options of a reloader.
#[derive(Clone, Debug)]
pub struct ReloadOptions {
    /// The drop-in folder.
    pub dir: PathBuf,
    /// Replaces native phases while the node runs: for their authors.
    pub reload_native: bool,
    /// What the host requires of the files before it loads them.
    pub require: TrustRequirement,
    /// The key that signatures are checked against.
    pub public_key: Option<String>,
}

impl ReloadOptions {
    /// Requires nothing of the files in `dir`.
    pub fn trusting(dir: PathBuf) -> Self {
        Self { dir, reload_native: false, require: TrustRequirement::Nothing, public_key: None }
    }
}

/// The reason for a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[doc(hidden)]
pub enum ScanKind {
    /// Something may have changed, or some time has passed: reads only changed files that are at rest.
    Hint,
    /// From time to time: reads everything, in case a change left no trace.
    Thorough,
    /// The operator asked for it: reads everything as it is now, and tries refused files again.
    Ordered,
}
