//! Reads of a guest: each is a call of the host, in batches that the contract allows. Evaluates nothing.

use std::borrow::Cow;

use super::bindings::groundskeeper::phase::{book, broadcasts, memory, peers};
use super::types::Query;
use super::{Order, Test};
use crate::column::{Address, Peer, Row};
use crate::contract::{NAMES, ROWS};
use crate::memory::Saved;
use crate::view::{BroadcastTotals, Name, Totals};

/// The interface that reads one kind of row.
pub trait Source {
    fn select(query: Query<'_>) -> Vec<u32>;
    fn count(tests: &[Test]) -> u32;
    fn facts(rows: &[u32], columns: &[&str]) -> Vec<u32>;
    fn column(name: &str, first: u32) -> Vec<u32>;
    fn names(rows: &[u32]) -> Vec<Name>;
    fn columns() -> Vec<String>;
}

macro_rules! source {
    ($row:ty, $interface:ident, $name:expr) => {
        impl Source for $row {
            fn select(query: Query<'_>) -> Vec<u32> {
                $interface::select(query)
            }

            fn count(tests: &[Test]) -> u32 {
                $interface::count(tests)
            }

            fn facts(rows: &[u32], columns: &[&str]) -> Vec<u32> {
                $interface::facts(rows, columns)
            }

            fn column(name: &str, first: u32) -> Vec<u32> {
                $interface::column(name, first)
            }

            fn names(rows: &[u32]) -> Vec<Name> {
                $interface::names(rows).into_iter().map($name).collect()
            }

            fn columns() -> Vec<String> {
                $interface::columns()
            }
        }
    };
}

source!(Peer, peers, |name| Name { id: name.id, address: name.address, agent: name.agent });
source!(Address, book, |address| Name { address, ..Name::default() });

/// What [`View`](crate::view::View) calls.
pub(crate) struct Reads;

impl Reads {
    pub(crate) fn rows<T: Row>(&self) -> u32 {
        T::count(&[])
    }

    pub(crate) fn totals(&self) -> Totals {
        let peers::Totals { connected, inbound, dialing, healthy, least, most } = peers::totals_now();
        Totals { connected, inbound, dialing, healthy, least, most }
    }

    pub(crate) fn broadcasts(&self) -> BroadcastTotals {
        let broadcasts::Totals { held, oldest_s, in_window, window_s } = broadcasts::totals_now();
        BroadcastTotals { held, oldest_s, in_window, window_s }
    }

    pub(crate) fn memory(&self) -> Option<Saved> {
        memory::load().map(|memory::Saved { version, bytes }| Saved { version, bytes })
    }

    pub(crate) fn column<T: Row>(&self, name: &str) -> Cow<'_, [u32]> {
        let mut values = T::column(name, 0);
        let mut got = values.len();
        while got == ROWS as usize {
            let more = T::column(name, values.len() as u32);
            got = more.len();
            values.extend_from_slice(&more);
        }
        Cow::Owned(values)
    }

    pub(crate) fn facts<T: Row, const N: usize>(
        &self,
        rows: &[T],
        columns: [&'static str; N],
    ) -> Vec<[u32; N]> {
        let rows: Vec<u32> = rows.iter().map(|row| row.row()).collect();
        if rows.is_empty() {
            // Called anyway: a column that the host does not have must end the run here as it does natively.
            T::facts(&[], &columns);
        }
        let mut facts = Vec::with_capacity(rows.len());
        for rows in rows.chunks(ROWS as usize / N) {
            facts.extend_from_slice(T::facts(rows, &columns).as_chunks().0);
        }
        facts
    }

    pub(crate) fn names<T: Row>(&self, rows: &[T]) -> Vec<Name> {
        let rows: Vec<u32> = rows.iter().map(|row| row.row()).collect();
        rows.chunks(NAMES).flat_map(T::names).collect()
    }

    pub(crate) fn knows<T: Row>(&self, column: &str) -> bool {
        T::columns().iter().any(|known| known == column)
    }

    pub(crate) fn count<T: Row>(&self, tests: &[Test]) -> u32 {
        T::count(tests)
    }

    pub(crate) fn select<T: Row>(&self, tests: Vec<Test>, sort_by: Option<Order>, limit: u32) -> Vec<u32> {
        T::select(Query { tests: &tests, sort_by, limit })
    }
}
