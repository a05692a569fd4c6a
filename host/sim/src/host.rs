//! One simulated host: the real network, state and maintenance, one process after another at one address. Checks itself
//! at every tick and every second; faults come from outside.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper::book::{BookEntry, BookLimits};
use groundskeeper::broadcasts::BroadcastLimits;
use groundskeeper::clock::{Clock, TokioClock};
use groundskeeper::config::{Bootstrap, Config};
use groundskeeper::cycle::BeatReport;
use groundskeeper::disk::PendingSaves;
use groundskeeper::engine::Executor;
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::flow::OutboxLimits;
use groundskeeper::journal::{Cause, JournalLimits};
use groundskeeper::net::{Audience, BroadcastVerdict, Handlers, Net, NetConfig, RequestError};
use groundskeeper::node::{DataOptions, Maintenance, NodeLimits, NodeState, Options, builtins};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, PoolLimits};
use groundskeeper_sdk::rng::Rng;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, mpsc};

use crate::disk::{SimulatedDisk, Writes};
use crate::scenario::HOSTS;
use crate::transport::Plain;
use crate::weather::{Weather, ip_of};

const PORT: u16 = 7420;
/// Start of the simulation, as time since 1970.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// Hosts that every host knows from the start.
pub(crate) const BOOTSTRAP: usize = 3;
/// With fewer addresses to dial, the host asks a peer for more, as a complete node does.
const ENOUGH_TO_DIAL: usize = 8;
/// Broadcasts in a burst, 4 KiB each: a socket and a queue together hold less than half of them.
const MUCH: u32 = 200;
/// All hosts start within this time: one tick.
const STAGGER_MS: u64 = 30_000;
/// Real time for a thread that writes to memory.
const SETTLED: Duration = Duration::from_secs(60);
/// For a shutdown.
const DEADLINE: Duration = Duration::from_secs(5);

/// Orders to a running process from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Leave,
    Stall(Duration),
    /// Sends more broadcasts than a queue holds.
    SayMuch,
    /// Takes a slot and never gives it back, for tests of the judges.
    LeakSlot,
    /// Starts a task that panics, for tests of the judges.
    Panic,
}

/// A simulated machine: everything that outlives its processes.
pub(crate) struct Machine {
    pub(crate) host: usize,
    pub(crate) seed: u64,
    pub(crate) ids: Arc<Vec<PeerId>>,
    pub(crate) weather: Arc<Weather>,
    /// Time between two ticks.
    pub(crate) interval: Duration,
    /// Has room for all hosts and wants a connection to each.
    pub(crate) roomy: bool,
    /// Sends broadcasts and requests by itself.
    pub(crate) chatty: bool,
    /// When it first got which broadcast, unless it is chatty.
    pub(crate) heard: Mutex<Vec<(u32, Duration)>>,
    pub(crate) tallies: Arc<Tallies>,
    pub(crate) lives: Mutex<Vec<Arc<Life>>>,
    /// What the next process reads.
    pub(crate) disk: Arc<SimulatedDisk>,
    /// Addresses where it was connected, by its book. Its process must never forget one of them.
    pub(crate) good: Mutex<BTreeSet<SocketAddr>>,
    /// Those that were saved. The next process must know them.
    pub(crate) saved: Mutex<BTreeSet<SocketAddr>>,
    /// How far the wall clock of the next process is off, in milliseconds. `i64::MIN`: it starts in 1970.
    pub(crate) wall_ms: AtomicI64,
    pub(crate) complaints: Arc<Mutex<Vec<String>>>,
}

/// Counts over all hosts: a run without events proves nothing.
#[derive(Default, Debug)]
pub(crate) struct Tallies {
    pub(crate) delivered: AtomicU64,
    pub(crate) queue_full: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) beats: AtomicU64,
    pub(crate) checks: AtomicU64,
    /// Ticks after which everything was on disk, and those after which it was not.
    pub(crate) saved: AtomicU64,
    pub(crate) unsaved: AtomicU64,
}

/// One process.
pub(crate) struct Life {
    pub(crate) state: NodeState,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// It ended properly and released everything.
    pub(crate) ended: AtomicBool,
    pub(crate) since: Duration,
    saves: OnceLock<PendingSaves>,
    /// The good addresses of the book that was last handed over for saving.
    handed_over: Mutex<BTreeSet<SocketAddr>>,
}

impl Life {
    /// Sends [`MUCH`] broadcasts, one every 50 ms.
    pub(crate) fn say_much(&self) {
        // A process that has ended sends nothing.
        _ = self.orders.send(Order::SayMuch);
    }
}

