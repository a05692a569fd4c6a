//! The four built-in phases as configured, in the order in which they run. Holds no policy.

use std::sync::Arc;

use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;

pub use crate::engine::BUILTINS;
use crate::engine::{BUILT_IN, BuiltIn, BuiltInPhase, BuiltInPhases};
use crate::registry::PhaseSpec;

// Crates that do not know each other: the phase asks for what the book forgets.
const _: () = assert!(groundskeeper_phases::LAST_GOOD == crate::book::LAST_GOOD);

/// The built-in phases, including those that `phases` has switched off.
pub fn builtins(phases: &BuiltInPhases) -> Vec<PhaseSpec> {
    let BuiltInPhases { reaper, reconnect, broadcast_cleanup, exchange_cleanup } = phases;
    let [first, second, third, fourth] = BUILTINS;
    vec![
        spec(first, reaper),
        spec(second, reconnect),
        spec(third, broadcast_cleanup),
        spec(fourth, exchange_cleanup),
    ]
}

fn spec<S: AnyPhase + Clone + Serialize + 'static>(name: &str, phase: &BuiltInPhase<S>) -> PhaseSpec {
    let settings = Arc::new(phase.settings.clone());
    let version = env!("CARGO_PKG_VERSION");
    let body = Arc::new(BuiltIn::with_settings(Arc::clone(&settings)));
    let mut spec = PhaseSpec::built_in(name, BUILT_IN, version, settings, phase.schedule.clone());
    spec.body = body;
    spec.policy.mode = phase.mode;
    spec.policy.on_failure = phase.on_failure.into();
    spec
}

#[cfg(all(test, feature = "record"))]
mod tests {
    use super::*;
    use crate::record::{RunInfo, builtin};

    #[test]
    fn every_built_in_is_rebuilt_from_its_recorded_settings() {
        for spec in builtins(&BuiltInPhases::default()) {
            let info = RunInfo {
                name: spec.name,
                kind: spec.kind.to_owned(),
                settings: spec.body.settings(),
                ..RunInfo::default()
            };
            let again = builtin(&info).unwrap_or_else(|| panic!("{info:?}"));
            assert_eq!((again.settings(), again.summary()), (info.settings.clone(), spec.body.summary()));
            assert!(builtin(&RunInfo { settings: Some("{\"no\":1}".into()), ..info.clone() }).is_none());
            assert!(builtin(&RunInfo { kind: "wasm".into(), ..info }).is_none());
        }
    }
}
