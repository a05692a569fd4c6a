//! Owns how a phase asks, in order. Applies nothing, and leaves the rules about asking to whoever keeps the plan.

use crate::backend::Asks;
use crate::column::{Address, Peer, Row};
use crate::memory::{self, Memory};
use crate::phase::Result;
use crate::select::Select;
use crate::span::Span;

#[cfg(not(target_arch = "wasm32"))]
pub use crate::native::{Change, LogLine, Metric, Parts};

/// The asks of one run. Nothing happens before the run has returned and the host has checked them.
///
/// At most 4096 asks. A reason is 1 to 200 bytes: it is told to the peer or written into the journal, so say what was
/// seen and what the limit is. Breaking a rule ends the run, and everything asked for is dropped.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) asks: Asks,
}

/// How urgent a line is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Level {
    /// Somebody has to do something.
    Error,
    /// Somebody may want to know.
    Warn,
    /// What was decided.
    Info,
    /// Why.
    Debug,
}

impl Plan {
    /// Ends a connection.
    pub fn disconnect(&mut self, peer: Peer, reason: impl AsRef<str>) {
        self.asks.disconnect(peer.row(), reason.as_ref());
    }

    /// Ends a connection for staleness: void if the peer spoke since the view was taken.
    pub fn disconnect_if_silent(&mut self, peer: Peer, reason: impl AsRef<str>) {
        self.asks.disconnect_if_silent(peer.row(), reason.as_ref());
    }

    /// Moves a peer's health by this many points; it stays within 0 to 100.
    pub fn health(&mut self, peer: Peer, by: i32, reason: impl AsRef<str>) {
        self.asks.health(peer.row(), by, reason.as_ref());
    }

    /// Pings these; the answers show in later runs. At most 16384 in one run; none asks for nothing.
    pub fn ping(&mut self, peers: &[Peer]) {
        self.asks.ping(peers.iter().map(|peer| peer.row()).collect());
    }

    /// Pings everyone in a selection, however many, as one action; the host spreads the pings. Order says nothing here.
    pub fn ping_matching(&mut self, peers: Select<'_, Peer>) {
        self.asks.ping_matching(peers.view(), peers.into_tests());
    }

    /// Dials an address. Dials run beside the ticks and show in `totals().dialing`.
    pub fn dial(&mut self, address: Address, reason: impl AsRef<str>) {
        self.asks.dial(address.row(), reason.as_ref());
    }

    /// Connects, shakes hands and hangs up, only to learn whether the address is alive.
    pub fn probe(&mut self, address: Address) {
        self.asks.probe(address.row());
    }

    /// Keeps other phases from disconnecting a peer for so long, in whole seconds, rounded up.
    pub fn protect(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl AsRef<str>) {
        self.asks.protect(peer.row(), how_long.into().as_secs_up(), reason.as_ref());
    }

    /// Ends the connection and refuses the peer's key for so long, in whole seconds, rounded up.
    pub fn ban(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl AsRef<str>) {
        self.asks.ban(peer.row(), how_long.into().as_secs_up(), reason.as_ref());
    }

    /// Forgets broadcasts older than this, in whole seconds, rounded down.
    pub fn forget_broadcasts(&mut self, older_than: impl Into<Span>) {
        self.asks.forget_broadcasts(older_than.into().as_secs());
    }

    /// Forgets addresses that nobody named for longer than this, in whole seconds, rounded down.
    pub fn forget_addresses(&mut self, not_heard_for: impl Into<Span>) {
        self.asks.forget_addresses(not_heard_for.into().as_secs());
    }

    /// Runs this phase again after so many ticks (1 or more), once; never later than its schedule. The last call of a
    /// run counts.
    pub fn again_in(&mut self, ticks: u32) {
        self.asks.again_in(ticks);
    }

    /// Keeps this for later runs, if the plan is accepted. The last call of a run counts.
    ///
    /// # Errors
    /// Permanent, if it does not become JSON: a map whose keys are neither strings nor numbers.
    pub fn remember<M: Memory>(&mut self, memory: &M) -> Result {
        self.asks.store(memory::save(memory)?);
        Ok(())
    }

    /// Writes a line for the operator.
    pub fn log(&mut self, level: Level, text: impl AsRef<str>) {
        self.asks.log(level, text.as_ref());
    }

    /// Adds to a counter of this phase's own. A name is 1 to 40 of a-z 0-9 _, and a run has at most 16 of them.
    pub fn metric_add(&mut self, name: &str, by: u32) {
        self.asks.metric_add(name, by);
    }

    /// Sets a gauge of this phase's own, with a name as above.
    pub fn metric_set(&mut self, name: &str, value: f64) {
        self.asks.metric_set(name, value);
    }
}
