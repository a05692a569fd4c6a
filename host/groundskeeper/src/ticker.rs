//! The one timer: sleeps until the next beat and starts it. Does no work itself.
//!
//! One *periodic* timer serves everything. Besides the grid it wakes up for urgent beats while no peer is connected, for
//! the deadline of closing connections, and to spread a large round of pings. Each of these is one-shot and set only when
//! needed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::clock::Clock;
use crate::cycle::{Beat, BeatReport, Cycle};
use crate::pool::{CLOSING_DEADLINE, Pool};

mod grid;
mod pulse;

#[doc(hidden)]
pub use grid::Grid;
pub use pulse::TickerStats;

/// Waits between urgent beats while no peer is connected; the last one repeats. The node must recover its mesh within 5 s
/// after a peer is back, and an address may itself wait for 2 s. So no wait may be longer than 3 s.
const URGENT_WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];

/// Urgent waits vary by this fraction, so that nodes that lost the same peer do not all return at the same moment.
const URGENT_JITTER: f64 = 0.2;

/// After a stall, the time in which sessions may read what has arrived before silence is judged.
const LATE_GRACE: Duration = Duration::from_millis(250);

/// Boot time that runs ahead of monotonic time by at least this much is a suspend, not a rounding error.
const LEAST_SUSPEND: Duration = Duration::from_secs(1);

/// Pings sent in one batch, and the pause before the next batch: about 400,000 per second.
const PINGS_AT_ONCE: usize = 4096;
const PING_PAUSE: Duration = Duration::from_millis(10);

/// Reports kept for a listener that lags. The channel reports to it how many it missed.
const REPORTS_KEPT: usize = 64;

/// Called after each tick, off the async threads, to save state.
pub type AfterTick = Box<dyn FnMut(&Cycle, &BeatReport) + Send>;

/// A command to a running ticker. It runs between two beats.
enum Command {
    SetInterval(Duration),
    With(Box<dyn FnOnce(&mut Cycle) + Send>),
    /// A separate beat for one phase.
    Run(String, oneshot::Sender<Result<Arc<BeatReport>, RunError>>),
}

/// Why a phase could not run on command.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error("the node is shutting down")]
    Stopped,
    /// The reason that keeps the phase from running.
    #[error("{0}")]
    Refused(String),
    #[error("the beat did not end; see the log")]
    Unfinished,
}

/// The interface to a running ticker. It does not keep the ticker running after its owner drops it.
#[derive(Clone)]
pub struct TickerHandle {
    commands: mpsc::Sender<Command>,
    /// Weak: a listener must notice when the ticker has ended.
    reports: broadcast::WeakSender<Arc<BeatReport>>,
    pulse: Arc<TickerStats>,
}

impl TickerHandle {
    /// Counts and times of the ticks. Reading them takes no lock and does not wait for a beat.
    pub fn stats(&self) -> &Arc<TickerStats> {
        &self.pulse
    }

    /// Receives every later beat. Closed at once if the ticker has ended.
    pub fn reports(&self) -> broadcast::Receiver<Arc<BeatReport>> {
        self.reports.upgrade().map_or_else(|| broadcast::channel(1).1, |reports| reports.subscribe())
    }

    /// The next tick is one `interval` from now. Tick numbers continue. `None` if the ticker has ended.
    pub async fn set_interval(&self, interval: Duration) -> Option<()> {
        self.commands.send(Command::SetInterval(interval)).await.ok()
    }

    /// Runs `change` between two beats, on the ticker's own task: keep it short. `None` if the ticker has ended.
    pub async fn with_cycle<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Cycle) -> R + Send + 'static,
    ) -> Option<R> {
        let (reply_tx, reply_rx) = oneshot::channel();
        // The caller may have stopped waiting for the answer.
        let change = move |cycle: &mut Cycle| _ = reply_tx.send(change(cycle));
        self.commands.send(Command::With(Box::new(change))).await.ok()?;
        reply_rx.await.ok()
    }

    /// Runs the phase `name` now, in a separate beat between two ticks. Its cadence does not change.
    ///
    /// # Errors
    /// The reason why it cannot run now.
    pub async fn run_now(&self, name: &str) -> Result<Arc<BeatReport>, RunError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        let order = Command::Run(name.to_owned(), reply_tx);
        self.commands.send(order).await.map_err(|_| RunError::Stopped)?;
        reply_rx.await.unwrap_or(Err(RunError::Stopped))
    }
}

