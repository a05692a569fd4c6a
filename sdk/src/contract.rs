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

/// One interface of the contract: one capability, one `[grants]` key, one metric label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name, such as `disconnect`.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Whether a manifest has to grant it.
    pub needs_grant: bool,
    /// Its functions, in the WIT's order.
    pub functions: &'static [&'static str],
}

const fn interface(
    name: &'static str,
    role: Role,
    needs_grant: bool,
    functions: &'static [&'static str],
) -> Interface {
    Interface { name, role, needs_grant, functions }
}

/// Every interface, in the WIT's order.
pub const INTERFACES: &[Interface] = &[
    interface("types", Role::Types, false, &[]),
    interface(
        "peers",
        Role::Read,
        true,
        &["totals-now", "select", "count", "facts", "column", "names", "columns"],
    ),
    interface("book", Role::Read, true, &["select", "count", "facts", "column", "names", "columns"]),
    interface("broadcasts", Role::Read, true, &["totals-now"]),
    interface("disconnect", Role::Ask, true, &["ask", "ask-if-silent"]),
    interface("health", Role::Ask, true, &["adjust"]),
    interface("ping", Role::Ask, true, &["ask", "matching"]),
    interface("dial", Role::Ask, true, &["ask", "probe"]),
    interface("protect", Role::Ask, true, &["ask"]),
    interface("ban", Role::Ask, true, &["ask"]),
    interface("forget", Role::Ask, true, &["broadcasts", "addresses"]),
    interface("cadence", Role::Ask, true, &["again-in"]),
    interface("memory", Role::Beside, true, &["load", "store"]),
    interface("log", Role::Beside, false, &["write"]),
    interface("metrics", Role::Beside, true, &["add", "set"]),
    interface("lifecycle", Role::Export, false, &["describe", "check", "run"]),
];

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
    pub interface: &'static str,
    /// `interface.function`.
    pub call: &'static str,
}

const fn kind(name: &'static str, interface: &'static str, call: &'static str) -> Kind {
    Kind { name, interface, call }
}

/// Every kind of action. Its index is its number in the journal and in the C table: only ever append.
pub const KINDS: &[Kind] = &[
    kind("disconnect", "disconnect", "disconnect.ask"),
    kind("disconnect-if-silent", "disconnect", "disconnect.ask-if-silent"),
    kind("health", "health", "health.adjust"),
    kind("ping", "ping", "ping.ask"),
    kind("ping-matching", "ping", "ping.matching"),
    kind("dial", "dial", "dial.ask"),
    kind("probe", "dial", "dial.probe"),
    kind("protect", "protect", "protect.ask"),
    kind("ban", "ban", "ban.ask"),
    kind("forget-broadcasts", "forget", "forget.broadcasts"),
    kind("forget-addresses", "forget", "forget.addresses"),
    kind("again-in", "cadence", "cadence.again-in"),
];