pub(crate) fn ids(seed: u64) -> Vec<PeerId> {
    let id = |host: u64| {
        let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(host.to_le_bytes());
        PeerId::from_bytes(digest.finalize().into())
    };
    (0..HOSTS as u64).map(id).collect()
}

/// The addresses where a host was connected, by its book.
fn reached(entries: &[BookEntry]) -> BTreeSet<SocketAddr> {
    entries.iter().filter(|entry| entry.reached_s.is_some()).map(|entry| entry.address).collect()
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Machine {
    /// The current process, or the last one.
    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.lives.lock().last().cloned()
    }

    /// After what `life` has handed over for saving: waits until it is on disk or has failed. Does not wait for a disk that
    /// hangs. So what a crash finds on the disk follows from the seed.
    pub(crate) fn settle_saves(&self, life: &Life) {
        let is_saved = match self.disk.writes() {
            Writes::Hang => false,
            writes => {
                let Some(settled) = life.saves.get().and_then(|saves| saves.settle(SETTLED)) else { return };
                if writes == Writes::Work
                    && let Err(unsaved) = &settled
                {
                    self.complain(&format!("the disk works, and {unsaved}"));
                }
                settled.is_ok()
            }
        };
        let tally = if is_saved { &self.tallies.saved } else { &self.tallies.unsaved };
        tally.fetch_add(1, Relaxed);
        if is_saved {
            self.saved.lock().clone_from(&life.handed_over.lock());
        }
    }

    /// Checks that a new process knows what was saved. Returns the good addresses that it knows.
    fn look_at_restored(&self, entries: &[BookEntry]) -> BTreeSet<SocketAddr> {
        let saved = self.saved.lock();
        let is_known = |address: &&SocketAddr| entries.iter().any(|entry| entry.address == **address);
        if let Some(lost) = saved.iter().find(|address| !is_known(address)) {
            self.complain(&format!("the good address {lost} was saved, and a restart has lost it"));
        }
        drop(saved);
        let good = reached(entries);
        self.good.lock().clone_from(&good);
        good
    }

    /// A number derived from the seed, for this host and purpose.
    fn drawn(&self, life: usize, purpose: u64) -> u64 {
        let mut rng = Rng::new(self.seed ^ (self.host as u64) << 48 ^ (life as u64) << 32 ^ purpose << 16);
        rng.bits()
    }

    fn complain(&self, what: &str) {
        self.complaints.lock().push(format!("host {} at {:.3} s: {what}", self.host, now().as_secs_f64()));
    }

    fn pool_limits(&self) -> PoolLimits {
        if self.roomy {
            return PoolLimits::only_capacity(32);
        }
        let mut rng = Rng::new(self.seed ^ (self.host as u64 + 1) << 40);
        PoolLimits {
            capacity: 14 + rng.below(8) as u32,
            inbound: 6 + rng.below(4) as u32,
            outbound: 8 + rng.below(3) as u32,
            per_group: 2 + rng.below(4) as u32,
            handshakes: 4 + rng.below(5) as u32,
        }
    }

    fn limits(&self, life: usize) -> NodeLimits {
        NodeLimits {
            pool: self.pool_limits(),
            book: BookLimits {
                allow_private: true,
                seed: Some(self.drawn(life, 1)),
                ..BookLimits::default()
            },
            broadcasts: BroadcastLimits { held: 2000, ..BroadcastLimits::default() },
            // The hash covers all records, so the journal must not drop any.
            journal: JournalLimits { notable: 1 << 20, chatter: 1 << 20 },
        }
    }

    fn net_config(&self, life: usize) -> NetConfig {
        let bootstrap = (0..BOOTSTRAP).filter(|other| *other != self.host);
        let bootstrap = bootstrap.map(|other| format!("{}:{PORT}", ip_of(other)));
        NetConfig {
            network: "sim".into(),
            listen: vec![SocketAddr::new(ip_of(self.host), PORT)],
            advertise: vec![SocketAddr::new(ip_of(self.host), PORT)],
            bootstrap: bootstrap.map(|entry| entry.parse::<Bootstrap>().expect("an address")).collect(),
            outbox: OutboxLimits { data_bytes: 64 << 10, data_frames: 64, control_frames: 16 },
            seed: Some(self.drawn(life, 2)),
            ..NetConfig::default()
        }
    }
}