/// The ticker of one node.
#[doc(hidden)]
pub struct Ticker {
    cycle: Option<Cycle>,
    clock: Arc<dyn Clock>,
    pool: Arc<Pool>,
    pulse: Arc<TickerStats>,
    commands: mpsc::Receiver<Command>,
    reports: broadcast::Sender<Arc<BeatReport>>,
    after_tick: Option<AfterTick>,
    grid: Grid,
    random: StdRng,
    last_tick: u32,
    /// Number of the last urgent beat after that tick.
    last_urgent: u32,
    /// Boot time minus monotonic time at the last beat.
    slept_so_far: Duration,
    /// When the next urgent beat is due, and the index of the wait after it.
    urgent: Option<(Duration, usize)>,
    sweep_at: Option<Duration>,
    pings_at: Option<Duration>,
}

impl Ticker {
    /// Tick 0 is now, and tick 1 is the first to run. `seed` only jitters urgent beats.
    pub fn new(
        cycle: Cycle,
        interval: Duration,
        seed: u64,
        after_tick: Option<AfterTick>,
    ) -> (Self, TickerHandle) {
        let clock = Arc::clone(&cycle.world().state.clock);
        let pool = Arc::clone(&cycle.world().state.pool);
        let pulse = Arc::new(TickerStats::default());
        pulse.set_interval(interval);
        let (sender, commands) = mpsc::channel(8);
        let (reports, _) = broadcast::channel(REPORTS_KEPT);
        let handle =
            TickerHandle { commands: sender, reports: reports.downgrade(), pulse: Arc::clone(&pulse) };
        let now = clock.mono();
        let mut ticker = Self {
            cycle: Some(cycle),
            grid: Grid::new(now, interval),
            slept_so_far: clock.boot().saturating_sub(now),
            clock,
            pool,
            pulse,
            commands,
            reports,
            after_tick,
            random: StdRng::seed_from_u64(seed),
            last_tick: 0,
            last_urgent: 0,
            urgent: None,
            sweep_at: None,
            pings_at: None,
        };
        ticker.arm_urgent(0);
        (ticker, handle)
    }

