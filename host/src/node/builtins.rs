//! The four built-in phases as the config wants them, in the order in which they run. Holds no policy of its own.

use std::sync::Arc;

use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;

pub use crate::config::BUILTINS;
use crate::config::{Mode, Phase, Phases};
use crate::record::{BUILT_IN, WithSettings};
use crate::registry::PhaseSpec;

/// The built-ins that `phases` has not switched off.
pub fn builtins(phases: &Phases) -> Vec<PhaseSpec> {
    let Phases { reaper, reconnect, broadcast_cleanup, exchange_cleanup } = phases;
    let [first, second, third, fourth] = BUILTINS;
    let specs = [
        spec(first, reaper),
        spec(second, reconnect),
        spec(third, broadcast_cleanup),
        spec(fourth, exchange_cleanup),
    ];
    let mut specs: Vec<PhaseSpec> = specs.into_iter().flatten().collect();
    // Running after a phase that is off is no different from running after nothing.
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    for spec in &mut specs {
        spec.schedule.after.retain(|after| names.contains(after));
        spec.schedule.before.retain(|before| names.contains(before));
    }
    specs
}

fn spec<S: AnyPhase + Clone + Serialize + 'static>(name: &str, phase: &Phase<S>) -> Option<PhaseSpec> {
    (phase.mode != Mode::Off).then(|| {
        let settings = Arc::new(phase.settings.clone());
        let version = env!("CARGO_PKG_VERSION");
        let body = WithSettings::body(Arc::clone(&settings));
        let mut spec = PhaseSpec::built_in(name, BUILT_IN, version, settings, phase.schedule.clone());
        spec.body = body;
        spec.policy.mode = phase.mode;
        spec
    })
}
