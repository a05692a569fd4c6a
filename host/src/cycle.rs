//! One beat: who is due, view, run, check, apply, journal. Has no clock of its own and never waits for the network.

mod status;

pub use status::{PhaseBoard, PhaseState, PhaseStatus};
