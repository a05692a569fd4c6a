//! Combines pool, address book, phases and ticker, for any kind of connection. Knows no transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::NodeState;
#[cfg(any(feature = "node", feature = "telemetry"))]
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[cfg(feature = "dropin")]
use super::drop_in::{DropIn, ReloadTask};
#[cfg(feature = "dropin")]
use super::saver::{restore_book, restore_phases, save_all};
use super::start_error::StartError;
#[cfg(feature = "telemetry")]
use crate::admin::{AdminServer, AdminSettings, AdminState};
use crate::book::Dial;
use crate::clock::unix_seconds;
use crate::cycle::{BeatContext, Cycle, Stopwatch, Thresholds, UsedCeilings};
#[cfg(feature = "dropin")]
use crate::data::DataFolder;
#[cfg(feature = "telemetry")]
use crate::disk::{DiskCalls, DiskHealth};
#[cfg(feature = "dropin")]
use crate::disk::{PendingSaves, StateValue, StateWriter};
use crate::engine::beat::BeatRecorder;
use crate::engine::policy::GuestCeilings;
use crate::engine::{Executor, PhaseThread};
#[cfg(feature = "telemetry")]
use crate::metrics::MetricSources;
use crate::registry::{
    KeptPhase, LastRuns, PhaseSpec, PhaseStatuses, PriorState, Registry, RejectedPhase, spread,
};
#[cfg(feature = "dropin")]
use crate::reload::{ReloadHandle, StartFrom};
use crate::ticker::{AfterTick, Ticker, TickerHandle};

/// How long [`Maintenance::stop`] waits for the disk: as long as the default deadline of a node's shutdown.
#[cfg(feature = "dropin")]
const LAST_SAVE: Duration = Duration::from_secs(10);

/// Options of maintenance.
pub struct Options {
    /// Time between two ticks.
    pub interval: Duration,
    /// Opens connections when a phase asks for it. Without one, dials are refused.
    pub dialer: Option<Arc<dyn Dial>>,
    /// Limits for views, statistics and late ticks, until a new config replaces them.
    pub thresholds: Thresholds,
    /// Where phases run: on a separate thread, unless time is simulated.
    pub executor: Executor,
    /// When phases ran in an earlier process.
    pub last_runs: LastRuns,
    /// What phases kept from an earlier process, by name: memory and quarantine.
    pub kept: BTreeMap<String, KeptPhase>,
    /// What guests used of their ceilings in an earlier process.
    #[doc(hidden)]
    pub used_ceilings: UsedCeilings,
    /// Phases that could not be made. They are shown with their reasons.
    pub rejected: Vec<RejectedPhase>,
    /// Ceilings for all guests together.
    pub guests: GuestCeilings,
    /// Measures the budget of a beat. Defaults to real time.
    pub stopwatch: Option<Stopwatch>,
    /// A number that others cannot guess. Equal numbers give phases equal random bits.
    pub secret: u64,
    /// Called after each tick, off the async threads.
    pub after_tick: Option<AfterTick>,
    /// Writes every beat to a file, for `groundskeeper replay`.
    pub recorder: Option<Box<dyn BeatRecorder>>,
    /// Replaces `last_runs`, `kept` and what guests used of their ceilings.
    #[cfg(feature = "dropin")]
    pub data: Option<DataOptions>,
    /// How operators reach the node.
    #[cfg(feature = "telemetry")]
    pub admin: AdminSettings,
}

impl Default for Options {
    /// The numbers from the project's requirements: a tick every 30 s, 5 to 1,024 connections, stale after 90 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            dialer: None,
            thresholds: Thresholds::default(),
            executor: Executor::Thread(PhaseThread::default()),
            last_runs: LastRuns::default(),
            kept: BTreeMap::new(),
            used_ceilings: UsedCeilings::default(),
            rejected: Vec::new(),
            guests: GuestCeilings::default(),
            stopwatch: None,
            secret: rand::random(),
            after_tick: None,
            recorder: None,
            #[cfg(feature = "dropin")]
            data: None,
            #[cfg(feature = "telemetry")]
            admin: AdminSettings::default(),
        }
    }
}

/// The folder for state that outlives the process, and the phases to replace while it runs.
#[cfg(feature = "dropin")]
#[derive(Clone)]
pub struct DataOptions {
    /// Address book, last runs and what phases store: read from here, and written after ticks that changed them.
    pub folder: Arc<DataFolder>,
    /// A folder of phases, replaced while the node runs.
    pub drop_in: Option<DropIn>,
}

