//! Random nodes under random greedy guests, for simulated hours: whatever they ask for, what the operator set holds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::support::guests::*;
use crate::support::*;
use groundskeeper::clock::Clock;
use groundskeeper::cycle::Thresholds;
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::engine::policy::{
    BanGrant, DialGrant, DisconnectGrant, ForgetGrant, Grants, HealthGrant, PingGrant, ProtectGrant,
};
use groundskeeper::journal::{ActionKind, Initiator, Outcome, Record};
use groundskeeper::node::Options;
use groundskeeper::peer::PeerId;
use groundskeeper::registry::PhaseSpec;
use groundskeeper_sdk::host::View;
use groundskeeper_sdk::plan::Plan;
use groundskeeper_sdk::rng::Rng;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const STALE: Duration = Duration::from_secs(90);

/// What one world is made of.
#[derive(Clone, Debug)]
struct World {
    seed: u64,
    ticks: u32,
    peers: u32,
    addresses: u32,
    most: u32,
    rules: GuestCeilings,
    grants: Vec<Grants>,
}

prop_compose! {
    fn grants()(
        disconnect in (1_u32..8, 1_u32..40, 0_u32..12),
        ban in proptest::option::of((1_u32..8, 30_u64..4000)),
        health in proptest::option::of((1_u32..300, proptest::option::of(0_u32..100))),
        protect in proptest::option::of((1_u32..20, 30_u64..4000)),
        forget in proptest::option::of((1_u32..20, 0_u32..40)),
        dial in proptest::option::of(1_u32..8),
        ping in proptest::option::of(1_u32..100),
    ) -> Grants {
        let (max_per_tick, max_per_hour, min_connections_left) = disconnect;
        let seconds = Duration::from_secs;
        Grants {
            peers: true,
            book: true,
            disconnect: Some(DisconnectGrant { max_per_tick, max_per_hour, min_connections_left }),
            ban: ban.map(|(max_active, time)| BanGrant { max_active, max_duration: seconds(time) }),
            health: health.map(|(delta, floor)| HealthGrant { max_delta_per_peer_per_hour: delta, floor }),
            protect: protect.map(|(max_active, time)| ProtectGrant { max_active, max_duration: seconds(time) }),
            forget: forget.map(|(max_per_tick, min_left)| ForgetGrant { max_per_tick, min_left }),
            dial: dial.map(|max_per_tick| DialGrant { max_per_tick, ..DialGrant::default() }),
            ping: ping.map(|max_per_tick| PingGrant { max_per_tick }),
            ..Grants::default()
        }
    }
}

prop_compose! {
    fn world()(
        seed: u64,
        ticks in 60_u32..260,
        peers in 0_u32..40,
        addresses in 0_u32..60,
        most in 10_u32..60,
        budget in (0_u32..10, 0_u32..60),
        floor in 0_u32..15,
        held in (0_u32..20, 0_u32..20),
        untouchable in proptest::collection::vec(1_u32..40, 0..4),
        grants in proptest::collection::vec(grants(), 2..4),
    ) -> World {
        let rules = GuestCeilings {
            disconnects_per_tick: budget.0,
            disconnects_per_hour: budget.1,
            floor,
            protected: held.0,
            bans: held.1,
            untouchable: untouchable.into_iter().map(id).collect(),
..GuestCeilings::default()
        };
        World { seed, ticks, peers, addresses, most, rules, grants }
    }
}

