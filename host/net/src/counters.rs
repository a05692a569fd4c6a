//! Frames and requests of one node's network, counted over all connections since the start.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_flow::{Budget, Latency, Priority, ReceiveBudget, TakenFrames, TrafficSnapshot};

use super::allowance::DeliveryLimit;

type ByPriority = [AtomicU64; Priority::COUNT];

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: ByPriority,
    full: ByPriority,
    shed: ByPriority,
    expired: AtomicU64,
    frame_waits: [Latency; Priority::COUNT],
    /// How long requests of peers waited for a worker.
    pub(crate) slot_waits: Latency,
    pub(crate) retried: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) breakers_opened: AtomicU64,
    pub(crate) misbehaved: AtomicU64,
    /// Broadcasts and messages dropped because of their number, and because of the time that their peer's have taken.
    dropped: [AtomicU64; 2],
    /// Requests of this node that are open now.
    open: AtomicUsize,
}

fn load(counts: &ByPriority) -> [u64; Priority::COUNT] {
    std::array::from_fn(|at| counts[at].load(Relaxed))
}

impl Counters {
    /// A session took frames from its send queue at `now`. They waited at most since its connection took no more, if it did.
    pub(crate) fn taken(
        &self,
        taken: &TakenFrames,
        blocked_since: Option<Duration>,
        now: impl Fn() -> Duration,
    ) {
        for ((count, waits), &frames) in self.sent.iter().zip(&self.frame_waits).zip(&taken.frames) {
            if frames > 0 {
                count.fetch_add(frames.into(), Relaxed);
                if let Some(since) = blocked_since {
                    let now = now();
                    waits.record(now.saturating_sub(since), now);
                }
            }
        }
        if taken.expired > 0 {
            self.expired.fetch_add(taken.expired.into(), Relaxed);
        }
    }

    /// A send queue had no room for a frame.
    pub(crate) fn full(&self, priority: Priority) {
        self.full[priority as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn shed(&self, frames: [u32; Priority::COUNT]) {
        for (count, frames) in self.shed.iter().zip(frames) {
            count.fetch_add(frames.into(), Relaxed);
        }
    }

    /// A broadcast or message was above what its peer may cost.
    pub(crate) fn dropped(&self, limit: DeliveryLimit) {
        self.dropped[limit as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request as open. Returns how many were open before.
    pub(crate) fn request_opened(&self) -> usize {
        self.open.fetch_add(1, Relaxed)
    }

    pub(crate) fn request_closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn snapshot(
        &self,
        budget: &Budget,
        receiving: &ReceiveBudget,
        now: Duration,
    ) -> TrafficSnapshot {
        TrafficSnapshot {
            queued_bytes: budget.used() as u64,
            budget_bytes: budget.limit() as u64,
            receiving_bytes: receiving.used() as u64,
            receiving_budget_bytes: receiving.limit() as u64,
            receiving_pauses: receiving.pauses(),
            receiving_given_up: receiving.given_up(),
            sent: load(&self.sent),
            full: load(&self.full),
            refused: Priority::ALL.map(|priority| budget.refused(priority)),
            shed: load(&self.shed),
            expired: self.expired.load(Relaxed),
            pending: self.open.load(Relaxed) as u64,
            retried: self.retried.load(Relaxed),
            hedged: self.hedged.load(Relaxed),
            breakers_opened: self.breakers_opened.load(Relaxed),
            misbehaved: self.misbehaved.load(Relaxed),
            deliveries_dropped: std::array::from_fn(|limit| self.dropped[limit].load(Relaxed)),
            frame_waits: std::array::from_fn(|at| self.frame_waits[at].snapshot(now)),
            slot_waits: self.slot_waits.snapshot(now),
            ..TrafficSnapshot::default()
        }
    }
}
