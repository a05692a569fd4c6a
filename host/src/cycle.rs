//! One beat: who is due, view, run, check, apply, journal. Has no clock of its own and never waits for the network.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::{Level, LogLine, Parts};
use groundskeeper_sdk::phase::Tick;
use serde::Serialize;

use crate::book::{Book, Dial};
use crate::clock::{Clock, Coarse, unix_seconds};
use crate::config::WakeOn;
use crate::engine::{Ended, Fence, Job};
use crate::flow::Broadcasts;
use crate::journal::{Asker, Draft, Journal, Outcome, What};
use crate::pool::Pool;
use crate::record::{RecordCounts, Recorder, Taking};
use crate::registry::{LastRuns, MEMORY_BYTES, PhaseBoard, Registry};

mod apply;
mod frame;
mod recording;
#[cfg(test)]
mod tests;
mod view;

pub use apply::Tally;
use apply::{Apply, Pings};
pub use frame::{Frame, Thresholds};
pub use view::{Overlay, PhaseView};

/// A native phase that has not come back by then is stuck, or by a third of the interval if that is less ...
const BEAT_BUDGET: Duration = Duration::from_secs(2);
/// ... but not sooner than this: short intervals are for tests and demonstrations, on machines that may be busy.
const LEAST_RUN_LIMIT: Duration = Duration::from_secs(1);

/// While nobody is connected, and after a suspend, no address waits longer than this.
const BACKOFF_WHEN_ALONE: Duration = Duration::from_secs(3);

/// What a beat works on.
pub struct World {
    pub pool: Arc<Pool>,
    pub book: Arc<Book>,
    pub broadcasts: Arc<Broadcasts>,
    pub journal: Arc<Journal>,
    pub clock: Arc<dyn Clock>,
    /// None: dials are refused.
    pub dialer: Option<Arc<dyn Dial>>,
    pub thresholds: Thresholds,
    /// How long a peer may be silent: how often a late node may start that count anew hangs on it.
    pub stale_after: Duration,
}

/// Which beat is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    pub tick: u32,
    /// 0 for the tick itself, else the number of the urgent beat after it.
    pub urgent: u32,
    /// Grid points without a tick since the last one.
    pub skipped: u32,
    /// How long the machine slept since the last beat.
    pub slept: Duration,
    /// How long after its grid point the tick begins.
    pub lateness: Duration,
}

/// How one phase fared in a beat.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseRun {
    pub name: Arc<str>,
    pub took: Duration,
    /// `ok`, `failed`, `rule`, `panicked`, `trapped`, `cut` or `overran`.
    pub result: &'static str,
    pub tally: Tally,
}

/// What one beat did.
#[derive(Clone, Debug, Serialize)]
pub struct BeatReport {
    pub tick: u32,
    pub urgent: u32,
    pub late: bool,
    pub skipped: u32,
    /// How long after its grid point the tick began; zero for urgent beats.
    pub lateness: Duration,
    /// Live connections when the beat began, and when it ended.
    pub connected_before: u32,
    pub connected: u32,
    pub took: Duration,
    /// The phases that ran, in order.
    pub runs: Vec<PhaseRun>,
    pub tally: Tally,
}

/// The phases of one node, and the state that beats leave behind.
pub struct Cycle {
    world: World,
    registry: Registry,
    fence: Fence,
    board: Arc<PhaseBoard>,
    interval: Duration,
    secret: u64,
    pings: VecDeque<Pings>,
    resumed_at: Option<Coarse>,
    resumed_last_tick: bool,
    recorder: Option<Recorder>,
}

impl Cycle {
    /// `secret` makes the seeds that phases get unpredictable from outside; equal secrets give equal seeds.
    pub fn new(world: World, registry: Registry, fence: Fence, interval: Duration, secret: u64) -> Self {
        let cycle = Self {
            world,
            registry,
            fence,
            board: Arc::default(),
            interval,
            secret,
            pings: VecDeque::new(),
            resumed_at: None,
            resumed_last_tick: false,
            recorder: None,
        };
        cycle.publish();
        cycle
    }

