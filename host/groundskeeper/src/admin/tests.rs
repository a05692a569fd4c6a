use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::answers::{Explanation, Health, JournalPage, NodeStatus, Peers, PhaseList, ResumeAnswer};
use super::*;
use crate::clock::{Clock, TokioClock};
use crate::config::Config;
use crate::journal::{Cause, Initiator};
use crate::node::{Maintenance, NodeLimits, NodeState, Options};
use crate::peer::PeerId;
use crate::pool::{Direction, Goodbye, Link, LinkTraffic, PeerFacts, Removal, Slot};
use crate::registry::{PhaseState, PhaseStatus, PhaseStatuses};
use crate::ticker::TickerStats;

struct FakeLink;

impl Link for FakeLink {
    fn ping(&self) {}

    fn close(&self, _: &Goodbye) {}

    fn traffic(&self) -> LinkTraffic {
        LinkTraffic { kib_in: 1, kib_out: 2, kib_queued: 3 }
    }

    fn agent(&self) -> &str {
        "fake/1"
    }
}

fn phase() -> PhaseStatus {
    PhaseStatus {
        name: "reaper".into(),
        kind: "built-in".into(),
        version: "0.1.0".into(),
        summary: "pings quiet peers".into(),
        state: PhaseState::Active,
        every_n_ticks: 1,
        last_run_tick: Some(3),
        next_due_tick: Some(4),
        runs: 3,
        last_duration_us: 12,
        last_success_unix_s: Some(1_700_000_000),
        ..PhaseStatus::default()
    }
}

/// A node built by hand: three peers, the third of which has left.
struct Node {
    folder: TempDir,
    clock: Arc<TokioClock>,
    pulse: Arc<TickerStats>,
    board: Arc<PhaseStatuses>,
    _slots: Vec<Slot>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    state: Arc<AdminState>,
}

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

