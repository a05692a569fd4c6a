//! Runs one phase of a beat: builds its tick and view, and handles the result.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::host::{Frozen, Level, LogLine, Metric, Parts, Saved};
use groundskeeper_sdk::phase::{Failure, Tick};

use super::apply::{PlanApplication, PlanResult};
use super::ceilings::{AskRefusal, Ledger, Rules};
use super::guest_log::LogBudget;
use super::pings::PingQueue;
use super::snapshot::TickSnapshot;
use super::tally::Tally;
use super::{BEAT_BUDGET, Beat, BeatContext, LEAST_RUN_LIMIT, PhaseRun};
use crate::clock::unix_seconds;
use crate::engine::beat::BeatRecorder;
use crate::engine::policy::Mode;
use crate::engine::schedule::WakeOn;
use crate::engine::{
    Changes, Executor, FailureKind, FinishedRun, NameOf, PhaseCall, PhaseView, RunOutcome, RunResult,
};
use crate::journal::{ActionKind, Initiator, NewRecord, Outcome};
use crate::registry::{Age, ProbationVerdict, Registered, RunHistory};

/// The result of a run that the machine could not carry out.
pub(super) const SHORTAGE: &str = FailureKind::Shortage.as_str();

/// What the phases of one beat share.
pub(super) struct BeatRun {
    pub beat: Beat,
    pub late: bool,
    pub snapshot: Arc<TickSnapshot>,
    pub changes: Arc<Changes>,
    pub urgent_dials: u32,
    /// The names of connections when the beat began. Set at the first run if the beat is recorded.
    pub names: Option<Arc<NameOf>>,
}

impl BeatRun {
    pub fn is_recorded(&self) -> bool {
        self.names.is_some()
    }

    /// Connections left after the earlier plans of this beat.
    pub fn connected(&self) -> u32 {
        (self.snapshot.rows().len() - self.changes.closed.len()) as u32
    }
}

/// Whether the phase must run now. If `ordered` is not empty, only the phases it names run. A due phase that its breaker
/// holds back, or that is stuck or paused, has used this run.
pub(super) fn is_due(phase: &mut Registered, ordered: &[Arc<str>], run: &BeatRun) -> bool {
    let (tick, connected) = (run.beat.tick, run.connected());
    if phase.spec.policy.mode == Mode::Off {
        return false;
    }
    if !ordered.is_empty() {
        return ordered.contains(&phase.name);
    }
    if run.beat.urgent > 0 {
        let wakes = phase.spec.schedule.wake_on.contains(&WakeOn::Isolated) && connected == 0;
        // Host phases are always tried: nothing else ends the isolation.
        let is_held = phase.is_guest() && (phase.breaker.is_open() || phase.breaker.has_given_up());
        return wakes && !phase.is_stuck() && !phase.is_paused && !is_held;
    }
    let every = phase.spec.schedule.cadence.every_n_ticks(connected);
    if phase.waits_for_machine(tick) {
        return false;
    }
    if !phase.timing.is_due(tick, every) {
        phase.timing.not_due_at = Some(tick);
        phase.owed_since = None;
        return false;
    }
    let is_held = phase.is_stuck() || phase.is_paused;
    if is_held || !phase.breaker.admit() {
        phase.missed += 1;
        phase.owed_since = None;
        // The skipped run still uses its place in the grid.
        phase.timing.ran(tick, None);
        return false;
    }
    true
}

/// Runs phases and applies their plans.
pub(super) struct PhaseRunner {
    pub world: BeatContext,
    pub executor: Executor,
    pub recorder: Option<Box<dyn BeatRecorder>>,
    pub ledger: Ledger,
    pub pings: VecDeque<PingQueue>,
    /// Results of probations, until they are read.
    pub verdicts: Vec<ProbationVerdict>,
    pub interval: Duration,
    pub secret: u64,
    log_budget: LogBudget,
    /// Guests registered when the beat began.
    guests: usize,
}

