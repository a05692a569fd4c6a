//! What waits to be sent over one connection: four lanes, bounded by bytes and by frames. Never grows past its bounds,
//! and does not know what a frame means.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::sync::Mutex;

/// Bounds of one connection's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes waiting in all lanes but control. Requests may fill all of it, broadcasts seven eighths, bulk three quarters.
    pub data_bytes: usize,
    /// Frames waiting in all lanes but control, shared in the same way.
    pub data_frames: usize,
    /// Frames waiting in the control lane. They are small, so they are counted only.
    pub control_frames: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { data_bytes: 4 << 20, data_frames: 1024, control_frames: 64 }
    }
}

/// Which frames overtake which.
///
/// Each lane has so many bytes of each round, and the most urgent lane that has some left goes first: a flood in one of
/// them slows the lanes below it and never stops them (deficit round robin, Shreedhar and Varghese 1995).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Priority {
    /// Greetings, pings and goodbyes: the host's own.
    Control,
    /// Requests and their answers.
    Request,
    Broadcast,
    /// What can wait: large transfers.
    Bulk,
}

impl Priority {
    pub const COUNT: usize = 4;
    pub const ALL: [Self; Self::COUNT] = [Self::Control, Self::Request, Self::Broadcast, Self::Bulk];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Request => "request",
            Self::Broadcast => "broadcast",
            Self::Bulk => "bulk",
        }
    }

    /// Bytes of each round: 8 : 8 : 4 : 1. Control frames are too few and too small to use theirs up.
    fn quantum(self) -> i64 {
        match self {
            Self::Control | Self::Request => 32 << 10,
            Self::Broadcast => 16 << 10,
            Self::Bulk => 4 << 10,
        }
    }

    /// The part of a bound that the lanes together may have filled when this one adds to it.
    fn share_of(self, bound: usize) -> usize {
        match self {
            Self::Control | Self::Request => bound,
            Self::Broadcast => bound - bound / 8,
            Self::Bulk => bound - bound / 4,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A frame to be sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub frame: Bytes,
    /// Monotonic time after which it is not worth sending.
    pub expires: Option<Duration>,
    /// What its sender knows it by, to be told if it is dropped.
    pub tag: Option<u64>,
}

impl From<Bytes> for Parcel {
    fn from(frame: Bytes) -> Self {
        Self { frame, expires: None, tag: None }
    }
}

/// Why a frame was not taken. The queue is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotQueued {
    #[error("the connection's send queue is full")]
    Full,
    #[error("the connection has ended")]
    Ended,
}

/// An emptied lane keeps its memory up to this many frames (512 bytes): a connection that sends one frame now and then
/// should not allocate for each, and one that sent a burst should not hold on to it.
const LANE_KEPT: usize = 8;

/// What one take gave, and what it left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Frames, by priority.
    pub frames: [u32; Priority::COUNT],
    /// Frames that came too late to be worth sending.
    pub expired: u32,
}

impl Taken {
    pub fn is_empty(&self) -> bool {
        self.frames == [0; Priority::COUNT]
    }
}

#[derive(Default)]
struct Lane {
    parcels: VecDeque<Parcel>,
    /// Bytes that it may still send in this round; below zero after a frame that was larger.
    credit: i64,
}

#[derive(Default)]
struct Lanes {
    lanes: [Lane; Priority::COUNT],
    /// Bytes in all lanes.
    bytes: usize,
    /// Of these, in all but control.
    data_bytes: usize,
    data_frames: usize,
    /// Frames with an end to their worth.
    expiring: usize,
    ended: bool,
    waker: Option<Waker>,
    /// Whether a push wakes the sender. Not while it waits for the socket: it will look by itself.
    wake_on_push: bool,
    /// Who waits for room, by number.
    waiting: Vec<(u64, Waker)>,
    next_waiting: u64,
    /// Counts how often room was made.
    made_room: u64,
}

/// One connection's send queue: pushed to by anybody, emptied by the one task that owns the connection.
pub struct Outbox {
    limits: OutboxLimits,
    lanes: Mutex<Lanes>,
}

