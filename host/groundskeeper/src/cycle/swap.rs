//! Changes of phases between two beats: puts them in, judges them, and provides the context for trials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::NodeState;
use groundskeeper_sdk::host::Saved;
use groundskeeper_sdk::phase::{Failure, Tick};

use super::ceilings::Excess;
use super::run::{PhaseRunner, RunMoment, broken_rule, seed, tick_of};
use super::{Beat, BeatContext, Cycle, PhaseRun, SilenceCount, Thresholds, TickSnapshot};
use crate::clock::unix_seconds;
use crate::engine::policy::{Grants, GuestCeilings, Mode};
use crate::engine::{
    Changes, Executor, FailureKind, GuestLimit, PhaseCall, PhaseProgram, PhaseView, RunOutcome, Timing,
    TrialRun,
};
use crate::journal::{ActionKind, Initiator, NewRecord, Outcome};
use crate::registry::{
    Arrival, Judgement, KeptPhase, LastRuns, PhaseSpec, PriorState, ProbationVerdict, Registered,
    RejectedPhase, RunFailed, RunHistory, Standing, short_digest, spread,
};

/// Why a trial was not passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrialFailure {
    /// How the phase failed.
    Bad(String),
    /// The machine could not run it. Another trial may pass.
    Shortage(String),
    /// It was not done after the time that this trial had, which is less than it may take in the node.
    Slow,
}

/// The node's current state, for trial runs of phases that do not run in it yet.
#[derive(Clone)]
pub struct TrialContext {
    state: NodeState,
    thresholds: Thresholds,
    silence: SilenceCount,
    secret: u64,
    interval: Duration,
    last_tick: u32,
    last_tick_at: Duration,
    /// What each running phase has kept, and when it has run.
    running: BTreeMap<String, (KeptPhase, RunHistory)>,
    /// When phases ran in an earlier process, at a start.
    last_runs: LastRuns,
}

impl TrialContext {
    /// What the running phase `name` has kept.
    pub fn kept(&self, name: &str) -> Option<&KeptPhase> {
        self.running.get(name).map(|(kept, _)| kept)
    }

    /// For the start of a node whose phases ran in an earlier process.
    #[must_use]
    pub fn continuing(self, last_runs: &LastRuns) -> Self {
        Self { last_runs: last_runs.clone(), ..self }
    }

    /// What the next run of the phase will learn about itself if it is due: number, seed and times of that run.
    fn next_tick(&self, spec: &PhaseSpec) -> Tick {
        let clock = &*self.state.clock;
        let (now, unix_now) = (clock.mono(), unix_seconds(clock));
        let history = match self.running.get(&spec.name) {
            // A request of the former generation to run sooner does not count.
            Some((_, known)) => RunHistory { timing: Timing { again_at: None, ..known.timing }, ..*known },
            None => self.history_of_newcomer(spec, unix_now),
        };
        let every = spec.schedule.cadence.every_n_ticks(self.state.pool.live());
        let next = self.last_tick.saturating_add(1);
        let tick = history.timing.next_due(every).max(next);
        let at =
            self.last_tick_at.saturating_add(self.interval.saturating_mul(tick - self.last_tick)).max(now);
        let wait = at - now;
        let beat = Beat { tick, ..Beat::default() };
        let moment = RunMoment {
            beat,
            late: false,
            mono: at,
            unix_s: unix_now.saturating_add(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX)),
        };
        tick_of(history, every, moment, seed(self.secret, &beat, &spec.name))
    }

    fn history_of_newcomer(&self, spec: &PhaseSpec, unix_now: u32) -> RunHistory {
        let (last_runs, interval) = (self.last_runs.clone(), self.interval);
        let arrival = Arrival {
            tick: self.last_tick,
            spread: spread(&self.state.pool.self_id(), &spec.name),
            before: PriorState { last_runs, unix_now, interval, ..PriorState::default() },
            standing: Standing::Proven,
        };
        Registered::arrived(spec.clone(), arrival).history()
    }

    /// Runs the phase once, as its next run will be, with a copy of what is `kept` for it. Nothing that it sees tells it
    /// that this is a trial. Its asks are not applied. A guest is cut after `wall`, native code is left behind after
    /// `limit`.
    ///
    /// # Errors
    /// [`TrialFailure`], if the run ended without a plan. A transient failure is no error here.
    pub fn trial(
        &self,
        spec: &PhaseSpec,
        kept: &KeptPhase,
        fence: &mut Executor,
        limit: Duration,
        wall: Duration,
    ) -> Result<(), TrialFailure> {
        let now = self.state.clock.coarse();
        let snapshot = TickSnapshot::take(&self.state, self.thresholds, now, self.silence);
        let cap = spec.policy.grants.memory.map(|grant| grant.max_bytes);
        let memory = match spec.policy.mode {
            Mode::Shadow => kept.shadow_memory.as_ref().or(kept.memory.as_ref()),
            _ => kept.memory.as_ref(),
        };
        let memory = memory.filter(|_| cap.is_some());
        if let (Some(memory), Some(cap)) = (memory, cap)
            && memory.bytes.len() > cap
        {
            let bytes = memory.bytes.len();
            return Err(TrialFailure::Bad(format!(
                "it remembers {bytes} bytes, and grants.memory.max_bytes is {cap}; raise it, or have the phase store less \
                 first"
            )));
        }
        let memory = memory.map(|kept| Saved { version: kept.version, bytes: kept.bytes.clone() });
        let view = PhaseView::new(snapshot, Arc::new(Changes::default()), memory);
        let job = PhaseCall { tick: self.next_tick(spec), view: Arc::new(view) };
        let body: Arc<dyn PhaseProgram> = Arc::new(TrialRun { body: Arc::clone(&spec.body), wall });
        match fence.run(&body, job, limit).done.ended {
            RunOutcome::Planned(parts) => {
                broken_rule(&parts, cap).map_or(Ok(()), |rule| Err(TrialFailure::Bad(rule)))
            }
            RunOutcome::Failed(Failure::Transient(_)) => Ok(()),
            RunOutcome::Shortage(words) => Err(TrialFailure::Shortage(words)),
            RunOutcome::Cut { limit: GuestLimit::Wall, .. } if wall < limit => Err(TrialFailure::Slow),
            ended => Err(TrialFailure::Bad(ended.words())),
        }
    }
}

