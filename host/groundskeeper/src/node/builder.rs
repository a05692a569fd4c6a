//! Describes the node that an application wants: settings, handlers, phases, replaced parts. Starts nothing before
//! [`NodeBuilder::start`], and decides nothing that the config decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::host::AnyPhase;

use super::NodeState;
use super::reconfigure::ConfigSource;
use super::start_error::StartError;
use super::whole::Node;
#[cfg(feature = "telemetry")]
use crate::admin::{AdminServer, AdminSettings};
use crate::book::Dial;
use crate::clock::Clock;
use crate::config::{Bootstrap, Config};
use crate::data::DataFolder;
use crate::descriptors::DescriptorLimit;
use crate::disk::on_own_thread;
#[cfg(feature = "wasm")]
use crate::engine::Compiler;
use crate::engine::beat::BeatRecorder;
use crate::engine::schedule::Schedule;
use crate::net::{Handlers, Identity, Net, Transport};
use crate::registry::{PhaseSpec, RejectedPhase};

/// The kind of an application's phases in `phases`. Other kinds are `built-in`, `wasm` and `native`.
const KIND: &str = "application";

/// Opens a data folder without holding up the runtime.
async fn open(path: PathBuf) -> Result<DataFolder, StartError> {
    let opened = on_own_thread("gk-start", move || DataFolder::open(&path));
    Ok(opened.await.map_err(StartError::Thread)??)
}

/// Makes a node's dialer from its state and network.
pub(super) type MakeDialer = Box<dyn FnOnce(&NodeState, &Arc<Net>) -> Arc<dyn Dial> + Send>;

/// Makes a node's transport from its key.
pub(super) type MakeTransport = Box<dyn FnOnce(&Identity) -> Arc<dyn Transport> + Send>;

enum Folder {
    At(PathBuf),
    Open(DataFolder),
}

/// A node that is not running yet: see [`Node::builder`].
#[derive(Default)]
#[must_use = "nothing runs before `start`"]
pub struct NodeBuilder {
    pub(super) config: Config,
    folder: Option<Folder>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) descriptors: Option<DescriptorLimit>,
    application: Option<(String, String)>,
    pub(super) handlers: Handlers,
    /// The application's phases, still without its version.
    own: Vec<PhaseSpec>,
    loaded: Vec<PhaseSpec>,
    pub(super) rejected: Vec<RejectedPhase>,
    pub(super) transport: Option<MakeTransport>,
    pub(super) dialer: Option<MakeDialer>,
    pub(super) recorder: Option<Box<dyn BeatRecorder>>,
    pub(super) source: Option<ConfigSource>,
    #[cfg(feature = "wasm")]
    pub(super) compiler: Compiler,
    #[cfg(feature = "telemetry")]
    pub(super) admin: AdminSettings,
}

impl Node {
    /// Starts to describe a node. With only a data folder, it equals the node of `groundskeeper run` without a config, a
    /// drop-in folder and an admin socket.
    ///
    /// Two nodes on this machine. One sends the other a request for which that one has a handler:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use groundskeeper::net::Handlers;
    /// use groundskeeper::node::Node;
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let loopback = ["127.0.0.1:0".parse()?];
    /// let handlers = Handlers::new()
    ///     .on_request("double", |_peer, text| async move { Ok([&text[..], &text[..]].concat().into()) });
    /// let one = Node::builder()
    ///     .data_dir(folder.path().join("one"))
    ///     .listen(loopback)
    ///     .private_network()
    ///     .handlers(handlers)
    ///     .start()
    ///     .await?;
    /// let two = Node::builder()
    ///     .data_dir(folder.path().join("two"))
    ///     .listen(loopback)
    ///     .private_network()
    ///     .bootstrap(one.as_bootstrap())
    ///     .start()
    ///     .await?;
    ///
    /// two.until_connected(1).await;
    /// let answer = two.net().request(one.id(), "double", b"ab", Duration::from_secs(5)).await?;
    /// assert_eq!(&answer[..], b"abab");
    ///
    /// two.shutdown(Duration::from_secs(5)).await;
    /// one.shutdown(Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }
}

