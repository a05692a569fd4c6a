//! The reloader beside a running ticker, on real folders and in real time. Nothing here is judged by how long it took.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::cycle::BeatReport;
use groundskeeper::data::DataFolder;
use groundskeeper::engine::Executor;
use groundskeeper::node::{Maintenance, NodeLimits, NodeState, Options};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts, Slot};
use groundskeeper::registry::LastRuns;
use groundskeeper::reload::{
    self, CycleChange, PhaseChange, PhaseReloader, ReloadEvent, ReloadHandle, ReloadOptions, StartFrom,
};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use super::world::{Gate, Scripts, manifest, module, now};

/// A tick that never comes while a test runs.
const NEVER: Duration = Duration::from_secs(3600);
/// One that comes again and again.
const SOON: Duration = Duration::from_millis(300);

struct Mute;

impl Link for Mute {
    fn ping(&self) {}

    fn close(&self, _why: &Goodbye) {}
}

/// A running node with one connection, so that no urgent beat looks for others.
struct Node {
    maintenance: Maintenance,
    handle: ReloadHandle,
    events: broadcast::Receiver<ReloadEvent>,
    beats: broadcast::Receiver<Arc<BeatReport>>,
    scripts: Scripts,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    home: TempDir,
    _slot: Slot,
}

impl Node {
    async fn start(home: TempDir, interval: Duration) -> Self {
        let clock = SystemClock::new();
        let id = |n| PeerId::from_bytes([n; 32]);
        let state = NodeState::new(id(1), NodeLimits::for_connections(8), Arc::clone(&clock) as _, None);
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7420);
        let facts = PeerFacts { id: id(2), address, direction: Direction::Inbound };
        let slot = state.pool.attach(facts, Arc::new(Mute)).expect("room for one");
        let options = Options { interval, ..Options::default() };
        let maintenance = Maintenance::start(&state, Vec::new(), options).expect("no phases");
        let ticker = maintenance.handle().clone();
        let scripts = Scripts::default();
        let folder = Arc::new(DataFolder::open(&home.path().join("data")).unwrap());
        let options = ReloadOptions::trusting(home.path().join("phases.d"));
        let stage = scripts.clone().factory();
        let clock: Arc<dyn Clock> = clock;
        let mut reloader = PhaseReloader::new(options, folder, stage, Executor::Inline, clock);
        let (runtime, asked) = (Handle::current(), ticker.clone());
        let begun = tokio::task::spawn_blocking(move || {
            let mut ticks = |change: CycleChange| runtime.block_on(asked.with_cycle(change)).is_some();
            reloader.begin(&mut ticks, StartFrom::Folder, &LastRuns::default()).unwrap();
            reloader
        });
        let reloader = begun.await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { _ = stopped.await };
        let (handle, task) = reload::run(reloader, ticker, stopped);
        let (events, beats) = (handle.events(), maintenance.handle().reports());
        Self { maintenance, handle, events, beats, scripts, stop, task, home, _slot: slot }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.home.path().join("phases.d").join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    /// Returns when this has happened to `phase`.
    async fn told(&mut self, phase: &str, change: PhaseChange) {
        let event = async {
            loop {
                let event = self.events.recv().await.expect("the reloader works");
                if event.phase == phase && event.change == change {
                    return;
                }
            }
        };
        let told = tokio::time::timeout(Gate::LONGEST, event).await;
        told.unwrap_or_else(|_| panic!("{phase} was not {}", change.as_str()));
    }

    async fn beat(&mut self) -> Arc<BeatReport> {
        let beat = tokio::time::timeout(Gate::LONGEST, self.beats.recv()).await;
        beat.expect("it ticks").expect("it does not lag")
    }

    fn tick(&self) -> u32 {
        self.maintenance.handle().stats().tick()
    }

    fn runs(&self, name: &str) -> Option<u32> {
        let phases = self.maintenance.statuses().read();
        let phase = phases.iter().find(|phase| &*phase.name == name)?;
        phase.version.parse().ok()
    }

    async fn end(self) {
        drop(self.stop);
        self.task.await.unwrap();
        self.maintenance.stop().await.expect("the ticker ended");
    }
}

