//! The contract as data: its text, its interfaces, its limits. Tests compare it with the WIT. Decides nothing.

/// The package that a component names.
pub const PACKAGE: &str = "groundskeeper:phase@0.1.0";

/// The complete contract, for authors in other languages.
pub const WIT: &str = include_str!("../wit/v0.1/phase.wit");

/// Maximum number of tests in one query.
pub const TESTS: usize = 8;
/// Maximum number of rows from one query, values from one read, and rows of all pings of a run: 64 KiB of numbers.
pub const ROWS: u32 = 16_384;
/// Maximum number of asks in one plan.
pub const ASKS_PER_PLAN: usize = 4_096;
/// Maximum length of a reason in bytes.
pub const REASON_BYTES: usize = 200;
/// Maximum number of metric names in one run.
pub const METRICS: usize = 16;
/// Maximum length of a metric's name in bytes.
pub const METRIC_NAME_BYTES: usize = 40;
/// Maximum number of rows in one call for names, from a guest.
pub const NAMES: usize = 64;

/// What an interface is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// Data types only.
    Types,
    /// Reads a table of the view.
    Read,
    /// Each call is an action of the plan.
    Ask,
    /// Kept or dropped with the plan, but not an action of it.
    Beside,
    /// What the phase exports.
    Export,
}

/// What the contract says about one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceEntry {
    /// Its name, such as `disconnect`.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Whether a manifest has to grant it.
    pub needs_grant: bool,
    /// Its functions, in the WIT's order.
    pub functions: &'static [&'static str],
    /// The same functions, as a broken rule names them: `disconnect.ask`.
    pub calls: &'static [&'static str],
}

macro_rules! interfaces {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $role:expr, $needs_grant:literal, [$($function:literal),*];)*) => {
        /// An interface of the contract: one capability, one `[grants]` key, one metric label.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Interface {
            $($(#[$doc])* $variant,)*
        }

        /// Every interface, in the WIT's order, which is also that of [`Interface`].
        pub const INTERFACES: &[InterfaceEntry] = &[$(InterfaceEntry {
            name: $name,
            role: $role,
            needs_grant: $needs_grant,
            functions: &[$($function),*],
            calls: &[$(concat!($name, ".", $function)),*],
        }),*];

        impl Interface {
            /// Every interface, in the WIT's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

interfaces! {
    /// Data types only.
    Types = "types", Role::Types, false, [];
    /// The connected peers.
    Peers = "peers", Role::Read, true,
        ["totals-now", "select", "count", "facts", "column", "names", "columns"];
    /// The address book.
    Book = "book", Role::Read, true, ["select", "count", "facts", "column", "names", "columns"];
    /// The remembered broadcasts.
    Broadcasts = "broadcasts", Role::Read, true, ["totals-now"];
    /// Ends connections.
    Disconnect = "disconnect", Role::Ask, true, ["ask", "ask-if-silent"];
    /// Changes the health of peers.
    Health = "health", Role::Ask, true, ["adjust"];
    /// Pings peers.
    Ping = "ping", Role::Ask, true, ["ask", "matching"];
    /// Dials addresses of the address book.
    Dial = "dial", Role::Ask, true, ["ask", "probe"];
    /// Keeps peers from being disconnected.
    Protect = "protect", Role::Ask, true, ["ask"];
    /// Refuses peers for a while.
    Ban = "ban", Role::Ask, true, ["ask"];
    /// Forgets broadcasts and addresses.
    Forget = "forget", Role::Ask, true, ["broadcasts", "addresses"];
    /// Chooses when the phase runs again.
    Cadence = "cadence", Role::Ask, true, ["again-in"];
    /// What the phase keeps between runs.
    Memory = "memory", Role::Beside, true, ["load", "store"];
    /// Log lines.
    Log = "log", Role::Beside, false, ["write"];
    /// Counters and gauges.
    Metrics = "metrics", Role::Beside, true, ["add", "set"];
    /// What a phase exports.
    Lifecycle = "lifecycle", Role::Export, false, ["describe", "check", "run"];
}

impl Interface {
    /// What the contract says about it.
    pub const fn entry(self) -> &'static InterfaceEntry {
        &INTERFACES[self as usize]
    }

    /// Its name, such as `disconnect`.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// One of its functions as a broken rule names it, such as `peers.select`; None if there is no such function.
    pub fn call(self, function: &str) -> Option<&'static str> {
        let InterfaceEntry { functions, calls, .. } = self.entry();
        functions.iter().position(|known| *known == function).map(|at| calls[at])
    }

    /// The interface of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|interface| interface.name() == name)
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use crate::ask::{KINDS, Kind};
