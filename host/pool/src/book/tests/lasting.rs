//! What no clock, no absence and no full book may take from the book.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A clock that only moves when a test moves it.
#[derive(Default)]
struct HandClock {
    mono_s: AtomicU64,
    wall_s: AtomicU64,
}

impl Clock for HandClock {
    fn mono(&self) -> Duration {
        Duration::from_secs(self.mono_s.load(Relaxed))
    }

    fn boot(&self) -> Duration {
        self.mono()
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(self.wall_s.load(Relaxed))
    }
}

/// One process with its clock.
struct BookProcess {
    clock: Arc<HandClock>,
    book: Arc<Book>,
    pool: Arc<Pool>,
}

fn process(limits: BookLimits, entries: Vec<BookEntry>) -> BookProcess {
    let clock = Arc::new(HandClock::default());
    let journal = Journal::new(Arc::clone(&clock) as _, JournalLimits::default(), None);
    let id = PeerId::from_bytes([9; 32]);
    let pool = Pool::new(id, PoolLimits::only_capacity(8), Arc::clone(&clock) as _, Arc::clone(&journal));
    let book = Book::new(limits, Arc::clone(&clock) as _, journal);
    book.restore(entries);
    BookProcess { clock, book, pool }
}

impl BookProcess {
    /// Lets `time` pass, in which the node could hear or not.
    fn pass(&self, time: Duration, can_hear: bool) {
        self.book.note_hearing(can_hear, time);
        self.clock.mono_s.fetch_add(time.as_secs(), Relaxed);
        self.book.note_hearing(can_hear, time);
    }

    fn connect(&self, address: SocketAddr) -> Option<ConnectedGuard> {
        let (_, ticket) = self.book.begin(address, false, Initiator::Host, "test", Vec::new())?;
        Some(ticket.connected(peer(1)))
    }

    fn know(&self, n: u32) -> SocketAddr {
        self.book.learn(at(n), None, AddressSource::Itself);
        at(n)
    }

    /// A connection that lives for a minute.
    fn visit(&self, n: u32) {
        let guard = self.connect(self.know(n));
        self.pass(Duration::from_secs(60), true);
        drop(guard);
    }

    fn forget_all_that_is_old(&self) -> usize {
        self.book.forget_some(&self.pool, WEEK, usize::MAX)
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.book.entries().into_iter().map(|entry| entry.address).collect()
    }
}

#[test]
fn a_connection_of_eight_days_does_not_cost_its_address() {
    let node = process(BookLimits::default(), Vec::new());
    node.know(2);
    let guard = node.connect(node.know(1));
    node.pass(8 * DAY, true);
    assert_eq!(node.forget_all_that_is_old(), 1, "the one that is not named any more");
    drop(guard);
    assert_eq!(node.addresses(), [at(1)].into());
    assert_eq!(node.book.freeze(&node.pool).heard_s, [0], "its age begins when the connection ends");
}

#[test]
fn steps_of_the_wall_clock_age_nothing() {
    let node = process(BookLimits::default(), Vec::new());
    (0..50).for_each(|n| _ = node.know(n));
    for wall_s in [0, 1_700_000_000, 2_015_000_000, 1_385_000_000, u64::from(u32::MAX) * 2] {
        node.clock.wall_s.store(wall_s, Relaxed);
        assert_eq!(node.forget_all_that_is_old(), 0, "wall time {wall_s}");
        let ages = node.book.freeze(&node.pool).heard_s;
        assert!(ages.len() == 50 && ages.iter().all(|age| *age == 0), "wall time {wall_s}: {ages:?}");
    }
}

#[test]
fn a_restart_after_a_week_off_in_1970_without_a_network_has_the_same_addresses() {
    let before = process(BookLimits::default(), Vec::new());
    before.clock.wall_s.store(1_700_000_000, Relaxed);
    (0..20).for_each(|n| _ = before.know(n));
    before.visit(3);
    before.pass(DAY, true);
    let after = process(BookLimits::default(), before.book.entries());
    after.pass(8 * DAY, false);
    assert_eq!(after.forget_all_that_is_old(), 0);
    assert_eq!(after.addresses(), before.addresses());
    let ages: BTreeMap<SocketAddr, u32> =
        after.book.entries().into_iter().map(|entry| (entry.address, entry.heard_s)).collect();
    assert_eq!((ages[&at(3)], ages[&at(4)]), (86_400, 86_460), "ages continue where they were saved");
}

