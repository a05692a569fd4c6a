//! An application with connections of its own: the options of maintenance give it what a whole node has.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::admin::Client;
use groundskeeper::admin::answers::{NodeStatus, PhaseList};
use groundskeeper::clock::SystemClock;
use groundskeeper::data::DataFolder;
use groundskeeper::engine;
use groundskeeper::journal::JournalFile;
use groundskeeper::node::{
    AdminSettings, DataOptions, DropIn, Maintenance, NodeLimits, NodeState, Options, StartError, builtins,
};
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts};
use groundskeeper::reload::PhaseChange;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{address, id};

/// Machines that are busy are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

struct Mute;

impl Link for Mute {
    fn ping(&self) {}

    fn close(&self, _why: &Goodbye) {}
}

/// A phase that does nothing, where this build runs components.
fn component() -> Vec<u8> {
    #[cfg(feature = "wasm")]
    return crate::wat::Wat::default().component();
    #[cfg(not(feature = "wasm"))]
    Vec::new()
}

const COMES_TO: PhaseChange =
    if cfg!(feature = "wasm") { PhaseChange::Applied } else { PhaseChange::Rejected };

fn state(file: Option<JournalFile>) -> NodeState {
    NodeState::new(id(0), NodeLimits::for_connections(8), SystemClock::new(), file)
}

fn options(home: &Path, telemetry: Option<SocketAddr>) -> Options {
    let folder = Arc::new(DataFolder::open(&home.join("data")).unwrap());
    Options {
        interval: Duration::from_millis(200),
        data: Some(DataOptions { folder, drop_in: Some(DropIn::at(home.join("phases.d"))) }),
        admin: AdminSettings {
            socket: Some(home.join("admin.sock")),
            telemetry,
            network: "own".into(),
            listening: vec![address(7)],
        },
        ..Options::default()
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

async fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_the_network_answers_operators_and_follows_its_folder() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal.jsonl");
    let state = state(Some(JournalFile::open(&journal, 1 << 20).unwrap()));
    let facts = PeerFacts { id: id(1), address: address(1), direction: Direction::Inbound };
    let slot = state.pool.attach(facts, Arc::new(Mute)).unwrap();
    let phases = home.path().join("phases.d");
    fs::create_dir(&phases).unwrap();
    let telemetry = free_port();
    let options = options(home.path(), Some(telemetry));
    let socket = options.admin.socket.clone().unwrap();
    let running = Maintenance::start(&state, builtins(&engine::BuiltInPhases::default()), options).unwrap();

    let client = Client::new(&socket);
    let status: NodeStatus = client.get("/status").await.unwrap();
    assert_eq!((status.network.as_str(), status.listening.clone()), ("own", vec![address(7)]));
    assert_eq!(status.pool.stats.total, 1);
    assert!(status.traffic.is_none(), "there is no network to tell of any");
    let metrics = get(telemetry, "/metrics").await;
    assert!(metrics.contains("groundskeeper_pool_connections{state=\"live\"} 1"), "{metrics}");

    let mut events = running.reload().unwrap().events();
    fs::write(phases.join("late.wasm"), component()).unwrap();
    fs::write(phases.join("late.toml"), "name = \"late\"\nkind = \"wasm\"\n").unwrap();
    let event = async {
        loop {
            let event = events.recv().await.unwrap();
            if !matches!(event.change, PhaseChange::Pending | PhaseChange::Compiling) {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, event).await.unwrap();
    assert_eq!((&*event.phase, event.change), ("late", COMES_TO), "{event:?}");
    let shown: PhaseList = client.get("/phases").await.unwrap();
    assert!(shown.phases.iter().any(|phase| &*phase.name == "late"), "{shown:?}");

    drop(slot);
    running.stop().await;
    assert!(!socket.exists());
    assert!(TcpStream::connect(telemetry).await.is_err());
    assert!(!fs::read(&journal).unwrap().is_empty());
    let reopened = DataFolder::open(&home.path().join("data")).unwrap();
    assert!(reopened.load_schedule().unwrap().value.phases.contains_key("reaper"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_frees_no_banned_peer_and_costs_no_last_run() {
    let home = tempfile::tempdir().unwrap();
    let before = state(None);
    let options = options(home.path(), None);
    let folder = Arc::clone(&options.data.as_ref().unwrap().folder);
    let running = Maintenance::start(&before, builtins(&engine::BuiltInPhases::default()), options).unwrap();
    before.pool.ban(id(5), Duration::from_secs(3600));
    let saved = async {
        while folder.load_limits().unwrap().value.bans.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, saved).await.unwrap();
    // As in a crash: nothing is saved any more.
    drop(running);
    let reopened = async {
        let weak = Arc::downgrade(&folder);
        drop(folder);
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
    let after = state(None);
    let options = self::options(home.path(), None);
    let last_runs = options.data.as_ref().unwrap().folder.load_schedule().unwrap().value;
    assert!(last_runs.phases["reaper"].accepted_s.is_some_and(|age| age < 2), "{last_runs:?}");
    let running = Maintenance::start(&after, builtins(&engine::BuiltInPhases::default()), options).unwrap();
    let left = after.pool.bans_left();
    assert!(left.len() == 1 && left[0].0 == id(5), "{left:?}");
    assert!(left[0].1 > Duration::from_secs(3000) && left[0].1 <= Duration::from_secs(3600), "{left:?}");
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_bound_is_named_and_nothing_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = held.local_addr().unwrap();
    let options = options(home.path(), Some(address));
    let socket = options.admin.socket.clone().unwrap();
    let error = Maintenance::start(&state(None), Vec::new(), options).err().unwrap();
    assert!(matches!(error, StartError::Admin(_)), "{error}");
    let text = format!("{error:#}");
    assert!(text.starts_with(&format!("cannot listen on telemetry.listen = {address}: ")), "{text}");
    assert!(!socket.exists());
}
