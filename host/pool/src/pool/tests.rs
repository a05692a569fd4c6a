//! Compares the pool with a simple model, and tests the races that its rules close. One process, no network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;

use groundskeeper_base::clock::TokioClock;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::journal::JournalLimits;

#[derive(Default)]
struct FakeLink {
    boot: u64,
    pings: AtomicUsize,
    closed: Mutex<Vec<Goodbye>>,
    aborts: AtomicUsize,
}

impl Link for FakeLink {
    fn ping(&self) {
        self.pings.fetch_add(1, Relaxed);
    }

    fn close(&self, why: &Goodbye) {
        self.closed.lock().push(why.clone());
    }

    fn abort(&self) {
        self.aborts.fetch_add(1, Relaxed);
    }

    fn boot_nonce(&self) -> u64 {
        self.boot
    }
}

fn id(n: u32) -> PeerId {
    let mut bytes = [0; 32];
    bytes[28..].copy_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn at(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)), 7420)
}

/// The middle of the range that `id` makes, so that there are smaller and larger peer ids.
const SELF: u32 = 1_000;

fn pool_with(limits: PoolLimits) -> Arc<Pool> {
    let clock: Arc<dyn Clock> = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let journal = Journal::new(Arc::clone(&clock), JournalLimits::default(), None);
    Pool::new(id(SELF), limits, clock, journal)
}

fn pool(capacity: u32) -> Arc<Pool> {
    pool_with(PoolLimits::only_capacity(capacity))
}

fn join(pool: &Arc<Pool>, n: u32, direction: Direction, boot: u64) -> Result<(Slot, Arc<FakeLink>), Denied> {
    let link = Arc::new(FakeLink { boot, ..FakeLink::default() });
    let facts = PeerFacts { id: id(n), address: at(n), direction };
    pool.attach(facts, Arc::clone(&link) as Arc<dyn Link>).map(|slot| (slot, link))
}

fn by_phase(reason: &str) -> Removal {
    let by = Initiator::Phase { name: "reaper".into(), version: "1".into() };
    Removal::new(by, Cause::Phase, reason)
}

