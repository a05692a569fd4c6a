//! Pool, address book, phases and ticker put together, for any kind of connection. Knows no transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::book::{Book, BookLimits, Dial};
use crate::clock::{Clock, unix_seconds};
use crate::config::{Config, Guests};
use crate::cycle::{Cycle, Stopwatch, Thresholds, World};
use crate::data::KeptPhase;
use crate::engine::{Fence, PhaseThread};
use crate::flow::{BroadcastLimits, Broadcasts};
use crate::journal::{Journal, JournalFile, JournalLimits};
use crate::peer::PeerId;
use crate::pool::{Pool, PoolLimits};
use crate::record::Recorder;
use crate::registry::{BadPhases, Before, LastRuns, PhaseBoard, PhaseSpec, Registry, RejectedPhase, spread};
use crate::ticker::{AfterTick, Ticker, TickerHandle};

/// How much the tables of one node may hold.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    pub pool: PoolLimits,
    pub book: BookLimits,
    pub broadcasts: BroadcastLimits,
    pub journal: JournalLimits,
}

impl TableLimits {
    /// Room for `connections`, everything else at its default.
    pub fn for_connections(connections: u32) -> Self {
        Self {
            pool: PoolLimits::only_capacity(connections),
            book: BookLimits::default(),
            broadcasts: BroadcastLimits::default(),
            journal: JournalLimits::default(),
        }
    }
}

/// What a node knows: its connections, the addresses it has heard of, the broadcasts it has seen, and its journal.
#[derive(Clone)]
pub struct Tables {
    pub clock: Arc<dyn Clock>,
    pub journal: Arc<Journal>,
    pub pool: Arc<Pool>,
    pub book: Arc<Book>,
    pub broadcasts: Arc<Broadcasts>,
}

impl Tables {
    /// Empty tables for the node `self_id`. With `file`, the journal is also written there.
    pub fn new(
        self_id: PeerId,
        limits: TableLimits,
        clock: Arc<dyn Clock>,
        file: Option<JournalFile>,
    ) -> Self {
        let journal = Journal::new(Arc::clone(&clock), limits.journal, file);
        Self {
            pool: Pool::new(self_id, limits.pool, Arc::clone(&clock), Arc::clone(&journal)),
            book: Book::new(limits.book, Arc::clone(&clock), Arc::clone(&journal)),
            broadcasts: Arc::new(Broadcasts::new(limits.broadcasts)),
            clock,
            journal,
        }
    }
}

/// How maintenance is to run.
pub struct Options {
    /// Time between two ticks.
    pub interval: Duration,
    /// Opens connections when a phase asks for it; without one, dials are refused.
    pub dialer: Option<Arc<dyn Dial>>,
    pub thresholds: Thresholds,
    /// How long a peer may be silent before it counts as stale.
    pub stale_after: Duration,
    /// Where phases run: on a thread of their own unless time is simulated.
    pub fence: Fence,
    /// When phases ran in an earlier process.
    pub last_runs: LastRuns,
    /// What phases kept of an earlier process, by name: memory and quarantine.
    pub kept: BTreeMap<String, KeptPhase>,
    /// Phases that could not even be made, to be shown with their reasons.
    pub rejected: Vec<RejectedPhase>,
    /// What all guests together may do.
    pub guests: Guests,
    /// Measures the budget of a beat; real time without one.
    pub stopwatch: Option<Stopwatch>,
    /// Any number that others cannot guess; equal numbers give phases equal random bits.
    pub secret: u64,
    /// Called after each tick, off the async threads.
    pub after_tick: Option<AfterTick>,
    /// Writes every beat into a file, for `groundskeeper replay`.
    pub recorder: Option<Recorder>,
}

impl Default for Options {
    /// The seeds' numbers: a tick each 30 s, 5 to 1,024 connections, stale after 90 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            dialer: None,
            thresholds: Thresholds { healthy_above: 30, least: 5, most: 1024 },
            stale_after: Duration::from_secs(90),
            fence: Fence::Thread(PhaseThread::new()),
            last_runs: LastRuns::new(),
            kept: BTreeMap::new(),
            rejected: Vec::new(),
            guests: Config::default().guests,
            stopwatch: None,
            secret: rand::random(),
            after_tick: None,
            recorder: None,
        }
    }
}

/// Running maintenance: one ticker task that runs the phases over the tables.
pub struct Maintenance {
    handle: TickerHandle,
    board: Arc<PhaseBoard>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Option<Cycle>>,
}

impl Maintenance {
    /// Starts the ticker on the current tokio runtime. The first tick is one interval from now; while no connection
    /// is live, phases that wake on isolation run within half a second.
    ///
    /// # Errors
    /// [`BadPhases`], and nothing was started.
    pub fn start(tables: &Tables, phases: Vec<PhaseSpec>, options: Options) -> Result<Self, BadPhases> {
        Self::start_with(tables, phases, options, |_| Ok(()))
    }

    /// As [`Maintenance::start`], after `prepare` has added more phases.
    ///
    /// # Errors
    /// Those of `prepare` too; nothing was started then.
    pub(crate) fn start_with<E: From<BadPhases>>(
        tables: &Tables,
        phases: Vec<PhaseSpec>,
        options: Options,
        prepare: impl FnOnce(&mut Cycle) -> Result<(), E>,
    ) -> Result<Self, E> {
        let Options { interval, dialer, thresholds, stale_after, fence, guests, secret, after_tick, .. } =
            options;
        let Options { last_runs, kept, rejected, stopwatch, recorder, .. } = options;
        let self_id = tables.pool.self_id();
        let spread = |name: &str| spread(&self_id, name);
        let before = Before { last_runs, kept, unix_now: unix_seconds(&*tables.clock), interval };
        let registry = Registry::new(phases, rejected, spread, &before)?;
        let Tables { clock, journal, pool, book, broadcasts } = tables.clone();
        let world = World { pool, book, broadcasts, journal, clock, dialer, thresholds, stale_after, guests };
        let mut cycle = Cycle::new(world, registry, fence, interval, secret);
        if let Some(stopwatch) = stopwatch {
            cycle = cycle.measured_by(stopwatch);
        }
        if let Some(recorder) = recorder {
            cycle.record_into(recorder);
        }
        prepare(&mut cycle)?;
        let board = cycle.board();
        let (ticker, handle) = Ticker::new(cycle, interval, secret, after_tick);
        let (stop, stopped) = oneshot::channel::<()>();
        // A dropped sender stops the ticker too: it does not outlive its owner.
        let task = tokio::spawn(ticker.run(async move { _ = stopped.await }));
        Ok(Self { handle, board, stop, task })
    }

    pub fn handle(&self) -> &TickerHandle {
        &self.handle
    }

    /// How each phase fares.
    pub fn board(&self) -> &Arc<PhaseBoard> {
        &self.board
    }

    /// Ends the ticker after the beat it may be in, and gives the cycle back. None if the runtime is going down.
    pub async fn stop(self) -> Option<Cycle> {
        // Fails only if the task has ended already.
        _ = self.stop.send(());
        self.task.await.ok().flatten()
    }
}
