//! The contract's types as they pass between guest and host. Each is a type of the WIT; linking checks that they match.

use groundskeeper_sdk::column::UNKNOWN;
use groundskeeper_sdk::{host, phase};
use wasmtime::component::{ComponentType, Lift, Lower};

#[derive(Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Test {
    pub column: String,
    #[component(name = "at-least")]
    pub at_least: u32,
    #[component(name = "at-most")]
    pub at_most: u32,
}

#[derive(Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Order {
    pub column: String,
    pub descending: bool,
}

#[derive(Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Query {
    pub tests: Vec<Test>,
    #[component(name = "sort-by")]
    pub sort_by: Option<Order>,
    pub limit: u32,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Totals {
    connected: u32,
    inbound: u32,
    dialing: u32,
    healthy: u32,
    least: u32,
    most: u32,
}

impl From<host::Totals> for Totals {
    fn from(totals: host::Totals) -> Self {
        let host::Totals { connected, inbound, dialing, healthy, least, most } = totals;
        Self { connected, inbound, dialing, healthy, least, most }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Name {
    id: String,
    address: String,
    agent: String,
}

impl From<host::Name> for Name {
    fn from(name: host::Name) -> Self {
        let host::Name { id, address, agent } = name;
        Self { id, address, agent }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct BroadcastTotals {
    held: u32,
    #[component(name = "oldest-s")]
    oldest_s: u32,
    #[component(name = "in-window")]
    in_window: u32,
    #[component(name = "window-s")]
    window_s: u32,
}

impl From<host::BroadcastTotals> for BroadcastTotals {
    fn from(totals: host::BroadcastTotals) -> Self {
        let host::BroadcastTotals { held, oldest_s, in_window, window_s } = totals;
        Self { held, oldest_s, in_window, window_s }
    }
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Saved {
    pub version: u32,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made out of their numbers when they cross the border")]
pub(super) enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
}

impl From<Level> for host::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Descriptor {
    pub summary: String,
    pub version: String,
    pub toolkit: String,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Tick {
    number: u32,
    #[component(name = "since-last-s")]
    since_last_s: u32,
    missed: u32,
    late: bool,
    #[component(name = "unix-s")]
    unix_s: u32,
    seed: (u32, u32),
}

impl From<phase::Tick> for Tick {
    fn from(tick: phase::Tick) -> Self {
        let phase::Tick { number, since_last_s, missed, late, unix_s, seed } = tick;
        let since_last_s = since_last_s.unwrap_or(UNKNOWN);
        Self { number, since_last_s, missed, late, unix_s, seed: (seed[0], seed[1]) }
    }
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Failure {
    #[component(name = "transient")]
    Transient(String),
    #[component(name = "permanent")]
    Permanent(String),
}
