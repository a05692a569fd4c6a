//! Reconnect: how many, from which groups, with which chances, and that chance comes from the tick alone.

use std::collections::{BTreeMap, BTreeSet};

use groundskeeper_phases::Reconnect;
use groundskeeper_sdk::host::Ask;
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::testing::{World, world};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Entry {
    wait: u32,
    failures: u32,
    reached: bool,
    group: u32,
}

const PLAIN: Entry = Entry { wait: 0, failures: 0, reached: false, group: 0 };

fn with(world: World, book: &[Entry]) -> World {
    book.iter().fold(world, |world, entry| {
        world.address(|a| {
            a.with(address::WAIT, Span::secs(entry.wait.into())).with(address::FAILURES, entry.failures);
            a.with(address::GROUP, entry.group);
            if entry.reached {
                a.with(address::REACHED, Span::hours(1));
            }
        })
    })
}

fn peers(world: World, count: u32) -> World {
    (0..count).fold(world, |world, _| world.peer(|_| {}))
}

/// Fresh addresses, each in a group of its own.
fn apart(count: u32) -> Vec<Entry> {
    (0..count).map(|n| Entry { group: 500 + n, ..PLAIN }).collect()
}

fn dials(world: &World, phase: &Reconnect) -> Vec<u32> {
    let parts = world.plan(phase).unwrap();
    let dial = |ask: &Ask| match ask {
        Ask::Dial { address, .. } => *address,
        other => panic!("reconnect only dials, not {other}"),
    };
    parts.asks.iter().map(dial).collect()
}

#[test]
fn how_many_are_dialled() {
    let phase = |target, max_dials| Reconnect { target, max_dials };
    // Connected, dialling, the operator's ceiling, settings, expected.
    let table = [
        (0, 0, 64, phase(8, 8), 8),
        (3, 0, 64, phase(8, 8), 5),
        (3, 4, 64, phase(8, 8), 1),
        (3, 5, 64, phase(8, 8), 0),
        (3, 50, 64, phase(8, 8), 0),
        (8, 0, 64, phase(8, 8), 0),
        (9, 0, 64, phase(8, 8), 0),
        (3, 0, 5, phase(8, 8), 2),
        (0, 0, 64, phase(20, 8), 8),
        (0, 0, 64, phase(20, 20), 12),
        (0, u32::MAX, 64, phase(20, 20), 0),
    ];
    for (connected, dialing, most, phase, expected) in table {
        let world = peers(with(world(), &apart(12)), connected).totals(|totals| {
            totals.dialing = dialing;
            totals.most = most;
        });
        let got = dials(&world, &phase);
        assert_eq!(
            got.len(),
            expected,
            "{connected} connected, {dialing} dialling, {most} at most, {phase:?}"
        );
    }
}

#[test]
fn the_reason_tells_what_was_seen() {
    let text = peers(with(world(), &apart(1)), 3).run(&Reconnect::default()).unwrap();
    assert_eq!(text, "dial 0: 3 connected, want 8\n");
}

#[test]
fn groups_that_we_dialled_come_last_but_inbound_ones_do_not() {
    let phase = Reconnect { target: 3, max_dials: 1 };
    let book = [Entry { group: 77, ..PLAIN }, Entry { group: 78, ..PLAIN }];
    let outbound = with(world(), &book).peer(|p| {
        p.with(peer::GROUP, 77);
    });
    let seen: BTreeSet<_> = (0..50).flat_map(|n| dials(&outbound.clone().seed([n, 0]), &phase)).collect();
    assert_eq!(seen, BTreeSet::from([1]), "group 77 has its turn when there is no other");
    let inbound = with(world(), &book).peer(|p| {
        p.with(peer::GROUP, 77).with(peer::INBOUND, true);
    });
    let seen: BTreeSet<_> = (0..50).flat_map(|n| dials(&inbound.clone().seed([n, 0]), &phase)).collect();
    assert_eq!(seen, BTreeSet::from([0, 1]), "whoever connects to us must not steer our dials");
}

#[test]
fn one_group_alone_is_still_dialled() {
    let world = with(world(), &vec![PLAIN; 20]);
    assert_eq!(dials(&world, &Reconnect::default()).len(), 8);
}

