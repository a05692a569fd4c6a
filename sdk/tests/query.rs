//! Compares selecting with the plainest model of it. Owns no other behaviour.

use std::borrow::Cow;

use groundskeeper_sdk::column::{MOST, UNKNOWN};
use groundskeeper_sdk::host::{
    BroadcastTotals, Frozen, Name, NativeExit, Order, Query, Saved, Table, Test, Totals, guard,
};
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::query::{count, matching, select, try_count, try_select};
use groundskeeper_sdk::testing::world;
use proptest::prelude::*;

/// Three columns, nothing else.
#[derive(Debug)]
struct Columns([Vec<u32>; 3]);

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Frozen for Columns {
    fn rows(&self, _: Table) -> u32 {
        self.0[0].len() as u32
    }
    fn column(&self, _: Table, name: &str) -> Option<&[u32]> {
        NAMES.iter().position(|known| *known == name).map(|at| self.0[at].as_slice())
    }
    fn columns(&self, _: Table) -> &[&'static str] {
        &NAMES
    }
    fn totals(&self) -> Totals {
        Totals::default()
    }
    fn broadcasts(&self) -> BroadcastTotals {
        BroadcastTotals::default()
    }
    fn name(&self, _: Table, _: u32) -> Name {
        Name::default()
    }
    fn memory(&self) -> Option<Saved> {
        None
    }
}

fn passing(columns: &Columns, tests: &[Test]) -> Vec<u32> {
    let value = |name: &str, row: u32| columns.column(Table::Peers, name).expect("known")[row as usize];
    (0..columns.rows(Table::Peers))
        .filter(|row| {
            tests.iter().all(|test| {
                let value = value(&test.column, *row);
                value != UNKNOWN && test.at_least <= value && value <= test.at_most
            })
        })
        .collect()
}

fn model(columns: &Columns, query: &Query) -> Vec<u32> {
    let mut rows = passing(columns, &query.tests);
    if let Some(order) = &query.sort_by {
        let by = columns.column(Table::Peers, &order.column).expect("known");
        rows.sort_by(|x, y| {
            let (x, y) = (by[*x as usize], by[*y as usize]);
            match (x == UNKNOWN, y == UNKNOWN) {
                (false, false) if order.descending => y.cmp(&x),
                (false, false) => x.cmp(&y),
                (x, y) => x.cmp(&y),
            }
        });
    }
    rows.truncate(query.limit as usize);
    rows
}

/// Few different values, so that ties and hits on a threshold are common, and the ends of the range.
fn value() -> impl Strategy<Value = u32> {
    any::<u32>().prop_map(|bits| match bits % 16 {
        0 => UNKNOWN,
        1 => MOST,
        2 => MOST - 1,
        3 => bits,
        small => small - 4,
    })
}

fn columns() -> impl Strategy<Value = Columns> {
    // Around the sizes of one and of two blocks, and small ones.
    prop_oneof![2 => Just(0usize), 20 => 1usize..30, 1 => 510usize..515, 1 => 1022usize..1030].prop_flat_map(
        |rows| {
            let column = || prop::collection::vec(value(), rows);
            [column(), column(), column()].prop_map(Columns)
        },
    )
}

fn name() -> impl Strategy<Value = Cow<'static, str>> {
    prop::sample::select(&NAMES[..]).prop_map(Cow::Borrowed)
}

fn tests() -> impl Strategy<Value = Vec<Test>> {
    let test =
        (name(), value(), value()).prop_map(|(column, at_least, at_most)| Test { column, at_least, at_most });
    prop::collection::vec(test, 0..4)
}

