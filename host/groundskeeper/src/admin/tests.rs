use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::answers::{Explanation, Health, JournalPage, NodeStatus, Peers, PhaseList, ResumeAnswer};
use super::*;
use crate::book::AddressSource;
use crate::clock::{Clock, TokioClock};
use crate::config::Config;
use crate::journal::{ActionKind, Cause, Initiator, NewRecord, Outcome};
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
    slots: Vec<Slot>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    state: Arc<AdminState>,
    refusals: Arc<ApiRefusals>,
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
        board.write(vec![phase()], 0);
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
            refusals: Some(Arc::default()),
            disk: Default::default(),
        };
        let state = Arc::new(AdminState {
            sources,
            metrics: Arc::default(),
            network: "test".into(),
            local_addrs: vec!["127.0.0.1:7420".parse().unwrap()],
            ticker: None,
            reconfigure: None,
            past: Arc::default(),
        });
        let refusals = state.sources.refusals.clone().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = AdminSocket::bind(&folder.path().join("admin.sock")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve_admin(socket, Arc::clone(&state), async move { _ = stopped.await }));
        Self { folder, clock, pulse, board, slots, stop: Some(stop), served, state, refusals }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Makes a record for `tap`.
    fn ban(&self, n: u8) {
        let record =
            NewRecord { peer: Some(id(n)), ..NewRecord::new(Initiator::Host, ActionKind::Ban, "test") };
        self.state.sources.state.journal.record(record);
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
    for lock in ["pool", "book", "journal"] {
        assert!(status["locks"][lock]["contended"].is_u64(), "{lock}");
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
    let JournalPage { records, .. } = node.client().get("/journal?limit=2").await.unwrap();
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
async fn records_without_a_peer_at_its_address_are_shown_apart() {
    let node = Node::start();
    let state = &node.state.sources.state;
    let at = |address: &str, what| NewRecord {
        address: Some(address.parse().unwrap()),
        outcome: Outcome::Refused("too many".into()),
        ..NewRecord::new(Initiator::Host, what, "incoming connection")
    };
    state.journal.record(at("192.0.2.4:40000", ActionKind::Refused));
    state.journal.record(at("192.0.2.4:40000", ActionKind::Dial));
    state.journal.record(at("192.0.2.5:7420", ActionKind::Refused));
    let found = node.explain(&id(4).to_string()).await.unwrap();
    assert!(found.records.iter().all(|record| record.peer == Some(id(4))));
    assert_eq!(found.at_its_addresses.len(), 1, "another port is another peer's for a dial: {found:?}");
    assert_eq!(found.at_its_addresses[0].what, ActionKind::Refused);
    // The book alone knows a peer, too.
    let listens = "8.0.0.7:7420".parse().unwrap();
    state.book.learn(listens, Some(id(7)), crate::book::AddressSource::Itself);
    assert_eq!(node.explain(&id(7).to_string()[..8]).await.unwrap().known_at, [listens]);
    assert_eq!(node.explain("8.0.0.7").await.unwrap().peer, Some(id(7)));
}

#[tokio::test]
async fn a_phase_is_explained_by_its_name() {
    let node = Node::start();
    let journal = &node.state.sources.state.journal;
    let by = Initiator::Phase { name: "reaper".into(), version: "0.1.0".into() };
    journal.record(NewRecord { count: 3, ..NewRecord::new(by, ActionKind::Ping, "quiet") });
    let about = NewRecord::new(Initiator::Host, ActionKind::Reload, "old-one is rejected");
    journal.record(NewRecord { phase: Some("old-one".into()), ..about });
    let found = node.explain("reaper").await.unwrap();
    let explained = found.phase.unwrap();
    assert_eq!((explained.name.as_str(), explained.status), ("reaper", Some(phase())));
    assert_eq!(found.records.iter().map(|record| record.what).collect::<Vec<_>>(), [ActionKind::Ping]);
    assert_eq!((found.past.file, found.note), (None, None));
    // One that is gone is known by its records.
    let gone = node.explain("old-one").await.unwrap();
    assert_eq!((gone.phase.unwrap().status, gone.records.len()), (None, 1));
    let wrong = node.explain("reaperr").await.unwrap_err();
    assert!(wrong.contains("Did you mean the phase reaper?"), "{wrong}");
}

#[tokio::test]
async fn a_name_of_both_a_phase_and_a_peer_means_the_phase_and_says_so() {
    let node = Node::start();
    let both = id(2).to_string()[..6].to_owned();
    node.board.write(vec![PhaseStatus { name: both.as_str().into(), ..phase() }], 0);
    let found = node.explain(&both).await.unwrap();
    assert!(found.phase.is_some() && found.note.unwrap().contains(&id(2).to_string()));
    assert_eq!(node.explain(&id(2).to_string()[..8]).await.unwrap().peer, Some(id(2)));
}

#[tokio::test]
async fn the_journal_is_filtered_and_wrong_filters_are_refused() {
    let node = Node::start();
    let page = async |query: &str| {
        let page = node.client().get::<JournalPage>(&format!("/journal?{query}")).await;
        page.map(|page| page.records.len()).map_err(|error| error.to_string())
    };
    assert_eq!(page("").await, Ok(4));
    assert_eq!(page("what=disconnect").await, Ok(1));
    assert_eq!(page("what=disconnect,connect&limit=2").await, Ok(2));
    assert_eq!(page(&format!("peer={}", &id(4).to_string()[..6])).await, Ok(2));
    assert_eq!(page("peer=192.0.2.2").await, Ok(1));
    assert_eq!(page("phase=reaper").await, Ok(0));
    assert_eq!(page("since_unix_ms=9999999999999").await, Ok(0));
    assert!(page("what=disconect").await.unwrap_err().contains("did you mean \"disconnect\"?"));
    assert!(page("peer=x").await.unwrap_err().contains("is not a peer id"));
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
    let board = |phase: PhaseStatus| node.board.write(vec![phase], 0);
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
async fn not_ready_without_a_peer_and_without_an_address_to_dial() {
    let mut node = Node::start();
    node.slots.clear();
    let why = || node.state.ready().why;
    assert_eq!(why(), ["the first tick has not ended"], "a node that has just started has no peers yet");
    node.pulse.end_tick(node.clock.mono());
    assert_eq!(
        why(),
        ["no peer is connected, and there is no address to dial; name a node in net.bootstrap"]
    );
    let book = &node.state.sources.state.book;
    book.learn("192.0.2.9:7420".parse().unwrap(), None, AddressSource::Bootstrap);
    assert!(node.state.ready().ok, "it has an address to dial, even if it waits");
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
    let resumed = state.journal.select(9, |record| record.what == ActionKind::Resume);
    assert_eq!(resumed.len(), 1);
    // The system says who asked.
    let uid = std::fs::metadata(&path).unwrap().uid();
    assert_eq!(resumed[0].by, Initiator::Operator { uid: Some(uid) });
    assert_eq!(resumed[0].phase.as_deref(), Some("reaper"));
    served.abort();
}

#[tokio::test]
async fn a_starting_node_says_so_and_answers_once_started() {
    let node = Node::start();
    let path = node.folder.path().join("other.sock");
    let settings = AdminSettings { socket: Some(path.clone()), ..AdminSettings::default() };
    let mut server = AdminServer::start(&settings).unwrap();
    let asking = tokio::spawn({
        let client = Client::new(&path);
        async move { client.get::<PhaseList>("/phases").await }
    });
    let raw = raw_answer(&path, b"GET /phases HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 503") && raw.contains("the node is starting"), "{raw}");
    assert!(!asking.is_finished());
    server.open((*node.state).clone());
    assert_eq!(&*asking.await.unwrap().unwrap().phases[0].name, "reaper");
    assert!(server.stop().await);
    assert!(!path.exists());
}

/// Everything that the node says to `request`.
async fn raw_answer(path: &std::path::Path, request: &'static [u8]) -> String {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
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
async fn a_silent_client_is_told_and_cut_off() {
    let node = Node::start();
    let mut silent = tokio::net::UnixStream::connect(node.path()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut words = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut silent, &mut words).await.unwrap();
    assert!(words.starts_with("HTTP/1.1 408") && words.contains("no request came"), "{words}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(node.refusals.count(Door::Socket, Turned::Slow), 1);
}

/// A byte of a request's head now and then.
#[tokio::test(start_paused = true)]
async fn a_slow_head_does_not_extend_its_time() {
    let node = Node::start();
    let (mut read, mut write) = tokio::net::UnixStream::connect(node.path()).await.unwrap().into_split();
    let dripping = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut write, b"x").await.is_err() {
                return;
            }
        }
    });
    let begun = tokio::time::Instant::now();
    let mut words = Vec::new();
    // A reset counts as an end as well.
    _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut words).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    dripping.await.unwrap();
}

