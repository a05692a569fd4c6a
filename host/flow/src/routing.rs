//! Chooses the peer that gets a request. The caller's functions describe each candidate; this module knows no peer,
//! keeps no list and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How to choose among the peers that can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Each in turn.
    RoundRobin,
    /// Draws two at random and takes the one with fewer open requests. Spreads load nearly as evenly as looking at all
    /// of them, at the cost of two (Mitzenmacher 2001, "The power of two choices").
    #[default]
    LeastLoaded,
    /// The usable peer with the shortest round trip. A figure older than 90 s comes after every younger one, an unknown one
    /// comes last.
    LowestRtt,
}

/// The position of the round robin, and a source of numbers that are random enough to spread load.
#[derive(Debug)]
pub struct Balancer {
    turn: AtomicU64,
    random: AtomicU64,
}

/// Random draws for [`Route::LeastLoaded`] before the list is searched in order.
const DRAWS: usize = 4;

impl Balancer {
    /// Equal seeds give equal choices.
    pub fn new(seed: u64) -> Self {
        Self { turn: AtomicU64::new(seed), random: AtomicU64::new(seed) }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014): one atomic addition and a few multiplications.
    pub fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Chooses among the candidates `0..count`. None if none is usable.
    ///
    /// `usable` says whether a candidate can be asked. `cost` is what asking it costs: its open requests, or the rank
    /// of its round trip for [`Route::LowestRtt`]. O(1) while most are usable, O(count) when few are, always O(count) for the lowest
    /// round trip.
    pub fn choose(
        &self,
        route: Route,
        count: usize,
        usable: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        if count == 0 {
            return None;
        }
        match route {
            Route::RoundRobin => search(self.turn.fetch_add(1, Relaxed), count, usable),
            Route::LowestRtt => {
                let mut best = None;
                for at in 0..count {
                    let cost = cost(at);
                    // Takes the first of equals. `usable` is called only for a candidate that would be the best.
                    if best.is_none_or(|(least, _)| cost < least) && usable(at) {
                        best = Some((cost, at));
                    }
                }
                best.map(|(_, at)| at)
            }
            Route::LeastLoaded => {
                let mut first = None;
                for _ in 0..DRAWS {
                    let at = below(self.random(), count);
                    match first {
                        _ if !usable(at) => {}
                        None => first = Some(at),
                        Some(other) if other == at => {}
                        Some(other) => return Some(if cost(at) < cost(other) { at } else { other }),
                    }
                }
                first.or_else(|| search(self.random(), count, usable))
            }
        }
    }
}

/// The first usable candidate from number `from` on, wrapping at the end.
fn search(from: u64, count: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    let from = (from % count as u64) as usize;
    (from..count).chain(0..from).find(|&at| usable(at))
}

/// `random` mapped to `0..count` without a division.
fn below(random: u64, count: usize) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_robin_is_even_and_skips_peers_that_cannot_be_asked() {
        let turns = Balancer::new(7);
        let mut asked = [0; 5];
        for _ in 0..500 {
            asked[turns.choose(Route::RoundRobin, 5, |at| at != 2, |_| 0).unwrap()] += 1;
        }
        // The peer after the one that cannot be asked gets that one's share.
        assert_eq!(asked, [100, 100, 0, 200, 100]);
    }

    #[test]
    fn of_two_the_idle_one_is_chosen() {
        let turns = Balancer::new(1);
        let loads: Vec<u32> = (0..100).map(|at| if at == 0 { 1000 } else { 0 }).collect();
        for _ in 0..10_000 {
            let at = turns.choose(Route::LeastLoaded, 100, |_| true, |at| loads[at]).unwrap();
            // Only if it is drawn four times in a row is the busy one asked.
            assert!(at != 0, "the busy one");
        }
    }

    #[test]
    fn load_stays_even_where_one_choice_would_not_be() {
        // 100 requests to 10 peers, ten times: the fullest has few more than ten with two choices.
        let turns = Balancer::new(3);
        let mut loads = [0_u32; 10];
        for _ in 0..1000 {
            loads[turns.choose(Route::LeastLoaded, 10, |_| true, |at| loads[at]).unwrap()] += 1;
        }
        let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
        assert!(most - least <= 10, "{loads:?}");
    }

    #[test]
    fn the_fastest_usable_one() {
        let turns = Balancer::new(0);
        assert_eq!(turns.choose(Route::LowestRtt, 10, |at| at >= 3, |_| u32::MAX), Some(3));
        let rtt = [10, 20, 7, 9, 9, 30];
        assert_eq!(turns.choose(Route::LowestRtt, 6, |at| at != 2, |at| rtt[at]), Some(3));
    }

    proptest! {
        #[test]
        fn a_usable_one_is_found_if_there_is_one_and_no_other_is_chosen(
            usable in prop::collection::vec(any::<bool>(), 0..40),
            seed: u64,
        ) {
            let turns = Balancer::new(seed);
            for route in [Route::RoundRobin, Route::LeastLoaded, Route::LowestRtt] {
                let found = turns.choose(route, usable.len(), |at| usable[at], |_| 0);
                prop_assert_eq!(found.is_some(), usable.contains(&true));
                prop_assert!(found.is_none_or(|at| usable[at]));
            }
        }
    }
}
