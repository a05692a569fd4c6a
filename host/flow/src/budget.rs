//! A byte budget over all send queues of a node. As it fills, it refuses new frames of low priority first; it drops no
//! queued frame.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Priority;

/// Denominator of the threshold: the config's fraction is stored in thousandths.
const WHOLE: usize = 1000;

/// The budget has no room for a frame of this priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("all send queues together hold {used} of {limit} bytes: no room for {priority} frames")]
pub struct Pressure {
    /// Priority of the refused frame.
    pub priority: Priority,
    /// Bytes.
    pub used: usize,
    /// Bytes.
    pub limit: usize,
}

/// Bounds the bytes that wait to be sent, over all connections.
///
/// A frame is charged once, even if several queues share it, until the last queue drops it. Lower priorities may fill
/// less: with a threshold of 0.9, bulk frames are refused from 90 % on, broadcasts from 95 %, and requests at 100 %.
/// Control frames are always accepted: each queue bounds their number.
pub struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
    /// Thousandths of `limit`.
    threshold: AtomicUsize,
    refused: [AtomicU64; Priority::COUNT],
    waiting: AtomicUsize,
    room: Notify,
}

impl Budget {
    /// A budget of `limit` bytes. Low priorities are refused above the fraction `threshold` of it.
    pub fn new(limit: usize, threshold: f64) -> Arc<Self> {
        let budget = Self {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            threshold: AtomicUsize::new(WHOLE),
            refused: Default::default(),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
        };
        budget.set(limit, threshold);
        Arc::new(budget)
    }

    /// Changes the bounds. Frames above a lowered limit stay until they are sent.
    pub fn set(&self, limit: usize, threshold: f64) {
        self.limit.store(limit, Relaxed);
        self.threshold.store((threshold.clamp(0.0, 1.0) * WHOLE as f64) as usize, Relaxed);
        self.room.notify_waiters();
    }

    /// Bytes that wait to be sent now.
    #[inline]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Bytes that may wait to be sent, as last set by [`Budget::set`].
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Frames refused since the start.
    pub fn refused(&self, priority: Priority) -> u64 {
        self.refused[priority as usize].load(Relaxed)
    }

    /// Whether bulk frames are refused now.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.used() >= self.bound(Priority::Bulk)
    }

    fn bound(&self, priority: Priority) -> usize {
        let limit = self.limit();
        let pressed = limit / WHOLE * self.threshold.load(Relaxed);
        match priority {
            Priority::Control => usize::MAX,
            Priority::Request => limit,
            Priority::Broadcast => pressed + (limit - pressed) / 2,
            Priority::Bulk => pressed,
        }
    }

    /// Counts `frame` until the last clone of the result is dropped. One allocation of 40 bytes.
    ///
    /// # Errors
    /// [`Pressure`] if there is no room: the refusal is counted, the frame dropped.
    #[inline]
    pub fn charge(self: &Arc<Self>, priority: Priority, frame: Bytes) -> Result<Bytes, Pressure> {
        let size = frame.len();
        let used = self.used.fetch_add(size, Relaxed);
        if used.saturating_add(size) > self.bound(priority) {
            self.give_back(size);
            self.refused[priority as usize].fetch_add(1, Relaxed);
            return Err(Pressure { priority, used, limit: self.limit() });
        }
        Ok(Bytes::from_owner(ChargedFrame { frame, budget: Arc::clone(self) }))
    }

    /// Waits until there may be room for `size` bytes. Another caller may take it first, so call [`Budget::charge`]
    /// again.
    pub async fn room(&self, priority: Priority, size: usize) {
        // The order matters. This side announces itself, then looks for room; `give_back` frees bytes, then looks for
        // waiters. So at least one side sees the other.
        self.waiting.fetch_add(1, SeqCst);
        let _leaving = WaiterGuard(&self.waiting);
        let mut given_back = pin!(self.room.notified());
        given_back.as_mut().enable();
        if self.used.load(SeqCst).saturating_add(size) > self.bound(priority) {
            given_back.await;
        }
    }

    fn give_back(&self, size: usize) {
        self.used.fetch_sub(size, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }
}

struct WaiterGuard<'a>(&'a AtomicUsize);

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The owner of a charged frame's bytes. They are counted until it is dropped.
struct ChargedFrame {
    frame: Bytes,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for ChargedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for ChargedFrame {
    fn drop(&mut self) {
        self.budget.give_back(self.frame.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    #[test]
    fn lower_priorities_are_refused_first() {
        let budget = Budget::new(1000, 0.8);
        let held = budget.charge(Priority::Request, frame(800)).unwrap();
        assert!(budget.is_pressed());
        let refused = budget.charge(Priority::Bulk, frame(1)).unwrap_err();
        assert_eq!(refused, Pressure { priority: Priority::Bulk, used: 800, limit: 1000 });
        let broadcast = budget.charge(Priority::Broadcast, frame(100)).unwrap();
        assert!(budget.charge(Priority::Broadcast, frame(1)).is_err());
        let request = budget.charge(Priority::Request, frame(100)).unwrap();
        assert!(budget.charge(Priority::Request, frame(1)).is_err());
        budget.charge(Priority::Control, frame(50)).unwrap();
        let refused = [Priority::Control, Priority::Request, Priority::Broadcast, Priority::Bulk];
        assert_eq!(refused.map(|priority| budget.refused(priority)), [0, 1, 1, 1]);
        drop((held, broadcast, request));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_shared_frame_is_counted_once_and_until_its_last_byte_is_gone() {
        let budget = Budget::new(1000, 0.9);
        let one = budget.charge(Priority::Broadcast, frame(100)).unwrap();
        let mut others: Vec<Bytes> = (0..50).map(|_| one.clone()).collect();
        let part = one.slice(40..60);
        drop(one);
        others.clear();
        assert_eq!(budget.used(), 100);
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_is_woken_when_there_is_room() {
        let budget = Budget::new(100, 1.0);
        let held = budget.charge(Priority::Request, frame(100)).unwrap();
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move {
                loop {
                    match budget.charge(Priority::Request, frame(60)) {
                        Ok(frame) => return frame.len(),
                        Err(_) => budget.room(Priority::Request, 60).await,
                    }
                }
            }
        });
        while budget.waiting.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert_eq!(waiting.await.unwrap(), 60);
        assert_eq!((budget.used(), budget.waiting.load(Relaxed)), (0, 0));
    }
}