/// Asks for everything there is, in an order of its own.
fn greedy(name: &str, grants: Grants) -> PhaseSpec {
    guest(name, grants, |tick, view, plan| {
        let mut random = tick.rng();
        type Greed = fn(&mut Rng, &View, &mut Plan);
        let mut kinds: [Greed; 7] = [
            |_, view, plan| view.peers().take(64).into_iter().for_each(|peer| plan.disconnect(peer, "all")),
            |_, view, plan| {
                view.peers().take(64).into_iter().for_each(|peer| plan.disconnect_if_silent(peer, "all"));
            },
            |_, view, plan| {
                let time = Duration::from_secs(86_400);
                view.peers().take(64).into_iter().for_each(|peer| plan.ban(peer, time, "all"));
            },
            |random, view, plan| {
                for peer in view.peers().take(64) {
                    plan.health(peer, random.below(300) as i32 - 200, "all");
                }
            },
            |random, view, plan| {
                let time = Duration::from_secs(random.below(7200) + 1);
                view.peers().take(64).into_iter().for_each(|peer| plan.protect(peer, time, "all"));
            },
            |_, view, plan| {
                plan.forget_addresses(Duration::from_secs(1));
                view.book().take(64).into_iter().for_each(|address| plan.dial(address, "all"));
            },
            |_, view, plan| {
                plan.ping_matching(view.peers());
                view.book().take(64).into_iter().for_each(|address| plan.probe(address));
            },
        ];
        random.shuffle(&mut kinds);
        kinds.iter().for_each(|ask| ask(&mut random, view, plan));
        Ok(())
    })
}

/// Counts what was done, from the journal alone, and says what it should not have been.
struct Watch<'a> {
    world: &'a World,
    guests: BTreeMap<String, &'a Grants>,
    seq: u64,
    /// Connections that the operator's phase protects, and until when.
    protected: HashMap<u32, Duration>,
    /// Times of the guests' disconnects, all of them and each one's, within the hour.
    disconnects: BTreeMap<Option<String>, VecDeque<Duration>>,
    health: BTreeMap<(String, PeerId), VecDeque<(Duration, u32)>>,
    /// Ends of what holds for a time, by guest.
    bans: BTreeMap<String, Vec<Duration>>,
    by_tick: HashMap<(String, ActionKind), u32>,
    done: HashMap<ActionKind, u32>,
}

fn input(record: &Record, name: &str) -> u32 {
    record.inputs.iter().find(|(known, _)| known == name).map(|(_, value)| *value).unwrap()
}

