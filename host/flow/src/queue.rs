//! A bounded queue between many who ask and many who work. No lock on either side; whoever works takes what is there and
//! sleeps only when there is nothing.

use super::sync::{ArrayQueue, Notify};

/// Items in order, at most so many.
///
/// The ring is crossbeam's. A push wakes one sleeping worker; a worker that leaves items behind wakes the next one, so a
/// burst wakes as many as it has work for, and a worker that is busy anyway is not woken at all.
pub struct RequestQueue<T> {
    items: ArrayQueue<T>,
    filled: Notify,
}

impl<T> RequestQueue<T> {
    /// Room for `capacity` items (at least 1), reserved now.
    pub fn new(capacity: usize) -> Self {
        Self { items: ArrayQueue::new(capacity.max(1)), filled: Notify::new() }
    }

    /// Puts `item` at the end. Tens of nanoseconds; waits for nobody.
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

    /// Takes the oldest item; sleeps while there is none. Dropping the future loses nothing.
    pub async fn pop(&self) -> T {
        loop {
            if let Some(item) = self.items.pop() {
                self.pass_on();
                return item;
            }
            self.filled.notified().await;
        }
    }

    /// Moves at most `most` items to `batch`, at least one; sleeps while there is none. Dropping the future loses nothing.
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

    /// Wake-ups are not counted one for one: who has been woken by several pushes sees to it that what it leaves is seen.
    fn pass_on(&self) {
        if !self.items.is_empty() {
            self.filled.notify_one();
        }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }
}