impl PhaseRunner {
    pub fn new(world: BeatContext, fence: Executor, interval: Duration, secret: u64) -> Self {
        Self {
            world,
            executor: fence,
            recorder: None,
            ledger: Ledger::default(),
            pings: VecDeque::new(),
            verdicts: Vec::new(),
            interval,
            secret,
            log_budget: LogBudget::default(),
            guests: 0,
        }
    }

    /// Runs the phase with index `place`.
    pub fn run(&mut self, place: usize, phase: &mut Registered, run: &mut BeatRun) -> PhaseRun {
        let tick = self.tick(phase, run);
        let memory = phase.memory_cap().and_then(|_| phase.memory());
        self.begin_record(run);
        let view = PhaseView::new(Arc::clone(&run.snapshot), Arc::clone(&run.changes), memory);
        let view = Arc::new(view.with_names(run.names.clone()));
        let job = PhaseCall { tick, view: Arc::clone(&view) as Arc<dyn Frozen> };
        let limit = (self.interval / 3).clamp(LEAST_RUN_LIMIT, BEAT_BUDGET);
        let ran = self.executor.run(&phase.spec.body, job, limit);
        if let RunOutcome::Shortage(_) = ran.done.ended {
            self.record_run(run, (place, phase), tick, &view, &ran);
            return self.skip(phase, &ran, run.beat.tick);
        }
        phase.missed += u64::from(tick.missed);
        if run.beat.urgent == 0 {
            phase.timing.ran(tick.number, None);
            phase.last_run = Some(Age::zero(self.world.state.clock.mono()));
        }
        phase.ran(ran.took, ran.done.cost);
        self.record_run(run, (place, phase), tick, &view, &ran);
        let FinishedRun { done: RunResult { ended, log: lines, cost }, took } = ran;
        self.log(phase, &lines);
        let broken = match &ended {
            RunOutcome::Planned(parts) => broken_rule(parts, phase.memory_cap()),
            _ => None,
        };
        let ended = broken.map_or(ended, RunOutcome::Rule);
        let result = ended.result();
        let (words, tally) = match ended {
            RunOutcome::Planned(parts) => (None, self.accept(phase, parts, &view, run)),
            failed => (Some(self.fail(phase, &failed)), Tally::default()),
        };
        let name = Arc::clone(&phase.name);
        PhaseRun { name, took, result, words, tally, fuel: cost.fuel, memory: cost.memory }
    }

    /// What the phase learns about this run.
    fn tick(&self, phase: &Registered, run: &BeatRun) -> Tick {
        let every = phase.spec.schedule.cadence.every_n_ticks(run.connected());
        let moment = RunMoment {
            beat: run.beat,
            late: run.late,
            mono: self.world.state.clock.mono(),
            unix_s: unix_seconds(&*self.world.state.clock),
        };
        tick_of(phase.history(), every, moment, seed(self.secret, &run.beat, &phase.name))
    }

    /// Begins the log of a beat of `tick` with this number of guests.
    pub fn begin_log(&mut self, tick: u32, guests: usize) {
        self.log_budget.begin(tick, self.world.guests.log_bytes_per_tick);
        self.guests = guests;
    }

    /// Writes the lines of a run; those of a guest as far as the budget of all guests goes.
    fn log(&mut self, phase: &mut Registered, lines: &[LogLine]) {
        for line in lines {
            let budget = self.world.guests.log_bytes_per_tick;
            let is_over =
                phase.is_guest() && !self.log_budget.takes(&phase.name, line.text.len(), self.guests, budget);
            if is_over {
                phase.log_dropped += 1;
            } else {
                log(phase, line);
            }
        }
    }

    /// Says in one line how many lines the beat has dropped.
    pub fn report_dropped_lines(&mut self) {
        let (lines, guests) = self.log_budget.take_dropped();
        if lines > 0 {
            let budget = self.world.guests.log_bytes_per_tick;
            tracing::warn!(
                lines,
                guests,
                budget,
                "log lines of guests were dropped: guests.log_bytes_per_tick"
            );
        }
    }

