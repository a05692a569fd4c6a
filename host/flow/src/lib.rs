#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod breaker;
mod budget;
mod latency;
mod outbox;
mod queue;
mod receiving;
mod report;
mod retry;
mod routing;
mod settings;
mod sync {
    pub(super) use crossbeam_queue::ArrayQueue;
    pub(super) use parking_lot::{Mutex, MutexGuard};
    pub(super) use tokio::sync::Notify;
}
#[cfg(test)]
mod tests;
mod timeouts;

pub use breaker::{BreakerSettings, BreakerState};
pub use budget::Pressure;
pub use latency::LatencySnapshot;
pub use outbox::{NotQueued, OutboxLimits, Priority};
pub use report::{
    AttemptEnd, KeyConflict, KindSnapshot, NewcomerRefusal, PeerBreaker, TrafficReport, TrafficSnapshot,
};
pub use retry::RetrySettings;
pub use routing::Route;
pub use settings::{Backpressure, NetSettings, Performance};
pub use timeouts::TimeoutSettings;

#[doc(hidden)]
pub use self::{
    breaker::{Breaker, CallEnd, MOST_DOUBLED},
    budget::Budget,
    latency::{Latency, MOST_NAMES, OTHER},
    outbox::{Outbox, QueueRoom, QueuedFrame, TakenFrames},
    queue::RequestQueue,
    receiving::{FrameCharge, ReceiveBudget, SMALL_FRAME, UNCOUNTED},
    retry::{RetryBudget, SAVED},
    routing::Balancer,
    settings::{MAX_NETWORK, USUAL_NETWORK},
    timeouts::Estimator,
};
