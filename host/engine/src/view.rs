//! The view of one phase: a snapshot of the node with the changes by plans of earlier phases. Read only. Runs,
//! recordings and replays all use it, so that a phase decides the same in each.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use groundskeeper_sdk::column::{AddressColumn, PeerColumn, UNKNOWN, address, peer};
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals};

/// The node's tables at one moment. Never changes; may copy a column when it is first read.
pub trait Snapshot: Send + Sync {
    /// Number of rows of a table.
    fn rows(&self, table: Table) -> usize;
    /// A column of the peers, with a value for each row; none if this snapshot does not have it.
    fn peers(&self, column: PeerColumn) -> Option<&[u32]>;
    /// A column of the address book, likewise.
    fn book(&self, column: AddressColumn) -> Option<&[u32]>;
    /// Names of all columns of a table.
    fn columns(&self, table: Table) -> &[&'static str] {
        match table {
            Table::Peers => peer::COLUMNS,
            Table::Book => address::COLUMNS,
        }
    }
    /// Counts of connections, and the limits on them.
    fn totals(&self) -> Totals;
    /// A connection counts as healthy above this.
    fn healthy_above(&self) -> u32;
    /// Whether the peer in this row dialled this node.
    fn is_inbound(&self, row: usize) -> bool;
    /// [`UNKNOWN`] if there is no value.
    fn health(&self, row: usize) -> u32;
    /// Counts and ages of the remembered broadcasts.
    fn broadcasts(&self) -> BroadcastTotals;
    /// Empty if there is no such row.
    fn name(&self, table: Table, row: usize) -> Name;
}

/// Changes by plans since a snapshot was taken. Row numbers are those of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Connections that were closed.
    pub closed: BTreeSet<u32>,
    /// Rows with changed health, and the new health.
    pub health: BTreeMap<u32, u8>,
    /// Rows of the peers that plans have protected.
    pub protected: BTreeSet<u32>,
    /// Rows of the book that plans have dialled.
    pub dialed: BTreeSet<u32>,
}

/// Returns the name of a connection by its number.
pub type NameOf = dyn Fn(u32) -> Name + Send + Sync;

/// A snapshot with changes, as one phase sees it. Rows that were closed or dialled are left out, and later rows move
/// up. A column is copied when it is first read, and only if the changes affect it.
pub struct PhaseView<S> {
    snapshot: Arc<S>,
    changes: Arc<Changes>,
    memory: Option<Saved>,
    /// If none, names come from the snapshot.
    names: Option<Arc<NameOf>>,
    peers_left: OnceLock<Vec<u32>>,
    book_left: OnceLock<Vec<u32>>,
    peers: [OnceLock<Vec<u32>>; PeerColumn::COUNT],
    book: [OnceLock<Vec<u32>>; AddressColumn::COUNT],
}

impl<S: Snapshot> PhaseView<S> {
    /// All rows in `changes` must exist in `snapshot`.
    pub fn new(snapshot: Arc<S>, changes: Arc<Changes>, memory: Option<Saved>) -> Self {
        Self {
            snapshot,
            changes,
            memory,
            names: None,
            peers_left: OnceLock::new(),
            book_left: OnceLock::new(),
            peers: Default::default(),
            book: Default::default(),
        }
    }

    /// Takes names of peers from `names` instead of the snapshot.
    #[must_use]
    pub fn with_names(mut self, names: Option<Arc<NameOf>>) -> Self {
        self.names = names;
        self
    }

    /// The snapshot's row for a row of this view; none if there is no such row.
    pub fn snapshot_row(&self, table: Table, row: u32) -> Option<usize> {
        let (gone, left) = match table {
            Table::Peers => (&self.changes.closed, &self.peers_left),
            Table::Book => (&self.changes.dialed, &self.book_left),
        };
        let rows = self.snapshot.rows(table);
        if gone.is_empty() {
            return Some(row as usize).filter(|row| *row < rows);
        }
        let left = left.get_or_init(|| stretches(rows, gone).flatten().map(|row| row as u32).collect());
        left.get(row as usize).map(|row| *row as usize)
    }

