//! One registered phase: its spec and its history. Runs nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use groundskeeper_sdk::contract::{Interface, METRICS};
use groundskeeper_sdk::host::{Metric, MetricChange, Saved};

use super::last_runs::Age;
use super::lineage::Rollback;
use super::status::short_digest;
use super::swap::{Arrival, Judgement, Probation, ProbationVerdict, Standing};
use super::{
    Former, KeptMemory, KeptPhase, Lineage, PhaseMetric, PhaseSpec, PhaseState, PhaseStatus, Policy,
    PriorState, Quarantine,
};
use crate::engine::policy::{Mode, Trust};
use crate::engine::{Cost, MEMORY_BYTES, PhaseBreaker, Timing};
use crate::journal::Initiator;

/// Durations kept for the median: two hours of a phase that runs every four minutes.
const DURATIONS: usize = 32;

/// After skipped runs a phase is tried again 1, 2, 4, 4 ... ticks later: a try costs little, and a shortage may end soon.
const MOST_TICKS_SKIPPED: u32 = 4;

/// When a phase has run, as far as its next run may learn it.
#[derive(Clone, Copy, Debug)]
pub struct RunHistory {
    /// When it is due, in ticks.
    pub timing: Timing,
    /// As [`Registered::last_accepted`].
    pub last_accepted: Option<Age>,
    /// As [`Registered::last_run`].
    pub last_run: Option<Age>,
    /// As [`Registered::joined_at`].
    pub joined_at: u32,
}

/// A run without a plan.
#[derive(Clone, Copy, Debug)]
pub struct RunFailed<'e> {
    /// The error, for the operator.
    pub why: &'e str,
    /// The phase itself says that the next run may do better.
    pub is_transient: bool,
}

/// One phase and its history.
pub struct Registered {
    /// The name in its spec. It is the same for all generations.
    pub name: Arc<str>,
    /// The version of the generation that runs now.
    pub version: Arc<str>,
    /// The generation that runs now.
    pub spec: PhaseSpec,
    /// When it last ran, in ticks, and when it asked to run again.
    pub timing: Timing,
    /// Skips due runs after failures in a row. A new generation starts with a fresh one.
    pub breaker: PhaseBreaker,
    /// Memory and quarantine, which outlive the process.
    kept: KeptPhase,
    /// Counts changes of `kept`, so that the saver sees when to write.
    changes: u64,
    /// The operator keeps the phase from running.
    pub is_paused: bool,
    /// Set after a run overran its limit: true while that run is still inside the phase.
    pub stuck: Option<Arc<AtomicBool>>,
    /// The tick at which its due run did not fit into the budget, until it has run.
    pub owed_since: Option<u32>,
    /// The time that it used lately. It fades from tick to tick.
    pub lately: Duration,
    /// Log lines dropped because all guests together wrote too much.
    pub log_dropped: u64,
    /// The last accepted plan, also in an earlier process.
    pub last_accepted: Option<Age>,
    /// The last run on a tick, also in an earlier process. Urgent beats do not count.
    pub last_run: Option<Age>,
    /// The last tick before it joined. Due runs until then were not missed: nothing could run.
    pub joined_at: u32,
    /// Seconds since 1970 of the last accepted plan; `None` before the first one in this process.
    pub last_success_unix: Option<u32>,
    /// Runs in this process by all generations, failed ones included.
    pub runs: u64,
    /// Those of them that ended without an accepted plan.
    pub failures: u64,
    /// Due runs that did not happen: ticks were skipped, or the phase was paused, stuck or held by its breaker.
    pub missed: u64,
    /// Due runs that waited for the next tick because the budget was used up.
    pub put_off: u64,
    /// Due runs that the machine could not carry out, and those of them since the last run that it did.
    skipped: (u64, u32),
    /// After a skipped run: not tried again before this tick.
    not_before: u32,
    /// Refused asks by grant.
    pub refused: BTreeMap<Interface, u64>,
    took: VecDeque<Duration>,
    /// What the last run of this generation used.
    pub cost: Cost,
    memory_peak: Option<u64>,
    metrics: BTreeMap<(bool, String), PhaseMetric>,
    /// Why the last run failed or was skipped, or why the phase started in quarantine. `None` after a good run.
    pub last_error: Option<String>,
    /// Its generations: the current and the former one.
    lineage: Lineage<PhaseSpec>,
    /// In use while the lineage is on probation.
    probation: Probation,
    /// What was kept before the first generation of this name ran. Restored if that fails on probation.
    kept_before: Option<KeptPhase>,
    /// The first generation has failed on probation. The phase is removed at the end of the beat.
    pub is_out: bool,
    /// When this generation started, if that was after the node's start.
    since_unix: Option<u32>,
}

