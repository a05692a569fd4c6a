//! From when the silence of peers is counted: not while the node itself was away, and not before the limit that judges it.
//! Pure; times come from the caller.

use std::time::Duration;

use crate::clock::CoarseInstant;

/// Decides how much of a peer's silence counts. All phases of a beat see the same count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SilenceCount {
    /// When the node came back from its last pause that restarted the count.
    resumed_at: Option<CoarseInstant>,
    /// The tick before this one restarted the count.
    resumed_last_tick: bool,
    tightened: Option<TightenedLimit>,
}

/// The last time that the operator lowered the limit of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TightenedLimit {
    at: CoarseInstant,
    /// The longest limit that a peer which is silent now was judged by. Longer silence counts in full.
    former: Duration,
}

impl SilenceCount {
    /// Notes a tick at `now`. True if silence is counted from now, because the node was away.
    ///
    /// At most once per twice `stale_after`, and never at two ticks in a row, so that a node that is late at every tick
    /// still reaps.
    pub fn tick(&mut self, is_late: bool, now: CoarseInstant, stale_after: Duration) -> bool {
        let long_ago = self.resumed_at.is_none_or(|at| now.since(at) >= 2 * stale_after);
        let resumes = is_late && long_ago && !self.resumed_last_tick;
        self.resumed_last_tick = resumes;
        if resumes {
            self.resumed_at = Some(now);
        }
        resumes
    }

    /// Notes that the limit changed from `old` to `new` at `now`. True if silence under the new limit is counted from now.
    ///
    /// No peer gains more than the longest limit that was in force during its silence, however often the limit changes.
    pub fn limit_changed(&mut self, now: CoarseInstant, old: Duration, new: Duration) -> bool {
        if new >= old {
            return false;
        }
        // Silence that the last change excused has not been judged by `old` yet.
        let excused = self.tightened.filter(|last| now.since(last.at) < old);
        let former = excused.map_or(old, |last| old.max(last.former));
        self.tightened = Some(TightenedLimit { at: now, former });
        true
    }

    /// Silence does not begin before this.
    pub fn not_before(&self) -> CoarseInstant {
        self.resumed_at.unwrap_or_default()
    }

    /// Replaces each silence in `idle_s`, seconds until `now`, by the part that counts.
    pub fn apply(&self, idle_s: &mut [u32], now: CoarseInstant) {
        let Some(TightenedLimit { at, former }) = self.tightened else { return };
        let longest = now.seconds_since(at);
        let former_s = u32::try_from(former.as_secs()).unwrap_or(u32::MAX);
        if longest >= former_s {
            return;
        }
        for idle in idle_s.iter_mut().filter(|idle| **idle < former_s) {
            *idle = longest.min(*idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u32) -> CoarseInstant {
        CoarseInstant(seconds * CoarseInstant::PER_SECOND)
    }

    fn counted(silence: &SilenceCount, now: u32, seen: u32) -> u32 {
        let mut idle = [now - seen];
        silence.apply(&mut idle, at(now));
        idle[0]
    }

    #[test]
    fn silence_before_a_tightened_limit_is_no_offence() {
        let mut silence = SilenceCount::default();
        assert!(silence.limit_changed(at(1000), Duration::from_secs(90), Duration::from_secs(12)));
        // Seconds: now, last seen; then what counts.
        let table = [
            (1000, 930, 0),
            (1005, 930, 5),
            (1011, 1008, 3),
            (1012, 930, 12),
            (1005, 915, 90),
            (1100, 930, 170),
        ];
        for (now, seen, counts) in table {
            assert_eq!(counted(&silence, now, seen), counts, "at {now}, seen at {seen}");
        }
    }

    #[test]
    fn a_loosened_limit_changes_nothing() {
        let mut silence = SilenceCount::default();
        assert!(!silence.limit_changed(at(1000), MINUTE, 2 * MINUTE));
        assert!(!silence.limit_changed(at(1000), MINUTE, MINUTE));
        assert_eq!(counted(&silence, 1000, 900), 100);
    }

    #[test]
    fn a_limit_that_is_tightened_twice_excuses_what_the_first_one_excused() {
        let mut silence = SilenceCount::default();
        silence.limit_changed(at(1000), 10 * MINUTE, MINUTE);
        silence.limit_changed(at(1005), MINUTE, Duration::from_secs(12));
        assert_eq!(counted(&silence, 1006, 700), 1);
        // Since the second change is long past, only the last limit is left of both.
        silence.limit_changed(at(5000), MINUTE, Duration::from_secs(12));
        assert_eq!(counted(&silence, 5001, 4900), 101);
    }

    proptest! {
        #[test]
        fn a_silent_peer_is_stale_after_the_longest_limit_however_often_it_changes(
            limits in proptest::collection::vec((2_u64..400, 1_u32..60), 1..60),
        ) {
            let longest = limits.iter().map(|(limit, _)| *limit).max().unwrap_or(0) as u32;
            let mut silence = SilenceCount::default();
            let (mut now, mut limit) = (100_000, limits[0].0);
            let seen = now;
            for (next, wait) in limits {
                silence.limit_changed(at(now), Duration::from_secs(limit), Duration::from_secs(next));
                limit = next;
                now += wait;
                let idle = counted(&silence, now, seen);
                prop_assert!(idle <= now - seen);
                prop_assert!(now - seen < longest || idle == now - seen, "{idle} of {}", now - seen);
            }
        }
    }
}
