//! One beat: who is due, view, run, check, apply, journal. Has no clock of its own and never waits for the network.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::{Level, LogLine, Metric, Parts, Saved};
use groundskeeper_sdk::phase::{Failure, Tick};
use serde::Serialize;

use crate::book::{Book, Dial};
use crate::clock::{Clock, Coarse, unix_seconds};
use crate::config::{Guests, Mode, WakeOn};
use crate::data::KeptPhase;
use crate::engine::{Ended, Fence, Job};
use crate::flow::Broadcasts;
use crate::journal::{Asker, Draft, Journal, Outcome, What};
use crate::pool::Pool;
use crate::record::{RecordCounts, Recorder, Taking};
use crate::registry::{LastRuns, PhaseBoard, PhaseState, Registered, Registry, Verdict};

mod apply;
mod ceilings;
mod frame;
mod pings;
mod recording;
mod swap;
#[cfg(test)]
mod tests;
mod view;

pub use apply::Tally;
use apply::{Applied, Apply};
use ceilings::{Ledger, Rules};
#[doc(hidden)]
pub use frame::Frame;
pub use frame::Thresholds;
use pings::Pings;
#[doc(hidden)]
pub use swap::TrialContext;
#[doc(hidden)]
pub use view::{Overlay, PhaseView};

/// What a beat may take before guests have to wait for the next tick, or a third of the interval if that is less. A native
/// phase that has not come back by then is stuck ...
const BEAT_BUDGET: Duration = Duration::from_secs(2);
/// ... but not sooner than this: short intervals are for tests and demonstrations, on machines that may be busy.
const LEAST_RUN_LIMIT: Duration = Duration::from_secs(1);

/// While nobody is connected, and after a suspend, no address waits longer than this. A dial may fail the moment
/// before its peer is there; this wait, the longest one between two urgent beats, and the last half second of a dial, in
/// which nothing is asked any more, are within 5 s then, with a handshake.
const BACKOFF_WHEN_ALONE: Duration = Duration::from_secs(1);

/// What statistics and views measure by, for whoever asks between beats.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Measures {
    pub thresholds: Thresholds,
    pub stale_after: Duration,
}

/// What a beat works on.
#[doc(hidden)]
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
    /// What all guests together may do.
    pub guests: Guests,
}

/// Time that has passed since any fixed moment: what a beat's budget is measured by. Real time unless a test says else.
pub type Stopwatch = Box<dyn Fn() -> Duration + Send>;

/// Which beat is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
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

/// The phases of one node, and the state that beats leave behind.
pub struct Cycle {
    world: World,
    registry: Registry,
    fence: Fence,
    board: Arc<PhaseBoard>,
    interval: Duration,
    secret: u64,
    stopwatch: Stopwatch,
    ledger: Ledger,
    pings: VecDeque<Pings>,
    resumed_at: Option<Coarse>,
    resumed_last_tick: bool,
    recorder: Option<Recorder>,
    /// If not empty, the next beat runs these and no others.
    ordered: Vec<Arc<str>>,
    /// Of the beat that runs, or that ran last.
    last_tick: u32,
    /// How probations ended, until somebody asks.
    verdicts: Vec<Verdict>,
}