fn query() -> impl Strategy<Value = Query> {
    let order = (name(), any::<bool>()).prop_map(|(column, descending)| Order { column, descending });
    let limit = prop_oneof![1u32..10, 400u32..600, Just(16_384)];
    (tests(), prop::option::of(order), limit).prop_map(|(tests, sort_by, limit)| Query {
        tests,
        sort_by,
        limit,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn select_is_the_model(columns in columns(), query in query()) {
        prop_assert_eq!(select(&columns, Table::Peers, &query), model(&columns, &query));
    }

    #[test]
    fn count_and_matching_are_the_model(columns in columns(), tests in tests()) {
        let expected = passing(&columns, &tests);
        prop_assert_eq!(count(&columns, Table::Book, &tests) as usize, expected.len());
        let mut rows = Vec::new();
        matching(&columns, Table::Book, &tests, &mut |row| rows.push(row));
        prop_assert_eq!(rows, expected);
    }

    #[test]
    fn every_threshold_is_exact_to_one(around in prop_oneof![1u32..10, MOST - 3..MOST]) {
        let columns = Columns([vec![around - 1, around, around + 1, UNKNOWN], vec![0; 4], vec![0; 4]]);
        let rows = |at_least, at_most| {
            passing(&columns, &[Test { column: "a".into(), at_least, at_most }])
        };
        let known = if around + 1 == UNKNOWN { 2 } else { 3 };
        for (at_least, at_most) in [(around, UNKNOWN), (0, around), (around, around), (around + 1, around)] {
            let test = Test { column: "a".into(), at_least, at_most };
            let query = Query { tests: vec![test], sort_by: None, limit: 4 };
            prop_assert_eq!(select(&columns, Table::Peers, &query), rows(at_least, at_most));
        }
        prop_assert_eq!(rows(0, UNKNOWN).len(), known);
    }

    /// Against the amount itself, in milliseconds, not against a rounding of it.
    #[test]
    fn comparing_whole_seconds_with_a_span_is_exact(idle in 0u32..5, millis in 0u64..5000) {
        let world = world().peer(|p| { p.with(peer::IDLE, Span::secs(idle.into())); });
        let (view, span, idle) = (world.view(), Span::millis(millis), u64::from(idle) * 1000);
        let hits = |passes: bool| u32::from(passes);
        prop_assert_eq!(view.peers().over(peer::IDLE, span).count(), hits(idle > millis));
        prop_assert_eq!(view.peers().under(peer::IDLE, span).count(), hits(idle < millis));
        prop_assert_eq!(view.peers().at_least(peer::IDLE, span).count(), hits(idle >= millis));
        prop_assert_eq!(view.peers().at_most(peer::IDLE, span).count(), hits(idle <= millis));
        prop_assert_eq!(view.peers().is(peer::IDLE, span).count(), hits(idle == millis));
        let duration = std::time::Duration::from_millis(millis);
        prop_assert_eq!(view.peers().over(peer::IDLE, duration).count(), hits(idle > millis));
        prop_assert_eq!(view.peers().under(peer::IDLE, duration).count(), hits(idle < millis));
    }
}

#[test]
fn amounts_beyond_the_range_pass_all_or_nothing() {
    let world = world().peer(|p| {
        p.with(peer::IDLE, Span::millis(u64::MAX));
    });
    let world = world.peer(|p| {
        p.unknown(peer::IDLE);
    });
    let view = world.view();
    let vast = Span::millis(u64::MAX);
    assert_eq!(view.peers().over(peer::IDLE, vast).count(), 0);
    assert_eq!(view.peers().at_least(peer::IDLE, vast).count(), 0);
    assert_eq!(view.peers().at_most(peer::IDLE, vast).count(), 1);
    assert_eq!(view.peers().under(peer::IDLE, vast).count(), 1);
    assert_eq!(view.peers().under(peer::IDLE, Span::ZERO).count(), 0);
    assert_eq!(view.peers().known(peer::IDLE).count(), 1);
    assert_eq!(view.peers().over(peer::HEALTH, u32::MAX).count(), 0);
}

#[test]
fn the_rules_of_a_query_are_kept() {
    let columns = Columns([vec![1], vec![1], vec![1]]);
    let test = || Test { column: "a".into(), at_least: 0, at_most: 9 };
    let query = |tests, limit| Query { tests, sort_by: None, limit };
    let broken = |query: &Query| try_select(&columns, Table::Book, query).unwrap_err().to_string();

    assert_eq!(broken(&query(vec![], 0)), "book.select: limit 0 is not within 1 to 16384");
    assert_eq!(broken(&query(vec![], 16_385)), "book.select: limit 16385 is not within 1 to 16384");
    assert_eq!(broken(&query(vec![test(); 9], 1)), "book.select: 9 tests are more than 8");
    assert!(try_select(&columns, Table::Book, &query(vec![test(); 8], 16_384)).is_ok());

    let odd = Test { column: "d\u{1b}".into(), ..test() };
    let error = try_count(&columns, Table::Peers, std::slice::from_ref(&odd)).unwrap_err().to_string();
    assert_eq!(error, "peers.count: no column \"d \"; this host knows a, b, c");
    let by = Order { column: "d".into(), descending: false };
    let error = broken(&Query { sort_by: Some(by), ..query(vec![], 1) });
    assert_eq!(error, "book.select: no column \"d\"; this host knows a, b, c");

    match guard(|| count(&columns, Table::Peers, &[odd])) {
        Err(NativeExit::Rule(broken)) => assert_eq!(broken.call, "peers.count"),
        other => panic!("expected a broken rule, got {other:?}"),
    }
}
