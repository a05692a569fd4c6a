//! The tables as frozen for one beat: connections, addresses and totals. A column is copied when a phase first reads it,
//! and does not change after that. Changes nothing itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use groundskeeper_pool::NodeState;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::{BroadcastTotals, Name, Table, Totals, clean};

use super::SilenceCount;
use crate::book::{Book, BookRows};
use crate::broadcasts;
use crate::clock::CoarseInstant;
use crate::engine::Snapshot;
use crate::journal::Input;
use crate::peer::PeerLabel;
use crate::pool::{LinkTraffic, PeerRows, Pool};

/// The operator's thresholds for views, statistics and late ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A connection is healthy above this.
    pub healthy_above: u8,
    /// Lower limit for the number of connections, shown to phases.
    pub least: u32,
    /// Upper limit. A guest's dial that would exceed it is refused; probes are not.
    pub most: u32,
    /// Silence after which a peer is stale. A late node resets the count of silence at most once per twice this time.
    pub stale_after: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { healthy_above: 30, least: 5, most: 1024, stale_after: Duration::from_secs(90) }
    }
}

/// The node's tables at the start of a beat.
pub struct TickSnapshot {
    pool: Arc<Pool>,
    book: Arc<Book>,
    thresholds: Thresholds,
    now: CoarseInstant,
    silence: SilenceCount,
    rows: PeerRows,
    dialing: u32,
    broadcasts: BroadcastTotals,
    traffic: OnceLock<Vec<LinkTraffic>>,
    counts: OnceLock<(u32, u32)>,
    peers: [OnceLock<Vec<u32>>; PeerColumn::COUNT],
    book_rows: OnceLock<BookRows>,
}

impl TickSnapshot {
    /// Freezes which connections are live: one bit per slot. Columns are copied later.
    pub fn take(
        state: &NodeState,
        thresholds: Thresholds,
        now: CoarseInstant,
        silence: SilenceCount,
    ) -> Arc<Self> {
        let NodeState { pool, book, .. } = state;
        let broadcasts::BroadcastStats { held, oldest_s, in_window, window_s } = state.broadcasts.totals(now);
        Arc::new(Self {
            rows: pool.freeze(),
            dialing: book.dialing(),
            broadcasts: BroadcastTotals { held, oldest_s, in_window, window_s },
            pool: Arc::clone(pool),
            book: Arc::clone(book),
            thresholds,
            now,
            silence,
            traffic: OnceLock::new(),
            counts: OnceLock::new(),
            peers: Default::default(),
            book_rows: OnceLock::new(),
        })
    }

    /// The connections that were live when the snapshot was taken.
    pub fn rows(&self) -> &PeerRows {
        &self.rows
    }

    pub(super) fn dialing(&self) -> u32 {
        self.dialing
    }