impl Cycle {
    /// `secret` makes the seeds that phases get unpredictable from outside; equal secrets give equal seeds.
    pub fn new(world: World, registry: Registry, fence: Fence, interval: Duration, secret: u64) -> Self {
        let started = Instant::now();
        let cycle = Self {
            world,
            registry,
            fence,
            board: Arc::default(),
            interval,
            secret,
            stopwatch: Box::new(move || started.elapsed()),
            ledger: Ledger::default(),
            pings: VecDeque::new(),
            resumed_at: None,
            resumed_last_tick: false,
            recorder: None,
            ordered: Vec::new(),
            last_tick: 0,
            verdicts: Vec::new(),
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

    /// What each phase keeps across restarts, and a number that rises whenever that changes.
    pub fn kept(&self) -> impl Iterator<Item = (&Arc<str>, &KeptPhase, u64)> {
        self.registry.phases.iter().map(|phase| {
            let (kept, changes) = phase.kept();
            (&phase.name, kept, changes)
        })
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
        let refused = if phase.policy.mode == Mode::Off {
            Some("is off; set another mode in its manifest")
        } else if phase.is_stuck() {
            Some("is stuck in a run that does not come back")
        } else if phase.breaker.has_given_up() {
            Some("is quarantined; resume it first")
        } else {
            None
        };
        match refused {
            Some(why) => Err(format!("phase {name} {why}")),
            None => {
                self.ordered = vec![Arc::clone(&phase.name)];
                Ok(())
            }
        }
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
        let connected = self.world.pool.live();
        let phase = self.known(name)?;
        let before = phase.status(connected).state;
        change(phase);
        let draft = Draft::new(Asker::Operator, what, format!("{name} was {}", before.as_str()));
        self.world.journal.record(draft);
        self.publish();
        Ok(before)
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
        let stopwatch_begun = (self.stopwatch)();
        self.last_tick = beat.tick;
        self.world.journal.begin_beat(beat.tick, beat.urgent);
        self.world.pool.expire_protection();
        let now = self.world.clock.coarse();
        let late = self.note_lateness(&beat, now);
        let is_alone = self.world.pool.live() == 0 || beat.slept > Duration::ZERO;
        self.world.book.cap_waits(is_alone.then_some(BACKOFF_WHEN_ALONE));
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
            put_off: Vec::new(),
            tally: Tally::default(),
        };
        let budget = (self.interval / 3).min(BEAT_BUDGET);
        for at in self.turns() {
            let used = (self.stopwatch)().saturating_sub(stopwatch_begun);
            if !self.is_due(at, &run) {
                continue;
            }
            let phase = &mut self.registry.phases[at];
            if phase.is_guest() && used >= budget {
                phase.owed_since.get_or_insert(beat.tick);
                phase.put_off += 1;
                report.put_off.push(Arc::clone(&phase.name));
                continue;
            }
            phase.owed_since = None;
            let phase_run = self.phase(at, &mut run);
            let failed = phase_run.words.as_deref();
            let returned = self.judge(at, beat.tick, failed);
            report.tally += phase_run.tally;
            report.runs.push(phase_run);
            if returned {
                // The run that the new generation failed is the old one's.
                let phase_run = self.phase(at, &mut run);
                report.tally += phase_run.tally;
                report.runs.push(phase_run);
            }
        }
        self.ordered.clear();
        recording::ended(self.recorder.as_mut(), run);
        report.connected = self.world.pool.live();
        report.took = begun.elapsed();
        self.publish();
        report
    }

    /// Hands out at most `most` of the pings that plans asked for; true if more wait.
    pub fn send_pings(&mut self, most: usize) -> bool {
        pings::send_pings(&self.world, &mut self.pings, most)
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

    /// Whether the phase at `at` is to run now. One whose breaker lets this run pass has had its turn.
    fn is_due(&mut self, at: usize, run: &BeatRun) -> bool {
        let (BeatRun { beat, .. }, connected) = (run, run.connected());
        let phase = &mut self.registry.phases[at];
        if phase.policy.mode == Mode::Off {
            return false;
        }
        if !self.ordered.is_empty() {
            return self.ordered.contains(&phase.name);
        }
        if beat.urgent > 0 {
            let wakes = phase.schedule.wake_on.contains(&WakeOn::Isolated) && connected == 0;
            // The host's own are tried whatever happened: nothing else ends the isolation.
            let is_held = phase.is_guest() && (phase.breaker.is_open() || phase.breaker.has_given_up());
            return wakes && !phase.is_stuck() && !phase.is_paused && !is_held;
        }
        let every = phase.schedule.cadence.every_n_ticks(connected);
        if !phase.timing.is_due(beat.tick, every) {
            phase.owed_since = None;
            return false;
        }
        let is_held = phase.is_stuck() || phase.is_paused;
        if is_held || !phase.breaker.admit() {
            phase.missed += 1;
            phase.owed_since = None;
            // A run that was let pass still uses its place in the grid.
            phase.timing.ran(beat.tick, None);
            return false;
        }
        true
    }

    /// Runs the phase at `at`.
    fn phase(&mut self, at: usize, run: &mut BeatRun) -> PhaseRun {
        let BeatRun { beat, .. } = *run;
        let tick = beat.tick;
        let connected = run.connected();
        let phase = &mut self.registry.phases[at];
        let every = phase.schedule.cadence.every_n_ticks(connected);
        // Before its first run ever there is no run from which to count.
        let ran_before = phase.last_run_unix.is_some();
        let missed = if beat.urgent == 0 && ran_before { phase.timing.missed(tick, every) } else { 0 };
        let mono = self.world.clock.mono();
        let unix = unix_seconds(&*self.world.clock);
        let since_last = phase.last_accepted.map(|at| mono.saturating_sub(at).as_secs());
        let since_last = since_last.or(phase.last_run_unix.map(|at| unix.saturating_sub(at).into()));
        let memory = phase.memory_cap().and_then(|_| phase.memory());
        let view = PhaseView::new(Arc::clone(&run.frame), Arc::clone(&run.overlay), memory);
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
        let (took, cost) = (ran.took, ran.done.cost);
        phase.ran(took, cost);
        recording::ran(self.recorder.as_mut(), run, (at, phase), given, &view, &ran);
        for line in &ran.done.log {
            log(phase, line);
        }
        let name = Arc::clone(&phase.name);
        let done = |result, words, tally| PhaseRun {
            name,
            took,
            result,
            words,
            tally,
            fuel: cost.fuel,
            memory: cost.memory,
        };
        let mut for_good = false;
        let (result, words) = match ran.done.ended {
            Ended::Planned(parts) => match broken_rule(phase, &parts) {
                None => return done("ok", None, self.accept(at, parts, &view, run)),
                Some(rule) => ("rule", format!("broke a rule of the contract: {rule}")),
            },
            ended => {
                for_good = matches!(ended, Ended::Failed(Failure::Permanent(_)));
                if let Ended::Overran { inside, .. } = &ended {
                    phase.stuck = Some(Arc::clone(inside));
                }
                (ended.result(), ended.words())
            }
        };
        phase.failed(words.clone(), for_good);
        if phase.breaker.has_given_up() {
            tracing::error!(
                phase = &*phase.name,
                why = words,
                "quarantined until its bytes change or it is resumed"
            );
        }
        let outcome = Outcome::Failed(words.clone());
        self.world.journal.record(Draft { outcome, ..Draft::new(phase.asker(), What::PhaseFailed, result) });
        done(result, Some(words), Tally::default())
    }

    /// Applies an accepted plan and notes that the phase did well.
    fn accept(&mut self, at: usize, parts: Parts, view: &PhaseView, run: &mut BeatRun) -> Tally {
        let Self { world, registry, ledger, pings, .. } = self;
        let phase = &mut registry.phases[at];
        let Parts { asks, memory, log: _, metrics } = parts;
        if !asks.is_empty() {
            // What later phases see of the state words is how they were before the first change of the beat.
            run.frame.rows().words();
        }
        let shadow = phase.is_shadow();
        let rules = Rules {
            grants: &phase.policy.grants,
            node: &world.guests,
            healthy_above: world.thresholds.healthy_above,
            most: world.thresholds.most,
        };
        let now = world.clock.mono();
        let allowance =
            phase.is_guest().then(|| ledger.allowance(&phase.name, shadow, run.beat.tick, now, rules));
        let mut scratch = Overlay::default();
        let overlay = if shadow {
            scratch.clone_from(&run.overlay);
            &mut scratch
        } else {
            Arc::make_mut(&mut run.overlay)
        };
        let mut apply = Apply {
            world,
            by: phase.asker(),
            frame: &run.frame,
            view,
            overlay,
            pings,
            urgent_dials: (run.beat.urgent > 0).then_some(&mut run.urgent_dials),
            allowance,
            shadow,
            outcome: Applied::default(),
        };
        apply.plan(asks);
        let Applied { tally, again_in, refused, fates, .. } = apply.outcome;
        if let Some(taking) = &mut run.taking {
            taking.applied(fates);
        }
        for (grant, n) in refused {
            *phase.refused.entry(grant).or_default() += u64::from(n);
        }
        if run.beat.urgent == 0 {
            phase.timing.ran(run.beat.tick, again_in);
        }
        keep(world, phase, memory, metrics);
        phase.succeeded();
        phase.last_accepted = Some(now);
        phase.last_success_unix = Some(unix_seconds(&*world.clock));
        tally
    }

    fn publish(&self) {
        self.board.write(self.registry.status(self.world.pool.live()));
    }
}

/// A rule about what a run leaves behind that only its host can judge.
fn broken_rule(phase: &Registered, parts: &Parts) -> Option<String> {
    let (bytes, most) = (parts.memory.as_ref()?.bytes.len(), phase.memory_cap()?);
    (bytes > most).then(|| format!("memory.store: {bytes} bytes, at most {most} are allowed"))
}

/// Takes over what an accepted run wants to keep, if it may. A component cannot even ask without the grant.
fn keep(world: &World, phase: &mut Registered, memory: Option<Saved>, metrics: Vec<Metric>) {
    let is_granted = |interface| !phase.is_guest() || phase.policy.grants.allows(interface);
    let (may_remember, may_count) = (is_granted("memory"), is_granted("metrics"));
    let mut refuse = |interface: &'static str, what| {
        *phase.refused.entry(interface).or_default() += 1;
        let outcome = Outcome::Refused(ceilings::not_granted(interface));
        world.journal.record(Draft { outcome, ..Draft::new(phase.asker(), what, "") });
    };
    if !may_remember && memory.is_some() {
        refuse("memory", What::Memory);
    }
    if !may_count && !metrics.is_empty() {
        refuse("metrics", What::Metrics);
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
