//! Owns the contract as data: its text, its interfaces, its limits. Tests compare it with the WIT; it decides nothing.

/// The package that a component names.
pub const PACKAGE: &str = "groundskeeper:phase@0.1.0";

/// The whole contract, as authors in other languages need it.
pub const WIT: &str = include_str!("../wit/v0.1/phase.wit");

/// Tests in one query.
pub const TESTS: usize = 8;
/// Rows out of one query, values out of one read, rows of all pings of a run: 64 KiB of numbers.
pub const ROWS: u32 = 16_384;
/// Asks in one plan.
pub const ASKS_PER_PLAN: usize = 4_096;
/// Bytes of a reason.
pub const REASON_BYTES: usize = 200;
/// Names of metrics in one run.
pub const METRICS: usize = 16;
/// Bytes of a metric's name.
pub const METRIC_NAME_BYTES: usize = 40;
/// Rows whose names one call of a guest returns.
pub const NAMES: usize = 64;

/// What an interface is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// Shapes only.
    Types,
    /// Reads a table of the view.
    Read,
    /// Each call is an action of the plan.
    Ask,
    /// Kept or dropped with the plan, but no action of it.
    Beside,
    /// What the phase exports.
    Export,
}

/// What the contract says of one interface.
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
}

macro_rules! interfaces {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $role:expr, $needs_grant:literal, [$($function:literal),*];)*) => {
        /// An interface of the contract: one capability, one `[grants]` key, one metric label.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Interface {
            $($(#[$doc])* $variant,)*
        }

        /// Every interface, in the WIT's order: that of [`Interface`].
        pub const INTERFACES: &[InterfaceEntry] = &[$(InterfaceEntry {
            name: $name,
            role: $role,
            needs_grant: $needs_grant,
            functions: &[$($function),*],
        }),*];

        impl Interface {
            /// Every interface, in the WIT's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

interfaces! {
    /// Shapes only.
    Types = "types", Role::Types, false, [];
    /// The connected peers.
    Peers = "peers", Role::Read, true,
        ["totals-now", "select", "count", "facts", "column", "names", "columns"];
    /// The address book.
    Book = "book", Role::Read, true, ["select", "count", "facts", "column", "names", "columns"];
    /// The memory of broadcasts.
    Broadcasts = "broadcasts", Role::Read, true, ["totals-now"];
    /// Ends connections.
    Disconnect = "disconnect", Role::Ask, true, ["ask", "ask-if-silent"];
    /// Moves the health of peers.
    Health = "health", Role::Ask, true, ["adjust"];
    /// Pings peers.
    Ping = "ping", Role::Ask, true, ["ask", "matching"];
    /// Dials addresses of the book.
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
    /// Lines of log.
    Log = "log", Role::Beside, false, ["write"];
    /// Counters and gauges.
    Metrics = "metrics", Role::Beside, true, ["add", "set"];
    /// What a phase exports.
    Lifecycle = "lifecycle", Role::Export, false, ["describe", "check", "run"];
}

impl Interface {
    /// What the contract says of it.
    pub const fn entry(self) -> &'static InterfaceEntry {
        &INTERFACES[self as usize]
    }

    /// Its name, such as `disconnect`.
    pub const fn name(self) -> &'static str {
        self.entry().name
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

/// Every call of a phase into its host, `interface.function`, in the WIT's order.
pub const CALLS: &[&str] = &[
    "peers.totals-now",
    "peers.select",
    "peers.count",
    "peers.facts",
    "peers.column",
    "peers.names",
    "peers.columns",
    "book.select",
    "book.count",
    "book.facts",
    "book.column",
    "book.names",
    "book.columns",
    "broadcasts.totals-now",
    "disconnect.ask",
    "disconnect.ask-if-silent",
    "health.adjust",
    "ping.ask",
    "ping.matching",
    "dial.ask",
    "dial.probe",
    "protect.ask",
    "ban.ask",
    "forget.broadcasts",
    "forget.addresses",
    "cadence.again-in",
    "memory.load",
    "memory.store",
    "log.write",
    "metrics.add",
    "metrics.set",
];

/// One kind of action: how the journal calls it, and the call that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// The journal's word, such as `disconnect-if-silent`.
    pub name: &'static str,
    /// The interface, which is also the grant.
    pub interface: Interface,
    /// `interface.function`.
    pub call: &'static str,
}

const fn kind(name: &'static str, interface: Interface, call: &'static str) -> Kind {
    Kind { name, interface, call }
}

/// Every kind of action. Its index is its number in the journal and in the C table: only ever append.
pub const KINDS: &[Kind] = &[
    kind("disconnect", Interface::Disconnect, "disconnect.ask"),
    kind("disconnect-if-silent", Interface::Disconnect, "disconnect.ask-if-silent"),
    kind("health", Interface::Health, "health.adjust"),
    kind("ping", Interface::Ping, "ping.ask"),
    kind("ping-matching", Interface::Ping, "ping.matching"),
    kind("dial", Interface::Dial, "dial.ask"),
    kind("probe", Interface::Dial, "dial.probe"),
    kind("protect", Interface::Protect, "protect.ask"),
    kind("ban", Interface::Ban, "ban.ask"),
    kind("forget-broadcasts", Interface::Forget, "forget.broadcasts"),
    kind("forget-addresses", Interface::Forget, "forget.addresses"),
    kind("again-in", Interface::Cadence, "cadence.again-in"),
];
