//! The four built-in phases as the config wants them, in the order in which they run. Holds no policy of its own.

use std::sync::Arc;

use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;

pub use crate::config::BUILTINS;
use crate::config::{Phase, Phases};
use crate::record::{BUILT_IN, WithSettings};
use crate::registry::PhaseSpec;

/// The built-ins, those too that `phases` has switched off.
pub fn builtins(phases: &Phases) -> Vec<PhaseSpec> {
    let Phases { reaper, reconnect, broadcast_cleanup, exchange_cleanup } = phases;
    let [first, second, third, fourth] = BUILTINS;
    vec![
        spec(first, reaper),
        spec(second, reconnect),
        spec(third, broadcast_cleanup),
        spec(fourth, exchange_cleanup),
    ]
}

fn spec<S: AnyPhase + Clone + Serialize + 'static>(name: &str, phase: &Phase<S>) -> PhaseSpec {
    let settings = Arc::new(phase.settings.clone());
    let version = env!("CARGO_PKG_VERSION");
    let body = WithSettings::body(Arc::clone(&settings));
    let mut spec = PhaseSpec::built_in(name, BUILT_IN, version, settings, phase.schedule.clone());
    spec.body = body;
    spec.policy.mode = phase.mode;
    spec
}
