//! Queues, windows and memories that keep traffic bounded. Does not know what a message means.

mod broadcasts;
mod outbox;

pub use broadcasts::{BroadcastId, BroadcastLimits, BroadcastTotals, Broadcasts};
pub use outbox::{Lane, NotQueued, Outbox, OutboxLimits};
