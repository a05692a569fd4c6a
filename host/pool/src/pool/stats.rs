//! Summary figures of the pool, computed from the columns without a lock.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use serde::{Deserialize, Serialize};

use super::{Pool, State};

/// What `status` shows of the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStats {
    /// Live connections.
    pub total: u32,
    /// Live connections with health above the node's threshold.
    pub healthy: u32,
    /// Live connections silent for at least the node's `stale_after`.
    pub stale: u32,
    /// Mean health of live connections, 0 to 100, rounded down; 0 without any.
    pub avg_health: u32,
    /// Age of the oldest live connection in seconds.
    pub oldest_s: u32,
    /// Live connections that the peer dialled.
    pub inbound: u32,
    /// Live connections that this node dialled.
    pub outbound: u32,
    /// Handshakes in flight; not in `total`.
    pub handshaking: u32,
    /// Ended connections that still hold a slot; not in `total`.
    pub closing: u32,
}

impl Pool {
    /// Counts over all slots used so far, at about 1 ns per slot. Takes no lock.
    pub fn stats(&self, healthy_above: u8, stale_after: Duration) -> PoolStats {
        let now = self.clock.coarse();
        let stale_units = CoarseInstant::from_duration(stale_after).0;
        let mut stats = PoolStats::default();
        let mut health_sum = 0_u64;
        let mut oldest = now.0;
        for (at, tag) in self.tags[..self.high.load(Relaxed) as usize].iter().enumerate() {
            let word = tag.load();
            match word.state() {
                State::Vacant => {}
                State::Handshaking => stats.handshaking += 1,
                State::Closing => stats.closing += 1,
                State::Live => {
                    stats.total += 1;
                    stats.inbound += u32::from(word.inbound());
                    stats.healthy += u32::from(word.health() > healthy_above);
                    health_sum += u64::from(word.health());
                    let idle = now.0.saturating_sub(self.last_seen[at].load(Relaxed));
                    stats.stale += u32::from(idle >= stale_units);
                    oldest = oldest.min(self.connected_at[at].load(Relaxed));
                }
            }
        }
        stats.outbound = stats.total - stats.inbound;
        stats.avg_health = (health_sum / u64::from(stats.total.max(1))) as u32;
        stats.oldest_s = now.seconds_since(CoarseInstant(oldest));
        stats
    }
}
