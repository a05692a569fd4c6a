//! One beat: choose the due phases, build the view, run, check, apply, journal. No timer, no wait for the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper_pool::NodeState;
use serde::{Deserialize, Serialize};

use crate::book::Dial;
use crate::clock::CoarseInstant;
use crate::engine::Executor;
use crate::engine::beat::{BeatRecorder, RecordCounts};
use crate::engine::policy::{GuestCeilings, Mode};
use crate::journal::{ActionKind, Initiator, NewRecord};
use crate::peer::PeerId;
use crate::pool::Pool;
use crate::registry::{KeptPhase, LastRuns, PhaseState, PhaseStatuses, Registered, Registry};

mod apply;
mod ceilings;
mod guest_log;
mod pings;
mod recording;
mod report;
mod run;
mod silence;
mod snapshot;
mod swap;
mod tally;
mod turns;

#[doc(hidden)]
pub use ceilings::UsedCeilings;
#[doc(hidden)]
pub use report::Beat;
pub use report::{BeatReport, PhaseRun};
use run::{BeatRun, PhaseRunner, SHORTAGE, is_due};
#[doc(hidden)]
pub use silence::SilenceCount;
pub use snapshot::Thresholds;
#[doc(hidden)]
pub use snapshot::TickSnapshot;
#[doc(hidden)]
pub use swap::{TrialContext, TrialFailure};
pub use tally::Tally;
use turns::TurnFacts;

/// The time after which guests wait for the next tick; a third of the interval if that is less. A native phase that takes
/// longer than this is stuck ...
const BEAT_BUDGET: Duration = Duration::from_secs(2);
/// ... but no sooner than this: short intervals are for tests and demonstrations, on machines that may be busy.
const LEAST_RUN_LIMIT: Duration = Duration::from_secs(1);

/// While no peer is connected, and after a suspend, no address waits longer than this. A dial may fail just before its
/// peer is back. Then this wait, the longest gap between two urgent beats, the last half second of a dial (in which it
/// starts no new attempt) and a handshake stay within 5 s together.
const BACKOFF_WHEN_ALONE: Duration = Duration::from_secs(1);

/// From one beat to the next, at most this many intervals count towards the ages of addresses. A late tick counts in full;
/// a process that was stopped for a week does not make every address a week older.
const BEATS_TO_HEAR: u32 = 2;

/// What a beat works on.
#[doc(hidden)]
pub struct BeatContext {
    pub state: NodeState,
    /// `None`: dials are refused.
    pub dialer: Option<Arc<dyn Dial>>,
    pub thresholds: Thresholds,
    /// Ceilings for all guests together.
    pub guests: GuestCeilings,
}

impl BeatContext {
    /// Records a change of a phase.
    fn note(&self, by: Initiator, what: ActionKind, phase: &str, words: String) {
        let phase = Some(phase.into());
        self.state.journal.record(NewRecord { phase, ..NewRecord::new(by, what, words) });
    }
}

/// Limits in force that outlive the process. Times are up-time: no wall clock ends a ban, or makes it longer.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[doc(hidden)]
pub struct KeptLimits {
    /// Each banned peer, and the seconds left.
    pub bans: Vec<(PeerId, u32)>,
    /// What guests have used of their ceilings.
    pub used: UsedCeilings,
}

impl KeptLimits {
    /// Refuses the banned peers for the time that was left.
    pub fn ban_again(&self, pool: &Pool) {
        self.bans.iter().for_each(|(id, left_s)| pool.ban(*id, Duration::from_secs((*left_s).into())));
    }

    /// Whether no ban is in force and no guest has used anything.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty() && self.used.amounts().is_empty()
    }

    /// Whether the other value has other bans, or other amounts used. Compares no times.
    pub fn differs(&self, other: &Self) -> bool {
        let banned = |limits: &Self| limits.bans.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        banned(self) != banned(other) || self.used.amounts() != other.used.amounts()
    }
}

