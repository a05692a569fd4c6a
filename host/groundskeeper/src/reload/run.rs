//! The reloader beside a running ticker: scans when there is a hint, at each tick, and when it is told to.

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

/// After a scan, how long hints wait for the next one: a thousand events a second are twenty scans.
const PAUSE: Duration = Duration::from_millis(50);

/// Each so many ticks everything is read, in case a change left no trace: an hour of ticks of 30 s.
const THOROUGH_EVERY: u32 = 120;

/// A build takes less, or asks again.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

enum Order {
    Reload(oneshot::Sender<ReloadReport>),
    /// Gives what has failed under this name another chance.
    Forgive(String),
    /// No scans for so long, but those that are ordered.
    Hold(Duration),
}

/// Reloads of a running node, from outside.
#[derive(Clone)]
pub struct ReloadHandle {
    folder: Arc<Path>,
    orders: mpsc::Sender<Order>,
    events: broadcast::Sender<ReloadEvent>,
    counts: Arc<Mutex<ReloadCounts>>,
}

impl ReloadHandle {
    /// Reads the whole folder now, and does what follows from it. None if the node is going down.
    pub async fn reload(&self) -> Option<ReloadReport> {
        let (tell, told) = oneshot::channel();
        self.orders.send(Order::Reload(tell)).await.ok()?;
        told.await.ok()
    }

    /// Everything that happens to phases from now on.
    pub fn events(&self) -> broadcast::Receiver<ReloadEvent> {
        self.events.subscribe()
    }
}

#[doc(hidden)]
impl ReloadHandle {
    /// Gives bytes of the phase `name` that have failed another chance.
    pub async fn forgive(&self, name: &str) {
        // A node that is going down forgives nobody any more.
        _ = self.orders.send(Order::Forgive(name.to_owned())).await;
    }

    /// For so long from now on changes in the folder wait; [`ReloadHandle::reload`] still works. Zero ends it. It ends by
    /// itself, so that nobody who is killed leaves a node that scans no more.
    pub async fn hold(&self, time: Duration) {
        // As above.
        _ = self.orders.send(Order::Hold(time.min(LONGEST_HOLD))).await;
    }

    /// The drop-in folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn counts(&self) -> ReloadCounts {
        *self.counts.lock()
    }

    /// One that nobody is behind.
    #[cfg(all(test, feature = "telemetry"))]
    pub(crate) fn of_nobody(counts: ReloadCounts) -> Self {
        Self {
            folder: Arc::from(Path::new("")),
            orders: mpsc::channel(1).0,
            events: broadcast::channel(1).0,
            counts: Arc::new(Mutex::new(counts)),
        }
    }
}

/// Runs `reloader` on the current tokio runtime beside `ticker`, until `stop` completes.
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
    /// None only while it is on a thread of its own.
    reloader: Option<(PhaseReloader, Watcher)>,
    ticker: TickerHandle,
    clock: Arc<dyn Clock>,
    counts: Arc<Mutex<ReloadCounts>>,
    held_until: Option<Duration>,
}

impl Runner {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut beats: broadcast::Receiver<Arc<BeatReport>>,
    ) {
        let Some(hint) = self.reloader.as_ref().map(|(_, watcher)| watcher.hint()) else { return };
        // What has come since the node began.
        let mut wanted: (ScanKind, Option<oneshot::Sender<ReloadReport>>) = (ScanKind::Hint, None);
        let mut is_hinted = false;
        loop {
            let (kind, tell) = wanted;
            let Some(report) = self.scan(kind).await else { return };
            if std::mem::take(&mut is_hinted) {
                tokio::time::sleep(PAUSE).await;
            }
            if let Some(tell) = tell {
                // Whoever asked may not wait for the answer any more.
                _ = tell.send(report);
            }
            let held = self.held_until();
            let next = held.or_else(|| self.reloader.as_ref()?.0.next());
            let wait = next.map(|at| at.saturating_sub(self.clock.mono()).max(PAUSE));
            wanted = tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Reload(tell)) => (ScanKind::Ordered, Some(tell)),
                    Some(Order::Forgive(name)) => {
                        self.reloader.iter_mut().for_each(|(reloader, _)| reloader.forgive(&name));
                        // No file has changed: a scan for changes would pass them by.
                        (ScanKind::Thorough, None)
                    }
                    Some(Order::Hold(time)) => {
                        self.held_until = Some(self.clock.mono() + time);
                        // What has come meanwhile, if this ends it.
                        (ScanKind::Hint, None)
                    }
                    None => return,
                },
                beat = beats.recv() => match beat {
                    Ok(beat) if beat.urgent == 0 && beat.tick.is_multiple_of(THOROUGH_EVERY) => {
                        (ScanKind::Thorough, None)
                    }
                    // Even while held: probations end at beats.
                    Ok(_) | Err(RecvError::Lagged(_)) => (ScanKind::Hint, None),
                    Err(RecvError::Closed) => return,
                },
                () = hint.notified(), if held.is_none() => {
                    is_hinted = true;
                    (ScanKind::Hint, None)
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => (ScanKind::Hint, None),
            };
        }
    }

    fn held_until(&self) -> Option<Duration> {
        self.held_until.filter(|until| *until > self.clock.mono())
    }

    /// One scan, off the async threads: it reads, compiles and waits for the end of a tick. None if there is no reloader
    /// left.
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
                tracing::error!(%error, "reload has ended; what runs runs on until the node starts anew");
                None
            }
        }
    }
}