    /// Notes a run that the machine could not carry out. The phase stays due, and nothing counts against it.
    fn skip(&self, phase: &mut Registered, ran: &FinishedRun, tick: u32) -> PhaseRun {
        let words = ran.done.ended.words();
        if phase.skipped(words.clone(), tick) {
            tracing::warn!(phase = &*phase.name, why = words, "a due run is skipped; it is tried again");
        }
        let draft = NewRecord::new(phase.initiator(), ActionKind::PhaseSkipped, SHORTAGE);
        self.world.state.journal.record(NewRecord { outcome: Outcome::Failed(words.clone()), ..draft });
        PhaseRun {
            name: Arc::clone(&phase.name),
            took: ran.took,
            result: SHORTAGE,
            words: Some(words),
            tally: Tally::default(),
            fuel: None,
            memory: None,
        }
    }

    /// Notes a run without a plan. Returns the error for the operator.
    fn fail(&self, phase: &mut Registered, ended: &RunOutcome) -> String {
        if let RunOutcome::Overran { inside, .. } = ended {
            phase.stuck = Some(Arc::clone(inside));
        }
        let words = ended.words();
        phase.failed(words.clone(), matches!(ended, RunOutcome::Failed(Failure::Permanent(_))));
        if phase.breaker.has_given_up() {
            tracing::error!(
                phase = &*phase.name,
                why = words,
                "quarantined until its bytes change or it is resumed"
            );
        }
        let outcome = Outcome::Failed(words.clone());
        let draft = NewRecord::new(phase.initiator(), ActionKind::PhaseFailed, ended.result());
        self.world.state.journal.record(NewRecord { outcome, ..draft });
        if phase.breaker.has_given_up() {
            let until = "it does not run until its bytes change or it is resumed";
            self.world.state.journal.record(NewRecord {
                phase: Some(Arc::clone(&phase.name)),
                outcome: Outcome::Failed(words.clone()),
                ..NewRecord::new(Initiator::Host, ActionKind::Quarantine, until)
            });
        }
        words
    }

    /// Applies an accepted plan and notes the success.
    fn accept(
        &mut self,
        phase: &mut Registered,
        parts: Parts,
        view: &PhaseView<TickSnapshot>,
        run: &mut BeatRun,
    ) -> Tally {
        let world = &self.world;
        let Parts { asks, memory, log: _, metrics } = parts;
        if !asks.is_empty() {
            // Later phases must see the state words as they were before the first change of the beat.
            run.snapshot.rows().words();
        }
        let shadow = phase.is_shadow();
        let rules = Rules {
            grants: &phase.spec.policy.grants,
            node: &world.guests,
            healthy_above: world.thresholds.healthy_above,
            most: world.thresholds.most,
        };
        let now = world.state.clock.mono();
        let allowance =
            phase.is_guest().then(|| self.ledger.allowance(&phase.name, shadow, run.beat.tick, now, rules));
        let mut scratch = Changes::default();
        let changes = if shadow {
            scratch.clone_from(&run.changes);
            &mut scratch
        } else {
            Arc::make_mut(&mut run.changes)
        };
        let mut apply = PlanApplication {
            world,
            by: phase.initiator(),
            snapshot: &run.snapshot,
            view,
            changes,
            pings: &mut self.pings,
            urgent_dials: (run.beat.urgent > 0).then_some(&mut run.urgent_dials),
            allowance,
            shadow,
            outcome: PlanResult::default(),
        };
        apply.plan(asks);
        let PlanResult { tally, again_in, refused, ask_outcomes, .. } = apply.outcome;
        if let Some(recorder) = self.recorder.as_mut().filter(|_| run.is_recorded()) {
            recorder.applied(ask_outcomes);
        }
        for (grant, n) in refused {
            *phase.refused.entry(grant).or_default() += u64::from(n);
        }
        if run.beat.urgent == 0 {
            phase.timing.ran(run.beat.tick, again_in);
        }
        keep(world, phase, memory, metrics);
        phase.succeeded();
        phase.last_accepted = Some(Age::zero(now));
        phase.last_success_unix = Some(unix_seconds(&*world.state.clock));
        tally
    }
}