#[doc(hidden)]
impl Cycle {
    /// The context for trials, as of now.
    pub fn trial_context(&self) -> TrialContext {
        TrialContext {
            state: self.runner.world.state.clone(),
            thresholds: self.runner.world.thresholds,
            silence: self.silence,
            secret: self.runner.secret,
            interval: self.runner.interval,
            last_tick: self.last_tick,
            last_tick_at: self.last_tick_at,
            running: self.registry.phases.iter().map(running).collect(),
            last_runs: LastRuns::default(),
        }
    }

    /// Registers a phase, or replaces its running generation.
    ///
    /// `kept` and `last_runs` are what an earlier process of this node left for a new phase, and `standing` says whether it
    /// is on probation. A new generation of a running guest always is.
    ///
    /// # Errors
    /// The reason why it cannot be registered. Nothing has changed then.
    pub fn put(
        &mut self,
        spec: PhaseSpec,
        kept: KeptPhase,
        last_runs: LastRuns,
        standing: Standing,
    ) -> Result<(), String> {
        let (name, version) = (spec.name.clone(), spec.version.clone());
        let state = &self.runner.world.state;
        let arrival = Arrival {
            tick: self.last_tick,
            spread: spread(&state.pool.self_id(), &name),
            before: PriorState {
                last_runs,
                kept: [(name.clone(), kept)].into(),
                unix_now: unix_seconds(&*state.clock),
                mono_now: state.clock.mono(),
                interval: self.runner.interval,
            },
            standing,
        };
        self.registry.put(spec, arrival)?;
        if let Some(phase) = self.registry.phases.iter().find(|phase| *phase.name == *name) {
            self.runner.lower(phase);
        }
        self.runner.world.note(Initiator::Host, ActionKind::Reload, &name, format!("{name} {version} runs"));
        self.publish();
        Ok(())
    }

    /// Replaces host phases, all at once: see [`Registry::put_own`](crate::registry::Registry::put_own).
    ///
    /// # Errors
    /// The reason, for the operator. Nothing has changed then.
    pub fn put_own(&mut self, specs: Vec<PhaseSpec>) -> Result<(), String> {
        let words: Vec<(String, String)> = specs
            .iter()
            .map(|spec| (spec.name.clone(), format!("{} {} runs", spec.name, spec.version)))
            .collect();
        let unix_now = unix_seconds(&*self.runner.world.state.clock);
        self.registry.put_own(specs, self.last_tick, unix_now)?;
        for (name, words) in words {
            self.runner.world.note(Initiator::Host, ActionKind::Reload, &name, words);
        }
        self.publish();
        Ok(())
    }

    /// Takes out a guest and returns what it kept; `None` if there is no such guest.
    pub fn take_out(&mut self, name: &str) -> Option<KeptPhase> {
        let kept = self.registry.take_out(name)?;
        let PhaseRunner { world, ledger, .. } = &mut self.runner;
        end(world, &ledger.lower(&name.into(), &Grants::default()), &format!("phase {name} is taken out"));
        world.note(Initiator::Host, ActionKind::Reload, name, format!("{name} is taken out"));
        self.publish();
        Some(kept)
    }

