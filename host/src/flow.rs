//! Queues, windows and memories that keep traffic bounded. Does not know what a message means.

mod broadcasts;
mod outbox;

#[doc(hidden)]
pub use broadcasts::BroadcastId;
pub use broadcasts::{BroadcastLimits, BroadcastTotals, Broadcasts};
#[doc(hidden)]
pub use outbox::{Lane, Outbox};
pub use outbox::{NotQueued, OutboxLimits};
