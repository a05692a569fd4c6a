//! What waits to be sent over one connection: two lanes, bounded by bytes and by frames. Never grows past its bounds,
//! never waits, and does not know what a frame means.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;

/// Bounds of one connection's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes waiting in the data lane.
    pub data_bytes: usize,
    /// Frames waiting in the data lane.
    pub data_frames: usize,
    /// Frames waiting in the control lane. They are small, so they are counted only.
    pub control_frames: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { data_bytes: 1 << 20, data_frames: 1024, control_frames: 64 }
    }
}

/// Which frames overtake which: all control frames go before any data frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Greetings, pings and goodbyes.
    Control,
    Data,
}

/// Why a frame was not taken. The queue is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotQueued {
    #[error("the connection's send queue is full")]
    Full,
    #[error("the connection has ended")]
    Ended,
}

/// An emptied lane keeps its memory up to this many frames (256 bytes): a connection that sends one frame now and then
/// should not allocate for each, and one that sent a burst should not hold on to it.
const LANE_KEPT: usize = 8;

#[derive(Default)]
struct Lanes {
    control: VecDeque<Bytes>,
    data: VecDeque<Bytes>,
    /// Bytes in both lanes.
    bytes: usize,
    /// Of these, in the data lane.
    data_bytes: usize,
    ended: bool,
    waker: Option<Waker>,
    /// Whether a push wakes the sender. Not while it waits for the socket: it will look by itself.
    wake_on_push: bool,
}

/// One connection's send queue: pushed to by anybody, emptied by the one task that owns the connection.
pub struct Outbox {
    limits: OutboxLimits,
    lanes: Mutex<Lanes>,
}

impl Outbox {
    /// Allocates nothing before the first push.
    pub fn new(limits: OutboxLimits) -> Self {
        Self { limits, lanes: Mutex::default() }
    }

    /// Puts `frame` at the end of `lane` and wakes the sender if it sleeps. O(1).
    ///
    /// # Errors
    /// [`NotQueued`]; nothing has changed.
    pub fn push(&self, lane: Lane, frame: Bytes) -> Result<(), NotQueued> {
        let mut lanes = self.lanes.lock();
        if lanes.ended {
            return Err(NotQueued::Ended);
        }
        let size = frame.len();
        match lane {
            Lane::Control if lanes.control.len() >= self.limits.control_frames => {
                return Err(NotQueued::Full);
            }
            Lane::Control => lanes.control.push_back(frame),
            Lane::Data => {
                if lanes.data.len() >= self.limits.data_frames
                    || lanes.data_bytes + size > self.limits.data_bytes
                {
                    return Err(NotQueued::Full);
                }
                lanes.data_bytes += size;
                lanes.data.push_back(frame);
            }
        }
        lanes.bytes += size;
        let woken = if lanes.wake_on_push { lanes.waker.take() } else { None };
        drop(lanes);
        if let Some(waker) = woken {
            waker.wake();
        }
        Ok(())
    }