/// The content of a broadcast: its number and length determine its bytes, so received bytes can be compared.
fn letter(host: usize, life: usize, number: u32, size: usize) -> Vec<u8> {
    let head = [host as u32, life as u32, number];
    let mut bytes: Vec<u8> = head.iter().flat_map(|part| part.to_le_bytes()).collect();
    bytes.extend((0..size).map(|at| (at as u32).wrapping_mul(number | 1) as u8));
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(number) = bytes.get(8..12) else { return false };
    let number = u32::from_le_bytes(number.try_into().expect("four bytes")) | 1;
    bytes[12..].iter().enumerate().all(|(at, byte)| (at as u32).wrapping_mul(number) as u8 == *byte)
}

/// Runs one process from start to end. A crash drops the future.
pub(crate) async fn run(machine: Arc<Machine>) -> turmoil::Result {
    let life_number = machine.lives.lock().len();
    if life_number == 0 && !machine.roomy {
        // Hosts that start together would tick together, and a host with an ended fault would be dialled at once.
        tokio::time::sleep(Duration::from_millis(machine.drawn(0, 5) % STAGGER_MS)).await;
    }
    let clock = TokioClock::starting_at(EPOCH + now());
    clock.step_wall(match machine.wall_ms.load(Relaxed) {
        i64::MIN => -i64::try_from(clock.unix().as_millis()).expect("within ten years of the epoch"),
        by_ms => by_ms,
    });
    let state =
        NodeState::new(machine.ids[machine.host], machine.limits(life_number), Arc::clone(&clock) as _, None);
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let life = Arc::new(Life {
        state: state.clone(),
        clock,
        orders,
        ended: AtomicBool::new(false),
        since: now(),
        saves: OnceLock::new(),
        handed_over: Mutex::default(),
    });
    machine.lives.lock().push(Arc::clone(&life));

    let transport =
        Plain { host: machine.host, id: machine.ids[machine.host], weather: Arc::clone(&machine.weather) };
    let config = machine.net_config(life_number);
    let net =
        Arc::new(Net::start_over(Arc::new(transport), config, state.clone(), handlers(&machine)).await?);
    let judge = Arc::new(Judge {
        machine: Arc::clone(&machine),
        state: state.clone(),
        net: Arc::downgrade(&net),
        last_tick: Mutex::new(None),
    });
    let (at_tick, living) = (Arc::clone(&judge), Arc::downgrade(&life));
    let options = Options {
        interval: machine.interval,
        dialer: Some(net.dialer()),
        executor: Executor::Inline,
        stopwatch: Some(Box::new(|| Duration::ZERO)),
        secret: machine.drawn(life_number, 3),
        after_tick: Some(Box::new(move |_, report| {
            at_tick.after(report);
            if let Some(life) = living.upgrade() {
                *life.handed_over.lock() = reached(&life.state.book.entries());
                at_tick.machine.settle_saves(&life);
            }
        })),
        data: Some(DataOptions { folder: Arc::new(machine.disk.data_folder()?), drop_in: None }),
        ..Options::default()
    };
    let mut phases = Config::default().phases;
    // In ten minutes it would not run once, and what it forgets is what matters.
    phases.exchange_cleanup.schedule = Schedule::every(2);
    if machine.roomy {
        phases.reconnect.settings.target = HOSTS as u32;
    }
    let maintenance = Maintenance::start(&state, builtins(&phases), options)?;
    let reports = maintenance.handle().reports();
    *life.handed_over.lock() = machine.look_at_restored(&state.book.entries());
    if let Some(saves) = maintenance.pending_saves() {
        _ = life.saves.set(saves);
    }
    let supply = tokio::spawn(supply(Arc::clone(&net), state.clone(), reports));
    let talk = tokio::spawn(talk(Arc::clone(&machine), Arc::clone(&net), state.clone(), life_number));

    let mut leaked = None;
    loop {
        tokio::select! {
            biased;
            order = ordered.recv() => match order {
                Some(Order::SayMuch) => {
                    let (machine, net) = (Arc::clone(&machine), Arc::clone(&net));
                    tokio::spawn(say_much(machine, net, life_number));
                }
                Some(Order::LeakSlot) => leaked = state.pool.admit(Direction::Outbound, SocketAddr::new(ip_of(0), 1)).ok(),
                Some(Order::Panic) => _ = tokio::spawn(async { panic!("on purpose") }),
                Some(Order::Stall(time)) => tokio::time::advance(time).await,
                Some(Order::Leave) | None => break,
            },
            () = tokio::time::sleep(Duration::from_secs(1)) => judge.look(&maintenance),
        }
    }

    supply.abort();
    talk.abort();
    // In the order of a real node: refuse newcomers, stop the beats, say goodbye.
    state.pool.refuse_newcomers();
    maintenance.stop().await;
    net.shutdown(DEADLINE).await;
    judge.afterwards();
    drop(leaked);
    if machine.disk.writes() == Writes::Work {
        *machine.saved.lock() = reached(&state.book.entries());
    }
    life.ended.store(true, Relaxed);
    Ok(())
}

