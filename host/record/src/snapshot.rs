//! The tables of a node in memory, from a recording or written by hand. Read-only; does not use the pool.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use groundskeeper_engine::Snapshot;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn, UNKNOWN};
use groundskeeper_sdk::host::{BroadcastTotals, Name, Table, Totals};

/// A column that other snapshots may share; none if it was not recorded.
pub(super) type SharedColumn = Option<Arc<Vec<u32>>>;

/// Columns of the peers by their index in [`PeerColumn::ALL`].
pub(super) type PeerColumns = [SharedColumn; PeerColumn::COUNT];
/// Columns of the address book by their index in [`AddressColumn::ALL`].
pub(super) type AddressColumns = [SharedColumn; AddressColumn::COUNT];

/// The tables and totals of a node at one moment. Cheap to share, never changed.
#[derive(Clone, Default)]
pub(super) struct RecordedSnapshot {
    peers: PeerColumns,
    /// A name for each row of the peers.
    names: Arc<Vec<Arc<Name>>>,
    book: AddressColumns,
    /// An address for each row of the book.
    addresses: Arc<Vec<SocketAddr>>,
    /// Only `dialing`, `least` and `most` are stored here; the others are counted from the rows.
    pub(super) totals: Totals,
    /// A connection counts as healthy above this.
    pub(super) healthy_above: u32,
    pub(super) broadcasts: BroadcastTotals,
    peer_names: Vec<&'static str>,
    book_names: Vec<&'static str>,
    counted: OnceLock<Totals>,
}

impl RecordedSnapshot {
    /// Every column must have a value for each row.
    pub(super) fn new(
        peers: (PeerColumns, Arc<Vec<Arc<Name>>>),
        book: (AddressColumns, Arc<Vec<SocketAddr>>),
    ) -> Self {
        let peer_names = PeerColumn::ALL.into_iter().filter(|column| peers.0[*column as usize].is_some());
        let book_names = AddressColumn::ALL.into_iter().filter(|column| book.0[*column as usize].is_some());
        Self {
            peer_names: peer_names.map(PeerColumn::name).collect(),
            book_names: book_names.map(AddressColumn::name).collect(),
            peers: peers.0,
            names: peers.1,
            book: book.0,
            addresses: book.1,
            ..Self::default()
        }
    }

    fn value(&self, column: PeerColumn, row: usize) -> u32 {
        self.peers(column).and_then(|values| values.get(row).copied()).unwrap_or(UNKNOWN)
    }
}

impl Snapshot for RecordedSnapshot {
    fn rows(&self, table: Table) -> usize {
        match table {
            Table::Peers => self.names.len(),
            Table::Book => self.addresses.len(),
        }
    }

    fn peers(&self, column: PeerColumn) -> Option<&[u32]> {
        self.peers[column as usize].as_ref().map(|values| &values[..])
    }

    fn book(&self, column: AddressColumn) -> Option<&[u32]> {
        self.book[column as usize].as_ref().map(|values| &values[..])
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        match table {
            Table::Peers => &self.peer_names,
            Table::Book => &self.book_names,
        }
    }

    fn totals(&self) -> Totals {
        *self.counted.get_or_init(|| {
            let rows = 0..self.rows(Table::Peers);
            let is_healthy = |row: &usize| {
                let health = self.health(*row);
                health != UNKNOWN && health > self.healthy_above
            };
            Totals {
                connected: rows.len() as u32,
                inbound: rows.clone().filter(|row| self.is_inbound(*row)).count() as u32,
                healthy: rows.filter(is_healthy).count() as u32,
                ..self.totals
            }
        })
    }

    fn healthy_above(&self) -> u32 {
        self.healthy_above
    }

    fn is_inbound(&self, row: usize) -> bool {
        self.value(PeerColumn::Inbound, row) == 1
    }

    fn health(&self, row: usize) -> u32 {
        self.value(PeerColumn::Health, row)
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.broadcasts
    }

    fn name(&self, table: Table, row: usize) -> Name {
        match table {
            Table::Peers => self.names.get(row).map(|name| Name::clone(name)).unwrap_or_default(),
            Table::Book => {
                let address = self.addresses.get(row).map(SocketAddr::to_string);
                Name { address: address.unwrap_or_default(), ..Name::default() }
            }
        }
    }
}

impl fmt::Debug for RecordedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peers, book) = (self.rows(Table::Peers), self.rows(Table::Book));
        let mut text = f.debug_struct("RecordedSnapshot");
        text.field("peers", &peers).field("book", &book).finish_non_exhaustive()
    }
}
