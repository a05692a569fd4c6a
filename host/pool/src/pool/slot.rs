//! The owner's handle on a slot: it records signs of life, and releases the slot on drop. Never shared, never cloned.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::peer::PeerId;

use super::{ConnKey, Denied, Direction, Link, Pool, Removal, in_micros};

/// A slot taken for a handshake. Dropping it frees the slot without a journal record.
#[doc(hidden)]
pub struct Admission {
    held: SlotGuard,
}

/// A live connection's slot in the pool. The owner of the connection holds it.
///
/// Dropping it without [`Slot::retire`] ends the connection with the cause `owner-dropped`.
pub struct Slot {
    held: SlotGuard,
}

/// Releases one slot exactly once, on drop.
struct SlotGuard {
    pool: Arc<Pool>,
    key: ConnKey,
    direction: Direction,
    /// Boxed to keep live connections small: only an ending connection has a removal.
    removal: Option<Box<Removal>>,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.pool.release(self.key, self.direction, self.removal.take().map(|removal| *removal));
    }
}

impl Admission {
    pub(super) fn new(pool: Arc<Pool>, key: ConnKey, direction: Direction) -> Self {
        Self { held: SlotGuard { pool, key, direction, removal: None } }
    }

    pub fn key(&self) -> ConnKey {
        self.held.key
    }

    /// Makes the connection live after its handshake. From now on phases see it.
    ///
    /// Replaces an older connection to the same peer if the peer has restarted (another boot nonce), or if the
    /// smaller of the two ids dialled the new connection and not the old one.
    ///
    /// # Errors
    /// [`Denied::SelfDial`], [`Denied::Banned`], [`Denied::Duplicate`] or [`Denied::ShuttingDown`]; the slot is free.
    pub fn go_live(self, id: PeerId, link: Arc<dyn Link>) -> Result<Slot, Denied> {
        let SlotGuard { ref pool, key, direction, .. } = self.held;
        pool.enter(key, direction, id, link)?;
        Ok(Slot { held: self.held })
    }
}

impl Slot {
    /// Identifies this connection in calls of [`Pool`].
    pub fn key(&self) -> ConnKey {
        self.held.key
    }

    /// Records a sign of life from the peer at `now`. About 1 ns: one load, and one store only if the eighth of a
    /// second changed, so that a busy connection does not keep its cache line dirty.
    #[inline]
    pub fn peer_seen(&self, now: CoarseInstant) {
        let cell = &self.held.pool.last_seen[self.held.key.slot as usize];
        if cell.load(Relaxed) != now.0 {
            cell.store(now.0, Relaxed);
        }
    }

    /// When the peer was last seen.
    pub fn last_seen(&self) -> CoarseInstant {
        CoarseInstant(self.held.pool.last_seen[self.held.key.slot as usize].load(Relaxed))
    }

    /// Whether the peer has been silent for at least `limit`.
    pub fn is_stale(&self, limit: Duration) -> bool {
        self.held.pool.clock.coarse().since(self.last_seen()) >= limit
    }

    /// Records a ping answered after `rtt`. Smoothed as in TCP: an eighth of the new value (RFC 6298, section 2).
    pub fn pong(&self, rtt: Duration) {
        let cell = &self.held.pool.rtt_us[self.held.key.slot as usize];
        let sample = in_micros(rtt);
        let smoothed = match cell.load(Relaxed) {
            u32::MAX => sample,
            old => ((u64::from(old) * 7 + u64::from(sample)) / 8) as u32,
        };
        cell.store(smoothed, Relaxed);
        self.held.pool.rtt_measured(self.held.key.slot);
        self.set_pings_lost(0);
    }

    /// Records a round-trip time that is smoothed already, such as the transport's own estimate.
    pub fn set_rtt(&self, rtt: Duration) {
        self.held.pool.rtt_us[self.held.key.slot as usize].store(in_micros(rtt), Relaxed);
        self.held.pool.rtt_measured(self.held.key.slot);
    }

    /// As [`Pool::answered_within`], for this connection.
    pub fn answered_within(&self, took: Duration) {
        self.held.pool.answered_within(self.held.key, took);
    }

    /// Sets the number of unanswered pings in a row.
    pub fn set_pings_lost(&self, lost: u8) {
        self.held.pool.tags[self.held.key.slot as usize].set_pings_lost(self.held.key.conn, lost);
    }

    /// Ends the connection with the owner's reason. If the pool closed it first, the pool's reason stands.
    pub fn retire(mut self, removal: Removal) {
        self.held.removal = Some(Box::new(removal));
    }
}
