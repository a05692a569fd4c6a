//! A whole node: data folder, state, network, maintenance. Responsible for the order of starting and stopping.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::builder::NodeBuilder;
use super::builtins::builtins;
use super::drop_in::DropIn;
use super::limits::{net_config, node_limits, warn_of_few_descriptors, within_descriptors};
use super::maintenance::{DataOptions, Maintenance, Options};
use super::reconfigure::{Reconfigurer, thresholds};
use super::saver::{restore_book, save_all};
use super::start_error::StartError;
use super::supply::supply;
use super::{NodeState, config_files};
#[cfg(feature = "telemetry")]
use crate::admin::{AdminServer, Reconfigure};
use crate::clock::{Clock, SystemClock};
use crate::config::{Bootstrap, Config, GuestSettings};
use crate::cycle::Cycle;
use crate::data::DataFolder;
use crate::descriptors;
use crate::disk::{StateValue, on_own_thread};
use crate::engine::{Executor, PhaseThread};
use crate::journal::JournalFile;
use crate::net::{Identity, Net};
use crate::peer::PeerId;
use crate::reload::{ReloadHandle, ReloadOptions};

/// How often a caller that waits for connections looks at the pool: they take a round trip or more.
const LOOK: Duration = Duration::from_millis(20);

/// Of the time that is left, the part in which the running beat may end ...
const BEAT_SHARE: f64 = 0.6;
/// ... and then the part for goodbyes. The rest is for saving.
const GOODBYE_SHARE: f64 = 0.8;

/// Files are given this long even if nothing is left of the deadline: usually there is nothing to write.
const LAST_LOOK: Duration = Duration::from_millis(200);

/// All waits after the deadline together: the process is ended from outside 2 s after it, and a runtime takes half a second.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// Longest wait for threads that end to release the data folder.
const FOLDER_RELEASE: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    identity: Identity,
    state: NodeState,
    net: Arc<Net>,
    maintenance: Maintenance,
    folder: Arc<DataFolder>,
    supply: JoinHandle<()>,
    stop: CancellationToken,
    reconfigurer: Option<Arc<Reconfigurer>>,
    config_files: Option<JoinHandle<()>>,
    #[cfg(feature = "telemetry")]
    admin: Option<AdminServer>,
    /// The config at the start.
    config: Config,
    is_new: bool,
}

/// One step of a shutdown, and how long it took.
#[derive(Clone, Debug)]
pub struct ShutdownStep {
    /// Counts from 1, in the order of execution.
    pub number: u8,
    /// What the step did, in words for the operator.
    pub what: &'static str,
    /// Real time since the step before, or since the start of the shutdown.
    pub took: Duration,
    /// What went wrong.
    pub trouble: Option<String>,
}

