//! Room for the frame that one connection is receiving: counts it before it grows, waits for room, and says when the
//! connection must end for it. Reads no socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::Clock;
use groundskeeper_flow::{FrameCharge, ReceiveBudget, SMALL_FRAME, UNCOUNTED};
use tokio::time::Sleep;

use super::frame::{FrameKind, FrameReader};

/// How long a connection waits for room before others must make some: enough for frames that arrive quickly to be
/// handled.
const PRESS_AFTER: Duration = Duration::from_secs(1);

/// The longest wait for room. Shorter than the peer's own write deadline, so that the peer hears the reason.
const ROOM_DEADLINE: Duration = Duration::from_secs(45);

/// A large frame must bring [`SLOWEST`] bytes in this time, or end. A path that loses packets recovers sooner.
const WINDOW: Duration = Duration::from_secs(30);

/// 64 KiB in 30 s: an eighth of the lowest `bytes_per_second_per_peer`, so the node's own read limit passes.
const SLOWEST: usize = 64 << 10;

/// The payload of a request or answer, counted against the receive budget while the host holds it.
pub(crate) struct ReceivedPayload {
    pub(crate) bytes: Bytes,
    /// None for small ones.
    pub(crate) charge: Option<FrameCharge>,
}

/// Why a connection ends that receives a large frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum GivenUp {
    #[error("its unfinished frame held {held} bytes for {} s, and others waited for that room", .read_for.as_secs())]
    Costliest { held: usize, read_for: Duration },
    #[error("its frame of {size} bytes came too slowly: {arrived} bytes in {} s, and {SLOWEST} are required", WINDOW.as_secs())]
    Slow { size: usize, arrived: usize },
    #[error("there was no room to receive more from it for {} s", ROOM_DEADLINE.as_secs())]
    NoRoom,
}

/// The state of one connection. While all frames are small it allocates nothing and touches nothing that is shared.
#[derive(Default)]
pub(crate) struct Receiving {
    large: Option<Box<LargeFrame>>,
    /// The last frame was counted, perhaps above the limit: the budget must be looked at before the next read.
    look: bool,
}

struct LargeFrame {
    charge: FrameCharge,
    paused_since: Option<Duration>,
    /// When the current window began, and how much of the frame had arrived then.
    window: (Duration, usize),
    /// The next time to look, in monotonic time.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Receiving {
    /// Ready if the next read, of at most [`UNCOUNTED`] bytes, has room. `expects_answer` says whether a request of this
    /// node is open here.
    #[inline]
    pub(crate) fn poll_room(
        &mut self,
        cx: &Context<'_>,
        reader: &FrameReader,
        budget: &Arc<ReceiveBudget>,
        clock: &dyn Clock,
        expects_answer: impl FnOnce() -> bool,
    ) -> Poll<()> {
        let wanted = reader.held_after(UNCOUNTED).saturating_sub(UNCOUNTED);
        if wanted == 0 && self.large.is_none() && !(self.look && budget.used() > budget.limit()) {
            self.look = false;
            return Poll::Ready(());
        }
        self.poll_large(cx, wanted, reader, budget, clock, expects_answer)
    }

    #[cold]
    fn poll_large(
        &mut self,
        cx: &Context<'_>,
        wanted: usize,
        reader: &FrameReader,
        budget: &Arc<ReceiveBudget>,
        clock: &dyn Clock,
        expects_answer: impl FnOnce() -> bool,
    ) -> Poll<()> {
        if let Some(large) = &self.large
            && large.paused_since.is_none()
            && large.charge.bytes() >= wanted
        {
            return Poll::Ready(());
        }
        let (now, (arrived, _)) = (clock.mono(), reader.progress());
        let large = self.large.get_or_insert_with(|| {
            let asked = reader.kind() == Some(FrameKind::Response) && expects_answer();
            let charge = budget.begin(cx.waker(), now, asked);
            Box::new(LargeFrame { charge, paused_since: None, window: (now, arrived), timer: None })
        });
        if large.charge.poll_grow(wanted, cx.waker(), now).is_pending() {
            large.paused_since.get_or_insert(now);
            return Poll::Pending;
        }
        if large.paused_since.take().is_some() {
            large.window = (now, arrived);
        }
        if wanted == 0 {
            // It waited between two frames.
            *self = Self::default();
        }
        Poll::Ready(())
    }

    /// A frame with a body of `size` bytes is whole. None if it is small.
    #[inline]
    pub(crate) fn finish(&mut self, size: usize, budget: &Arc<ReceiveBudget>) -> Option<FrameCharge> {
        if size <= SMALL_FRAME && self.large.is_none() {
            return None;
        }
        let charge = match self.large.take() {
            Some(large) => large.charge.finish(size),
            None => budget.charge_whole(size),
        };
        self.look |= charge.is_some();
        charge
    }

    /// Whether the connection is not read because there is no room.
    pub(crate) fn is_paused(&self) -> bool {
        self.large.as_ref().is_some_and(|large| large.paused_since.is_some())
    }

    /// Looks at the deadlines of a large frame and wakes the task for the next one. Call it after reading;
    /// `has_more` says that the socket may have more than was read.
    #[inline]
    pub(crate) fn poll_deadlines(
        &mut self,
        cx: &mut Context<'_>,
        reader: &FrameReader,
        has_more: bool,
        clock: &dyn Clock,
    ) -> Result<(), GivenUp> {
        match &mut self.large {
            Some(large) => large.poll_deadlines(cx, reader, has_more, clock.mono()),
            None => Ok(()),
        }
    }
}

impl LargeFrame {
    fn poll_deadlines(
        &mut self,
        cx: &mut Context<'_>,
        reader: &FrameReader,
        has_more: bool,
        now: Duration,
    ) -> Result<(), GivenUp> {
        let (arrived, size) = reader.progress();
        if let Some(read_for) = self.charge.is_given_up(now) {
            return Err(GivenUp::Costliest { held: reader.held(), read_for });
        }
        let next = match self.paused_since {
            Some(since) => {
                let waited = now.saturating_sub(since);
                if waited >= ROOM_DEADLINE {
                    return Err(GivenUp::NoRoom);
                }
                if waited >= PRESS_AFTER {
                    self.charge.press(now);
                }
                now + PRESS_AFTER
            }
            None => {
                let (began, had) = self.window;
                let brought = arrived - had;
                if brought >= SLOWEST {
                    self.window = (now, arrived);
                } else if now.saturating_sub(began) >= WINDOW && !has_more {
                    return Err(GivenUp::Slow { size, arrived: brought });
                }
                // Not in the past, even if the socket has more.
                (self.window.0 + WINDOW).max(now + PRESS_AFTER)
            }
        };
        self.wake_at(cx, next, now);
        Ok(())
    }

    fn wake_at(&mut self, cx: &mut Context<'_>, next: Duration, now: Duration) {
        // An earlier timer stays: it costs one needless look.
        if let Some((at, timer)) = &mut self.timer
            && *at <= next
            && timer.as_mut().poll(cx).is_pending()
        {
            return;
        }
        let mut timer = Box::pin(tokio::time::sleep(next.saturating_sub(now)));
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.timer = Some((next, timer));
    }
}

#[cfg(test)]
mod tests;
