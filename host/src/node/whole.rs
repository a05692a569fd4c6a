//! A whole node: data folder, tables, network, maintenance. Owns the order of starting and of stopping.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::builder::NodeBuilder;
use super::builtins::builtins;
use super::maintenance::{Maintenance, Options, TableLimits, Tables};
use super::reconfigure::{ReadConfig, Reconfigurer, thresholds};
use super::tuning::tuning;
use crate::book::BookLimits;
use crate::clock::Clock;
use crate::config::{Bootstrap, Config, Guest, Guests, Manifest, Problem, Trust};
use crate::cycle::{BeatReport, Cycle, Measures};
use crate::data::{DataError, DataFolder, KeptPhase};
use crate::engine::{Fence, PhaseThread};
use crate::flow::{BroadcastLimits, OutboxLimits};
use crate::journal::{JournalFile, JournalLimits};
use crate::loader::{Loader, Unfit};
use crate::net::{FrameCaps, Identity, Net, NetConfig, Rooms};
use crate::peer::PeerId;
use crate::pool::PoolLimits;
use crate::registry::{BadPhases, PhaseSpec, RejectedPhase};
use crate::reload::{self, CycleChange, PhaseFactory, PhaseReloader, ReloadHandle, ReloadOptions, StartFrom};
use crate::ticker::AfterTick;

/// A phase with a longer period is written down as soon as it ran: losing its last run to a crash would cost that much.
const PERIOD_WORTH_SAVING: Duration = Duration::from_secs(300);

/// With fewer addresses to dial than the reconnect phase may dial at once, a peer is asked for more.
const ENOUGH_TO_DIAL: usize = 8;

/// How often the pool is looked at by who waits for connections: they take a round trip or more.
const LOOK: Duration = Duration::from_millis(20);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("a node runs on tokio and there is no runtime here; call `start` inside of one")]
    NoRuntime,
    #[error(
        "no data folder is named; give the node one with `data_dir`, or with node.data_dir in its config"
    )]
    NoFolder,
    #[error("{}", lines(.0))]
    Settings(Vec<Problem>),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("the key in the data folder is damaged: {0}; restore node.key from a copy")]
    Key(String),
    #[error("cannot open the journal's file {path}: {source}; choose another place with journal.file")]
    Journal { path: String, source: io::Error },
    #[error("cannot listen on {listen}: {source}; choose another address with net.listen")]
    Listen { listen: String, source: io::Error },
    #[error(transparent)]
    Phases(#[from] BadPhases),
    #[error("phases cannot be loaded: {0}")]
    Guests(String),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Loads phases once there is one to load: most nodes that run beside others in a process have none.
struct LazyLoader {
    folder: Arc<DataFolder>,
    allow_native: bool,
    loader: Option<Loader>,
}

impl PhaseFactory for LazyLoader {
    fn load(
        &mut self,
        manifest: &Manifest,
        guest: &Guest,
        text: &str,
        path: &Path,
        module: &[u8],
    ) -> Result<PhaseSpec, Unfit> {
        let loader = match &self.loader {
            Some(loader) => loader,
            None => {
                let loader = Loader::new(self.folder.artifacts(), self.allow_native).map_err(Unfit::Bad)?;
                self.loader.insert(loader)
            }
        };
        loader.load(manifest, guest, text, path, module)
    }
}

/// The reloader of the drop-in folder, if there is to be one.
fn reloader(
    config: &Config,
    folder: &Arc<DataFolder>,
    clock: &Arc<dyn Clock>,
) -> Option<(ReloadOptions, PhaseReloader)> {
    let dir = config.guests.dir.clone()?;
    let Guests { reload_native, require, public_key, .. } = config.guests.clone();
    let options = ReloadOptions { dir, reload_native, require, public_key };
    let allow_native = config.guests.allow_native;
    let stage = LazyLoader { folder: Arc::clone(folder), allow_native, loader: None };
    let fence = Fence::Thread(PhaseThread::new());
    let reloader =
        PhaseReloader::new(options.clone(), Arc::clone(folder), Box::new(stage), fence, Arc::clone(clock));
    Some((options, reloader))
}

/// The tick that a start has to reach to count as one that came far.
const FAR: u32 = 2;

/// What each phase kept. A guest whose file cannot be used is rejected: it would start over, and write over what a newer
/// version of this program left.
fn kept(
    folder: &DataFolder,
    phases: &mut Vec<PhaseSpec>,
    rejected: &mut Vec<RejectedPhase>,
) -> Result<BTreeMap<String, KeptPhase>, DataError> {
    let mut kept = BTreeMap::new();
    let mut refused = Vec::new();
    for (at, phase) in phases.iter().enumerate() {
        match folder.load_phase(&phase.name) {
            Ok(loaded) => {
                if let Some(warning) = loaded.warning {
                    tracing::warn!(phase = phase.name, "{warning}");
                }
                kept.insert(phase.name.clone(), loaded.value);
            }
            Err(error) if phase.policy.trust == Trust::Guest => refused.push((at, error)),
            Err(error) => return Err(error),
        }
    }
    for (at, error) in refused.into_iter().rev() {
        let PhaseSpec { name, kind, .. } = phases.remove(at);
        let problem = error.to_string();
        rejected.push(RejectedPhase { name, kind: kind.into(), problem, ..RejectedPhase::default() });
    }
    Ok(kept)
}

/// A running node.
pub struct Node {
    identity: Identity,
    tables: Tables,
    net: Arc<Net>,
    maintenance: Maintenance,
    folder: Arc<DataFolder>,
    supply: JoinHandle<()>,
    reload: Option<(ReloadHandle, JoinHandle<()>)>,
    stop: CancellationToken,
    started: Duration,
    measures: Arc<Mutex<Measures>>,
    /// As it began.
    config: Config,
    is_new: bool,
}

/// One step of a shutdown and what it took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShutdownStep {
    pub number: u8,
    pub what: &'static str,
    pub took: Duration,
    /// What did not go as it should.
    pub trouble: Option<String>,
}