    /// Sets the numbers for the next beats. What guests have in force above a lowered ceiling ends. Under a lowered
    /// `stale_after`, silence is counted from now.
    pub fn set_world(&mut self, thresholds: Thresholds, guests: GuestCeilings) {
        let PhaseRunner { world, ledger, .. } = &mut self.runner;
        let (old, new, now) =
            (world.thresholds.stale_after, thresholds.stale_after, world.state.clock.coarse());
        if self.silence.limit_changed(now, old, new) {
            let words =
                format!("stale_after was lowered to {} s: silence is counted from now", new.as_secs());
            world.state.journal.record(NewRecord::new(Initiator::Host, ActionKind::Config, words));
        }
        end(world, &ledger.lower_all(&guests), "what all guests may have in force was lowered");
        world.thresholds = thresholds;
        world.guests = guests;
    }

    /// Phases that are wanted but do not run.
    pub fn rejected(&self) -> &[RejectedPhase] {
        &self.registry.rejected
    }

    pub fn set_rejected(&mut self, rejected: Vec<RejectedPhase>) {
        if self.registry.rejected != rejected {
            let new = rejected.iter().filter(|one| !self.registry.rejected.contains(one));
            new.for_each(|one| self.note_rejected(one));
            self.registry.rejected = rejected;
            self.publish();
        }
    }

    /// Journals files that do not run. Those that only wait for others are not worth a record.
    pub(super) fn note_rejected(&self, rejected: &RejectedPhase) {
        if rejected.is_pending {
            return;
        }
        let digest = rejected.digest.as_ref().map(|digest| format!(" {}", short_digest(digest)));
        let (what, outcome) = match rejected.is_compiling {
            true => ("is being compiled", Outcome::Started),
            false => ("is rejected", Outcome::Refused(rejected.problem.clone())),
        };
        let words = format!("{}{} {what}", rejected.name, digest.unwrap_or_default());
        self.runner.world.state.journal.record(NewRecord {
            phase: Some(rejected.name.as_str().into()),
            outcome,
            ..NewRecord::new(Initiator::Host, ActionKind::Reload, words)
        });
    }

    /// Results of probations since the last call.
    pub fn take_verdicts(&mut self) -> Vec<ProbationVerdict> {
        std::mem::take(&mut self.runner.verdicts)
    }
}

impl PhaseRunner {
    /// Judges a run of a phase that may be on probation. True if the former generation is back.
    pub(super) fn judge(&mut self, phase: &mut Registered, tick: u32, run: &PhaseRun) -> bool {
        let failed = run.words.as_deref().map(|why| RunFailed {
            why,
            is_transient: run.result == FailureKind::Transient.as_str() && !phase.breaker.has_given_up(),
        });
        let Some(verdict) = phase.judge(tick, failed) else { return false };
        let (why, now) = match &verdict.outcome {
            Judgement::Good => (None, "is proven"),
            Judgement::Returned { why, .. } => (Some(why.clone()), "runs again"),
            Judgement::TakenOut { why, .. } => (Some(why.clone()), "is taken out"),
        };
        let returned = matches!(verdict.outcome, Judgement::Returned { .. });
        if phase.is_out {
            let excess = self.ledger.lower(&phase.name, &Grants::default());
            end(&self.world, &excess, &format!("phase {} is taken out", phase.name));
        } else {
            self.lower(phase);
        }
        let words = format!("{} {} {now}", phase.name, phase.version);
        self.world.state.journal.record(NewRecord {
            phase: Some(Arc::clone(&phase.name)),
            outcome: why.map_or(Outcome::Applied, Outcome::Failed),
            ..NewRecord::new(Initiator::Host, ActionKind::Reload, words)
        });
        self.verdicts.push(verdict);
        returned
    }

    /// Ends what a guest has in force above its grants.
    fn lower(&mut self, phase: &Registered) {
        if phase.is_guest() {
            let excess = self.ledger.lower(&phase.name, &phase.spec.policy.grants);
            end(&self.world, &excess, &format!("what phase {} may have in force was lowered", phase.name));
        }
    }
}

fn running(phase: &Registered) -> (String, (KeptPhase, RunHistory)) {
    (phase.name.to_string(), (phase.kept().0.clone(), phase.history()))
}

fn end(world: &BeatContext, excess: &Excess, why: &str) {
    if *excess == Excess::default() {
        return;
    }
    let NodeState { pool, journal, .. } = &world.state;
    excess.protected.iter().for_each(|key| pool.end_protection(*key));
    excess.bans.iter().for_each(|id| pool.end_ban(id));
    let (protected, bans) = (excess.protected.len() as u32, excess.bans.len() as u32);
    journal.record(NewRecord {
        inputs: vec![("protections-ended".into(), protected), ("bans-ended".into(), bans)],
        ..NewRecord::new(Initiator::Host, ActionKind::Reload, why)
    });
}