#[test]
fn the_last_good_addresses_outlive_every_age() {
    let node = process(BookLimits::default(), Vec::new());
    let all = LAST_GOOD as u32 + 6;
    (0..all).for_each(|n| node.visit(n));
    (1000..1010).for_each(|n| _ = node.know(n));
    node.pass(400 * DAY, true);
    let aged = AgedAddresses { forgettable: 16, kept: LAST_GOOD };
    assert_eq!(node.book.aged(&node.pool, WEEK), aged);
    assert_eq!(node.forget_all_that_is_old(), 16);
    assert_eq!(node.addresses(), (6..all).map(at).collect(), "the newest are left");
    assert_eq!(node.forget_all_that_is_old(), 0);
}

#[test]
fn strangers_that_name_themselves_do_not_replace_addresses_that_answered() {
    let node = process(BookLimits::default(), Vec::new());
    (0..8).for_each(|n| node.visit(n));
    for n in 100..400 {
        // Inbound: nothing shows that the stranger listens there.
        let guard = node.book.connected_guard(node.know(n));
        node.pass(Duration::from_secs(1), true);
        drop(guard);
    }
    node.pass(400 * DAY, true);
    node.forget_all_that_is_old();
    let left = node.addresses();
    assert!((0..8).all(|n| left.contains(&at(n))), "{left:?}");
    assert_eq!(left.len(), LAST_GOOD);
}

#[test]
fn a_full_book_gives_up_no_connected_and_no_good_address() {
    let node = process(BookLimits { capacity: 16, ..BookLimits::default() }, Vec::new());
    node.book.learn(at(0), None, AddressSource::Bootstrap);
    let _connected = node.connect(node.know(1));
    (2..8).for_each(|n| node.visit(n));
    for n in 2..8 {
        let (_, ticket) = node.book.begin(at(n), false, Initiator::Host, "test", Vec::new()).unwrap();
        ticket.failed(&DialFailure::Refused);
    }
    for n in 100..300 {
        node.book.learn(at(n), None, AddressSource::Itself);
    }
    let rows: BTreeSet<SocketAddr> = node.book.freeze(&node.pool).addresses.into_iter().collect();
    assert_eq!(node.book.len(), 16);
    assert!((0..1).chain(2..8).all(|n| rows.contains(&at(n))), "{rows:?}");
    assert!(node.addresses().contains(&at(1)));
}

#[test]
fn a_smaller_book_keeps_the_best_entries_of_a_larger_one() {
    let large = process(BookLimits::default(), Vec::new());
    (0..200).for_each(|n| _ = large.know(n));
    (190..200).for_each(|n| large.visit(n));
    let small = process(BookLimits { capacity: 16, ..BookLimits::default() }, large.book.entries());
    let left = small.addresses();
    assert!(left.len() == 16 && (190..200).all(|n| left.contains(&at(n))), "{left:?}");
}

#[test]
fn connections_that_are_turned_back_to_this_node_do_not_empty_the_book() {
    let node = process(BookLimits::default(), Vec::new());
    node.visit(1);
    node.know(2);
    let before = node.book.changes();
    for n in 1..3 {
        let (_, ticket) = node.book.begin(at(n), false, Initiator::Host, "test", Vec::new()).unwrap();
        ticket.failed(&DialFailure::SelfDial);
    }
    assert_eq!(node.addresses(), [at(1)].into());
    assert!(node.book.changes() > before, "a removed address has to be removed from the disk, too");
}

#[test]
fn addresses_of_a_connected_peer_stay_young_without_a_guard() {
    struct Silent;
    impl crate::pool::Link for Silent {
        fn ping(&self) {}

        fn close(&self, _: &crate::pool::Goodbye) {}
    }
    let node = process(BookLimits::default(), Vec::new());
    node.book.learn(at(1), Some(peer(5)), AddressSource::Told(NetGroup(1)));
    let facts =
        crate::pool::PeerFacts { id: peer(5), address: at(900), direction: crate::pool::Direction::Inbound };
    let slot = node.pool.attach(facts, Arc::new(Silent)).unwrap();
    node.pass(8 * DAY, true);
    assert_eq!(node.forget_all_that_is_old(), 0);
    drop(slot);
    assert_eq!(node.book.freeze(&node.pool).heard_s, [0]);
}

