//! Adds, replaces and removes phases while the node runs. Loads nothing, and writes nothing to disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::order;
use super::{Former, KeptPhase, PhaseSpec, PriorState, Registered, Registry};
use crate::engine::policy::Trust;
use crate::engine::schedule::Schedule;

/// Good runs that a new generation needs before it counts as good. Its probation also lasts at least that many ticks.
const PROBATION: u32 = 3;

/// How a generation's probation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbationVerdict {
    /// The name of the phase, which its generations share.
    pub phase: Arc<str>,
    /// Digest of the generation on probation.
    pub digest: [u8; 32],
    /// Whether the generation stays.
    pub outcome: Judgement,
}

/// See [`ProbationVerdict`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// The generation has had enough good runs and stays.
    Good,
    /// It was the first generation of its name, and has failed: the phase is taken out.
    TakenOut {
        /// The error of the run that failed.
        why: String,
        /// Memory and quarantine from before it ran.
        kept: KeptPhase,
    },
    /// The former generation runs again, with what it had kept.
    Returned {
        /// The error of the run that failed.
        why: String,
        /// Digest of the generation that runs again.
        to: Option<[u8; 32]>,
        /// Memory and quarantine that generation got back.
        kept: KeptPhase,
    },
}

/// When a phase joins a running node, and what an earlier process left for it.
pub struct Arrival {
    /// The last tick.
    pub tick: u32,
    /// Staggers first runs, as in [`Registry::new`].
    pub spread: u64,
    /// Time, interval, and what an earlier process kept for the phase.
    pub before: PriorState,
    /// Whether it is on probation.
    pub standing: Standing,
}

/// How far a generation that begins to run is trusted.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each generation that is put in")]
pub enum Standing {
    /// It has passed its probation, or the operator vouches for it.
    Proven,
    /// It is on probation. If it fails, the former generation runs again; without one, the phase is taken out.
    Probation(Option<Former<PhaseSpec>>),
}

/// What remains of a generation's probation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Probation {
    pub runs_left: u32,
    /// The probation does not end before this tick.
    pub until: u32,
}

impl Probation {
    pub fn from(tick: u32) -> Self {
        Self { runs_left: PROBATION, until: tick.saturating_add(PROBATION) }
    }

    /// Counts a good run. True if that was the last one needed.
    pub fn ran_well(&mut self, tick: u32) -> bool {
        self.runs_left = self.runs_left.saturating_sub(1);
        self.runs_left == 0 && tick >= self.until
    }
}

impl Registry {
    /// Registers a phase, or replaces the running generation, between two beats. Its cadence and what it keeps stay.
    ///
    /// # Errors
    /// The reason why it cannot be registered, for the operator. Nothing has changed then.
    pub fn put(&mut self, spec: PhaseSpec, arrival: Arrival) -> Result<(), String> {
        let names = self.order_with(&spec)?;
        let trust = spec.policy.trust;
        match self.phases.iter_mut().find(|phase| *phase.name == *spec.name) {
            Some(phase) if phase.spec.policy.trust != trust => {
                return Err(format!("the name {:?} is taken by a host phase", spec.name));
            }
            Some(phase) => phase.put(spec, arrival.tick, arrival.before.unix_now),
            None => self.phases.push(Registered::arrived(spec, arrival)),
        }
        let place = |phase: &Registered| names.iter().position(|name| **name == *phase.name);
        self.phases.sort_by_key(place);
        Ok(())
    }

    /// Replaces host phases, all at once, between two beats. They run in the order of a start with `specs`, so a valid set
    /// never depends on the order that was in effect before. Their cadence and what they keep stay.
    ///
    /// # Errors
    /// The reason why they cannot be registered, for the operator. Nothing has changed then.
    pub fn put_own(&mut self, specs: Vec<PhaseSpec>, tick: u32, unix_now: u32) -> Result<(), String> {
        let is_replaced = |phase: &&Registered| specs.iter().any(|spec| spec.name == *phase.name);
        let others = self.phases.iter().filter(|phase| !is_replaced(phase)).map(|phase| phase.spec.clone());
        let mut all: Vec<PhaseSpec> = specs.iter().cloned().chain(others).collect();
        let there: BTreeSet<String> = all.iter().map(|spec| spec.name.clone()).collect();
        for Schedule { after, before, .. } in all.iter_mut().map(|spec| &mut spec.schedule) {
            // Phases that they name may be gone by now.
            after.retain(|name| there.contains(name));
            before.retain(|name| there.contains(name));
        }
        let names: Vec<String> = self.ordered(all)?.into_iter().map(|spec| spec.name).collect();
        for spec in specs {
            if let Some(phase) = self.phases.iter_mut().find(|phase| *phase.name == *spec.name) {
                phase.put(spec, tick, unix_now);
            }
        }
        let place = |phase: &Registered| names.iter().position(|name| **name == *phase.name);
        self.phases.sort_by_key(place);
        Ok(())
    }

    /// Takes a guest out and returns what it kept; `None` if there is no such guest.
    pub fn take_out(&mut self, name: &str) -> Option<KeptPhase> {
        let at = self.phases.iter().position(|phase| *phase.name == *name && phase.is_guest())?;
        Some(self.phases.remove(at).kept().0.clone())
    }

    /// The names in their order, with `newcomer` in its place.
    fn order_with(&self, newcomer: &PhaseSpec) -> Result<Vec<String>, String> {
        let others = || self.phases.iter().filter(|phase| *phase.name != *newcomer.name);
        let is_there =
            |name: &String| **name == *newcomer.name || others().any(|other| *other.name == **name);
        let mut specs: Vec<PhaseSpec> = others().map(|phase| phase.spec.clone()).collect();
        for spec in &mut specs {
            // Phases that they name may be gone by now.
            spec.schedule.after.retain(is_there);
            spec.schedule.before.retain(is_there);
        }
        // Host phases keep their order among each other.
        let own = specs.iter().take_while(|spec| spec.policy.trust == Trust::Host).count();
        let at = if newcomer.policy.trust == Trust::Host {
            self.phases.iter().position(|phase| *phase.name == *newcomer.name).unwrap_or(own)
        } else {
            specs.len()
        };
        specs.insert(at.min(specs.len()), newcomer.clone());
        Ok(self.ordered(specs)?.into_iter().map(|spec| spec.name).collect())
    }

    /// `specs` in their order. The error is the reason why one of them cannot be registered.
    fn ordered(&self, specs: Vec<PhaseSpec>) -> Result<Vec<PhaseSpec>, String> {
        let mut rejected = self.rejected.clone();
        let specs = order::order(specs, &mut rejected).map_err(|bad| bad.to_string())?;
        match rejected.into_iter().nth(self.rejected.len()) {
            Some(newly) => Err(newly.problem),
            None => Ok(specs),
        }
    }
}