/// Running maintenance: the ticker task that runs the phases, and its optional parts.
pub struct Maintenance {
    pub(super) handle: TickerHandle,
    board: Arc<PhaseStatuses>,
    #[cfg(feature = "dropin")]
    pub(super) state: NodeState,
    #[cfg(any(feature = "node", feature = "telemetry"))]
    pub(super) thresholds: Arc<Mutex<Thresholds>>,
    /// Monotonic time of the start.
    #[cfg(feature = "telemetry")]
    started: Duration,
    pub(super) ticker: OwnedTask<Option<Cycle>>,
    #[cfg(feature = "dropin")]
    pub(super) reload: Option<ReloadTask>,
    #[cfg(feature = "dropin")]
    pub(super) writer: Option<Arc<StateWriter>>,
    #[cfg(feature = "telemetry")]
    admin: Option<AdminServer>,
}

/// A task with its stop signal. Dropping it stops the task; the ticker first finishes the beat it is in.
pub(super) struct OwnedTask<R> {
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<R>,
}

impl<R> OwnedTask<R> {
    /// Stops the task and returns its result. `None` if the runtime is shutting down.
    pub(super) async fn stop(self) -> Option<R> {
        // Fails only if the task has ended already.
        _ = self.stop.send(());
        self.task.await.ok()
    }
}

impl Maintenance {
    /// Starts the ticker on the current tokio runtime. The first tick is one interval from now. While no connection is
    /// live, phases that wake on isolation run within half a second. With a data folder, reads it on the caller's thread.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started then.
    pub fn start(state: &NodeState, phases: Vec<PhaseSpec>, options: Options) -> Result<Self, StartError> {
        #[cfg(feature = "telemetry")]
        let (mut admin, settings) = (AdminServer::start(&options.admin)?, options.admin.clone());
        #[cfg(feature = "dropin")]
        if let Some(data) = &options.data {
            restore_book(&data.folder, state)?;
        }
        let maintenance = Self::start_alone(state, phases, options)?;
        #[cfg(feature = "telemetry")]
        let maintenance = {
            let AdminSettings { network, listening: local_addrs, .. } = settings;
            admin.open(AdminState { network, local_addrs, ..maintenance.admin_state() });
            Self { admin: Some(admin), ..maintenance }
        };
        Ok(maintenance)
    }

    /// As [`Maintenance::start`], for a node that has read its address book and answers operators itself.
    pub(super) fn start_alone(
        state: &NodeState,
        phases: Vec<PhaseSpec>,
        options: Options,
    ) -> Result<Self, StartError> {
        #[cfg(feature = "telemetry")]
        let started = state.clock.mono();
        #[cfg(feature = "dropin")]
        let (mut phases, mut options) = (phases, options);
        #[cfg(feature = "dropin")]
        let data = options.data.take();
        #[cfg(feature = "dropin")]
        let writer = data.as_ref().map(|data| StateWriter::start(&data.folder)).transpose();
        #[cfg(feature = "dropin")]
        let writer = writer.map_err(StartError::Thread)?.map(Arc::new);
        #[cfg(feature = "dropin")]
        let from = match (&data, &writer) {
            (Some(data), Some(writer)) => restore_phases(&data.folder, writer, &mut phases, &mut options)?,
            _ => StartFrom::Folder,
        };
        let Options { interval, dialer, thresholds, executor: fence, guests, secret, after_tick, .. } =
            options;
        let Options { last_runs, kept, used_ceilings, rejected, stopwatch, recorder, .. } = options;
        let self_id = state.pool.self_id();
        let spread = |name: &str| spread(&self_id, name);
        let (unix_now, mono_now) = (unix_seconds(&*state.clock), state.clock.mono());
        let before = PriorState { last_runs, kept, unix_now, mono_now, interval };
        let registry = Registry::new(phases, rejected, spread, &before)?;
        let world = BeatContext { state: state.clone(), dialer, thresholds, guests };
        let mut cycle = Cycle::new(world, registry, fence, interval, secret);
        cycle.restore_ceilings(&used_ceilings);
        if let Some(stopwatch) = stopwatch {
            cycle = cycle.measured_by(stopwatch);
        }
        if let Some(recorder) = recorder {
            cycle.record_into(recorder);
        }
        #[cfg(feature = "dropin")]
        let begun = match (&data, &writer) {
            (Some(DataOptions { folder, drop_in: Some(drop_in) }), Some(writer)) => {
                Some(drop_in.begin(folder, writer, &mut cycle, from, &before.last_runs)?)
            }
            _ => None,
        };
        let board = cycle.statuses();
        let (ticker, handle) = Ticker::new(cycle, interval, secret, after_tick);
        let (stop, stopped) = oneshot::channel::<()>();
        // Dropping the sender also stops the ticker: it does not outlive its owner.
        let task = tokio::spawn(ticker.run(async move { _ = stopped.await }));
        Ok(Self {
            board,
            #[cfg(feature = "dropin")]
            state: state.clone(),
            #[cfg(any(feature = "node", feature = "telemetry"))]
            thresholds: Arc::new(Mutex::new(thresholds)),
            #[cfg(feature = "telemetry")]
            started,
            ticker: OwnedTask { stop, task },
            #[cfg(feature = "dropin")]
            reload: begun.map(|reloader| ReloadTask::run(reloader, &handle)),
            #[cfg(feature = "dropin")]
            writer,
            #[cfg(feature = "telemetry")]
            admin: None,
            handle,
        })
    }

