//! When to scan, and what to answer: a scan on a hint, at ticks, and on command. Scans are on a thread of their own: while one
//! hangs, commands are answered and everything else goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::report::{ReloadCounts, ReloadReport};
use super::run::ReloadCommand;
use super::scans::{AskedChange, ScanResult, Scans};
use super::{CycleChange, ScanKind};
use crate::clock::Clock;
use crate::cycle::BeatReport;
use crate::disk::{DiskCalls, DiskThread};
use crate::ticker::TickerHandle;

/// After a scan, hints wait this long for the next one: a thousand events per second become twenty scans.
const PAUSE: Duration = Duration::from_millis(50);

/// ... and this many times as long as the scan took, so that a folder of many files does not keep a core busy.
const PAUSE_PER_SCAN: u32 = 9;

/// Ticks between two scans that read everything, in case a change left no trace: an hour of ticks of 30 s.
const THOROUGH_EVERY: u32 = 120;

/// While every folder is watched, ticks list the folder this often, in case a change came without a hint: another machine
/// that writes to a shared folder causes none.
const LIST_EVERY: Duration = Duration::from_secs(10);
/// ... but not more often than this many times as long as the last scan took: a thousandth of a core.
const LIST_PER_SCAN: u32 = 1000;
/// ... and this often in any case.
const LONGEST_LIST: Duration = Duration::from_secs(300);

/// How long a look at a watched folder stays good if it took this long.
pub(crate) fn good_for(took: Duration) -> Duration {
    LIST_EVERY.max(took.saturating_mul(LIST_PER_SCAN)).min(LONGEST_LIST)
}

/// How often callers that wait for a scan are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// Names that wait for a scan: more than a folder has phases that fail.
const MOST_FORGIVEN: usize = 256;

/// What the next scan has to do. A later value includes the earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// Note probations that have ended.
    Judge,
    Scan(ScanKind),
}

impl Wanted {
    fn rank(self) -> u8 {
        match self {
            Self::Judge => 0,
            Self::Scan(ScanKind::Hint) => 1,
            Self::Scan(ScanKind::Thorough) => 2,
            Self::Scan(ScanKind::Ordered) => 3,
        }
    }
}

/// See the module.
pub(super) struct Runner {
    thread: DiskThread<Scans>,
    calls: Arc<DiskCalls>,
    folder: Arc<Path>,
    ticker: TickerHandle,
    clock: Arc<dyn Clock>,
    counts: Arc<Mutex<ReloadCounts>>,
    held_until: Option<Duration>,
    /// The scan that runs, and who waits for it.
    scan: Option<(oneshot::Receiver<ScanResult>, Vec<oneshot::Sender<ReloadReport>>)>,
    wanted: Option<Wanted>,
    /// Who waits for the next ordered scan.
    waiting: Vec<oneshot::Sender<ReloadReport>>,
    /// Phases with failed bytes that may run again, for the next scan.
    forgiven: BTreeSet<String>,
    /// When the reloader wants the next scan, as monotonic time.
    next: Option<Duration>,
    /// Until when ticks need no list.
    listed_until: Option<Instant>,
    /// The end of the pause after a scan.
    not_before: Option<Instant>,
    /// The scan that hangs was logged.
    is_told: bool,
}

impl Runner {
    /// A runner that has not scanned yet.
    pub fn new(
        thread: DiskThread<Scans>,
        calls: Arc<DiskCalls>,
        folder: Arc<Path>,
        ticker: TickerHandle,
        clock: Arc<dyn Clock>,
        counts: Arc<Mutex<ReloadCounts>>,
    ) -> Self {
        Self {
            thread,
            calls,
            folder,
            ticker,
            clock,
            counts,
            held_until: None,
            scan: None,
            // First scan for changes since the node started.
            wanted: Some(Wanted::Scan(ScanKind::Hint)),
            waiting: Vec::new(),
            forgiven: BTreeSet::new(),
            next: None,
            listed_until: None,
            not_before: None,
            is_told: false,
        }
    }

    /// Runs until the ticker or all handles are gone.
    pub async fn run(
        mut self,
        mut orders: mpsc::Receiver<ReloadCommand>,
        mut beats: broadcast::Receiver<Arc<BeatReport>>,
        mut changes: mpsc::UnboundedReceiver<AskedChange>,
        hint: Arc<Notify>,
    ) {
        loop {
            self.begin_scan();
            let held = self.held_until();
            let is_idle = self.scan.is_none();
            let next = held.or(self.next).filter(|_| is_idle);
            let wait = next.map(|at| at.saturating_sub(self.clock.mono()).max(PAUSE));
            let pause = self.not_before.filter(|at| *at > Instant::now());
            let is_awaited =
                self.scan.as_ref().is_some_and(|(_, who)| !who.is_empty()) || !self.waiting.is_empty();
            tokio::select! {
                Some((change, reply_tx)) = changes.recv() => self.between_ticks(change, reply_tx),
                result = ended(&mut self.scan) => match result {
                    Some(result) => self.scanned(result),
                    None => {
                        tracing::error!("reload has ended; phases keep running and are not reloaded until the node restarts");
                        return;
                    }
                },
                order = orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                beat = beats.recv() => match beat {
                    Ok(beat) => self.at_beat(&beat),
                    Err(RecvError::Lagged(_)) => self.want(Wanted::Scan(ScanKind::Hint)),
                    Err(RecvError::Closed) => return,
                },
                () = hint.notified(), if is_idle && held.is_none() && pause.is_none() => {
                    self.want(Wanted::Scan(ScanKind::Hint));
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.want(Wanted::Scan(ScanKind::Hint));
                }
                () = tokio::time::sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
                () = tokio::time::sleep(LOOK), if is_awaited => self.answer_if_stuck(),
            }
        }
    }

