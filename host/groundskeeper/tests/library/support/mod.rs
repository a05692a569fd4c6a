//! A node without a network, on a clock that tests move: pool, book and built-ins, with peers that do as they are told.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use groundskeeper::book::{AddressSource, Book, ConnectedGuard, Dial, DialAttempt, DialFailure, DialOrder};
use groundskeeper::broadcasts::Broadcasts;
use groundskeeper::clock::{Clock, TokioClock};
use groundskeeper::config::Config;
use groundskeeper::cycle::{BeatReport, KeptLimits};
use groundskeeper::engine::Executor;
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::journal::{Journal, JournalLimits};
use groundskeeper::node::{Maintenance, NodeLimits, NodeState, Options};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Denied, Direction, Goodbye, Link, LinkTraffic, PeerFacts, Pool, Slot};
use groundskeeper::record::{Recorder, RecorderOptions};
use groundskeeper::registry::{KeptPhase, LastRuns, PhaseSpec, PhaseStatus};
use groundskeeper::ticker::TickerHandle;
use groundskeeper_sdk::host::{AnyPhase, View};
use groundskeeper_sdk::phase::{Result as PhaseResult, Tick};
use groundskeeper_sdk::plan::Plan;
use parking_lot::Mutex;
use tokio::sync::broadcast;

pub mod alone;
pub mod guests;

pub const INTERVAL: Duration = Duration::from_secs(30);

/// One peer of the fake network. Holds its slot while it lives.
pub struct FakePeer {
    pub n: u32,
    clock: Arc<TokioClock>,
    slot: Mutex<Option<(Slot, Option<ConnectedGuard>)>>,
    /// Whether it answers pings.
    pub answers: AtomicBool,
    /// Whether it lets go of its slot when told to close.
    pub obeys: AtomicBool,
    pub pings: AtomicU32,
    /// What it has sent us.
    pub kib_in: AtomicU32,
    pub goodbye: Mutex<Option<Goodbye>>,
}

impl FakePeer {
    /// A sign of life.
    pub fn speak(&self) {
        if let Some((slot, _)) = &*self.slot.lock() {
            slot.peer_seen(self.clock.coarse());
        }
    }

    /// An answer that took `rtt`.
    pub fn pong(&self, rtt: Duration) {
        self.speak();
        if let Some((slot, _)) = &*self.slot.lock() {
            slot.pong(rtt);
        }
    }

    pub fn leave(&self) {
        drop(self.slot.lock().take());
    }

    pub fn is_closed(&self) -> bool {
        self.goodbye.lock().is_some()
    }
}

struct FakeLink(Weak<FakePeer>);

impl Link for FakeLink {
    fn ping(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.pings.fetch_add(1, Relaxed);
            if peer.answers.load(Relaxed) {
                peer.speak();
            }
        }
    }

    fn traffic(&self) -> LinkTraffic {
        let kib_in = self.0.upgrade().map_or(0, |peer| peer.kib_in.load(Relaxed));
        LinkTraffic { kib_in, kib_out: kib_in / 3, kib_queued: kib_in % 5 }
    }

    fn close(&self, why: &Goodbye) {
        if let Some(peer) = self.0.upgrade() {
            *peer.goodbye.lock() = Some(why.clone());
            if peer.obeys.load(Relaxed) {
                peer.leave();
            }
        }
    }
}

pub fn id(n: u32) -> PeerId {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(bytes)
}

pub fn address(n: u32) -> SocketAddr {
    // A group of its own for each peer.
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0800_0000 + (n << 16))), 7420)
}

/// The fake network: who is reachable, and everybody who was ever connected.
pub struct FakeNetwork {
    clock: Arc<TokioClock>,
    pool: Arc<Pool>,
    /// Dials fail while this is false.
    pub reachable: AtomicBool,
    pub dials: Mutex<Vec<(Duration, SocketAddr)>>,
    pub peers: Mutex<Vec<Arc<FakePeer>>>,
}

impl FakeNetwork {
    pub fn join(&self, n: u32, direction: Direction) -> Arc<FakePeer> {
        self.admit(n, direction).expect("room for a fake peer")
    }

