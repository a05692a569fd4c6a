//! The interface to the reloader of a running ticker, and the thread on which it scans.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::reloader::PhaseReloader;
use super::report::{ReloadCounts, ReloadEvent, ReloadReport};
use super::runner::Runner;
use super::scans::{AskedChange, Scans};
use crate::clock::Clock;
use crate::disk::{DiskCalls, DiskThread, DiskUser};
use crate::ticker::TickerHandle;

/// A build takes less time, or renews the hold.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

pub(super) enum ReloadCommand {
    Reload(oneshot::Sender<ReloadReport>),
    /// Lets what has failed under this name run again.
    Forgive(String),
    /// No scans for this long, except ordered ones.
    Hold(Duration),
}

/// The interface to the reloader of a running node.
#[derive(Clone)]
pub struct ReloadHandle {
    folder: Arc<Path>,
    orders: mpsc::Sender<ReloadCommand>,
    events: broadcast::Sender<ReloadEvent>,
    counts: Arc<Mutex<ReloadCounts>>,
}

impl ReloadHandle {
    /// Reads the whole folder now, and applies the changes. `None` if the node is shutting down.
    pub async fn reload(&self) -> Option<ReloadReport> {
        let (reply_tx, reply_rx) = oneshot::channel();
        self.orders.send(ReloadCommand::Reload(reply_tx)).await.ok()?;
        reply_rx.await.ok()
    }

    /// Receives every later event.
    pub fn events(&self) -> broadcast::Receiver<ReloadEvent> {
        self.events.subscribe()
    }
}

#[doc(hidden)]
impl ReloadHandle {
    /// Lets failed bytes of the phase `name` run again.
    pub async fn forgive(&self, name: &str) {
        // Fails only while the node shuts down; then it does not matter.
        _ = self.orders.send(ReloadCommand::Forgive(name.to_owned())).await;
    }

    /// Changes in the folder wait for `time` from now on; [`ReloadHandle::reload`] still works. Zero ends the hold. It
    /// also ends by itself, so that a client that is killed cannot stop the scans forever.
    pub async fn hold(&self, time: Duration) {
        // As above.
        _ = self.orders.send(ReloadCommand::Hold(time.min(LONGEST_HOLD))).await;
    }

    /// The drop-in folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn counts(&self) -> ReloadCounts {
        *self.counts.lock()
    }

    /// A handle without a reloader behind it.
    #[cfg(all(test, feature = "telemetry"))]
    pub(crate) fn without_reloader(counts: ReloadCounts) -> Self {
        Self {
            folder: Arc::from(Path::new("")),
            orders: mpsc::channel(1).0,
            events: broadcast::channel(1).0,
            counts: Arc::new(Mutex::new(counts)),
        }
    }
}

/// Runs `reloader` for `ticker` on the current tokio runtime, until `stop` completes.
///
/// # Panics
/// If the system has no thread left.
pub fn run(
    reloader: PhaseReloader,
    ticker: TickerHandle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> (ReloadHandle, tokio::task::JoinHandle<()>) {
    let scanning =
        ScanThread::start(reloader, DiskCalls::new(DiskUser::Phases)).expect("a thread to scan on");
    scanning.run(ticker, stop)
}

/// The thread that scans, before its ticker runs.
pub(crate) struct ScanThread {
    thread: DiskThread<Scans>,
    pub calls: Arc<DiskCalls>,
    /// What scans want done between two ticks.
    pub changes: mpsc::UnboundedReceiver<AskedChange>,
    folder: Arc<Path>,
    events: broadcast::Sender<ReloadEvent>,
    counts: ReloadCounts,
    clock: Arc<dyn Clock>,
    /// Notified when a module was compiled, and by the watcher.
    compiled: Arc<Notify>,
}

impl ScanThread {
    /// Starts the thread. `reloader` notes its file operations in `calls`.
    pub fn start(reloader: PhaseReloader, calls: Arc<DiskCalls>) -> std::io::Result<Self> {
        let (folder, events) = (Arc::from(reloader.scanner.dir()), reloader.log.sender.clone());
        let (counts, clock) = (reloader.counts(), Arc::clone(&reloader.clock));
        let compiled = Arc::clone(&reloader.compiled);
        let (asked, changes) = mpsc::unbounded_channel();
        let noted = Arc::clone(&calls);
        let thread = DiskThread::start("gk-reload", move || Scans::new(reloader, asked, noted))?;
        Ok(Self { thread, calls, changes, folder, events, counts, clock, compiled })
    }

    /// Gives the thread a job. Its changes between ticks arrive in `changes`.
    pub fn give<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Scans) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        self.thread.give(job)
    }

    /// See [`run`].
    pub fn run(
        self,
        ticker: TickerHandle,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> (ReloadHandle, tokio::task::JoinHandle<()>) {
        let Self { thread, calls, changes, folder, events, counts, clock, compiled: hint } = self;
        let (orders, ordered) = mpsc::channel(8);
        let counts = Arc::new(Mutex::new(counts));
        let beats = ticker.reports();
        let hint_tx = Arc::clone(&hint);
        // The result is not needed: the next scan sees whether the folder is watched.
        drop(thread.give(move |scans| scans.watch(hint_tx)));
        let handle =
            ReloadHandle { folder: Arc::clone(&folder), orders, events, counts: Arc::clone(&counts) };
        let runner = Runner::new(thread, calls, folder, ticker, clock, counts);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop => {}
                () = runner.run(ordered, beats, changes, hint) => {}
            }
        });
        (handle, task)
    }
}
