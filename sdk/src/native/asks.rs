//! The asks of a run, in order, and the rules about them. Applies nothing and knows no grants.

use crate::ask::{Ask, AskField, AskFieldMut};
use crate::column::Peer;
use crate::contract::{ASKS_PER_PLAN, METRIC_NAME_BYTES, METRICS, REASON_BYTES, ROWS, TESTS};
use crate::host::{RuleBroken, clean};
use crate::memory::Saved;
use crate::phase::Result;
use crate::plan::Level;
use crate::query::Test;
use crate::view::View;

/// A plan taken apart, for the host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parts {
    /// The actions, in the order in which the phase asked.
    pub asks: Vec<Ask>,
    /// What to store if the plan is accepted.
    pub memory: Option<Saved>,
    /// Lines for the operator, kept even if the run fails.
    pub log: Vec<LogLine>,
    /// The phase's metrics, one entry per name.
    pub metrics: Vec<Metric>,
}

/// One line for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// How urgent.
    pub level: Level,
    /// One line; control characters are replaced.
    pub text: String,
}

/// One metric of the phase.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// 1 to 40 of a-z 0-9 _.
    pub name: String,
    /// What to do with it.
    pub change: MetricChange,
}

/// What a run does to a metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MetricChange {
    /// Adds to a counter. Several calls in one run are summed, saturating.
    Add(u32),
    /// Sets a gauge; the last call of a run counts.
    Set(f64),
}

/// The asks of a plan, and the numbers of rows to check them against.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    pub(super) parts: Parts,
    /// Rows of the two tables, if known.
    rows: Option<(u32, u32)>,
    /// Rows of all pings so far.
    pinged: usize,
}

/// What [`Plan`](crate::plan::Plan) calls for a phase. A broken rule unwinds.
impl Asks {
    pub(crate) fn disconnect(&mut self, peer: u32, reason: &str) {
        self.ask(Ask::Disconnect { peer, reason: reason.to_owned() });
    }

    pub(crate) fn disconnect_if_silent(&mut self, peer: u32, reason: &str) {
        self.ask(Ask::DisconnectIfSilent { peer, reason: reason.to_owned() });
    }

    pub(crate) fn health(&mut self, peer: u32, by: i32, reason: &str) {
        self.ask(Ask::Health { peer, by, reason: reason.to_owned() });
    }

    pub(crate) fn ping(&mut self, peers: Vec<u32>) {
        self.ask(Ask::Ping { peers });
    }

    pub(crate) fn ping_matching(&mut self, view: &View, tests: Vec<Test>) {
        let unknown = tests.iter().find_map(|test| view.reads.unknown::<Peer>("ping.matching", &test.column));
        if let Some(broken) = unknown {
            broken.unwind();
        }
        self.ask(Ask::PingMatching { tests });
    }

    pub(crate) fn dial(&mut self, address: u32, reason: &str) {
        self.ask(Ask::Dial { address, reason: reason.to_owned() });
    }

    pub(crate) fn probe(&mut self, address: u32) {
        self.ask(Ask::Probe { address });
    }

    pub(crate) fn protect(&mut self, peer: u32, for_s: u32, reason: &str) {
        self.ask(Ask::Protect { peer, for_s, reason: reason.to_owned() });
    }

    pub(crate) fn ban(&mut self, peer: u32, for_s: u32, reason: &str) {
        self.ask(Ask::Ban { peer, for_s, reason: reason.to_owned() });
    }

    pub(crate) fn forget_broadcasts(&mut self, older_than_s: u32) {
        self.ask(Ask::ForgetBroadcasts { older_than_s });
    }

    pub(crate) fn forget_addresses(&mut self, not_heard_for_s: u32) {
        self.ask(Ask::ForgetAddresses { not_heard_for_s });
    }

    pub(crate) fn again_in(&mut self, ticks: u32) {
        self.ask(Ask::AgainIn { ticks });
    }

    pub(crate) fn store(&mut self, saved: Saved) {
        self.parts.memory = Some(saved);
    }

    pub(crate) fn log(&mut self, level: Level, text: &str) {
        self.parts.log.push(LogLine { level, text: clean(text).into_owned() });
    }

    pub(crate) fn metric_add(&mut self, name: &str, by: u32) {
        self.metric(name, MetricChange::Add(by)).unwrap_or_else(|broken| broken.unwind());
    }

    pub(crate) fn metric_set(&mut self, name: &str, value: f64) {
        self.metric(name, MetricChange::Set(value)).unwrap_or_else(|broken| broken.unwind());
    }

    fn ask(&mut self, ask: Ask) {
        self.push(ask).unwrap_or_else(|broken| broken.unwind());
    }
}

/// The rules.
impl Asks {
    pub(super) fn within(peers: u32, addresses: u32) -> Asks {
        Asks { rows: Some((peers, addresses)), ..Asks::default() }
    }

    pub(super) fn metric(&mut self, name: &str, change: MetricChange) -> Result<(), RuleBroken> {
        let call = match change {
            MetricChange::Add(_) => "metrics.add",
            MetricChange::Set(_) => "metrics.set",
        };
        let metrics = &mut self.parts.metrics;
        if let Some(metric) = metrics.iter_mut().find(|metric| metric.name == name) {
            metric.change = match (metric.change, change) {
                (MetricChange::Add(sum), MetricChange::Add(by)) => MetricChange::Add(sum.saturating_add(by)),
                (MetricChange::Set(_), MetricChange::Set(value)) => MetricChange::Set(value),
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

    pub(super) fn push(&mut self, mut ask: Ask) -> Result<(), RuleBroken> {
        if matches!(&ask, Ask::Ping { peers } if peers.is_empty()) {
            return Ok(());
        }
        if let Some(rule) = self.broken_by(&ask) {
            return Err(RuleBroken { call: ask.call(), rule });
        }
        for field in ask.fields_mut() {
            if let AskFieldMut::Reason(reason) = field
                && let std::borrow::Cow::Owned(cleaned) = clean(reason)
            {
                *reason = cleaned;
            }
        }
        if let Ask::Ping { peers } = &ask {
            self.pinged += peers.len();
        }
        self.parts.asks.push(ask);
        Ok(())
    }

    fn broken_by(&self, ask: &Ask) -> Option<String> {
        if self.parts.asks.len() >= ASKS_PER_PLAN {
            return Some(format!("one ask more than {ASKS_PER_PLAN}"));
        }
        let (peers, addresses) = self.rows.unwrap_or((u32::MAX, u32::MAX));
        let outside = |row: u32, rows: u32| {
            (row >= rows).then(|| format!("row {row} of {rows}; keep no row beyond its run"))
        };
        ask.fields().find_map(|field| match field {
            AskField::Peer(row) => outside(*row, peers),
            AskField::Address(row) => outside(*row, addresses),
            AskField::Peers(rows) if self.pinged + rows.len() > ROWS as usize => {
                let all = self.pinged + rows.len();
                Some(format!("{all} rows in one run are more than {ROWS}; use ping_matching"))
            }
            AskField::Peers(rows) => rows.iter().find_map(|row| outside(*row, peers)),
            AskField::Tests(tests) if tests.len() > TESTS => {
                Some(format!("{} tests are more than {TESTS}", tests.len()))
            }
            AskField::Reason(reason) if !(1..=REASON_BYTES).contains(&reason.len()) => {
                Some(format!("a reason of {} bytes is not within 1 to {REASON_BYTES}", reason.len()))
            }
            AskField::Ticks(0) => Some("0 ticks; again-in takes 1 or more".to_owned()),
            _ => None,
        })
    }
}