#[test]
fn weights_are_chances_never_an_order() {
    let book = [
        Entry { group: 1, ..PLAIN },
        Entry { group: 2, failures: 1, ..PLAIN },
        Entry { group: 3, reached: true, ..PLAIN },
        Entry { group: 4, failures: 40, ..PLAIN },
        Entry { group: 5, wait: 1, reached: true, ..PLAIN },
    ];
    let world = with(world(), &book);
    let phase = Reconnect { target: 8, max_dials: 1 };
    let mut hits = [0u32; 5];
    for n in 0..8_000 {
        hits[dials(&world.clone().seed([n, 1]), &phase)[0] as usize] += 1;
    }
    // 64 : 32 : 256 : 1, so that of 8,000 draws 1,450 : 725 : 5,802 : 23 are expected.
    assert!(hits[0].abs_diff(1_450) < 200 && hits[1].abs_diff(725) < 150, "{hits:?}");
    assert!(hits[2].abs_diff(5_802) < 250, "{hits:?}");
    assert!((5..60).contains(&hits[3]), "an address that failed often keeps a chance: {hits:?}");
    assert_eq!(hits[4], 0, "{hits:?}");
}

/// A query is cut at 16384 rows, in the order of rows: the rest of the book must not be lost by that.
#[test]
fn addresses_behind_the_limit_of_a_query_are_dialled_too() {
    let mut book = vec![Entry { wait: 60, ..PLAIN }; 16_390];
    book.push(PLAIN);
    assert_eq!(dials(&with(world(), &book), &Reconnect::default()), [16_390]);
}

#[test]
fn other_seeds_choose_otherwise() {
    let world = with(world(), &apart(100));
    let plans: BTreeSet<_> =
        (0..100).map(|n| dials(&world.clone().seed([0, n]), &Reconnect::default())).collect();
    assert_eq!(plans.len(), 100);
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |target, max_dials| Phase::check(&Reconnect { target, max_dials });
    assert_eq!(check(0, 8).unwrap_err(), "target = 0 is out of range: 1 to 4294967294");
    assert_eq!(check(8, 0).unwrap_err(), "max_dials = 0 is out of range: 1 to 4096");
    assert_eq!(check(8, 5_000).unwrap_err(), "max_dials = 5000 is out of range: 1 to 4096");
    assert!(serde_json::from_str::<Reconnect>(r#"{"min": 1}"#).is_err(), "unknown settings are refused");
}

fn entry() -> impl Strategy<Value = Entry> {
    (prop_oneof![3 => Just(0u32), 1 => 1u32..100], 0u32..40, any::<bool>(), 500u32..506)
        .prop_map(|(wait, failures, reached, group)| Entry { wait, failures, reached, group })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_keeps_its_promises(
        book in prop::collection::vec(entry(), 0..40),
        connected in 0u32..10,
        dialing in 0u32..4,
        target in 1u32..16,
        max_dials in 1u32..16,
        seed: [u32; 2],
    ) {
        let world = peers(with(world(), &book), connected).seed(seed).totals(|totals| totals.dialing = dialing);
        let phase = Reconnect { target, max_dials };
        let got = dials(&world, &phase);

        let ready: Vec<u32> = (0..book.len() as u32).filter(|row| book[*row as usize].wait == 0).collect();
        let wanted = target.saturating_sub(connected + dialing).min(max_dials) as usize;
        prop_assert_eq!(got.len(), wanted.min(ready.len()), "as many as wanted, if there are as many");
        prop_assert!(got.iter().all(|row| ready.contains(row)), "none that waits");
        prop_assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len(), "none twice");

        // No group has two more than another that could still have given one.
        let mut given = BTreeMap::<u32, usize>::new();
        got.iter().for_each(|row| *given.entry(book[*row as usize].group).or_default() += 1);
        for row in ready.iter().filter(|row| !got.contains(row)) {
            let own = given.get(&book[*row as usize].group).copied().unwrap_or(0);
            prop_assert!(given.values().all(|other| *other <= own + 1), "{given:?} though {row} was free");
        }

        prop_assert_eq!(dials(&world, &phase), got, "the same seed decides alike");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn every_address_that_may_be_dialled_is_so_under_some_seed(book in prop::collection::vec(entry(), 1..8)) {
        // Up to three failures: the rarest is drawn once in 225, and 4,000 draws miss it once in 10^7.
        let book: Vec<_> = book.into_iter().map(|entry| Entry { failures: entry.failures % 4, ..entry }).collect();
        let ready: BTreeSet<u32> = (0..book.len() as u32).filter(|row| book[*row as usize].wait == 0).collect();
        let world = with(world(), &book);
        let phase = Reconnect { target: 8, max_dials: 1 };
        let seen: BTreeSet<u32> = (0..4_000).flat_map(|n| dials(&world.clone().seed([n, 9]), &phase)).collect();
        prop_assert_eq!(seen, ready);
    }
}
