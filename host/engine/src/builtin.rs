//! The four built-in phases: their names and order, when each runs, and made again out of settings as JSON.

use std::sync::Arc;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::host::AnyPhase;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::policy::Mode;
use crate::schedule::{Cadence, Schedule, Step, WakeOn};
use crate::{Body, BuiltIn};

/// Names of the built-in phases, in the order in which they run.
pub const BUILTINS: [&str; 4] = ["reaper", "reconnect", "broadcast-cleanup", "exchange-cleanup"];

/// The four built-in phases in the order in which they run.
#[derive(Clone, PartialEq, Debug)]
pub struct Phases {
    pub reaper: Phase<Reaper>,
    pub reconnect: Phase<Reconnect>,
    pub broadcast_cleanup: Phase<BroadcastCleanup>,
    pub exchange_cleanup: Phase<ExchangeCleanup>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Phase<S> {
    pub mode: Mode,
    pub schedule: Schedule,
    /// Checked.
    pub settings: S,
}

impl<S: Default> Phase<S> {
    /// With its usual settings.
    fn running(cadence: Cadence, wake_on: Vec<WakeOn>) -> Self {
        let schedule = Schedule { cadence, wake_on, ..Schedule::every(1) };
        Self { mode: Mode::Enforce, schedule, settings: S::default() }
    }
}

impl Default for Phases {
    /// The reaper runs at each tick, reconnect by the number of connections, the two cleanups each 2 and 120 ticks: a minute
    /// and an hour at the default interval.
    fn default() -> Self {
        let steps = [(Some(5), 1), (Some(8), 2), (None, 4)];
        let steps = steps.map(|(below_connections, every_n_ticks)| Step { below_connections, every_n_ticks });
        Self {
            reaper: Phase::running(Cadence::Every(1), Vec::new()),
            reconnect: Phase::running(Cadence::Adaptive(steps.into()), vec![WakeOn::Isolated]),
            broadcast_cleanup: Phase::running(Cadence::Every(2), Vec::new()),
            exchange_cleanup: Phase::running(Cadence::Every(120), Vec::new()),
        }
    }
}

/// What the host's own phases are said to be made of.
pub const BUILT_IN: &str = "built-in";

/// The built-in phase `name` with `settings` as JSON. None if there is no such phase, or its settings are not this
/// version's.
pub fn builtin(name: &str, settings: &str) -> Option<Arc<dyn Body>> {
    fn body<P: AnyPhase + Serialize + DeserializeOwned + 'static>(settings: &str) -> Option<Arc<dyn Body>> {
        let phase: P = serde_json::from_str(settings).ok()?;
        Some(Arc::new(BuiltIn::with_settings(Arc::new(phase))))
    }
    match name {
        "reaper" => body::<Reaper>(settings),
        "reconnect" => body::<Reconnect>(settings),
        "broadcast-cleanup" => body::<BroadcastCleanup>(settings),
        "exchange-cleanup" => body::<ExchangeCleanup>(settings),
        _ => None,
    }
}