impl Registered {
    /// A phase that joins a running node.
    pub(crate) fn arrived(spec: PhaseSpec, arrival: Arrival) -> Self {
        let Arrival { tick, spread, before, standing } = arrival;
        let mut phase = Self::new(spec, &|_: &str| spread, &before);
        // Its cadence begins now, not when the process started.
        phase.timing.last_run += i64::from(tick);
        phase.joined_at = tick;
        phase.timing.again_at = phase.timing.again_at.map(|at| at + tick);
        phase.since_unix = Some(before.unix_now);
        if let Standing::Probation(former) = standing {
            phase.kept_before = former.is_none().then(|| phase.kept.clone());
            phase.lineage.probation_resumed(former);
            phase.probation = Probation::from(tick);
        }
        phase
    }

    pub(super) fn new(spec: PhaseSpec, spread: &impl Fn(&str) -> u64, before: &PriorState) -> Self {
        let saved = before.last_runs.phases.get(&spec.name).copied();
        let off_s = before.last_runs.off_s(before.unix_now);
        let ago_s = |age_s: u32| u64::from(age_s) + u64::from(off_s);
        let age = |age_s: u32| Age::of(ago_s(age_s), before.mono_now);
        let ticks = |age_s: u32| {
            let ago = Duration::from_secs(ago_s(age_s));
            u64::try_from(ago.as_millis() / before.interval.as_millis().max(1)).unwrap_or(u64::MAX)
        };
        let mut timing = match saved {
            Some(run) => Timing::ran_before(ticks(run.due_s)),
            None => Timing::never(&spec.schedule, spread(&spec.name)),
        };
        if spec.schedule.run_on_start {
            timing.again_at = Some(1);
        }
        let mut kept = before.kept.get(&spec.name).cloned().unwrap_or_default();
        let mut breaker = breaker(&spec.policy);
        // New bytes get another chance.
        kept.quarantine = kept.quarantine.filter(|quarantine| Some(quarantine.digest) == spec.digest);
        if kept.quarantine.is_some() {
            breaker.give_up();
        }
        let mut lineage = Lineage::default();
        lineage.started(spec.digest);
        Self {
            name: spec.name.as_str().into(),
            version: spec.version.as_str().into(),
            spec,
            timing,
            breaker,
            last_error: kept.quarantine.as_ref().map(|quarantine| quarantine.why.clone()),
            kept,
            changes: 0,
            is_paused: false,
            stuck: None,
            owed_since: None,
            lately: Duration::ZERO,
            log_dropped: 0,
            last_accepted: saved.and_then(|run| run.accepted_s).map(age),
            last_run: saved.and_then(|run| run.ran_s).map(age),
            joined_at: 0,
            last_success_unix: None,
            runs: 0,
            failures: 0,
            missed: 0,
            put_off: 0,
            skipped: (0, 0),
            not_before: 0,
            refused: BTreeMap::new(),
            took: VecDeque::new(),
            cost: Cost::default(),
            memory_peak: None,
            metrics: BTreeMap::new(),
            lineage,
            probation: Probation::default(),
            kept_before: None,
            is_out: false,
            since_unix: None,
        }
    }

