#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

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
pub use whatif::{ActionCount, Agreement, DroppedConnection, FailedRun, WhatIfPhase, WhatIfReport, what_if};

pub use groundskeeper_engine::beat::{
    AppliedPlan, AskOutcome, BeatHeader, RecordCounts, RecordedOutcome, RecordedRun, RunInfo,
};
