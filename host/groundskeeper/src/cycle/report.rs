//! Which beat it is, and what it did.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Tally;

/// Identifies a beat and its delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Beat {
    pub tick: u32,
    /// 0 for the tick itself, otherwise the number of the urgent beat after it.
    pub urgent: u32,
    /// Grid points without a tick since the last one.
    pub skipped: u32,
    /// How long the machine was suspended since the last beat.
    pub slept: Duration,
    /// Time from the grid point to the start of the tick.
    pub lateness: Duration,
}

/// The result of one phase in a beat.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PhaseRun {
    /// The phase's name, as in [`PhaseStatus`](crate::registry::PhaseStatus).
    pub name: Arc<str>,
    /// Real time until the phase returned, or until its time limit ended the wait.
    pub took: Duration,
    /// `ok`, `failed`, `rule`, `panicked`, `trapped`, `cut`, `overran`, or `shortage` if the machine could
    /// not run it.
    pub result: &'static str,
    /// The error, if the run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The outcomes of its asks; all zero if the run failed.
    pub tally: Tally,
    /// What it used, if it is measured.
    pub fuel: Option<u64>,
    /// Bytes of linear memory at the end of the run, if it is measured.
    pub memory: Option<u64>,
}

/// What one beat did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BeatReport {
    /// Number of the tick. For an urgent beat: of the tick before it.
    pub tick: u32,
    /// 0 for the tick itself, otherwise the number of the urgent beat after it.
    pub urgent: u32,
    /// Grid points were skipped, or the machine was suspended, before this tick. False for urgent beats.
    pub late: bool,
    /// Grid points without a tick since the last one; 0 for urgent beats.
    pub skipped: u32,
    /// Time from the grid point to the start of the tick; zero for urgent beats.
    pub lateness: Duration,
    /// Live connections when the beat began.
    pub connected_before: u32,
    /// Live connections when the beat ended.
    pub connected: u32,
    /// Real time of the whole beat.
    pub took: Duration,
    /// The phases that ran, in order.
    pub runs: Vec<PhaseRun>,
    /// Guests that were due but must wait for the next tick.
    pub put_off: Vec<Arc<str>>,
    /// The sum over `runs`.
    pub tally: Tally,
}

impl BeatReport {
    pub(super) fn note(&mut self, run: PhaseRun) {
        self.tally += run.tally;
        self.runs.push(run);
    }
}
