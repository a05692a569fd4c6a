//! Phases of the drop-in folder that come, change and go while the node runs. Decides which generation of a phase runs;
//! loads none itself and runs none but in trial.
//!
//! The folder is what the operator wants; what runs is the last generation that was good. A scan finds files that have
//! changed and come to rest. They are loaded and tried off the tick ([`PhaseFactory`]), written down, and put in between two
//! ticks; if the new generation fails its first runs, the one before returns with what it had kept. Each scan asks the
//! cycle once for what it needs, and hands it at most one batch of changes. The protocol step by step: `docs/reload.md`.

use crate::config::{Guest, Manifest};
use crate::loader::{Loader, Unfit};
use crate::registry::PhaseSpec;

mod decide;
mod exchange;
mod loading;
mod log;
mod options;
mod records;
mod reloader;
mod report;
mod required;
mod restore;
mod run;
mod scanner;
mod slot;
mod slots;
mod start;
mod store;
mod tracker;
mod watch;

#[doc(hidden)]
pub use self::{
    exchange::{BetweenTicks, CycleChange},
    options::{ReloadOptions, ScanKind},
    reloader::PhaseReloader,
    run::run,
    start::StartFrom,
    tracker::{FileTracker, LONGEST_WAIT, QUIET},
    watch::Watcher,
};
pub use report::{Change, ConfigReport, ReloadCounts, ReloadEvent, ReloadReport};
pub use run::ReloadHandle;

/// Makes phases of files that were read.
#[doc(hidden)]
pub trait PhaseFactory: Send {
    /// # Errors
    /// What is wrong with them, and whether the rest may be on its way.
    fn load(
        &mut self,
        manifest: &Manifest,
        guest: &Guest,
        text: &str,
        path: &std::path::Path,
        module: &[u8],
    ) -> Result<PhaseSpec, Unfit>;
}

impl PhaseFactory for Loader {
    fn load(
        &mut self,
        manifest: &Manifest,
        guest: &Guest,
        text: &str,
        path: &std::path::Path,
        module: &[u8],
    ) -> Result<PhaseSpec, Unfit> {
        Loader::load(self, manifest, guest, text, path, module)
    }
}
