//! The read limit of one peer: bytes per second, with bursts of one second's worth. The rest stays at the sender
//! through TCP flow control. Uses one one-shot timer, and only while a peer is held back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use groundskeeper_base::clock::{Clock, CoarseInstant};
use tokio::time::Sleep;

/// The unit of the coarse clock, which does not move within a shorter wait.
const NAP: Duration = Duration::from_millis(125);

pub(crate) struct ReadAllowance {
    per_second: i64,
    left: i64,
    counted: CoarseInstant,
    nap: Option<Pin<Box<Sleep>>>,
}

impl ReadAllowance {
    pub(crate) fn new(bytes_per_second: u64, now: CoarseInstant) -> Self {
        // Rates above `i64::MAX` are no limit anyway. Signed numbers can hold a debt.
        let per_second = i64::try_from(bytes_per_second).unwrap_or(i64::MAX).clamp(1024, i64::MAX / 1024);
        Self { per_second, left: per_second, counted: now, nap: None }
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.left -= bytes as i64;
    }

    /// Ready if the peer may be read from.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, clock: &dyn Clock) -> Poll<()> {
        while self.left <= 0 {
            let now = clock.coarse();
            let passed = i64::from(now.0.saturating_sub(self.counted.0)).min(8);
            self.counted = now;
            self.left = (self.left + passed * self.per_second / 8).min(self.per_second);
            if self.left > 0 {
                break;
            }
            let nap = self.nap.get_or_insert_with(|| Box::pin(tokio::time::sleep(NAP)));
            if nap.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.nap = None;
        }
        self.nap = None;
        Poll::Ready(())
    }
}