    /// Records every beat that runs a phase from now on.
    pub fn record_into(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// What the recorder has done so far, if there is one.
    pub fn recorded(&self) -> Option<RecordCounts> {
        self.recorder.as_ref().map(Recorder::counts)
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    pub fn board(&self) -> Arc<PhaseBoard> {
        Arc::clone(&self.board)
    }

    /// Whether phases run on the caller's thread.
    pub fn runs_inline(&self) -> bool {
        matches!(self.fence, Fence::Inline)
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// When each phase last ran, to be kept for the next process.
    pub fn last_runs(&self, tick: u32) -> LastRuns {
        self.registry.last_runs(tick, unix_seconds(&*self.world.clock), self.interval)
    }

    /// Whether a phase that may wait `period` or longer between runs ran in the beat of `report`.
    pub fn ran_rare(&self, report: &BeatReport, period: Duration) -> bool {
        let rare = self
            .registry
            .phases
            .iter()
            .filter(|phase| self.interval * phase.schedule.cadence.longest() >= period);
        rare.into_iter().any(|phase| report.runs.iter().any(|run| run.name == phase.name))
    }

    /// Runs one beat to its end. Takes as long as its phases do; one that does not come back costs its limit once.
    pub fn beat(&mut self, beat: Beat) -> BeatReport {
        let begun = Instant::now();
        self.world.journal.begin_beat(beat.tick, beat.urgent);
        self.world.pool.expire_protection();
        let now = self.world.clock.coarse();
        let late = self.note_lateness(&beat, now);
        if beat.urgent > 0 || beat.slept > Duration::ZERO {
            self.world.book.cap_waits(BACKOFF_WHEN_ALONE);
        }
        let World { pool, book, broadcasts, thresholds, .. } = &self.world;
        let resumed_at = self.resumed_at.unwrap_or_default();
        let frame = Frame::take(pool, book, broadcasts, *thresholds, now, resumed_at);
        let connected_before = frame.rows().len() as u32;
        let mut run = BeatRun { beat, late, frame, overlay: Arc::default(), urgent_dials: 0, taking: None };
        let mut report = BeatReport {
            tick: beat.tick,
            urgent: beat.urgent,
            late,
            skipped: beat.skipped,
            lateness: beat.lateness,
            connected_before,
            connected: 0,
            took: Duration::ZERO,
            runs: Vec::new(),
            tally: Tally::default(),
        };
        for at in 0..self.registry.phases.len() {
            if let Some(phase_run) = self.phase(at, &mut run) {
                report.tally += phase_run.tally;
                report.runs.push(phase_run);
            }
        }
        recording::ended(self.recorder.as_mut(), run);
        report.connected = self.world.pool.live();
        report.took = begun.elapsed();
        self.publish();
        report
    }

    /// Hands out at most `most` of the pings that plans asked for; true if more wait.
    pub fn send_pings(&mut self, most: usize) -> bool {
        apply::send_pings(&self.world, &mut self.pings, most)
    }

    /// After a stall or a suspend, silence is counted from now: the node's own sleep is nobody's fault.
    ///
    /// At most once in two `stale_after`, and not at two ticks in a row, so that a node that is late at every tick
    /// still reaps.
    fn note_lateness(&mut self, beat: &Beat, now: Coarse) -> bool {
        if beat.urgent > 0 {
            return false;
        }
        let late = beat.skipped > 0 || beat.slept > Duration::ZERO;
        let long_ago = self.resumed_at.is_none_or(|at| now.since(at) >= 2 * self.world.stale_after);
        let resume = late && long_ago && !self.resumed_last_tick;
        self.resumed_last_tick = resume;
        if resume {
            self.resumed_at = Some(now);
        }
        if late {
            let slept_s = u32::try_from(beat.slept.as_secs()).unwrap_or(u32::MAX);
            self.world.journal.record(Draft {
                inputs: vec![("ticks-skipped".into(), beat.skipped), ("slept-s".into(), slept_s)],
                ..Draft::new(
                    Asker::Host,
                    What::Late,
                    if resume { "silence is counted from now" } else { "late again" },
                )
            });
        }
        late
    }

    /// Runs the phase at `at` if it is due.
    fn phase(&mut self, at: usize, run: &mut BeatRun) -> Option<PhaseRun> {
        let BeatRun { beat, .. } = *run;
        let tick = beat.tick;
        let connected = run.connected();
        let phase = &mut self.registry.phases[at];
        let every = phase.schedule.cadence.every_n_ticks(connected);
        let due = if beat.urgent > 0 {
            phase.schedule.wake_on.contains(&WakeOn::Isolated) && connected == 0
        } else {
            phase.timing.is_due(tick, every)
        };
        if !due {
            return None;
        }
        if phase.is_stuck() || beat.urgent == 0 && !phase.breaker.admit() {
            phase.missed += 1;
            if beat.urgent == 0 {
                // A run that was let pass still uses its place in the grid.
                phase.timing.ran(tick, None);
            }
            return None;
        }
        // Before its first run ever there is no run from which to count.
        let ran_before = phase.last_run_unix.is_some();
        let missed = if beat.urgent == 0 && ran_before { phase.timing.missed(tick, every) } else { 0 };
        let mono = self.world.clock.mono();
        let unix = unix_seconds(&*self.world.clock);
        let since_last = phase.last_accepted.map(|at| mono.saturating_sub(at).as_secs());
        let since_last = since_last.or(phase.last_run_unix.map(|at| unix.saturating_sub(at).into()));
        let view = PhaseView::new(Arc::clone(&run.frame), Arc::clone(&run.overlay), phase.memory.clone());
        let view: Arc<PhaseView> = Arc::new(view);
        let job = Job {
            tick: Tick {
                number: tick,
                since_last_s: since_last.map(|s| s.try_into().unwrap_or(u32::MAX - 1)),
                missed,
                late: run.late,
                unix_s: unix,
                seed: seed(self.secret, &beat, &phase.name),
            },
            view: recording::watched(self.recorder.as_mut(), &self.world, self.interval, run, &view),
        };
        let given = job.tick;
        phase.missed += u64::from(missed);
        let ran = self.fence.run(&phase.body, job, (self.interval / 3).clamp(LEAST_RUN_LIMIT, BEAT_BUDGET));
        if beat.urgent == 0 {
            phase.timing.ran(tick, None);
            phase.last_run_unix = Some(unix);
        }
        phase.runs += 1;
        phase.last_took = ran.took;
        recording::ran(self.recorder.as_mut(), run, (at, phase), given, &view, &ran);
        for line in &ran.done.log {
            log(&phase.name, line);
        }
        let (result, words) = match ran.done.ended {
            Ended::Planned(parts) => {
                let tally = self.accept(at, parts, &view, run);
                let name = Arc::clone(&self.registry.phases[at].name);
                return Some(PhaseRun { name, took: ran.took, result: "ok", tally });
            }
            Ended::Failed(failure) => ("failed", failure.text().to_owned()),
            Ended::Rule(rule) => ("rule", format!("broke a rule of the contract: {rule}")),
            Ended::Panicked(text) => ("panicked", format!("panicked: {text}")),
            Ended::Trapped(text) => ("trapped", text),
            Ended::Cut { words, .. } => ("cut", words),
            Ended::Overran { limit, inside } => {
                phase.stuck = Some(inside);
                ("overran", format!("did not come back within {} ms", limit.as_millis()))
            }
        };
        phase.failures += 1;
        phase.breaker.failed();
        phase.last_error = Some(words.clone());
        let outcome = Outcome::Failed(words);
        self.world.journal.record(Draft { outcome, ..Draft::new(phase.asker(), What::PhaseFailed, result) });
        Some(PhaseRun { name: Arc::clone(&phase.name), took: ran.took, result, tally: Tally::default() })
    }

    /// Applies an accepted plan and notes that the phase did well.
    fn accept(&mut self, at: usize, parts: Parts, view: &PhaseView, run: &mut BeatRun) -> Tally {
        let phase = &mut self.registry.phases[at];
        let Parts { asks, memory, log: _, metrics: _ } = parts;
        let mut apply = Apply {
            world: &self.world,
            by: phase.asker(),
            frame: &run.frame,
            view,
            overlay: Arc::make_mut(&mut run.overlay),
            pings: &mut self.pings,
            urgent_dials: (run.beat.urgent > 0).then_some(&mut run.urgent_dials),
            tally: Tally::default(),
            again_in: None,
            fates: Vec::with_capacity(asks.len()),
        };
        if !asks.is_empty() {
            // What later phases see of the state words is how they were before the first change of the beat.
            run.frame.rows().words();
        }
        apply.plan(asks);
        let Apply { tally, again_in, fates, .. } = apply;
        if let Some(taking) = &mut run.taking {
            taking.applied(fates);
        }
        if run.beat.urgent == 0 {
            phase.timing.ran(run.beat.tick, again_in);
        }
        if let Some(saved) = memory {
            if saved.bytes.len() <= MEMORY_BYTES {
                phase.memory = Some(saved);
            } else {
                tracing::warn!(
                    phase = &*phase.name,
                    bytes = saved.bytes.len(),
                    "memory is over its limit and was not kept"
                );
            }
        }
        phase.breaker.succeeded();
        phase.last_error = None;
        phase.last_accepted = Some(self.world.clock.mono());
        phase.last_success_unix = Some(unix_seconds(&*self.world.clock));
        tally
    }

    fn publish(&self) {
        let connected = self.world.pool.live();
        self.board.write(self.registry.phases.iter().map(|phase| phase.status(connected)).collect());
    }
}

fn log(phase: &str, line: &LogLine) {
    match line.level {
        Level::Error => tracing::error!(phase, "{}", line.text),
        Level::Warn => tracing::warn!(phase, "{}", line.text),
        Level::Info => tracing::info!(phase, "{}", line.text),
        Level::Debug => tracing::debug!(phase, "{}", line.text),
    }
}

/// What the phases of one beat share.
struct BeatRun {
    beat: Beat,
    late: bool,
    frame: Arc<Frame>,
    overlay: Arc<Overlay>,
    urgent_dials: u32,
    /// The beat's record, from the first run on, if it is recorded.
    taking: Option<Taking>,
}

impl BeatRun {
    /// Connections after what the plans before this phase ended.
    fn connected(&self) -> u32 {
        (self.frame.rows().len() - self.overlay.closed.len()) as u32
    }
}

/// The random bits of one run: the same for the same node, beat and phase, and not to be guessed from outside.
fn seed(secret: u64, beat: &Beat, phase: &str) -> [u32; 2] {
    // SipHash with the secret as the first block; nothing here needs more than unpredictability.
    let mut hasher = DefaultHasher::new();
    (secret, beat.tick, beat.urgent, phase).hash(&mut hasher);
    let bits = hasher.finish();
    [(bits >> 32) as u32, bits as u32]
}
