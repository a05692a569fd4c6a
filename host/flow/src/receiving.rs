//! A byte budget over all large frames that a node is receiving or handling. Reads no socket and ends no connection.
//! Callers pass the current time.
//!
//! It is separate from the budget of the send queues, so that neither direction can starve the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::sync::{Mutex, MutexGuard};

/// Bytes of an unfinished frame that are not counted: as much as one read brings, so that a small frame needs no look
/// at the budget. Bounded by the number of connections.
pub const UNCOUNTED: usize = 16 << 10;

/// Whole frames of up to this many bytes are not counted while they are handled. The number of requests that a
/// connection may have open bounds them.
pub const SMALL_FRAME: usize = 4 << 10;

/// A frame that was read for less than this is never given up: an ordinary link brings a mebibyte in that time.
const GRACE: Duration = Duration::from_secs(2);

/// Time between two looks for frames to give up, each over all unfinished frames.
const PRESS_EVERY: Duration = Duration::from_millis(250);

/// Bounds the bytes of the frames that a node is receiving or handling, over all connections.
///
/// Growing frames may use all of it except the room for one largest frame. That reserve goes to one frame at a time:
/// the one that has waited for longest. So frames that hold a part each and wait for each other all get through. Answers
/// to this node's requests come before everything else, because no crowd of strangers can send them.
pub struct ReceiveBudget {
    /// Changes only under the lock of `frames`.
    used: AtomicUsize,
    limit: AtomicUsize,
    max_frame: usize,
    pauses: AtomicU64,
    given_up: AtomicU64,
    frames: Mutex<UnfinishedFrames>,
}

#[derive(Default)]
struct UnfinishedFrames {
    all: BTreeMap<FrameRank, UnfinishedFrame>,
    /// Those that wait for room, and how many bytes they need.
    paused: BTreeMap<FrameRank, usize>,
    /// The frame that uses the reserve.
    favoured: Option<FrameRank>,
    next: u64,
    last_press: Option<Duration>,
}

/// The order in which frames get room: answers to this node's requests first, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct FrameRank {
    unasked: bool,
    /// Counts up.
    number: u64,
}

struct UnfinishedFrame {
    bytes: usize,
    /// How long it has been read, until `reading_since`. Waits for room do not count.
    read_for: Duration,
    /// None while it waits for room.
    reading_since: Option<Duration>,
    given_up: bool,
    waker: Waker,
}

impl UnfinishedFrame {
    fn read_for(&self, now: Duration) -> Duration {
        let since = self.reading_since.unwrap_or(now);
        self.read_for + now.saturating_sub(since)
    }

    fn may_be_given_up(&self, now: Duration) -> bool {
        self.bytes > 0 && !self.given_up && self.read_for(now) >= GRACE
    }

    /// How much room it has held, times how long.
    fn cost(&self, now: Duration) -> u128 {
        self.bytes as u128 * self.read_for(now).as_millis()
    }
}

