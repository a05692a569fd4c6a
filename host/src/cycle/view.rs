//! The picture one phase sees: the beat's frame, less what the plans of earlier phases have changed. Read only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use groundskeeper_sdk::column::{address, peer};
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals, clean};

use super::frame::{Frame, place};

/// What the accepted plans of one beat have changed so far. Rows are the frame's.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pub(super) closed: BTreeSet<u32>,
    pub(super) health: BTreeMap<u32, u8>,
    pub(super) protected: BTreeSet<u32>,
    /// Addresses being dialled since.
    pub(super) dialed: BTreeSet<u32>,
}

/// A frame as one phase sees it. Rows are numbered anew: a connection that was closed earlier in the beat has none.
pub struct PhaseView {
    frame: Arc<Frame>,
    overlay: Arc<Overlay>,
    memory: Option<Saved>,
    peer_rows: OnceLock<Vec<u32>>,
    book_rows: OnceLock<Vec<u32>>,
    peers: [OnceLock<Vec<u32>>; peer::COLUMNS.len()],
    addresses: [OnceLock<Vec<u32>>; address::COLUMNS.len()],
}

fn without(rows: usize, gone: &BTreeSet<u32>) -> Vec<u32> {
    let mut gone = gone.iter().copied().peekable();
    (0..rows as u32).filter(|row| gone.next_if_eq(row).is_none()).collect()
}

impl PhaseView {
    pub fn new(frame: Arc<Frame>, overlay: Arc<Overlay>, memory: Option<Saved>) -> Self {
        Self {
            frame,
            overlay,
            memory,
            peer_rows: OnceLock::new(),
            book_rows: OnceLock::new(),
            peers: Default::default(),
            addresses: Default::default(),
        }
    }

    /// The frame's row for a row of this view, None if there is no such row.
    pub(super) fn peer_row(&self, row: u32) -> Option<usize> {
        if self.overlay.closed.is_empty() {
            return ((row as usize) < self.frame.rows().len()).then_some(row as usize);
        }
        self.peer_rows().get(row as usize).map(|&row| row as usize)
    }

    /// The frame's row of the book for a row of this view.
    pub(super) fn book_row(&self, row: u32) -> Option<usize> {
        self.book_rows().get(row as usize).map(|&row| row as usize)
    }

    fn peer_rows(&self) -> &[u32] {
        self.peer_rows.get_or_init(|| without(self.frame.rows().len(), &self.overlay.closed))
    }

    fn book_rows(&self) -> &[u32] {
        self.book_rows.get_or_init(|| without(self.frame.book().addresses.len(), &self.overlay.dialed))
    }

    fn peer_column(&self, at: usize) -> &[u32] {
        let changed: BTreeMap<u32, u32> = match peer::COLUMNS[at] {
            "health" => self.overlay.health.iter().map(|(&row, &health)| (row, health.into())).collect(),
            "protected" => self.overlay.protected.iter().map(|&row| (row, 1)).collect(),
            _ => BTreeMap::new(),
        };
        let frozen = self.frame.peer_column(at);
        if self.overlay.closed.is_empty() && changed.is_empty() {
            return frozen;
        }
        self.peers[at].get_or_init(|| {
            let value = |row: &u32| changed.get(row).copied().unwrap_or(frozen[*row as usize]);
            self.peer_rows().iter().map(value).collect()
        })
    }

    fn book_column(&self, at: usize) -> &[u32] {
        let frozen = self.frame.book_column(at);
        if self.overlay.dialed.is_empty() {
            return frozen;
        }
        self.addresses[at].get_or_init(|| self.book_rows().iter().map(|&row| frozen[row as usize]).collect())
    }
}

impl Frozen for PhaseView {
    fn rows(&self, table: Table) -> u32 {
        match table {
            Table::Peers => (self.frame.rows().len() - self.overlay.closed.len()) as u32,
            Table::Book => self.book_rows().len() as u32,
        }
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        match table {
            Table::Peers => place(peer::COLUMNS, name).map(|at| self.peer_column(at)),
            Table::Book => place(address::COLUMNS, name).map(|at| self.book_column(at)),
        }
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        match table {
            Table::Peers => peer::COLUMNS,
            Table::Book => address::COLUMNS,
        }
    }

    fn totals(&self) -> Totals {
        let (mut inbound, mut healthy) = self.frame.counts();
        let thresholds = self.frame.thresholds();
        let words = self.frame.rows().words();
        let is_healthy = |health: u8| u32::from(health > thresholds.healthy_above);
        for &row in &self.overlay.closed {
            let word = words[row as usize];
            inbound -= u32::from(word.inbound());
            healthy -= is_healthy(word.health());
        }
        for (&row, &health) in &self.overlay.health {
            if !self.overlay.closed.contains(&row) {
                healthy = healthy + is_healthy(health) - is_healthy(words[row as usize].health());
            }
        }
        Totals {
            connected: self.rows(Table::Peers),
            inbound,
            dialing: self.frame.dialing() + self.overlay.dialed.len() as u32,
            healthy,
            least: thresholds.least,
            most: thresholds.most,
        }
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.frame.broadcasts()
    }

    fn name(&self, table: Table, row: u32) -> Name {
        match table {
            Table::Peers => {
                let naming = self.peer_row(row).and_then(|row| self.frame.naming(row));
                naming.map_or_else(Name::default, |naming| Name {
                    id: naming.id.to_string(),
                    address: naming.address.to_string(),
                    agent: clean(&naming.agent).into_owned(),
                })
            }
            Table::Book => {
                let address = self.book_row(row).map(|row| self.frame.book().addresses[row].to_string());
                Name { address: address.unwrap_or_default(), ..Name::default() }
            }
        }
    }

    fn memory(&self) -> Option<Saved> {
        self.memory.clone()
    }
}