impl Node {
    /// Starts what `wanted` describes, with the locked folder as its own.
    pub(super) async fn start(mut wanted: NodeBuilder, folder: DataFolder) -> Result<Self, StartError> {
        let (clock, own_phases, agent) = (wanted.clock_or_systems(), wanted.take_phases(), wanted.agent());
        let NodeBuilder { config, handlers, mut rejected, transport, dialer, recorder, .. } = wanted;
        let folder = Arc::new(folder);
        let key = folder.key(|| Ok(Identity::generate().to_pkcs8().to_vec()))?;
        let identity =
            Identity::from_pkcs8(&key.bytes).map_err(|error| StartError::Key(error.to_string()))?;
        let tables =
            Tables::new(identity.peer_id(), table_limits(&config), clock, journal_file(&config, &folder)?);
        let book = folder.load_book()?;
        let schedule = folder.load_schedule()?;
        for warning in [&book.warning, &schedule.warning].into_iter().flatten() {
            tracing::warn!("{warning}");
        }
        for entry in config.net.bootstrap.iter().filter_map(Bootstrap::warning) {
            tracing::warn!("{entry}");
        }
        tables.book.restore(book.value);
        let rooms = Rooms {
            pool: Arc::clone(&tables.pool),
            book: Arc::clone(&tables.book),
            broadcasts: Arc::clone(&tables.broadcasts),
            journal: Arc::clone(&tables.journal),
            clock: Arc::clone(&tables.clock),
        };
        let net_config = net_config(&config, agent);
        let started = match transport {
            None => Net::start(net_config, &identity, rooms, handlers),
            Some(make) => Net::start_over(make(&identity), net_config, rooms, handlers).await,
        };
        let net = started.map_err(|source| {
            let listen: Vec<String> = config.net.listen.iter().map(ToString::to_string).collect();
            StartError::Listen { listen: listen.join(", "), source }
        })?;
        let net = Arc::new(net);
        let mut phases = builtins(&config.phases);
        phases.extend(own_phases);
        let kept = kept(&folder, &mut phases, &mut rejected)?;
        let thresholds = thresholds(&config.pool);
        let options = Options {
            interval: config.node.interval,
            dialer: Some(dialer.map_or_else(|| net.dialer(), |make| make(&tables, &net))),
            thresholds,
            stale_after: config.stale_after(),
            fence: Fence::Thread(PhaseThread::new()),
            last_runs: schedule.value.clone(),
            kept,
            rejected,
            guests: config.guests.clone(),
            after_tick: Some(saver(Arc::clone(&folder))),
            recorder,
            ..Options::default()
        };
        let started = tables.clock.mono();
        let measures = Arc::new(Mutex::new(Measures { thresholds, stale_after: config.stale_after() }));
        let earlier = folder.note_start();
        let from = StartFrom::after(earlier);
        if from != StartFrom::Folder {
            let runs = if from == StartFrom::Former {
                "generations before the last ones"
            } else {
                "built-in phases only"
            };
            tracing::error!(starts = earlier, runs, "the last starts did not come to their second tick");
        }
        let mut reloader = reloader(&config, &folder, &tables.clock);
        let maintenance = Maintenance::start_with(&tables, phases, options, |cycle| {
            let Some((_, reloader)) = &mut reloader else { return Ok(()) };
            let mut ticks = |change: CycleChange| {
                change(cycle);
                true
            };
            reloader.begin(&mut ticks, from, &schedule.value).map_err(StartError::Data)
        })?;
        let stop = CancellationToken::new();
        let reload = reloader.map(|(options, reloader)| {
            let (controls, beats) = (maintenance.handle().controls(), maintenance.handle().reports());
            let stopped = stop.clone().cancelled_owned();
            reload::run(reloader, &options, controls, beats, Arc::clone(&tables.clock), stopped)
        });
        let reports = maintenance.handle().reports();
        let supply = tokio::spawn(supply(Arc::clone(&net), tables.clone(), reports, stop.clone()));
        let is_new = key.is_new;
        Ok(Self {
            identity,
            tables,
            net,
            maintenance,
            folder,
            supply,
            reload,
            stop,
            started,
            measures,
            config,
            is_new,
        })
    }

