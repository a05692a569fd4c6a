//! Typed names of columns: each has a table and a unit. Holds no values and reads nothing.
//!
//! The unit is part of the type, so `over(peer::RTT, Span::millis(500))` compiles and `over(peer::RTT, 500)` does not.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::backend::Source;
use crate::span::Span;

/// The value of a column where the host does not know it. It passes no test and sorts last.
pub const UNKNOWN: u32 = u32::MAX;

/// The largest known value; larger ones saturate here.
pub const MOST: u32 = UNKNOWN - 1;

mod sealed {
    pub trait Index: super::Source {
        fn at(row: u32) -> Self;
    }
    pub trait Unit {}
}
pub(crate) use sealed::Index;

/// The tables that have rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Table {
    /// The connections at the start of the run.
    Peers,
    /// Addresses that are neither connected nor being dialled.
    Book,
}

impl Table {
    /// The interface that reads this table.
    pub const fn interface(self) -> &'static str {
        match self {
            Table::Peers => "peers",
            Table::Book => "book",
        }
    }
}

/// A row of one table of one run's view. Two kinds exist: [`Peer`] and [`Address`].
pub trait Row: sealed::Index + Copy + 'static {
    /// The table that the row belongs to.
    const TABLE: Table;
    /// The row's index, from 0 to rows - 1.
    fn row(self) -> u32;
}

macro_rules! row {
    ($(#[$doc:meta])* $name:ident, $table:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(u32);

        impl Index for $name {
            fn at(row: u32) -> Self {
                $name(row)
            }
        }

        impl Row for $name {
            const TABLE: Table = $table;
            fn row(self) -> u32 {
                self.0
            }
        }
    };
}

row! {
    /// A connected peer of this run's view. To recognize it in a later run, keep its [`peer::CONN`] or its id.
    Peer, Table::Peers
}
row! {
    /// An address of the address book that is neither connected nor being dialled.
    Address, Table::Book
}

/// The unit of the numbers in a column. A closed set: [`Secs`], [`Micros`], [`Count`], [`Kib`], [`Flag`].
pub trait Unit: sealed::Unit + 'static {}

macro_rules! unit {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl sealed::Unit for $name {}
        impl Unit for $name {}
    )*};
}

unit! {
    /// Whole seconds, rounded down by the host. Compared with a [`Span`] or a [`Duration`].
    Secs
    /// Microseconds. Compared with a [`Span`] or a [`Duration`].
    Micros
    /// A plain number. Compared with a `u32`.
    Count
    /// Units of 1024 bytes. Compared with a `u32` in the same unit.
    Kib
    /// 0 or 1. Compared with a `bool`.
    Flag
}

/// An amount that a column of unit `U` can be compared with or, in tests, set to.
pub trait Amount<U: Unit>: Copy {
    /// The amount in whole units: rounded down, and rounded up.
    fn whole(self) -> (u64, u64);
}

impl Amount<Secs> for Span {
    fn whole(self) -> (u64, u64) {
        (self.as_millis() / 1_000, self.as_millis().div_ceil(1_000))
    }
}

impl Amount<Micros> for Span {
    fn whole(self) -> (u64, u64) {
        (self.as_micros(), self.as_micros())
    }
}

impl Amount<Secs> for Duration {
    fn whole(self) -> (u64, u64) {
        (self.as_secs(), self.as_secs().saturating_add(u64::from(self.subsec_nanos() > 0)))
    }
}

impl Amount<Micros> for Duration {
    fn whole(self) -> (u64, u64) {
        let clamp = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        (clamp(self.as_micros()), clamp(self.as_nanos().div_ceil(1_000)))
    }
}

impl Amount<Count> for u32 {
    fn whole(self) -> (u64, u64) {
        (u64::from(self), u64::from(self))
    }
}

impl Amount<Kib> for u32 {
    fn whole(self) -> (u64, u64) {
        (u64::from(self), u64::from(self))
    }
}

