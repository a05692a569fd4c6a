//! Recordings: what each beat froze and what came of it, in a file; and the same runs again, or another phase over the
//! same hours. Changes nothing that a phase sees, and never lets a slow disk hold up the beats.
//!
//! [`Recorder`] writes, [`Recording`] reads, [`replay()`] runs again and [`what_if`] runs another phase.
//! [`Fixture`] is one view as JSON, for people. What is in a file, byte by byte, is told in `docs/record-and-replay.md`.
//! Hidden items are for the crates of this workspace and promise nothing.

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
pub use replay::{Difference, Extent, Lookup, PhaseReport, Report, builtin, replay};
pub use whatif::{Action, Agreement, Candidate, Dropped, Failed, WhatIf, what_if};

pub use groundskeeper_engine::beat::{Came, Fate, Moment, Planned, RecordCounts, RecordedRun, RunInfo};
