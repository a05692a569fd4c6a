//! A frozen view without a cost of reading: its columns exist in advance. Has no names and no address book.

use groundskeeper_sdk::column::peer;
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals};

use crate::rounds::mix;

/// Columns of peers: one in a thousand is slow, one in a hundred silent, and all numbers differ.
pub struct Columns {
    rows: u32,
    columns: Vec<Vec<u32>>,
}

/// One peer in a thousand is slower than this.
pub const SLOW_US: u32 = 500_000;

impl Columns {
    pub fn new(rows: usize) -> Self {
        let value = |name: &str, row: usize| {
            let bits = mix((row as u64) << 8 ^ name.len() as u64 ^ u64::from(name.as_bytes()[0])) as u32;
            match name {
                "conn" => row as u32 + 1,
                "rtt-us" if bits.is_multiple_of(1_000) => SLOW_US + 1 + bits % 100_000,
                "rtt-us" => 10_000 + bits % 100_000,
                "idle-s" if bits.is_multiple_of(100) => 25 + bits % 60,
                "idle-s" => bits % 20,
                "age-s" => 60 + bits % 100_000,
                "health" => 40 + bits % 61,
                "group" => bits % (rows as u32 / 4).max(1),
                "inbound" => bits & 1,
                "protected" | "pings-lost" | "kib-queued" => 0,
                _ => bits % 100_000,
            }
        };
        let columns = peer::COLUMNS.iter().map(|name| (0..rows).map(|row| value(name, row)).collect());
        Self { rows: rows as u32, columns: columns.collect() }
    }
}

impl Frozen for Columns {
    fn rows(&self, table: Table) -> u32 {
        match table {
            Table::Peers => self.rows,
            Table::Book => 0,
        }
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        match table {
            Table::Peers => {
                let at = peer::COLUMNS.iter().position(|known| *known == name)?;
                Some(&self.columns[at])
            }
            Table::Book => Some(&[]),
        }
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        match table {
            Table::Peers => peer::COLUMNS,
            Table::Book => groundskeeper_sdk::column::address::COLUMNS,
        }
    }

    fn totals(&self) -> Totals {
        let half = self.rows / 2;
        Totals {
            connected: self.rows,
            inbound: half,
            dialing: 0,
            healthy: self.rows,
            least: 5,
            most: u32::MAX - 1,
        }
    }

    fn broadcasts(&self) -> BroadcastTotals {
        BroadcastTotals::default()
    }

    fn name(&self, _: Table, row: u32) -> Name {
        Name { id: format!("peer-{row}"), address: format!("10.0.0.1:{row}"), agent: String::new() }
    }

    fn memory(&self) -> Option<Saved> {
        None
    }
}
