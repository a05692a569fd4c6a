//! Owns what a run asks for, in order, and the rules about asking. Applies nothing and knows no grants.

use crate::ask::Ask;
use crate::column::{Address, Peer, Row};
use crate::contract::{ASKS_PER_PLAN, METRIC_NAME_BYTES, METRICS, REASON_BYTES, ROWS, TESTS};
use crate::host::{RuleBroken, clean};
use crate::memory::{self, Memory, Saved};
use crate::phase::Result;
use crate::select::Select;
use crate::span::Span;

/// The asks of one run. Nothing happens before the run has returned and the host has checked them.
///
/// At most 4096 asks. A reason is 1 to 200 bytes: it is told to the peer or written into the journal, so say what was
/// seen and what the limit is. Breaking a rule ends the run, and everything asked for is dropped.
#[derive(Debug, Default)]
pub struct Plan {
    parts: Parts,
    rows: Option<(u32, u32)>,
    /// Rows of all pings so far.
    pinged: usize,
}

/// A plan taken apart, for the host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parts {
    /// The actions, in the order of asking.
    pub asks: Vec<Ask>,
    /// What to store if the plan is accepted.
    pub memory: Option<Saved>,
    /// Lines for the operator, kept even if the run fails.
    pub log: Vec<LogLine>,
    /// The phase's own numbers, one entry per name.
    pub metrics: Vec<Metric>,
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

/// One line for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// How urgent.
    pub level: Level,
    /// One line; control characters are replaced.
    pub text: String,
}

/// One number of the phase's own.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// 1 to 40 of a-z 0-9 _.
    pub name: String,
    /// What to do with it.
    pub change: Change,
}

/// What a run does to a metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Change {
    /// Adds to a counter; several calls in one run are summed, saturating.
    Add(u32),
    /// Sets a gauge; the last call of a run counts.
    Set(f64),
}

impl Plan {
    /// An empty plan that does not know how many rows there are.
    pub fn new() -> Self {
        Plan::default()
    }

    /// An empty plan for a view with so many rows, which refuses asks about any other row.
    pub fn within(peers: u32, addresses: u32) -> Self {
        Plan { rows: Some((peers, addresses)), ..Plan::default() }
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, peer: Peer, reason: impl Into<String>) {
        self.ask(Ask::Disconnect { peer: peer.row(), reason: reason.into() });
    }

    /// Ends a connection for staleness: void if the peer spoke since the view was taken.
    pub fn disconnect_if_silent(&mut self, peer: Peer, reason: impl Into<String>) {
        self.ask(Ask::DisconnectIfSilent { peer: peer.row(), reason: reason.into() });
    }

    /// Moves a peer's health by this many points; it stays within 0 to 100.
    pub fn health(&mut self, peer: Peer, by: i32, reason: impl Into<String>) {
        self.ask(Ask::Health { peer: peer.row(), by, reason: reason.into() });
    }

    /// Pings these; the answers show in later runs. At most 16384 in one run; none asks for nothing.
    pub fn ping(&mut self, peers: &[Peer]) {
        self.ask(Ask::Ping { peers: peers.iter().map(|peer| peer.row()).collect() });
    }

    /// Pings everyone in a selection, however many, as one action; the host spreads the pings. Order says nothing here.
    pub fn ping_matching(&mut self, peers: Select<'_, Peer>) {
        let tests = peers.into_tests("ping.matching").unwrap_or_else(|broken| broken.unwind());
        self.ask(Ask::PingMatching { tests });
    }

    /// Dials an address. Dials run beside the ticks and show in `totals().dialing`.
    pub fn dial(&mut self, address: Address, reason: impl Into<String>) {
        self.ask(Ask::Dial { address: address.row(), reason: reason.into() });
    }

    /// Connects, shakes hands and hangs up, only to learn whether the address is alive.
    pub fn probe(&mut self, address: Address) {
        self.ask(Ask::Probe { address: address.row() });
    }

    /// Keeps other phases from disconnecting a peer for so long, in whole seconds, rounded up.
    pub fn protect(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl Into<String>) {
        self.ask(Ask::Protect {
            peer: peer.row(),
            for_s: how_long.into().as_secs_up(),
            reason: reason.into(),
        });
    }

    /// Ends the connection and refuses the peer's key for so long, in whole seconds, rounded up.
    pub fn ban(&mut self, peer: Peer, how_long: impl Into<Span>, reason: impl Into<String>) {
        self.ask(Ask::Ban { peer: peer.row(), for_s: how_long.into().as_secs_up(), reason: reason.into() });
    }

    /// Forgets broadcasts older than this, in whole seconds, rounded down.
    pub fn forget_broadcasts(&mut self, older_than: impl Into<Span>) {
        self.ask(Ask::ForgetBroadcasts { older_than_s: older_than.into().as_secs() });
    }

    /// Forgets addresses that nobody named for longer than this, in whole seconds, rounded down.
    pub fn forget_addresses(&mut self, not_heard_for: impl Into<Span>) {
        self.ask(Ask::ForgetAddresses { not_heard_for_s: not_heard_for.into().as_secs() });
    }

    /// Runs this phase again after so many ticks (1 or more), once; never later than its schedule.
    pub fn again_in(&mut self, ticks: u32) {
        self.ask(Ask::AgainIn { ticks });
    }

    /// Keeps this for later runs, if the plan is accepted. The last call of a run counts.
    ///
    /// # Errors
    /// Permanent, if it does not become JSON: a map whose keys are neither strings nor numbers.
    pub fn remember<M: Memory>(&mut self, memory: &M) -> Result {
        self.parts.memory = Some(memory::save(memory)?);
        Ok(())
    }

