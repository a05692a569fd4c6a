//! Records the snapshot, runs and outcomes of each beat in a file. Replays the recorded runs, or runs another phase on
//! the recorded views. Does not change what a phase sees; a slow disk delays a beat by at most the recorder's patience.
//!
//! [`Recorder`] writes, [`Recording`] reads, [`replay()`] repeats the runs and [`what_if`] runs another phase.
//! [`Fixture`] is one view as JSON, for people. `docs/record-and-replay.md` describes the format byte by byte.
//! Hidden items are for the crates of this workspace; they have no stability promise.

mod beat;
mod bytes;
mod decoder;
mod encoder;
mod file;
mod fixture;
mod head;
mod output;
mod recorder;
mod replay;
mod runs;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;
mod whatif;
mod writer;

pub use beat::RecordedBeat;
#[doc(hidden)]
pub use file::fuzz_decode;
pub use file::{Damage, Event, Gap, ReadError, Recording};
pub use fixture::Fixture;
pub use recorder::{RecordError, Recorder, RecorderOptions};
pub use replay::{Difference, Lookup, PhaseReport, RecordingExtent, Report, builtin, replay};
pub use whatif::{ActionCount, Agreement, DroppedConnection, FailedRun, WhatIf, WhatIfPhase, what_if};

pub use groundskeeper_engine::beat::{
    AppliedPlan, AskOutcome, BeatHeader, RecordCounts, RecordedOutcome, RecordedRun, RunInfo,
};
