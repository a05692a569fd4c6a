//! The drop-in folder of a node: creates the loader and the reloader of its phases.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};

use super::maintenance::OwnedTask;
use super::start_error::StartError;
use crate::cycle::Cycle;
use crate::data::DataFolder;
use crate::disk::{DiskCalls, DiskUser, StateWriter};
#[cfg(feature = "wasm")]
use crate::engine::Compiler;
use crate::engine::{Executor, PhaseThread};
use crate::loader::Loader;
use crate::registry::LastRuns;
use crate::reload::{PhaseReloader, ReloadHandle, ReloadOptions, ScanThread, StartFrom};
use crate::ticker::TickerHandle;

/// A start waits this long for the phases of the folder. Then the node runs without them: a folder with many or slow files is
/// no reason to have no connections. They are put in when they are loaded.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a start that waits looks for a call that hangs.
const LOOK: Duration = Duration::from_millis(5);

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

    /// Starts the thread that reads the folder, and puts the phases it starts with into `cycle`. If a call into the file
    /// system hangs, returns without them: the thread puts them in later.
    pub(super) fn begin(
        &self,
        data: &Arc<DataFolder>,
        writer: &Arc<StateWriter>,
        cycle: &mut Cycle,
        from: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<ScanThread, StartError> {
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
        let calls = DiskCalls::new(DiskUser::Phases);
        let reloader = PhaseReloader::new(options, Arc::clone(data), factory, fence, clock);
        let reloader = reloader.watched(&calls, Arc::clone(writer)).hinted_by(compiled);
        let mut scanning = ScanThread::start(reloader, calls).map_err(StartError::Thread)?;
        let (last_runs, begun_at) = (last_runs.clone(), Instant::now());
        let is_late = Arc::new(AtomicBool::new(false));
        let is_too_late = Arc::clone(&is_late);
        let mut begun = scanning.give(move |scans| {
            let begun = scans.begin(from, &last_runs);
            if let Err(error) = &begun
                && is_too_late.load(Ordering::Relaxed)
            {
                tracing::error!(%error, "cannot read which phases of the drop-in folder ran");
            }
            begun
        });
        loop {
            while let Ok((change, reply_tx)) = scanning.changes.try_recv() {
                change(cycle);
                // The scan waits for it.
                _ = reply_tx.send(true);
            }
            match begun.try_recv() {
                Ok(begun) => {
                    begun?;
                    return Ok(scanning);
                }
                Err(TryRecvError::Closed) => {
                    return Err(StartError::Thread(std::io::Error::other("it panicked")));
                }
                Err(TryRecvError::Empty) => thread::sleep(LOOK),
            }
            let trouble = scanning.calls.trouble().map(|trouble| trouble.to_string());
            let slow = (begun_at.elapsed() >= START_PATIENCE).then(|| "its phases are not loaded".to_owned());
            if let Some(why) = trouble.or(slow) {
                let dir = self.reload.dir.display();
                is_late.store(true, Ordering::Relaxed);
                tracing::error!(
                    "{dir}: {why}; the node starts without the phases in it, and puts them in later"
                );
                return Ok(scanning);
            }
        }
    }
}

/// The reloader of a running ticker. It may be stopped while it compiles, and leaves no half-written state.
pub(super) struct ReloadTask {
    pub handle: ReloadHandle,
    pub task: OwnedTask<()>,
    #[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "only operators ask for it"))]
    pub calls: Arc<DiskCalls>,
}

impl ReloadTask {
    pub(super) fn run(scanning: ScanThread, ticker: &TickerHandle) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        // Dropping the sender stops it, too.
        let stopped = async move { _ = stopped.await };
        let calls = Arc::clone(&scanning.calls);
        let (handle, task) = scanning.run(ticker.clone(), stopped);
        Self { handle, task: OwnedTask { stop, task }, calls }
    }
}
