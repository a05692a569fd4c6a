//! The built-in phases as they are written: every key with its default. Checks nothing but types.
//!
//! The comments here become the descriptions of the JSON schema.

use std::fmt;

use groundskeeper_engine as engine;
use groundskeeper_engine::policy::Mode;
use groundskeeper_engine::schedule::{Cadence, Schedule, WakeOn};
use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The four built-in phases.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Phases {
    /// Pings quiet peers and disconnects silent ones.
    #[cfg_attr(feature = "schema", schemars(with = "Phase<super::schema::Described<Reaper>>"))]
    pub reaper: Phase<Reaper>,
    /// Dials known addresses while there are too few connections.
    #[cfg_attr(feature = "schema", schemars(with = "Phase<super::schema::Described<Reconnect>>"))]
    pub reconnect: Phase<Reconnect>,
    /// Forgets old broadcasts.
    #[cfg_attr(feature = "schema", schemars(with = "Phase<super::schema::Described<BroadcastCleanup>>"))]
    pub broadcast_cleanup: Phase<BroadcastCleanup>,
    /// Forgets addresses that nobody names any more.
    #[cfg_attr(feature = "schema", schemars(with = "Phase<super::schema::Described<ExchangeCleanup>>"))]
    pub exchange_cleanup: Phase<ExchangeCleanup>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, bound(deserialize = "S: Default + DeserializeOwned"))]
#[cfg_attr(feature = "schema", schemars(bound = "S: Default + Serialize + schemars::JsonSchema"))]
pub(super) struct Phase<S> {
    /// Whether it runs at all.
    pub enabled: bool,
    /// When it runs.
    pub schedule: WrittenSchedule,
    /// What it decides by.
    pub settings: S,
}

#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenSchedule {
    /// Runs at each n-th tick (1 to 1051200), or a list of steps of which the first that fits holds.
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::schema::cadence_schema"))]
    #[serde(with = "cadence")]
    pub every_n_ticks: Option<Cadence>,
    /// Ticks by which its runs are moved, less than every_n_ticks.
    pub offset: Option<u32>,
    /// What wakes it between two ticks: "isolated" when the last connection ends.
    pub wake_on: Option<Vec<WakeOn>>,
    /// Phases that run before it when both are due.
    pub after: Option<Vec<String>>,
    /// Phases that run after it when both are due.
    pub before: Option<Vec<String>>,
    /// Runs at the first tick as well, whenever it ran last.
    pub run_on_start: Option<bool>,
}

/// A cadence as it is written: a number of ticks, or steps by the number of connections.
mod cadence {
    use super::*;

    pub fn serialize<S: Serializer>(cadence: &Option<Cadence>, to: S) -> Result<S::Ok, S::Error> {
        match cadence {
            None => to.serialize_none(),
            Some(Cadence::Every(n)) => to.serialize_u32(*n),
            Some(Cadence::Adaptive(steps)) => steps.serialize(to),
        }
    }

    /// By hand, because serde's untagged enums answer every mistake with "did not match any variant".
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cadence>, D::Error> {
        struct NumberOrSteps;
        impl<'de> Visitor<'de> for NumberOrSteps {
            type Value = Cadence;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of ticks, or a list of { below_connections, every_n_ticks }")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Cadence, E> {
                let n = u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                Ok(Cadence::Every(n))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Cadence, E> {
                let n = u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))?;
                Ok(Cadence::Every(n))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, steps: A) -> Result<Cadence, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(steps)).map(Cadence::Adaptive)
            }
        }
        from.deserialize_any(NumberOrSteps).map(Some)
    }
}

impl<S: Default> Default for Phase<S> {
    fn default() -> Self {
        Self { enabled: true, schedule: WrittenSchedule::default(), settings: S::default() }
    }
}

impl Default for Phases {
    fn default() -> Self {
        (&engine::Phases::default()).into()
    }
}

impl From<&engine::Phases> for Phases {
    fn from(of: &engine::Phases) -> Self {
        Self {
            reaper: (&of.reaper).into(),
            reconnect: (&of.reconnect).into(),
            broadcast_cleanup: (&of.broadcast_cleanup).into(),
            exchange_cleanup: (&of.exchange_cleanup).into(),
        }
    }
}

impl<S: Clone> From<&engine::Phase<S>> for Phase<S> {
    fn from(of: &engine::Phase<S>) -> Self {
        let Schedule { cadence, offset, run_on_start, wake_on, after, before } = of.schedule.clone();
        let schedule = WrittenSchedule {
            every_n_ticks: Some(cadence),
            offset: Some(offset),
            wake_on: Some(wake_on),
            after: Some(after),
            before: Some(before),
            run_on_start: Some(run_on_start),
        };
        Self { enabled: of.mode != Mode::Off, schedule, settings: of.settings.clone() }
    }
}

impl<S> Phase<S> {
    /// What was written, and `usual` for what was not.
    fn or(self, usual: Schedule) -> engine::Phase<S> {
        let mode = if self.enabled { Mode::Enforce } else { Mode::Off };
        engine::Phase { mode, schedule: self.schedule.or(usual), settings: self.settings }
    }
}

impl WrittenSchedule {
    /// What was written, and `usual` for what was not.
    pub fn or(self, usual: Schedule) -> Schedule {
        Schedule {
            cadence: self.every_n_ticks.unwrap_or(usual.cadence),
            offset: self.offset.unwrap_or(usual.offset),
            wake_on: self.wake_on.unwrap_or(usual.wake_on),
            after: self.after.unwrap_or(usual.after),
            before: self.before.unwrap_or(usual.before),
            run_on_start: self.run_on_start.unwrap_or(usual.run_on_start),
        }
    }
}

/// Writes phases as the config does.
pub(super) fn serialize<S: Serializer>(phases: &engine::Phases, to: S) -> Result<S::Ok, S::Error> {
    Phases::from(phases).serialize(to)
}

/// Reads phases as the config has them; a schedule's keys that are left out are as usual.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<engine::Phases, D::Error> {
    let written = Phases::deserialize(from)?;
    let usual = engine::Phases::default();
    Ok(engine::Phases {
        reaper: written.reaper.or(usual.reaper.schedule),
        reconnect: written.reconnect.or(usual.reconnect.schedule),
        broadcast_cleanup: written.broadcast_cleanup.or(usual.broadcast_cleanup.schedule),
        exchange_cleanup: written.exchange_cleanup.or(usual.exchange_cleanup.schedule),
    })
}
