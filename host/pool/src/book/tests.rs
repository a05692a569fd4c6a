//! What the book accepts, shares and forgets, and how it backs off.

use std::net::{IpAddr, Ipv4Addr};

use groundskeeper_base::clock::TokioClock;

use super::*;
use crate::journal::{Initiator, JournalLimits, Outcome};
use crate::pool::PoolLimits;

struct Desk {
    book: Arc<Book>,
    pool: Arc<Pool>,
    journal: Arc<Journal>,
}

fn desk(limits: BookLimits) -> Desk {
    let clock: Arc<dyn Clock> = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let journal = Journal::new(Arc::clone(&clock), JournalLimits::default(), None);
    let pool = Pool::new(
        PeerId::from_bytes([9; 32]),
        PoolLimits::only_capacity(8),
        Arc::clone(&clock),
        Arc::clone(&journal),
    );
    Desk { book: Book::new(limits, clock, Arc::clone(&journal)), pool, journal }
}

fn at(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0800_0000 + n)), 7420)
}

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn begin(desk: &Desk, address: SocketAddr) -> DialAttempt {
    desk.book.begin(address, false, Initiator::Host, "test", Vec::new()).expect("in the book and idle").1
}

#[tokio::test(start_paused = true)]
async fn poisoned_addresses_are_refused_and_one_group_cannot_fill_the_book() {
    let desk = desk(BookLimits { per_source_group: 3, ..BookLimits::default() });
    let liar = AddressSource::Told(NetGroup(1));
    for bad in ["1.2.3.4:0", "0.0.0.0:1", "10.0.0.1:1", "127.0.0.1:1", "224.0.0.1:1", "[::]:1", "[fe80::1]:1"]
    {
        assert!(
            matches!(desk.book.learn(bad.parse().unwrap(), None, liar), LearnOutcome::Refused(_)),
            "{bad}"
        );
    }
    (0..10).for_each(|n| _ = desk.book.learn(at(n), None, liar));
    assert_eq!(desk.book.len(), 3);
    assert_eq!(desk.book.learn(at(20), None, AddressSource::Told(NetGroup(2))), LearnOutcome::New);
    assert_eq!(
        desk.book.learn("10.0.0.1:1".parse().unwrap(), None, AddressSource::Bootstrap),
        LearnOutcome::New
    );
    assert_eq!(desk.book.learn("[::ffff:8.0.0.20]:7420".parse().unwrap(), None, liar), LearnOutcome::Known);
}