    /// Inbound connections, and connections above the health threshold.
    fn counts(&self) -> (u32, u32) {
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

    fn traffic(&self) -> &[LinkTraffic] {
        self.traffic.get_or_init(|| self.pool.freeze_traffic(&self.rows))
    }

    /// A column of the connections, for all rows.
    pub(super) fn peer_column(&self, column: PeerColumn) -> &[u32] {
        self.peers[column as usize].get_or_init(|| {
            let words = || self.rows.words().iter();
            match column {
                PeerColumn::Conn => words().map(|word| word.conn()).collect(),
                PeerColumn::Idle => {
                    let mut idle = self.pool.freeze_idle(&self.rows, self.now, self.silence.not_before());
                    self.silence.apply(&mut idle, self.now);
                    idle
                }
                PeerColumn::Age => {
                    let since = self.pool.freeze_connected_at(&self.rows);
                    since.into_iter().map(|at| self.now.seconds_since(CoarseInstant(at))).collect()
                }
                PeerColumn::Health => words().map(|word| word.health().into()).collect(),
                PeerColumn::Rtt => self.pool.freeze_rtt(&self.rows),
                PeerColumn::PingsLost => words().map(|word| word.pings_lost().into()).collect(),
                PeerColumn::KibIn => self.traffic().iter().map(|traffic| traffic.kib_in).collect(),
                PeerColumn::KibOut => self.traffic().iter().map(|traffic| traffic.kib_out).collect(),
                PeerColumn::KibQueued => self.traffic().iter().map(|traffic| traffic.kib_queued).collect(),
                PeerColumn::Group => self.pool.freeze_groups(&self.rows),
                PeerColumn::Inbound => words().map(|word| word.inbound().into()).collect(),
                PeerColumn::Protected => words().map(|word| word.protected().into()).collect(),
            }
        })
    }

    /// A column of the address book, for all rows.
    pub(super) fn address_column(&self, column: AddressColumn) -> &[u32] {
        let rows = self.book();
        match column {
            AddressColumn::Heard => &rows.heard_s,
            AddressColumn::Reached => &rows.reached_s,
            AddressColumn::Failures => &rows.failures,
            AddressColumn::Wait => &rows.wait_s,
            AddressColumn::Group => &rows.groups,
        }
    }

    /// Silence of each row in seconds, as far as it counts: see [`SilenceCount`].
    fn idle_s(&self) -> &[u32] {
        self.peer_column(PeerColumn::Idle)
    }

    /// The reference time for "silent since the view was taken": the latest time at which the row's idle time can have
    /// begun. A peer seen after it has spoken since.
    pub(super) fn silent_since(&self, row: usize) -> CoarseInstant {
        CoarseInstant(self.now.0.saturating_sub(self.idle_s()[row].saturating_mul(CoarseInstant::PER_SECOND)))
    }

    pub(super) fn naming(&self, row: usize) -> Option<PeerLabel> {
        self.pool.name(self.rows.key(row))
    }

    /// One row's columns for the journal: each frozen column as it was frozen, and always the usual ones.
    pub(super) fn inputs(&self, row: usize) -> Vec<Input> {
        let word = self.rows.words()[row];
        let now = self.pool.age_and_rtt(self.rows.key(row));
        let value = |column: PeerColumn| match (column, self.peers[column as usize].get()) {
            (PeerColumn::Conn, _) => None,
            (_, Some(values)) => Some(values[row]),
            (PeerColumn::Idle, None) => Some(self.idle_s()[row]),
            (PeerColumn::Age, None) => now.map(|(since, _)| self.now.seconds_since(since)),
            (PeerColumn::Rtt, None) => now.map(|(_, rtt)| rtt),
            (PeerColumn::Health, None) => Some(word.health().into()),
            (PeerColumn::PingsLost, None) => Some(word.pings_lost().into()),
            (PeerColumn::Inbound, None) => Some(word.inbound().into()),
            // Other columns only if a phase has read them.
            (_, None) => None,
        };
        let inputs = PeerColumn::ALL.into_iter();
        inputs.filter_map(|column| Some((column.name().into(), value(column)?))).collect()
    }

    /// The columns of one address for the journal.
    pub(super) fn book_inputs(&self, row: usize) -> Vec<Input> {
        let columns = AddressColumn::ALL.into_iter();
        columns.map(|column| (column.name().into(), self.address_column(column)[row])).collect()
    }
}

impl Snapshot for TickSnapshot {
    fn rows(&self, table: Table) -> usize {
        match table {
            Table::Peers => self.rows.len(),
            Table::Book => self.book().addresses.len(),
        }
    }

    fn peers(&self, column: PeerColumn) -> Option<&[u32]> {
        Some(self.peer_column(column))
    }

    fn book(&self, column: AddressColumn) -> Option<&[u32]> {
        Some(self.address_column(column))
    }

    fn totals(&self) -> Totals {
        let (inbound, healthy) = self.counts();
        let Thresholds { least, most, .. } = self.thresholds;
        Totals { connected: self.rows.len() as u32, inbound, dialing: self.dialing, healthy, least, most }
    }

    fn healthy_above(&self) -> u32 {
        self.thresholds.healthy_above.into()
    }

    fn is_inbound(&self, row: usize) -> bool {
        self.rows.words()[row].inbound()
    }

    fn health(&self, row: usize) -> u32 {
        self.rows.words()[row].health().into()
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.broadcasts
    }

    fn name(&self, table: Table, row: usize) -> Name {
        match table {
            Table::Peers => self.naming(row).map_or_else(Name::default, |naming| Name {
                id: naming.id.to_string(),
                address: naming.address.to_string(),
                agent: clean(&naming.agent).into_owned(),
            }),
            Table::Book => Name { address: self.book().addresses[row].to_string(), ..Name::default() },
        }
    }
}