    /// Runs beats until `shutdown` completes. A beat that has begun is finished. Returns the cycle.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Option<Cycle> {
        tokio::pin!(shutdown);
        let pool = Arc::clone(&self.pool);
        loop {
            let sleep = tokio::time::sleep(self.next_wake().saturating_sub(self.clock.mono()));
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Without any handle left, no command can arrive and this arm is off.
                Some(command) = self.commands.recv() => match command {
                    Command::SetInterval(interval) => self.set_interval(interval),
                    Command::With(change) => self.change(change),
                    Command::Run(name, reply_tx) => {
                        // The caller may have stopped waiting for the answer.
                        _ = reply_tx.send(self.run_one(&name).await);
                    }
                },
                () = pool.isolated().notified() => self.arm_urgent(0),
                () = sleep => {
                    if self.next_tick_at() < self.clock.mono() && self.skipped() > 0 {
                        tokio::select! {
                            biased;
                            () = &mut shutdown => break,
                            () = tokio::time::sleep(LATE_GRACE) => {}
                        }
                    }
                    self.wake().await;
                }
            }
        }
        self.cycle
    }

    fn next_tick_at(&self) -> Duration {
        self.grid.time_of(self.last_tick + 1)
    }

    fn skipped(&self) -> u32 {
        self.grid.tick_at(self.clock.mono()).saturating_sub(self.last_tick + 1)
    }

    fn next_wake(&self) -> Duration {
        let one_shots = [self.urgent.map(|(at, _)| at), self.sweep_at, self.pings_at];
        one_shots.into_iter().flatten().fold(self.next_tick_at(), Duration::min)
    }

    fn set_interval(&mut self, interval: Duration) {
        self.grid.change_interval(self.clock.mono(), self.last_tick, interval);
        self.pulse.set_interval(interval);
        if let Some(cycle) = &mut self.cycle {
            cycle.set_interval(interval);
        }
    }

    async fn run_one(&mut self, name: &str) -> Result<Arc<BeatReport>, RunError> {
        self.cycle.as_mut().ok_or(RunError::Stopped)?.order(name).map_err(RunError::Refused)?;
        self.last_urgent += 1;
        self.beat(self.urgent_beat()).await.ok_or(RunError::Unfinished)
    }

    fn urgent_beat(&self) -> Beat {
        Beat { tick: self.last_tick, urgent: self.last_urgent, ..Beat::default() }
    }

    fn change(&mut self, change: Box<dyn FnOnce(&mut Cycle) + Send>) {
        let Some(cycle) = &mut self.cycle else { return };
        // As with beats: a panic in the change must not end the ticker.
        if catch_unwind(AssertUnwindSafe(|| change(cycle))).is_err() {
            tracing::error!("a change between two beats panicked");
        }
    }

    fn arm_urgent(&mut self, wait: usize) {
        let base = URGENT_WAITS[wait.min(URGENT_WAITS.len() - 1)];
        let jitter = self.random.random_range(-URGENT_JITTER..=0.0);
        self.urgent = Some((self.clock.mono() + base.mul_f64(1.0 + jitter), wait + 1));
    }

    /// Does what is due. A due tick takes precedence over an urgent beat, since it does the same work.
    async fn wake(&mut self) {
        let now = self.clock.mono();
        if self.pings_at.is_some_and(|at| now >= at) {
            self.send_pings();
        }
        if self.sweep_at.is_some_and(|at| now >= at) {
            self.pool.abort_overdue();
            self.sweep_at = None;
        }
        if now >= self.next_tick_at() {
            self.tick().await;
        } else if let Some((at, next_wait)) = self.urgent
            && now >= at
        {
            self.urgent = None;
            if self.pool.live() == 0 {
                self.last_urgent += 1;
                self.pulse.count_urgent();
                self.beat(self.urgent_beat()).await;
                self.arm_urgent(next_wait);
            }
        }
        if self.sweep_at.is_none() && self.pool.closing() > 0 {
            self.sweep_at = Some(self.clock.mono() + CLOSING_DEADLINE);
        }
    }

    async fn tick(&mut self) {
        let skipped = self.skipped();
        let tick = self.last_tick + 1 + skipped;
        let slept_so_far = self.clock.boot().saturating_sub(self.clock.mono());
        let slept = slept_so_far.saturating_sub(self.slept_so_far);
        let slept = if slept >= LEAST_SUSPEND { slept } else { Duration::ZERO };
        self.slept_so_far = slept_so_far;
        self.last_tick = tick;
        self.last_urgent = 0;
        self.pulse.begin_tick(tick, skipped, skipped > 0 || !slept.is_zero());
        let lateness = self.clock.mono().saturating_sub(self.grid.time_of(tick));
        self.beat(Beat { tick, urgent: 0, skipped, slept, lateness }).await;
        self.pulse.end_tick(self.clock.mono());
        if self.pool.live() > 0 {
            self.urgent = None;
        } else if self.urgent.is_none() {
            self.arm_urgent(0);
        }
    }

    /// Runs one beat, off the async threads unless phases run inline.
    async fn beat(&mut self, beat: Beat) -> Option<Arc<BeatReport>> {
        let mut cycle = self.cycle.take()?;
        let mut after_tick = self.after_tick.take();
        let inline = cycle.runs_inline();
        let whole = move || {
            // A panic in the host's part of a beat must not end the ticker: the next beat starts with fresh views.
            let report = catch_unwind(AssertUnwindSafe(|| {
                let report = cycle.beat(beat);
                if let Some(after_tick) = after_tick.as_mut().filter(|_| beat.urgent == 0) {
                    after_tick(&cycle, &report);
                }
                report
            }));
            (cycle, after_tick, report)
        };
        let ended = if inline { Ok(whole()) } else { tokio::task::spawn_blocking(whole).await };
        let (cycle, after_tick, report) = ended
            .inspect_err(|error| tracing::error!(%error, "the runtime is ending; no more beats"))
            .ok()?;
        self.cycle = Some(cycle);
        self.after_tick = after_tick;
        let report = report.map(Arc::new);
        match &report {
            // There may be no listener.
            Ok(report) => _ = self.reports.send(Arc::clone(report)),
            Err(_) => tracing::error!(tick = beat.tick, "a beat panicked outside its phases"),
        }
        self.send_pings();
        report.ok()
    }

    fn send_pings(&mut self) {
        let more = self.cycle.as_mut().is_some_and(|cycle| cycle.send_pings(PINGS_AT_ONCE));
        self.pings_at = more.then(|| self.clock.mono() + PING_PAUSE);
    }
}
