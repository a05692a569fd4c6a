//! Phases of the drop-in folder that come, change and go while the node runs. Decides which generation of a phase runs;
//! loads none itself and runs none but in trial.
//!
//! The folder is what the operator wants; what runs is the last generation that was good. A scan finds files that have
//! changed and come to rest. They are loaded and tried off the tick ([`PhaseFactory`]), written down, and put in between
//! two ticks; if the new generation fails its first runs, the one before returns with what it had kept. Each scan asks
//! the cycle once for what it needs, and hands it at most one batch of changes. The protocol step by step:
//! `docs/reload.md`.

use std::path::{Path, PathBuf};

use crate::config::{Guest, Manifest, Require};
use crate::data::Generation;
use crate::loader::Refusal;
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
mod scanner;
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
pub use report::{Change, ConfigReport, ReloadCounts, ReloadEvent, ReloadReport};
pub use run::ReloadHandle;

/// Makes a phase of a manifest, its part about the guest, and what was read, whose module lies at the path.
#[doc(hidden)]
pub type PhaseFactory =
    Box<dyn FnMut(&Manifest, &Guest, &Path, &Generation) -> Result<PhaseSpec, Refusal> + Send>;

/// How a reloader works.
#[derive(Clone, Debug)]
pub struct ReloadOptions {
    /// The drop-in folder.
    pub dir: PathBuf,
    /// Native phases are replaced while the node runs: for their authors.
    pub reload_native: bool,
    pub require: Require,
    /// What signatures are checked against.
    pub public_key: Option<String>,
}

impl ReloadOptions {
    /// Nothing is required of what lies in `dir`.
    pub fn trusting(dir: PathBuf) -> Self {
        Self { dir, reload_native: false, require: Require::Nothing, public_key: None }
    }
}

/// Why a scan is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[doc(hidden)]
pub enum ScanKind {
    /// Something may have changed, or some time has passed: only what has come to rest is read.
    Hint,
    /// From time to time everything is read, in case a change had no trace.
    Thorough,
    /// The operator says so: everything is read as it is now, and what was refused is tried again.
    Ordered,
}
