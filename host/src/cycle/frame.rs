//! What is frozen for one beat: connections, addresses and totals, each column copied when a phase first touches it.
//! Changes nothing, and does not change once touched.

use std::sync::{Arc, OnceLock};

use groundskeeper_sdk::column::{address, peer};
use groundskeeper_sdk::host as contract;

use crate::book::{Book, BookRows};
use crate::clock::Coarse;
use crate::flow::Broadcasts;
use crate::journal::Input;
use crate::pool::{Naming, Pool, Rows, Traffic};

/// The operator's numbers that phases see beside the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A connection counts as healthy above this.
    pub healthy_above: u8,
    /// Floor and ceiling for the number of connections.
    pub least: u32,
    pub most: u32,
}

/// One beat's picture of the node.
pub struct Frame {
    pool: Arc<Pool>,
    book: Arc<Book>,
    thresholds: Thresholds,
    now: Coarse,
    resumed_at: Coarse,
    rows: Rows,
    dialing: u32,
    broadcasts: contract::BroadcastTotals,
    traffic: OnceLock<Vec<Traffic>>,
    counts: OnceLock<(u32, u32)>,
    peers: [OnceLock<Vec<u32>>; peer::COLUMNS.len()],
    book_rows: OnceLock<BookRows>,
}

/// Where a column of `names` is kept.
pub(super) fn place(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

impl Frame {
    /// Freezes which connections are live: a bit for each slot. Columns come later.
    pub fn take(
        pool: &Arc<Pool>,
        book: &Arc<Book>,
        broadcasts: &Broadcasts,
        thresholds: Thresholds,
        now: Coarse,
        resumed_at: Coarse,
    ) -> Arc<Self> {
        let totals = broadcasts.totals(now);
        Arc::new(Self {
            rows: pool.freeze(),
            dialing: book.dialing(),
            broadcasts: contract::BroadcastTotals {
                held: totals.held,
                oldest_s: totals.oldest_s,
                in_window: totals.in_window,
                window_s: totals.window_s,
            },
            pool: Arc::clone(pool),
            book: Arc::clone(book),
            thresholds,
            now,
            resumed_at,
            traffic: OnceLock::new(),
            counts: OnceLock::new(),
            peers: Default::default(),
            book_rows: OnceLock::new(),
        })
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    pub(super) fn dialing(&self) -> u32 {
        self.dialing
    }

    pub(super) fn broadcasts(&self) -> contract::BroadcastTotals {
        self.broadcasts
    }

    /// Connections that came to us, and connections above the health threshold.
    pub(super) fn counts(&self) -> (u32, u32) {
        *self.counts.get_or_init(|| {
            self.rows.words().iter().fold((0, 0), |(inbound, healthy), word| {
                let is_healthy = word.health() > self.thresholds.healthy_above;
                (inbound + u32::from(word.inbound()), healthy + u32::from(is_healthy))
            })
        })
    }

    pub(super) fn book(&self) -> &BookRows {
        self.book_rows.get_or_init(|| self.book.freeze(&self.pool))
    }

    fn traffic(&self) -> &[Traffic] {
        self.traffic.get_or_init(|| self.pool.freeze_traffic(&self.rows))
    }

    /// The column at `place` of the contract's list, for all rows.
    pub(super) fn peer_column(&self, place: usize) -> &[u32] {
        self.peers[place].get_or_init(|| {
            let words = || self.rows.words().iter();
            match peer::COLUMNS[place] {
                "conn" => words().map(|word| word.conn()).collect(),
                "idle-s" => self.pool.freeze_idle(&self.rows, self.now, self.resumed_at),
                "age-s" => {
                    let since = self.pool.freeze_connected_at(&self.rows);
                    since.into_iter().map(|at| self.now.seconds_since(Coarse(at))).collect()
                }
                "health" => words().map(|word| word.health().into()).collect(),
                "rtt-us" => self.pool.freeze_rtt(&self.rows),
                "pings-lost" => words().map(|word| word.pings_lost().into()).collect(),
                "kib-in" => self.traffic().iter().map(|traffic| traffic.kib_in).collect(),
                "kib-out" => self.traffic().iter().map(|traffic| traffic.kib_out).collect(),
                "kib-queued" => self.traffic().iter().map(|traffic| traffic.kib_queued).collect(),
                "group" => self.pool.freeze_groups(&self.rows),
                "inbound" => words().map(|word| word.inbound().into()).collect(),
                "protected" => words().map(|word| word.protected().into()).collect(),
                unserved => unreachable!("a test checks that every contract column is served: {unserved}"),
            }
        })
    }

    /// The column at `place` of the contract's list of book columns, for all rows.
    pub(super) fn book_column(&self, place: usize) -> &[u32] {
        let rows = self.book();
        match address::COLUMNS[place] {
            "heard-s" => &rows.heard_s,
            "reached-s" => &rows.reached_s,
            "failures" => &rows.failures,
            "wait-s" => &rows.wait_s,
            "group" => &rows.groups,
            unserved => unreachable!("a test checks that every contract column is served: {unserved}"),
        }
    }

    /// How long each row has been silent, in seconds: since the last sign of life, or since this node woke if that is
    /// later.
    fn idle_s(&self) -> &[u32] {
        self.peer_column(place(peer::COLUMNS, "idle-s").expect("the contract has idle times"))
    }

    /// The moment that "silent since the view was taken" refers to: whoever was seen after it has spoken since, for it
    /// is the latest at which the row's idle time could have begun.
    pub(super) fn silent_since(&self, row: usize) -> Coarse {
        Coarse(self.now.0.saturating_sub(self.idle_s()[row].saturating_mul(Coarse::PER_SECOND)))
    }

    pub(super) fn naming(&self, row: usize) -> Option<Naming> {
        self.pool.name(self.rows.key(row))
    }

    /// One row's columns for the journal: those that were frozen as they were, and the usual ones in any case.
    pub(super) fn inputs(&self, row: usize) -> Vec<Input> {
        let word = self.rows.words()[row];
        let now = self.pool.age_and_rtt(self.rows.key(row));
        let value = |at: usize| match (self.peers[at].get(), peer::COLUMNS[at]) {
            (_, "conn") => None,
            (Some(column), _) => Some(column[row]),
            (None, "idle-s") => Some(self.idle_s()[row]),
            (None, "age-s") => now.map(|(since, _)| self.now.seconds_since(since)),
            (None, "rtt-us") => now.map(|(_, rtt)| rtt),
            (None, "health") => Some(word.health().into()),
            (None, "pings-lost") => Some(word.pings_lost().into()),
            (None, "inbound") => Some(word.inbound().into()),
            (None, _) => None,
        };
        (0..peer::COLUMNS.len()).filter_map(|at| Some((peer::COLUMNS[at].into(), value(at)?))).collect()
    }

    /// One address' columns for the journal.
    pub(super) fn book_inputs(&self, row: usize) -> Vec<Input> {
        let columns = 0..address::COLUMNS.len();
        columns.map(|at| (address::COLUMNS[at].into(), self.book_column(at)[row])).collect()
    }
}
