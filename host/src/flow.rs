//! Queues, windows and memories that keep traffic bounded. Does not know what a message means.

mod broadcasts;

pub use broadcasts::{BroadcastId, BroadcastLimits, BroadcastTotals, Broadcasts};