impl Amount<Flag> for bool {
    fn whole(self) -> (u64, u64) {
        (u64::from(self), u64::from(self))
    }
}

/// The name of a column of table `T` in unit `U`.
pub struct Column<T: Row, U: Unit> {
    name: &'static str,
    of: PhantomData<fn() -> (T, U)>,
}

impl<T: Row, U: Unit> Column<T, U> {
    /// A column by name, for columns that a newer host has and this crate does not name yet. Reading a column that the
    /// host does not have ends the run.
    pub const fn new(name: &'static str) -> Self {
        Column { name, of: PhantomData }
    }

    /// The name as the contract writes it, such as `idle-s`.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<T: Row, U: Unit> Clone for Column<T, U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Row, U: Unit> Copy for Column<T, U> {}

impl<T: Row, U: Unit> fmt::Debug for Column<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", T::TABLE.interface(), self.name)
    }
}

macro_rules! columns {
    ($row:ty, $columns:ident: $($(#[$doc:meta])* $name:ident, $variant:ident: $unit:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Column<$row, $unit> = Column::new($text);)*
        /// Every column of this module, in the contract's order.
        pub const COLUMNS: &[&str] = &[$($text),*];

        /// The columns of the table, in the contract's order.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum $columns {
            $($(#[$doc])* $variant,)*
        }

        impl $columns {
            /// Every column.
            pub const ALL: [Self; COLUMNS.len()] = [$(Self::$variant),*];
            /// The number of columns.
            pub const COUNT: usize = COLUMNS.len();

            /// The name as the contract writes it.
            pub const fn name(self) -> &'static str {
                COLUMNS[self as usize]
            }

            /// The column of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|column| column.name() == name)
            }
        }
    };
}

pub use address::AddressColumn;
pub use peer::PeerColumn;

/// Columns of the connected peers.
pub mod peer {
    use super::{Column, Count, Flag, Kib, Micros, Peer, Secs};
    columns! { Peer, PeerColumn:
        /// Number of the connection. The host uses a number once until it restarts; then it starts over.
        CONN, Conn: Count = "conn";
        /// Time since its last message or since this node woke, whichever happened later.
        IDLE, Idle: Secs = "idle-s";
        /// Time since its handshake.
        AGE, Age: Secs = "age-s";
        /// 0 to 100.
        HEALTH, Health: Count = "health";
        /// Smoothed round trip.
        RTT, Rtt: Micros = "rtt-us";
        /// Unanswered pings in a row.
        PINGS_LOST, PingsLost: Count = "pings-lost";
        /// Received on this connection.
        KIB_IN, KibIn: Kib = "kib-in";
        /// Sent on this connection.
        KIB_OUT, KibOut: Kib = "kib-out";
        /// Waiting to be sent.
        KIB_QUEUED, KibQueued: Kib = "kib-queued";
        /// The number of its network group: IPv4 /16, IPv6 /32. The same group has the same number in both tables and
        /// in every run.
        GROUP, Group: Count = "group";
        /// The peer dialled us.
        INBOUND, Inbound: Flag = "inbound";
        /// A phase asked to protect it, and the protection has not expired.
        PROTECTED, Protected: Flag = "protected";
    }
}

/// Columns of the address book.
pub mod address {
    use super::{Address, Column, Count, Secs};
    columns! { Address, AddressColumn:
        /// Time since it was last named.
        HEARD, Heard: Secs = "heard-s";
        /// Time since we were last connected to it; not known = never.
        REACHED, Reached: Secs = "reached-s";
        /// Failed dials in a row.
        FAILURES, Failures: Count = "failures";
        /// Time until its backoff ends; 0 = may be dialled.
        WAIT, Wait: Secs = "wait-s";
        /// The number of its network group, as in [`peer::GROUP`](super::peer::GROUP).
        GROUP, Group: Count = "group";
    }
}
