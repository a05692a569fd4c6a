//! Guests made of closures: phases that the host does not trust, with grants of their own.

use std::sync::Arc;

use groundskeeper::engine::Executor;
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::engine::policy::{Grants, Mode, OnFailure, Trust};
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::journal::{ActionKind, Initiator, Outcome, Record};
use groundskeeper::node::Options;
use groundskeeper::registry::PhaseSpec;
use groundskeeper_sdk::host::View;
use groundskeeper_sdk::phase::{Result as PhaseResult, Tick};
use groundskeeper_sdk::plan::Plan;

use super::{Closure, INTERVAL, Kept, Rig, TokioClock, spec};

/// A guest that is due at every tick.
pub fn guest<F>(name: &str, grants: Grants, run: F) -> PhaseSpec
where
    F: Fn(&Tick, &View, &mut Plan) -> PhaseResult + Send + Sync + 'static,
{
    let mut spec = spec(name, Schedule::every(1), Arc::new(Closure(run)));
    spec.kind = "wasm";
    spec.policy.trust = Trust::Guest;
    spec.policy.grants = grants;
    spec.digest = Some([1; 32]);
    spec
}

pub fn in_shadow(mut spec: PhaseSpec) -> PhaseSpec {
    spec.policy.mode = Mode::Shadow;
    spec
}

pub fn failing_by(mut spec: PhaseSpec, on_failure: OnFailure) -> PhaseSpec {
    spec.policy.on_failure = on_failure;
    spec
}

/// Node-wide rules that stand in nobody's way.
pub fn no_rules() -> GuestCeilings {
    GuestCeilings {
        disconnects_per_tick: u32::MAX,
        disconnects_per_hour: u32::MAX,
        floor: 0,
        protected: 512,
        bans: 1024,
        untouchable: Vec::new(),
        ..GuestCeilings::default()
    }
}

/// A node that lets guests do what `guests` says.
pub fn rig(phases: Vec<PhaseSpec>, guests: GuestCeilings) -> Rig {
    rig_with(phases, Options { guests, ..Options::default() })
}

pub fn rig_with(phases: Vec<PhaseSpec>, options: Options) -> Rig {
    let clock = TokioClock::starting_at(std::time::Duration::from_secs(1_700_000_000));
    let options = Options { executor: Executor::Inline, ..options };
    Rig::with(clock, phases, INTERVAL, &Kept::default(), options)
}

/// What `phase` asked for and what came of it, oldest first.
pub fn asked(rig: &Rig, phase: &str, what: ActionKind) -> Vec<Record> {
    let by = |record: &Record| matches!(&record.by, Initiator::Phase { name, .. } if **name == *phase);
    rig.journal.select(usize::MAX, |record| record.what == what && by(record))
}

/// The words of what was refused.
pub fn refusals(rig: &Rig, phase: &str, what: ActionKind) -> Vec<String> {
    let words = |record: Record| match record.outcome {
        Outcome::Refused(words) => Some(words),
        _ => None,
    };
    asked(rig, phase, what).into_iter().filter_map(words).collect()
}
