//! Owns what a phase reads during a run. Changes nothing and never waits.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::column::{Address, Column, Peer, Row, Unit};
use crate::host::{BroadcastTotals, Frozen, Name, RuleBroken, Table, Totals};
use crate::memory::{self, Memory};
use crate::phase::Result;
use crate::query;
use crate::select::Select;

/// A picture of the node, frozen for this run.
///
/// A type of its own rather than a trait: a component then imports exactly the tables that its phase reads.
#[derive(Clone)]
pub struct View {
    host: Arc<dyn Frozen>,
}

impl View {
    /// A view of what `host` froze.
    pub fn new(host: Arc<dyn Frozen>) -> View {
        View { host }
    }

    pub(crate) fn host(&self) -> &dyn Frozen {
        &*self.host
    }

    /// The connected peers, to be narrowed.
    pub fn peers(&self) -> Select<'_, Peer> {
        Select::new(self)
    }

    /// The addresses that are neither connected nor being dialled, to be narrowed.
    pub fn book(&self) -> Select<'_, Address> {
        Select::new(self)
    }

    /// Every row of a table, in order: `view.rows::<Peer>()` goes beside [`column`](View::column).
    pub fn rows<T: Row>(&self) -> impl Iterator<Item = T> + use<T> {
        (0..self.host.rows(T::TABLE)).map(T::at)
    }

    /// The connections as a whole.
    pub fn totals(&self) -> Totals {
        self.host.totals()
    }

    /// The memory of broadcasts.
    pub fn broadcasts(&self) -> BroadcastTotals {
        self.host.broadcasts()
    }

    /// A whole column, one number per row, in the column's unit; [`UNKNOWN`](crate::column::UNKNOWN) where not known.
    /// Borrowed natively, copied in a guest: prefer [`peers`](View::peers), which runs in the host.
    pub fn column<T: Row, U: Unit>(&self, column: Column<T, U>) -> Cow<'_, [u32]> {
        let call = match T::TABLE {
            Table::Peers => "peers.column",
            Table::Book => "book.column",
        };
        Cow::Borrowed(self.values(call, column.name(), T::TABLE))
    }

    /// Some columns of some rows, row by row: `facts(&rows, (peer::IDLE, peer::RTT))` is a `Vec<[u32; 2]>`.
    ///
    /// Takes a tuple of two to six columns, or an array of columns of one unit.
    pub fn facts<T: Row, C: Columns<T>>(&self, rows: &[T], columns: C) -> Vec<C::Facts> {
        let call = match T::TABLE {
            Table::Peers => "peers.facts",
            Table::Book => "book.facts",
        };
        columns.read(rows, |name| self.values(call, name, T::TABLE))
    }

    /// One value of one row, in the column's unit; `None` where not known.
    pub fn fact<T: Row, U: Unit>(&self, row: T, column: Column<T, U>) -> Option<u32> {
        let [value] = self.facts(&[row], [column])[0];
        (value != crate::column::UNKNOWN).then_some(value)
    }

    /// What an operator would call these rows.
    pub fn names<T: Row>(&self, rows: &[T]) -> Vec<Name> {
        let count = self.host.rows(T::TABLE);
        rows.iter()
            .map(|row| {
                if row.row() >= count {
                    let call = match T::TABLE {
                        Table::Peers => "peers.names",
                        Table::Book => "book.names",
                    };
                    RuleBroken {
                        call,
                        rule: format!("row {} of {count}; keep no row beyond its run", row.row()),
                    }
                    .unwind();
                }
                self.host.name(T::TABLE, row.row())
            })
            .collect()
    }

    /// Whether this host knows a column: for those that only newer hosts have.
    pub fn knows<T: Row, U: Unit>(&self, column: Column<T, U>) -> bool {
        self.host.columns(T::TABLE).contains(&column.name())
    }

    /// What an earlier run [remembered](crate::plan::Plan::remember); the default on the first run ever.
    ///
    /// # Errors
    /// Permanent, if the bytes are of another version and [`Memory::upgrade`] refuses them, or if they do not read.
    pub fn memory<M: Memory>(&self) -> Result<M> {
        memory::load(self.host.memory())
    }

    fn values(&self, call: &'static str, name: &str, table: Table) -> &[u32] {
        query::column(call, self.host(), table, name).unwrap_or_else(|broken| broken.unwind())
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peers, book) = (self.host.rows(Table::Peers), self.host.rows(Table::Book));
        f.debug_struct("View").field("peers", &peers).field("book", &book).finish()
    }
}

/// Columns that [`View::facts`] reads together: tuples of two to six, arrays of one unit.
pub trait Columns<T: Row>: Copy {
    /// One row's values, in the order of the columns.
    type Facts;

    #[doc(hidden)]
    fn read<'v>(self, rows: &[T], values: impl Fn(&'static str) -> &'v [u32]) -> Vec<Self::Facts>;
}

fn gather<'v, T: Row, const N: usize>(
    rows: &[T],
    names: [&'static str; N],
    values: impl Fn(&'static str) -> &'v [u32],
) -> Vec<[u32; N]> {
    let columns = names.map(values);
    let at = |row: T| {
        columns.map(|column| match column.get(row.row() as usize) {
            Some(value) => *value,
            None => {
                let call = match T::TABLE {
                    Table::Peers => "peers.facts",
                    Table::Book => "book.facts",
                };
                let rule = format!("row {} of {}; keep no row beyond its run", row.row(), column.len());
                RuleBroken { call, rule }.unwind()
            }
        })
    };
    rows.iter().map(|row| at(*row)).collect()
}

impl<T: Row, U: Unit, const N: usize> Columns<T> for [Column<T, U>; N] {
    type Facts = [u32; N];

    fn read<'v>(self, rows: &[T], values: impl Fn(&'static str) -> &'v [u32]) -> Vec<[u32; N]> {
        gather(rows, self.map(Column::name), values)
    }
}

macro_rules! tuple {
    ($count:literal: $($unit:ident $at:tt),*) => {
        impl<T: Row, $($unit: Unit),*> Columns<T> for ($(Column<T, $unit>,)*) {
            type Facts = [u32; $count];

            fn read<'v>(self, rows: &[T], values: impl Fn(&'static str) -> &'v [u32]) -> Vec<[u32; $count]> {
                gather(rows, [$(self.$at.name()),*], values)
            }
        }
    };
}

tuple!(2: A 0, B 1);
tuple!(3: A 0, B 1, C 2);
tuple!(4: A 0, B 1, C 2, D 3);
tuple!(5: A 0, B 1, C 2, D 3, E 4);
tuple!(6: A 0, B 1, C 2, D 3, E 4, F 5);