    pub fn id(&self) -> PeerId {
        self.tables.pool.self_id()
    }

    /// The node's key, to sign as this node what is passed on by others.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the folder was new, so that the node has a new key.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// This node as others name it to begin with: its id, at the first address that it advertises or listens on. None if
    /// it does neither.
    pub fn as_bootstrap(&self) -> Option<Bootstrap> {
        let bound = self.net.local_addrs();
        let at = self.config.net.advertise.first().or(bound.first())?;
        Some(Bootstrap { id: Some(self.id()), host: at.ip().to_string(), port: at.port() })
    }

    /// Whom it is connected to now. O(n).
    pub fn peers(&self) -> Vec<PeerId> {
        self.tables.pool.peers().into_iter().map(|(_, naming)| naming.id).collect()
    }

    /// Returns once there are `at_least` connections; never, if they never are. Ends nothing if it is dropped.
    pub async fn until_connected(&self, at_least: u32) {
        while self.tables.pool.live() < at_least {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    pub fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// Reloads of the drop-in folder; none if there is no such folder in the config.
    pub fn reload(&self) -> Option<&ReloadHandle> {
        self.reload.as_ref().map(|(handle, _)| handle)
    }

    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// What statistics and views measure by.
    #[doc(hidden)]
    pub fn measures(&self) -> &Arc<Mutex<Measures>> {
        &self.measures
    }

    /// Whoever can give this node another config. `read` reads it, `log` sets what is logged by it.
    pub fn reconfigurer(&self, read: ReadConfig, log: Box<dyn Fn(&Config) + Send + Sync>) -> Reconfigurer {
        let (pool, ticker) = (Arc::clone(&self.tables.pool), self.maintenance.handle().controls());
        Reconfigurer::new(
            read,
            self.config.clone(),
            pool,
            Arc::clone(&self.net),
            ticker,
            Arc::clone(&self.measures),
            log,
        )
    }

    /// Monotonic time of the start.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// Stops in numbered steps, all within about `deadline`: a step that runs out of time is left behind and told.
    pub async fn shutdown(self, deadline: Duration) -> Vec<ShutdownStep> {
        let Self { tables, net, maintenance, folder, supply, reload, stop, .. } = self;
        let begun = Instant::now();
        let left = || deadline.saturating_sub(begun.elapsed());
        let mut steps = Steps { steps: Vec::new(), since: Instant::now() };

        tables.pool.refuse_newcomers();
        stop.cancel();
        supply.abort();
        // Aborted or ended, either is what we want.
        _ = supply.await;
        if let Some((_, task)) = reload {
            // It may be compiling, and has written down nothing half.
            _ = task.await;
        }
        folder.note_far();
        steps.done("refuse newcomers", None);

        let tick = maintenance.handle().pulse().tick();
        let cycle = tokio::time::timeout(left(), maintenance.stop()).await.ok().flatten();
        let trouble = cycle.is_none().then(|| "the beat did not end in time".to_owned());
        steps.done("finish the beat and stop the ticker", trouble);

        let stopped = net.shutdown(left().mul_f64(0.8)).await;
        let trouble =
            (stopped.aborted > 0).then(|| format!("{} connections had to be aborted", stopped.aborted));
        steps.done("say goodbye and close connections", trouble);

        let changed = cycle.iter().flat_map(|cycle| cycle.kept()).filter(|(_, _, changes)| *changes > 0);
        let kept: Vec<_> = changed.map(|(name, kept, _)| (Arc::clone(name), kept.clone())).collect();
        let last_runs = cycle.map(|cycle| cycle.last_runs(tick));
        let entries = tables.book.entries();
        let saving = tokio::task::spawn_blocking(move || {
            let book = folder.save_book(&entries);
            let schedule = last_runs.map_or(Ok(()), |last_runs| folder.save_schedule(&last_runs));
            let phases = kept.iter().try_for_each(|(name, kept)| folder.save_phase(name, kept));
            book.and(schedule).and(phases)
        });
        let trouble = match saving.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        steps.done("save address book, schedule and what phases remember", trouble);
        steps.steps
    }
}

struct Steps {
    steps: Vec<ShutdownStep>,
    since: Instant,
}

impl Steps {
    fn done(&mut self, what: &'static str, trouble: Option<String>) {
        let number = self.steps.len() as u8 + 1;
        let took = self.since.elapsed();
        self.since = Instant::now();
        self.steps.push(ShutdownStep { number, what, took, trouble });
    }
}

/// Keeps the address book supplied: resolves the bootstrap nodes at the start and at urgent beats, since names may
/// point elsewhere by then, and asks a peer for addresses at ticks that find few to dial. Follows the ticker.
async fn supply(
    net: Arc<Net>,
    tables: Tables,
    mut reports: Receiver<Arc<BeatReport>>,
    stop: CancellationToken,
) {
    // Without an address nobody can be dialled, so the first round does not wait for a beat.
    let mut urgent = 1;
    loop {
        // At the 1st, 2nd, 4th, 8th ... urgent beat in a row: name servers are not to be hammered.
        if u32::is_power_of_two(urgent) {
            let resolved = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                resolved = net.resolve_bootstrap() => resolved,
            };
            for (entry, why) in resolved.failed {
                tracing::warn!(%entry, why, "cannot resolve a bootstrap node");
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            report = reports.recv() => match report {
                Ok(report) if report.urgent > 0 => urgent += 1,
                Ok(_) => {
                    urgent = 0;
                    if tables.book.is_short_of_addresses(&tables.pool, ENOUGH_TO_DIAL) {
                        net.ask_for_addresses();
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Writes what a crash must not lose, after ticks in which it changed.
fn saver(folder: Arc<DataFolder>) -> AfterTick {
    let mut saved_changes = 0;
    let mut saved_once = false;
    let mut came_far = false;
    let mut saved_phases: HashMap<Arc<str>, u64> = HashMap::new();
    Box::new(move |cycle: &Cycle, report: &BeatReport| {
        let book = &cycle.world().book;
        let changes = book.changes();
        if changes != saved_changes {
            match folder.save_book(&book.entries()) {
                Ok(()) => saved_changes = changes,
                Err(error) => tracing::error!(%error, "cannot save the address book; it is kept in memory"),
            }
        }
        for (name, kept, changes) in cycle.kept() {
            if changes == saved_phases.get(name).copied().unwrap_or(0) {
                continue;
            }
            match folder.save_phase(name, kept) {
                Ok(()) => _ = saved_phases.insert(Arc::clone(name), changes),
                Err(error) => tracing::error!(%error, phase = &**name, "cannot save what it remembers"),
            }
        }
        // Ticks are skipped by a node that is slow to start, too.
        if !came_far && report.tick >= FAR {
            folder.note_far();
            came_far = true;
        }
        saved_phases.retain(|name, _| cycle.snapshot(name).is_some());
        if !saved_once || cycle.ran_rare(report, PERIOD_WORTH_SAVING) {
            match folder.save_schedule(&cycle.last_runs(report.tick)) {
                Ok(()) => saved_once = true,
                Err(error) => tracing::error!(%error, "cannot save when phases ran"),
            }
        }
    })
}

fn journal_file(config: &Config, folder: &DataFolder) -> Result<Option<JournalFile>, StartError> {
    let Some(path) = &config.journal.file else { return Ok(None) };
    let path = folder.path().join(path);
    let file = JournalFile::open(&path, config.journal.file_max);
    file.map(Some).map_err(|source| StartError::Journal { path: path.display().to_string(), source })
}

fn table_limits(config: &Config) -> TableLimits {
    let Config { pool, book, broadcasts, journal, net, .. } = config;
    TableLimits {
        pool: PoolLimits {
            capacity: pool.max_connections,
            inbound: pool.max_inbound,
            outbound: pool.max_outbound,
            per_group: pool.max_per_group,
            handshakes: pool.max_handshakes,
        },
        book: BookLimits {
            capacity: book.capacity,
            per_source_group: book.per_source_group,
            backoff_first: book.backoff_first,
            backoff_most: book.backoff_most,
            min_life: book.min_life,
            allow_private: net.allow_private,
            seed: None,
        },
        broadcasts: BroadcastLimits {
            held: broadcasts.held,
            per_window: broadcasts.per_window,
            window: broadcasts.window,
        },
        journal: JournalLimits { notable: journal.notable, chatter: journal.chatter },
    }
}

fn net_config(config: &Config, agent: Option<String>) -> NetConfig {
    let defaults = NetConfig::default();
    NetConfig {
        network: config.node.network.clone(),
        listen: config.net.listen.clone(),
        advertise: config.net.advertise.clone(),
        agent: agent.unwrap_or_else(|| defaults.agent.clone()),
        bootstrap: config.net.bootstrap.clone(),
        handshake_timeout: config.net.handshake_timeout,
        answer_timeout: config.net.request_timeout,
        frame_caps: FrameCaps::up_to(config.net.max_frame as usize),
        outbox: OutboxLimits { data_bytes: config.net.queue_bytes as usize, ..defaults.outbox },
        bytes_per_second_per_peer: config.net.bytes_per_second_per_peer,
        tuning: tuning(config),
        ..defaults
    }
}
