//! The numbers by which traffic is bounded and requests are made; they can change while the network runs.

use std::collections::BTreeMap;

use crate::flow::{BreakerSettings, RetrySettings, TimeoutSettings};

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
        Self {
            budget: 64 << 20,
            pressure: 0.8,
            max_pending: 10_000,
            priorities: true,
            healthy_above: 30,
            breaker: BreakerSettings::default(),
            retry: RetrySettings::default(),
            timeout: TimeoutSettings::default(),
            timeouts: BTreeMap::new(),
        }
    }
}

impl Tuning {
    pub fn timeout_of(&self, kind: &str) -> TimeoutSettings {
        self.timeouts.get(kind).copied().unwrap_or(self.timeout)
    }
}
