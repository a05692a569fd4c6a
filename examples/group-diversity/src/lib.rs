//! Keeps one network group from holding too many connections. Uses groups only, never what a peer says about itself.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;

/// Drops the worst peers of the largest network group while it holds more than its share.
///
/// Addresses in one /16 are cheap, addresses in many of them are not: an attacker who holds most connections of a node
/// from one group can cut it off. Inbound peers go first, because we chose the others; then the least healthy, then the
/// youngest, because an attacker's connections are young. Reads one column, and the facts of one group.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct GroupDiversity {
    /// Percent of all connections that one group may hold; 1 to 100.
    pub max_share: u32,
    /// A group of this size is never too large: shares of a few connections mean nothing; 1 to 10000.
    pub always: u32,
    /// At least this many connections are kept, or the operator's floor if that is higher; 0 to 1000000.
    pub keep: u32,
    /// Disconnects in one run; 1 to 64.
    pub max_per_run: u32,
}

impl Default for GroupDiversity {
    /// A quarter: four groups must act together to hold all connections. One drop per run, so that the replacement is
    /// connected before the next drop.
    fn default() -> Self {
        GroupDiversity { max_share: 25, always: 3, keep: 8, max_per_run: 1 }
    }
}

impl Phase for GroupDiversity {
    const SUMMARY: &'static str = "keeps one network group from holding too many connections";

    fn check(&self) -> Result<(), String> {
        within("max_share", self.max_share, 1..=100)?;
        within("always", self.always, 1..=10_000)?;
        within("keep", self.keep, 0..=1_000_000)?;
        within("max_per_run", self.max_per_run, 1..=64)
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let totals = view.totals();
        let spare = totals.connected.saturating_sub(self.keep.max(totals.least));
        let allowed = (u64::from(totals.connected) * u64::from(self.max_share) / 100) as u32;
        let allowed = allowed.max(self.always);

        let Some((group, held)) = largest(&view.column(peer::GROUP)) else { return Ok(()) };
        let surplus = held.saturating_sub(allowed).min(self.max_per_run).min(spare);
        if surplus == 0 {
            return Ok(());
        }
        for peer in worst_first(view, group).into_iter().take(surplus as usize) {
            plan.disconnect(
                peer,
                format!("{held} of {} connections in one network group (limit {allowed})", totals.connected),
            );
        }
        Ok(())
    }
}

/// The group with the most members and its size. Of equally large groups it is the lowest one.
fn largest(groups: &[u32]) -> Option<(u32, u32)> {
    let mut groups: Vec<u32> = groups.iter().copied().filter(|group| *group != UNKNOWN).collect();
    // Sorting and counting in a row is several times as fast as a map with as many groups as peers.
    groups.sort_unstable();
    let members = groups.chunk_by(|one, next| one == next).map(|group| (group[0], group.len() as u32));
    members.rev().max_by_key(|(_, count)| *count)
}

/// The unprotected peers of a group: inbound first, then the least healthy, then the youngest.
fn worst_first(view: &View, group: u32) -> Vec<Peer> {
    let members =
        view.peers().is(peer::GROUP, group).is(peer::PROTECTED, false).least(peer::HEALTH).take(16_384);
    let facts = view.facts(&members, (peer::INBOUND, peer::HEALTH, peer::AGE));
    let mut members: Vec<_> = members.into_iter().zip(facts).collect();
    members.sort_by_key(|(_, [inbound, health, age])| (*inbound == 0, *health, *age));
    members.into_iter().map(|(peer, _)| peer).collect()
}

groundskeeper_sdk::export!(GroupDiversity);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::host::Ask;
    use groundskeeper_sdk::testing::{World, world};
    use proptest::prelude::*;

    use super::*;

    fn grouped(groups: &[u32]) -> World {
        groups.iter().fold(world(), |world, group| {
            world.peer(|p| {
                p.with(peer::GROUP, *group);
            })
        })
    }

    #[test]
    fn the_worst_of_the_largest_group_goes() {
        let world = grouped(&[1, 2, 2, 3, 4, 5, 6, 7, 8])
            .peer(|p| {
                p.with(peer::GROUP, 2).with(peer::INBOUND, true).with(peer::AGE, Span::mins(9));
            })
            .peer(|p| {
                p.with(peer::GROUP, 2).with(peer::INBOUND, true).with(peer::AGE, Span::mins(2));
            })
            .peer(|p| {
                p.with(peer::GROUP, 2)
                    .with(peer::INBOUND, true)
                    .with(peer::HEALTH, 1)
                    .with(peer::PROTECTED, true);
            });
        assert_eq!(
            world.run(&GroupDiversity { max_per_run: 3, ..GroupDiversity::default() }).unwrap(),
            "disconnect 10: 5 of 12 connections in one network group (limit 3)\n\
             disconnect 9: 5 of 12 connections in one network group (limit 3)\n"
        );
    }

    #[test]
    fn small_pools_and_small_groups_are_left_alone() {
        assert_eq!(grouped(&[1, 1, 1, 1, 1, 1, 1, 1]).run(&GroupDiversity::default()).unwrap(), "");
        assert_eq!(grouped(&[1, 1, 1, 2, 3, 4, 5, 6, 7]).run(&GroupDiversity::default()).unwrap(), "");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = GroupDiversity { max_share: 0, ..GroupDiversity::default() };
        assert_eq!(phase.check().unwrap_err(), "max_share = 0 is out of range: 1 to 100");
    }

    proptest! {
        #[test]
        fn run_after_run_every_group_gets_down_to_its_share(
            mut groups in prop::collection::vec(1u32..12, 0..60),
            max_share in 10u32..=100,
        ) {
            let phase = GroupDiversity { max_share, ..GroupDiversity::default() };
            for _ in 0..60 {
                let asks = grouped(&groups).plan(&phase).unwrap().asks;
                prop_assert!(asks.len() <= 1);
                let Some(Ask::Disconnect { peer, .. }) = asks.first() else { break };
                groups.remove(*peer as usize);
            }
            let (_, most) = largest(&groups).unwrap_or_default();
            let allowed = (groups.len() as u32 * max_share / 100).max(phase.always);
            prop_assert!(most <= allowed || groups.len() <= phase.keep as usize, "{groups:?}");
        }
    }
}