    fn held_until(&self) -> Option<Duration> {
        self.held_until.filter(|until| *until > self.clock.mono())
    }

    fn want(&mut self, wanted: Wanted) {
        self.wanted = Some(self.wanted.filter(|before| before.rank() >= wanted.rank()).unwrap_or(wanted));
    }

    /// Starts the scan that is wanted, unless one runs.
    fn begin_scan(&mut self) {
        if self.scan.is_some() {
            return;
        }
        let Some(mut wanted) = self.wanted.take() else { return };
        if self.held_until().is_some() && wanted != Wanted::Scan(ScanKind::Ordered) {
            wanted = Wanted::Judge;
        }
        let waiting = match wanted {
            Wanted::Scan(ScanKind::Ordered) => std::mem::take(&mut self.waiting),
            _ => Vec::new(),
        };
        let forgiven = std::mem::take(&mut self.forgiven);
        let result = self.thread.give(move |scans| {
            forgiven.iter().for_each(|name| scans.reloader.forgive(name));
            match wanted {
                Wanted::Judge => scans.judge(),
                Wanted::Scan(kind) => scans.scan(kind),
            }
        });
        self.scan = Some((result, waiting));
    }

    fn scanned(&mut self, (result, waiting): (ScanResult, Vec<oneshot::Sender<ReloadReport>>)) {
        let ScanResult { report, counts, next, is_list, is_watched, took } = result;
        *self.counts.lock() = counts;
        self.next = next;
        if is_list {
            self.listed_until = Some(Instant::now() + good_for(took)).filter(|_| is_watched);
        }
        self.not_before = Some(Instant::now() + PAUSE.max(took * PAUSE_PER_SCAN));
        if std::mem::take(&mut self.is_told) {
            tracing::info!(folder = %self.folder.display(), "the drop-in folder answers again");
        }
        for reply_tx in waiting {
            // The caller may have stopped waiting for the answer.
            _ = reply_tx.send(report.clone());
        }
    }

    fn take(&mut self, order: ReloadCommand) {
        match order {
            ReloadCommand::Reload(reply_tx) => {
                self.waiting.push(reply_tx);
                self.want(Wanted::Scan(ScanKind::Ordered));
                self.answer_if_stuck();
            }
            ReloadCommand::Forgive(name) => {
                // Not at once: while a scan hangs, jobs for its thread would pile up.
                if self.forgiven.len() < MOST_FORGIVEN {
                    self.forgiven.insert(name);
                } else {
                    tracing::warn!(phase = name, "too many phases to forgive at once: it is not");
                }
                // No file has changed, so a scan for changes would skip them.
                self.want(Wanted::Scan(ScanKind::Thorough));
            }
            ReloadCommand::Hold(time) => {
                self.held_until = Some(self.clock.mono() + time);
                // Scan for what has changed meanwhile, if this ends the hold.
                self.want(Wanted::Scan(ScanKind::Hint));
            }
        }
    }

    fn at_beat(&mut self, beat: &BeatReport) {
        self.tell_if_stuck();
        let is_fresh = self.listed_until.is_some_and(|until| Instant::now() < until);
        self.want(if beat.urgent == 0 && beat.tick.is_multiple_of(THOROUGH_EVERY) {
            Wanted::Scan(ScanKind::Thorough)
        } else if is_fresh {
            // Probations end at beats.
            Wanted::Judge
        } else {
            Wanted::Scan(ScanKind::Hint)
        });
    }

    fn tell_if_stuck(&mut self) {
        if let Some(trouble) = self.calls.trouble().filter(|_| !self.is_told) {
            tracing::warn!("{trouble}; what was loaded from the drop-in folder runs on");
            self.is_told = true;
        }
    }

    /// Answers those who wait for a scan that hangs.
    fn answer_if_stuck(&mut self) {
        let Some(trouble) = self.calls.trouble() else { return };
        self.tell_if_stuck();
        let trouble = format!(
            "still reading {} (since {} s: {}); what was loaded from it runs on",
            self.folder.display(),
            trouble.for_s,
            trouble.what
        );
        let waiting =
            self.scan.iter_mut().flat_map(|(_, waiting)| waiting.drain(..)).chain(self.waiting.drain(..));
        for reply_tx in waiting {
            _ = reply_tx.send(ReloadReport { trouble: Some(trouble.clone()), ..ReloadReport::default() });
        }
    }

    /// Makes a change for the scan that waits for it. Not here: the beat may take a while.
    fn between_ticks(&self, change: CycleChange, reply_tx: std::sync::mpsc::Sender<bool>) {
        let ticker = self.ticker.clone();
        tokio::spawn(async move {
            let is_done = ticker.with_cycle(change).await.is_some();
            // The scan waits for it, unless the node shuts down.
            _ = reply_tx.send(is_done);
        });
    }
}

/// Completes when the scan has ended; never without a scan. `None`: it panicked.
async fn ended(
    scan: &mut Option<(oneshot::Receiver<ScanResult>, Vec<oneshot::Sender<ReloadReport>>)>,
) -> Option<(ScanResult, Vec<oneshot::Sender<ReloadReport>>)> {
    let Some((result_rx, _)) = scan else { return std::future::pending().await };
    let result = result_rx.await.ok()?;
    let (_, waiting) = scan.take()?;
    Some((result, waiting))
}