#[tokio::test]
async fn an_honest_question_is_answered_among_300_silent_clients_and_100_slow_ones() {
    let node = Node::start();
    let mut idle = Vec::new();
    for n in 0..400 {
        let client = tokio::net::UnixStream::connect(node.path()).await.unwrap();
        if n % 4 == 0 {
            _ = client.try_write(b"GET /status HTTP/1.1\r\nho");
        }
        idle.push(client);
    }
    for _ in 0..20 {
        let _: NodeStatus = node.client().get("/status").await.unwrap();
    }
    assert!(node.refusals.count(Door::Socket, Turned::Busy) > 300, "older silent clients made room");
    let mut words = vec![0; 512];
    let length = tokio::io::AsyncReadExt::read(&mut idle[1], &mut words).await.unwrap();
    let words = String::from_utf8_lossy(&words[..length]);
    assert!(words.starts_with("HTTP/1.1 429") && words.contains("the node is busy"), "{words}");
}

/// Opens a stream and reads its first bytes, so that it certainly has its place.
async fn open_tap(path: &std::path::Path) -> tokio::net::UnixStream {
    let mut tap = tokio::net::UnixStream::connect(path).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tap, b"GET /tap HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut tap, &mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    tap
}

#[tokio::test]
async fn streams_leave_the_places_of_questions_alone_and_a_question_does_not_end_one() {
    let node = Node::start();
    let mut taps = Vec::new();
    for _ in 0..41 {
        taps.push(open_tap(&node.path()).await);
    }
    for _ in 0..20 {
        let _: NodeStatus = node.client().get("/status").await.unwrap();
    }
    node.ban(9);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"event\":\"action\"") {
        let mut part = [0; 4096];
        let length = tokio::io::AsyncReadExt::read(&mut taps[40], &mut part).await.unwrap();
        assert!(length > 0, "the stream goes on");
        seen.extend_from_slice(&part[..length]);
    }
    // The share of streams ends somewhere, with words.
    let refused = loop {
        let client = node.client();
        let tap = tokio::spawn(async move { client.lines("/tap", |_| true).await });
        tokio::select! {
            biased;
            ended = tap => break ended.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        taps.push(open_or_refused(&node.path()).await);
        assert!(taps.len() < 400);
    };
    let error = refused.unwrap_err();
    assert!(
        matches!(error, ClientError::Busy { .. }) && error.to_string().contains("too many streams"),
        "{error}"
    );
    let _: NodeStatus = node.client().get("/status").await.unwrap();
}