/// A home with version 1 of "alpha" in the folder.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("phases.d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("alpha.wasm"), module(1, "good")).unwrap();
    fs::write(dir.join("alpha.toml"), manifest("alpha", "")).unwrap();
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_looked_after_before_the_next_tick() {
    let mut node = Node::start(home(), NEVER).await;
    assert_eq!(node.runs("alpha"), Some(1));
    node.write("alpha.wasm", &module(2, "good"));
    node.told("alpha", PhaseChange::Applied).await;
    assert_eq!(node.runs("alpha"), Some(2));
    // A new one, in a folder of its own behind a link.
    let behind = node.home.path().join("elsewhere");
    fs::create_dir(&behind).unwrap();
    fs::write(behind.join("beta.wasm"), module(1, "good")).unwrap();
    symlink(behind.join("beta.wasm"), node.path("beta.wasm")).unwrap();
    node.write("beta.toml", &manifest("beta", ""));
    node.told("beta", PhaseChange::Applied).await;
    fs::write(behind.join("beta.wasm"), module(2, "good")).unwrap();
    node.told("beta", PhaseChange::Applied).await;
    assert_eq!(node.runs("beta"), Some(2));
    fs::remove_file(node.path("beta.toml")).unwrap();
    fs::remove_file(node.path("beta.wasm")).unwrap();
    node.told("beta", PhaseChange::Removed).await;
    // The folder goes, and comes again as another one.
    fs::remove_dir_all(node.path("")).unwrap();
    fs::create_dir(node.path("")).unwrap();
    node.write("alpha.wasm", &module(3, "good"));
    node.write("alpha.toml", &manifest("alpha", ""));
    node.told("alpha", PhaseChange::Applied).await;
    node.write("alpha.wasm", &module(4, "good"));
    node.told("alpha", PhaseChange::Applied).await;
    assert_eq!((node.runs("alpha"), node.tick()), (Some(4), 0), "without a single tick");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_comes_later_is_seen_coming() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Node::start(home, NEVER).await;
    // Two steps away from being there.
    fs::create_dir(node.path("")).unwrap();
    node.write("alpha.wasm", &module(1, "good"));
    node.write("alpha.toml", &manifest("alpha", ""));
    node.told("alpha", PhaseChange::Applied).await;
    assert_eq!((node.runs("alpha"), node.tick()), (Some(1), 0));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_link_is_seen_by_its_event() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("phases.d");
    let swap = |version: u32| {
        let next = dir.join(format!("..2026_{version}"));
        fs::create_dir_all(&next).unwrap();
        fs::write(next.join("alpha.wasm"), module(version, "good")).unwrap();
        fs::write(next.join("alpha.toml"), manifest("alpha", "")).unwrap();
        symlink(next.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    swap(1);
    for file in ["alpha.wasm", "alpha.toml"] {
        symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
    }
    let mut node = Node::start(home, NEVER).await;
    for version in 2..5 {
        swap(version);
        node.told("alpha", PhaseChange::Applied).await;
        assert_eq!((node.runs("alpha"), node.tick()), (Some(version), 0));
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_broken_by_the_tick() {
    let home = home();
    // A file with two names: who writes to the one has nobody hear it who listens at the other.
    let (inside, outside) = (home.path().join("phases.d/alpha.wasm"), home.path().join("alpha.wasm"));
    fs::hard_link(&inside, &outside).unwrap();
    let mut node = Node::start(home, NEVER).await;
    fs::write(&outside, module(2, "good")).unwrap();
    node.maintenance.handle().set_interval(SOON).await;
    node.told("alpha", PhaseChange::Applied).await;
    assert_eq!(node.runs("alpha"), Some(2));
    assert!(node.tick() >= 1, "nothing but a tick could tell");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_touches_a_second_cost_few_looks() {
    let node = Node::start(home(), NEVER).await;
    let (before, begun) = (node.handle.counts(), Instant::now());
    let (file, apart) = (node.path("alpha.wasm"), Duration::from_millis(1));
    let touching = std::thread::spawn(move || {
        for _ in 0..2_000 {
            let file = File::options().write(true).open(&file).unwrap();
            file.set_modified(now()).unwrap();
            std::thread::sleep(apart);
        }
    });
    tokio::task::spawn_blocking(|| touching.join().unwrap()).await.unwrap();
    // It still works, and what it has done meanwhile is in the counts.
    node.write("alpha.wasm", &module(2, "good"));
    let report = node.handle.reload().await.expect("it runs");
    assert!(report.is_good() && node.runs("alpha") == Some(2), "{report:?}");
    let (after, took) = (node.handle.counts(), begun.elapsed());
    let (looks, digests) = (after.looks - before.looks, after.digests - before.digests);
    println!("2,000 touches in {took:?}: {looks} looks, {digests} digests");
    // A look each 50 ms at most, or two where something was to come to rest; read each 5 s at most, and at the end.
    assert!(looks <= 2 * took.as_millis() as u64 / 50 + 4, "{looks} looks in {took:?}");
    assert!((1..=took.as_secs() / 5 + 3).contains(&digests), "{digests} digests in {took:?}");
    assert_eq!((after.of(PhaseChange::Applied), after.of(PhaseChange::Rejected)), (1, 0));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_and_a_log_file_in_the_folder_cost_no_scan() {
    let mut node = Node::start(home(), SOON).await;
    // After a reload, nothing is left to settle.
    node.handle.reload().await.expect("it runs");
    node.write("alpha.wasm", &module(2, "good"));
    node.told("alpha", PhaseChange::Proven).await;
    let before = node.handle.counts().looks;
    for n in 0..20 {
        node.beat().await;
        // Another program's file, or the node's own log.
        node.write("node.log", &"a line\n".repeat(n));
    }
    let looks = node.handle.counts().looks - before;
    assert!(looks <= 2, "{looks} scans in 20 ticks");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_compilation_delays_no_tick() {
    let mut node = Node::start(home(), SOON).await;
    let loads = Arc::clone(&node.scripts.loads);
    loads.shut();
    node.write("alpha.wasm", &module(2, "good"));
    let waiting = Arc::clone(&loads);
    tokio::task::spawn_blocking(move || waiting.wait_for_one()).await.unwrap();
    let first = node.tick();
    let mut ran = 0;
    while ran < 3 {
        let beat = node.beat().await;
        let good = beat.runs.iter().filter(|run| &*run.name == "alpha" && run.result == "ok").count();
        ran += usize::from(beat.tick > first) * good;
        assert_eq!(node.runs("alpha"), Some(1), "it is still being compiled");
    }
    loads.open();
    node.told("alpha", PhaseChange::Applied).await;
    assert_eq!(node.runs("alpha"), Some(2));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_on_the_generation_that_began_it() {
    let home = home();
    fs::write(home.path().join("phases.d/alpha.wasm"), module(1, "gated")).unwrap();
    let mut node = Node::start(home, SOON).await;
    let runs = Arc::clone(&node.scripts.runs);
    runs.shut();
    let waiting = Arc::clone(&runs);
    tokio::task::spawn_blocking(move || waiting.wait_for_one()).await.unwrap();
    // Inside a run of version 1, somebody wants version 2 at once.
    node.write("alpha.wasm", &module(2, "gated"));
    let handle = node.handle.clone();
    let ordered = tokio::spawn(async move { handle.reload().await });
    tokio::task::yield_now().await;
    assert_eq!(node.scripts.ended().last().copied().unwrap_or((0, 1)).1, 1);
    runs.open();
    let report = ordered.await.unwrap().expect("the node runs");
    assert!(report.is_good(), "{report:?}");
    while node.runs("alpha") != Some(2) {
        node.told("alpha", PhaseChange::Applied).await;
    }
    node.told("alpha", PhaseChange::Proven).await;
    let ended = node.scripts.ended();
    assert!(ended.is_sorted(), "one after the other: {ended:?}");
    assert!(ended.iter().any(|(_, version)| *version == 1), "the run ended: {ended:?}");
    let ticks: Vec<u32> = ended.iter().map(|(tick, _)| *tick).collect();
    assert!(ticks.windows(2).all(|pair| pair[1] == pair[0] + 1), "a run in each tick: {ended:?}");
    node.end().await;
}