    /// Digest of this generation. `None` for host phases.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.lineage.current()
    }

    /// Puts a new generation in. A guest is on probation; the operator vouches for a host phase.
    pub(super) fn put(&mut self, spec: PhaseSpec, tick: u32, unix: u32) {
        self.since_unix = Some(unix);
        let (true, Some(digest)) = (self.is_guest(), spec.digest) else {
            self.lineage.started(spec.digest);
            self.exchange(spec);
            return;
        };
        let taken_back = self.lineage.offered(digest, self.kept.clone(), self.spec.clone());
        self.exchange(spec);
        match taken_back {
            Some(former) => self.restore(former.kept),
            None => self.probation = Probation::from(tick),
        }
    }

    /// Counts a run towards the end of the probation, if there is one. `failed` if it had no plan.
    pub fn judge(&mut self, tick: u32, failed: Option<RunFailed<'_>>) -> Option<ProbationVerdict> {
        if !self.lineage.is_on_probation() {
            return None;
        }
        // Going back costs nothing, but without a former generation the phase would be gone. So one that says itself
        // that it may do better in the next run is left to its breaker.
        if self.lineage.former().is_none() && failed.is_some_and(|failed| failed.is_transient) {
            return None;
        }
        let (phase, digest) = (Arc::clone(&self.name), self.digest()?);
        let outcome = match failed {
            None if !self.probation.ran_well(tick) => return None,
            None => {
                self.lineage.proven();
                Judgement::Good
            }
            Some(RunFailed { why, .. }) => match self.lineage.failed(why.to_owned())? {
                Rollback::ToFormer(Former { kept, held, .. }) => {
                    self.exchange(held);
                    self.restore(kept.clone());
                    // The failed run was due: the beat runs the former generation next.
                    self.timing.again_at = Some(tick);
                    Judgement::Returned { why: why.to_owned(), to: self.digest(), kept }
                }
                Rollback::ToNothing => {
                    self.is_out = true;
                    let kept = self.kept_before.take().unwrap_or_default();
                    Judgement::TakenOut { why: why.to_owned(), kept }
                }
            },
        };
        Some(ProbationVerdict { phase, digest, outcome })
    }

    /// Replaces what runs with `spec`. What depends on its bytes is reset; its cadence continues.
    fn exchange(&mut self, spec: PhaseSpec) {
        self.breaker = breaker(&spec.policy);
        self.version = spec.version.as_str().into();
        self.spec = spec;
        self.timing.again_at = None;
        self.stuck = None;
        self.owed_since = None;
        self.last_error = None;
        self.took.clear();
        self.cost = Cost::default();
        self.memory_peak = None;
        self.metrics.clear();
        if self.kept.quarantine.take_if(|quarantine| Some(quarantine.digest) != self.spec.digest).is_some() {
            self.changes += 1;
        }
    }

    /// The initiator under which the journal records its asks.
    pub fn initiator(&self) -> Initiator {
        Initiator::Phase { name: Arc::clone(&self.name), version: Arc::clone(&self.version) }
    }

    /// Whether grants and quarantine apply to it.
    pub fn is_guest(&self) -> bool {
        self.spec.policy.trust == Trust::Guest
    }

    /// Whether its asks are journalled but not applied.
    pub fn is_shadow(&self) -> bool {
        self.spec.policy.mode == Mode::Shadow
    }

    /// Whether a run that overran its limit is still inside the phase.
    pub fn is_stuck(&self) -> bool {
        self.stuck.as_ref().is_some_and(|inside| inside.load(Ordering::Acquire))
    }

    /// What its last accepted run stored in the current mode.
    pub fn memory(&self) -> Option<Saved> {
        let shadow = self.kept.shadow_memory.as_ref().filter(|_| self.is_shadow());
        // Shadow mode starts with what the phase stored in enforce mode.
        shadow
            .or(self.kept.memory.as_ref())
            .map(|KeptMemory { version, bytes }| Saved { version: *version, bytes: bytes.clone() })
    }

    /// The most bytes that it may store; `None` if it may store nothing.
    pub fn memory_cap(&self) -> Option<usize> {
        match self.spec.policy.trust {
            Trust::Host => Some(MEMORY_BYTES),
            Trust::Guest => self.spec.policy.grants.memory.map(|grant| grant.max_bytes),
        }
    }

    /// Stores the memory of an accepted run. Shadow mode has its own.
    pub fn remember(&mut self, saved: Saved) {
        let saved = Some(KeptMemory { version: saved.version, bytes: saved.bytes });
        let kept = if self.is_shadow() { &mut self.kept.shadow_memory } else { &mut self.kept.memory };
        if *kept != saved {
            *kept = saved;
            self.changes += 1;
        }
    }

    /// The state that outlives the process, and a number that rises with each change of it.
    pub fn kept(&self) -> (&KeptPhase, u64) {
        (&self.kept, self.changes)
    }

    /// Puts memory and quarantine back to an earlier state.
    pub fn restore(&mut self, kept: KeptPhase) {
        self.breaker.reset();
        if kept.quarantine.is_some() {
            self.breaker.give_up();
        }
        self.kept = kept;
        self.changes += 1;
    }

    /// Counts a failed run. `for_good` if the phase itself reports that it cannot work.
    pub fn failed(&mut self, words: String, for_good: bool) {
        self.failures += 1;
        self.breaker.failed();
        if for_good {
            self.breaker.give_up();
        }
        if self.breaker.has_given_up() && self.kept.quarantine.is_none() {
            self.kept.quarantine = self.digest().map(|digest| Quarantine { digest, why: words.clone() });
            self.changes += 1;
        }
        self.last_error = Some(words);
    }

    /// Notes an accepted plan: closes the breaker and clears the last error.
    pub fn succeeded(&mut self) {
        self.breaker.reset();
        self.last_error = None;
    }

    /// Counts a due run that the machine could not carry out. True if it is the first in a row.
    pub fn skipped(&mut self, words: String, tick: u32) -> bool {
        let (all, in_row) = &mut self.skipped;
        *all += 1;
        *in_row = in_row.saturating_add(1);
        self.not_before = tick.saturating_add((1 << (*in_row - 1).min(31)).min(MOST_TICKS_SKIPPED));
        self.last_error = Some(words);
        *in_row == 1
    }

    /// Whether the next try after a skipped run is still to come.
    pub fn waits_for_machine(&self, tick: u32) -> bool {
        tick < self.not_before
    }

    /// Lets the phase run again at once, whatever failed before.
    pub fn resume(&mut self) {
        self.is_paused = false;
        self.not_before = 0;
        self.breaker.reset();
        if self.kept.quarantine.take().is_some() {
            self.changes += 1;
        }
    }

    /// When it has run.
    pub fn history(&self) -> RunHistory {
        RunHistory {
            timing: self.timing,
            last_accepted: self.last_accepted,
            last_run: self.last_run,
            joined_at: self.joined_at,
        }
    }

    /// Counts a run, good or failed, with its duration and what it used.
    pub fn ran(&mut self, took: Duration, cost: Cost) {
        self.runs += 1;
        self.skipped.1 = 0;
        if self.took.len() >= DURATIONS {
            self.took.pop_front();
        }
        self.took.push_back(took);
        self.cost = cost;
        self.memory_peak = self.memory_peak.max(cost.memory);
    }

    /// Adds the numbers of an accepted run: at most 16 names each for enforced and shadow mode.
    pub fn count(&mut self, metrics: Vec<Metric>) {
        let shadow = self.is_shadow();
        for Metric { name, change } in metrics {
            let known = self.metrics.keys().filter(|(in_shadow, _)| *in_shadow == shadow).count();
            let key = (shadow, name);
            if known >= METRICS && !self.metrics.contains_key(&key) {
                continue;
            }
            let name = key.1.clone();
            let metric =
                self.metrics.entry(key).or_insert(PhaseMetric { name, shadow, added: None, value: None });
            match change {
                MetricChange::Add(by) => {
                    metric.added = Some(metric.added.unwrap_or(0).saturating_add(by.into()))
                }
                MetricChange::Set(value) => metric.value = Some(value),
            }
        }
    }

    fn state(&self) -> PhaseState {
        if self.spec.policy.mode == Mode::Off {
            PhaseState::Off
        } else if self.is_stuck() {
            PhaseState::Stuck
        } else if self.is_paused {
            PhaseState::Paused
        } else if self.breaker.has_given_up() {
            PhaseState::Quarantined
        } else if self.breaker.is_open() {
            PhaseState::Tripped
        } else if self.lineage.is_on_probation() {
            PhaseState::Probation
        } else {
            PhaseState::Active
        }
    }

    /// The output of `phases` for this phase with `connected` live peers.
    pub fn status(&self, connected: u32) -> PhaseStatus {
        let every = self.spec.schedule.cadence.every_n_ticks(connected);
        let state = self.state();
        let runs_again = !matches!(state, PhaseState::Off | PhaseState::Paused | PhaseState::Quarantined);
        let mut took: Vec<Duration> = self.took.iter().copied().collect();
        took.sort_unstable();
        let micros = |time: Duration| time.as_micros() as u64;
        PhaseStatus {
            name: Arc::clone(&self.name),
            kind: self.spec.kind.into(),
            version: Arc::clone(&self.version),
            summary: self.spec.body.summary().into(),
            state,
            mode: self.spec.policy.mode,
            digest: self.digest().as_ref().map(short_digest),
            since_unix_s: self.since_unix,
            probation_left: self.lineage.is_on_probation().then_some(self.probation.runs_left),
            candidate: None,
            file: None,
            every_n_ticks: every,
            last_run_tick: u32::try_from(self.timing.last_run).ok().filter(|_| self.runs > 0),
            next_due_tick: runs_again.then(|| self.timing.next_due(every).max(self.not_before)),
            runs: self.runs,
            failures: self.failures,
            failures_in_row: self.breaker.failures_in_row(),
            pause_left: self.breaker.pause_left(),
            missed: self.missed,
            put_off: self.put_off,
            skipped: self.skipped.0,
            skipped_in_row: self.skipped.1,
            log_dropped: self.log_dropped,
            refused: self.refused.iter().map(|(grant, n)| (grant.name().to_owned(), *n)).collect(),
            last_duration_us: self.took.back().copied().map_or(0, micros),
            median_duration_us: took.get(took.len() / 2).copied().map(micros),
            last_fuel: self.cost.fuel,
            memory_peak_bytes: self.memory_peak,
            metrics: self.metrics.values().cloned().collect(),
            last_success_unix_s: self.last_success_unix,
            last_error: self.last_error.clone(),
        }
    }
}

fn breaker(policy: &Policy) -> PhaseBreaker {
    match policy.trust {
        Trust::Host => PhaseBreaker::host(policy.on_failure),
        Trust::Guest => PhaseBreaker::guest(policy.on_failure),
    }
}
