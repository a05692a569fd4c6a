//! A world built by hand, to test a phase without a host. Applies no plan and checks no grants.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::column::{Amount, Column, MOST, Peer, Row, UNKNOWN, Unit, address, peer};
use crate::host::{BroadcastTotals, Frozen, Name, NativeExit, RuleBroken, Saved, Table, Totals, guard};
use crate::memory::{self, Memory};
use crate::phase::{Failure, Phase, Tick};
use crate::plan::{Parts, Plan};
use crate::view::View;

/// An empty world: no peers, no addresses, 5 to 64 connections wanted, tick 1, seed `[1, 2]`.
pub fn world() -> World {
    let mut world = World {
        peers: Rows::new(peer::COLUMNS),
        book: Rows::new(address::COLUMNS),
        totals: Totals { least: 5, most: 64, ..Totals::default() },
        broadcasts: BroadcastTotals::default(),
        memory: None,
        tick: Tick { number: 1, unix_s: 1_700_000_000, seed: [1, 2], ..Tick::default() },
    };
    world.tick.since_last_s = Some(30);
    world
}

/// The state of a node as a phase sees it, built row by row.
#[derive(Clone, Debug)]
pub struct World {
    peers: Rows,
    book: Rows,
    totals: Totals,
    broadcasts: BroadcastTotals,
    memory: Option<Saved>,
    tick: Tick,
}

#[derive(Clone, Debug)]
struct Rows {
    known: Vec<&'static str>,
    values: BTreeMap<&'static str, Vec<u32>>,
    names: Vec<Name>,
}

/// A row under construction.
#[derive(Debug)]
pub struct RowMut<'w, T: Row> {
    rows: &'w mut Rows,
    row: usize,
    of: PhantomData<fn() -> T>,
}

impl Rows {
    fn new(known: &[&'static str]) -> Rows {
        Rows {
            known: known.to_vec(),
            values: known.iter().map(|name| (*name, Vec::new())).collect(),
            names: Vec::new(),
        }
    }

    fn add<T: Row>(&mut self, name: Name) -> RowMut<'_, T> {
        self.names.push(name);
        self.values.values_mut().for_each(|values| values.push(UNKNOWN));
        let row = self.names.len() - 1;
        RowMut { rows: self, row, of: PhantomData }
    }

    fn set(&mut self, row: usize, name: &'static str, value: u32) {
        let rows = self.names.len();
        let known = &mut self.known;
        self.values.entry(name).or_insert_with(|| {
            known.push(name);
            vec![UNKNOWN; rows]
        })[row] = value;
    }
}

impl<T: Row> RowMut<'_, T> {
    /// Sets a value, rounded down to the column's unit. If the table lacked the column, it is not known in the other
    /// rows.
    pub fn with<U: Unit>(&mut self, column: Column<T, U>, amount: impl Amount<U>) -> &mut Self {
        let value = u32::try_from(amount.whole().0).unwrap_or(MOST).min(MOST);
        self.rows.set(self.row, column.name(), value);
        self
    }

    /// Makes a value of the row "not known".
    pub fn unknown<U: Unit>(&mut self, column: Column<T, U>) -> &mut Self {
        self.rows.set(self.row, column.name(), UNKNOWN);
        self
    }

    /// Sets the names of the row.
    pub fn named(&mut self, name: Name) -> &mut Self {
        self.rows.names[self.row] = name;
        self
    }
}