    fn peer_column(&self, column: PeerColumn) -> Option<&[u32]> {
        let frozen = self.snapshot.peers(column)?;
        let Changes { closed, health, protected, .. } = &*self.changes;
        let is_changed = match column {
            PeerColumn::Health => !health.is_empty(),
            PeerColumn::Protected => !protected.is_empty(),
            _ => false,
        };
        if closed.is_empty() && !is_changed {
            return Some(frozen);
        }
        Some(self.peers[column as usize].get_or_init(|| {
            let mut values = Cow::Borrowed(frozen);
            match column {
                PeerColumn::Health if is_changed => {
                    let values = values.to_mut();
                    health.iter().for_each(|(row, health)| values[*row as usize] = (*health).into());
                }
                PeerColumn::Protected if is_changed => {
                    let values = values.to_mut();
                    protected.iter().for_each(|row| values[*row as usize] = 1);
                }
                _ => {}
            }
            without(values, closed)
        }))
    }

    fn address_column(&self, column: AddressColumn) -> Option<&[u32]> {
        let frozen = self.snapshot.book(column)?;
        let dialed = &self.changes.dialed;
        if dialed.is_empty() {
            return Some(frozen);
        }
        Some(self.book[column as usize].get_or_init(|| without(Cow::Borrowed(frozen), dialed)))
    }

    fn peer_name(&self, row: u32) -> Name {
        let Some(row) = self.snapshot_row(Table::Peers, row) else { return Name::default() };
        let Some(names) = &self.names else { return self.snapshot.name(Table::Peers, row) };
        let conns = self.snapshot.peers(PeerColumn::Conn);
        conns.and_then(|conns| conns.get(row)).map_or_else(Name::default, |conn| names(*conn))
    }
}

impl<S: Snapshot> Frozen for PhaseView<S> {
    fn rows(&self, table: Table) -> u32 {
        let gone = match table {
            Table::Peers => &self.changes.closed,
            Table::Book => &self.changes.dialed,
        };
        (self.snapshot.rows(table) - gone.len()) as u32
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        // Snapshots only have the contract's columns, none of an application.
        match table {
            Table::Peers => self.peer_column(PeerColumn::from_name(name)?),
            Table::Book => self.address_column(AddressColumn::from_name(name)?),
        }
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        self.snapshot.columns(table)
    }

    fn totals(&self) -> Totals {
        let Changes { closed, health, dialed, .. } = &*self.changes;
        let snapshot = &*self.snapshot;
        let Totals { mut inbound, mut healthy, dialing, least, most, .. } = snapshot.totals();
        let above = snapshot.healthy_above();
        let is_healthy = |health: u32| u32::from(health != UNKNOWN && health > above);
        for &row in closed {
            inbound -= u32::from(snapshot.is_inbound(row as usize));
            healthy -= is_healthy(snapshot.health(row as usize));
        }
        for (&row, &now) in health {
            if !closed.contains(&row) {
                healthy = healthy + is_healthy(now.into()) - is_healthy(snapshot.health(row as usize));
            }
        }
        Totals {
            connected: self.rows(Table::Peers),
            inbound,
            dialing: dialing.saturating_add(dialed.len() as u32),
            healthy,
            least,
            most,
        }
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.snapshot.broadcasts()
    }

    fn name(&self, table: Table, row: u32) -> Name {
        match table {
            Table::Peers => self.peer_name(row),
            Table::Book => match self.snapshot_row(table, row) {
                Some(row) => self.snapshot.name(table, row),
                None => Name::default(),
            },
        }
    }

    fn memory(&self) -> Option<Saved> {
        self.memory.clone()
    }
}

/// The rows that are not in `gone`, as ranges.
fn stretches(rows: usize, gone: &BTreeSet<u32>) -> impl Iterator<Item = Range<usize>> {
    let ends = gone.iter().map(|row| *row as usize).chain([rows]);
    let mut begin = 0;
    ends.map(move |end| {
        let stretch = begin..end;
        begin = end + 1;
        stretch
    })
}

fn without(values: Cow<'_, [u32]>, gone: &BTreeSet<u32>) -> Vec<u32> {
    if gone.is_empty() {
        return values.into_owned();
    }
    let mut left = Vec::with_capacity(values.len() - gone.len());
    stretches(values.len(), gone).for_each(|stretch| left.extend_from_slice(&values[stretch]));
    left
}
