//! Drops peers that stay slow: a few per run, the slowest first, and never below a floor.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;

/// Disconnects peers with a smoothed round trip over a limit.
///
/// Leaves alone connections that are too young, peers that another phase protects, and every peer while there are at
/// most `keep` connections. Costs one selection in the host. The next run sees again what this one does not drop.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct SlowPeers {
    /// A round trip over this is slow; 10ms to 1m.
    pub rtt_over: Span,
    /// Connections younger than this are not judged, because their average still contains the handshake; 0s to 1d.
    pub settle: Span,
    /// At least this many connections are kept, or the operator's floor if that is higher; 0 to 1000000.
    pub keep: u32,
    /// Disconnects in one run; 1 to 64.
    pub max_per_run: u32,
}

impl Default for SlowPeers {
    /// The far side of the Earth is 300 ms away, so half a second is the peer's own fault. Two minutes are four pings
    /// at ticks of 30 s. With eight connections the reconnect phase is content.
    fn default() -> Self {
        SlowPeers { rtt_over: Span::millis(500), settle: Span::mins(2), keep: 8, max_per_run: 2 }
    }
}

impl Phase for SlowPeers {
    const SUMMARY: &'static str = "drops peers that stay slow";

    fn check(&self) -> Result<(), String> {
        within("rtt_over", self.rtt_over, Span::millis(10)..=Span::mins(1))?;
        within("settle", self.settle, Span::ZERO..=Span::days(1))?;
        within("keep", self.keep, 0..=1_000_000)?;
        within("max_per_run", self.max_per_run, 1..=64)
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let totals = view.totals();
        let spare = totals.connected.saturating_sub(self.keep.max(totals.least));

        let slow = view.peers().over(peer::RTT, self.rtt_over).at_least(peer::AGE, self.settle);
        let slow = slow.is(peer::PROTECTED, false).most(peer::RTT).take(spare.min(self.max_per_run));
        for (peer, [rtt_us]) in slow.iter().zip(view.facts(&slow, [peer::RTT])) {
            plan.disconnect(*peer, format!("round trip {} ms (limit {})", rtt_us / 1_000, self.rtt_over));
        }
        Ok(())
    }
}

groundskeeper_sdk::export!(SlowPeers);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::host::Ask;
    use groundskeeper_sdk::testing::{World, world};
    use proptest::prelude::*;

    use super::*;

    fn slow(world: World, millis: u64) -> World {
        world.peer(|p| {
            p.with(peer::RTT, Span::millis(millis));
        })
    }

    #[test]
    fn the_slowest_go_first_and_two_a_run() {
        let world = [700, 20, 900, 500, 800].into_iter().fold(world().totals(|t| t.least = 0), slow);
        let text = world.run(&SlowPeers { keep: 0, ..SlowPeers::default() }).unwrap();
        assert_eq!(
            text,
            "disconnect 2: round trip 900 ms (limit 500ms)\ndisconnect 4: round trip 800 ms (limit 500ms)\n"
        );
    }

    #[test]
    fn the_young_the_protected_and_the_unmeasured_stay() {
        let world = slow(world(), 900)
            .peer(|p| {
                p.with(peer::RTT, Span::secs(2)).with(peer::AGE, Span::secs(119));
            })
            .peer(|p| {
                p.with(peer::RTT, Span::secs(2)).with(peer::PROTECTED, true);
            })
            .peer(|p| {
                p.unknown(peer::RTT);
            });
        let phase = SlowPeers { keep: 0, ..SlowPeers::default() };
        assert_eq!(world.clone().totals(|t| t.least = 4).run(&phase).unwrap(), "", "the operator's floor");
        assert!(world.totals(|t| t.least = 0).run(&phase).unwrap().starts_with("disconnect 0: "));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = SlowPeers { rtt_over: Span::millis(5), ..SlowPeers::default() };
        assert_eq!(phase.check().unwrap_err(), "rtt_over = 5ms is out of range: 10ms to 1m");
        let phase = SlowPeers { max_per_run: 0, ..SlowPeers::default() };
        assert_eq!(phase.check().unwrap_err(), "max_per_run = 0 is out of range: 1 to 64");
    }

    proptest! {
        #[test]
        fn only_the_slow_are_dropped_and_never_too_many(
            millis in prop::collection::vec(0u64..1_000, 0..30),
            keep in 0u32..30,
            max_per_run in 1u32..8,
        ) {
            let world = millis.iter().copied().fold(world(), slow);
            let phase = SlowPeers { keep, max_per_run, ..SlowPeers::default() };
            let asks = world.plan(&phase).unwrap().asks;
            let floor = keep.max(world.view().totals().least);
            prop_assert!(asks.len() <= max_per_run as usize);
            prop_assert!(asks.is_empty() || millis.len() - asks.len() >= floor as usize);
            for ask in asks {
                let Ask::Disconnect { peer, .. } = ask else { panic!("asked for {ask}") };
                prop_assert!(millis[peer as usize] > 500);
            }
        }
    }
}
