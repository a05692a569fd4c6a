//! The numbers by which traffic is bounded and requests are made; they can change while the network runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use groundskeeper_flow::{BreakerSettings, Performance, Priority, RetrySettings, TimeoutSettings};
use groundskeeper_pool::settings::PoolSettings;

/// How the network behaves under load.
#[derive(Clone, PartialEq, Debug)]
pub struct Tuning {
    /// Bytes that all send queues together may hold.
    pub budget: usize,
    /// The fraction of the budget from which on bulk frames are refused, and those that wait are dropped.
    pub pressure: f64,
    /// Requests of this node that may be open at once, over all peers.
    pub max_pending: usize,
    /// Off: requests, broadcasts and bulk share one lane, in the order in which they come.
    pub priorities: bool,
    /// Peers with this much health or less are not asked by [`Net::ask`](super::Net::ask).
    pub healthy_above: u8,
    pub breaker: BreakerSettings,
    pub retry: RetrySettings,
    /// The time-out of request kinds that have none of their own.
    pub timeout: TimeoutSettings,
    pub timeouts: BTreeMap<String, TimeoutSettings>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self::of(&Performance::default(), &PoolSettings::default())
    }
}

impl Tuning {
    /// What the config's `[performance]` says.
    pub fn of(performance: &Performance, pool: &PoolSettings) -> Self {
        let Performance { backpressure, circuit_breaker, retry, mut timeouts, .. } = performance.clone();
        Self {
            budget: backpressure.queue_budget,
            pressure: backpressure.memory_pressure_threshold,
            max_pending: backpressure.max_pending,
            priorities: backpressure.enable_priority,
            healthy_above: pool.healthy_above(),
            breaker: circuit_breaker,
            retry,
            timeout: timeouts.remove(Performance::ALL_KINDS).unwrap_or_default().for_all_kinds(),
            timeouts,
        }
    }

    pub fn timeout_of(&self, kind: &str) -> TimeoutSettings {
        self.timeouts.get(kind).copied().unwrap_or(self.timeout)
    }
}

/// The tuning in force, read on the paths of frames and requests.
pub(crate) struct CurrentTuning {
    values: ArcSwap<Tuning>,
    /// Of the values: every routing decision asks for it, and for nothing else there.
    healthy_above: AtomicU8,
}

impl CurrentTuning {
    pub(crate) fn new(tuning: Tuning) -> Self {
        Self { healthy_above: tuning.healthy_above.into(), values: ArcSwap::from_pointee(tuning) }
    }

    pub(crate) fn set(&self, tuning: Tuning) {
        self.healthy_above.store(tuning.healthy_above, Relaxed);
        self.values.store(Arc::new(tuning));
    }

    /// For a moment; not across an await.
    pub(crate) fn get(&self) -> Guard<Arc<Tuning>> {
        self.values.load()
    }

    pub(crate) fn get_full(&self) -> Arc<Tuning> {
        self.values.load_full()
    }

    pub(crate) fn healthy_above(&self) -> u8 {
        self.healthy_above.load(Relaxed)
    }

    /// The lane of a frame of this priority.
    pub(crate) fn lane(&self, priority: Priority) -> Priority {
        match priority {
            Priority::Control => priority,
            _ if self.values.load().priorities => priority,
            _ => Priority::Request,
        }
    }
}