    /// Commands to the ticker, and the reports of its beats.
    pub fn handle(&self) -> &TickerHandle {
        &self.handle
    }

    /// The status of each phase.
    pub fn statuses(&self) -> &Arc<PhaseStatuses> {
        &self.board
    }

    /// Reloads of the drop-in folder; `None` if there is no such folder.
    #[cfg(feature = "dropin")]
    pub fn reload(&self) -> Option<&ReloadHandle> {
        self.reload.as_ref().map(|reload| &reload.handle)
    }

    /// What of the state is not saved yet; `None` without a data folder.
    #[cfg(feature = "dropin")]
    #[doc(hidden)]
    pub fn pending_saves(&self) -> Option<PendingSaves> {
        self.writer.as_ref().map(PendingSaves::of)
    }

    /// What this waits for on its disks. `config` is the reader of the config, if there is one.
    #[cfg(feature = "telemetry")]
    pub(super) fn disk_health(&self, config: Option<&Arc<DiskCalls>>) -> DiskHealth {
        let reload = self.reload.as_ref().map(|reload| &reload.calls);
        let calls = reload.into_iter().chain(config).cloned().collect();
        DiskHealth::new(calls, self.writer.clone(), Arc::clone(&self.state.journal))
    }

    /// The state that answers operators, without network and config.
    #[cfg(feature = "telemetry")]
    pub(super) fn admin_state(&self) -> AdminState {
        let sources = MetricSources {
            state: self.state.clone(),
            phases: Arc::clone(&self.board),
            pulse: Arc::clone(self.handle.stats()),
            thresholds: Arc::clone(&self.thresholds),
            started: self.started,
            reload: self.reload().cloned(),
            traffic: None,
            refusals: None,
            disk: self.disk_health(None),
        };
        AdminState {
            sources,
            metrics: Arc::default(),
            network: String::new(),
            local_addrs: Vec::new(),
            ticker: Some(self.handle.clone()),
            reconfigure: None,
            past: Arc::default(),
        }
    }

    /// Ends reloads, then the ticker after the beat it is in, saves the state for at most 10 s, and ends the answers to
    /// operators. Returns the cycle, or `None` if the runtime is shutting down.
    pub async fn stop(self) -> Option<Cycle> {
        #[cfg(feature = "dropin")]
        if let Some(reload) = self.reload {
            reload.task.stop().await;
        }
        let cycle = self.ticker.stop().await.flatten();
        #[cfg(feature = "dropin")]
        if let Some(writer) = self.writer {
            writer.put(StateValue::Starts(0), u64::MAX);
            let tick = self.handle.stats().tick();
            if let Err(trouble) = save_all(writer, &self.state, cycle.as_ref(), tick, LAST_SAVE).await {
                tracing::error!(trouble, "cannot save the state at the end");
            }
        }
        #[cfg(feature = "telemetry")]
        if let Some(admin) = self.admin
            && !admin.stop().await
        {
            tracing::warn!("answers to operators did not end in time");
        }
        cycle
    }
}
