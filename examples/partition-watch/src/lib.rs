//! Detects that a part of the network is gone, tells the operator, and probes whether it is back. Drops no peer.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;

/// Compares the connections with those of the previous run, and the members of each network group with each other.
///
/// There are two signs: many connections gone at once, or every peer of a group silent while others talk. Peers come
/// and go one by one; many go together when a link breaks. It then probes the addresses reached last, which are those
/// just lost: if they answer, the link is back or was ours. It runs at every tick until there are no more signs.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct PartitionWatch {
    /// This percentage of connections lost since the last run is a sign; 1 to 100.
    pub lost_share: u32,
    /// Fewer lost connections than this are never a sign; 1 to 10000.
    pub lost_least: u32,
    /// A peer idle for this long is silent; 5s to 1h. More than the reaper's time to ping, less than its time to drop.
    pub silent_after: Span,
    /// The silence of a group with fewer peers than this is no sign; 2 to 1000.
    pub group_of: u32,
    /// Addresses probed in one run while there is a sign; 0 to 16.
    pub probes: u32,
}

impl Default for PartitionWatch {
    /// In a pool of eight, the reaper alone rarely drops a third at once. One minute is two pings.
    fn default() -> Self {
        PartitionWatch { lost_share: 34, lost_least: 3, silent_after: Span::mins(1), group_of: 3, probes: 2 }
    }
}

/// What a run stores for the next one.
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(crate = "groundskeeper_sdk::serde")]
pub struct Seen {
    /// The tick of the last run. Ticks count from the start of the node, so a lower number means a restart.
    tick: u32,
    /// Connections at the last run.
    connected: u32,
    /// Runs in a row with a sign.
    signs: u32,
}

impl Memory for Seen {}

/// The groups that fell silent, and whether all peers are silent.
struct Silence {
    groups: u32,
    everywhere: bool,
}

impl PartitionWatch {
    fn silence(&self, view: &View) -> Silence {
        let (groups, idle) = (view.column(peer::GROUP), view.column(peer::IDLE));
        let limit = self.silent_after.as_secs_up();
        let mut members: Vec<(u32, u32)> =
            groups.iter().copied().zip(idle.iter().copied()).filter(|(_, idle)| *idle != UNKNOWN).collect();
        // By group, and in each group the peer that spoke last comes first: if that is long ago, all are silent.
        members.sort_unstable();
        let mut silence = Silence { groups: 0, everywhere: !members.is_empty() };
        for group in members.chunk_by(|one, next| one.0 == next.0) {
            let silent = group[0].1 >= limit;
            silence.groups += u32::from(silent && group.len() >= self.group_of as usize);
            silence.everywhere &= silent;
        }
        silence
    }

    fn is_sign(&self, lost: u32, before: u32) -> bool {
        lost >= self.lost_least && u64::from(lost) * 100 >= u64::from(before) * u64::from(self.lost_share)
    }
}

impl Phase for PartitionWatch {
    const SUMMARY: &'static str = "notices when a part of the network is gone";

    fn check(&self) -> Result<(), String> {
        within("lost_share", self.lost_share, 1..=100)?;
        within("lost_least", self.lost_least, 1..=10_000)?;
        within("silent_after", self.silent_after, Span::secs(5)..=Span::hours(1))?;
        within("group_of", self.group_of, 2..=1_000)?;
        within("probes", self.probes, 0..=16)
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let last: Seen = view.memory()?;
        let connected = view.peers().count();
        // Peers younger than the last run are new, so all others remain from it.
        let since = Span::secs(now.since_last_s.unwrap_or(0).into());
        let stayed = connected - view.peers().under(peer::AGE, since).count();
        let before = if now.number > last.tick { last.connected } else { 0 };
        let lost = before.saturating_sub(stayed);
        let silence = self.silence(view);

        let sign = self.is_sign(lost, before) || silence.groups > 0 || silence.everywhere;
        let signs = if sign { last.signs.saturating_add(1) } else { 0 };
        match (sign, last.signs) {
            (true, 0) => plan.log(Level::Warn, self.words(lost, before, &silence)),
            (false, 1..) => {
                plan.log(Level::Info, format!("no sign of a partition any more, {connected} connected"))
            }
            _ => {}
        }
        if sign {
            let lately = view.book().is(address::WAIT, Span::ZERO).known(address::REACHED);
            lately.least(address::REACHED).take(self.probes).into_iter().for_each(|a| plan.probe(a));
            plan.again_in(1);
        }
        plan.metric_set("connections_lost", lost.into());
        plan.metric_set("groups_silent", silence.groups.into());
        plan.metric_set("suspected_runs", signs.into());
        plan.remember(&Seen { tick: now.number, connected, signs })
    }
}