    fn admit(&self, n: u32, direction: Direction) -> Result<Arc<FakePeer>, Denied> {
        let peer = Arc::new(FakePeer {
            n,
            clock: Arc::clone(&self.clock),
            slot: Mutex::new(None),
            answers: true.into(),
            obeys: true.into(),
            pings: 0.into(),
            kib_in: 0.into(),
            goodbye: Mutex::new(None),
        });
        let facts = PeerFacts { id: id(n), address: address(n), direction };
        let link = Arc::new(FakeLink(Arc::downgrade(&peer)));
        let slot = self.pool.attach(facts, link)?;
        *peer.slot.lock() = Some((slot, None));
        self.peers.lock().push(Arc::clone(&peer));
        Ok(peer)
    }
}

impl Dial for FakeNetwork {
    fn dial(&self, order: DialOrder, ticket: DialAttempt) {
        self.dials.lock().push((self.clock.mono(), order.address));
        let IpAddr::V4(ip) = order.address.ip() else { unreachable!("fake peers are IPv4") };
        let n = (u32::from(ip) - 0x0800_0000) >> 16;
        let reached = self.reachable.load(Relaxed).then(|| self.admit(n, Direction::Outbound).ok()).flatten();
        match reached {
            Some(peer) => {
                let tenure = ticket.connected(id(n));
                if let Some((_, its)) = &mut *peer.slot.lock() {
                    *its = Some(tenure);
                }
            }
            None => ticket.failed(&DialFailure::Refused),
        }
    }
}

/// A phase made of a closure.
pub struct Closure<F>(pub F);

impl<F: Fn(&Tick, &View, &mut Plan) -> PhaseResult + Send + Sync> AnyPhase for Closure<F> {
    fn summary(&self) -> &'static str {
        "a closure"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> PhaseResult {
        (self.0)(now, view, plan)
    }
}

pub fn spec(name: &str, schedule: Schedule, phase: Arc<dyn AnyPhase>) -> PhaseSpec {
    PhaseSpec::built_in(name, "built-in", "0.1.0", phase, schedule)
}

pub fn closure<F>(name: &str, every: u32, run: F) -> PhaseSpec
where
    F: Fn(&Tick, &View, &mut Plan) -> PhaseResult + Send + Sync + 'static,
{
    spec(name, Schedule::every(every), Arc::new(Closure(run)))
}

/// The four built-ins as the config has them by default: the seeds' numbers.
pub fn builtins() -> Vec<PhaseSpec> {
    groundskeeper::node::builtins(&Config::default().phases)
}

/// What outlives a restart of the fake node.
#[derive(Default, Clone)]
pub struct Kept {
    pub last_runs: LastRuns,
    pub limits: KeptLimits,
    pub phases: BTreeMap<String, KeptPhase>,
}

/// A running fake node.
pub struct Rig {
    pub clock: Arc<TokioClock>,
    pub pool: Arc<Pool>,
    pub book: Arc<Book>,
    pub broadcasts: Arc<Broadcasts>,
    pub journal: Arc<Journal>,
    pub network: Arc<FakeNetwork>,
    pub handle: TickerHandle,
    reports: broadcast::Receiver<Arc<BeatReport>>,
    running: Option<Maintenance>,
}

impl Rig {
    pub fn start(phases: Vec<PhaseSpec>) -> Self {
        let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
        Self::resume(clock, phases, INTERVAL, &Kept::default(), Executor::Inline)
    }

    /// A process that starts on `clock` with what an earlier one kept.
    pub fn resume(
        clock: Arc<TokioClock>,
        phases: Vec<PhaseSpec>,
        interval: Duration,
        kept: &Kept,
        fence: Executor,
    ) -> Self {
        Self::with(clock, phases, interval, kept, Options { executor: fence, ..Options::default() })
    }

    /// A new process that records.
    pub fn recording(phases: Vec<PhaseSpec>, recorder: Recorder) -> Self {
        let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
        let options =
            Options { executor: Executor::Inline, recorder: Some(Box::new(recorder)), ..Options::default() };
        Self::with(clock, phases, INTERVAL, &Kept::default(), options)
    }

