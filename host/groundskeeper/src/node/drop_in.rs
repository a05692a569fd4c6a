//! The drop-in folder of a node: who loads its phases, and who replaces them while the node runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::maintenance::OwnedTask;
use crate::clock::Clock;
use crate::config::{Guest, Manifest};
use crate::cycle::Cycle;
use crate::data::{DataError, DataFolder};
use crate::engine::{Fence, PhaseThread};
use crate::loader::{Loader, Unfit};
use crate::registry::{LastRuns, PhaseSpec};
use crate::reload::{self, CycleChange, PhaseFactory, PhaseReloader, ReloadHandle, ReloadOptions, StartFrom};
use crate::ticker::TickerHandle;

/// A folder of phases that are loaded, tried, and replaced while the node runs.
#[derive(Clone, Debug)]
pub struct DropIn {
    pub reload: ReloadOptions,
    /// Shared libraries are loaded too. They are trusted: nothing keeps them in bounds.
    pub allow_native: bool,
}

impl DropIn {
    /// Components in `dir`, with no signature required of them.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { reload: ReloadOptions::trusting(dir.into()), allow_native: false }
    }

    /// The reloader of the folder, with the phases that it begins with put into `cycle`.
    pub(super) fn begin(
        &self,
        data: &Arc<DataFolder>,
        cycle: &mut Cycle,
        from: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<BegunReload, DataError> {
        let (options, allow_native) = (self.reload.clone(), self.allow_native);
        let clock = Arc::clone(&cycle.world().state.clock);
        let factory = LazyLoader { folder: Arc::clone(data), allow_native, loader: None };
        let fence = Fence::Thread(PhaseThread::new());
        let mut reloader = PhaseReloader::new(
            options.clone(),
            Arc::clone(data),
            Box::new(factory),
            fence,
            Arc::clone(&clock),
        );
        let mut ticks = |change: CycleChange| {
            change(cycle);
            true
        };
        reloader.begin(&mut ticks, from, last_runs)?;
        Ok(BegunReload { reloader, options, clock })
    }
}

/// A reloader whose phases are there, before the ticker is.
pub(super) struct BegunReload {
    reloader: PhaseReloader,
    options: ReloadOptions,
    clock: Arc<dyn Clock>,
}

impl BegunReload {
    pub(super) fn run(self, ticker: &TickerHandle) -> ReloadTask {
        let (stop, stopped) = oneshot::channel::<()>();
        // A dropped sender stops it too.
        let stopped = async move { _ = stopped.await };
        let (handle, task) = reload::run(self.reloader, &self.options, ticker.clone(), self.clock, stopped);
        ReloadTask { handle, task: OwnedTask { stop, task } }
    }
}

/// Reload beside a running ticker. It may be compiling when it is stopped, and has written down nothing half.
pub(super) struct ReloadTask {
    pub handle: ReloadHandle,
    pub task: OwnedTask<()>,
}

/// Loads phases once there is one to load: most nodes that run beside others in a process have none.
struct LazyLoader {
    folder: Arc<DataFolder>,
    allow_native: bool,
    loader: Option<Loader>,
}

impl PhaseFactory for LazyLoader {
    fn load(
        &mut self,
        manifest: &Manifest,
        guest: &Guest,
        text: &str,
        path: &Path,
        module: &[u8],
    ) -> Result<PhaseSpec, Unfit> {
        let loader = match &self.loader {
            Some(loader) => loader,
            None => {
                let loader = Loader::new(self.folder.artifacts(), self.allow_native).map_err(Unfit::Bad)?;
                self.loader.insert(loader)
            }
        };
        loader.load(manifest, guest, text, path, module)
    }
}