/// Returns the time since a fixed moment; measures the budget of a beat. Real time, except in tests.
pub type Stopwatch = Box<dyn Fn() -> Duration + Send>;

/// The phases of one node, and the state that is kept between beats.
pub struct Cycle {
    runner: PhaseRunner,
    registry: Registry,
    board: Arc<PhaseStatuses>,
    stopwatch: Stopwatch,
    silence: SilenceCount,
    /// If not empty, the next beat runs only these.
    ordered: Vec<Arc<str>>,
    /// Tick of the running beat, or of the last one.
    last_tick: u32,
    /// Monotonic time of that tick; of the start before the first one.
    last_tick_at: Duration,
    /// Beats begun so far.
    beats: u64,
}

#[doc(hidden)]
impl Cycle {
    /// `secret` makes the seeds of the phases unpredictable from outside. Equal secrets give equal seeds.
    pub fn new(
        world: BeatContext,
        registry: Registry,
        fence: Executor,
        interval: Duration,
        secret: u64,
    ) -> Self {
        let started = Instant::now();
        let last_tick_at = world.state.clock.mono();
        let cycle = Self {
            runner: PhaseRunner::new(world, fence, interval, secret),
            registry,
            board: Arc::default(),
            stopwatch: Box::new(move || started.elapsed()),
            silence: SilenceCount::default(),
            ordered: Vec::new(),
            last_tick: 0,
            last_tick_at,
            beats: 0,
        };
        cycle.registry.rejected.iter().for_each(|rejected| cycle.note_rejected(rejected));
        cycle.publish();
        cycle
    }

    /// Measures the budget of beats with another clock than real time.
    #[must_use]
    pub fn measured_by(mut self, stopwatch: Stopwatch) -> Self {
        self.stopwatch = stopwatch;
        self
    }

    /// Records each later beat that runs a phase.
    pub fn record_into(&mut self, recorder: Box<dyn BeatRecorder>) {
        self.runner.recorder = Some(recorder);
    }

    /// The counts of the recorder, if there is one.
    pub fn recorded(&self) -> Option<RecordCounts> {
        self.runner.recorder.as_ref().map(|recorder| recorder.counts())
    }

    pub fn world(&self) -> &BeatContext {
        &self.runner.world
    }

    pub fn statuses(&self) -> Arc<PhaseStatuses> {
        Arc::clone(&self.board)
    }

    /// Whether phases run on the caller's thread.
    pub fn runs_inline(&self) -> bool {
        matches!(self.runner.executor, Executor::Inline)
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.runner.interval = interval;
    }

    /// Memory and quarantine of the phase `name`, to restore them after a newer generation has overwritten them.
    pub fn snapshot(&self, name: &str) -> Option<KeptPhase> {
        self.kept().find(|(known, ..)| ***known == *name).map(|(_, kept, _)| kept.clone())
    }

    /// Bans in force, and what guests have used of their ceilings, for the next process.
    pub fn kept_limits(&self) -> KeptLimits {
        let NodeState { pool, clock, .. } = &self.runner.world.state;
        let seconds = |left: Duration| u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
        KeptLimits {
            bans: pool.bans_left().into_iter().map(|(id, left)| (id, seconds(left))).collect(),
            used: self.runner.ledger.kept(clock.mono()),
        }
    }

    /// Continues with what guests had used in an earlier process. Its bans are the pool's.
    pub fn restore_ceilings(&mut self, used: &UsedCeilings) {
        self.runner.ledger.restore(used, self.runner.world.state.clock.mono());
    }

    /// Restores what [`Cycle::snapshot`] returned. False if there is no such phase.
    pub fn restore(&mut self, name: &str, kept: KeptPhase) -> bool {
        let phase = self.registry.phases.iter_mut().find(|phase| *phase.name == *name);
        phase.map(|phase| phase.restore(kept)).is_some()
    }
}

impl Cycle {
    /// When each phase last ran, for the next process.
    pub fn last_runs(&self, tick: u32) -> LastRuns {
        self.registry.last_runs(tick, &*self.runner.world.state.clock, self.runner.interval)
    }

