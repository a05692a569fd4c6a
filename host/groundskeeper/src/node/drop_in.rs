//! The drop-in folder of a node: creates the loader and the reloader of its phases.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use super::maintenance::OwnedTask;
use crate::cycle::Cycle;
use crate::data::{DataError, DataFolder};
#[cfg(feature = "wasm")]
use crate::engine::Compiler;
use crate::engine::{Executor, PhaseThread};
use crate::loader::Loader;
use crate::registry::LastRuns;
use crate::reload::{self, CycleChange, PhaseReloader, ReloadHandle, ReloadOptions, StartFrom};
use crate::ticker::TickerHandle;

/// A folder of phases that are loaded, tried, and replaced while the node runs.
#[derive(Clone, Debug)]
pub struct DropIn {
    /// Where the folder is, and what its files need to be loaded.
    pub reload: ReloadOptions,
    /// Also loads shared libraries. They are trusted: nothing limits them.
    pub allow_native: bool,
    /// Compiles the components.
    #[cfg(feature = "wasm")]
    pub compiler: Compiler,
}

impl DropIn {
    /// The components in `dir`, without required signatures.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self {
            reload: ReloadOptions::trusting(dir.into()),
            allow_native: false,
            #[cfg(feature = "wasm")]
            compiler: Compiler::in_process(),
        }
    }

    /// Creates the reloader of the folder, and puts the phases it starts with into `cycle`.
    pub(super) fn begin(
        &self,
        data: &Arc<DataFolder>,
        cycle: &mut Cycle,
        from: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<PhaseReloader, DataError> {
        let (options, clock) = (self.reload.clone(), Arc::clone(&cycle.world().state.clock));
        let compiled = Arc::new(Notify::new());
        let folder = data.artifacts();
        #[cfg(feature = "wasm")]
        let factory = {
            let compiler = self.compiler.clone();
            Loader::lazy_queued(folder, self.allow_native, compiler, Arc::clone(&compiled))
        };
        #[cfg(not(feature = "wasm"))]
        let factory = Loader::lazy(folder, self.allow_native);
        let fence = Executor::Thread(PhaseThread::default());
        let mut reloader =
            PhaseReloader::new(options, Arc::clone(data), factory, fence, clock).hinted_by(compiled);
        let mut ticks = |change: CycleChange| {
            change(cycle);
            true
        };
        reloader.begin(&mut ticks, from, last_runs)?;
        Ok(reloader)
    }
}

/// The reloader of a running ticker. It may be stopped while it compiles, and leaves no half-written state.
pub(super) struct ReloadTask {
    pub handle: ReloadHandle,
    pub task: OwnedTask<()>,
}

impl ReloadTask {
    pub(super) fn run(reloader: PhaseReloader, ticker: &TickerHandle) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        // Dropping the sender stops it, too.
        let stopped = async move { _ = stopped.await };
        let (handle, task) = reload::run(reloader, ticker.clone(), stopped);
        Self { handle, task: OwnedTask { stop, task } }
    }
}
