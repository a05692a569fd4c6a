//! The order of the phases of one beat, if its time may not suffice for all guests. Pure.

use std::time::Duration;

/// One phase, as far as its turn depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnFacts {
    pub is_guest: bool,
    /// The tick since which its due run waits.
    pub owed_since: Option<u32>,
    /// The time that it used lately: see [`faded`].
    pub lately: Duration,
}

/// The account of a phase one tick later. It halves in about five ticks, so a guest that used much waits for a few ticks
/// and is not punished for long.
pub(super) fn faded(lately: Duration) -> Duration {
    lately * 7 / 8
}

/// Indices into `phases`, in the order in which they run.
///
/// While guests fit into `budget` this is the usual order. Otherwise host phases go first, then guests that lately used at
/// most an equal share of the budget, least first. All of them together leave time for one of the others at least, and
/// those take turns: the longest waiting first. Fairness takes precedence over `after` and `before`.
pub(super) fn turns(phases: &[TurnFacts], budget: Duration) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..phases.len()).collect();
    let guests = phases.iter().filter(|phase| phase.is_guest);
    let total: Duration = guests.clone().map(|phase| phase.lately).sum();
    // Accounts have faded once since the last tick.
    if total <= faded(budget) && phases.iter().all(|phase| phase.owed_since.is_none()) {
        return turns;
    }
    let share = budget / u32::try_from(guests.count()).unwrap_or(u32::MAX).max(1);
    turns.sort_by_key(|&at| {
        let TurnFacts { is_guest, owed_since, lately } = phases[at];
        let is_greedy = is_guest && lately > share;
        let waiting_since = owed_since.filter(|_| is_greedy).unwrap_or(u32::MAX);
        (is_guest, is_greedy, waiting_since, lately * u32::from(is_guest))
    });
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Duration = Duration::from_secs(2);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs guests that use `cost(guest, tick)` for some ticks. Returns the ticks in which each of them ran.
    fn simulate(guests: usize, ticks: u32, cost: impl Fn(usize, u32) -> Duration) -> Vec<Vec<u32>> {
        let mut facts = vec![TurnFacts { is_guest: true, ..TurnFacts::default() }; guests];
        let mut ran = vec![Vec::new(); guests];
        for tick in 0..ticks {
            facts.iter_mut().for_each(|phase| phase.lately = faded(phase.lately));
            let mut used = Duration::ZERO;
            for at in turns(&facts, BUDGET) {
                if used >= BUDGET {
                    facts[at].owed_since.get_or_insert(tick);
                    continue;
                }
                let cost = cost(at, tick);
                used += cost;
                facts[at] = TurnFacts { owed_since: None, lately: facts[at].lately.max(cost), ..facts[at] };
                ran[at].push(tick);
            }
        }
        ran
    }

    #[test]
    fn ten_greedy_guests_take_no_run_from_a_small_one_and_take_turns() {
        let ran = simulate(11, 60, |guest, _| if guest == 10 { ms(1) } else { BUDGET });
        // Nothing is known of any before its first run, which comes after at most ten others.
        assert_eq!(ran[10], (10..60).collect::<Vec<_>>());
        for greedy in &ran[..10] {
            assert!((5..=6).contains(&greedy.len()), "{greedy:?}");
        }
    }

    #[test]
    fn greedy_guests_that_rest_between_bursts_take_few_runs_from_a_small_one() {
        let ran = simulate(6, 120, |guest, tick| match guest {
            5 => ms(2),
            _ if (tick + guest as u32).is_multiple_of(7) => BUDGET,
            _ => ms(1),
        });
        assert!(ran[5].len() >= 110, "{:?}", ran[5]);
    }

    #[test]
    fn the_usual_order_holds_while_all_fit() {
        let quick = TurnFacts { is_guest: true, lately: ms(800), ..TurnFacts::default() };
        assert_eq!(turns(&[quick, TurnFacts::default(), quick], BUDGET), [0, 1, 2]);
        let slow = TurnFacts { lately: ms(1200), ..quick };
        assert_eq!(turns(&[slow, TurnFacts::default(), quick, slow], BUDGET), [1, 2, 0, 3]);
    }

    proptest! {
        #[test]
        fn no_guest_waits_for_ever(costs in proptest::collection::vec(0_u64..2000, 1..40)) {
            let ran = simulate(costs.len(), 300, |guest, tick| ms(costs[(guest + tick as usize) % costs.len()]));
            for (guest, ticks) in ran.iter().enumerate() {
                let gaps = ticks.windows(2).map(|pair| pair[1] - pair[0]);
                let longest = gaps.chain(ticks.first().copied()).max().unwrap_or(300);
                prop_assert!(longest <= 100, "{guest} waited {longest} ticks: {ticks:?}");
            }
        }

        #[test]
        fn a_guest_that_needs_little_is_not_put_off_once_it_is_known(
            greedy in proptest::collection::vec(500_u64..4000, 1..20),
        ) {
            let small = greedy.len();
            let ran = simulate(small + 1, 100, |guest, _| greedy.get(guest).map_or(ms(5), |cost| ms(*cost)));
            let begins = ran[small].first().copied().unwrap_or(100);
            prop_assert!(begins as usize <= small, "each begins within as many ticks as there are others");
            prop_assert_eq!(&ran[small], &(begins..100).collect::<Vec<_>>());
        }
    }
}