/// When a run happens.
#[derive(Clone, Copy)]
pub(super) struct RunMoment {
    pub beat: Beat,
    pub late: bool,
    pub mono: Duration,
    pub unix_s: u32,
}

/// What a run learns about itself: the same in the node and on trial.
pub(super) fn tick_of(history: RunHistory, every: u32, moment: RunMoment, seed: [u32; 2]) -> Tick {
    let RunHistory { timing, last_accepted, last_run, joined_at } = history;
    let RunMoment { beat: Beat { tick, urgent, .. }, late, mono, unix_s } = moment;
    // Before the very first run there is no run to count from.
    let ran_before = last_run.is_some();
    Tick {
        number: tick,
        since_last_s: last_accepted.or(last_run).map(|age| age.seconds(mono)),
        missed: if urgent == 0 && ran_before { timing.missed(tick, every, joined_at) } else { 0 },
        late,
        unix_s,
        seed,
    }
}

/// A rule that only the host can check: a plan stores at most `most` bytes, if it may store any.
pub(super) fn broken_rule(parts: &Parts, most: Option<usize>) -> Option<String> {
    let (bytes, most) = (parts.memory.as_ref()?.bytes.len(), most?);
    (bytes > most).then(|| format!("memory.store: {bytes} bytes, at most {most} are allowed"))
}

/// Stores the memory and metrics of an accepted run, if they are granted. A component without the grant cannot even ask.
fn keep(world: &BeatContext, phase: &mut Registered, memory: Option<Saved>, metrics: Vec<Metric>) {
    let is_granted = |interface| !phase.is_guest() || phase.spec.policy.grants.allows(interface);
    let (may_remember, may_count) = (is_granted(Interface::Memory), is_granted(Interface::Metrics));
    let mut refuse = |interface: Interface, what| {
        *phase.refused.entry(interface).or_default() += 1;
        let outcome = Outcome::Refused(AskRefusal::NotGranted(interface).to_string());
        world.state.journal.record(NewRecord { outcome, ..NewRecord::new(phase.initiator(), what, "") });
    };
    if !may_remember && memory.is_some() {
        refuse(Interface::Memory, ActionKind::Memory);
    }
    if !may_count && !metrics.is_empty() {
        refuse(Interface::Metrics, ActionKind::Metrics);
    }
    if let Some(saved) = memory.filter(|_| may_remember) {
        phase.remember(saved);
    }
    if may_count {
        phase.count(metrics);
    }
}

fn log(phase: &Registered, line: &LogLine) {
    let (name, mode) = (&*phase.name, if phase.is_shadow() { "[shadow] " } else { "" });
    match line.level {
        Level::Error => tracing::error!(phase = name, "{mode}{}", line.text),
        Level::Warn => tracing::warn!(phase = name, "{mode}{}", line.text),
        Level::Info => tracing::info!(phase = name, "{mode}{}", line.text),
        Level::Debug => tracing::debug!(phase = name, "{mode}{}", line.text),
    }
}

/// The random bits of one run: the same for the same node, beat and phase, and unpredictable from outside.
pub(super) fn seed(secret: u64, beat: &Beat, phase: &str) -> [u32; 2] {
    // SipHash with the secret as the first block: unpredictability is all that is needed here.
    let mut hasher = DefaultHasher::new();
    (secret, beat.tick, beat.urgent, phase).hash(&mut hasher);
    let bits = hasher.finish();
    [(bits >> 32) as u32, bits as u32]
}