impl Node {
    fn start() -> Self {
        let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
        let dyn_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let state = NodeState::new(id(1), NodeLimits::for_connections(8), dyn_clock, None);
        let attach = |n: u8, address: &str| {
            let direction = if n.is_multiple_of(2) { Direction::Outbound } else { Direction::Inbound };
            let facts = PeerFacts { id: id(n), address: address.parse().unwrap(), direction };
            state.pool.attach(facts, Arc::new(FakeLink)).unwrap()
        };
        let slots = vec![attach(2, "192.0.2.2:7420"), attach(3, "[2001:db8::3]:7420")];
        let words = Removal::new(Initiator::Remote, Cause::RemoteGoodbye, "upgrading");
        attach(4, "192.0.2.4:7420").retire(words);
        let (pulse, board) = (Arc::new(TickerStats::default()), Arc::new(PhaseStatuses::default()));
        pulse.set_interval(Duration::from_secs(30));
        board.write(vec![phase()]);
        let sources = MetricSources {
            traffic: None,
            state,
            phases: Arc::clone(&board),
            pulse: Arc::clone(&pulse),
            thresholds: Arc::new(parking_lot::Mutex::new(crate::cycle::Thresholds {
                healthy_above: 30,
                least: 5,
                most: 64,
                stale_after: Duration::from_secs(90),
            })),
            started: Duration::ZERO,
            reload: None,
            disk: Default::default(),
        };
        let state = Arc::new(AdminState {
            sources,
            metrics: Arc::default(),
            network: "test".into(),
            local_addrs: vec!["127.0.0.1:7420".parse().unwrap()],
            ticker: None,
            reconfigure: None,
        });
        let folder = tempfile::tempdir().unwrap();
        let socket = AdminSocket::bind(&folder.path().join("admin.sock")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve_admin(socket, Arc::clone(&state), async move { _ = stopped.await }));
        Self { folder, clock, pulse, board, _slots: slots, stop: Some(stop), served, state }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.path())
    }

    async fn explain(&self, who: &str) -> Result<Explanation, String> {
        self.client().get(&format!("/explain/{}", path_segment(who))).await.map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn status_has_every_promised_key() {
    let node = Node::start();
    let status: serde_json::Value = node.client().get("/status").await.unwrap();
    for key in ["node", "tick", "interval_ms", "uptime_s", "pool", "phases"] {
        assert!(status.get(key).is_some(), "{key}");
    }
    for key in ["total", "healthy", "stale", "avg_health", "oldest_s", "inbound", "outbound"] {
        assert!(status["pool"][key].is_u64(), "{key}");
    }
    for key in ["every_n_ticks", "last_run_tick", "next_due_tick", "runs", "failures", "last_duration_us"] {
        assert!(status["phases"][0][key].is_u64(), "{key}");
    }
    assert_eq!(
        (&status["phases"][0]["kind"], &status["phases"][0]["state"]),
        (&"built-in".into(), &"active".into())
    );
    let status: NodeStatus = node.client().get("/status").await.unwrap();
    assert_eq!((status.node, status.interval_ms), (id(1), 30_000));
    assert_eq!((status.pool.stats.total, status.pool.stats.inbound, status.pool.stats.outbound), (2, 1, 1));
    assert_eq!(status.journal.disconnects, 1);
}

#[tokio::test]
async fn peers_phases_and_journal_come_back_as_they_are() {
    let node = Node::start();
    let Peers { total, peers } = node.client().get("/peers").await.unwrap();
    assert_eq!((total, peers.len()), (2, 2));
    assert_eq!((peers[0].id, peers[0].direction, peers[0].kib_queued), (id(2), Direction::Outbound, 3));
    assert_eq!((peers[1].agent.as_str(), peers[1].rtt_us, peers[1].health), ("fake/1", None, 100));
    let few: Peers = node.client().get("/peers?limit=1").await.unwrap();
    assert_eq!((few.total, few.peers.len()), (2, 1));
    let PhaseList { phases, .. } = node.client().get("/phases").await.unwrap();
    assert_eq!(phases, [phase()]);
    let JournalPage { records } = node.client().get("/journal?limit=2").await.unwrap();
    assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn a_peer_is_explained_by_id_beginning_and_address() {
    let node = Node::start();
    let full = id(4).to_string();
    for who in [&*full, &full.to_uppercase(), &full[..10], "192.0.2.4:7420", "192.0.2.4", "::ffff:192.0.2.4"]
    {
        let found = node.explain(who).await.unwrap();
        assert_eq!((found.peer, found.connected), (Some(id(4)), None), "{who}");
        let last = found.records.last().unwrap();
        assert_eq!((last.cause, last.reason.as_str()), (Some(Cause::RemoteGoodbye), "upgrading"));
    }
    let living = node.explain("[2001:db8::3]:7420").await.unwrap();
    assert_eq!(living.connected.unwrap().id, id(3));
    assert!(node.explain(&id(9).to_string()).await.unwrap_err().contains("nothing is known"));
    assert!(node.explain("abc").await.unwrap_err().contains("at least 4 characters"));
    assert!(node.explain("../status").await.unwrap_err().contains("is not a peer id"));
    assert!(node.explain("").await.is_err());
}

#[tokio::test]
async fn a_beginning_that_fits_several_lists_them() {
    let node = Node::start();
    let mut bytes = [2; 32];
    bytes[31] = 9;
    let twin = PeerId::from_bytes(bytes);
    let facts =
        PeerFacts { id: twin, address: "192.0.2.9:1".parse().unwrap(), direction: Direction::Inbound };
    let _slot = node.state.sources.state.pool.attach(facts, Arc::new(FakeLink)).unwrap();
    let error = node.explain(&id(2).to_string()[..12]).await.unwrap_err();
    assert!(error.contains(&id(2).to_string()) && error.contains(&twin.to_string()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn alive_as_long_as_the_ticker_advances() {
    let node = Node::start();
    let advance = |seconds| tokio::time::advance(Duration::from_secs(seconds));
    assert!(node.state.alive().ok && !node.state.ready().ok, "before the first tick");
    advance(90).await;
    assert!(node.state.alive().ok);
    advance(1).await;
    assert_eq!(node.state.alive().why, ["no tick has ended for 91 s, with an interval of 30 s"]);
    node.pulse.begin_tick(4, 0, false);
    node.pulse.end_tick(node.clock.mono());
    assert!(node.state.alive().ok && node.state.ready().ok);
    advance(91).await;
    assert!(!node.state.alive().ok && !node.state.ready().ok);
}

#[tokio::test]
async fn not_ready_names_the_phase_that_fails_or_is_stuck() {
    let node = Node::start();
    node.pulse.end_tick(node.clock.mono());
    let board = |phase: PhaseStatus| node.board.write(vec![phase]);
    board(PhaseStatus { failures_in_row: 2, ..phase() });
    assert!(node.state.ready().ok);
    board(PhaseStatus { failures_in_row: 3, last_error: Some("boom".into()), ..phase() });
    assert_eq!(node.state.ready().why, ["phase reaper failed 3 times in a row: boom"]);
    board(PhaseStatus { state: PhaseState::Stuck, ..phase() });
    assert!(node.state.ready().why[0].contains("stuck"));
    board(PhaseStatus { failures_in_row: 9, kind: "wasm".into(), ..phase() });
    assert!(node.state.ready().ok, "a guest does not make the node unready");
    board(PhaseStatus { state: PhaseState::Stuck, ..phase() });
    let health: Health = node.client().get("/readyz").await.unwrap();
    assert!(!health.ok && health.why.len() == 1);
}

#[tokio::test]
async fn a_phase_is_resumed_between_two_beats_and_only_by_asking_for_it() {
    let node = Node::start();
    let error = node.client().post::<ResumeAnswer>("/phases/reaper/resume").await.unwrap_err();
    assert_eq!(error.to_string(), "this node has no ticker");

    let clock = Arc::clone(&node.clock) as Arc<dyn Clock>;
    let state = NodeState::new(id(1), NodeLimits::for_connections(8), clock, None);
    let phases = crate::node::builtins(&Config::default().phases);
    let running = Maintenance::start(&state, phases, Options::default()).unwrap();
    let asked = AdminState { ticker: Some(running.handle().clone()), ..(*node.state).clone() };
    let path = node.folder.path().join("other.sock");
    let socket = AdminSocket::bind(&path).unwrap();
    let served = tokio::spawn(serve_admin(socket, Arc::new(asked), std::future::pending()));
    let client = Client::new(&path);
    let resumed: ResumeAnswer = client.post("/phases/reaper/resume").await.unwrap();
    assert_eq!(resumed, ResumeAnswer { phase: "reaper".into(), was: PhaseState::Active });
    let error = client.post::<ResumeAnswer>("/phases/reeper/resume").await.unwrap_err().to_string();
    assert!(error.contains("no phase is called \"reeper\"; the phases are reaper,"), "{error}");
    // Reading changes nothing, so a browser's prefetch or a scraper cannot resume a phase.
    assert!(client.get::<ResumeAnswer>("/phases/reaper/resume").await.is_err());
    assert_eq!(state.journal.select(9, |record| record.what == crate::journal::ActionKind::Resume).len(), 1);
    served.abort();
}

#[tokio::test]
async fn a_starting_node_says_so_and_answers_once_started() {
    let node = Node::start();
    let path = node.folder.path().join("other.sock");
    let socket = AdminSocket::bind(&path).unwrap();
    let (start, started) = oneshot::channel::<()>();
    let starting = tokio::spawn(serve_starting(socket, async move { _ = started.await }));
    let asking = tokio::spawn({
        let client = Client::new(&path);
        async move { client.get::<PhaseList>("/phases").await }
    });
    let raw = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(b"GET /phases HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    };
    let raw = raw.await.unwrap();
    assert!(raw.starts_with("HTTP/1.1 503") && raw.contains("the node is starting"), "{raw}");
    assert!(!asking.is_finished());
    start.send(()).unwrap();
    let socket = starting.await.unwrap();
    let served = tokio::spawn(serve_admin(socket, Arc::clone(&node.state), std::future::pending()));
    assert_eq!(&*asking.await.unwrap().unwrap().phases[0].name, "reaper");
    served.abort();
}

#[tokio::test]
async fn shutdown_ends_the_api_and_takes_the_socket_away() {
    let mut node = Node::start();
    // A silent client does not delay the shutdown.
    let _silent = tokio::net::UnixStream::connect(node.path()).await.unwrap();
    let _: NodeStatus = node.client().get("/status").await.unwrap();
    node.stop.take().unwrap().send(()).unwrap();
    (&mut node.served).await.unwrap();
    assert!(!node.path().exists());
    let error = node.client().get::<NodeStatus>("/status").await.unwrap_err();
    assert!(matches!(error, ClientError::NoNode { .. }) && error.to_string().contains("groundskeeper run"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_off() {
    let node = Node::start();
    let mut silent = tokio::net::UnixStream::connect(node.path()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut nothing = [0; 1];
    assert_eq!(tokio::io::AsyncReadExt::read(&mut silent, &mut nothing).await.unwrap(), 0);
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn garbage_is_answered_or_cut_off() {
    let node = Node::start();
    for garbage in
        [&b"\0\xff\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"POST /status HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let path = node.path();
        let garbage = garbage.to_vec();
        tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(&garbage).unwrap();
            let mut answer = Vec::new();
            // The node ends it; a reset counts as well.
            _ = stream.read_to_end(&mut answer);
            assert!(!answer.windows(7).any(|part| part == b" 200 OK"));
        })
        .await
        .unwrap();
    }
    assert!(node.client().get::<NodeStatus>("/status").await.is_ok());
    assert!(matches!(node.client().get::<NodeStatus>("/nothing").await, Err(ClientError::Refused(_))));
}

#[tokio::test]
async fn telemetry_has_health_and_metrics_and_nothing_else() {
    let node = Node::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served =
        tokio::spawn(serve_telemetry(listener, Arc::clone(&node.state), async move { _ = stopped.await }));
    let ask = |path: &'static str| async move {
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .await
        .unwrap()
    };
    let metrics = ask("/metrics").await;
    assert!(metrics.contains("200 OK") && metrics.contains("application/openmetrics-text"));
    assert!(metrics.contains("groundskeeper_pool_connections{state=\"live\"} 2"), "{metrics}");
    assert!(ask("/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = ask("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the first tick has not ended"));
    for private in ["/status", "/peers", "/journal", "/explain/x"] {
        assert!(ask(private).await.starts_with("HTTP/1.1 404"), "{private}");
    }
    stop.send(()).unwrap();
    served.await.unwrap();
}