impl Watch<'_> {
    /// Goes through what the journal has got since the last tick. `live` is how many were connected before it.
    fn tick(&mut self, rig: &Rig, mut live: u32) -> Result<(), TestCaseError> {
        let now = rig.clock.mono();
        self.by_tick.clear();
        let healthy_above = 30;
        for record in rig.journal.select_after(self.seq, usize::MAX, |_| true) {
            self.seq = record.seq;
            let is_done = matches!(record.outcome, Outcome::Applied | Outcome::Started);
            match record.what {
                ActionKind::Connect => live += 1,
                ActionKind::Disconnect if is_done => live -= 1,
                _ => {}
            }
            let Initiator::Phase { name, .. } = &record.by else { continue };
            let name = name.to_string();
            if !is_done {
                continue;
            }
            let Some(grants) = self.guests.get(&name).copied() else {
                if let (ActionKind::Protect, Some(conn)) = (record.what, record.conn) {
                    self.protected.insert(conn, now + HOUR);
                }
                continue;
            };
            *self.done.entry(record.what).or_default() += 1;
            let of_tick = self.by_tick.entry((name.clone(), record.what)).or_default();
            *of_tick += record.count;
            let of_tick = *of_tick;
            let rules = &self.world.rules;
            let touched = |peer: &PeerId| rules.untouchable.contains(peer);
            match record.what {
                ActionKind::Disconnect => {
                    let grant = grants.disconnect.unwrap();
                    prop_assert!(
                        live >= rules.floor.max(grant.min_connections_left),
                        "{live} left by {record:?}"
                    );
                    prop_assert!(of_tick <= grant.max_per_tick);
                    prop_assert!(!record.peer.as_ref().is_some_and(touched));
                    let protected_until = record.conn.and_then(|conn| self.protected.get(&conn));
                    prop_assert!(protected_until.is_none_or(|until| *until <= now), "the operator's peer");
                    for (who, most) in
                        [(Some(name.clone()), grant.max_per_hour), (None, rules.disconnects_per_hour)]
                    {
                        let times = self.disconnects.entry(who).or_default();
                        times.push_back(now);
                        while times.front().is_some_and(|then| now - *then >= HOUR) {
                            times.pop_front();
                        }
                        prop_assert!(times.len() as u32 <= most, "{} of {most} in an hour", times.len());
                    }
                    let all = self.by_tick.iter().filter(|((_, what), _)| *what == ActionKind::Disconnect);
                    prop_assert!(all.map(|(_, n)| n).sum::<u32>() <= rules.disconnects_per_tick);
                }
                ActionKind::Ban => {
                    let grant = grants.ban.unwrap();
                    let cut = grant.max_duration.as_secs();
                    let cut = format!("for {cut} s, cut down from 86400 s");
                    prop_assert!(record.reason.contains(&cut), "{}", record.reason);
                    self.bans.values_mut().for_each(|ends| ends.retain(|end| *end > now));
                    self.bans.entry(name.clone()).or_default().push(now + grant.max_duration);
                    prop_assert!(self.bans[&name].len() as u32 <= grant.max_active);
                    prop_assert!(self.bans.values().map(Vec::len).sum::<usize>() as u32 <= rules.bans);
                }
                ActionKind::Health => {
                    let grant = grants.health.unwrap();
                    let (before, after) = (input(&record, "health-before"), input(&record, "health-after"));
                    let floor = grant.floor.unwrap_or(healthy_above + 1);
                    prop_assert!(after >= before.min(floor), "{before} to {after} with a floor of {floor}");
                    prop_assert!(after >= before || !record.peer.as_ref().is_some_and(touched));
                    let moves = self.health.entry((name.clone(), record.peer.unwrap())).or_default();
                    moves.push_back((now, before.abs_diff(after)));
                    while moves.front().is_some_and(|(then, _)| now - *then >= HOUR) {
                        moves.pop_front();
                    }
                    let points: u32 = moves.iter().map(|(_, points)| points).sum();
                    prop_assert!(points <= grant.max_delta_per_peer_per_hour);
                }
                ActionKind::Dial | ActionKind::Probe => {
                    let most = grants.dial.unwrap().max_per_tick;
                    // Fake dials end within the call: begun and connected are two records.
                    let begun = |what| self.by_tick.get(&(name.clone(), what)).copied().unwrap_or(0);
                    prop_assert!(
                        begun(ActionKind::Dial).div_ceil(2) + begun(ActionKind::Probe).div_ceil(2) <= most
                    );
                    if record.what == ActionKind::Dial && record.outcome == Outcome::Started {
                        prop_assert!(live < self.world.most, "{live} live of {}", self.world.most);
                    }
                }
                ActionKind::Ping => prop_assert!(of_tick <= grants.ping.unwrap().max_per_tick),
                ActionKind::ForgetAddresses => prop_assert!(of_tick <= grants.forget.unwrap().max_per_tick),
                _ => {}
            }
        }
        Ok(())
    }
}