impl Node {
    /// Starts the node that `wanted` describes, on the locked `folder`. All file operations are on threads of their own: a
    /// caller whose disk hangs can stop waiting.
    pub(super) async fn start(mut wanted: NodeBuilder, folder: DataFolder) -> Result<Self, StartError> {
        let (own_phases, agent) = (wanted.take_phases(), wanted.agent());
        let descriptors = wanted.descriptors.unwrap_or_else(descriptors::limit);
        #[cfg(feature = "wasm")]
        let compiler = std::mem::take(&mut wanted.compiler);
        let NodeBuilder {
            config,
            key_file,
            clock,
            handlers,
            rejected,
            transport,
            dialer,
            recorder,
            source,
            ..
        } = wanted;
        let clock = clock.unwrap_or_else(|| SystemClock::new());
        // A transport of the application counts its descriptors itself, if it uses any.
        let descriptors = transport.is_none().then_some(descriptors);
        let mut fitting = config.clone();
        if let Some(limit) = descriptors {
            warn_of_few_descriptors(&config.pool, limit);
            fitting.pool = within_descriptors(&config.pool, limit);
        }
        let folder = Arc::new(folder);
        let (at, theirs, pool) = (Arc::clone(&folder), config.clone(), fitting.clone());
        let read = on_own_thread("gk-start", move || read_folder(&at, key_file, &theirs, &pool, clock));
        let FolderContent { identity, is_new, state } = read.await.map_err(StartError::Thread)??;
        for entry in config.net.bootstrap.iter().filter_map(Bootstrap::warning) {
            tracing::warn!("{entry}");
        }
        let net_config = net_config(&config, agent);
        let started = match transport {
            None => Net::start(net_config, &identity, state.clone(), handlers),
            Some(make) => Net::start_over(make(&identity), net_config, state.clone(), handlers).await,
        };
        let net = started.map_err(|source| {
            let listen: Vec<String> = config.net.listen.iter().map(ToString::to_string).collect();
            StartError::Listen { listen: listen.join(", "), source }
        })?;
        let net = Arc::new(net);
        warn_of_missing_ipv6(&config.net.listen, &net.local_addrs());
        let mut phases = builtins(&config.phases);
        phases.extend(own_phases);
        let drop_in = drop_in(&config.guests);
        #[cfg(feature = "wasm")]
        let drop_in = drop_in.map(|drop_in| DropIn { compiler, ..drop_in });
        let options = Options {
            interval: config.node.interval,
            dialer: Some(dialer.map_or_else(|| net.dialer(), |make| make(&state, &net))),
            thresholds: thresholds(&fitting),
            executor: Executor::Thread(PhaseThread::default()),
            rejected,
            guests: config.guests.ceilings(config.pool.least),
            recorder,
            data: Some(DataOptions { folder: Arc::clone(&folder), drop_in }),
            ..Options::default()
        };
        let maintained = state.clone();
        let starting = move || Maintenance::start_alone(&maintained, phases, options);
        let maintenance = on_own_thread("gk-start", starting).await.map_err(StartError::Thread)??;
        let stop = CancellationToken::new();
        let reports = maintenance.handle().reports();
        let supply = tokio::spawn(supply(Arc::clone(&net), state.clone(), reports, stop.clone()));
        let files = source.as_ref().map(|source| config_files::ConfigFiles {
            config: source.file.clone(),
            dir: config.guests.dir.clone(),
        });
        let reconfigurer = source
            .map(|source| {
                Reconfigurer::new(source, config.clone(), descriptors, Arc::clone(&net), &maintenance)
            })
            .transpose()
            .map_err(StartError::Thread)?
            .map(Arc::new);
        let config_files = files.zip(reconfigurer.clone()).map(|(files, reconfigurer)| {
            tokio::spawn(config_files::follow(files, reconfigurer, maintenance.handle().reports()))
        });
        Ok(Self {
            identity,
            state,
            net,
            maintenance,
            folder,
            supply,
            stop,
            reconfigurer,
            config_files,
            #[cfg(feature = "telemetry")]
            admin: None,
            config,
            is_new,
        })
    }

    /// From now on `admin` answers for this node.
    #[cfg(feature = "telemetry")]
    pub(super) fn answering(self, mut admin: AdminServer) -> Self {
        let mut state = self.maintenance.admin_state();
        state.sources.traffic = Some(Arc::clone(&self.net) as _);
        state.network.clone_from(&self.config.node.network);
        state.local_addrs = self.net.local_addrs();
        state.reconfigure = self.reconfigurer.clone().map(orders);
        let config_calls = self.reconfigurer.as_ref().map(|reconfigurer| &reconfigurer.calls);
        state.sources.disk = self.maintenance.disk_health(config_calls);
        admin.open(state);
        Self { admin: Some(admin), ..self }
    }

    /// The node's public key, by which its peers know it.
    pub fn id(&self) -> PeerId {
        self.state.pool.self_id()
    }