impl ReceiveBudget {
    /// A budget of `limit` bytes, but at least of one frame of `max_frame` bytes.
    pub fn new(limit: usize, max_frame: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit.max(max_frame)),
            max_frame,
            pauses: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            frames: Mutex::default(),
        })
    }

    /// Changes the limit. Bytes above a lowered limit stay counted until they are given back.
    pub fn set(&self, limit: usize) {
        let frames = self.frames.lock();
        self.limit.store(limit.max(self.max_frame), Relaxed);
        self.wake_paused(frames);
    }

    /// Bytes that are counted now.
    #[inline]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Bytes up to which unfinished frames may grow.
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// How often a connection had to wait for room, since the start.
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }

    /// Unfinished frames that were given up because of the room they held or needed, since the start.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Relaxed)
    }

    /// Counts a frame that is given up by its connection.
    pub fn count_given_up(&self) {
        self.given_up.fetch_add(1, Relaxed);
    }

    /// Registers a frame that will need room. Nothing is counted yet. `asked`: it answers a request of this node.
    pub fn begin(self: &Arc<Self>, waker: &Waker, now: Duration, asked: bool) -> FrameCharge {
        let mut frames = self.frames.lock();
        let rank = FrameRank { unasked: !asked, number: frames.next };
        frames.next += 1;
        let frame = UnfinishedFrame {
            bytes: 0,
            read_for: Duration::ZERO,
            reading_since: Some(now),
            given_up: false,
            waker: waker.clone(),
        };
        frames.all.insert(rank, frame);
        drop(frames);
        FrameCharge { budget: Arc::clone(self), unfinished: Some(rank), bytes: 0 }
    }

    /// Counts a frame that is in memory as a whole, even above the limit: its connection then waits before it reads
    /// more. None for a small frame.
    #[inline]
    pub fn charge_whole(self: &Arc<Self>, size: usize) -> Option<FrameCharge> {
        (size > SMALL_FRAME).then(|| {
            let frames = self.frames.lock();
            self.used.store(self.used() + size, Relaxed);
            drop(frames);
            FrameCharge { budget: Arc::clone(self), unfinished: None, bytes: size }
        })
    }

    /// What growing frames may use besides the reserve.
    fn shared(&self) -> usize {
        self.limit() - self.max_frame
    }

    /// Wakes the frame that has waited for longest, and those after it for which there is room.
    fn wake_paused(&self, frames: MutexGuard<'_, UnfinishedFrames>) {
        if frames.paused.is_empty() {
            return;
        }
        let mut free = self.shared().saturating_sub(self.used());
        let mut wakers = Vec::new();
        for (at, (rank, &wanted)) in frames.paused.iter().enumerate() {
            if at > 0 && wanted > free {
                break;
            }
            free = free.saturating_sub(wanted);
            wakers.push(frames.all[rank].waker.clone());
        }
        // A waker may run anything, so the lock is not held.
        drop(frames);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl UnfinishedFrames {
    fn may_use_reserve(&self, rank: FrameRank) -> bool {
        match self.favoured {
            Some(favoured) => favoured == rank,
            None => self.paused.first_key_value().is_none_or(|(&first, _)| first >= rank),
        }
    }

    /// Whether an answer waits and this frame is none.
    fn must_yield(&self, rank: FrameRank) -> bool {
        rank.unasked && self.paused.first_key_value().is_some_and(|(first, _)| !first.unasked)
    }

    fn pause(&mut self, rank: FrameRank, wanted: usize, now: Duration) -> bool {
        let began = self.paused.insert(rank, wanted).is_none();
        if began && let Some(frame) = self.all.get_mut(&rank) {
            frame.read_for = frame.read_for(now);
            frame.reading_since = None;
        }
        began
    }

    fn resume(&mut self, rank: FrameRank, bytes: usize, now: Duration) {
        self.paused.remove(&rank);
        if let Some(frame) = self.all.get_mut(&rank) {
            frame.bytes = bytes;
            frame.reading_since.get_or_insert(now);
        }
    }

    /// Marks the costliest frames and returns their wakers.
    fn give_up(&mut self, now: Duration) -> Vec<Waker> {
        let needed = self.paused.values().sum::<usize>().max(1);
        let given_up = self.all.values().filter(|frame| frame.given_up);
        let mut coming: usize = given_up.map(|frame| frame.bytes).sum();
        let mut wakers = Vec::new();
        while coming < needed {
            let candidates = self.all.values_mut().filter(|frame| frame.may_be_given_up(now));
            let Some(costliest) = candidates.max_by_key(|frame| frame.cost(now)) else { break };
            costliest.given_up = true;
            coming += costliest.bytes;
            wakers.push(costliest.waker.clone());
        }
        wakers
    }

    fn remove(&mut self, rank: FrameRank) {
        self.all.remove(&rank);
        self.paused.remove(&rank);
        if self.favoured == Some(rank) {
            self.favoured = None;
        }
    }
}

/// What one frame holds of the budget. Gives it back when dropped.
pub struct FrameCharge {
    budget: Arc<ReceiveBudget>,
    /// None once the frame is whole.
    unfinished: Option<FrameRank>,
    bytes: usize,
}

impl FrameCharge {
    /// Bytes that are counted for it.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts up to `bytes` in all, before they are allocated. Pending if there is no room: `waker` is called when
    /// there may be some. With `bytes` of 0, waits until no more than the limit is used.
    pub fn poll_grow(&mut self, bytes: usize, waker: &Waker, now: Duration) -> Poll<()> {
        let Some(rank) = self.unfinished else { return Poll::Ready(()) };
        let budget = &*self.budget;
        let mut frames = budget.frames.lock();
        let more = bytes.saturating_sub(self.bytes);
        let used = budget.used().saturating_add(more);
        let fits = match more {
            0 => used <= budget.limit(),
            _ => used <= budget.shared() && !frames.must_yield(rank),
        };
        let from_reserve = !fits && used <= budget.limit() && frames.may_use_reserve(rank);
        if !fits && !from_reserve {
            if let Some(frame) = frames.all.get_mut(&rank) {
                frame.waker.clone_from(waker);
            }
            if frames.pause(rank, more, now) {
                budget.pauses.fetch_add(1, Relaxed);
            }
            return Poll::Pending;
        }
        if from_reserve {
            frames.favoured = Some(rank);
        }
        self.bytes += more;
        budget.used.store(used, Relaxed);
        frames.resume(rank, self.bytes, now);
        Poll::Ready(())
    }

    /// The frame is whole and has `size` bytes. None for a small one.
    pub fn finish(mut self, size: usize) -> Option<Self> {
        let rank = self.unfinished.take()?;
        let size = if size > SMALL_FRAME { size } else { 0 };
        let mut frames = self.budget.frames.lock();
        frames.remove(rank);
        self.budget.used.store(self.budget.used() - self.bytes + size, Relaxed);
        self.bytes = size;
        self.budget.wake_paused(frames);
        (size > 0).then_some(self)
    }

    /// Says that this frame has waited for too long. Gives up those that held most for longest, until as much room is
    /// about to be given back as all waiting frames need, and calls their wakers. Spares frames that were read for less
    /// than 2 s.
    pub fn press(&self, now: Duration) {
        let mut frames = self.budget.frames.lock();
        if frames.last_press.is_some_and(|last| now.saturating_sub(last) < PRESS_EVERY) {
            return;
        }
        frames.last_press = Some(now);
        let wakers = frames.give_up(now);
        drop(frames);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether another frame needs its room: its connection must end. For how long it was read.
    pub fn is_given_up(&self, now: Duration) -> Option<Duration> {
        let frames = self.budget.frames.lock();
        let frame = frames.all.get(&self.unfinished?)?;
        frame.given_up.then(|| frame.read_for(now))
    }
}

impl Drop for FrameCharge {
    fn drop(&mut self) {
        let mut frames = self.budget.frames.lock();
        if let Some(rank) = self.unfinished {
            frames.remove(rank);
        }
        self.budget.used.store(self.budget.used() - self.bytes, Relaxed);
        self.budget.wake_paused(frames);
    }
}

#[cfg(test)]
mod tests;
