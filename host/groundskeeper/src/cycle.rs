//! One beat: who is due, view, run, check, apply, journal. Has no clock of its own and never waits for the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper_pool::NodeState;
use serde::Serialize;

use crate::book::Dial;
use crate::clock::{Coarse, unix_seconds};
use crate::engine::Fence;
use crate::engine::beat::{BeatRecorder, RecordCounts};
use crate::engine::policy::{GuestCeilings, Mode};
use crate::journal::{Asker, Draft, What};
use crate::registry::{KeptPhase, LastRuns, PhaseBoard, PhaseState, Registered, Registry};

mod apply;
mod ceilings;
mod pings;
mod recording;
mod run;
mod snapshot;
mod swap;
mod tally;

use run::{BeatRun, PhaseRunner, is_due};
pub use snapshot::Thresholds;
#[doc(hidden)]
pub use snapshot::TickSnapshot;
#[doc(hidden)]
pub use swap::TrialContext;
pub use tally::Tally;

/// What a beat may take before guests have to wait for the next tick, or a third of the interval if that is less. A native
/// phase that has not come back by then is stuck ...
const BEAT_BUDGET: Duration = Duration::from_secs(2);
/// ... but not sooner than this: short intervals are for tests and demonstrations, on machines that may be busy.
const LEAST_RUN_LIMIT: Duration = Duration::from_secs(1);

/// While nobody is connected, and after a suspend, no address waits longer than this. A dial may fail the moment
/// before its peer is there; this wait, the longest one between two urgent beats, and the last half second of a dial, in
/// which nothing is asked any more, are within 5 s then, with a handshake.
const BACKOFF_WHEN_ALONE: Duration = Duration::from_secs(1);

/// What a beat works on.
#[doc(hidden)]
pub struct World {
    pub state: NodeState,
    /// None: dials are refused.
    pub dialer: Option<Arc<dyn Dial>>,
    pub thresholds: Thresholds,
    /// What all guests together may do.
    pub guests: GuestCeilings,
}

impl World {
    /// Records something that is about no peer.
    fn note(&self, by: Asker, what: What, words: String) {
        self.state.journal.record(Draft::new(by, what, words));
    }
}

/// Time that has passed since any fixed moment: what a beat's budget is measured by. Real time unless a test says else.
pub type Stopwatch = Box<dyn Fn() -> Duration + Send>;

/// Which beat is to be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
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
#[non_exhaustive]
pub struct PhaseRun {
    pub name: Arc<str>,
    pub took: Duration,
    /// `ok`, `failed`, `rule`, `panicked`, `trapped`, `cut` or `overran`.
    pub result: &'static str,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    pub tally: Tally,
    /// What it used, where it is measured.
    pub fuel: Option<u64>,
    pub memory: Option<u64>,
}

/// What one beat did.
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Guests that were due and have to wait for the next tick.
    pub put_off: Vec<Arc<str>>,
    pub tally: Tally,
}

impl BeatReport {
    fn note(&mut self, run: PhaseRun) {
        self.tally += run.tally;
        self.runs.push(run);
    }
}

/// The phases of one node, and the state that beats leave behind.
pub struct Cycle {
    runner: PhaseRunner,
    registry: Registry,
    board: Arc<PhaseBoard>,
    stopwatch: Stopwatch,
    resumed_at: Option<Coarse>,
    resumed_last_tick: bool,
    /// If not empty, the next beat runs these and no others.
    ordered: Vec<Arc<str>>,
    /// Of the beat that runs, or that ran last.
    last_tick: u32,
}

#[doc(hidden)]
impl Cycle {
    /// `secret` makes the seeds that phases get unpredictable from outside; equal secrets give equal seeds.
    pub fn new(world: World, registry: Registry, fence: Fence, interval: Duration, secret: u64) -> Self {
        let started = Instant::now();
        let cycle = Self {
            runner: PhaseRunner::new(world, fence, interval, secret),
            registry,
            board: Arc::default(),
            stopwatch: Box::new(move || started.elapsed()),
            resumed_at: None,
            resumed_last_tick: false,
            ordered: Vec::new(),
            last_tick: 0,
        };
        cycle.publish();
        cycle
    }

    /// Measures the budget of beats by another clock than the real one.
    #[must_use]
    pub fn measured_by(mut self, stopwatch: Stopwatch) -> Self {
        self.stopwatch = stopwatch;
        self
    }

    /// Records every beat that runs a phase from now on.
    pub fn record_into(&mut self, recorder: Box<dyn BeatRecorder>) {
        self.runner.recorder = Some(recorder);
    }

