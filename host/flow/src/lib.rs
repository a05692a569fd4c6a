//! What keeps traffic bounded: queues, windows, breakers, time-outs, and whom to ask. Does not know what a message means,
//! and opens nothing.

mod breaker;
mod budget;
mod latency;
mod outbox;
mod queue;
mod report;
mod retry;
mod routing;
mod settings;
mod sync {
    pub(super) use crossbeam_queue::ArrayQueue;
    pub(super) use parking_lot::Mutex;
    pub(super) use tokio::sync::Notify;
}
#[cfg(test)]
mod tests;
mod timeouts;

// What the network is built of; benches and tests use it, and nothing is promised of it.
#[doc(hidden)]
pub use breaker::{Breaker, CallEnd, MOST_DOUBLED};
#[doc(hidden)]
pub use budget::Budget;
#[doc(hidden)]
pub use latency::{Latency, MOST_NAMES, OTHER};
#[doc(hidden)]
pub use outbox::{Outbox, Parcel, Room, Taken};
#[doc(hidden)]
pub use queue::RequestQueue;
#[doc(hidden)]
pub use retry::{RetryBudget, SAVED};
#[doc(hidden)]
pub use routing::Turns;
#[doc(hidden)]
pub use timeouts::Estimator;

pub use breaker::{BreakerSettings, BreakerState};
pub use budget::Pressure;
pub use latency::LatencySnapshot;
pub use outbox::{NotQueued, OutboxLimits, Priority};
pub use report::{AttemptEnd, KindSnapshot, PeerBreaker, TrafficReport, TrafficSnapshot};
pub use retry::RetrySettings;
pub use routing::Route;
pub use settings::{Backpressure, MAX_NETWORK, NetSettings, Performance, USUAL_NETWORK};
pub use timeouts::TimeoutSettings;
