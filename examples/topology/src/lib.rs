//! Measures which peers are near, in round trips and network groups, and keeps the nearest of each group. Drops none.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use groundskeeper_sdk::prelude::*;

/// Counts peers and groups by distance, and protects the nearest few of every group.
///
/// A node least wants to lose its short paths into each part of the network, and they are hard to fake: no answer is
/// faster than light. Bitcoin Core keeps its eight fastest peers and four network groups for that reason. Counting takes
/// four queries. Protecting takes one, plus the facts of the peers that it finds.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct Topology {
    /// A round trip up to this is near; 1ms to 10s.
    pub near: Span,
    /// A round trip above `near` and up to this is far; a longer one is remote; over `near`, up to 1m.
    pub far: Span,
    /// Peers protected in one group; 1 to 16.
    pub per_group: u32,
    /// Peers protected in total; 0 to 256. Keep it within the grant's `max_active`.
    pub protected: u32,
    /// Duration of a protection unless it is renewed; 1m to 1d. Longer than the time between runs.
    pub hold: Span,
}

impl Default for Topology {
    /// 50 ms is a continent, 150 ms an ocean. Eight protections are half of what the usual grant allows.
    fn default() -> Self {
        Topology {
            near: Span::millis(50),
            far: Span::millis(150),
            per_group: 1,
            protected: 8,
            hold: Span::mins(30),
        }
    }
}

/// An unhealthy peer is not worth keeping; one above the node's usual threshold.
const HEALTHY: u32 = 31;

impl Phase for Topology {
    const SUMMARY: &'static str = "measures who is near, and keeps the nearest of each network group";

    fn check(&self) -> Result<(), String> {
        within("near", self.near, Span::millis(1)..=Span::secs(10))?;
        within("far", self.far, self.near..=Span::mins(1))?;
        within("per_group", self.per_group, 1..=16)?;
        within("protected", self.protected, 0..=256)?;
        within("hold", self.hold, Span::mins(1)..=Span::days(1))
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let nearest = view.peers().known(peer::RTT).least(peer::RTT).take(16_384);
        let facts = view.facts(&nearest, (peer::GROUP, peer::RTT, peer::HEALTH));

        let mut groups = BTreeMap::<u32, u32>::new();
        let (mut near_groups, mut left) = (0, self.protected);
        for (peer, [group, rtt_us, health]) in nearest.into_iter().zip(facts) {
            let kept = groups.entry(group).or_insert_with(|| {
                near_groups += u32::from(u64::from(rtt_us) <= self.near.as_micros());
                0
            });
            if *kept < self.per_group && left > 0 && health != UNKNOWN && health >= HEALTHY {
                (*kept, left) = (*kept + 1, left - 1);
                plan.protect(peer, self.hold, format!("among the nearest of its network group, {rtt_us} us"));
            }
        }

        let near = view.peers().at_most(peer::RTT, self.near).count();
        let far = view.peers().over(peer::RTT, self.near).at_most(peer::RTT, self.far).count();
        let remote = view.peers().over(peer::RTT, self.far).count();
        for (name, value) in [
            ("peers_near", near),
            ("peers_far", far),
            ("peers_remote", remote),
            ("groups", groups.len() as u32),
            ("groups_near", near_groups),
        ] {
            plan.metric_set(name, value.into());
        }
        Ok(())
    }
}

groundskeeper_sdk::export!(Topology);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::host::{Ask, MetricChange};
    use groundskeeper_sdk::testing::{World, world};
    use proptest::prelude::*;

    use super::*;

    fn peers(list: &[(u32, u64)]) -> World {
        list.iter().fold(world(), |world, (group, millis)| {
            world.peer(|p| {
                p.with(peer::GROUP, *group).with(peer::RTT, Span::millis(*millis));
            })
        })
    }

    #[test]
    fn the_nearest_of_each_group_are_kept_and_everybody_is_counted() {
        let world = peers(&[(1, 60), (1, 20), (2, 151), (3, 50), (3, 40), (3, 150)]).peer(|p| {
            p.with(peer::GROUP, 4).unknown(peer::RTT);
        });
        let parts = world.plan(&Topology { protected: 2, ..Topology::default() }).unwrap();
        let asks: Vec<_> = parts.asks.iter().map(ToString::to_string).collect();
        assert_eq!(
            asks,
            [
                "protect 1 for 30m: among the nearest of its network group, 20000 us",
                "protect 4 for 30m: among the nearest of its network group, 40000 us",
            ]
        );
        let metrics: Vec<_> = parts.metrics.iter().map(|m| (m.name.as_str(), m.change)).collect();
        assert_eq!(
            metrics,
            [
                ("peers_near", MetricChange::Set(3.0)),
                ("peers_far", MetricChange::Set(2.0)),
                ("peers_remote", MetricChange::Set(1.0)),
                ("groups", MetricChange::Set(3.0)),
                ("groups_near", MetricChange::Set(2.0)),
            ]
        );
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = Topology { far: Span::millis(40), ..Topology::default() };
        assert_eq!(phase.check().unwrap_err(), "far = 40ms is out of range: 50ms to 1m");
    }

    proptest! {
        #[test]
        fn no_group_is_kept_beyond_its_number(
            list in prop::collection::vec((0u32..5, 0u64..300), 0..40),
            per_group in 1u32..4,
            protected in 0u32..12,
        ) {
            let asks = peers(&list).plan(&Topology { per_group, protected, ..Topology::default() }).unwrap().asks;
            prop_assert!(asks.len() <= protected as usize);
            let mut kept = [0; 5];
            for ask in asks {
                let Ask::Protect { peer, .. } = ask else { panic!("asked for {ask}") };
                kept[list[peer as usize].0 as usize] += 1;
            }
            prop_assert!(kept.iter().all(|kept| *kept <= per_group));
        }
    }
}