    /// What the recorder has done so far, if there is one.
    pub fn recorded(&self) -> Option<RecordCounts> {
        self.runner.recorder.as_ref().map(|recorder| recorder.counts())
    }

    pub fn world(&self) -> &World {
        &self.runner.world
    }

    pub fn board(&self) -> Arc<PhaseBoard> {
        Arc::clone(&self.board)
    }

    /// Whether phases run on the caller's thread.
    pub fn runs_inline(&self) -> bool {
        matches!(self.runner.fence, Fence::Inline)
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.runner.interval = interval;
    }

    /// Memory and quarantine of the phase `name`, to put back what a newer generation of it has written over.
    pub fn snapshot(&self, name: &str) -> Option<KeptPhase> {
        self.kept().find(|(known, ..)| ***known == *name).map(|(_, kept, _)| kept.clone())
    }

    /// Puts the phase `name` back to what [`Cycle::snapshot`] gave. False if there is no such phase.
    pub fn restore(&mut self, name: &str, kept: KeptPhase) -> bool {
        let phase = self.registry.phases.iter_mut().find(|phase| *phase.name == *name);
        phase.map(|phase| phase.restore(kept)).is_some()
    }
}

impl Cycle {
    /// When each phase last ran, to be kept for the next process.
    pub fn last_runs(&self, tick: u32) -> LastRuns {
        self.registry.last_runs(tick, unix_seconds(&*self.runner.world.state.clock), self.runner.interval)
    }

    /// What each phase keeps across restarts, and a number that rises whenever that changes.
    pub fn kept(&self) -> impl Iterator<Item = (&Arc<str>, &KeptPhase, u64)> {
        self.registry.phases.iter().map(|phase| {
            let (kept, changes) = phase.kept();
            (&phase.name, kept, changes)
        })
    }

    /// Lets the phase `name` run again, however often it has failed. How it stood before.
    ///
    /// # Errors
    /// Why nothing can be resumed, for the operator.
    pub fn resume(&mut self, name: &str) -> Result<PhaseState, String> {
        self.tell(name, What::Resume, Registered::resume)
    }

    /// Keeps the phase `name` from running until it is resumed or the node starts anew. How it stood before.
    ///
    /// # Errors
    /// As [`Cycle::resume`].
    pub fn pause(&mut self, name: &str) -> Result<PhaseState, String> {
        self.tell(name, What::Pause, |phase| phase.is_paused = true)
    }

    /// Has the next beat run the phase `name` and no other, whatever its cadence says. Its cadence does not change.
    ///
    /// # Errors
    /// Why it cannot run now, for the operator.
    pub fn order(&mut self, name: &str) -> Result<(), String> {
        let phase = self.known(name)?;
        let refused = if phase.spec.policy.mode == Mode::Off {
            Some("is off; set another mode in its manifest")
        } else if phase.is_stuck() {
            Some("is stuck in a run that does not come back")
        } else if phase.breaker.has_given_up() {
            Some("is quarantined; resume it first")
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(format!("phase {name} {why}"));
        }
        self.ordered = vec![Arc::clone(&phase.name)];
        Ok(())
    }

    fn known(&mut self, name: &str) -> Result<&mut Registered, String> {
        let Registry { phases, rejected } = &mut self.registry;
        match phases.iter().position(|phase| *phase.name == *name) {
            Some(at) => Ok(&mut phases[at]),
            None => Err(match rejected.iter().find(|phase| phase.name == name) {
                Some(phase) => format!("phase {name:?} was rejected: {}", phase.problem),
                None => {
                    let names: Vec<&str> = phases.iter().map(|phase| &*phase.name).collect();
                    format!("no phase is called {name:?}; the phases are {}", names.join(", "))
                }
            }),
        }
    }

    /// Does what the operator wants of one phase, and journals it.
    fn tell(
        &mut self,
        name: &str,
        what: What,
        change: impl FnOnce(&mut Registered),
    ) -> Result<PhaseState, String> {
        let connected = self.runner.world.state.pool.live();
        let phase = self.known(name)?;
        let before = phase.status(connected).state;
        change(phase);
        self.runner.world.note(Asker::Operator, what, format!("{name} was {}", before.as_str()));
        self.publish();
        Ok(before)
    }
}

