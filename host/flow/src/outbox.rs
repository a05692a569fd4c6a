//! The send queue of one connection: four lanes, bounded by bytes and by frames. Does not know what a frame means.

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
    /// Bytes that may wait in all lanes except control. Requests may fill all of it, broadcasts 7/8, bulk 3/4.
    pub data_bytes: usize,
    /// Frames that may wait in all lanes except control, shared in the same way.
    pub data_frames: usize,
    /// Frames that may wait in the control lane. They are small, so their bytes are not bounded.
    pub control_frames: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { data_bytes: 4 << 20, data_frames: 1024, control_frames: 64 }
    }
}

/// Which frames overtake which.
///
/// Each lane may send a fixed number of bytes per round. The most urgent lane with bytes left goes first, so a flood in
/// one lane slows the lanes below it but never stops them (deficit round robin, Shreedhar and Varghese 1995).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Priority {
    /// The host's own frames: hellos, pings and goodbyes.
    Control,
    /// Requests and their answers.
    Request,
    /// Broadcasts of this node, and those that it passes on.
    Broadcast,
    /// Large transfers, which can wait.
    Bulk,
}

impl Priority {
    /// Length of an array with one entry per priority.
    pub const COUNT: usize = 4;
    /// Every priority, most urgent first. The index is `priority as usize`.
    pub const ALL: [Self; Self::COUNT] = [Self::Control, Self::Request, Self::Broadcast, Self::Bulk];

    /// The name in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Request => "request",
            Self::Broadcast => "broadcast",
            Self::Bulk => "bulk",
        }
    }

    /// Bytes per round: 8 : 8 : 4 : 1. Control frames are too few and too small to use all of theirs.
    fn quantum(self) -> i64 {
        match self {
            Self::Control | Self::Request => 32 << 10,
            Self::Broadcast => 16 << 10,
            Self::Bulk => 4 << 10,
        }
    }

    /// The part of `bound` that all lanes together may fill when a frame is added to this one.
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

/// A frame to send.
#[derive(Clone, Debug)]
pub struct QueuedFrame {
    /// The whole frame as it is written: length, kind, body.
    pub frame: Bytes,
    /// Monotonic time after which it is not worth sending.
    pub expires: Option<Duration>,
    /// The sender's number for the frame; [`Outbox::shed`] returns it if the frame is dropped.
    pub tag: Option<u64>,
}

impl From<Bytes> for QueuedFrame {
    fn from(frame: Bytes) -> Self {
        Self { frame, expires: None, tag: None }
    }
}

/// Why a frame was not queued. The queue is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotQueued {
    /// No room for a frame of this priority now.
    #[error("the connection's send queue is full")]
    Full,
    /// The connection has ended.
    #[error("the connection has ended")]
    Ended,
}

/// An empty lane keeps memory for at most this many frames (512 bytes): a connection that sends a frame now and then
/// does not allocate for each, and one that sent a burst returns its memory.
const LANE_KEPT: usize = 8;

/// What one [`Outbox::take`] moved and skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TakenFrames {
    /// Frames moved, by priority.
    pub frames: [u32; Priority::COUNT],
    /// Frames skipped because they had expired.
    pub expired: u32,
}

impl TakenFrames {
    /// Whether no frame was moved. Expired frames do not count.
    pub fn is_empty(&self) -> bool {
        self.frames == [0; Priority::COUNT]
    }
}

#[derive(Default)]
struct Lane {
    parcels: VecDeque<QueuedFrame>,
    /// Bytes that it may still send in this round. Negative after a frame larger than the rest.
    credit: i64,
}

#[derive(Default)]
struct Lanes {
    lanes: [Lane; Priority::COUNT],
    /// Bytes in all lanes.
    bytes: usize,
    /// Bytes in all lanes except control.
    data_bytes: usize,
    data_frames: usize,
    /// Frames that can expire.
    expiring: usize,
    ended: bool,
    waker: Option<Waker>,
    /// Whether a push wakes the sender. False while it waits for the socket: it looks at the queue afterwards.
    wake_on_push: bool,
    /// The tasks that wait for room, by number.
    waiting: Vec<(u64, Waker)>,
    next_waiting: u64,
    /// Incremented each time room is made.
    made_room: u64,
}

/// One connection's send queue. Any task pushes; only the task that owns the connection takes.
pub struct Outbox {
    limits: OutboxLimits,
    lanes: Mutex<Lanes>,
}

impl Outbox {
    /// An empty queue. Allocates nothing before the first push.
    pub fn new(limits: OutboxLimits) -> Self {
        Self { limits, lanes: Mutex::new(Lanes::default()) }
    }

    /// Puts `parcel` at the end of its lane and wakes the sender if it sleeps. O(1).
    ///
    /// # Errors
    /// [`NotQueued`]; nothing has changed.
    pub fn push(&self, priority: Priority, parcel: impl Into<QueuedFrame>) -> Result<(), NotQueued> {
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

    /// Waits until frames have left the queue. Create it before the push that may find the queue full.
    pub fn room(&self) -> QueueRoom<'_> {
        QueueRoom { outbox: self, seen: self.lanes.lock().made_room, number: None }
    }