    /// A process with options of its own; interval, dialer, secret and what was kept are filled in.
    pub fn with(
        clock: Arc<TokioClock>,
        phases: Vec<PhaseSpec>,
        interval: Duration,
        kept: &Kept,
        options: Options,
    ) -> Self {
        let limits = NodeLimits {
            journal: JournalLimits { notable: 65_536, chatter: 65_536 },
            ..NodeLimits::for_connections(64)
        };
        let state = NodeState::new(PeerId::from_bytes([0; 32]), limits, Arc::clone(&clock) as _, None);
        let network = Arc::new(FakeNetwork {
            clock: Arc::clone(&clock),
            pool: Arc::clone(&state.pool),
            reachable: true.into(),
            dials: Mutex::default(),
            peers: Mutex::default(),
        });
        let options = Options {
            interval,
            dialer: Some(Arc::clone(&network) as _),
            last_runs: kept.last_runs.clone(),
            kept: kept.phases.clone(),
            used_ceilings: kept.limits.used.clone(),
            secret: 42,
            // Real time is for real machines: here no guest ever has to wait unless a test says so.
            stopwatch: options.stopwatch.or_else(|| Some(Box::new(|| Duration::ZERO))),
            ..options
        };
        let running = Maintenance::start(&state, phases, options).expect("good phases");
        let handle = running.handle().clone();
        let reports = handle.reports();
        let NodeState { pool, book, broadcasts, journal, .. } = state;
        Self { clock, pool, book, broadcasts, journal, network, handle, reports, running: Some(running) }
    }

    /// Waits for the next beat, urgent or not.
    pub async fn beat(&mut self) -> Arc<BeatReport> {
        self.reports.recv().await.expect("the ticker is running and we keep up")
    }

    /// Waits for the next tick, passing over urgent beats.
    pub async fn tick(&mut self) -> Arc<BeatReport> {
        loop {
            let report = self.beat().await;
            if report.urgent == 0 {
                return report;
            }
        }
    }

    /// Lets `n` ticks pass and gives their reports.
    pub async fn ticks(&mut self, n: usize) -> Vec<Arc<BeatReport>> {
        let mut reports = Vec::with_capacity(n);
        for _ in 0..n {
            reports.push(self.tick().await);
        }
        reports
    }

    /// How the phases stand after the last beat.
    pub fn phases(&self) -> Arc<Vec<PhaseStatus>> {
        self.running.as_ref().expect("not stopped").statuses().read()
    }

    pub fn peer(&self, n: u32) -> Arc<FakePeer> {
        self.network.join(n, Direction::Inbound)
    }

    /// An address that the reconnect phase may dial.
    pub fn know(&self, n: u32) {
        self.book.learn(address(n), None, AddressSource::Itself);
    }

    /// Stops the ticker and gives what a restart would find.
    pub async fn stop(mut self) -> Kept {
        let running = self.running.take().expect("stopped once");
        let cycle = running.stop().await.expect("the cycle comes back");
        let phases = cycle.kept().map(|(name, kept, _)| (name.to_string(), kept.clone())).collect();
        let last_runs = cycle.last_runs(self.handle.stats().tick());
        Kept { last_runs, limits: cycle.kept_limits(), phases }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.pool.removals(), self.journal.disconnects(), "every removal has its record");
        }
    }
}

/// Writes a recording that no slow disk thins out.
pub fn recorder(path: &Path) -> Recorder {
    // Time stands still for the writer, so it may take what it needs.
    let options = RecorderOptions { patience: Duration::from_secs(60), ..RecorderOptions::default() };
    Recorder::start(path, options).unwrap()
}

/// Which ticks `phase` ran in.
pub fn ran_in(reports: &[Arc<BeatReport>], phase: &str) -> Vec<u32> {
    let ran = |report: &&Arc<BeatReport>| report.runs.iter().any(|run| &*run.name == phase);
    reports.iter().filter(ran).map(|report| report.tick).collect()
}