impl Outbox {
    /// Allocates nothing before the first push.
    pub fn new(limits: OutboxLimits) -> Self {
        Self { limits, lanes: Mutex::new(Lanes::default()) }
    }

    /// Puts `parcel` at the end of its lane and wakes the sender if it sleeps. O(1).
    ///
    /// # Errors
    /// [`NotQueued`]; nothing has changed.
    pub fn push(&self, priority: Priority, parcel: impl Into<Parcel>) -> Result<(), NotQueued> {
        let parcel = parcel.into();
        let mut lanes = self.lanes.lock();
        if lanes.ended {
            return Err(NotQueued::Ended);
        }
        if !lanes.has_room(&self.limits, priority, parcel.frame.len()) {
            return Err(NotQueued::Full);
        }
        lanes.add(priority, parcel);
        let woken = if lanes.wake_on_push { lanes.waker.take() } else { None };
        drop(lanes);
        if let Some(waker) = woken {
            waker.wake();
        }
        Ok(())
    }

    /// Waits until frames have left the queue. Ask for it before the push that may find the queue full.
    pub fn room(&self) -> Room<'_> {
        Room { outbox: self, seen: self.lanes.lock().made_room, number: None }
    }

    /// Wakes the sender for something that is not a frame.
    pub fn nudge(&self) {
        let woken = self.lanes.lock().waker.take();
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Moves frames to `batch` until it holds `frames` of them or `bytes` bytes, by priority. O(frames taken).
    ///
    /// `now` is asked for the monotonic time if there are frames that expire. If nothing is left to take, the next push or
    /// nudge wakes `waker`.
    pub fn take(
        &self,
        batch: &mut VecDeque<Bytes>,
        frames: usize,
        bytes: usize,
        now: impl FnOnce() -> Duration,
        waker: &Waker,
    ) -> Taken {
        let mut lanes = self.lanes.lock();
        let now = if lanes.expiring > 0 { now() } else { Duration::ZERO };
        let mut taken = Taken::default();
        let mut size = 0;
        while batch.len() < frames && size < bytes {
            let Some(priority) = lanes.next_lane() else { break };
            let parcel = lanes.remove(priority).expect("the lane that is next is not empty");
            if parcel.expires.is_some_and(|end| end < now) {
                taken.expired += 1;
                continue;
            }
            lanes.lanes[priority as usize].credit -= parcel.frame.len() as i64;
            size += parcel.frame.len();
            taken.frames[priority as usize] += 1;
            batch.push_back(parcel.frame);
        }
        lanes.trim();
        if taken.is_empty() {
            lanes.register(waker, true);
        }
        let waiting = if taken == Taken::default() { Vec::new() } else { lanes.make_room() };
        drop(lanes);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        taken
    }

    /// The sender waits for its socket: only a nudge wakes it, pushes do not.
    pub fn wait_for_nudge(&self, waker: &Waker) {
        self.lanes.lock().register(waker, false);
    }

    /// Drops bulk and then broadcast frames, the oldest first, until at most `fair` bytes wait or none of these are left.
    /// What was dropped, for those who sent it.
    pub fn shed(&self, fair: usize) -> Vec<(Priority, Option<u64>)> {
        let mut dropped = Vec::new();
        let mut shed = Vec::new();
        let mut lanes = self.lanes.lock();
        for priority in [Priority::Bulk, Priority::Broadcast] {
            while lanes.data_bytes > fair
                && let Some(parcel) = lanes.remove(priority)
            {
                shed.push((priority, parcel.tag));
                dropped.push(parcel.frame);
            }
        }
        let waiting = if shed.is_empty() { Vec::new() } else { lanes.make_room() };
        drop(lanes);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        shed
    }

    /// Nothing is taken from now on. Data is dropped; the control frames that wait are given back.
    pub fn end(&self) -> VecDeque<Bytes> {
        let mut lanes = self.lanes.lock();
        lanes.ended = true;
        let mut ended = std::mem::take(&mut lanes.lanes);
        (lanes.bytes, lanes.data_bytes, lanes.data_frames, lanes.expiring) = (0, 0, 0, 0);
        let waiting = lanes.make_room();
        drop(lanes);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        std::mem::take(&mut ended[Priority::Control as usize].parcels)
            .into_iter()
            .map(|parcel| parcel.frame)
            .collect()
    }

    /// Whether nothing is taken any more.
    pub fn has_ended(&self) -> bool {
        self.lanes.lock().ended
    }

    /// Bytes that wait, in units of 1024, rounded up.
    pub fn kib_queued(&self) -> u32 {
        self.lanes.lock().bytes.div_ceil(1024).try_into().unwrap_or(u32::MAX)
    }
}