#[tokio::test(start_paused = true)]
async fn a_full_book_drops_the_worst_and_never_a_bootstrap_node() {
    let desk = desk(BookLimits { capacity: 3, ..BookLimits::default() });
    desk.book.learn(at(0), None, AddressSource::Bootstrap);
    desk.book.learn(at(1), None, AddressSource::Itself);
    desk.book.learn(at(2), None, AddressSource::Itself);
    begin(&desk, at(0)).failed(&DialFailure::Refused);
    begin(&desk, at(2)).failed(&DialFailure::Refused);
    assert_eq!(desk.book.learn(at(3), None, AddressSource::Told(NetGroup(5))), LearnOutcome::New);
    assert_eq!(desk.book.freeze(&desk.pool).addresses, [at(0), at(1), at(3)]);
    assert!(matches!(
        desk.book.learn(at(4), None, AddressSource::Told(NetGroup(5))),
        LearnOutcome::Refused(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_with_jitter_within_their_bound() {
    let limits = BookLimits::default();
    let desk = desk(limits);
    desk.book.learn(at(1), None, AddressSource::Itself);
    for round in 0..12_u32 {
        begin(&desk, at(1)).failed(&DialFailure::TimedOut);
        let rows = desk.book.freeze(&desk.pool);
        let bound = (limits.backoff_first * 2_u32.pow(round)).min(limits.backoff_most);
        assert_eq!(rows.failures, [round + 1]);
        assert!(u64::from(rows.wait_s[0]) <= bound.as_secs(), "round {round}: {} s", rows.wait_s[0]);
    }
    desk.book.cap_waits(Some(Duration::from_secs(3)));
    assert!(desk.book.freeze(&desk.pool).wait_s[0] <= 3);
    for _ in 0..64 {
        begin(&desk, at(1)).failed(&DialFailure::TimedOut);
        assert!(desk.book.freeze(&desk.pool).wait_s[0] <= 3, "waits that begin later are capped too");
    }
    desk.book.cap_waits(None);
    let long = |_| {
        begin(&desk, at(1)).failed(&DialFailure::TimedOut);
        desk.book.freeze(&desk.pool).wait_s[0] > 3
    };
    assert!((0..64).any(long), "until the cap is lifted");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_prefers_another_process_with_our_key_is_left_alone_for_longer_each_time() {
    let limits = BookLimits::default();
    let desk = desk(limits);
    desk.book.learn(at(1), None, AddressSource::Itself);
    desk.book.cap_waits(Some(Duration::from_secs(1)));
    for round in 0..12_u32 {
        let mut guard = begin(&desk, at(1)).connected(peer(1));
        // It lived, so another end would clear the failures.
        tokio::time::advance(2 * limits.min_life).await;
        guard.taken_over();
        drop(guard);
        desk.book.cap_waits(Some(Duration::from_secs(1)));
        let rows = desk.book.freeze(&desk.pool);
        let bound = (limits.backoff_first * 2_u32.pow(round)).min(limits.backoff_most);
        assert_eq!(rows.failures, [round + 1]);
        let wait = Duration::from_secs(rows.wait_s[0].into());
        assert!(wait >= bound / 2 && wait <= bound + Duration::from_secs(1), "round {round}: {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_connection_that_lived_clears_failures() {
    let desk = desk(BookLimits::default());
    desk.book.learn(at(1), None, AddressSource::Itself);
    begin(&desk, at(1)).failed(&DialFailure::Refused);
    drop(begin(&desk, at(1)).connected(peer(1)));
    assert_eq!(desk.book.freeze(&desk.pool).failures, [2]);
    let tenure = begin(&desk, at(1)).connected(peer(1));
    tokio::time::advance(Duration::from_secs(60)).await;
    drop(tenure);
    let rows = desk.book.freeze(&desk.pool);
    assert_eq!((rows.failures, rows.wait_s, rows.reached_s), (vec![0], vec![0], vec![0]));
}

#[tokio::test(start_paused = true)]
async fn every_attempt_ends_in_the_book_and_in_the_journal() {
    let desk = desk(BookLimits::default());
    desk.book.learn(at(1), None, AddressSource::Itself);
    desk.book.learn(at(2), None, AddressSource::Itself);
    let ticket = begin(&desk, at(1));
    assert_eq!((desk.book.dialing(), desk.book.freeze(&desk.pool).addresses), (1, vec![at(2)]));
    assert!(desk.book.begin(at(1), false, Initiator::Host, "again", Vec::new()).is_none());
    drop(ticket);
    begin(&desk, at(2)).failed(&DialFailure::SelfDial);
    assert_eq!((desk.book.dialing(), desk.book.len()), (0, 1));
    let outcomes: Vec<Outcome> =
        desk.journal.select(9, |_| true).into_iter().map(|record| record.outcome).collect();
    assert!(matches!(&outcomes[..], [
        Outcome::Started, Outcome::Failed(given_up), Outcome::Started, Outcome::Failed(ourselves),
    ] if given_up.contains("given up") && ourselves.contains("itself")));
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_fails_names_the_peer_that_is_known_to_be_there() {
    let desk = desk(BookLimits::default());
    desk.book.learn(at(1), Some(peer(1)), AddressSource::Itself);
    begin(&desk, at(1)).failed(&DialFailure::TimedOut);
    assert_eq!(desk.journal.explain(&peer(1)).len(), 2, "the start of the dial and its end");
    // A key that was proven counts for more than what the book has heard.
    let mut dial = begin(&desk, at(1));
    dial.proven_by(peer(2));
    dial.failed(&DialFailure::Denied("banned".into()));
    let last = desk.journal.explain(&peer(2)).pop().unwrap();
    assert_eq!(last.outcome, Outcome::Failed("denied: banned".into()));
    // Nothing is known of this one.
    desk.book.learn(at(3), None, AddressSource::Itself);
    begin(&desk, at(3)).failed(&DialFailure::Refused);
    assert_eq!(desk.journal.select(1, |_| true)[0].peer, None);
}

#[tokio::test(start_paused = true)]
async fn forgetting_and_restoring_keep_what_matters() {
    let (first, day) = (desk(BookLimits::default()), Duration::from_secs(86_400));
    first.book.learn(at(1), None, AddressSource::Bootstrap);
    first.book.learn(at(2), Some(peer(2)), AddressSource::Itself);
    first.book.note_hearing(true, 8 * day);
    tokio::time::advance(8 * day).await;
    first.book.learn(at(3), None, AddressSource::Told(NetGroup(7)));
    assert_eq!(first.book.forget_some(&first.pool, 7 * day, usize::MAX), 1);
    assert_eq!(first.book.freeze(&first.pool).addresses, [at(1), at(3)]);
    let second = desk(BookLimits::default());
    second.book.restore(first.book.entries());
    let told_by: Vec<Option<u32>> = second.book.entries().iter().map(|entry| entry.told_by).collect();
    assert_eq!((second.book.len(), told_by), (1, vec![Some(7)]));
    assert!(second.book.sample(10).is_empty(), "told by others and never reached: not worth telling");
}

mod lasting;

/// Without this, a crash soon after an incoming connection forgets that its address is good.
#[tokio::test(start_paused = true)]
async fn a_connection_that_begins_or_ends_is_worth_saving_whoever_dialled() {
    let desk = desk(BookLimits::default());
    desk.book.learn(at(1), None, AddressSource::Bootstrap);
    desk.book.learn(at(2), None, AddressSource::Itself);
    for (words, connect) in [
        ("dialled", Box::new(|| begin(&desk, at(1)).connected(peer(1))) as Box<dyn Fn() -> ConnectedGuard>),
        ("accepted", Box::new(|| desk.book.connected_guard(at(2)))),
    ] {
        let before = desk.book.changes();
        let guard = connect();
        let begun = desk.book.changes();
        assert!(begun > before, "{words}");
        drop(guard);
        assert!(desk.book.changes() > begun, "{words}");
    }
}
