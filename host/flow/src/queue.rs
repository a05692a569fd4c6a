//! A bounded queue with many producers and many workers. Neither side takes a lock; a worker sleeps only while the
//! queue is empty.

use super::sync::{ArrayQueue, Notify};

/// Items in order, up to a fixed number.
///
/// The ring is crossbeam's. A push wakes one sleeping worker; a worker that leaves items behind wakes the next one. So
/// a burst wakes as many workers as it has work for, and a busy worker is never woken.
pub struct RequestQueue<T> {
    items: ArrayQueue<T>,
    filled: Notify,
}

impl<T> RequestQueue<T> {
    /// A queue for `capacity` items (at least 1). Allocates all of its memory now.
    pub fn new(capacity: usize) -> Self {
        Self { items: ArrayQueue::new(capacity.max(1)), filled: Notify::new() }
    }

    /// Puts `item` at the end. Takes tens of nanoseconds and never waits.
    ///
    /// # Errors
    /// The item, if the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.items.push(item)?;
        self.filled.notify_one();
        Ok(())
    }

    /// Takes the oldest item, if there is one.
    pub fn try_pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// Takes the oldest item; sleeps while there is none. Dropping the future loses no item.
    pub async fn pop(&self) -> T {
        loop {
            if let Some(item) = self.items.pop() {
                self.pass_on();
                return item;
            }
            self.filled.notified().await;
        }
    }

    /// Moves 1 to `most` items to `batch`; sleeps while there is none. Dropping the future loses no item.
    pub async fn drain(&self, batch: &mut Vec<T>, most: usize) {
        loop {
            let before = batch.len();
            batch.extend(std::iter::from_fn(|| self.items.pop()).take(most.max(1)));
            if batch.len() > before {
                self.pass_on();
                return;
            }
            self.filled.notified().await;
        }
    }

    /// Several pushes may cause only one wake-up, so a worker that leaves items behind must wake the next one.
    fn pass_on(&self) {
        if !self.items.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Items that wait now. May be out of date at once if other threads push or pop.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no item waits now; as inexact as [`RequestQueue::len`].
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items that fit. Fixed by [`RequestQueue::new`].
    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }
}
