//! The one timer: when the next beat is. Does no work of its own.

mod pulse;

pub use pulse::Pulse;