impl NodeBuilder {
    /// Sets the whole config, as read by [`Config::load_with`] or made by the application. Replaces earlier settings.
    /// Setters that are called later override it.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The folder for the node's key and state; created if it does not exist. Defaults to `node.data_dir` of the config.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.folder = Some(Folder::At(path.into()));
        self
    }

    /// The same with an opened folder: for applications that must first make sure that they own the folder.
    pub fn data_folder(mut self, folder: DataFolder) -> Self {
        self.folder = Some(Folder::Open(folder));
        self
    }

    /// Reads the node's key from this file instead of `node.key` in the data folder: a systemd credential, or a mounted
    /// secret. It has the content of a `node.key`.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_file = Some(path.into());
        self
    }

    /// The network's name: the node never connects to nodes of another network. 1 to 32 of a-z, 0-9 and "-".
    pub fn network(mut self, name: impl Into<String>) -> Self {
        self.config.node.network = name.into();
        self
    }

    /// Addresses to accept connections on; port 0 lets the system choose. If empty, the node only dials.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.config.net.listen = addresses.into_iter().collect();
        self
    }

    /// The nodes to start with. Their peers are discovered automatically.
    pub fn bootstrap(mut self, nodes: impl IntoIterator<Item = Bootstrap>) -> Self {
        self.config.net.bootstrap = nodes.into_iter().collect();
        self
    }

    /// Time between two ticks, 100 ms to 1 h.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.node.interval = interval;
        self
    }

    /// For nodes on one machine, or in a network without public addresses: the node remembers and shares private
    /// addresses, and one network group may hold every connection.
    pub fn private_network(mut self) -> Self {
        self.config.net.allow_private = true;
        self.config.pool.max_per_group = Some(self.config.pool.max_connections);
        self
    }

    /// Name and version of the application: its peers see `name/version`, and `phases` shows `version` with its phases.
    pub fn application(mut self, name: &str, version: &str) -> Self {
        self.application = Some((name.to_owned(), version.to_owned()));
        self
    }

    /// Handlers for requests and broadcasts of the application.
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers = handlers;
        self
    }

    /// A phase in Rust, which runs after the built-in phases unless its schedule says otherwise. Trusted like them: no
    /// grants limit it. [`NodeBuilder::start`] checks name, settings and order.
    pub fn phase(
        mut self,
        name: impl Into<String>,
        phase: impl AnyPhase + 'static,
        schedule: Schedule,
    ) -> Self {
        self.own.push(PhaseSpec::built_in(&name.into(), KIND, "", Arc::new(phase), schedule));
        self
    }

    /// Phases that have a policy, such as those of a [`Loader`](crate::loader::Loader), and rejected phases, which are
    /// shown with their reasons.
    pub fn loaded(
        mut self,
        phases: impl IntoIterator<Item = PhaseSpec>,
        rejected: impl IntoIterator<Item = RejectedPhase>,
    ) -> Self {
        self.loaded.extend(phases);
        self.rejected.extend(rejected);
        self
    }

    /// The clock. Defaults to the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// How many descriptors this node may use. Defaults to the soft limit of the process, which a program raises with
    /// [`raise_limit`](crate::descriptors::raise_limit) at its start. The node has fewer connections than
    /// `pool.max_connections` if these do not suffice, and warns of it.
    pub fn descriptors(mut self, limit: DescriptorLimit) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Carries connections instead of TLS over TCP. `make` gets the node's key. The transport must prove this key to the
    /// other end, unless no stranger can reach its network.
    pub fn transport<T: Transport>(
        mut self,
        make: impl FnOnce(&Identity) -> Arc<T> + Send + 'static,
    ) -> Self {
        self.transport = Some(Box::new(|identity| make(identity)));
        self
    }

    /// Opens connections when phases ask for them, instead of the network's dialer, `net.dialer()`. Use it to choose
    /// which addresses are dialled, or to bring connections of another kind to `state.pool`.
    pub fn dialer<D: Dial>(
        mut self,
        make: impl FnOnce(&NodeState, &Arc<Net>) -> Arc<D> + Send + 'static,
    ) -> Self {
        self.dialer = Some(Box::new(|state, net| make(state, net)));
        self
    }

    /// Writes every beat to a file.
    pub fn recorder(mut self, recorder: impl BeatRecorder + 'static) -> Self {
        self.recorder = Some(Box::new(recorder));
        self
    }

    /// Also writes the journal to a file. A relative path starts at the data folder.
    pub fn journal_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.journal.file = Some(path.into());
        self
    }

    /// The folder of phases to load, try and replace while the node runs.
    pub fn drop_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config.guests.dir = Some(folder.into());
        self
    }

    /// Compiles the phases of the drop-in folder, usually [`Compiler::of_this_program`]. Without it they are compiled in
    /// this process, which refuses large ones and keeps the compiler's memory.
    #[cfg(feature = "wasm")]
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.compiler = compiler;
        self
    }

    /// Reads the config again while the node runs, and applies what can change.
    pub fn config_source(mut self, source: ConfigSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Answers the verbs of the `groundskeeper` program on a unix socket.
    #[cfg(feature = "telemetry")]
    pub fn admin_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.admin.socket = Some(path.into());
        self
    }

    /// Serves `/metrics`, `/healthz` and `/readyz`.
    #[cfg(feature = "telemetry")]
    pub fn telemetry(mut self, address: SocketAddr) -> Self {
        self.admin.telemetry = Some(address);
        self
    }

    /// Starts the node on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]. Nothing runs then, and the folder is unchanged, except that a new node may already have its key.
    pub async fn start(mut self) -> Result<Node, StartError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(StartError::NoRuntime);
        }
        self.config.check("the application").map_err(StartError::Settings)?;
        let folder = match self.folder.take() {
            Some(Folder::Open(folder)) => folder,
            Some(Folder::At(path)) => open(path).await?,
            None => open(self.config.node.data_dir.clone().ok_or(StartError::NoFolder)?).await?,
        };
        #[cfg(feature = "telemetry")]
        let admin = {
            let settings = self.admin.clone();
            let starting = on_own_thread("gk-start", move || AdminServer::start(&settings));
            starting.await.map_err(StartError::Thread)??
        };
        let started = Node::start(self, folder).await;
        #[cfg(feature = "telemetry")]
        let started = match started {
            Ok(node) => Ok(node.answering(admin)),
            Err(error) => {
                // Frees the socket for the next attempt.
                _ = admin.stop().await;
                Err(error)
            }
        };
        started
    }

    /// The software name sent to peers, if the application set one.
    pub(super) fn agent(&self) -> Option<String> {
        self.application.as_ref().map(|(name, version)| format!("{name}/{version}"))
    }

    /// The application's phases, in the order in which it added them.
    pub(super) fn take_phases(&mut self) -> Vec<PhaseSpec> {
        let mut phases = std::mem::take(&mut self.own);
        if let Some((_, version)) = &self.application {
            phases.iter_mut().for_each(|phase| phase.version.clone_from(version));
        }
        phases.append(&mut self.loaded);
        phases
    }
}
