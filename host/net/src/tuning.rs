//! Settings of traffic and requests that can change while the network runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use groundskeeper_flow::{Performance, Priority, TimeoutSettings};

/// The current settings, read for each frame and request.
pub(crate) struct Tuning {
    performance: ArcSwap<Performance>,
    /// Outside of `performance`: every routing decision reads it, and nothing else here.
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

    /// Hold it only for a moment, not across an await.
    pub(crate) fn get(&self) -> Guard<Arc<Performance>> {
        self.performance.load()
    }

    /// Peers with this much health or less are not asked.
    pub(crate) fn healthy_above(&self) -> u8 {
        self.healthy_above.load(Relaxed)
    }

    /// The time-outs of `kind`, or those of all kinds if it has none.
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
