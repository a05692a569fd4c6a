//! The schedule of a phase, as the operator or the application sets it. Counts ticks, has no clock.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// One year of ticks of 30 s. A phase that should run less often can be switched off.
#[doc(hidden)]
pub const MOST_TICKS: u64 = 1_051_200;

/// When a phase is due.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Schedule {
    /// How often it is due; written as `every_n_ticks`.
    #[serde(rename = "every_n_ticks")]
    pub cadence: Cadence,
    /// In ticks; less than the shortest cadence.
    pub offset: u32,
    /// What makes it due between two ticks.
    pub wake_on: Vec<WakeOn>,
    /// Names of phases that run before it when both are due.
    pub after: Vec<String>,
    /// Names of phases that run after it when both are due.
    pub before: Vec<String>,
    /// Due at the first tick, even if it ran recently.
    pub run_on_start: bool,
}

impl Schedule {
    /// Every `n` ticks (at least 1) and nothing else.
    pub fn every(n: u32) -> Self {
        Self {
            cadence: Cadence::Every(n.max(1)),
            offset: 0,
            wake_on: Vec::new(),
            after: Vec::new(),
            before: Vec::new(),
            run_on_start: false,
        }
    }
}

/// A schedule as it is written in a file. Every key may be left out.
#[doc(hidden)]
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct WrittenSchedule {
    /// Runs at each n-th tick (1 to 1051200). Or a list of steps; the first step that fits applies.
    #[cfg_attr(feature = "schema", schemars(schema_with = "cadence_schema"))]
    pub every_n_ticks: Option<Cadence>,
    /// Ticks by which its runs are delayed. Less than every_n_ticks.
    pub offset: Option<u32>,
    /// What wakes it between two ticks: "isolated" when the last connection ends.
    pub wake_on: Option<Vec<WakeOn>>,
    /// Phases that run before it when both are due.
    pub after: Option<Vec<String>>,
    /// Phases that run after it when both are due.
    pub before: Option<Vec<String>>,
    /// Also runs at the first tick, even if it ran recently.
    pub run_on_start: Option<bool>,
}

impl WrittenSchedule {
    /// Fills keys that were left out from `usual`.
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

/// How many ticks lie between two runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Cadence {
    /// At least 1.
    Every(u32),
    /// In ascending order of `below_connections`; the last step has none.
    Adaptive(Vec<CadenceStep>),
}

impl Cadence {
    /// Ticks from one run to the next while there are `connections` live connections. At least 1.
    pub fn every_n_ticks(&self, connections: u32) -> u32 {
        match self {
            Cadence::Every(n) => *n,
            Cadence::Adaptive(steps) => steps
                .iter()
                .find(|step| step.below_connections.is_none_or(|below| connections < below))
                .map_or(1, |step| step.every_n_ticks),
        }
    }

    /// The longest wait between two runs.
    pub fn longest(&self) -> u32 {
        self.all().into_iter().max().unwrap_or(1)
    }

    /// Every number of ticks that it contains.
    pub fn all(&self) -> Vec<u32> {
        match self {
            Cadence::Every(n) => vec![*n],
            Cadence::Adaptive(steps) => steps.iter().map(|step| step.every_n_ticks).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Cadence {
    /// Written by hand, because serde's untagged enums report every mistake as "did not match any variant".
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
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
        from.deserialize_any(NumberOrSteps)
    }
}

#[cfg(feature = "schema")]
fn cadence_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let number = schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": MOST_TICKS });
    schemars::json_schema!({ "anyOf": [number, {
        "type": "array",
        "items": {
            "type": "object",
            "properties": { "below_connections": { "type": "integer", "minimum": 1 }, "every_n_ticks": number },
            "required": ["every_n_ticks"],
            "additionalProperties": false,
        },
    }] })
}

/// What wakes a phase between two ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WakeOn {
    /// No connection is live.
    Isolated,
}

/// One step of an adaptive cadence. Applies below `below_connections` live connections; always if that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CadenceStep {
    /// Number of live connections, at least 1. None in the last step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub below_connections: Option<u32>,
    /// Ticks from one run to the next, at least 1.
    pub every_n_ticks: u32,
}
