//! The built-in phases, shown with their settings to a recording and made again out of one. Knows no other phases.

use std::sync::Arc;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::beat::RunInfo;
use crate::engine::{Body, BuiltIn, Done, Job};

/// A phase in Rust that can show its settings, so that a recording of it can be run again.
pub struct WithSettings {
    phase: BuiltIn,
    settings: String,
}

impl WithSettings {
    /// `phase` is its settings. Shows none if they do not become JSON.
    pub fn body<P: AnyPhase + Serialize + 'static>(phase: Arc<P>) -> Arc<dyn Body> {
        match serde_json::to_string(&*phase) {
            Ok(settings) => Arc::new(Self { phase: BuiltIn(phase), settings }),
            Err(_) => Arc::new(BuiltIn(phase)),
        }
    }
}

impl Body for WithSettings {
    fn summary(&self) -> &str {
        self.phase.summary()
    }

    fn check(&self) -> Result<(), String> {
        self.phase.check()
    }

    fn run(&self, job: &Job) -> Done {
        self.phase.run(job)
    }

    fn settings(&self) -> Option<String> {
        Some(self.settings.clone())
    }
}

/// What the host's own phases are called in [`RunInfo::kind`].
pub const BUILT_IN: &str = "built-in";

/// The built-in that ran as `info`, with the settings it had. None if it is not one, or its settings were not recorded
/// or are not this version's.
pub fn builtin(info: &RunInfo) -> Option<Arc<dyn Body>> {
    fn body<P: AnyPhase + Serialize + DeserializeOwned + 'static>(settings: &str) -> Option<Arc<dyn Body>> {
        serde_json::from_str::<P>(settings).ok().map(|phase| WithSettings::body(Arc::new(phase)))
    }
    let settings = info.settings.as_deref().filter(|_| info.kind == BUILT_IN)?;
    match info.name.as_str() {
        "reaper" => body::<Reaper>(settings),
        "reconnect" => body::<Reconnect>(settings),
        "broadcast-cleanup" => body::<BroadcastCleanup>(settings),
        "exchange-cleanup" => body::<ExchangeCleanup>(settings),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_built_in_is_made_again_out_of_what_it_shows() {
        for spec in crate::node::builtins(&Config::default().phases) {
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
