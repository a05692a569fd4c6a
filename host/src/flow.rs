//! What keeps traffic bounded: queues, windows, breakers, time-outs, and whom to ask. Does not know what a message means,
//! and opens nothing.

mod breaker;
mod broadcasts;
mod budget;
mod latency;
mod outbox;
mod queue;
mod report;
mod retry;
mod routing;
mod sync {
    pub(super) use crossbeam_queue::ArrayQueue;
    pub(super) use parking_lot::Mutex;
    pub(super) use tokio::sync::Notify;
}
#[cfg(test)]
mod tests;
mod timeouts;

pub use breaker::{Breaker, BreakerSettings, BreakerState, CallEnd, MOST_DOUBLED};
pub use broadcasts::{BroadcastId, BroadcastLimits, BroadcastTotals, Broadcasts};
pub use budget::{Budget, Pressure};
pub use latency::{Latency, LatencySnapshot, MOST_NAMES, OTHER};
pub use outbox::{NotQueued, Outbox, OutboxLimits, Parcel, Priority, Room, Taken};
pub use queue::RequestQueue;
pub use report::{AttemptEnd, KindSnapshot, PeerBreaker, TrafficReport, TrafficSnapshot};
pub use retry::{RetryBudget, RetrySettings, SAVED};
pub use routing::{Route, Turns};
pub use timeouts::{Estimator, TimeoutSettings};