impl PartitionWatch {
    fn words(&self, lost: u32, before: u32, silence: &Silence) -> String {
        match silence.everywhere {
            true => {
                format!("every peer is silent for {} or longer: this node may be cut off", self.silent_after)
            }
            false => format!(
                "{lost} of {before} connections are gone and {} network groups silent: a part of the network may be \
                 cut off",
                silence.groups
            ),
        }
    }
}

groundskeeper_sdk::export!(PartitionWatch);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::testing::{World, world};
    use proptest::prelude::*;

    use super::*;

    /// Peers with their group and idle time.
    fn peers(list: &[(u32, u64)]) -> World {
        list.iter().fold(world(), |world, (group, idle)| {
            world.peer(|p| {
                p.with(peer::GROUP, *group).with(peer::IDLE, Span::secs(*idle));
            })
        })
    }

    fn after(world: World, connected: u32, signs: u32) -> World {
        world.memory(&Seen { tick: 0, connected, signs })
    }

    /// The log lines and asks of a run.
    fn seen(world: &World) -> (Vec<String>, String) {
        let parts = world.plan(&PartitionWatch::default()).unwrap();
        let log = parts.log.into_iter().map(|line| line.text).collect();
        (log, parts.asks.iter().map(|ask| format!("{ask}; ")).collect())
    }

    #[test]
    fn many_connections_gone_at_once_are_a_sign() {
        let world = peers(&[(1, 0), (2, 0), (3, 0)]).peer(|p| {
            p.with(peer::AGE, Span::secs(29));
        });
        let world = world.address(|_| {}).address(|a| {
            a.with(address::REACHED, Span::secs(9));
        });
        let (log, asks) = seen(&after(world.clone(), 6, 0));
        assert_eq!(
            log,
            ["3 of 6 connections are gone and 0 network groups silent: a part of the network may be cut off"]
        );
        assert_eq!(asks, "probe 1; again-in 1; ");
        assert_eq!(seen(&after(world.clone(), 6, 1)), (vec![], asks), "told once");
        assert_eq!(seen(&after(world.clone(), 5, 0)), (vec![], String::new()), "two come and go");
        let over = "no sign of a partition any more, 4 connected".to_owned();
        assert_eq!(seen(&after(world, 3, 2)), (vec![over], String::new()));
    }

    #[test]
    fn a_group_that_fell_silent_is_a_sign_and_everybody_is_another() {
        let (log, asks) = seen(&after(peers(&[(1, 60), (1, 70), (1, 60), (2, 0), (3, 80)]), 5, 0));
        assert!(log[0].starts_with("0 of 5 connections are gone and 1 network groups silent"), "{log:?}");
        assert_eq!(asks, "again-in 1; ");
        let (log, _) = seen(&after(peers(&[(1, 60), (2, 70)]), 2, 0));
        assert_eq!(log, ["every peer is silent for 1m or longer: this node may be cut off"]);
        assert_eq!(seen(&after(peers(&[(1, 60), (1, 70), (2, 0)]), 3, 0)).0, [""; 0]);
    }

    #[test]
    fn the_first_run_ever_sees_no_loss() {
        let world = peers(&[(1, 0)]).tick(|tick| tick.since_last_s = None);
        assert_eq!(seen(&world), (vec![], String::new()));
        assert_eq!(seen(&self::world()), (vec![], String::new()));
    }

    #[test]
    fn a_restart_is_no_loss() {
        let world = peers(&[(1, 0)]).memory(&Seen { tick: 900, connected: 64, signs: 0 });
        assert_eq!(seen(&world), (vec![], String::new()));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let phase = PartitionWatch { group_of: 1, ..PartitionWatch::default() };
        assert_eq!(phase.check().unwrap_err(), "group_of = 1 is out of range: 2 to 1000");
    }

    proptest! {
        #[test]
        fn what_it_remembers_is_what_there_was(list in prop::collection::vec((0u32..4, 0u64..120), 0..20), signs: u32) {
            let parts = after(peers(&list), 9, signs).plan(&PartitionWatch::default()).unwrap();
            let world = world().saved(parts.memory.unwrap());
            let Seen { connected, signs: now, .. } = world.view().memory().unwrap();
            prop_assert_eq!(connected, list.len() as u32);
            prop_assert!(now == 0 || now == signs.saturating_add(1));
        }
    }
}
