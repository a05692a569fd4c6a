//! What all connections of a node share under load: the byte budget, the numbers that bound it, and the records by which
//! requests are routed. Owns no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::kinds::Kinds;
use super::node::Node;
use super::standing::Standings;
use super::tuning::Tuning;
use crate::clock::Coarse;
use crate::flow::{Budget, Pressure, Priority, RetryBudget, Taken, TrafficSnapshot, Turns};

/// Shared by all connections of one node.
pub(crate) struct Traffic {
    pub(crate) tuning: ArcSwap<Tuning>,
    /// Of the tuning: every routing decision asks for it, and for nothing else there.
    pub(crate) healthy_above: AtomicU8,
    pub(crate) budget: Arc<Budget>,
    pub(crate) standings: Standings,
    pub(crate) kinds: Kinds,
    pub(crate) turns: Turns,
    pub(crate) retries: RetryBudget,
    /// Requests of ours that are open, over all peers.
    pub(crate) pending: AtomicUsize,
    pub(crate) counts: Counts,
    /// When queues were last told to drop what matters least.
    relieved: AtomicU32,
}

type ByPriority = [AtomicU64; Priority::COUNT];

/// What became of frames, over all connections since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: ByPriority,
    pub(crate) full: ByPriority,
    pub(crate) shed: ByPriority,
    pub(crate) expired: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) breakers_opened: AtomicU64,
    pub(crate) misbehaved: AtomicU64,
}

fn load(counts: &ByPriority) -> [u64; Priority::COUNT] {
    std::array::from_fn(|at| counts[at].load(Relaxed))
}

impl Counts {
    pub(crate) fn took(&self, taken: &Taken) {
        for (count, &frames) in self.sent.iter().zip(&taken.frames) {
            if frames > 0 {
                count.fetch_add(frames.into(), Relaxed);
            }
        }
        if taken.expired > 0 {
            self.expired.fetch_add(taken.expired.into(), Relaxed);
        }
    }
}

impl Traffic {
    pub(crate) fn new(tuning: Tuning, seed: u64) -> Self {
        Self {
            budget: Budget::new(tuning.budget, tuning.pressure),
            healthy_above: tuning.healthy_above.into(),
            tuning: ArcSwap::from_pointee(tuning),
            standings: Standings::default(),
            kinds: Kinds::default(),
            turns: Turns::new(seed),
            retries: RetryBudget::default(),
            pending: AtomicUsize::new(0),
            counts: Counts::default(),
            relieved: AtomicU32::new(0),
        }
    }

    pub(crate) fn tune(&self, tuning: Tuning) {
        self.budget.set(tuning.budget, tuning.pressure);
        self.healthy_above.store(tuning.healthy_above, Relaxed);
        self.tuning.store(Arc::new(tuning));
    }

    /// The lane of a frame of this priority.
    pub(crate) fn lane(&self, priority: Priority) -> Priority {
        match priority {
            Priority::Control => priority,
            _ if self.tuning.load().priorities => priority,
            _ => Priority::Request,
        }
    }

    pub(crate) fn snapshot(&self) -> TrafficSnapshot {
        let Counts { sent, full, shed, expired, retried, hedged, breakers_opened, misbehaved } = &self.counts;
        TrafficSnapshot {
            queued_bytes: self.budget.used() as u64,
            budget_bytes: self.budget.limit() as u64,
            sent: load(sent),
            full: load(full),
            refused: Priority::ALL.map(|priority| self.budget.refused(priority)),
            shed: load(shed),
            expired: expired.load(Relaxed),
            pending: self.pending.load(Relaxed) as u64,
            retried: retried.load(Relaxed),
            hedged: hedged.load(Relaxed),
            breakers_opened: breakers_opened.load(Relaxed),
            misbehaved: misbehaved.load(Relaxed),
        }
    }
}

impl Node {
    /// Counts `frame` against the budget, after having made room if there is too little.
    ///
    /// # Errors
    /// [`Pressure`].
    pub(crate) fn charge(&self, priority: Priority, frame: Bytes) -> Result<Bytes, Pressure> {
        let budget = &self.traffic.budget;
        if !budget.is_pressed() {
            // Bytes::clone counts a reference; the frame is needed again only if this fails, which is rare.
            return budget.charge(priority, frame);
        }
        self.relieve(self.rooms.clock.coarse());
        budget.charge(priority, frame)
    }

    /// Has queues above their fair share drop bulk, then broadcasts: who does not read pays, not who does. At most once
    /// in an eighth of a second. O(connections).
    fn relieve(&self, now: Coarse) {
        let traffic = &self.traffic;
        // One more than the time: 0 is never.
        let moment = now.0.wrapping_add(1);
        if traffic.relieved.swap(moment, Relaxed) == moment {
            return;
        }
        let listed = self.roster.listed();
        let fair = traffic.budget.limit() / (2 * listed.conns.len().max(1));
        for conn in &listed.conns {
            let shed = conn.shed(fair);
            for (count, frames) in traffic.counts.shed.iter().zip(shed) {
                count.fetch_add(frames.into(), Relaxed);
            }
        }
    }
}