impl World {
    /// Adds a peer: outbound, healthy, connected for an hour, heard a moment ago, 50 ms away, alone in its group.
    pub fn peer(mut self, write: impl FnOnce(&mut RowMut<'_, Peer>)) -> World {
        let n = self.peers.names.len() as u32;
        let name = Name {
            id: format!("peer-{n}"),
            address: format!("10.{}.{}.1:7000", n / 256 % 256, n % 256),
            agent: "test/1".to_owned(),
        };
        let mut row = self.peers.add(name);
        row.with(peer::CONN, n + 1).with(peer::IDLE, crate::span::Span::ZERO);
        row.with(peer::AGE, crate::span::Span::hours(1)).with(peer::HEALTH, 100);
        row.with(peer::RTT, crate::span::Span::millis(50)).with(peer::PINGS_LOST, 0);
        row.with(peer::KIB_IN, 0).with(peer::KIB_OUT, 0).with(peer::KIB_QUEUED, 0);
        row.with(peer::GROUP, n + 1).with(peer::INBOUND, false).with(peer::PROTECTED, false);
        write(&mut row);
        self
    }

    /// Adds an address: named a minute ago, never reached, no failures, may be dialled, alone in its group.
    pub fn address(mut self, write: impl FnOnce(&mut RowMut<'_, crate::column::Address>)) -> World {
        let n = self.book.names.len() as u32;
        let address = format!("172.{}.{}.1:7000", n / 256 % 256, n % 256);
        let mut row = self.book.add(Name { address, ..Name::default() });
        row.with(address::HEARD, crate::span::Span::mins(1)).unknown(address::REACHED);
        row.with(address::FAILURES, 0).with(address::WAIT, crate::span::Span::ZERO);
        row.with(address::GROUP, 1_000_000 + n);
        write(&mut row);
        self
    }

    /// Sets the totals over the remembered broadcasts.
    pub fn broadcasts(mut self, totals: BroadcastTotals) -> World {
        self.broadcasts = totals;
        self
    }

    /// Changes `dialing`, `least` and `most`. The other totals are counted from the peers; healthy means above 30.
    pub fn totals(mut self, write: impl FnOnce(&mut Totals)) -> World {
        write(&mut self.totals);
        self
    }

    /// Sets what an earlier run remembered.
    pub fn memory<M: Memory>(mut self, memory: &M) -> World {
        self.memory = Some(memory::save(memory).expect("a test's memory becomes JSON"));
        self
    }

    /// Sets what an earlier run stored, as bytes: for tests of [`Memory::upgrade`].
    pub fn saved(mut self, saved: Saved) -> World {
        self.memory = Some(saved);
        self
    }

    /// Changes the tick.
    pub fn tick(mut self, write: impl FnOnce(&mut Tick)) -> World {
        write(&mut self.tick);
        self
    }

    /// Makes the tick late, as if ticks were skipped or the machine slept.
    pub fn late(self) -> World {
        self.tick(|tick| tick.late = true)
    }

    /// Sets the run's random bits.
    pub fn seed(self, seed: [u32; 2]) -> World {
        self.tick(|tick| tick.seed = seed)
    }

    /// The tick as a phase gets it.
    pub fn now(&self) -> Tick {
        self.tick
    }

    /// The view as a phase gets it.
    pub fn view(&self) -> View {
        View::new(Arc::new(self.clone()))
    }

    /// Checks the settings and runs the phase once. Returns one ask per line, such as `disconnect 2: slow`.
    ///
    /// # Errors
    /// [`NoPlan`], if there is no plan. A panic of the phase is passed on.
    pub fn run<P: Phase>(&self, phase: &P) -> Result<String, NoPlan> {
        Ok(self.plan(phase)?.asks.iter().map(|ask| format!("{ask}\n")).collect())
    }

    /// Like [`run`](World::run), but returns everything that the run left: asks, memory, log lines, metrics.
    ///
    /// # Errors
    /// [`NoPlan`], if there is no plan. A panic of the phase is passed on.
    pub fn plan<P: Phase>(&self, phase: &P) -> Result<Parts, NoPlan> {
        phase.check().map_err(NoPlan::Refused)?;
        let mut plan = Plan::within(self.rows(Table::Peers), self.rows(Table::Book));
        match guard(|| phase.run(&self.tick, &self.view(), &mut plan)) {
            Ok(Ok(())) => Ok(plan.into_parts()),
            Ok(Err(failure)) => Err(NoPlan::Failed(failure)),
            Err(NativeExit::Rule(broken)) => Err(NoPlan::Broke(broken)),
            Err(NativeExit::Panic(text)) => std::panic::resume_unwind(Box::new(text)),
        }
    }
}

/// Why a run produced no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoPlan {
    /// `check` refused the settings.
    Refused(String),
    /// The run returned a failure.
    Failed(Failure),
    /// A call broke a rule of the contract.
    Broke(RuleBroken),
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPlan::Refused(problem) => write!(f, "settings refused: {problem}"),
            NoPlan::Failed(failure) => write!(f, "{failure}"),
            NoPlan::Broke(broken) => write!(f, "broke a rule: {broken}"),
        }
    }
}

impl std::error::Error for NoPlan {}

impl World {
    fn table(&self, table: Table) -> &Rows {
        match table {
            Table::Peers => &self.peers,
            Table::Book => &self.book,
        }
    }
}

impl Frozen for World {
    fn rows(&self, table: Table) -> u32 {
        self.table(table).names.len() as u32
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        self.table(table).values.get(name).map(Vec::as_slice)
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        &self.table(table).known
    }

    fn totals(&self) -> Totals {
        let count = |name, pass: fn(u32) -> bool| {
            self.peers.values[name].iter().filter(|value| **value != UNKNOWN && pass(**value)).count() as u32
        };
        Totals {
            connected: self.rows(Table::Peers),
            inbound: count("inbound", |value| value == 1),
            healthy: count("health", |value| value > 30),
            ..self.totals
        }
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.broadcasts
    }

    fn name(&self, table: Table, row: u32) -> Name {
        self.table(table).names[row as usize].clone()
    }

    fn memory(&self) -> Option<Saved> {
        self.memory.clone()
    }
}
