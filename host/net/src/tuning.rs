//! The numbers by which traffic is bounded and requests are made; they can change while the network runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use groundskeeper_flow::{Performance, Priority, TimeoutSettings};

/// The numbers in force, read on the paths of frames and requests.
pub(crate) struct Tuning {
    performance: ArcSwap<Performance>,
    /// Beside the others: every routing decision asks for it, and for nothing else here.
    healthy_above: AtomicU8,
}

impl Tuning {
    pub(crate) fn new(performance: Performance, healthy_above: u8) -> Self {
        Self { performance: ArcSwap::from_pointee(performance), healthy_above: healthy_above.into() }
    }

    pub(crate) fn set(&self, performance: Performance, healthy_above: u8) {
        self.healthy_above.store(healthy_above, Relaxed);
        self.performance.store(Arc::new(performance));
    }

    /// For a moment; not across an await.
    pub(crate) fn get(&self) -> Guard<Arc<Performance>> {
        self.performance.load()
    }

    /// Peers with this much health or less are not asked.
    pub(crate) fn healthy_above(&self) -> u8 {
        self.healthy_above.load(Relaxed)
    }

    /// The time-out of requests of `kind`, which may have none of its own.
    pub(crate) fn timeout_of(&self, kind: &str) -> TimeoutSettings {
        let timeouts = &self.get().timeouts;
        match timeouts.get(kind) {
            Some(own) if kind != Performance::ALL_KINDS => *own,
            _ => timeouts.get(Performance::ALL_KINDS).copied().unwrap_or_default().for_all_kinds(),
        }
    }

    /// The lane of a frame of this priority.
    pub(crate) fn lane(&self, priority: Priority) -> Priority {
        match priority {
            Priority::Control => priority,
            _ if self.get().backpressure.enable_priority => priority,
            _ => Priority::Request,
        }
    }
}
