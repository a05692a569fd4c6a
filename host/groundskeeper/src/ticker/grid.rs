//! Tick numbers and the times at which they are due. Pure arithmetic on monotonic time.

use std::time::Duration;

/// `tick = anchor_tick + (now - anchor) / interval`. Numbers never decrease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    anchor_tick: u32,
    anchor: Duration,
    interval: Duration,
}

impl Grid {
    /// Tick 0 is at `start`. An interval below one millisecond counts as one millisecond.
    pub fn new(start: Duration, interval: Duration) -> Self {
        Self { anchor_tick: 0, anchor: start, interval: interval.max(Duration::from_millis(1)) }
    }

    /// The last grid point at or before `now`.
    pub fn tick_at(&self, now: Duration) -> u32 {
        let passed = now.saturating_sub(self.anchor).as_nanos() / self.interval.as_nanos();
        u32::try_from(passed).map_or(u32::MAX, |passed| self.anchor_tick.saturating_add(passed))
    }

    /// When `tick` is due. The anchor for ticks before it.
    pub fn time_of(&self, tick: u32) -> Duration {
        self.anchor + self.interval.saturating_mul(tick.saturating_sub(self.anchor_tick))
    }

    /// The next tick is one new interval from `now`. `last` is the last tick that ran.
    pub fn change_interval(&mut self, now: Duration, last: u32, interval: Duration) {
        *self = Self { anchor_tick: last, anchor: now, ..Self::new(now, interval) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stall_skips_grid_points_and_keeps_the_grid() {
        let grid = Grid::new(Duration::ZERO, Duration::from_secs(30));
        assert_eq!(grid.tick_at(Duration::from_secs(340)), 11);
        assert_eq!(grid.time_of(12), Duration::from_secs(360));
    }

    proptest! {
        #[test]
        fn numbers_never_decrease(steps in proptest::collection::vec((0_u64..100_000, 1_u64..60_000), 1..50)) {
            let mut grid = Grid::new(Duration::ZERO, Duration::from_secs(30));
            let (mut now, mut last) = (Duration::ZERO, 0);
            for (wait, interval) in steps {
                now += Duration::from_millis(wait);
                let tick = grid.tick_at(now);
                prop_assert!(tick >= last);
                prop_assert!(grid.time_of(tick) <= now && grid.time_of(tick + 1) > now);
                last = tick;
                grid.change_interval(now, last, Duration::from_millis(interval));
                prop_assert_eq!(grid.tick_at(now), last);
            }
        }
    }
}
