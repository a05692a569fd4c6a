//! The owner's side of a slot: the right to mark it as alive, and the duty to give it back. Never shared, never cloned.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use groundskeeper_base::clock::Coarse;
use groundskeeper_base::peer::PeerId;

use super::{ConnKey, Denied, Direction, Link, Pool, Removal};

/// A slot taken for a handshake. Dropped, it is vacant again and nothing has happened.
#[doc(hidden)]
pub struct Admission {
    held: Held,
}

/// A live connection's place in the pool, held by the one who owns the connection.
///
/// Dropped without [`Slot::retire`] the connection counts as `owner-dropped`.
pub struct Slot {
    held: Held,
}

/// The duty to release one slot exactly once.
struct Held {
    pool: Arc<Pool>,
    key: ConnKey,
    direction: Direction,
    /// Boxed: every connection holds this end, only the last moment needs a reason.
    removal: Option<Box<Removal>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.release(self.key, self.direction, self.removal.take().map(|removal| *removal));
    }
}

impl Admission {
    pub(super) fn new(pool: Arc<Pool>, key: ConnKey, direction: Direction) -> Self {
        Self { held: Held { pool, key, direction, removal: None } }
    }

    pub fn key(&self) -> ConnKey {
        self.held.key
    }

    /// The handshake is done: from now on phases see the connection.
    ///
    /// An older connection to the same peer is replaced if the peer has started anew (another boot nonce), or if
    /// the smaller of the two ids dialled this one and not that one.
    ///
    /// # Errors
    /// [`Denied::SelfDial`], [`Denied::Banned`], [`Denied::Duplicate`] or [`Denied::ShuttingDown`]; the slot is free again.
    pub fn go_live(self, id: PeerId, link: Arc<dyn Link>) -> Result<Slot, Denied> {
        let Held { ref pool, key, direction, .. } = self.held;
        pool.enter(key, direction, id, link)?;
        Ok(Slot { held: self.held })
    }
}

impl Slot {
    pub fn key(&self) -> ConnKey {
        self.held.key
    }

    /// The peer gave a sign of life at `now`. About a nanosecond: one load, and one store if the eighth of a
    /// second changed, so that a busy connection does not keep its cache line dirty.
    #[inline]
    pub fn peer_seen(&self, now: Coarse) {
        let cell = &self.held.pool.last_seen[self.held.key.slot as usize];
        if cell.load(Relaxed) != now.0 {
            cell.store(now.0, Relaxed);
        }
    }

    /// When the peer was last seen.
    pub fn last_seen(&self) -> Coarse {
        Coarse(self.held.pool.last_seen[self.held.key.slot as usize].load(Relaxed))
    }

    /// Whether the peer has been silent for at least `limit`.
    pub fn is_stale(&self, limit: Duration) -> bool {
        self.held.pool.clock.coarse().since(self.last_seen()) >= limit
    }

    /// A ping was answered after `rtt`. Smoothed as TCP does it: an eighth of the new value (RFC 6298, section 2).
    pub fn pong(&self, rtt: Duration) {
        let cell = &self.held.pool.rtt_us[self.held.key.slot as usize];
        let sample = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX - 1).min(u32::MAX - 1);
        let smoothed = match cell.load(Relaxed) {
            u32::MAX => sample,
            old => ((u64::from(old) * 7 + u64::from(sample)) / 8) as u32,
        };
        cell.store(smoothed, Relaxed);
        self.set_pings_lost(0);
    }

    /// How many pings in a row have gone unanswered.
    pub fn set_pings_lost(&self, lost: u8) {
        self.held.pool.tags[self.held.key.slot as usize].set_pings_lost(self.held.key.conn, lost);
    }

    /// The connection has ended for a reason that its owner knows. If the pool closed it first, that reason stands.
    pub fn retire(mut self, removal: Removal) {
        self.held.removal = Some(Box::new(removal));
    }
}
