//! Whole nodes in one process, over real TLS on loopback: they find each other, are restarted, and stop in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use groundskeeper::book::{Dial, DialAttempt, DialOrder};
use groundskeeper::config::{Config, Overrides};
use groundskeeper::data::DataFolder;
use groundskeeper::engine::policy::Mode;
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::journal::{ActionKind, Cause};
use groundskeeper::net::{
    BoxFuture, HandshakeError, Identity, Listener, ProvenStream, Transport, UnprovenStream,
};
use groundskeeper::node::{Node, StartError};
use groundskeeper::peer::PeerId;
use groundskeeper::registry::PhaseState;
use groundskeeper_sdk::host::{AnyPhase, View};
use groundskeeper_sdk::memory::Memory;
use groundskeeper_sdk::phase::Tick;
use groundskeeper_sdk::plan::Plan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Long enough for a loaded machine; nothing is asserted about how long things took.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(bootstrap: &[&Node]) -> Config {
    let mut config = Config::default();
    config.node.interval = Duration::from_millis(500);
    config.net.listen = vec!["127.0.0.1:0".parse().expect("a constant address")];
    config.net.allow_private = true;
    config.net.bootstrap = bootstrap.iter().filter_map(|node| node.as_bootstrap()).collect();
    config
}

async fn start(config: &Config, folder: &Path) -> Node {
    Node::builder().config(config.clone()).data_dir(folder).start().await.expect("a good config")
}

/// Waits, beat by beat, until `node` has `n` connections.
async fn until_connected(node: &Node, n: u32) {
    let mut reports = node.maintenance().handle().reports();
    let wait = async {
        while node.state().pool.live() != n {
            reports.recv().await.expect("the ticker runs");
        }
    };
    let pool = &node.state().pool;
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| {
        let journal = node.state().journal.select(40, |_| true);
        let lines: Vec<_> = journal
            .iter()
            .map(|r| {
                format!(
                    "{}.{} {} {:?} {:?}: {} ({})",
                    r.tick, r.beat, r.by, r.what, r.address, r.reason, r.outcome
                )
            })
            .collect();
        panic!("{} of {n} connections\n{}", pool.live(), lines.join("\n"))
    });
}

