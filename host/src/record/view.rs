//! A frozen view made of columns in memory: out of a recording, or written by hand. Read only; knows no pool.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use groundskeeper_sdk::column::UNKNOWN;
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals};

use super::beat::Changes;

/// One column of a table, a value for each row.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    pub values: Arc<Vec<u32>>,
}

/// The tables and totals of a node at one moment. Cheap to share, never changed.
#[derive(Clone, Default)]
pub struct Scene {
    pub(super) peers: Vec<Column>,
    /// A name for each row of the peers.
    pub(super) names: Arc<Vec<Arc<Name>>>,
    pub(super) book: Vec<Column>,
    /// An address for each row of the book.
    pub(super) addresses: Arc<Vec<SocketAddr>>,
    /// Of these, rows are counted and only `dialing`, `least` and `most` are kept.
    pub(super) totals: Totals,
    /// A connection counts as healthy above this.
    pub(super) healthy_above: u32,
    pub(super) broadcasts: BroadcastTotals,
    peer_names: Vec<&'static str>,
    book_names: Vec<&'static str>,
}

impl Scene {
    /// Tables of so many columns; every column has a value for each row.
    pub(super) fn new(
        peers: (Vec<Column>, Arc<Vec<Arc<Name>>>),
        book: (Vec<Column>, Arc<Vec<SocketAddr>>),
    ) -> Self {
        let names = |columns: &[Column]| columns.iter().map(|column| column.name).collect();
        Self {
            peer_names: names(&peers.0),
            book_names: names(&book.0),
            peers: peers.0,
            names: peers.1,
            book: book.0,
            addresses: book.1,
            ..Self::default()
        }
    }

    /// Rows of a table.
    pub fn rows(&self, table: Table) -> usize {
        match table {
            Table::Peers => self.names.len(),
            Table::Book => self.addresses.len(),
        }
    }

    /// A whole column; none if it was not recorded.
    pub fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        self.find(table, name).map(|(_, values)| values)
    }

    /// Names of the columns there are.
    pub fn columns(&self, table: Table) -> &[&'static str] {
        match table {
            Table::Peers => &self.peer_names,
            Table::Book => &self.book_names,
        }
    }

    /// What an operator would call a row; empty if there is no such row or nobody knew.
    pub fn name(&self, table: Table, row: usize) -> Name {
        match table {
            Table::Peers => self.names.get(row).map(|name| Name::clone(name)).unwrap_or_default(),
            Table::Book => {
                let address = self.addresses.get(row).map(SocketAddr::to_string);
                Name { address: address.unwrap_or_default(), ..Name::default() }
            }
        }
    }

    fn find(&self, table: Table, name: &str) -> Option<(usize, &[u32])> {
        let columns = match table {
            Table::Peers => &self.peers,
            Table::Book => &self.book,
        };
        let at = columns.iter().position(|column| column.name == name)?;
        Some((at, &columns[at].values))
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peers, book) = (self.rows(Table::Peers), self.rows(Table::Book));
        f.debug_struct("Scene").field("peers", &peers).field("book", &book).finish_non_exhaustive()
    }
}

/// A scene less what plans have changed since, as the host shows it to a phase: rows are numbered anew where some are
/// gone.
pub(super) struct View {
    scene: Arc<Scene>,
    changes: Arc<Changes>,
    memory: Option<Saved>,
    /// Rows of the scene that are left; none if all are.
    peers_left: Option<Vec<u32>>,
    book_left: Option<Vec<u32>>,
    peers: Vec<OnceLock<Vec<u32>>>,
    book: Vec<OnceLock<Vec<u32>>>,
    totals: OnceLock<Totals>,
}

/// The rows of `rows` that are not in `gone`, which ascends; none if that is all of them.
fn left(rows: usize, gone: &[u32]) -> Option<Vec<u32>> {
    (!gone.is_empty()).then(|| (0..rows as u32).filter(|row| gone.binary_search(row).is_err()).collect())
}

impl View {
    pub fn new(scene: Arc<Scene>, changes: Arc<Changes>, memory: Option<Saved>) -> Self {
        let peers_left = left(scene.rows(Table::Peers), &changes.closed);
        let book_left = left(scene.rows(Table::Book), &changes.dialed);
        let cells = |columns: &[Column]| columns.iter().map(|_| OnceLock::new()).collect();
        Self {
            peers: cells(&scene.peers),
            book: cells(&scene.book),
            scene,
            changes,
            memory,
            peers_left,
            book_left,
            totals: OnceLock::new(),
        }
    }

    /// The scene's row for a row of this view.
    fn scene_row(&self, table: Table, row: u32) -> Option<usize> {
        let left = match table {
            Table::Peers => &self.peers_left,
            Table::Book => &self.book_left,
        };
        match left {
            Some(left) => left.get(row as usize).map(|&row| row as usize),
            None => Some(row as usize),
        }
    }

    fn peer_column<'v>(&'v self, at: usize, frozen: &'v [u32], name: &str) -> &'v [u32] {
        let changed: BTreeMap<u32, u32> = match name {
            "health" => self.changes.health.iter().map(|&(row, health)| (row, health.into())).collect(),
            "protected" => self.changes.protected.iter().map(|&row| (row, 1)).collect(),
            _ => BTreeMap::new(),
        };
        if self.peers_left.is_none() && changed.is_empty() {
            return frozen;
        }
        self.peers[at].get_or_init(|| {
            let value = |row: u32| changed.get(&row).copied().unwrap_or(frozen[row as usize]);
            match &self.peers_left {
                Some(left) => left.iter().map(|&row| value(row)).collect(),
                None => (0..frozen.len() as u32).map(value).collect(),
            }
        })
    }

    fn book_column<'v>(&'v self, at: usize, frozen: &'v [u32]) -> &'v [u32] {
        match &self.book_left {
            Some(left) => {
                self.book[at].get_or_init(|| left.iter().map(|&row| frozen[row as usize]).collect())
            }
            None => frozen,
        }
    }
}

impl Frozen for View {
    fn rows(&self, table: Table) -> u32 {
        let (all, left) = match table {
            Table::Peers => (self.scene.rows(table), &self.peers_left),
            Table::Book => (self.scene.rows(table), &self.book_left),
        };
        left.as_ref().map_or(all, Vec::len) as u32
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        let (at, frozen) = self.scene.find(table, name)?;
        Some(match table {
            Table::Peers => self.peer_column(at, frozen, name),
            Table::Book => self.book_column(at, frozen),
        })
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        self.scene.columns(table)
    }

    fn totals(&self) -> Totals {
        *self.totals.get_or_init(|| {
            let count = |name: &str, pass: &dyn Fn(u32) -> bool| {
                let values = self.column(Table::Peers, name).unwrap_or_default();
                values.iter().filter(|value| **value != UNKNOWN && pass(**value)).count() as u32
            };
            Totals {
                connected: self.rows(Table::Peers),
                inbound: count("inbound", &|value| value == 1),
                healthy: count("health", &|value| value > self.scene.healthy_above),
                dialing: self.scene.totals.dialing.saturating_add(self.changes.dialed.len() as u32),
                ..self.scene.totals
            }
        })
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.scene.broadcasts
    }

    fn name(&self, table: Table, row: u32) -> Name {
        self.scene_row(table, row).map_or_else(Name::default, |row| self.scene.name(table, row))
    }

    fn memory(&self) -> Option<Saved> {
        self.memory.clone()
    }
}
