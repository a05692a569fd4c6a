//! Frames and requests of one node's network, counted over all connections since the start.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use groundskeeper_flow::{Budget, Priority, Taken, TrafficSnapshot};

type ByPriority = [AtomicU64; Priority::COUNT];

/// What is counted apart from frames by priority.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    Expired,
    Retried,
    Hedged,
    BreakerOpened,
    Misbehaved,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: ByPriority,
    full: ByPriority,
    shed: ByPriority,
    events: [AtomicU64; 5],
    /// Requests of this node that are open now.
    open: AtomicUsize,
}

fn load(counts: &ByPriority) -> [u64; Priority::COUNT] {
    std::array::from_fn(|at| counts[at].load(Relaxed))
}

impl Counters {
    /// A session took frames from its send queue.
    pub(crate) fn taken(&self, taken: &Taken) {
        for (count, &frames) in self.sent.iter().zip(&taken.frames) {
            if frames > 0 {
                count.fetch_add(frames.into(), Relaxed);
            }
        }
        if taken.expired > 0 {
            self.events[Event::Expired as usize].fetch_add(taken.expired.into(), Relaxed);
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

    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request as open. How many were open before.
    pub(crate) fn request_opened(&self) -> usize {
        self.open.fetch_add(1, Relaxed)
    }

    pub(crate) fn request_closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn snapshot(&self, budget: &Budget) -> TrafficSnapshot {
        let events = |event: Event| self.events[event as usize].load(Relaxed);
        TrafficSnapshot {
            queued_bytes: budget.used() as u64,
            budget_bytes: budget.limit() as u64,
            sent: load(&self.sent),
            full: load(&self.full),
            refused: Priority::ALL.map(|priority| budget.refused(priority)),
            shed: load(&self.shed),
            expired: events(Event::Expired),
            pending: self.open.load(Relaxed) as u64,
            retried: events(Event::Retried),
            hedged: events(Event::Hedged),
            breakers_opened: events(Event::BreakerOpened),
            misbehaved: events(Event::Misbehaved),
        }
    }
}
