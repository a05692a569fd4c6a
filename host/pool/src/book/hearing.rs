//! How long this node was up and could hear of peers. Reads no wall clock.

use std::time::Duration;

/// Time in which the node had a live connection, since the book was created. Ages of addresses are differences of it.
///
/// While the node is off, suspended or without a connection, no peer can name an address to it. That time says nothing
/// about an address, so it is not counted.
#[derive(Debug, Default)]
pub(super) struct HearingTime {
    counted: Duration,
    running: Option<HearingSpan>,
}

/// The node could hear when it was last looked at.
#[derive(Clone, Copy, Debug)]
struct HearingSpan {
    /// Monotonic time of that look.
    since: Duration,
    /// At most this much is counted until the next look: a process that stood still could not hear either.
    at_most: Duration,
}

/// A moment in hearing time, in seconds. Negative for what an earlier process noted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct HeardAt(i64);

impl HeardAt {
    /// The moment `age_s` seconds before this one.
    pub(super) fn before(self, age_s: u32) -> Self {
        Self(self.0 - i64::from(age_s))
    }

    /// Seconds from `earlier` to this moment. Saturates below `u32::MAX`, which means "never" in a view.
    pub(super) fn since(self, earlier: Self) -> u32 {
        u32::try_from((self.0 - earlier.0).max(0)).unwrap_or(u32::MAX).min(u32::MAX - 1)
    }
}

impl HearingTime {
    fn counted_until(&self, mono: Duration) -> Duration {
        let running = self
            .running
            .map_or(Duration::ZERO, |running| mono.saturating_sub(running.since).min(running.at_most));
        self.counted + running
    }

    /// The moment at monotonic time `mono`. Never goes back.
    pub(super) fn at(&self, mono: Duration) -> HeardAt {
        HeardAt(i64::try_from(self.counted_until(mono).as_secs()).unwrap_or(i64::MAX / 2))
    }

    /// Notes whether the node can hear from `mono` on. The next look should follow within `at_most`.
    pub(super) fn look(&mut self, mono: Duration, can_hear: bool, at_most: Duration) {
        self.counted = self.counted_until(mono);
        self.running = can_hear.then_some(HearingSpan { since: mono, at_most });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_with_a_connection_counts_and_a_stall_counts_as_one_look() {
        let seconds = Duration::from_secs;
        let mut hearing = HearingTime::default();
        let start = hearing.at(Duration::ZERO);
        assert_eq!(hearing.at(seconds(1_000)).since(start), 0, "no connection yet");
        hearing.look(seconds(1_000), true, seconds(60));
        assert_eq!(hearing.at(seconds(1_030)).since(start), 30);
        hearing.look(seconds(1_030), false, seconds(60));
        assert_eq!(hearing.at(seconds(900_000)).since(start), 30, "alone for ten days");
        hearing.look(seconds(900_000), true, seconds(60));
        assert_eq!(hearing.at(seconds(1_800_000)).since(start), 90, "the process was stopped for ten days");
        assert_eq!(start.since(hearing.at(seconds(1_800_000))), 0);
        assert_eq!(start.since(start.before(7)), 7);
    }
}