    /// The node's key, to sign messages of this node that other peers pass on.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the folder was new, so that the node has a new key.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// This node as a bootstrap entry for others: its id, at the first address that it advertises or listens on. `None`
    /// if it does neither.
    pub fn as_bootstrap(&self) -> Option<Bootstrap> {
        let bound = self.net.local_addrs();
        let at = self.config.net.advertise.first().or(bound.first())?;
        Some(Bootstrap { id: Some(self.id()), host: at.ip().to_string(), port: at.port() })
    }

    /// The peers connected now. O(n).
    pub fn peers(&self) -> Vec<PeerId> {
        self.state.pool.peers().into_iter().map(|(_, naming)| naming.id).collect()
    }

    /// Returns once `at_least` connections are live; may wait forever. Dropping the future has no side effect.
    pub async fn until_connected(&self, at_least: u32) {
        while self.state.pool.live() < at_least {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Connections, address book, broadcasts and journal. Shared with the running node.
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// The network: sends messages and requests to peers.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The ticker and the status of the phases.
    pub fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// Reloads of the drop-in folder; `None` if the config has no such folder.
    pub fn reload(&self) -> Option<&ReloadHandle> {
        self.maintenance.reload()
    }

    /// The data folder, which the node keeps locked.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Gives this node another config; `None` without a [`ConfigSource`](super::ConfigSource).
    #[doc(hidden)]
    pub fn reconfigurer(&self) -> Option<&Arc<Reconfigurer>> {
        self.reconfigurer.as_ref()
    }

    /// Stops in numbered steps, within `deadline` and a second. A step that takes too long is abandoned and reported. Waits for no
    /// file operation any longer than that.
    pub async fn shutdown(self, deadline: Duration) -> Vec<ShutdownStep> {
        let Self { state, net, maintenance, supply, stop, config_files, .. } = self;
        let Maintenance { handle, ticker, reload, writer, .. } = maintenance;
        let begun = Instant::now();
        let left = || deadline.saturating_sub(begun.elapsed());
        let left_at_last = || (deadline + AFTER_DEADLINE).saturating_sub(begun.elapsed());
        let mut steps = ShutdownSteps { steps: Vec::new(), since: Instant::now() };

        state.pool.refuse_newcomers();
        stop.cancel();
        for task in [Some(supply), config_files].into_iter().flatten() {
            task.abort();
            // Aborted or ended: both are fine.
            _ = task.await;
        }
        if let Some(reload) = reload {
            // Not its thread: a scan that hangs is left alone.
            reload.task.stop().await;
        }
        if let Some(writer) = &writer {
            // Asked to stop: the cause of earlier failures is gone.
            writer.put(StateValue::Starts(0), u64::MAX);
        }
        steps.done("refuse newcomers", None);

        let tick = handle.stats().tick();
        let cycle =
            tokio::time::timeout(left().mul_f64(BEAT_SHARE), ticker.stop()).await.ok().flatten().flatten();
        let trouble = cycle.is_none().then(|| "the beat did not end in time".to_owned());
        steps.done("finish the beat and stop the ticker", trouble);

        let stopped = net.shutdown(left().mul_f64(GOODBYE_SHARE)).await;
        let trouble =
            (stopped.aborted > 0).then(|| format!("{} connections had to be aborted", stopped.aborted));
        steps.done("say goodbye and close connections", trouble);

        let saved = match writer {
            Some(writer) => save_all(writer, &state, cycle.as_ref(), tick, left()).await,
            None => Ok(()),
        };
        let written = write_files(&state, cycle, left().max(LAST_LOOK).min(left_at_last())).await;
        steps.done("save address book, schedule and what phases remember", saved.and(written).err());

        #[cfg(feature = "telemetry")]
        if let Some(admin) = self.admin
            && !tokio::time::timeout(left_at_last(), admin.stop()).await.unwrap_or(false)
        {
            steps.done("end answers to operators", Some("they did not end in time".to_owned()));
        }
        // The threads that read and write files end now, unless they hang. Then another node can use the folder.
        let released = self.folder.released();
        drop(self.folder);
        let patience = left().clamp(LAST_LOOK, FOLDER_RELEASE).min(left_at_last());
        _ = tokio::time::timeout(patience, released).await;
        steps.steps
    }
}

/// On a machine without IPv6, `[::]` becomes `0.0.0.0`.
fn warn_of_missing_ipv6(listen: &[SocketAddr], bound: &[SocketAddr]) {
    let any = |address: &&SocketAddr| address.ip() == Ipv6Addr::UNSPECIFIED;
    if listen.iter().any(|address| any(&address)) && !bound.iter().any(|address| any(&address)) {
        tracing::warn!(
            "this machine has no IPv6: listening on IPv4 only; net.listen = [\"0.0.0.0:PORT\"] says the same"
        );
    }
}

/// What a node reads from its data folder before it has a network.
struct FolderContent {
    identity: Identity,
    is_new: bool,
    state: NodeState,
}

/// `fitting` is the config with limits that the descriptors of this process allow.
fn read_folder(
    folder: &DataFolder,
    key_file: Option<PathBuf>,
    config: &Config,
    fitting: &Config,
    clock: Arc<dyn Clock>,
) -> Result<FolderContent, StartError> {
    let key = match key_file {
        Some(file) => folder.key_from(&file)?,
        None => folder.key(|| Ok(Identity::generate().to_pkcs8().to_vec()))?,
    };
    let identity = Identity::from_pkcs8(&key.bytes).map_err(|error| StartError::Key(error.to_string()))?;
    let journal = journal_file(config, folder)?;
    let state = NodeState::new(identity.peer_id(), node_limits(fitting), clock, journal);
    restore_book(folder, &state)?;
    Ok(FolderContent { identity, is_new: key.is_new, state })
}

/// Ends the recording, which is in `cycle`, and writes the journal's last lines.
async fn write_files(state: &NodeState, cycle: Option<Cycle>, deadline: Duration) -> Result<(), String> {
    let journal = Arc::clone(&state.journal);
    let ended = on_own_thread("gk-end", move || {
        drop(cycle);
        journal.finish_file(deadline)
    });
    match tokio::time::timeout(deadline, ended).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(false)) | Err(_) => {
            Err("the disk did not answer in time: the end of journal or recording is lost".to_owned())
        }
    }
}

