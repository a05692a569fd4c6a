//! The view: what a phase reads during a run. It changes nothing and never waits.

use std::borrow::Cow;
use std::fmt;

use crate::backend::Reads;
use crate::column::{Address, Column, Peer, Row, UNKNOWN, Unit};
use crate::memory::{self, Memory};
use crate::phase::Result;
use crate::select::Select;

/// Totals over all connections.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Rows of the peers table.
    pub connected: u32,
    /// Of these, how many dialled us.
    pub inbound: u32,
    /// Dials in progress. Count them in before asking for more.
    pub dialing: u32,
    /// Peers with a health above the node's threshold.
    pub healthy: u32,
    /// The operator's floor for `connected`.
    pub least: u32,
    /// The operator's ceiling for `connected`.
    pub most: u32,
}

/// Totals over the remembered broadcasts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BroadcastTotals {
    /// Broadcasts remembered.
    pub held: u32,
    /// Age of the oldest one; 0 if there is none.
    pub oldest_s: u32,
    /// Sent in the current rate window.
    pub in_window: u32,
    /// Age of that window.
    pub window_s: u32,
}

/// The names of a row, for log lines and operators.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Name {
    /// Public key in the host's printed form; empty for a row of the address book.
    pub id: String,
    /// `ip:port`.
    pub address: String,
    /// What software the peer says it runs, at most 64 bytes. Untrusted. Empty if unknown, and for the book.
    pub agent: String,
}

/// A snapshot of the node, fixed for one run.
///
/// A type rather than a trait, so that a component imports exactly the tables that its phase reads. It cannot be
/// cloned, so a phase cannot keep it beyond its run:
///
/// ```compile_fail,E0599
/// fn keep(view: &groundskeeper_sdk::view::View) -> groundskeeper_sdk::view::View {
///     groundskeeper_sdk::view::View::clone(view)
/// }
/// ```
pub struct View {
    pub(crate) reads: Reads,
}

impl View {
    /// Starts a selection of connected peers.
    pub fn peers(&self) -> Select<'_, Peer> {
        Select::new(self)
    }

    /// Starts a selection of addresses that are neither connected nor being dialled.
    pub fn book(&self) -> Select<'_, Address> {
        Select::new(self)
    }

    /// Every row of a table, in the order of [`column`](View::column). Write `view.rows::<Peer>()`.
    pub fn rows<T: Row>(&self) -> impl Iterator<Item = T> + use<T> {
        (0..self.reads.rows::<T>()).map(T::at)
    }

    /// The totals over all connections.
    pub fn totals(&self) -> Totals {
        self.reads.totals()
    }

    /// The totals over the remembered broadcasts.
    pub fn broadcasts(&self) -> BroadcastTotals {
        self.reads.broadcasts()
    }

    /// A whole column: one number per row, in the column's unit; [`UNKNOWN`] where not known. Borrowed natively, copied
    /// in a guest. Prefer [`peers`](View::peers), which selects inside the host.
    pub fn column<T: Row, U: Unit>(&self, column: Column<T, U>) -> Cow<'_, [u32]> {
        self.reads.column::<T>(column.name())
    }

    /// Several columns of some rows, row by row: `facts(&rows, (peer::IDLE, peer::RTT))` is a `Vec<[u32; 2]>`.
    ///
    /// Takes a tuple of two to six columns, or an array of columns of one unit.
    pub fn facts<T: Row, C: Columns<T>>(&self, rows: &[T], columns: C) -> Vec<C::Facts> {
        columns.read(self, rows)
    }

    /// One value of one row, in the column's unit; `None` where not known.
    pub fn fact<T: Row, U: Unit>(&self, row: T, column: Column<T, U>) -> Option<u32> {
        self.facts(&[row], [column]).first().map(|[value]| *value).filter(|value| *value != UNKNOWN)
    }

    /// The names of these rows, for log lines and operators.
    pub fn names<T: Row>(&self, rows: &[T]) -> Vec<Name> {
        self.reads.names(rows)
    }

    /// Whether this host has a column. Ask before you read one that only newer hosts have.
    pub fn knows<T: Row, U: Unit>(&self, column: Column<T, U>) -> bool {
        self.reads.knows::<T>(column.name())
    }

    /// What an earlier run [remembered](crate::plan::Plan::remember); the default if nothing is stored.
    ///
    /// # Errors
    /// Permanent, if the bytes have another version and [`Memory::upgrade`] refuses them, or if they do not decode.
    pub fn memory<M: Memory>(&self) -> Result<M> {
        memory::load(self.reads.memory())
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// Columns that [`View::facts`] reads together: a tuple of two to six, or an array of one unit.
pub trait Columns<T: Row>: Copy {
    /// One row's values, in the order of the columns.
    type Facts;

    #[doc(hidden)]
    fn read(self, view: &View, rows: &[T]) -> Vec<Self::Facts>;
}

impl<T: Row, U: Unit, const N: usize> Columns<T> for [Column<T, U>; N] {
    type Facts = [u32; N];

    fn read(self, view: &View, rows: &[T]) -> Vec<[u32; N]> {
        const { assert!(N > 0, "facts of no column") };
        view.reads.facts(rows, self.map(Column::name))
    }
}

macro_rules! tuple {
    ($count:literal: $($unit:ident $at:tt),*) => {
        impl<T: Row, $($unit: Unit),*> Columns<T> for ($(Column<T, $unit>,)*) {
            type Facts = [u32; $count];

            fn read(self, view: &View, rows: &[T]) -> Vec<[u32; $count]> {
                view.reads.facts(rows, [$(self.$at.name()),*])
            }
        }
    };
}

tuple!(2: A 0, B 1);
tuple!(3: A 0, B 1, C 2);
tuple!(4: A 0, B 1, C 2, D 3);
tuple!(5: A 0, B 1, C 2, D 3, E 4);
tuple!(6: A 0, B 1, C 2, D 3, E 4, F 5);
