//! The plan: the actions that a phase asks for, in order. Performs none; the code that stores asks checks the rules.

use crate::backend::Asks;
use crate::column::{Address, Peer, Row};
use crate::memory::{self, Memory};
use crate::phase::Result;
use crate::select::Select;
use crate::span::Span;

#[cfg(not(target_arch = "wasm32"))]
pub use crate::native::{LogLine, Metric, MetricChange, Parts};

/// The asks of one run. The host checks them after the run has returned, and acts only then.
///
/// Holds at most 4096 asks. A reason is 1 to 200 bytes and goes to the peer or into the journal, so say what was seen
/// and what the limit is. Breaking a rule ends the run and drops everything that it asked for.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) asks: Asks,
}

/// How urgent a log line is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Level {
    /// The operator must do something.
    Error,
    /// The operator may want to know.
    Warn,
    /// What was decided.
    Info,
    /// Why it was decided.
    Debug,
}

impl Plan {
    /// Ends the connection to a peer.
    pub fn disconnect(&mut self, peer: Peer, reason: impl AsRef<str>) {
        self.asks.disconnect(peer.row(), reason.as_ref());
    }

    /// Ends the connection to a silent peer. Void if the peer spoke since the view was taken.
    pub fn disconnect_if_silent(&mut self, peer: Peer, reason: impl AsRef<str>) {
        self.asks.disconnect_if_silent(peer.row(), reason.as_ref());
    }

    /// Changes a peer's health by this many points. The result stays within 0 to 100.
    pub fn health(&mut self, peer: Peer, by: i32, reason: impl AsRef<str>) {
        self.asks.health(peer.row(), by, reason.as_ref());
    }

    /// Pings these peers. Answers show in later runs. At most 16384 peers in one run; an empty list asks for nothing.
    pub fn ping(&mut self, peers: &[Peer]) {
        self.asks.ping(peers.iter().map(|peer| peer.row()).collect());
    }

    /// Pings every peer of a selection as one action, without a limit. The host spreads the pings and ignores order.
    pub fn ping_matching(&mut self, peers: Select<'_, Peer>) {
        self.asks.ping_matching(peers.view(), peers.into_tests());
    }

    /// Dials an address. Dials run in parallel to ticks and show in `totals().dialing`.
    pub fn dial(&mut self, address: Address, reason: impl AsRef<str>) {
        self.asks.dial(address.row(), reason.as_ref());
    }

    /// Connects, does the handshake and disconnects, only to learn whether the address is alive.
    pub fn probe(&mut self, address: Address) {
        self.asks.probe(address.row());
    }

    /// Keeps other phases from disconnecting a peer for this long, in whole seconds, rounded up.
    pub fn protect(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl AsRef<str>) {
        self.asks.protect(peer.row(), how_long.into().as_secs_up(), reason.as_ref());
    }

    /// Ends the connection and refuses the peer's key for this long, in whole seconds, rounded up.
    pub fn ban(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl AsRef<str>) {
        self.asks.ban(peer.row(), how_long.into().as_secs_up(), reason.as_ref());
    }

    /// Forgets broadcasts older than this, in whole seconds, rounded down.
    pub fn forget_broadcasts(&mut self, older_than: impl Into<Span>) {
        self.asks.forget_broadcasts(older_than.into().as_secs());
    }

    /// Forgets addresses that were not named for longer than this, in whole seconds, rounded down.
    pub fn forget_addresses(&mut self, not_heard_for: impl Into<Span>) {
        self.asks.forget_addresses(not_heard_for.into().as_secs());
    }

    /// Runs this phase again after this many ticks (1 or more), once, and never later than its schedule. The last call
    /// of a run counts.
    pub fn again_in(&mut self, ticks: u32) {
        self.asks.again_in(ticks);
    }

    /// Keeps this value for later runs, if the host accepts the plan. The last call of a run counts.
    ///
    /// # Errors
    /// Permanent, if it cannot be written as JSON: a map with keys that are neither strings nor numbers.
    pub fn remember<M: Memory>(&mut self, memory: &M) -> Result {
        self.asks.store(memory::save(memory)?);
        Ok(())
    }

    /// Writes a log line for the operator.
    pub fn log(&mut self, level: Level, text: impl AsRef<str>) {
        self.asks.log(level, text.as_ref());
    }

    /// Adds to a counter of this phase. A name is 1 to 40 of a-z 0-9 _, and a run has at most 16 names.
    pub fn metric_add(&mut self, name: &str, by: u32) {
        self.asks.metric_add(name, by);
    }

    /// Sets a gauge of this phase. The rules for names are the same.
    pub fn metric_set(&mut self, name: &str, value: f64) {
        self.asks.metric_set(name, value);
    }
}