async fn open_or_refused(path: &std::path::Path) -> tokio::net::UnixStream {
    let mut tap = tokio::net::UnixStream::connect(path).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tap, b"GET /tap HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tap
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_loses_events_and_is_told_how_many() {
    let node = Node::start();
    let mut tap = tokio::io::BufReader::new(open_tap(&node.path()).await);
    // More than the system and the node keep for it: some 300 KiB and 1,024 lines.
    for _ in 0..30 {
        (0..250).for_each(|_| node.ban(9));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut line = String::new();
    while !line.contains("\"event\":\"lost\"") {
        node.ban(9);
        line.clear();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut tap, &mut line).await.unwrap();
        assert!(read > 0, "the stream goes on");
    }
    let lost: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert!(lost["events"].as_u64().unwrap() > 1000, "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_ends() {
    let node = Node::start();
    let tap = open_tap(&node.path()).await;
    let begun = tokio::time::Instant::now();
    while node.refusals.count(Door::Socket, Turned::Slow) == 0 {
        (0..300).for_each(|_| node.ban(9));
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(begun.elapsed() < Duration::from_secs(600));
    }
    drop(tap);
}

#[tokio::test]
async fn a_connection_that_is_closed_without_a_word_is_not_called_forbidden() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let closing = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    for error in [
        Client::new(&path).get::<NodeStatus>("/status").await.unwrap_err(),
        Client::new(&path).post::<NodeStatus>("/reload").await.unwrap_err(),
    ] {
        assert!(matches!(error, ClientError::NoAnswer { .. }), "{error:?}");
        assert!(!error.to_string().contains("allowed"));
    }
    closing.abort();
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

/// The telemetry listener of `node`, and what stops it.
async fn telemetry_of(node: &Node) -> (AdminServer, std::net::SocketAddr) {
    // The port is free until the server takes it, or the test fails loudly.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = AdminSettings { telemetry: Some(port), ..AdminSettings::default() };
    let mut server = AdminServer::start(&settings).unwrap();
    server.open((*node.state).clone());
    (server, port)
}

async fn http_get(address: std::net::SocketAddr, path: &'static str) -> String {
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    asking.await.unwrap()
}

#[tokio::test]
async fn telemetry_has_health_and_metrics_and_nothing_else() {
    let node = Node::start();
    let (server, address) = telemetry_of(&node).await;
    let ask = |path| http_get(address, path);
    let metrics = ask("/metrics").await;
    assert!(metrics.contains("200 OK") && metrics.contains("application/openmetrics-text"));
    assert!(metrics.contains("groundskeeper_pool_connections{state=\"live\"} 2"), "{metrics}");
    assert!(ask("/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = ask("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the first tick has not ended"));
    for private in ["/status", "/peers", "/journal", "/explain/x"] {
        assert!(ask(private).await.starts_with("HTTP/1.1 404"), "{private}");
    }
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_scrape_and_a_probe_are_answered_among_50_slow_clients() {
    let node = Node::start();
    let (server, address) = telemetry_of(&node).await;
    let mut slow = Vec::new();
    for n in 0..50 {
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            client.writable().await.unwrap();
            _ = client.try_write(b"GET /metrics HTTP/1.1\r\n");
        }
        slow.push(client);
    }
    for _ in 0..20 {
        let metrics = http_get(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(http_get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }
    let metrics = http_get(address, "/metrics").await;
    let busy = "groundskeeper_local_api_refused_total{listener=\"telemetry\",reason=\"busy\"} ";
    let turned = metrics.lines().find_map(|line| line.strip_prefix(busy)).unwrap();
    assert!(turned.parse::<u32>().unwrap() > 30, "{turned}");
    assert!(server.stop().await, "slow clients do not delay a stop");
}