async fn stop(node: Node) {
    let state = node.state().clone();
    let steps = node.shutdown(Duration::from_secs(10)).await;
    assert!(steps.iter().all(|step| step.trouble.is_none()), "{steps:?}");
    assert_eq!(steps.iter().map(|step| step.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(state.pool.live(), 0);
    assert_eq!(state.pool.removals(), state.journal.disconnects());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_know_one_of_them_mesh_and_come_back_by_their_address_book() {
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().expect("a temporary folder")).collect();
    let first = start(&config(&[]), folders[0].path()).await;
    let mut others = Vec::new();
    for folder in &folders[1..] {
        others.push(start(&config(&[&first]), folder.path()).await);
    }
    // Each learns of the others from the first, by peer exchange.
    until_connected(&first, 3).await;
    for node in &others {
        until_connected(node, 3).await;
    }

    // The last one restarts without a bootstrap list: its address book brings it back.
    let (id, last) = (others[2].id(), others.pop().expect("three others"));
    stop(last).await;
    until_connected(&first, 2).await;
    let goodbye = first.state().journal.explain(&id);
    let record = goodbye.iter().find(|record| record.what == ActionKind::Disconnect).expect("explained");
    assert_eq!(record.cause, Some(Cause::RemoteGoodbye), "{record:?}");
    let back = start(&config(&[]), folders[3].path()).await;
    assert_eq!((back.id(), back.is_new()), (id, false));
    until_connected(&back, 3).await;
    until_connected(&first, 3).await;

    stop(back).await;
    for node in others {
        stop(node).await;
    }
    stop(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_twice_is_refused_by_the_lock_and_the_first_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = start(&config(&[]), folder.path()).await;
    let second = DataFolder::open(folder.path()).expect_err("locked");
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    assert!(folder.path().join("node.key").exists());
    stop(node).await;
    let folder_without_key = tempfile::tempdir().expect("a temporary folder");
    let other = start(&config(&[]), folder_without_key.path()).await;
    stop(other).await;
    std::fs::remove_file(folder_without_key.path().join("node.key")).expect("there was a key");
    let reopened = DataFolder::open(folder_without_key.path()).expect("unlocked");
    let error = Node::builder().config(config(&[])).data_folder(reopened).start().await.err();
    assert!(error.expect("no new identity").to_string().contains("node.key"));
}

/// Counts its runs in its memory.
struct Counter;

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Runs(u32);

impl Memory for Runs {}

impl AnyPhase for Counter {
    fn summary(&self) -> &'static str {
        "counts its runs"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> groundskeeper_sdk::phase::Result {
        let Runs(runs) = view.memory()?;
        plan.metric_set("runs", f64::from(runs + 1));
        plan.remember(&Runs(runs + 1))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_phases_remember_outlives_the_process_and_what_cannot_be_loaded_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let drop_in = folder.path().join("phases.d");
    std::fs::create_dir(&drop_in).unwrap();
    std::fs::write(drop_in.join("torn.toml"), "name = \"torn\"\nkind = \"wasm\"\nevery = 3\n").unwrap();
    std::fs::write(
        drop_in.join("reaper.toml"),
        "name = \"reaper\"\nkind = \"built-in\"\nmode = \"shadow\"\n",
    )
    .unwrap();
    let data = folder.path().join("data");
    let overrides = Overrides { phases: Some(drop_in), ..Overrides::default() };
    let mut config = Config::load_with(None, &overrides).unwrap();
    config.node.interval = Duration::from_millis(100);
    config.net.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let mut runs = Vec::new();
    for _process in 0..3 {
        let node = Node::builder()
            .config(config.clone())
            .data_dir(&data)
            .phase("counter", Counter, Schedule::every(1))
            .start()
            .await
            .unwrap();
        let mut reports = node.maintenance().handle().reports();
        for _tick in 0..2 {
            timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
        }
        let phases = node.maintenance().statuses().read();
        let phase = |name: &str| phases.iter().find(|phase| &*phase.name == name).unwrap();
        assert_eq!((phase("reaper").mode, phase("torn").state), (Mode::Shadow, PhaseState::Rejected));
        assert!(phase("torn").last_error.as_ref().unwrap().contains("torn.toml:3: every: unknown key"));
        stop(node).await;
        let kept =
            DataFolder::open(folder.path().join("data").as_path()).unwrap().load_phase("counter").unwrap();
        runs.push(String::from_utf8(kept.value.memory.unwrap().bytes).unwrap().parse::<u32>().unwrap());
    }
    assert!(runs[0] >= 2 && runs[1] >= runs[0] + 2 && runs[2] >= runs[1] + 2, "{runs:?}");
}

#[tokio::test]
async fn what_a_builder_is_not_given_or_given_wrong_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || Node::builder().data_dir(folder.path()).listen([]);
    let told = |error: Option<StartError>| error.expect("not to start").to_string();
    // So that an application may start its node on any task.
    fn may_move<T: Send>(starting: T) -> T {
        starting
    }
    assert!(told(may_move(Node::builder().start()).await.err()).contains("`data_dir`"));
    let wrong = told(builder().network("Über uns").interval(Duration::from_millis(7)).start().await.err());
    assert!(wrong.contains("node.network: \"Über uns\" is not 1 to 32 of a-z"), "{wrong}");
    assert!(wrong.contains("node.interval") && wrong.contains("100ms to 1h"), "{wrong}");
    assert!(!folder.path().join("node.key").exists(), "nothing was begun");
    let twice =
        builder().phase("counter", Counter, Schedule::every(1)).phase("counter", Counter, Schedule::every(2));
    assert!(told(twice.start().await.err()).contains("two phases are called \"counter\""));
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(told(builder().listen([held.local_addr().unwrap()]).start().await.err()).contains("net.listen"));
    let elsewhere = || {
        // Polled by hand on a thread that tokio knows nothing of.
        let mut start = std::pin::pin!(builder().start());
        match start.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => ended.err(),
            Poll::Pending => None,
        }
    };
    assert!(told(std::thread::scope(|scope| scope.spawn(elsewhere).join().unwrap())).contains("runtime"));
}

/// Counts what it is asked to dial, and has the network do it.
struct Counting {
    dials: AtomicU32,
    net: Arc<dyn Dial>,
}

impl Dial for Counting {
    fn dial(&self, order: DialOrder, ticket: DialAttempt) {
        self.dials.fetch_add(1, Ordering::Relaxed);
        self.net.dial(order, ticket);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_builders_own_dialer_and_name_are_used() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = start(&config(&[]), folders[0].path()).await;
    let (told, counting) = std::sync::mpsc::channel();
    let second = Node::builder()
        .config(config(&[&first]))
        .data_dir(folders[1].path())
        .application("wombat", "2.7")
        .dialer(move |_, net| {
            let dialer = Arc::new(Counting { dials: 0.into(), net: net.dialer() });
            told.send(Arc::clone(&dialer)).unwrap();
            dialer
        })
        .start()
        .await
        .unwrap();
    until_connected(&second, 1).await;
    until_connected(&first, 1).await;
    assert!(counting.recv().unwrap().dials.load(Ordering::Relaxed) >= 1);
    assert_eq!(second.peers(), [first.id()]);
    let pool = &first.state().pool;
    let (key, _) = pool.peers().remove(0);
    assert_eq!(pool.link(key).unwrap().agent(), "wombat/2.7");
    stop(second).await;
    stop(first).await;
}

/// Plain TCP on which each end says who it is, and is believed: a network that nobody else can reach.
struct Plain(PeerId);

struct PlainListener(PeerId, TcpListener);

async fn believe(me: PeerId, mut stream: TcpStream) -> Result<ProvenStream, HandshakeError> {
    stream.write_all(me.as_bytes()).await?;
    let mut other = [0; 32];
    stream.read_exact(&mut other).await?;
    Ok(ProvenStream::new(stream, PeerId::from_bytes(other)))
}

impl Transport for Plain {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>> {
        let me = self.0;
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::pin(believe(me, stream)) as UnprovenStream)
        })
    }

    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let me = self.0;
        Box::pin(async move {
            Ok(Box::new(PlainListener(me, TcpListener::bind(address).await?)) as Box<dyn Listener>)
        })
    }
}

impl Listener for PlainListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>> {
        let Self(me, listener) = self;
        Box::pin(async move {
            let (stream, from) = listener.accept().await?;
            Ok((Box::pin(believe(*me, stream)) as UnprovenStream, from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.1.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_builders_were_given_a_transport_mesh_over_it() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let plain = |bootstrap: &[&Node], at: usize| {
        let builder = Node::builder().config(config(bootstrap)).data_dir(folders[at].path());
        builder.transport(|key: &Identity| Arc::new(Plain(key.peer_id()))).start()
    };
    let first = plain(&[], 0).await.unwrap();
    let second = plain(&[&first], 1).await.unwrap();
    // Over TLS nobody gets in: the ids would be taken for the beginning of a handshake.
    let stranger = start(&config(&[&first]), folders[2].path()).await;
    until_connected(&second, 1).await;
    until_connected(&first, 1).await;
    assert_eq!((first.peers(), second.peers()), (vec![second.id()], vec![first.id()]));
    assert!(stranger.peers().is_empty());
    for node in [stranger, second, first] {
        stop(node).await;
    }
}
