//! When phases last ran, across processes. Ages, not stamps: a wall clock that steps changes none of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The wall clock says how long the node was off, and it may be wrong by years. No schedule is longer than a year of
/// ticks of 30 s, so a longer time changes nothing.
const LONGEST_OFF_S: u32 = 366 * 86_400;

/// When each phase last ran. Kept across restarts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LastRuns {
    /// When these ages were taken, in seconds since 1970. Tells the next process how long the node was off.
    pub taken_unix_s: u32,
    /// By name of the phase.
    pub phases: BTreeMap<String, LastRun>,
}

/// When one phase last ran, as ages in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LastRun {
    /// Age of its last due run, also of one that was skipped; of the start of its period if it never ran.
    pub due_s: u32,
    /// Age of its last run at a tick, accepted or not. None: never.
    pub ran_s: Option<u32>,
    /// Age of its last accepted run. None: never.
    pub accepted_s: Option<u32>,
}

impl LastRun {
    /// A run that was accepted `age_s` seconds ago.
    pub fn accepted(age_s: u32) -> Self {
        Self { due_s: age_s, ran_s: Some(age_s), accepted_s: Some(age_s) }
    }
}

impl LastRuns {
    /// Seconds from the time when these ages were taken to `unix_now`: zero if the wall clock went back, and at most a
    /// year.
    pub fn off_s(&self, unix_now: u32) -> u32 {
        unix_now.saturating_sub(self.taken_unix_s).min(LONGEST_OFF_S)
    }
}

/// How long ago something happened, perhaps in an earlier process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Age {
    age: Duration,
    /// Monotonic time at which it had that age.
    at: Duration,
}

impl Age {
    /// It happens at monotonic time `now`.
    pub fn zero(now: Duration) -> Self {
        Self { age: Duration::ZERO, at: now }
    }

    /// It happened `age_s` seconds before monotonic time `now`.
    pub fn of(age_s: u64, now: Duration) -> Self {
        Self { age: Duration::from_secs(age_s), at: now }
    }

    /// The age at monotonic time `now`, in whole seconds. Saturates below `u32::MAX`, which means "never".
    pub fn seconds(self, now: Duration) -> u32 {
        let seconds = (self.age + now.saturating_sub(self.at)).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 1)
    }
}