fn handlers(machine: &Arc<Machine>) -> Handlers {
    let hearing = Arc::clone(machine);
    Handlers::new()
        .on_broadcast("news", move |_, payload| {
            if !is_whole(payload) {
                hearing.complain("a broadcast came other than it was sent");
            }
            hearing.tallies.delivered.fetch_add(1, Relaxed);
            if !hearing.chatty
                && let Some(number) = payload.get(8..12)
            {
                let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
                hearing.heard.lock().push((number, now()));
            }
            BroadcastVerdict::Relay
        })
        .on_request("echo", |_, payload: Bytes| async move {
            // Some answers take a while, so that requests are open when a connection ends.
            tokio::time::sleep(Duration::from_millis(u64::from(payload[0]) * 8)).await;
            Ok(payload)
        })
}

/// The traffic of an application: broadcasts, a burst of them now and then, and requests.
async fn talk(machine: Arc<Machine>, net: Arc<Net>, state: NodeState, life: usize) {
    if !machine.chatty {
        return;
    }
    let mut random = Rng::new(machine.drawn(life, 4));
    for number in 0_u32.. {
        tokio::time::sleep(Duration::from_millis(6000 + random.below(30_000))).await;
        let burst = if random.below(8) == 0 { 24 } else { 1 };
        for part in 0..burst {
            let size = 100 + random.below(if burst > 1 { 5000 } else { 600 }) as usize;
            let bytes = letter(machine.host, life, number * 32 + part, size);
            // A node may refuse by its own rate window.
            if let Ok(sent) = net.broadcast("news", &bytes, Audience::All) {
                machine.tallies.queue_full.fetch_add(sent.full.into(), Relaxed);
            }
        }
        let connected = state.pool.connected_among(machine.ids.iter());
        let peers: Vec<PeerId> = machine
            .ids
            .iter()
            .zip(connected)
            .filter(|(_, connected)| *connected)
            .map(|(id, _)| *id)
            .collect();
        for _ in 0..random.below(3) {
            if peers.is_empty() {
                break;
            }
            let peer = peers[random.below(peers.len() as u64) as usize];
            let size = 1 + random.below(2000) as usize;
            let question = vec![random.below(256) as u8; size];
            tokio::spawn(ask(Arc::clone(&machine), Arc::clone(&net), peer, question));
        }
    }
}

