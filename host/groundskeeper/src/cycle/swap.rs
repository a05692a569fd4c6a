//! Changes of phases between two beats: puts them in, judges them, and provides the context for trials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::NodeState;
use groundskeeper_sdk::host::Saved;
use groundskeeper_sdk::phase::{Failure, Tick};

use super::ceilings::Excess;
use super::run::{PhaseRunner, broken_rule};
use super::{BeatContext, Cycle, SilenceCount, Thresholds, TickSnapshot};
use crate::clock::unix_seconds;
use crate::engine::policy::{Grants, GuestCeilings, Mode};
use crate::engine::{Changes, Executor, PhaseCall, PhaseView, RunOutcome};
use crate::journal::{ActionKind, Initiator, NewRecord, Outcome};
use crate::registry::{
    Arrival, Former, Judgement, KeptPhase, LastRuns, PhaseSpec, PriorState, ProbationVerdict, Registered,
    RejectedPhase, spread,
};

/// The node's current state, for trial runs of phases that do not run in it yet.
#[derive(Clone)]
pub struct TrialContext {
    state: NodeState,
    thresholds: Thresholds,
    silence: SilenceCount,
    tick: u32,
    /// What each running phase has kept.
    kept: BTreeMap<String, KeptPhase>,
}

impl TrialContext {
    /// What the running phase `name` has kept.
    pub fn kept(&self, name: &str) -> Option<&KeptPhase> {
        self.kept.get(name)
    }

    /// Runs the phase once, as it would run now, with a copy of what is `kept` for it. Its asks are not applied.
    ///
    /// # Errors
    /// How the run ended, if without a plan. A transient failure is no error here.
    pub fn trial(
        &self,
        spec: &PhaseSpec,
        kept: &KeptPhase,
        fence: &mut Executor,
        limit: Duration,
    ) -> Result<(), String> {
        let clock = &*self.state.clock;
        let snapshot = TickSnapshot::take(&self.state, self.thresholds, clock.coarse(), self.silence);
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
            return Err(format!(
                "it remembers {bytes} bytes, and grants.memory.max_bytes is {cap}; raise it, or have the phase store less \
                 first"
            ));
        }
        let memory = memory.map(|kept| Saved { version: kept.version, bytes: kept.bytes.clone() });
        let view = PhaseView::new(snapshot, Arc::new(Changes::default()), memory);
        let job = PhaseCall {
            tick: Tick { number: self.tick, unix_s: unix_seconds(clock), ..Tick::default() },
            view: Arc::new(view),
        };
        match fence.run(&spec.body, job, limit).done.ended {
            RunOutcome::Planned(parts) => broken_rule(&parts, cap).map_or(Ok(()), Err),
            RunOutcome::Failed(Failure::Transient(_)) => Ok(()),
            ended => Err(ended.words()),
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
            tick: self.last_tick,
            kept: self.kept().map(|(name, kept, _)| (name.to_string(), kept.clone())).collect(),
        }
    }

    /// Registers a phase, or replaces its running generation.
    ///
    /// `kept` and `last_runs` are what an earlier process of this node left for a new phase. With a `former` generation,
    /// the phase begins on probation.
    ///
    /// # Errors
    /// The reason why it cannot be registered. Nothing has changed then.
    pub fn put(
        &mut self,
        spec: PhaseSpec,
        kept: KeptPhase,
        last_runs: LastRuns,
        former: Option<Former<PhaseSpec>>,
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
                interval: self.runner.interval,
            },
            former,
        };
        self.registry.put(spec, arrival)?;
        if let Some(phase) = self.registry.phases.iter().find(|phase| *phase.name == *name) {
            self.runner.lower(phase);
        }
        self.runner.world.note(Initiator::Host, ActionKind::Reload, format!("{name} {version} runs"));
        self.publish();
        Ok(())
    }

    /// Takes out a guest and returns what it kept; `None` if there is no such guest.
    pub fn take_out(&mut self, name: &str) -> Option<KeptPhase> {
        let kept = self.registry.take_out(name)?;
        let PhaseRunner { world, ledger, .. } = &mut self.runner;
        end(world, &ledger.lower(&name.into(), &Grants::default()), &format!("phase {name} is taken out"));
        world.note(Initiator::Host, ActionKind::Reload, format!("{name} is taken out"));
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
            world.note(Initiator::Host, ActionKind::Reload, words);
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
            self.registry.rejected = rejected;
            self.publish();
        }
    }

    /// Results of probations since the last call.
    pub fn take_verdicts(&mut self) -> Vec<ProbationVerdict> {
        std::mem::take(&mut self.runner.verdicts)
    }
}

impl PhaseRunner {
    /// Judges a run of a phase that may be on probation. True if the former generation is back.
    pub(super) fn judge(&mut self, phase: &mut Registered, tick: u32, failed: Option<&str>) -> bool {
        let Some(verdict) = phase.judge(tick, failed) else { return false };
        self.lower(phase);
        let returned = matches!(verdict.outcome, Judgement::Returned { .. });
        if let Judgement::Returned { why, .. } = &verdict.outcome {
            let words = format!("{} {} runs again", phase.name, phase.version);
            let outcome = Outcome::Failed(why.clone());
            let draft = NewRecord { outcome, ..NewRecord::new(Initiator::Host, ActionKind::Reload, words) };
            self.world.state.journal.record(draft);
        }
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
