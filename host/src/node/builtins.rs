//! The four built-in phases as the config wants them, in the order in which they run. Holds no policy of its own.

use std::sync::Arc;

use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;

use crate::config::{Phase, Phases};
use crate::record::{BUILT_IN, WithSettings};
use crate::registry::PhaseSpec;

/// Names of the built-ins in their order.
pub const BUILTINS: [&str; 4] = ["reaper", "reconnect", "broadcast-cleanup", "exchange-cleanup"];

/// The built-ins that `phases` has enabled.
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
    specs.iter_mut().for_each(|spec| spec.schedule.after.retain(|after| names.contains(after)));
    specs
}

fn spec<S: AnyPhase + Clone + Serialize + 'static>(name: &str, phase: &Phase<S>) -> Option<PhaseSpec> {
    phase.enabled.then(|| {
        let settings = Arc::new(phase.settings.clone());
        let version = env!("CARGO_PKG_VERSION");
        let body = WithSettings::body(Arc::clone(&settings));
        PhaseSpec { body, ..PhaseSpec::built_in(name, BUILT_IN, version, settings, phase.schedule.clone()) }
    })
}