    /// The number of beats so far. Of two states of a phase, the one after more beats is newer.
    pub fn beats(&self) -> u64 {
        self.beats
    }

    /// What each phase keeps across restarts, and a number that rises with each change.
    pub fn kept(&self) -> impl Iterator<Item = (&Arc<str>, &KeptPhase, u64)> {
        self.registry.phases.iter().map(|phase| {
            let (kept, changes) = phase.kept();
            (&phase.name, kept, changes)
        })
    }

    /// Lets the phase `name` run again, even after many failures. Returns its state before.
    ///
    /// # Errors
    /// The reason why nothing can be resumed, for the operator.
    pub fn resume(&mut self, name: &str) -> Result<PhaseState, String> {
        self.resume_by(name, Initiator::OPERATOR)
    }

    /// As [`Cycle::resume`]; the journal names `by` as the initiator.
    ///
    /// # Errors
    /// As [`Cycle::resume`].
    pub fn resume_by(&mut self, name: &str, by: Initiator) -> Result<PhaseState, String> {
        self.change_phase(name, ActionKind::Resume, by, Registered::resume)
    }

    /// Stops the phase `name` until it is resumed or the node restarts. Returns its state before.
    ///
    /// # Errors
    /// As [`Cycle::resume`].
    pub fn pause(&mut self, name: &str) -> Result<PhaseState, String> {
        self.pause_by(name, Initiator::OPERATOR)
    }

    /// As [`Cycle::pause`]; the journal names `by` as the initiator.
    ///
    /// # Errors
    /// As [`Cycle::resume`].
    pub fn pause_by(&mut self, name: &str, by: Initiator) -> Result<PhaseState, String> {
        self.change_phase(name, ActionKind::Pause, by, |phase| phase.is_paused = true)
    }