impl Lanes {
    fn has_room(&self, limits: &OutboxLimits, priority: Priority, size: usize) -> bool {
        if priority == Priority::Control {
            return self.lanes[Priority::Control as usize].parcels.len() < limits.control_frames;
        }
        // A frame for which the share is too small alone still goes through an empty queue.
        let bytes =
            if self.data_frames == 0 { limits.data_bytes } else { priority.share_of(limits.data_bytes) };
        self.data_bytes + size <= bytes && self.data_frames < priority.share_of(limits.data_frames).max(1)
    }

    fn add(&mut self, priority: Priority, parcel: Parcel) {
        let size = parcel.frame.len();
        self.bytes += size;
        if priority != Priority::Control {
            self.data_bytes += size;
            self.data_frames += 1;
        }
        self.expiring += usize::from(parcel.expires.is_some());
        self.lanes[priority as usize].parcels.push_back(parcel);
    }

    fn remove(&mut self, priority: Priority) -> Option<Parcel> {
        let parcel = self.lanes[priority as usize].parcels.pop_front()?;
        let size = parcel.frame.len();
        self.bytes -= size;
        if priority != Priority::Control {
            self.data_bytes -= size;
            self.data_frames -= 1;
        }
        self.expiring -= usize::from(parcel.expires.is_some());
        Some(parcel)
    }

    /// The most urgent lane with frames and credit; if none has credit, new rounds begin until one has.
    fn next_lane(&mut self) -> Option<Priority> {
        let waits = |lane: &Lane| !lane.parcels.is_empty();
        let ready = |lanes: &[Lane; Priority::COUNT]| {
            Priority::ALL.into_iter().find(|&at| waits(&lanes[at as usize]) && lanes[at as usize].credit > 0)
        };
        if let Some(priority) = ready(&self.lanes) {
            return Some(priority);
        }
        let rounds = Priority::ALL
            .into_iter()
            .filter(|&at| waits(&self.lanes[at as usize]))
            // Positive: none of those that wait has credit.
            .map(|at| (at.quantum() - self.lanes[at as usize].credit) / at.quantum())
            .min()?;
        for at in Priority::ALL {
            let lane = &mut self.lanes[at as usize];
            lane.credit = (lane.credit + rounds * at.quantum()).min(at.quantum());
        }
        ready(&self.lanes)
    }

    fn trim(&mut self) {
        for lane in &mut self.lanes {
            if lane.parcels.is_empty() && lane.parcels.capacity() > LANE_KEPT {
                lane.parcels = VecDeque::new();
            }
        }
    }

    fn register(&mut self, waker: &Waker, wake_on_push: bool) {
        self.wake_on_push = wake_on_push;
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn make_room(&mut self) -> Vec<(u64, Waker)> {
        self.made_room += 1;
        std::mem::take(&mut self.waiting)
    }
}

/// Ends when frames have left the queue, or the queue has ended.
pub struct Room<'a> {
    outbox: &'a Outbox,
    seen: u64,
    number: Option<u64>,
}

impl Future for Room<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.get_mut();
        let mut lanes = room.outbox.lanes.lock();
        if lanes.ended || lanes.made_room != room.seen {
            return Poll::Ready(());
        }
        let number = match room.number {
            Some(number) => number,
            None => {
                lanes.next_waiting += 1;
                lanes.next_waiting
            }
        };
        room.number = Some(number);
        lanes.waiting.retain(|(other, _)| *other != number);
        lanes.waiting.push((number, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.outbox.lanes.lock().waiting.retain(|(other, _)| *other != number);
        }
    }
}
