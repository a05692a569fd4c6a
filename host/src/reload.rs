//! Phases of the drop-in folder that come, change and go while the node runs. Decides which generation of a phase runs;
//! loads none itself and runs none but in trial.
//!
//! The folder is what the operator wants; what runs is the last generation that was good. A look finds files
//! that have changed and come to rest. What they say is loaded and tried off the tick ([`Stage`]), written down, and put in
//! between two beats; if it fails its first runs the generation before returns, with what it had kept. The protocol step
//! by step: `docs/reload.md`.

use std::sync::mpsc::channel;

use crate::config::{Guest, Manifest};
use crate::cycle::Cycle;
use crate::loader::{Loader, Unfit};
use crate::registry::PhaseSpec;

mod begin;
mod keeper;
mod look;
mod reading;
mod report;
mod run;
mod unit;
mod watch;

#[doc(hidden)]
pub use begin::StartFrom;
#[doc(hidden)]
pub use keeper::{Keeper, KeeperOptions, Mood};
#[doc(hidden)]
pub use look::{LONGEST_WAIT, Looks, QUIET};
pub use report::{Change, ConfigReport, ReloadCounts, ReloadEvent, ReloadReport};
pub use run::ReloadHandle;
#[doc(hidden)]
pub use run::run;
#[doc(hidden)]
pub use watch::Watcher;

/// Makes phases of files that were read.
#[doc(hidden)]
pub trait Stage: Send {
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

impl Stage for Loader {
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

/// What is done between two beats.
#[doc(hidden)]
pub type Between = Box<dyn FnOnce(&mut Cycle) + Send>;

/// Whoever has the phases.
#[doc(hidden)]
pub trait Desk {
    /// Has something done between two beats, and returns when it was. False if there are no more beats.
    fn between(&mut self, change: Between) -> bool;
}

impl<F: FnMut(Between) -> bool> Desk for F {
    fn between(&mut self, change: Between) -> bool {
        self(change)
    }
}

/// [`Desk::between`] with an answer.
fn ask<R: Send + 'static>(
    desk: &mut dyn Desk,
    change: impl FnOnce(&mut Cycle) -> R + Send + 'static,
) -> Option<R> {
    let (tell, told) = channel();
    // It is received below, or nobody is there any more.
    desk.between(Box::new(move |cycle| _ = tell.send(change(cycle)))).then(|| told.recv().ok())?
}
