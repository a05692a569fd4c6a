//! What an application says of the node that it wants: settings, handlers, phases, seams. Starts nothing before
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
use crate::engine::beat::BeatRecorder;
use crate::engine::schedule::Schedule;
use crate::net::{Handlers, Identity, Net, Transport};
use crate::registry::{PhaseSpec, RejectedPhase};

/// What phases of an application are called in `phases`, beside `built-in`, `wasm` and `native`.
const KIND: &str = "application";

/// Makes the dialer of a node out of what the node has.
pub(super) type MakeDialer = Box<dyn FnOnce(&NodeState, &Arc<Net>) -> Arc<dyn Dial> + Send>;

/// Makes what opens connections out of the node's key.
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
    pub(super) clock: Option<Arc<dyn Clock>>,
    application: Option<(String, String)>,
    pub(super) handlers: Handlers,
    /// The application's phases, without its version.
    own: Vec<PhaseSpec>,
    loaded: Vec<PhaseSpec>,
    pub(super) rejected: Vec<RejectedPhase>,
    pub(super) transport: Option<MakeTransport>,
    pub(super) dialer: Option<MakeDialer>,
    pub(super) recorder: Option<Box<dyn BeatRecorder>>,
    pub(super) source: Option<ConfigSource>,
    #[cfg(feature = "telemetry")]
    pub(super) admin: AdminSettings,
}

impl Node {
    /// Begins to describe a node. With a data folder and nothing else it is the node of `groundskeeper run` without a
    /// config, a drop-in folder and an admin socket.
    ///
    /// Two nodes on this machine, of which one asks the other what it has registered a handler for:
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
    /// All settings at once, as [`Config::load_with`] read them or as the application has made them. Takes the place of
    /// what was set before it; the setters below go over it if they come after it.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where the node keeps its key and state; made if it is not there. Without one, `node.data_dir` of the config.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.folder = Some(Folder::At(path.into()));
        self
    }

    /// The same, opened already: for applications that want to know before anything else that the folder is theirs.
    pub fn data_folder(mut self, folder: DataFolder) -> Self {
        self.folder = Some(Folder::Open(folder));
        self
    }

    /// The network's name: nodes of another one are never connected to. 1 to 32 of a-z, 0-9 and "-".
    pub fn network(mut self, name: impl Into<String>) -> Self {
        self.config.node.network = name.into();
        self
    }

    /// Where to accept connections; port 0 lets the system choose. None: the node only dials.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.config.net.listen = addresses.into_iter().collect();
        self
    }

    /// The nodes to begin with. Whom they know comes by itself.
    pub fn bootstrap(mut self, nodes: impl IntoIterator<Item = Bootstrap>) -> Self {
        self.config.net.bootstrap = nodes.into_iter().collect();
        self
    }

    /// Time between two ticks, 100 ms to 1 h.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.node.interval = interval;
        self
    }

    /// For nodes on one machine, or in a network without public addresses: private addresses are remembered and told to
    /// others, and one network group may hold every connection.
    pub fn private_network(mut self) -> Self {
        self.config.net.allow_private = true;
        self.config.pool.max_per_group = Some(self.config.pool.max_connections);
        self
    }

    /// What the application is: its peers see `name/version`, `phases` shows `version` with its phases.
    pub fn application(mut self, name: &str, version: &str) -> Self {
        self.application = Some((name.to_owned(), version.to_owned()));
        self
    }

    /// Its requests and broadcasts.
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers = handlers;
        self
    }

    /// A phase in Rust, run behind the built-ins unless its schedule says otherwise. Trusted as they are: there are
    /// no grants over it. Name, settings and order are checked by [`NodeBuilder::start`].
    pub fn phase(
        mut self,
        name: impl Into<String>,
        phase: impl AnyPhase + 'static,
        schedule: Schedule,
    ) -> Self {
        self.own.push(PhaseSpec::built_in(&name.into(), KIND, "", Arc::new(phase), schedule));
        self
    }

    /// Phases with a policy of their own, such as those of a [`Loader`](crate::loader::Loader), and those that could
    /// not be made, to be shown with their reasons.
    pub fn loaded(
        mut self,
        phases: impl IntoIterator<Item = PhaseSpec>,
        rejected: impl IntoIterator<Item = RejectedPhase>,
    ) -> Self {
        self.loaded.extend(phases);
        self.rejected.extend(rejected);
        self
    }

    /// The time; the machine's without one.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Carries connections in place of TLS over TCP. `make` is given the node's key, which the transport has to prove to
    /// the other end if anybody else can reach its network.
    pub fn transport<T: Transport>(
        mut self,
        make: impl FnOnce(&Identity) -> Arc<T> + Send + 'static,
    ) -> Self {
        self.transport = Some(Box::new(|identity| make(identity)));
        self
    }

    /// Opens connections when phases ask for them, in place of the network's own dialer, which is `net.dialer()`: to
    /// have a say in whom it dials, or to bring connections of another kind to `state.pool`.
    pub fn dialer<D: Dial>(
        mut self,
        make: impl FnOnce(&NodeState, &Arc<Net>) -> Arc<D> + Send + 'static,
    ) -> Self {
        self.dialer = Some(Box::new(|state, net| make(state, net)));
        self
    }

    /// Writes every beat into a file.
    pub fn recorder(mut self, recorder: impl BeatRecorder + 'static) -> Self {
        self.recorder = Some(Box::new(recorder));
        self
    }

    /// Writes the journal into a file, too; a relative path begins at the data folder.
    pub fn journal_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.journal.file = Some(path.into());
        self
    }

    /// Phases of this folder, loaded, tried and replaced while the node runs.
    pub fn drop_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config.guests.dir = Some(folder.into());
        self
    }

    /// Reads the config again while the node runs, and takes what can change.
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
    /// [`StartError`]; nothing runs then, and nothing in the folder has changed but for a key made for a new node.
    pub async fn start(mut self) -> Result<Node, StartError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(StartError::NoRuntime);
        }
        self.config.check_node("the application").map_err(StartError::Settings)?;
        let folder = match self.folder.take() {
            Some(Folder::Open(folder)) => folder,
            Some(Folder::At(path)) => DataFolder::open(&path)?,
            None => DataFolder::open(self.config.node.data_dir.as_deref().ok_or(StartError::NoFolder)?)?,
        };
        #[cfg(feature = "telemetry")]
        let admin = AdminServer::start(&self.admin)?;
        let started = Node::start(self, folder).await;
        #[cfg(feature = "telemetry")]
        let started = match started {
            Ok(node) => Ok(node.answering(admin)),
            Err(error) => {
                // The socket is free for the next attempt.
                _ = admin.stop().await;
                Err(error)
            }
        };
        started
    }

    /// What peers are told the node runs, if the application said so.
    pub(super) fn agent(&self) -> Option<String> {
        self.application.as_ref().map(|(name, version)| format!("{name}/{version}"))
    }

    /// The application's phases, in the order in which it named them.
    pub(super) fn take_phases(&mut self) -> Vec<PhaseSpec> {
        let mut phases = std::mem::take(&mut self.own);
        if let Some((_, version)) = &self.application {
            phases.iter_mut().for_each(|phase| phase.version.clone_from(version));
        }
        phases.append(&mut self.loaded);
        phases
    }
}
