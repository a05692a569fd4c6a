//! What one peer may cost: bytes per second, of which the rest stays at the sender through TCP flow control; and broadcasts
//! and one-way messages by number and by the time that they take, of which the rest is dropped. Bursts of a second's worth
//! pass. Uses one one-shot timer, and only while a peer's bytes are held back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use groundskeeper_base::clock::{Clock, CoarseInstant};
use tokio::time::Sleep;

/// The unit of the coarse clock, which does not move within a shorter wait.
const NAP: Duration = Duration::from_millis(125);

/// The part of one second that broadcasts and messages of one peer may take on the runtime: digests and handlers. A tenth of a
/// core, so that ten such peers cannot take more than one.
const US_PER_SECOND: i64 = 100_000;

/// A handler that takes longer costs no more than this: its peer is heard again after ten seconds.
const MOST_DEBT_US: i64 = 10 * US_PER_SECOND;

/// A peer is ended once it has sent this many seconds' worth more than twice its number. One that stays below twice is never
/// ended: what is too much is only dropped.
const FLOOD_SECONDS: i64 = 10;

/// Parts of a frame and of a microsecond in which allowances are counted: the coarse clock moves eight times a second.
const PARTS: i64 = 8;

/// What a peer has used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryLimit {
    Number,
    Time,
}

/// How many broadcasts and one-way messages of one peer are taken.
pub(crate) struct DeliveryAllowance {
    per_second: i64,
    /// Frames left, in [`PARTS`].
    left: i64,
    /// Microseconds left, in [`PARTS`]. Below zero after a slow handler.
    left_time: i64,
    /// Frames dropped, in [`PARTS`], less what may be dropped over time.
    excess: i64,
    counted: CoarseInstant,
}

impl DeliveryAllowance {
    pub(crate) fn new(per_second: u32, now: CoarseInstant) -> Self {
        let per_second = i64::from(per_second.max(1));
        let (left, left_time) = (per_second * PARTS, US_PER_SECOND * PARTS);
        Self { per_second, left, left_time, excess: 0, counted: now }
    }

    /// Takes one frame out of the allowance. Reads the clock only once the allowance is used up.
    ///
    /// # Errors
    /// What is used up; the frame must be dropped.
    pub(crate) fn take(&mut self, now: impl FnOnce() -> CoarseInstant) -> Result<(), DeliveryLimit> {
        if self.left < PARTS || self.left_time <= 0 {
            self.refill(now());
        }
        let used_up = match () {
            () if self.left_time <= 0 => DeliveryLimit::Time,
            () if self.left < PARTS => DeliveryLimit::Number,
            () => {
                self.left -= PARTS;
                return Ok(());
            }
        };
        self.excess += PARTS;
        Err(used_up)
    }

    /// The frame has taken this long.
    pub(crate) fn spent(&mut self, took: Duration) {
        let parts = i64::try_from(took.as_micros()).unwrap_or(i64::MAX).saturating_mul(PARTS);
        self.left_time = self.left_time.saturating_sub(parts).max(-MOST_DEBT_US * PARTS);
    }

    /// Whether far more was dropped than a peer may send by mistake.
    pub(crate) fn is_flooded(&self) -> bool {
        self.excess > FLOOD_SECONDS * self.per_second * PARTS
    }

    fn refill(&mut self, now: CoarseInstant) {
        let passed = i64::from(now.0.saturating_sub(self.counted.0)).min(FLOOD_SECONDS * 8);
        self.counted = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second * PARTS);
        self.left_time = (self.left_time + passed * US_PER_SECOND).min(US_PER_SECOND * PARTS);
        self.excess = (self.excess - passed * self.per_second).max(0);
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However frames and pauses follow each other, no period lets through more than its allowance and a burst, and a peer
        /// that stays below twice its number is never a flood.
        #[test]
        fn no_period_takes_more_than_its_allowance(
            per_second in 1_u32..2000,
            steps in proptest::collection::vec((0_u32..20, 0_u32..600), 1..200),
        ) {
            let mut allowance = DeliveryAllowance::new(per_second, CoarseInstant(0));
            let (mut eighths, mut taken, mut offered) = (0_u32, 0_u64, 0_u64);
            for (pause, frames) in steps {
                eighths += pause;
                for _ in 0..frames {
                    offered += 1;
                    taken += u64::from(allowance.take(|| CoarseInstant(eighths)).is_ok());
                }
                let most = u64::from(per_second) * (8 + u64::from(eighths)) / 8;
                prop_assert!(taken <= most, "{taken} of {most} after {eighths} eighths");
                if offered <= u64::from(per_second) {
                    prop_assert_eq!(taken, offered);
                }
            }
        }
    }

    /// Offers `frames` in each eighth of a second, for `seconds`. Returns how many were taken and whether it was a flood.
    fn offer(allowance: &mut DeliveryAllowance, frames: u32, seconds: u32, took: Duration) -> (u32, bool) {
        let (mut taken, mut is_flooded) = (0, false);
        for eighth in 1..=seconds * 8 {
            for _ in 0..frames {
                if allowance.take(|| CoarseInstant(eighth)).is_ok() {
                    taken += 1;
                    allowance.spent(took);
                }
                is_flooded |= allowance.is_flooded();
            }
        }
        (taken, is_flooded)
    }

    #[test]
    fn what_is_above_the_number_is_dropped_and_only_a_flood_ends_the_peer() {
        let after = |frames| {
            let mut allowance = DeliveryAllowance::new(80, CoarseInstant(0));
            offer(&mut allowance, frames, 60, Duration::ZERO)
        };
        assert_eq!(after(10), (4800, false), "at its number it loses nothing");
        assert_eq!(after(19), (4880, false), "nearly twice as many, for a minute");
        assert!(after(30).1);
    }

    #[test]
    fn frames_that_take_long_use_up_the_time_and_not_more_than_ten_seconds_of_it() {
        let mut allowance = DeliveryAllowance::new(80, CoarseInstant(0));
        let (taken, is_flooded) = offer(&mut allowance, 10, 60, Duration::from_millis(10));
        assert!((600..=611).contains(&taken), "{taken}: a tenth of each second, and a burst");
        assert!(!is_flooded);
        allowance.spent(Duration::from_secs(3600));
        let at = |eighths: u32| CoarseInstant(60 * 8 + eighths);
        assert_eq!(allowance.take(|| at(78)), Err(DeliveryLimit::Time));
        assert_eq!(allowance.take(|| at(81)), Ok(()));
    }
}