async fn say_much(machine: Arc<Machine>, net: Arc<Net>, life: usize) {
    for number in 0..MUCH {
        if let Ok(sent) = net.broadcast("news", &letter(machine.host, life, number, 4096), Audience::All) {
            machine.tallies.queue_full.fetch_add(sent.full.into(), Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(machine: Arc<Machine>, net: Arc<Net>, peer: PeerId, question: Vec<u8>) {
    let asked = now();
    let limit = Duration::from_secs(10);
    match net.request(peer, "echo", &question, limit).await {
        Ok(answer) if answer == question => _ = machine.tallies.answered.fetch_add(1, Relaxed),
        Ok(_) => machine.complain("an answer belongs to another question"),
        Err(RequestError::NotHandled | RequestError::Failed(_) | RequestError::BadKind(_)) => {
            machine.complain("a request that is handled was said not to be");
        }
        Err(_) => _ = machine.tallies.unanswered.fetch_add(1, Relaxed),
    }
    if now().saturating_sub(asked) > limit + Duration::from_secs(1) {
        machine.complain("a request took longer than its time-out");
    }
}

/// Keeps the address book supplied, as a complete node does.
async fn supply(net: Arc<Net>, state: NodeState, mut reports: broadcast::Receiver<Arc<BeatReport>>) {
    let mut urgent = 1;
    loop {
        if u32::is_power_of_two(urgent) {
            net.resolve_bootstrap().await;
        }
        match reports.recv().await {
            Ok(report) if report.urgent > 0 => urgent += 1,
            Ok(_) => {
                urgent = 0;
                if state.book.is_short_of_addresses(&state.pool, ENOUGH_TO_DIAL) {
                    net.ask_for_addresses();
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Checks the invariants of one process.
struct Judge {
    machine: Arc<Machine>,
    state: NodeState,
    net: std::sync::Weak<Net>,
    last_tick: Mutex<Option<u32>>,
}

impl Judge {
    /// Called at every tick.
    fn after(&self, report: &BeatReport) {
        self.machine.tallies.beats.fetch_add(1, Relaxed);
        let mut last = self.last_tick.lock();
        if last.is_some_and(|last| report.tick != last + 1 + report.skipped) {
            self.machine.complain(&format!("tick {} came after {last:?}", report.tick));
        }
        *last = Some(report.tick);
        drop(last);
        self.look_at(&format!("tick {}", report.tick));
    }

    /// Called every second.
    fn look(&self, maintenance: &Maintenance) {
        let pulse = maintenance.handle().stats();
        let due = (self.state.clock.mono().as_secs() / self.machine.interval.as_secs()) as u32;
        // The tick grid begins with the process. A late tick waits a moment for messages that have arrived.
        if pulse.tick() + 1 < due {
            self.machine.complain(&format!("the heart has stopped at tick {}, {due} is due", pulse.tick()));
        }
        self.look_at("between ticks");
    }

    fn look_at(&self, when: &str) {
        self.machine.tallies.checks.fetch_add(1, Relaxed);
        if let Err(what) = self.invariants() {
            self.machine.complain(&format!("{when}: {what}"));
        }
    }

    fn invariants(&self) -> Result<(), String> {
        let NodeState { pool, journal, book, broadcasts, clock } = &self.state;
        let holds = |holds: bool, what: &dyn Fn() -> String| if holds { Ok(()) } else { Err(what()) };
        let limits = pool.limits();
        let stats = pool.stats(30, Duration::MAX);
        let slots = stats.total + stats.handshaking + stats.closing;
        holds(pool.removals() == journal.disconnects(), &|| {
            format!("{} removals, {} disconnects in the journal", pool.removals(), journal.disconnects())
        })?;
        holds(stats.total == pool.live() && stats.closing == pool.closing(), &|| {
            format!("counted {stats:?}, told {} live and {} closing", pool.live(), pool.closing())
        })?;
        holds(
            slots <= limits.capacity && stats.inbound <= limits.inbound && stats.outbound <= limits.outbound,
            &|| format!("{stats:?} is over {limits:?}"),
        )?;
        let known = pool.connected_among(self.machine.ids.iter());
        let connected = known.iter().filter(|connected| **connected).count() as u32;
        holds(connected == stats.total && !known[self.machine.host], &|| {
            format!("{} connections to {connected} hosts", stats.total)
        })?;
        if let Some(net) = self.net.upgrade() {
            let owners = net.tasks().saturating_sub(net.local_addrs().len());
            holds(slots as usize <= owners, &|| {
                format!("{slots} slots are taken, {owners} tasks can own them")
            })?;
        }
        holds(book.len() <= HOSTS && book.dialing() <= limits.outbound, &|| {
            format!("{} addresses, {} being dialled", book.len(), book.dialing())
        })?;
        self.no_good_address_is_lost()?;
        holds(broadcasts.totals(clock.coarse()).held <= 2000, &|| "too many broadcasts are held".into())?;
        let lost = journal.disconnects_by(Cause::OwnerDropped) + journal.disconnects_by(Cause::ProtocolError);
        holds(lost == 0, &|| "a session panicked, or a peer was found to break the rules".into())
    }

    /// Whatever the clocks do: an address where this host was connected stays in its book.
    fn no_good_address_is_lost(&self) -> Result<(), String> {
        let entries = self.state.book.entries();
        let mut good = self.machine.good.lock();
        good.append(&mut reached(&entries));
        let lost = good.iter().find(|address| !entries.iter().any(|entry| entry.address == **address));
        lost.map_or(Ok(()), |address| Err(format!("the good address {address} is lost")))
    }

    /// Called after everything has stopped.
    fn afterwards(&self) {
        let pool = &self.state.pool;
        let stats = pool.stats(30, Duration::MAX);
        let tasks = self.net.upgrade().map_or(0, |net| net.tasks());
        if stats.total + stats.handshaking + stats.closing > 0 || tasks > 0 {
            self.machine.complain(&format!("after the shutdown {tasks} tasks are left, and {stats:?}"));
        }
        if pool.removals() != self.state.journal.disconnects() {
            self.machine.complain("after the shutdown removals and disconnects differ");
        }
    }
}
