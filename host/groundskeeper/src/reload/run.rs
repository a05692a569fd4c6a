//! Runs the reloader of a running ticker: scans on a hint, at each tick, and on command.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::ScanKind;
use super::exchange::CycleChange;
use super::reloader::PhaseReloader;
use super::report::{ReloadCounts, ReloadEvent, ReloadReport};
use super::watch::Watcher;
use crate::clock::Clock;
use crate::cycle::BeatReport;
use crate::ticker::TickerHandle;

/// After a scan, hints wait this long for the next one: a thousand events per second become twenty scans.
const PAUSE: Duration = Duration::from_millis(50);

/// Ticks between two scans that read everything, in case a change left no trace: an hour of ticks of 30 s.
const THOROUGH_EVERY: u32 = 120;

/// A build takes less time, or renews the hold.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

enum ReloadCommand {
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
pub fn run(
    reloader: PhaseReloader,
    ticker: TickerHandle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> (ReloadHandle, tokio::task::JoinHandle<()>) {
    let (orders, ordered) = mpsc::channel(8);
    let counts = Arc::new(Mutex::new(reloader.counts()));
    let (folder, events) = (Arc::from(reloader.scanner.dir()), reloader.log.sender.clone());
    let (watcher, beats) = (Watcher::start(&folder), ticker.reports());
    let handle = ReloadHandle { folder, orders, events, counts: Arc::clone(&counts) };
    let clock = Arc::clone(&reloader.clock);
    let runner = Runner { reloader: Some((reloader, watcher)), ticker, clock, counts, held_until: None };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = stop => {}
            () = runner.run(ordered, beats) => {}
        }
    });
    (handle, task)
}

struct Runner {
    /// `None` only while it is on a blocking thread.
    reloader: Option<(PhaseReloader, Watcher)>,
    ticker: TickerHandle,
    clock: Arc<dyn Clock>,
    counts: Arc<Mutex<ReloadCounts>>,
    held_until: Option<Duration>,
}

impl Runner {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<ReloadCommand>,
        mut beats: broadcast::Receiver<Arc<BeatReport>>,
    ) {
        let hints = self
            .reloader
            .as_ref()
            .map(|(reloader, watcher)| (watcher.hint(), Arc::clone(&reloader.compiled)));
        let Some((hint, compiled)) = hints else { return };
        // First scan for changes since the node started.
        let mut wanted: (ScanKind, Option<oneshot::Sender<ReloadReport>>) = (ScanKind::Hint, None);
        let mut is_hinted = false;
        loop {
            let (kind, reply_tx) = wanted;
            let Some(report) = self.scan(kind).await else { return };
            if std::mem::take(&mut is_hinted) {
                tokio::time::sleep(PAUSE).await;
            }
            if let Some(reply_tx) = reply_tx {
                // The caller may have stopped waiting for the answer.
                _ = reply_tx.send(report);
            }
            let held = self.held_until();
            let next = held.or_else(|| self.reloader.as_ref()?.0.next());
            let wait = next.map(|at| at.saturating_sub(self.clock.mono()).max(PAUSE));
            wanted = tokio::select! {
                order = orders.recv() => match order {
                    Some(ReloadCommand::Reload(reply_tx)) => (ScanKind::Ordered, Some(reply_tx)),
                    Some(ReloadCommand::Forgive(name)) => {
                        self.reloader.iter_mut().for_each(|(reloader, _)| reloader.forgive(&name));
                        // No file has changed, so a scan for changes would skip them.
                        (ScanKind::Thorough, None)
                    }
                    Some(ReloadCommand::Hold(time)) => {
                        self.held_until = Some(self.clock.mono() + time);
                        // Scan for what has changed meanwhile, if this ends the hold.
                        (ScanKind::Hint, None)
                    }
                    None => return,
                },
                beat = beats.recv() => match beat {
                    Ok(beat) if beat.urgent == 0 && beat.tick.is_multiple_of(THOROUGH_EVERY) => {
                        (ScanKind::Thorough, None)
                    }
                    // Also during a hold: probations end at beats.
                    Ok(_) | Err(RecvError::Lagged(_)) => (ScanKind::Hint, None),
                    Err(RecvError::Closed) => return,
                },
                () = hint.notified(), if held.is_none() => {
                    is_hinted = true;
                    (ScanKind::Hint, None)
                }
                () = compiled.notified(), if held.is_none() => (ScanKind::Hint, None),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => (ScanKind::Hint, None),
            };
        }
    }

    fn held_until(&self) -> Option<Duration> {
        self.held_until.filter(|until| *until > self.clock.mono())
    }

    /// One scan, off the async threads: it reads, compiles and waits for the end of a tick. `None`: no reloader is left.
    async fn scan(&mut self, kind: ScanKind) -> Option<ReloadReport> {
        let (mut reloader, mut watcher) = self.reloader.take()?;
        let (ticker, runtime) = (self.ticker.clone(), Handle::current());
        let held = self.held_until().is_some();
        let scanned = tokio::task::spawn_blocking(move || {
            let mut ticks = |change: CycleChange| runtime.block_on(ticker.with_cycle(change)).is_some();
            let report = if held && kind != ScanKind::Ordered {
                reloader.judge_only(&mut ticks)
            } else {
                reloader.scan(&mut ticks, kind)
            };
            watcher.follow(reloader.scanner.files());
            (reloader, watcher, report)
        });
        match scanned.await {
            Ok((reloader, watcher, report)) => {
                *self.counts.lock() = reloader.counts();
                self.reloader = Some((reloader, watcher));
                Some(report)
            }
            Err(error) => {
                tracing::error!(%error, "reload has ended; phases keep running and are not reloaded until the node restarts");
                None
            }
        }
    }
}