    /// Wakes the sender for something other than a frame.
    pub fn nudge(&self) {
        let woken = self.lanes.lock().waker.take();
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Moves frames to `batch`, by priority, until it holds `frames` frames or this call has moved `bytes` bytes.
    /// O(frames taken).
    ///
    /// Calls `now` for the monotonic time if frames can expire. If no frame was moved, the next push or nudge wakes
    /// `waker`.
    #[inline]
    pub fn take(
        &self,
        batch: &mut VecDeque<Bytes>,
        frames: usize,
        bytes: usize,
        now: impl FnOnce() -> Duration,
        waker: &Waker,
    ) -> TakenFrames {
        let mut lanes = self.lanes.lock();
        let now = if lanes.expiring > 0 { now() } else { Duration::ZERO };
        let mut taken = TakenFrames::default();
        let mut size = 0;
        while batch.len() < frames && size < bytes {
            let Some(priority) = lanes.next_lane() else { break };
            let parcel = lanes.remove(priority).expect("the next lane is not empty");
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
        let waiting = if taken == TakenFrames::default() { Vec::new() } else { lanes.make_room() };
        drop(lanes);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        taken
    }

    /// Registers a sender that waits for its socket: a nudge wakes it, a push does not.
    #[inline]
    pub fn wait_for_nudge(&self, waker: &Waker) {
        self.lanes.lock().register(waker, false);
    }

    /// Drops bulk and then broadcast frames, oldest first, until at most `fair` data bytes wait or none of these frames
    /// is left. Returns priority and tag of each dropped frame.
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

    /// Closes the queue: later pushes fail. Drops the data frames and returns the control frames.
    pub fn end(&self) -> VecDeque<Bytes> {
        let mut lanes = self.lanes.lock();
        lanes.ended = true;
        let mut ended = std::mem::take(&mut lanes.lanes);
        lanes.bytes = 0;
        lanes.data_bytes = 0;
        lanes.data_frames = 0;
        lanes.expiring = 0;
        let waiting = lanes.make_room();
        drop(lanes);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        std::mem::take(&mut ended[Priority::Control as usize].parcels)
            .into_iter()
            .map(|parcel| parcel.frame)
            .collect()
    }

    /// Whether the queue is closed.
    pub fn has_ended(&self) -> bool {
        self.lanes.lock().ended
    }

    /// Waiting bytes in KiB, rounded up.
    pub fn kib_queued(&self) -> u32 {
        self.lanes.lock().bytes.div_ceil(1024).try_into().unwrap_or(u32::MAX)
    }
}

impl Lanes {
    #[inline]
    fn has_room(&self, limits: &OutboxLimits, priority: Priority, size: usize) -> bool {
        if priority == Priority::Control {
            return self.lanes[Priority::Control as usize].parcels.len() < limits.control_frames;
        }
        // A frame larger than its lane's share still goes into an empty queue.
        let bytes =
            if self.data_frames == 0 { limits.data_bytes } else { priority.share_of(limits.data_bytes) };
        self.data_bytes + size <= bytes && self.data_frames < priority.share_of(limits.data_frames).max(1)
    }

    #[inline]
    fn add(&mut self, priority: Priority, parcel: QueuedFrame) {
        let size = parcel.frame.len();
        self.bytes += size;
        if priority != Priority::Control {
            self.data_bytes += size;
            self.data_frames += 1;
        }
        self.expiring += usize::from(parcel.expires.is_some());
        self.lanes[priority as usize].parcels.push_back(parcel);
    }

    fn remove(&mut self, priority: Priority) -> Option<QueuedFrame> {
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

    /// The most urgent lane with frames and credit. If none has credit, begins the rounds that one needs to get some.
    fn next_lane(&mut self) -> Option<Priority> {
        if let Some(priority) = self.ready_lane() {
            return Some(priority);
        }
        let rounds = Priority::ALL
            .into_iter()
            .filter(|&at| !self.lanes[at as usize].parcels.is_empty())
            // At least 1, since no waiting lane has credit.
            .map(|at| (at.quantum() - self.lanes[at as usize].credit) / at.quantum())
            .min()?;
        for at in Priority::ALL {
            let lane = &mut self.lanes[at as usize];
            lane.credit = (lane.credit + rounds * at.quantum()).min(at.quantum());
        }
        self.ready_lane()
    }

    #[inline]
    fn ready_lane(&self) -> Option<Priority> {
        Priority::ALL.into_iter().find(|&at| {
            let lane = &self.lanes[at as usize];
            !lane.parcels.is_empty() && lane.credit > 0
        })
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

/// Resolves when frames have left the queue or the queue is closed.
pub struct QueueRoom<'a> {
    outbox: &'a Outbox,
    seen: u64,
    number: Option<u64>,
}

impl Future for QueueRoom<'_> {
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

impl Drop for QueueRoom<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.outbox.lanes.lock().waiting.retain(|(other, _)| *other != number);
        }
    }
}