    /// Wakes the sender for something that is not a frame.
    pub fn nudge(&self) {
        let woken = self.lanes.lock().waker.take();
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Moves frames to `batch` until it holds `frames` of them or `bytes` bytes, control lane first.
    ///
    /// If there is none, the next push or nudge wakes `waker`. True if `batch` has grown.
    pub fn take(&self, batch: &mut VecDeque<Bytes>, frames: usize, bytes: usize, waker: &Waker) -> bool {
        let mut lanes = self.lanes.lock();
        let before = batch.len();
        let mut taken = 0;
        while batch.len() < frames && taken < bytes {
            let frame = match lanes.control.pop_front() {
                Some(frame) => frame,
                None => match lanes.data.pop_front() {
                    Some(frame) => {
                        lanes.data_bytes -= frame.len();
                        frame
                    }
                    None => break,
                },
            };
            taken += frame.len();
            batch.push_back(frame);
        }
        lanes.bytes -= taken;
        if lanes.control.is_empty() && lanes.control.capacity() > LANE_KEPT {
            lanes.control = VecDeque::new();
        }
        if lanes.data.is_empty() && lanes.data.capacity() > LANE_KEPT {
            lanes.data = VecDeque::new();
        }
        let grown = batch.len() > before;
        if !grown {
            lanes.register(waker, true);
        }
        grown
    }

    /// The sender waits for its socket: only a nudge wakes it, pushes do not.
    pub fn wait_for_nudge(&self, waker: &Waker) {
        self.lanes.lock().register(waker, false);
    }

    /// Nothing is taken from now on. Data is dropped; the control frames that wait are given back.
    pub fn end(&self) -> VecDeque<Bytes> {
        let mut lanes = self.lanes.lock();
        lanes.ended = true;
        lanes.data = VecDeque::new();
        lanes.bytes = 0;
        lanes.data_bytes = 0;
        std::mem::take(&mut lanes.control)
    }

    /// Bytes that wait, in units of 1024, rounded up.
    pub fn kib_queued(&self) -> u32 {
        self.lanes.lock().bytes.div_ceil(1024).try_into().unwrap_or(u32::MAX)
    }
}

impl Lanes {
    fn register(&mut self, waker: &Waker, wake_on_push: bool) {
        self.wake_on_push = wake_on_push;
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn frame(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    fn small() -> Outbox {
        Outbox::new(OutboxLimits { data_bytes: 100, data_frames: 3, control_frames: 2 })
    }

    #[test]
    fn full_is_an_answer_and_control_overtakes_data() {
        let outbox = small();
        assert_eq!(outbox.push(Lane::Data, frame(101)), Err(NotQueued::Full));
        outbox.push(Lane::Data, frame(60)).unwrap();
        assert_eq!(outbox.push(Lane::Data, frame(41)), Err(NotQueued::Full));
        outbox.push(Lane::Data, frame(40)).unwrap();
        outbox.push(Lane::Control, frame(1)).unwrap();
        outbox.push(Lane::Control, frame(2)).unwrap();
        assert_eq!(outbox.push(Lane::Control, frame(3)), Err(NotQueued::Full));
        assert_eq!(outbox.kib_queued(), 1);
        let mut batch = VecDeque::new();
        assert!(outbox.take(&mut batch, 16, 1000, Waker::noop()));
        assert_eq!(batch.iter().map(Bytes::len).collect::<Vec<_>>(), [1, 2, 60, 40]);
        assert_eq!(outbox.kib_queued(), 0);
        outbox.push(Lane::Data, frame(100)).unwrap();
    }

    #[test]
    fn a_burst_wakes_once_and_a_waiting_sender_only_by_a_nudge() {
        let (outbox, count) = (small(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut batch = VecDeque::new();
        assert!(!outbox.take(&mut batch, 16, 1000, &waker));
        (0..3).for_each(|_| outbox.push(Lane::Data, frame(1)).unwrap());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        outbox.wait_for_nudge(&waker);
        outbox.push(Lane::Control, frame(1)).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        outbox.nudge();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_end_drops_data_and_returns_control() {
        let outbox = small();
        outbox.push(Lane::Data, frame(9)).unwrap();
        outbox.push(Lane::Control, frame(1)).unwrap();
        assert_eq!(outbox.end().len(), 1);
        assert_eq!(outbox.push(Lane::Control, frame(1)), Err(NotQueued::Ended));
        assert_eq!(outbox.kib_queued(), 0);
    }

    proptest! {
        #[test]
        fn never_past_its_bounds_and_nothing_is_lost(
            steps in prop::collection::vec((any::<bool>(), 0_usize..60, 0_usize..4), 1..200)
        ) {
            let outbox = small();
            let (mut taken, mut pushed) = (0, 0);
            for (control, size, take) in steps {
                let lane = if control { Lane::Control } else { Lane::Data };
                pushed += usize::from(outbox.push(lane, frame(size)).is_ok());
                let mut batch = VecDeque::new();
                outbox.take(&mut batch, take, usize::MAX, Waker::noop());
                taken += batch.len();
                let lanes = outbox.lanes.lock();
                prop_assert!(lanes.data_bytes <= 100 && lanes.data.len() <= 3 && lanes.control.len() <= 2);
                let sum: usize = lanes.control.iter().chain(&lanes.data).map(Bytes::len).sum();
                prop_assert_eq!(sum, lanes.bytes);
                prop_assert_eq!(pushed, taken + lanes.control.len() + lanes.data.len());
            }
        }
    }
}
