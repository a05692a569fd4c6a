//! Decides whether a phase is due at a tick. Pure functions.

use std::hash::{DefaultHasher, Hash, Hasher};

use groundskeeper_base::peer::PeerId;

use crate::schedule::Schedule;

/// When a phase last ran, in ticks of this process. Negative if it ran before the process started, so that a node that
/// restarts every 50 minutes still does its hourly work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Tick of the last due run, also of one that the host skipped.
    pub last_run: i64,
    /// Set by the phase itself: it runs again at this tick or earlier.
    pub again_at: Option<u32>,
    /// The last tick at which it was found not to be due, by the cadence of that tick.
    pub not_due_at: Option<u32>,
}

impl Timing {
    /// For a phase that has never run. Its first run is `spread % every` ticks into its period, so that the phases of
    /// all nodes do not run in the same tick.
    pub fn never(schedule: &Schedule, spread: u64) -> Self {
        let period = u64::from(schedule.cadence.longest());
        let first = 1 + (spread % period) as i64 + i64::from(schedule.offset);
        Self { last_run: first - period as i64, again_at: None, not_due_at: None }
    }

    /// For a phase that ran `ago` ticks before this process started.
    pub fn ran_before(ago: u64) -> Self {
        Self { last_run: -i64::try_from(ago).unwrap_or(i64::MAX), again_at: None, not_due_at: None }
    }

    /// Compares with the last run instead of `tick % n`: one skipped tick must not delay an hourly phase by an hour.
    pub fn is_due(&self, tick: u32, every: u32) -> bool {
        i64::from(tick) >= self.last_run + i64::from(every) || self.again_at.is_some_and(|at| tick >= at)
    }

    /// The first tick at which it is due, with `every` ticks from one run to the next.
    pub fn next_due(&self, every: u32) -> u32 {
        let regular = u32::try_from((self.last_run + i64::from(every)).max(0)).unwrap_or(u32::MAX);
        self.again_at.map_or(regular, |at| at.min(regular))
    }

    /// Due runs between the last run and `tick`, without the one at `tick`, and without those before the phase joined the
    /// process: `joined_at` is the last tick before that. A cadence that became shorter since makes no earlier tick a missed
    /// one.
    pub fn missed(&self, tick: u32, every: u32, joined_at: u32) -> u32 {
        let every = i64::from(every);
        let first_open = joined_at.max(self.not_due_at.unwrap_or(0));
        let last_run = self.last_run.max(i64::from(first_open) + 1 - every);
        let periods = (i64::from(tick) - last_run) / every;
        u32::try_from(periods - 1).unwrap_or(0)
    }

    /// Notes a due run at `tick`, also a skipped one. `again_in`: ticks after which the phase asked to run again.
    pub fn ran(&mut self, tick: u32, again_in: Option<u32>) {
        self.last_run = i64::from(tick);
        self.again_at = again_in.map(|ticks| tick.saturating_add(ticks));
    }
}

/// Spreads first runs over the period: a hash that differs for each node and each phase.
pub fn spread(node: &PeerId, phase: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (node.as_bytes(), phase).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::builtin::BuiltInPhases;

    #[test]
    fn adaptive_cadence_follows_the_number_of_connections() {
        let adaptive = BuiltInPhases::default().reconnect.schedule.cadence;
        let table = [(0, 1), (4, 1), (5, 2), (7, 2), (8, 4), (100, 4)];
        for (connected, every) in table {
            assert_eq!(adaptive.every_n_ticks(connected), every, "at {connected} connections");
        }
    }

    #[test]
    fn missing_ticks_119_to_122_does_not_cost_an_hour() {
        let mut timing = Timing { last_run: 0, again_at: None, not_due_at: None };
        let ran: Vec<u32> = (1..=370)
            .filter(|tick| !(119..=122).contains(tick))
            .filter(|&tick| {
                let due = timing.is_due(tick, 120);
                if due {
                    timing.ran(tick, None);
                }
                due
            })
            .collect();
        assert_eq!(ran, [123, 243, 363]);
    }

    #[test]
    fn what_was_due_while_the_node_was_off_was_not_missed() {
        // Ran at tick 10 of the process before, which is 308 ticks ago.
        let timing = Timing::ran_before(308);
        assert_eq!(timing.missed(1, 1, 0), 0);
        assert_eq!(timing.missed(4, 1, 0), 3, "this process skipped its ticks 1 to 3");
        assert_eq!(timing.missed(1, 120, 0), 0);
        assert_eq!(timing.missed(8, 2, 7), 0, "it joined after tick 7");
        assert_eq!(Timing { last_run: 5, again_at: None, not_due_at: None }.missed(9, 1, 0), 3);
    }

    #[test]
    fn a_restart_each_100_ticks_still_runs_the_120_tick_phase() {
        let schedule = Schedule::every(120);
        for spread in 0..240 {
            let mut timing = Timing::never(&schedule, spread);
            let mut runs = 0;
            for _restart in 0..12 {
                for tick in 1..=100 {
                    if timing.is_due(tick, 120) {
                        timing.ran(tick, None);
                        runs += 1;
                    }
                }
                timing = Timing { last_run: timing.last_run - 100, again_at: None, not_due_at: None };
            }
            assert!((9..=10).contains(&runs), "spread {spread}: {runs} runs in 1,200 ticks");
        }
    }

    #[test]
    fn a_shorter_cadence_makes_no_earlier_tick_a_missed_one() {
        // Ticks: last run, last found not due, now; then the cadence now and what is missed.
        let table = [
            (0, None, 123, 120, 0),
            (0, None, 245, 120, 1),
            (0, Some(118), 123, 120, 0),
            (0, Some(49), 50, 1, 0),
            (0, Some(49), 60, 1, 10),
            (0, Some(3), 4, 1, 0),
            (-7, None, 3, 2, 1),
        ];
        for (last_run, not_due_at, tick, every, missed) in table {
            let timing = Timing { last_run, again_at: None, not_due_at };
            assert_eq!(timing.missed(tick, every, 0), missed, "{timing:?} at {tick}, every {every}");
        }
    }

    proptest! {
        #[test]
        fn never_later_than_a_period_after_the_last_run_unless_ticks_are_missing(
            every in 1_u32..500, spread: u64, skipped in proptest::collection::hash_set(1_u32..2000, 0..200),
        ) {
            let mut timing = Timing::never(&Schedule::every(every), spread);
            let mut waited = 0;
            for tick in (1..2000).filter(|tick| !skipped.contains(tick)) {
                waited += 1;
                if timing.is_due(tick, every) {
                    timing.ran(tick, None);
                    waited = 0;
                }
                prop_assert!(waited < every || every == 1 && waited == 0, "tick {tick}: {waited} of {every}");
                prop_assert!(timing.next_due(every) > tick);
            }
        }
    }
}