    /// [`remember`](Plan::remember) for bytes that are ready: what a host calls for a guest.
    pub fn store(&mut self, saved: Saved) {
        self.parts.memory = Some(saved);
    }

    /// Writes a line for the operator.
    pub fn log(&mut self, level: Level, text: impl AsRef<str>) {
        self.parts.log.push(LogLine { level, text: clean(text.as_ref()).into_owned() });
    }

    /// Adds to a counter of this phase's own.
    pub fn metric_add(&mut self, name: &str, by: u32) {
        self.metric(name, Change::Add(by)).unwrap_or_else(|broken| broken.unwind());
    }

    /// Sets a gauge of this phase's own.
    pub fn metric_set(&mut self, name: &str, value: f64) {
        self.metric(name, Change::Set(value)).unwrap_or_else(|broken| broken.unwind());
    }

    /// [`metric_add`](Plan::metric_add) and [`metric_set`](Plan::metric_set), for a host that answers a guest.
    ///
    /// # Errors
    /// [`RuleBroken`] for a name with other characters, one name too many, or a name both added to and set.
    pub fn metric(&mut self, name: &str, change: Change) -> Result<(), RuleBroken> {
        let call = match change {
            Change::Add(_) => "metrics.add",
            Change::Set(_) => "metrics.set",
        };
        let metrics = &mut self.parts.metrics;
        if let Some(metric) = metrics.iter_mut().find(|metric| metric.name == name) {
            metric.change = match (metric.change, change) {
                (Change::Add(sum), Change::Add(by)) => Change::Add(sum.saturating_add(by)),
                (Change::Set(_), Change::Set(value)) => Change::Set(value),
                _ => return Err(RuleBroken { call, rule: format!("{name:?} is both added to and set") }),
            };
            return Ok(());
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > METRIC_NAME_BYTES || !name.bytes().all(fits) {
            let shown: String = name.chars().take(METRIC_NAME_BYTES).collect();
            let rule = format!("name {shown:?} is not 1 to {METRIC_NAME_BYTES} of a-z 0-9 _");
            return Err(RuleBroken { call, rule });
        }
        if metrics.len() == METRICS {
            return Err(RuleBroken { call, rule: format!("{name:?} is one name more than {METRICS}") });
        }
        metrics.push(Metric { name: name.to_owned(), change });
        Ok(())
    }

    /// Puts an ask at the end of the plan, with control characters in its reason replaced.
    ///
    /// # Errors
    /// [`RuleBroken`], with the plan as it was. Whether the columns of a ping's tests exist is for
    /// [`query`](crate::query) to say.
    pub fn push(&mut self, mut ask: Ask) -> Result<(), RuleBroken> {
        if matches!(&ask, Ask::Ping { peers } if peers.is_empty()) {
            return Ok(());
        }
        if let Some(rule) = self.broken_by(&ask) {
            return Err(RuleBroken { call: ask.call(), rule });
        }
        if let Some(reason) = ask.reason_mut()
            && let std::borrow::Cow::Owned(cleaned) = clean(reason)
        {
            *reason = cleaned;
        }
        if let Ask::Ping { peers } = &ask {
            self.pinged += peers.len();
        }
        self.parts.asks.push(ask);
        Ok(())
    }

    /// What was asked for so far.
    pub fn asks(&self) -> &[Ask] {
        &self.parts.asks
    }

    /// Takes the plan apart.
    pub fn into_parts(self) -> Parts {
        self.parts
    }

    fn ask(&mut self, ask: Ask) {
        self.push(ask).unwrap_or_else(|broken| broken.unwind());
    }

    fn broken_by(&self, ask: &Ask) -> Option<String> {
        if self.parts.asks.len() >= ASKS_PER_PLAN {
            return Some(format!("one ask more than {ASKS_PER_PLAN}"));
        }
        let (peers, addresses) = self.rows.unwrap_or((u32::MAX, u32::MAX));
        let outside = |row: u32, rows: u32| {
            (row >= rows).then(|| format!("row {row} of {rows}; keep no row beyond its run"))
        };
        let unreasoned = |reason: &str| match reason.len() {
            1..=REASON_BYTES => None,
            bytes => Some(format!("a reason of {bytes} bytes is not within 1 to {REASON_BYTES}")),
        };
        match ask {
            Ask::Disconnect { peer, reason }
            | Ask::DisconnectIfSilent { peer, reason }
            | Ask::Health { peer, reason, .. }
            | Ask::Protect { peer, reason, .. }
            | Ask::Ban { peer, reason, .. } => outside(*peer, peers).or_else(|| unreasoned(reason)),
            Ask::Dial { address, reason } => outside(*address, addresses).or_else(|| unreasoned(reason)),
            Ask::Probe { address } => outside(*address, addresses),
            Ask::Ping { peers: rows } if self.pinged + rows.len() > ROWS as usize => {
                let all = self.pinged + rows.len();
                Some(format!("{all} rows in one run are more than {ROWS}; use ping_matching"))
            }
            Ask::Ping { peers: rows } => rows.iter().find_map(|row| outside(*row, peers)),
            Ask::PingMatching { tests } if tests.len() > TESTS => {
                Some(format!("{} tests are more than {TESTS}", tests.len()))
            }
            Ask::AgainIn { ticks: 0 } => Some("0 ticks; again-in takes 1 or more".to_owned()),
            Ask::PingMatching { .. }
            | Ask::ForgetBroadcasts { .. }
            | Ask::ForgetAddresses { .. }
            | Ask::AgainIn { .. } => None,
        }
    }
}
