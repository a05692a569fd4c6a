//! Reads a snapshot for a phase in the host's process. A broken rule unwinds to the host's guard.

use std::borrow::Cow;
use std::sync::Arc;

use crate::column::{Row, Table};
use crate::host::{BroadcastTotals, Frozen, Name, RuleBroken, Saved, Totals};
use crate::query::{self, Order, Query, Test};

/// What [`View`](crate::view::View) calls.
pub(crate) struct Reads {
    pub(super) host: Arc<dyn Frozen>,
}

/// A call as the contract names it, such as `peers.facts`.
macro_rules! call {
    ($row:ident, $function:literal) => {
        match $row::TABLE {
            Table::Peers => concat!("peers.", $function),
            Table::Book => concat!("book.", $function),
        }
    };
}

fn outside(call: &'static str, row: u32, rows: u32) -> ! {
    RuleBroken { call, rule: format!("row {row} of {rows}; keep no row beyond its run") }.unwind()
}

impl Reads {
    pub(crate) fn rows<T: Row>(&self) -> u32 {
        self.host.rows(T::TABLE)
    }

    pub(crate) fn totals(&self) -> Totals {
        self.host.totals()
    }

    pub(crate) fn broadcasts(&self) -> BroadcastTotals {
        self.host.broadcasts()
    }

    pub(crate) fn memory(&self) -> Option<Saved> {
        self.host.memory()
    }

    pub(crate) fn column<T: Row>(&self, name: &str) -> Cow<'_, [u32]> {
        Cow::Borrowed(self.values::<T>(call!(T, "column"), name))
    }

    pub(crate) fn facts<T: Row, const N: usize>(
        &self,
        rows: &[T],
        columns: [&'static str; N],
    ) -> Vec<[u32; N]> {
        let call = call!(T, "facts");
        let columns = columns.map(|name| self.values::<T>(call, name));
        let fact = |values: &[u32], row: u32| match values.get(row as usize) {
            Some(value) => *value,
            None => outside(call, row, values.len() as u32),
        };
        rows.iter().map(|row| columns.map(|values| fact(values, row.row()))).collect()
    }

    pub(crate) fn names<T: Row>(&self, rows: &[T]) -> Vec<Name> {
        let count = self.host.rows(T::TABLE);
        let name = |row: u32| match row < count {
            true => self.host.name(T::TABLE, row),
            false => outside(call!(T, "names"), row, count),
        };
        rows.iter().map(|row| name(row.row())).collect()
    }

    pub(crate) fn knows<T: Row>(&self, column: &str) -> bool {
        self.host.columns(T::TABLE).contains(&column)
    }

    pub(crate) fn count<T: Row>(&self, tests: &[Test]) -> u32 {
        query::count(&*self.host, T::TABLE, tests)
    }

    pub(crate) fn select<T: Row>(&self, tests: Vec<Test>, sort_by: Option<Order>, limit: u32) -> Vec<u32> {
        query::select(&*self.host, T::TABLE, &Query { tests, sort_by, limit })
    }

    /// The broken rule that a column does not exist; None if it does. Copies no column.
    pub(super) fn unknown<T: Row>(&self, call: &'static str, column: &str) -> Option<RuleBroken> {
        (!self.knows::<T>(column)).then(|| query::no_column(call, &*self.host, T::TABLE, column))
    }

    fn values<T: Row>(&self, call: &'static str, name: &str) -> &[u32] {
        query::column(call, &*self.host, T::TABLE, name).unwrap_or_else(|broken| broken.unwind())
    }
}