fn journal_file(config: &Config, folder: &DataFolder) -> Result<Option<JournalFile>, StartError> {
    let Some(path) = &config.journal.file else { return Ok(None) };
    let path = folder.path().join(path);
    let file = JournalFile::open(&path, config.journal.file_max);
    file.map(Some).map_err(|source| StartError::Journal { path: path.display().to_string(), source })
}

/// The drop-in folder of the config.
fn drop_in(guests: &GuestSettings) -> Option<DropIn> {
    let GuestSettings { dir, allow_native, reload_native, require, public_key, .. } = guests.clone();
    let mut drop_in = DropIn::at(dir?);
    drop_in.reload = ReloadOptions { reload_native, require, public_key, ..drop_in.reload };
    drop_in.allow_native = allow_native;
    Some(drop_in)
}

/// The operator's command to read the config again.
#[cfg(feature = "telemetry")]
fn orders(reconfigurer: Arc<Reconfigurer>) -> Reconfigure {
    Arc::new(move |by| {
        let reconfigurer = Arc::clone(&reconfigurer);
        Box::pin(async move { reconfigurer.reconfigure(by, "reload").await })
    })
}

struct ShutdownSteps {
    steps: Vec<ShutdownStep>,
    since: Instant,
}

impl ShutdownSteps {
    fn done(&mut self, what: &'static str, trouble: Option<String>) {
        let number = self.steps.len() as u8 + 1;
        let took = self.since.elapsed();
        self.since = Instant::now();
        self.steps.push(ShutdownStep { number, what, took, trouble });
    }
}