// Called by the ticker, the reloader, the benchmarks and the tests.
#[doc(hidden)]
impl Cycle {
    /// Whether a phase that may wait `period` or longer between runs ran in the beat of `report`.
    pub fn ran_rare(&self, report: &BeatReport, period: Duration) -> bool {
        self.registry.phases.iter().any(|phase| {
            self.runner.interval * phase.spec.schedule.cadence.longest() >= period
                && report.runs.iter().any(|run| run.name == phase.name)
        })
    }

    /// Runs one beat to its end. Takes as long as its phases do; one that does not come back costs its limit once.
    pub fn beat(&mut self, beat: Beat) -> BeatReport {
        let begun = Instant::now();
        let stopwatch_begun = (self.stopwatch)();
        self.last_tick = beat.tick;
        self.runner.world.state.journal.begin_beat(beat.tick, beat.urgent);
        self.runner.world.state.pool.expire_protection();
        let now = self.runner.world.state.clock.coarse();
        let late = self.note_lateness(&beat, now);
        let is_alone = self.runner.world.state.pool.live() == 0 || beat.slept > Duration::ZERO;
        self.runner.world.state.book.cap_waits(is_alone.then_some(BACKOFF_WHEN_ALONE));
        let World { state, thresholds, .. } = &self.runner.world;
        let snapshot = TickSnapshot::take(state, *thresholds, now, self.resumed_at.unwrap_or_default());
        let connected_before = snapshot.rows().len() as u32;
        let mut run = BeatRun { beat, late, snapshot, changes: Arc::default(), urgent_dials: 0, names: None };
        let mut report = BeatReport {
            tick: beat.tick,
            urgent: beat.urgent,
            late,
            skipped: beat.skipped,
            lateness: beat.lateness,
            connected_before,
            ..BeatReport::default()
        };
        self.run_due(&mut run, &mut report, stopwatch_begun);
        self.ordered.clear();
        if let Some(recorder) = self.runner.recorder.as_mut().filter(|_| run.is_recorded()) {
            recorder.end(run.changes);
        }
        report.connected = self.runner.world.state.pool.live();
        report.took = begun.elapsed();
        self.publish();
        report
    }

    /// Runs every phase that is due, unless it is a guest and the beat's time is used up.
    fn run_due(&mut self, run: &mut BeatRun, report: &mut BeatReport, begun: Duration) {
        let budget = (self.runner.interval / 3).min(BEAT_BUDGET);
        let turns = self.turns();
        for place in turns {
            let used = (self.stopwatch)().saturating_sub(begun);
            let phase = &mut self.registry.phases[place];
            if !is_due(phase, &self.ordered, run) {
                continue;
            }
            if phase.is_guest() && used >= budget {
                phase.owed_since.get_or_insert(run.beat.tick);
                phase.put_off += 1;
                report.put_off.push(Arc::clone(&phase.name));
                continue;
            }
            phase.owed_since = None;
            let phase_run = self.runner.run(place, phase, run);
            let returned = self.runner.judge(phase, run.beat.tick, phase_run.words.as_deref());
            report.note(phase_run);
            if returned {
                // The run that the new generation failed is the old one's.
                report.note(self.runner.run(place, phase, run));
            }
        }
    }

    /// Hands out at most `most` of the pings that plans asked for; true if more wait.
    pub fn send_pings(&mut self, most: usize) -> bool {
        pings::send_pings(&self.runner.world, &mut self.runner.pings, most)
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
        let long_ago =
            self.resumed_at.is_none_or(|at| now.since(at) >= 2 * self.runner.world.thresholds.stale_after);
        let resume = late && long_ago && !self.resumed_last_tick;
        self.resumed_last_tick = resume;
        if resume {
            self.resumed_at = Some(now);
        }
        if late {
            let slept_s = u32::try_from(beat.slept.as_secs()).unwrap_or(u32::MAX);
            self.runner.world.state.journal.record(Draft {
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

    /// Phases in the order in which they may run in this beat: as they are ordered, unless guests did not fit into an
    /// earlier one. Then these go before the other guests, the longest waiting first, and all guests behind the host's own:
    /// being fair comes before what they want to run before or after.
    fn turns(&self) -> Vec<usize> {
        let phases = &self.registry.phases;
        let mut turns: Vec<usize> = (0..phases.len()).collect();
        if phases.iter().any(|phase| phase.owed_since.is_some()) {
            turns.sort_by_key(|&at| (phases[at].is_guest(), phases[at].owed_since.unwrap_or(u32::MAX)));
        }
        turns
    }

    fn publish(&self) {
        self.board.write(self.registry.status(self.runner.world.state.pool.live()));
    }
}