async fn live_through(world: &World) -> Result<HashMap<ActionKind, u32>, TestCaseError> {
    let names = ["greedy-a", "greedy-b", "greedy-c"];
    let specs = names.iter().zip(&world.grants).map(|(name, grants)| greedy(name, grants.clone()));
    // The operator's own phase keeps two peers from everybody.
    let guardian = closure("guardian", 7, |_, view, plan| {
        let time = Duration::from_secs(3600);
        view.peers().take(2).into_iter().for_each(|peer| plan.protect(peer, time, "the operator's"));
        Ok(())
    });
    let thresholds = Thresholds { most: world.most, ..Default::default() };
    let options = Options { guests: world.rules.clone(), thresholds, ..Options::default() };
    let mut rig = rig_with(std::iter::once(guardian).chain(specs).collect(), options);
    let mut watch = Watch {
        world,
        guests: names.iter().map(|name| (*name).to_owned()).zip(&world.grants).collect(),
        seq: 0,
        protected: HashMap::new(),
        disconnects: BTreeMap::new(),
        health: BTreeMap::new(),
        bans: BTreeMap::new(),
        by_tick: HashMap::new(),
        done: HashMap::new(),
    };
    let mut random = Rng::new(world.seed);
    let mut next = 1;
    let mut peers = Vec::new();
    let join = |rig: &Rig, next: &mut u32| {
        *next += 1;
        (rig.pool.live() + rig.pool.closing() < 60).then(|| rig.peer(*next - 1))
    };
    (0..world.peers).for_each(|_| peers.extend(join(&rig, &mut next)));
    (0..world.addresses).for_each(|n| rig.know(1000 + n));
    for _tick in 0..world.ticks {
        // People come and go by themselves, and new addresses are told.
        if random.below(3) == 0 {
            peers.extend(join(&rig, &mut next));
        }
        if random.below(8) == 0 && !peers.is_empty() {
            peers.swap_remove(random.below(peers.len() as u64) as usize).leave();
        }
        if random.below(4) == 0 {
            rig.know(2000 + random.below(100) as u32);
        }
        // What happened between the ticks is nobody's plan.
        watch.seq = rig.journal.newest();
        let stats = |rig: &Rig| rig.pool.stats(30, STALE);
        let (before, addresses) = (stats(&rig), rig.book.len() as u32);
        rig.tick().await;
        watch.tick(&rig, before.total)?;
        let after = stats(&rig);
        let floor = world.rules.floor;
        prop_assert!(after.total >= before.total.min(floor), "{} live, then {}", before.total, after.total);
        prop_assert!(
            after.healthy >= before.healthy.min(floor),
            "{} healthy, then {}",
            before.healthy,
            after.healthy
        );
        let left = world.grants.iter().filter_map(|grants| Some(grants.forget?.min_left)).min();
        let enough = left.map_or(addresses, |least| addresses.min(least));
        prop_assert!(rig.book.len() as u32 >= enough);
        let protected = rig.pool.freeze().words().iter().filter(|word| word.protected()).count();
        let operators = watch.protected.values().filter(|until| **until > rig.clock.mono()).count();
        let most = world.rules.protected as usize + operators;
        prop_assert!(protected <= most, "{protected} protected, {operators} of them by the operator");
    }
    Ok(watch.done)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn no_ceiling_is_passed_and_the_floor_holds(world in world()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(live_through(&world))?;
    }
}

/// The worlds above are worth something only if guests get something done in them.
#[test]
fn greedy_guests_do_get_what_they_are_granted() {
    let generous = Grants {
        disconnect: Some(DisconnectGrant { max_per_tick: 2, max_per_hour: 30, min_connections_left: 3 }),
        ban: Some(BanGrant { max_active: 4, max_duration: Duration::from_secs(600) }),
        health: Some(HealthGrant { max_delta_per_peer_per_hour: 100, floor: Some(0) }),
        protect: Some(ProtectGrant { max_active: 3, max_duration: Duration::from_secs(60) }),
        forget: Some(ForgetGrant { max_per_tick: 1, min_left: 3 }),
        dial: Some(DialGrant { max_per_tick: 2, ..DialGrant::default() }),
        ping: Some(PingGrant { max_per_tick: 10 }),
        ..Grants::default()
    };
    let world = World {
        seed: 1,
        ticks: 240,
        peers: 30,
        addresses: 50,
        most: 50,
        rules: GuestCeilings {
            disconnects_per_tick: 3,
            disconnects_per_hour: 50,
            floor: 5,
            protected: 9,
            bans: 9,
            ..no_rules()
        },
        grants: vec![generous.clone(), generous],
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let done = runtime.block_on(live_through(&world)).unwrap();
    for what in [
        ActionKind::Disconnect,
        ActionKind::Ban,
        ActionKind::Health,
        ActionKind::Protect,
        ActionKind::ForgetAddresses,
        ActionKind::Dial,
        ActionKind::Probe,
        ActionKind::Ping,
    ] {
        assert!(done.get(&what).copied().unwrap_or(0) > 5, "{what:?}: {done:?}");
    }
}