    /// Makes the next beat run only the phase `name`, even if it is not due. Its cadence does not change.
    ///
    /// # Errors
    /// The reason why it cannot run now, for the operator.
    pub fn order(&mut self, name: &str) -> Result<(), String> {
        let phase = self.known(name)?;
        let refused = if phase.spec.policy.mode == Mode::Off {
            Some("is off; set another mode in its manifest")
        } else if phase.is_stuck() {
            Some("is stuck in a run that has not returned")
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

    /// Applies an ordered change to one phase, and journals it.
    fn change_phase(
        &mut self,
        name: &str,
        what: ActionKind,
        by: Initiator,
        change: impl FnOnce(&mut Registered),
    ) -> Result<PhaseState, String> {
        let connected = self.runner.world.state.pool.live();
        let phase = self.known(name)?;
        let before = phase.status(connected).state;
        change(phase);
        self.runner.world.note(by, what, name, format!("{name} was {}", before.as_str()));
        self.publish();
        Ok(before)
    }
}

// Called by the ticker, the reloader, the benchmarks and the tests.
#[doc(hidden)]
impl Cycle {
    /// Whether the beat of `report` ran a phase that may wait `period` or longer between runs.
    pub fn ran_rare(&self, report: &BeatReport, period: Duration) -> bool {
        self.registry.phases.iter().any(|phase| {
            self.runner.interval * phase.spec.schedule.cadence.longest() >= period
                && report.runs.iter().any(|run| run.name == phase.name)
        })
    }

    /// Runs one beat to its end. Blocks while its phases run; a phase that does not return blocks for its limit, once.
    pub fn beat(&mut self, beat: Beat) -> BeatReport {
        let begun = Instant::now();
        let stopwatch_begun = (self.stopwatch)();
        self.last_tick = beat.tick;
        if beat.urgent == 0 {
            self.last_tick_at = self.runner.world.state.clock.mono();
        }
        self.beats += 1;
        self.runner.world.state.journal.begin_beat(beat.tick, beat.urgent);
        self.runner.world.state.pool.expire_protection();
        let now = self.runner.world.state.clock.coarse();
        let late = self.note_lateness(&beat, now);
        let is_alone = self.runner.world.state.pool.live() == 0 || beat.slept > Duration::ZERO;
        self.runner.world.state.book.cap_waits(is_alone.then_some(BACKOFF_WHEN_ALONE));
        let BeatContext { state, thresholds, .. } = &self.runner.world;
        state.book.note_hearing(state.pool.live() > 0, BEATS_TO_HEAR * self.runner.interval);
        let snapshot = TickSnapshot::take(state, *thresholds, now, self.silence);
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
        self.begin_accounts(&beat);
        self.run_due(&mut run, &mut report, stopwatch_begun);
        self.runner.report_dropped_lines();
        self.ordered.clear();
        if let Some(recorder) = self.runner.recorder.as_mut().filter(|_| run.is_recorded()) {
            recorder.end(run.changes);
        }
        report.connected = self.runner.world.state.pool.live();
        report.took = begun.elapsed();
        self.publish();
        report
    }

    /// Runs every due phase. Guests wait if the beat's time is used up.
    fn run_due(&mut self, run: &mut BeatRun, report: &mut BeatReport, begun: Duration) {
        let budget = (self.runner.interval / 3).min(BEAT_BUDGET);
        let turns = self.turns(budget);
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
            let ran_from = (self.stopwatch)();
            let phase_run = self.runner.run(place, phase, run);
            let is_skipped = phase_run.result == SHORTAGE;
            let returned = !is_skipped && self.runner.judge(phase, run.beat.tick, &phase_run);
            report.note(phase_run);
            if returned {
                // The new generation failed this run, so the former one repeats it.
                report.note(self.runner.run(place, phase, run));
            }
            phase.lately = phase.lately.max((self.stopwatch)().saturating_sub(ran_from));
        }
        self.registry.phases.retain(|phase| !phase.is_out);
    }

    /// Sends at most `most` of the pings that plans asked for. True if more wait.
    pub fn send_pings(&mut self, most: usize) -> bool {
        pings::send_pings(&self.runner.world, &mut self.runner.pings, most)
    }

    /// After a stall or a suspend, silence is counted from now: peers are not to blame for the node's own pause.
    fn note_lateness(&mut self, beat: &Beat, now: CoarseInstant) -> bool {
        if beat.urgent > 0 {
            return false;
        }
        let late = beat.skipped > 0 || beat.slept > Duration::ZERO;
        let resume = self.silence.tick(late, now, self.runner.world.thresholds.stale_after);
        if late {
            let slept_s = u32::try_from(beat.slept.as_secs()).unwrap_or(u32::MAX);
            self.runner.world.state.journal.record(NewRecord {
                inputs: vec![("ticks-skipped".into(), beat.skipped), ("slept-s".into(), slept_s)],
                ..NewRecord::new(
                    Initiator::Host,
                    ActionKind::Late,
                    if resume { "silence is counted from now" } else { "late again" },
                )
            });
        }
        late
    }

    /// What guests used in earlier ticks fades, and the log budget begins again.
    fn begin_accounts(&mut self, beat: &Beat) {
        if beat.urgent == 0 {
            self.registry.phases.iter_mut().for_each(|phase| phase.lately = turns::faded(phase.lately));
        }
        self.runner
            .begin_log(beat.tick, self.registry.phases.iter().filter(|phase| phase.is_guest()).count());
    }

    /// The order of the phases in this beat: see [`turns::turns`].
    fn turns(&self, budget: Duration) -> Vec<usize> {
        let facts = |phase: &Registered| TurnFacts {
            is_guest: phase.is_guest(),
            owed_since: phase.owed_since,
            lately: phase.lately,
        };
        let facts: Vec<TurnFacts> = self.registry.phases.iter().map(facts).collect();
        turns::turns(&facts, budget)
    }

    fn publish(&self) {
        let phases = self.registry.status(self.runner.world.state.pool.live());
        self.board.write(phases, self.runner.executor.stuck());
    }
}
