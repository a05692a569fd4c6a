//! What the host's files build on, made of what the checker can see: a lock that is not poisoned, a bounded ring, and a
//! wake-up that is remembered once, as tokio's `Notify` has it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::checker;
pub(super) use super::checker::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Mutex<T>(checker::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(checker::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> checker::MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics under a lock")
    }
}

pub(super) struct ArrayQueue<T> {
    items: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { items: Mutex::new(VecDeque::new()), capacity }
    }

    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.lock();
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.items.lock().pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.items.lock().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Wakes one who waits; if nobody does, the next one who comes.
pub(super) struct Notify(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    remembered: bool,
    /// Who waits, and whether it has been told.
    waiters: Vec<(u64, Waker, bool)>,
    next: u64,
}

impl Notify {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Waiting::default()))
    }

    pub(super) fn notify_one(&self) {
        let mut waiting = self.0.lock();
        let woken = match waiting.waiters.iter_mut().find(|(_, _, told)| !told) {
            Some((_, waker, told)) => {
                *told = true;
                Some(waker.clone())
            }
            None => {
                waiting.remembered = true;
                None
            }
        };
        drop(waiting);
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    pub(super) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, number: None }
    }
}

pub(super) struct Notified<'a> {
    notify: &'a Notify,
    number: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.notify.0.lock();
        let Some(number) = self.number else {
            if std::mem::take(&mut waiting.remembered) {
                return Poll::Ready(());
            }
            waiting.next += 1;
            let number = waiting.next;
            waiting.waiters.push((number, cx.waker().clone(), false));
            drop(waiting);
            self.number = Some(number);
            return Poll::Pending;
        };
        let at = waiting.waiters.iter().position(|(other, ..)| *other == number);
        let at = at.expect("it waits until it is told");
        if waiting.waiters[at].2 {
            waiting.waiters.remove(at);
            return Poll::Ready(());
        }
        waiting.waiters[at].1 = cx.waker().clone();
        Poll::Pending
    }
}