/// One thing that happens to a node.
#[derive(Clone, Copy, Debug)]
enum NodeEvent {
    StepWall(u64),
    Pass { hours: u64, can_hear: bool },
    Connect(u32),
    Disconnect(u32),
    Strangers(u32),
    Forget,
    Restart { hours_off: u64 },
}

fn event() -> impl Strategy<Value = NodeEvent> {
    prop_oneof![
        any::<u32>().prop_map(|wall_s| NodeEvent::StepWall(wall_s.into())),
        (1_u64..600, any::<bool>()).prop_map(|(hours, can_hear)| NodeEvent::Pass { hours, can_hear }),
        (0_u32..40).prop_map(NodeEvent::Connect),
        (0_u32..40).prop_map(NodeEvent::Disconnect),
        (0_u32..10_000).prop_map(|n| NodeEvent::Strangers(1000 + n)),
        Just(NodeEvent::Forget),
        (0_u64..600).prop_map(|hours_off| NodeEvent::Restart { hours_off }),
    ]
}

proptest! {
    #[test]
    fn whatever_clocks_absences_and_strangers_do_the_last_good_addresses_stay(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        // Half of the capacity is for good ones: room for the newest 12 of 40.
        const GOOD: usize = 12;
        let limits = BookLimits { capacity: 2 * GOOD, ..BookLimits::default() };
        let mut node = process(limits, Vec::new());
        let mut connected: BTreeMap<u32, ConnectedGuard> = BTreeMap::new();
        // When the last connection to each ended, newest last.
        let mut good: Vec<(usize, u32)> = Vec::new();
        for (time, event) in events.into_iter().enumerate() {
            match event {
                NodeEvent::StepWall(wall_s) => node.clock.wall_s.store(wall_s, Relaxed),
                NodeEvent::Pass { hours, can_hear } => {
                    // A node without connections cannot hear.
                    node.pass(Duration::from_secs(hours * 3600), can_hear && !connected.is_empty());
                }
                NodeEvent::Connect(n) if connected.len() < GOOD => {
                    node.know(n);
                    if !connected.contains_key(&n) && let Some(guard) = node.connect(at(n)) {
                        node.pass(Duration::from_secs(60), true);
                        connected.insert(n, guard);
                        good.retain(|(_, other)| *other != n);
                    }
                }
                NodeEvent::Connect(_) => {}
                NodeEvent::Disconnect(n) => {
                    if connected.remove(&n).is_some() {
                        good.push((time, n));
                        node.pass(Duration::from_secs(60), true);
                    }
                }
                NodeEvent::Strangers(n) => {
                    for n in n..n + 30 {
                        drop(node.book.connected_guard(node.know(n)));
                    }
                }
                NodeEvent::Forget => _ = node.forget_all_that_is_old(),
                NodeEvent::Restart { hours_off } => {
                    let entries = node.book.entries();
                    let wall_s = node.clock.wall_s.load(Relaxed) + hours_off * 3600;
                    // A process that ends loses its connections all at once.
                    good.extend(connected.keys().map(|n| (time, *n)));
                    connected.clear();
                    node = process(limits, entries);
                    node.clock.wall_s.store(wall_s, Relaxed);
                }
            }
            let held = node.addresses();
            // Of several that ended at the same time, any may be the first that is not among the newest.
            let too_old = good.len().checked_sub(GOOD + 1).map(|at| good[at].0);
            let newest = good.iter().filter(|(time, _)| too_old.is_none_or(|too_old| *time > too_old));
            for n in newest.map(|(_, n)| n).chain(connected.keys()) {
                prop_assert!(held.contains(&at(*n)), "{n} is lost after {event:?}");
            }
            good.retain(|(_, n)| held.contains(&at(*n)));
        }
    }
}