#[tokio::test(start_paused = true)]
async fn a_connection_enters_once_and_leaves_once() {
    let pool = pool(4);
    let (slot, link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    assert_eq!((pool.live(), pool.find(&id(1))), (1, Some(slot.key())));
    assert_eq!(pool.peers()[0].1.address, at(1));
    assert_eq!(pool.disconnect(slot.key(), by_phase("slow"), None), DisconnectOutcome::Closed);
    assert_eq!(pool.disconnect(slot.key(), by_phase("slow"), None), DisconnectOutcome::Gone);
    assert_eq!((pool.live(), pool.closing(), pool.find(&id(1))), (0, 1, None));
    assert_eq!(*link.closed.lock(), [Goodbye { cause: Cause::Phase, text: "slow".into() }]);
    // The owner's own reason comes too late: the first one stands.
    slot.retire(Removal::new(Initiator::Remote, Cause::RemoteClosed, "closed"));
    assert_eq!((pool.closing(), pool.removals(), pool.journal.disconnects()), (0, 1, 1));
    assert_eq!(pool.journal.disconnects_by(Cause::Phase), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_spoke_stays_if_the_reason_was_silence_and_goes_if_it_was_not() {
    let pool = pool(4);
    let (slot, _link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    let view = slot.last_seen();
    tokio::time::advance(Duration::from_secs(100)).await;
    slot.peer_seen(pool.clock.coarse());
    assert_eq!(pool.disconnect(slot.key(), by_phase("silent"), Some(view)), DisconnectOutcome::Spoke);
    assert_eq!(pool.disconnect(slot.key(), by_phase("slow"), None), DisconnectOutcome::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_on_terms_or_not_at_all() {
    let pool = pool(4);
    let (slot, _link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    let (_other, _link) = join(&pool, 2, Direction::Inbound, 0).unwrap();
    let terms = DisconnectTerms { keep: 1, ban_for: Some(Duration::from_secs(60)), unless_seen_since: None };
    let end = |terms| pool.disconnect_on(slot.key(), by_phase("slow"), terms);
    assert_eq!(end(DisconnectTerms { keep: 2, ..terms }), DisconnectOutcome::TooFew);
    assert_eq!((pool.live(), pool.bans()), (2, 0), "no ban without an end");
    assert_eq!(end(terms), DisconnectOutcome::Closed);
    assert_eq!((pool.live(), pool.bans()), (1, 1));
    assert_eq!(end(terms), DisconnectOutcome::Gone);
    drop(slot);
    assert!(matches!(join(&pool, 1, Direction::Inbound, 1), Err(Denied::Banned(60))));
}

#[tokio::test]
async fn concurrent_disconnects_leave_the_number_to_keep() {
    let pool = pool(64);
    let slots: Vec<_> = (1..=40).map(|n| join(&pool, n, Direction::Inbound, 0).unwrap().0).collect();
    std::thread::scope(|threads| {
        for part in slots.chunks(10) {
            let pool = &pool;
            threads.spawn(move || {
                let terms = DisconnectTerms { keep: 7, ..DisconnectTerms::default() };
                part.iter().for_each(|slot| _ = pool.disconnect_on(slot.key(), by_phase("all"), terms));
            });
        }
    });
    assert_eq!(pool.live(), 7);
}

#[tokio::test(start_paused = true)]
async fn health_is_lowered_to_the_floor_and_raised_from_below_it() {
    let pool = pool(1);
    let (slot, _link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    for (by, floor, moved) in
        [(-50, 60, (100, 60)), (-5, 60, (60, 60)), (-40, 0, (60, 20)), (-9, 60, (20, 20)), (9, 60, (20, 29))]
    {
        assert_eq!(pool.adjust_health(slot.key(), by, floor), Some(moved));
    }
}

#[tokio::test(start_paused = true)]
async fn stale_keys_never_reach_the_next_tenant() {
    let pool = pool(1);
    let (first, _link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    let old = first.key();
    drop(first);
    let (second, _link) = join(&pool, 2, Direction::Inbound, 0).unwrap();
    assert_eq!(second.key().slot, old.slot);
    assert_eq!(pool.disconnect(old, by_phase("slow"), None), DisconnectOutcome::Gone);
    assert_eq!(pool.adjust_health(old, -50, 0), None);
    assert_eq!((pool.name(old), pool.link(old).is_none()), (None, true));
    assert_eq!(pool.journal.disconnects_by(Cause::OwnerDropped), 1);
    assert_eq!(pool.live(), 1);
}

#[tokio::test(start_paused = true)]
async fn limits_count_everything_that_is_not_vacant() {
    let pool = pool_with(PoolLimits { capacity: 5, inbound: 2, outbound: 2, per_group: 3, handshakes: 1 });
    let first = pool.admit(Direction::Inbound, at(1)).unwrap();
    assert!(
        matches!(pool.admit(Direction::Inbound, at(2)), Err(Denied::Limit(words)) if words.contains("handshakes"))
    );
    let first = first.go_live(id(1), Arc::new(FakeLink::default())).unwrap();
    let second = pool.admit(Direction::Inbound, at(2)).unwrap();
    assert!(
        matches!(pool.admit(Direction::Inbound, at(3)), Err(Denied::Limit(words)) if words.contains("inbound"))
    );
    let third = pool.admit(Direction::Outbound, at(3)).unwrap();
    assert!(
        matches!(pool.admit(Direction::Outbound, at(4)), Err(Denied::Limit(words)) if words.contains("group"))
    );
    let elsewhere = pool.admit(Direction::Outbound, "[2a00::1]:1".parse().unwrap()).unwrap();
    // A closing connection still holds its slot.
    pool.disconnect(first.key(), by_phase("slow"), None);
    drop(second);
    let _second = pool.admit(Direction::Inbound, at(2)).unwrap();
    assert!(matches!(pool.admit(Direction::Inbound, at(4)), Err(Denied::Limit(_))));
    drop((first, third, elsewhere));
    assert_eq!(pool.stats(30, Duration::from_secs(90)), PoolStats { handshaking: 1, ..PoolStats::default() });
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_came_back_replaces_its_ghost_and_crossed_dials_agree() {
    for (peer, direction, old_direction, new_wins) in [
        // The smaller id's dial is kept: for a peer below us, its own (inbound); for one above us, ours (outbound).
        (1, Direction::Inbound, Direction::Outbound, true),
        (1, Direction::Outbound, Direction::Inbound, false),
        (2_000, Direction::Outbound, Direction::Inbound, true),
        (2_000, Direction::Inbound, Direction::Outbound, false),
        (1, Direction::Inbound, Direction::Inbound, false),
    ] {
        let pool = pool(4);
        let (old, link) = join(&pool, peer, old_direction, 7).unwrap();
        let same_boot = join(&pool, peer, direction, 7);
        assert_eq!(same_boot.is_ok(), new_wins, "{peer} {direction:?}");
        assert_eq!(link.closed.lock().len(), usize::from(new_wins));
        drop(old);
        let (_ghost, ghost) = join(&pool, peer, direction, 8).unwrap_or_else(|_| same_boot.unwrap());
        let (_back, _) = join(&pool, peer, old_direction, 9).unwrap();
        assert_eq!(ghost.closed.lock()[0].cause, Cause::Replaced);
        assert_eq!(pool.live(), 1);
        assert_eq!(pool.removals(), pool.journal.disconnects());
    }
}

#[tokio::test(start_paused = true)]
async fn bans_refuse_the_key_and_expire_by_themselves() {
    let pool = pool(4);
    pool.ban(id(1), Duration::from_secs(60));
    assert_eq!(join(&pool, 1, Direction::Inbound, 0).err(), Some(Denied::Banned(60)));
    assert_eq!(join(&pool, SELF, Direction::Outbound, 0).err(), Some(Denied::SelfDial));
    assert_eq!(pool.bans(), 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(pool.bans(), 0);
    assert!(join(&pool, 1, Direction::Inbound, 0).is_ok());
    assert_eq!(pool.stats(30, Duration::MAX).handshaking, 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_let_go_is_aborted_once() {
    let pool = pool(4);
    let (slot, link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    pool.disconnect(slot.key(), by_phase("slow"), None);
    tokio::time::advance(CLOSING_DEADLINE - Duration::from_millis(200)).await;
    assert_eq!(pool.abort_overdue(), 0);
    tokio::time::advance(Duration::from_millis(400)).await;
    assert_eq!((pool.abort_overdue(), pool.abort_overdue()), (1, 0));
    assert_eq!((link.aborts.load(Relaxed), pool.aborted(), pool.closing()), (1, 1, 1));
    drop(slot);
    assert_eq!((pool.closing(), pool.journal.disconnects()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn protection_ends_by_itself_and_with_the_connection() {
    let pool = pool(4);
    let (slot, _link) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    let protected = |pool: &Arc<Pool>| pool.freeze().words()[0].protected();
    assert!(pool.protect(slot.key(), Duration::from_secs(10)) && protected(&pool));
    tokio::time::advance(Duration::from_secs(10)).await;
    pool.expire_protection();
    assert!(!protected(&pool));
    pool.protect(slot.key(), Duration::from_secs(10));
    // A shorter protection does not shorten the first.
    pool.protect(slot.key(), Duration::from_secs(1));
    tokio::time::advance(Duration::from_secs(9)).await;
    pool.expire_protection();
    assert!(protected(&pool));
    drop(slot);
    let (_next, _link) = join(&pool, 2, Direction::Inbound, 0).unwrap();
    assert!(!protected(&pool));
}

#[tokio::test(start_paused = true)]
async fn smoothed_rtt_and_stats_are_what_they_say() {
    let pool = pool(8);
    let (first, _a) = join(&pool, 1, Direction::Inbound, 0).unwrap();
    first.pong(Duration::from_micros(800));
    first.pong(Duration::from_micros(1600));
    assert_eq!(pool.freeze_rtt(&pool.freeze()), [900]);
    tokio::time::advance(Duration::from_secs(90)).await;
    let (second, _b) = join(&pool, 2, Direction::Outbound, 0).unwrap();
    assert_eq!(pool.adjust_health(second.key(), -70, 0), Some((100, 30)));
    assert!(first.is_stale(Duration::from_secs(90)) && !second.is_stale(Duration::from_secs(1)));
    let stats = pool.stats(30, Duration::from_secs(90));
    let expected = PoolStats {
        total: 2,
        healthy: 1,
        stale: 1,
        avg_health: 65,
        oldest_s: 90,
        inbound: 1,
        outbound: 1,
        handshaking: 0,
        closing: 0,
    };
    assert_eq!(stats, expected);
}

#[derive(Clone, Debug)]
enum Step {
    Admit(bool),
    GoLive(usize, u32),
    Drop(usize),
    Retire(usize),
    Disconnect(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<bool>().prop_map(Step::Admit),
        (any::<usize>(), 1_u32..12).prop_map(|(at, peer)| Step::GoLive(at, peer)),
        any::<usize>().prop_map(Step::Drop),
        any::<usize>().prop_map(Step::Retire),
        any::<usize>().prop_map(Step::Disconnect),
    ];
    proptest::collection::vec(step, 1..200)
}

/// Each connection: direction, health, seconds since the epoch at its start, whether it is protected.
#[tokio::test(start_paused = true)]
async fn over_a_limit_the_worst_end_first_of_these_the_youngest_and_protected_ones_last() {
    use Direction::{Inbound, Outbound};
    let rows = [
        (Inbound, 90, 10, false),
        (Inbound, 20, 10, false),
        (Outbound, 1, 90, false),
        (Inbound, 20, 30, false),
        (Inbound, 5, 50, true),
    ];
    let pool = pool(8);
    let mut slots = Vec::new();
    for (n, (direction, health, _, protected)) in (1..).zip(rows) {
        let facts = PeerFacts { id: id(n), address: at(n), direction };
        let slot = pool.attach(facts, Arc::new(FakeLink::default())).unwrap();
        pool.adjust_health(slot.key(), health - i32::from(pool.health(slot.key()).unwrap()), 0);
        assert!(!protected || pool.protect(slot.key(), Duration::from_secs(60)));
        slots.push(slot);
    }
    let frozen = pool.freeze();
    let since = rows.map(|(_, _, since, _)| since);
    let chosen = |direction, limit| -> Vec<usize> {
        let keys = over_limit(&frozen, &since, direction, limit);
        keys.iter().map(|key| slots.iter().position(|slot| slot.key() == *key).unwrap()).collect()
    };
    for (direction, limit, expected) in [
        (Inbound, 9, &[][..]),
        (Inbound, 4, &[]),
        (Inbound, 3, &[3]),
        (Inbound, 1, &[3, 1, 0]),
        (Inbound, 0, &[3, 1, 0, 4]),
        (Outbound, 1, &[]),
        (Outbound, 0, &[2]),
    ] {
        assert_eq!(chosen(direction, limit), expected, "{direction:?} {limit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn counts_index_and_journal_agree_with_a_plain_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _inside = runtime.enter();
        let pool = pool(6);
        let (mut shaking, mut live): (Vec<Admission>, Vec<(u32, Slot)>) = (Vec::new(), Vec::new());
        for step in steps {
            let pick = |at: usize, len: usize| (len > 0).then(|| at % len);
            match step {
                Step::Admit(inbound) => {
                    let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
                    let room = shaking.len() + live.len() < 6;
                    let admitted = pool.admit(direction, at(9));
                    prop_assert_eq!(admitted.is_ok(), room);
                    shaking.extend(admitted);
                }
                Step::GoLive(at, peer) => if let Some(at) = pick(at, shaking.len()) {
                    let joined = shaking.remove(at).go_live(id(peer), Arc::new(FakeLink::default()));
                    live.extend(joined.map(|slot| (peer, slot)));
                },
                Step::Drop(at) => if let Some(at) = pick(at, live.len()) {
                    drop(live.remove(at));
                },
                Step::Retire(at) => if let Some(at) = pick(at, live.len()) {
                    live.remove(at).1.retire(Removal::new(Initiator::Remote, Cause::RemoteClosed, "closed"));
                },
                Step::Disconnect(at) => if let Some(at) = pick(at, live.len()) {
                    pool.disconnect(live[at].1.key(), by_phase("model"), None);
                },
            }
            let stats = pool.stats(30, Duration::MAX);
            let found: HashMap<u32, ConnKey> =
                (1..12).filter_map(|peer| Some((peer, pool.find(&id(peer))?))).collect();
            prop_assert_eq!(stats.total as usize, found.len());
            prop_assert_eq!(stats.total, pool.live());
            prop_assert_eq!(stats.handshaking as usize, shaking.len());
            prop_assert_eq!((stats.total + stats.closing) as usize, live.len());
            prop_assert_eq!(stats.closing, pool.closing());
            prop_assert_eq!(pool.freeze().len(), found.len());
            prop_assert_eq!(pool.removals(), pool.journal.disconnects());
            for (peer, key) in found {
                prop_assert!(live.iter().any(|(other, slot)| *other == peer && slot.key() == key));
            }
        }
        drop((shaking, live));
        prop_assert_eq!(pool.stats(30, Duration::MAX), PoolStats::default());
        let members = pool.members.lock();
        prop_assert_eq!(members.counts(), (0, 0, 0));
    }
}
