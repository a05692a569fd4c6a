//! The four built-in phases: names, order, schedules, and how to create one from its settings as JSON.

use std::sync::Arc;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::host::AnyPhase;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::policy::{HostOnFailure, Mode};
use crate::schedule::{Cadence, CadenceStep, Schedule, WakeOn, WrittenSchedule};
use crate::{BuiltIn, PhaseProgram};

/// Names of the built-in phases, in the order in which they run.
pub const BUILTINS: [&str; 4] = ["reaper", "reconnect", "broadcast-cleanup", "exchange-cleanup"];

/// The four built-in phases.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BuiltInPhases {
    /// Pings quiet peers and disconnects silent ones.
    pub reaper: BuiltInPhase<Reaper>,
    /// Dials known addresses while there are too few connections.
    pub reconnect: BuiltInPhase<Reconnect>,
    /// Forgets old broadcasts.
    pub broadcast_cleanup: BuiltInPhase<BroadcastCleanup>,
    /// Forgets addresses that no peer mentions any longer.
    pub exchange_cleanup: BuiltInPhase<ExchangeCleanup>,
}

/// The config section of one built-in phase.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, bound(deserialize = "S: Settings"))]
#[cfg_attr(feature = "schema", schemars(bound = "S: Settings"))]
pub struct BuiltInPhase<S> {
    /// Whether it runs at all.
    #[serde(rename = "enabled", serialize_with = "put_enabled", deserialize_with = "take_enabled")]
    #[cfg_attr(feature = "schema", schemars(with = "bool"))]
    pub mode: Mode,
    /// When it runs.
    #[serde(deserialize_with = "take_schedule::<S, _>")]
    #[cfg_attr(feature = "schema", schemars(with = "WrittenSchedule", default = "WrittenSchedule::default"))]
    pub schedule: Schedule,
    /// When it pauses after failures.
    pub on_failure: HostOnFailure,
    /// The settings of the phase itself.
    #[cfg_attr(feature = "schema", schemars(with = "SettingsSchema<S>"))]
    pub settings: S,
}

impl<S: Settings> Default for BuiltInPhase<S> {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            schedule: S::schedule(),
            on_failure: HostOnFailure::default(),
            settings: S::default(),
        }
    }
}

fn put_enabled<T: Serializer>(mode: &Mode, to: T) -> Result<T::Ok, T::Error> {
    to.serialize_bool(*mode != Mode::Off)
}

fn take_enabled<'de, D: Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
    Ok(if bool::deserialize(from)? { Mode::Enforce } else { Mode::Off })
}

/// A key that is left out has the default of this phase.
fn take_schedule<'de, S: Settings, D: Deserializer<'de>>(from: D) -> Result<Schedule, D::Error> {
    Ok(WrittenSchedule::deserialize(from)?.or(S::schedule()))
}

/// The settings of a built-in phase, and its default schedule.
pub trait Settings: groundskeeper_sdk::phase::Phase + Default + Serialize + DeserializeOwned {
    /// The default of each schedule key that the config leaves out.
    fn schedule() -> Schedule;
}

impl Settings for Reaper {
    fn schedule() -> Schedule {
        Schedule::every(1)
    }
}

impl Settings for Reconnect {
    fn schedule() -> Schedule {
        let steps = [(Some(5), 1), (Some(8), 2), (None, 4)];
        let steps =
            steps.map(|(below_connections, every_n_ticks)| CadenceStep { below_connections, every_n_ticks });
        let cadence = Cadence::Adaptive(steps.into());
        Schedule { cadence, wake_on: vec![WakeOn::Isolated], ..Schedule::every(1) }
    }
}

impl Settings for BroadcastCleanup {
    /// Every minute at the default interval.
    fn schedule() -> Schedule {
        Schedule::every(2)
    }
}

impl Settings for ExchangeCleanup {
    /// Every hour at the default interval.
    fn schedule() -> Schedule {
        Schedule::every(120)
    }
}

/// Stands for the settings of a phase in the schema. Their type does not implement `JsonSchema`, so keys, types and
/// defaults are taken from its default value.
#[cfg(feature = "schema")]
struct SettingsSchema<S>(std::marker::PhantomData<S>);

#[cfg(feature = "schema")]
impl<S: Settings> schemars::JsonSchema for SettingsSchema<S> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        std::any::type_name::<S>().into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let defaults = serde_json::to_value(S::default()).expect("settings are plain data");
        let property = |(key, value): (&String, &serde_json::Value)| {
            let kind = if value.is_string() { "string" } else { "integer" };
            (key.clone(), serde_json::json!({ "type": kind, "default": value }))
        };
        let properties: serde_json::Map<_, _> =
            defaults.as_object().into_iter().flatten().map(property).collect();
        schemars::json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}

/// The `kind` of built-in phases and of the application's phases in reports.
pub const BUILT_IN: &str = "built-in";

/// Creates the built-in phase `name` from `settings` as JSON. None if there is no such phase, or if this version cannot
/// read the settings.
pub fn builtin(name: &str, settings: &str) -> Option<Arc<dyn PhaseProgram>> {
    fn body<P: AnyPhase + Serialize + DeserializeOwned + 'static>(
        settings: &str,
    ) -> Option<Arc<dyn PhaseProgram>> {
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
