//! Probes addresses of the address book, so that it contains live ones when they are needed. Keeps no connection.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;

/// Probes a few addresses per run: connects, does the handshake, disconnects.
///
/// The address book fills with addresses from peers, which may be wrong or planted. Addresses never reached, and those
/// not reached for long, are drawn at random with more weight: an attacker who can put addresses into the book must not
/// be able to compute which one is probed. Bitcoin Core does the same every two minutes and calls it a feeler.
/// Reads three columns of the book.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct Feeler {
    /// Probes in one run; 1 to 8. Each costs a socket and a handshake at both ends.
    pub probes: u32,
    /// An address reached within this time needs no probe; 10m to 30d.
    pub fresh_for: Span,
}

impl Default for Feeler {
    /// Three hours: most nodes that were up then are still up.
    fn default() -> Self {
        Feeler { probes: 1, fresh_for: Span::hours(3) }
    }
}

/// Weight of an address that has not failed since it was last reached. Each failure in a row halves it, but not below
/// 1, so that every address keeps a chance.
const USUAL: u32 = 16;

/// Factor for an address that was never reached: the reconnect phase finds the others without this phase.
const NEVER_REACHED: u32 = 4;

impl Feeler {
    /// The weight of an address in the draw; 0 if it need not or may not be dialled.
    fn weight(&self, [wait, reached, failures]: [u32; 3]) -> u32 {
        if wait != 0 || reached != UNKNOWN && reached < self.fresh_for.as_secs() {
            return 0;
        }
        let failures = if failures == UNKNOWN { 0 } else { failures };
        let weight = USUAL.checked_shr(failures).unwrap_or(0).max(1);
        if reached == UNKNOWN { weight * NEVER_REACHED } else { weight }
    }
}

impl Phase for Feeler {
    const SUMMARY: &'static str = "tries out addresses of the book";

    fn check(&self) -> Result<(), String> {
        within("probes", self.probes, 1..=8)?;
        within("fresh_for", self.fresh_for, Span::mins(10)..=Span::days(30))
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        // While connections are missing, sockets and good addresses belong to the reconnect phase.
        let totals = view.totals();
        if totals.connected < totals.least {
            return Ok(());
        }
        let wait = view.column(address::WAIT);
        let (reached, failures) = (view.column(address::REACHED), view.column(address::FAILURES));
        let mut weights: Vec<u32> =
            (0..wait.len()).map(|i| self.weight([wait[i], reached[i], failures[i]])).collect();

        let addresses: Vec<Address> = view.rows().collect();
        let mut rng = now.rng();
        for _ in 0..self.probes {
            let Some(drawn) = rng.weighted(weights.iter().copied()) else { break };
            weights[drawn] = 0;
            plan.probe(addresses[drawn]);
        }
        Ok(())
    }
}

groundskeeper_sdk::export!(Feeler);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use groundskeeper_sdk::host::Ask;
    use groundskeeper_sdk::testing::{World, world};
    use proptest::prelude::*;

    use super::*;

    /// A node that needs no more connections.
    fn content() -> World {
        world().totals(|totals| totals.least = 0)
    }

    fn reached(world: World, ago: Span) -> World {
        world.address(|a| {
            a.with(address::REACHED, ago);
        })
    }

    #[test]
    fn what_was_reached_lately_or_has_to_wait_is_not_probed() {
        let world = reached(content(), Span::hours(2)).address(|a| {
            a.with(address::WAIT, Span::secs(1));
        });
        let phase = Feeler { probes: 8, ..Feeler::default() };
        assert_eq!(world.run(&phase).unwrap(), "");
        assert_eq!(reached(world.clone(), Span::hours(3)).run(&phase).unwrap(), "probe 2\n");
        assert_eq!(
            reached(world, Span::hours(3)).totals(|t| t.least = 1).run(&phase).unwrap(),
            "",
            "isolated"
        );
    }

    #[test]
    fn addresses_that_nobody_ever_reached_are_drawn_more_often() {
        let world = reached(content(), Span::days(1)).address(|_| {}).address(|a| {
            a.with(address::FAILURES, 4);
        });
        let mut drawn = BTreeMap::<String, u32>::new();
        for seed in 0..8_500 {
            *drawn.entry(world.clone().seed([seed, 1]).run(&Feeler::default()).unwrap()).or_default() += 1;
        }
        let drawn: Vec<u32> = drawn.into_values().collect();
        let expected = [1_619, 6_476, 405];
        assert!(drawn.iter().zip(expected).all(|(got, wanted)| got.abs_diff(wanted) < 150), "{drawn:?}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = Feeler { probes: 9, ..Feeler::default() };
        assert_eq!(phase.check().unwrap_err(), "probes = 9 is out of range: 1 to 8");
    }

    proptest! {
        #[test]
        fn nobody_is_probed_twice_or_without_need(
            book in prop::collection::vec((0u64..3, prop::option::of(0u64..6)), 0..20),
            probes in 1u32..=8,
            seed: [u32; 2],
        ) {
            let world = book.iter().fold(content(), |world, (wait, hours)| world.address(|a| {
                a.with(address::WAIT, Span::secs(*wait));
                if let Some(hours) = hours {
                    a.with(address::REACHED, Span::hours(*hours));
                }
            }));
            let phase = Feeler { probes, ..Feeler::default() };
            let asks = world.seed(seed).plan(&phase).unwrap().asks;
            let wanting = book.iter().filter(|(wait, hours)| *wait == 0 && hours.is_none_or(|h| h >= 3)).count();
            prop_assert_eq!(asks.len(), wanting.min(probes as usize));
            let mut rows: Vec<u32> = asks.iter().map(|ask| match ask {
                Ask::Probe { address } => *address,
                other => panic!("asked for {other}"),
            }).collect();
            prop_assert!(rows.iter().all(|row| book[*row as usize].0 == 0));
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(rows.len(), asks.len());
        }
    }
}
