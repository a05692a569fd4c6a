//! When a phase is due, as its operator or its application says it. Counts ticks, knows no clock.

use serde::{Deserialize, Serialize};

/// When a phase is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    pub cadence: Cadence,
    /// Ticks; less than the shortest cadence.
    pub offset: u32,
    /// Due at the first tick, whenever it ran last.
    pub run_on_start: bool,
    pub wake_on: Vec<WakeOn>,
    /// Names of phases that run before it when both are due.
    pub after: Vec<String>,
    /// Names of phases that run after it when both are due.
    pub before: Vec<String>,
}

impl Schedule {
    /// Every `n` ticks (at least 1) and nothing else.
    pub fn every(n: u32) -> Self {
        Self {
            cadence: Cadence::Every(n.max(1)),
            offset: 0,
            run_on_start: false,
            wake_on: Vec::new(),
            after: Vec::new(),
            before: Vec::new(),
        }
    }
}

/// How many ticks lie between two runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cadence {
    /// At least 1.
    Every(u32),
    /// By rising `below_connections`; the last step names none.
    Adaptive(Vec<Step>),
}

impl Cadence {
    /// The number of ticks that holds while there are so many live connections. At least 1.
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

    /// Every number of ticks that it names.
    pub fn all(&self) -> Vec<u32> {
        match self {
            Cadence::Every(n) => vec![*n],
            Cadence::Adaptive(steps) => steps.iter().map(|step| step.every_n_ticks).collect(),
        }
    }
}

/// What wakes a phase between two ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WakeOn {
    /// No connection is live.
    Isolated,
}

/// One step of an adaptive cadence: holds while there are fewer than `below_connections`, always if it names none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub below_connections: Option<u32>,
    pub every_n_ticks: u32,
}
