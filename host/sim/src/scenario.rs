//! Runs one seed from start to end: starts the hosts, applies and ends the faults, checks whether the mesh recovers,
//! stops all hosts, and reports what went wrong.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_sdk::rng::Rng;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::disk::{SimulatedDisk, Writes};
use crate::faults::{Exit, Fault, How, Trouble, draw, draw_clocks, draw_disks, everybody};
use crate::host::{self, Life, Machine, Order, Tallies};
use crate::weather::{Mask, Weather, bit, ip_of};

pub const HOSTS: usize = 10;
/// Length of a run in simulated time.
pub const LENGTH: Duration = Duration::from_secs(600);

/// Simulated time advances by this much per step. Packets take whole steps, so there are no finer times. All deadlines
/// of the host are a hundred times longer.
const STEP: Duration = Duration::from_millis(50);
/// No faults during this time, so that the mesh can form.
const CALM: Duration = Duration::from_secs(60);
/// When the last fault ends.
const HEALED: Duration = Duration::from_secs(390);
/// A node without connections must have one within this time, once other hosts are reachable.
const RECOVERY: Duration = Duration::from_secs(5);
/// After the last fault, all hosts must be connected to each other within this time, directly or over others. A mute
/// connection is given up after 90 to 120 s, and the next one or two ticks dial again.
const MESH: Duration = Duration::from_secs(180);
/// Tells the random numbers of clocks from those of the other faults.
const CLOCKS: u64 = 0x636c_6f63_6b73;
/// The same for disks.
const DISKS: u64 = 0x0064_6973_6b73;
/// When a test of the judges breaks an invariant.
const SABOTAGE: Duration = Duration::from_secs(100);
/// When all hosts must shut down.
const STOP: Duration = Duration::from_secs(590);
/// Least and greatest latency of packets; most have less than the greatest.
const LATENCY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(150));
/// Other hosts that must be up, without faults and with a free slot, before an isolated host is expected to find one;
/// all known hosts, if it knows fewer. Three full hosts cannot accept a newcomer.
const ENOUGH: usize = 5;

/// The result of one seed.
pub struct Outcome {
    pub seed: u64,
    /// Violated invariants, each with host and time. Empty if all is well.
    pub complaints: Vec<String>,
    /// Hash over all records of all journals, in hexadecimal.
    pub hash: Option<String>,
    pub figures: Figures,
}

/// Counts and times of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    pub faults: u64,
    pub processes: u64,
    pub disconnects: u64,
    pub delivered: u64,
    pub queue_full: u64,
    pub answered: u64,
    pub unanswered: u64,
    pub beats: u64,
    pub checks: u64,
    /// Ticks after which the state was on disk, and those after which it was not.
    pub saved: u64,
    pub unsaved: u64,
    /// How often a host was without any connection.
    pub isolations: u64,
    /// The longest time without a connection after all faults had ended for that host.
    pub recovered_within: Duration,
    /// Time from the end of the faults to a connected mesh.
    pub mesh_within: Duration,
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Tokio catches a task's panic, so panics are counted in the panic hook.
fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
}

/// What a run prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    Nothing,
    /// The faults of the hosts, and how many connections they have.
    Faults,
    /// Also the journal of each process when it ends, with times from its wall clock.
    Journals,
}

/// Runs `seed`, with a hash over all journals at the end if `hash` is set.
pub fn run(seed: u64, hash: bool, tell: Tell) -> Outcome {
    judge(World::new(seed, hash, tell))
}

/// A violation of an invariant, for tests of the judges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// A slot is taken and never given back.
    SlotLeaked,
    /// Host 9 gets no packets from second 100 on, although no fault is scheduled.
    CutOff,
    /// A task of a host panics.
    Panic,
    /// Host 9 is killed, and its disk has lost what was saved.
    DiskEmptied,
}

/// Runs `seed` with one sabotage and no faults.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Outcome {
    let mut world = World::new(seed, false, Tell::Nothing);
    world.coming.clear();
    world.sabotage = Some(sabotage);
    judge(world)
}

fn judge(mut world: World) -> Outcome {
    count_panics();
    let panics = PANICS.with(Cell::get);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    if ended.is_err() {
        world.complain("the simulation itself panicked");
    } else if PANICS.with(Cell::get) > panics {
        world.complain("something panicked in a host");
    }
    world.outcome()
}

/// The current settings of the links between two hosts.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    /// Whether packets are lost, from the smaller host to the greater one and back.
    cut: (bool, bool),
    held: bool,
}

/// What an outside observer knows about one host.
#[derive(Clone, Copy)]
struct Standing {
    up: bool,
    /// Since when it has no connection.
    alone: Option<Duration>,
    /// Since when it has no fault and other hosts are reachable.
    clear: Duration,
    told: bool,
}

struct World {
    seed: u64,
    sim: turmoil::Sim<'static>,
    machines: Vec<Arc<Machine>>,
    weather: Arc<Weather>,
    complaints: Arc<Mutex<Vec<String>>>,
    tallies: Arc<Tallies>,
    coming: Vec<Trouble>,
    active: Vec<Trouble>,
    /// Pairs with packets that wait for a retransmission.
    blips: Vec<(usize, usize, Duration)>,
    links: Vec<Link>,
    standings: Vec<Standing>,
    random: Rng,
    figures: Figures,
    hash: Option<Sha256>,
    tell: Tell,
    sabotage: Option<Sabotage>,
}

impl World {
    fn new(seed: u64, hash: bool, tell: Tell) -> Self {
        let mut random = Rng::new(seed);
        let mut coming = draw(&mut random, CALM, HEALED);
        coming.extend(draw_clocks(&mut Rng::new(seed ^ CLOCKS), CALM, HEALED));
        coming.extend(draw_disks(&mut Rng::new(seed ^ DISKS), CALM, HEALED));
        coming.sort_by_key(|trouble| trouble.from);
        let weather = Arc::new(Weather::new(HOSTS));
        let (ids, tallies) = (Arc::new(host::ids(seed)), Arc::new(Tallies::default()));
        let complaints = Arc::new(Mutex::default());
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(STEP)
            .simulation_duration(LENGTH * 2)
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .build();
        let machine = |host| {
            Arc::new(Machine {
                host,
                seed,
                ids: Arc::clone(&ids),
                weather: Arc::clone(&weather),
                interval: Duration::from_secs(30),
                roomy: false,
                chatty: true,
                heard: Mutex::default(),
                tallies: Arc::clone(&tallies),
                lives: Mutex::default(),
                disk: SimulatedDisk::new().expect("a temporary folder"),
                good: Mutex::default(),
                saved: Mutex::default(),
                wall_ms: AtomicI64::new(0),
                complaints: Arc::clone(&complaints),
            })
        };
        let machines: Vec<_> = (0..HOSTS).map(machine).collect();
        for machine in &machines {
            let machine = Arc::clone(machine);
            sim.host(ip_of(machine.host), move || host::run(Arc::clone(&machine)));
        }
        let standing = Standing { up: true, alone: None, clear: Duration::ZERO, told: false };
        Self {
            seed,
            sim,
            machines,
            weather,
            complaints,
            tallies,
            figures: Figures { faults: coming.len() as u64, ..Figures::default() },
            coming,
            active: Vec::new(),
            blips: Vec::new(),
            links: vec![Link::default(); HOSTS * HOSTS],
            standings: vec![standing; HOSTS],
            random,
            hash: hash.then(Sha256::new),
            tell,
            sabotage: None,
        }
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn complain(&self, what: &str) {
        self.complaints.lock().push(format!("at {:.3} s: {what}", self.now().as_secs_f64()));
    }

    fn say(&self, words: impl FnOnce() -> String) {
        if self.tell != Tell::Nothing {
            println!("{:>8.2} s  {}", self.now().as_secs_f64(), words());
        }
    }

    fn run(&mut self) {
        let mut mesh = None;
        while self.now() < STOP {
            self.change_faults();
            if self.now() >= SABOTAGE
                && let Some(sabotage) = self.sabotage.take()
            {
                self.commit(sabotage);
            }
            self.step();
            let now = self.now();
            self.look_for_the_lonely();
            if now >= HEALED && mesh.is_none() && self.is_one_piece() {
                mesh = Some(now - HEALED);
                self.figures.mesh_within = now - HEALED;
                self.say(|| "the mesh is in one piece".into());
            }
            if now == HEALED + MESH && !self.is_one_piece() {
                self.complain(&format!("the mesh has not healed: {:?}", self.graph()));
            }
            if self.tell != Tell::Nothing && now.as_millis().is_multiple_of(30_000) {
                let live: Vec<_> = (0..HOSTS).map(|host| self.live(host)).collect();
                self.say(|| format!("connections {live:?}"));
            }
        }
        self.look_at_both_ends();
        self.machines.iter().for_each(|machine| self.order(machine.host, Order::Leave));
        while self.now() < LENGTH {
            self.step();
        }
        for host in 0..HOSTS {
            let ended = self.machines[host].life().is_some_and(|life| life.ended.load(Relaxed));
            if !ended {
                self.complain(&format!("host {host} has not stopped"));
            }
            self.seal(host);
        }
    }

    fn commit(&mut self, sabotage: Sabotage) {
        match sabotage {
            Sabotage::SlotLeaked => self.order(9, Order::LeakSlot),
            Sabotage::Panic => self.order(9, Order::Panic),
            Sabotage::DiskEmptied => {
                self.crash(9);
                self.machines[9].disk.wipe();
                self.sim.bounce(ip_of(9));
                self.standings[9].up = true;
            }
            Sabotage::CutOff => {
                for other in 0..9 {
                    self.weather.set_unheard(other, bit(9));
                    self.sim.partition(ip_of(other), ip_of(9));
                }
            }
        }
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            self.complain(&format!("a host ended with {error}"));
        }
    }

    fn live(&self, host: usize) -> Option<u32> {
        self.running(host).map(|life| life.state.pool.live())
    }

    fn running(&self, host: usize) -> Option<Arc<Life>> {
        let life = self.machines[host].life()?;
        (self.standings[host].up && !life.ended.load(Relaxed)).then_some(life)
    }

    fn order(&self, host: usize, order: Order) {
        if let Some(life) = self.running(host) {
            // A process that has ended needs no order.
            _ = life.orders.send(order);
        }
    }

    /// Ends faults that are over and begins those that are due.
    fn change_faults(&mut self) {
        let now = self.now();
        let before = self.active.len() + self.blips.len();
        let over: Vec<Trouble> = self.active.extract_if(.., |trouble| trouble.until <= now).collect();
        self.blips.retain(|(_, _, until)| *until > now);
        for trouble in &over {
            self.say(|| format!("over: {:?}", trouble.fault));
            self.lift(trouble.fault);
        }
        let mut changed = !over.is_empty() || before != self.active.len() + self.blips.len();
        while self.coming.first().is_some_and(|trouble| trouble.from <= now) {
            let trouble = self.coming.remove(0);
            self.say(|| format!("{:?} for {:?}", trouble.fault, trouble.until - trouble.from));
            self.befall(trouble);
            changed = true;
        }
        changed |= self.lose_packets();
        if changed {
            self.set_links();
        }
    }

    fn befall(&mut self, trouble: Trouble) {
        let troubled = trouble.fault.troubles();
        for host in (0..HOSTS).filter(|host| troubled & bit(*host) != 0) {
            self.standings[host].clear = self.now();
        }
        match trouble.fault {
            Fault::Break { side } => {
                return self.across(side, |world, a, b| world.weather.break_between(a, b));
            }
            Fault::WallStep { host, by_ms } => {
                return self.running(host).into_iter().for_each(|life| life.clock.step_wall(by_ms));
            }
            Fault::WallAtStart { host, by_ms } => {
                return self.machines[host].wall_ms.store(by_ms, Relaxed);
            }
            Fault::Suspend { host, time } => {
                return self.running(host).into_iter().for_each(|life| life.clock.suspend(time));
            }
            Fault::Disk { host, writes } => self.machines[host].disk.set_writes(writes),
            Fault::Stall { host, time } => return self.order(host, Order::Stall(time)),
            Fault::Far { side, latency } => self.across(side, |world, a, b| {
                world.sim.set_link_max_message_latency(ip_of(a), ip_of(b), latency);
            }),
            Fault::Down { host, exit: Exit::Orderly, .. } => {
                // Otherwise the end of its process waits for its deadline, in real time.
                if self.machines[host].disk.writes() == Writes::Hang {
                    self.machines[host].disk.set_writes(Writes::Fail);
                }
                self.order(host, Order::Leave);
                self.standings[host].up = false;
            }
            Fault::Down { host, exit, .. } => {
                if exit == Exit::PowerLoss {
                    self.active.push(trouble);
                    self.set_links();
                    self.active.pop();
                }
                self.crash(host);
            }
            Fault::Split { .. }
            | Fault::Apart { .. }
            | Fault::OneWay { .. }
            | Fault::Lossy { .. }
            | Fault::Deaf { .. } => {}
        }
        self.active.push(trouble);
    }

    fn lift(&mut self, fault: Fault) {
        let now = self.now();
        let troubled = fault.troubles();
        for host in (0..HOSTS).filter(|host| troubled & bit(*host) != 0) {
            self.standings[host].clear = now;
        }
        match fault {
            Fault::Far { side, .. } => self.across(side, |world, a, b| {
                world.sim.set_link_max_message_latency(ip_of(a), ip_of(b), LATENCY.1);
            }),
            Fault::Down { host, exit, keeps_book } => {
                if exit == Exit::Orderly {
                    if !self.machines[host].life().is_some_and(|life| life.ended.load(Relaxed)) {
                        self.complain(&format!("host {host} has not left"));
                    }
                    self.seal(host);
                }
                let machine = &self.machines[host];
                machine.disk.set_writes(Writes::Work);
                if !keeps_book {
                    machine.disk.wipe();
                    machine.saved.lock().clear();
                }
                // Its links first: it must not start with links that are still cut.
                self.set_links();
                self.sim.bounce(ip_of(host));
                self.standings[host] = Standing { up: true, alone: None, clear: now, told: false };
            }
            Fault::Disk { host, .. } => {
                self.machines[host].disk.set_writes(Writes::Work);
                self.running(host).into_iter().for_each(|life| self.machines[host].settle_saves(&life));
            }
            _ => {}
        }
    }

    fn crash(&mut self, host: usize) {
        self.seal(host);
        self.machines[host].disk.kill();
        self.standings[host].up = false;
        self.sim.crash(ip_of(host));
    }

    /// Simulates retransmissions on lossy links: TCP stops for 200 ms to 1.6 s, and sometimes gives up.
    fn lose_packets(&mut self) -> bool {
        let lossy: Vec<Mask> = self
            .active
            .iter()
            .filter_map(|trouble| match trouble.fault {
                Fault::Lossy { side } => Some(side),
                _ => None,
            })
            .collect();
        let before = self.blips.len();
        for side in lossy {
            self.across(side, |world, a, b| match world.random.below(4000) {
                0 => world.weather.break_between(a, b),
                1..40 => {
                    let pause = Duration::from_millis(200 << world.random.below(4));
                    world.blips.push((a, b, world.now() + pause));
                }
                _ => {}
            });
        }
        self.blips.len() > before
    }

    fn across(&mut self, side: Mask, mut each: impl FnMut(&mut Self, usize, usize)) {
        for (a, b) in pairs().filter(|(a, b)| (side & bit(*a) == 0) != (side & bit(*b) == 0)) {
            each(self, a, b);
        }
    }

    /// Sets all links as the faults require.
    fn set_links(&mut self) {
        let mut unheard = [0; HOSTS];
        let mut deaf = 0;
        let mut held = [0; HOSTS];
        for trouble in &self.active {
            match trouble.fault {
                Fault::Split { side, how } => {
                    let table = if how == How::Dropped { &mut unheard } else { &mut held };
                    for (host, mask) in table.iter_mut().enumerate() {
                        *mask |= if side & bit(host) == 0 { side } else { everybody() & !side };
                    }
                }
                Fault::Apart { how } => {
                    let table = if how == How::Dropped { &mut unheard } else { &mut held };
                    table.iter_mut().enumerate().for_each(|(host, mask)| *mask |= everybody() & !bit(host));
                }
                Fault::OneWay { side } => {
                    for (host, mask) in unheard.iter_mut().enumerate() {
                        *mask |= if side & bit(host) == 0 { 0 } else { everybody() & !side };
                    }
                }
                Fault::Deaf { host } => deaf |= bit(host),
                Fault::Down { host: down, exit: Exit::PowerLoss, .. } => {
                    for (host, mask) in unheard.iter_mut().enumerate() {
                        *mask |= if host == down { everybody() & !bit(down) } else { bit(down) };
                    }
                }
                _ => {}
            }
        }
        for (a, b, _) in &self.blips {
            held[*a] |= bit(*b);
            held[*b] |= bit(*a);
        }
        for (a, b) in pairs() {
            let cut = (unheard[a] & bit(b) != 0, unheard[b] & bit(a) != 0);
            let held = cut == (false, false) && (held[a] & bit(b) != 0 || held[b] & bit(a) != 0);
            self.set_link(a, b, Link { cut, held });
        }
        for host in 0..HOSTS {
            self.weather.set_unheard(host, unheard[host] | held[host]);
        }
        self.weather.set_deaf(deaf);
    }

    /// Turmoil's ways to cut a link cannot be combined, so the old one is undone first.
    fn set_link(&mut self, a: usize, b: usize, wanted: Link) {
        let link = std::mem::replace(&mut self.links[a * HOSTS + b], wanted);
        if link == wanted {
            return;
        }
        let (a, b): (IpAddr, IpAddr) = (ip_of(a), ip_of(b));
        if link.held {
            self.sim.release(a, b);
        }
        for (cut, wanted, from, to) in [(link.cut.0, wanted.cut.0, a, b), (link.cut.1, wanted.cut.1, b, a)] {
            match (cut, wanted) {
                (true, false) => self.sim.repair_oneway(from, to),
                (false, true) => self.sim.partition_oneway(from, to),
                _ => {}
            }
        }
        if wanted.held {
            self.sim.hold(a, b);
        }
    }

    /// A host without faults that can reach others must not be without a connection for longer than [`RECOVERY`].
    fn look_for_the_lonely(&mut self) {
        let now = self.now();
        let troubled = self.active.iter().fold(0, |mask, trouble| mask | trouble.fault.troubles());
        let well = |world: &Self, host: usize| world.standings[host].up && troubled & bit(host) == 0;
        for host in 0..HOSTS {
            let Some(live) = self.live(host) else { continue };
            if live > 0 {
                self.standings[host].alone = None;
                self.standings[host].told = false;
                continue;
            }
            let known = self.known_to(host);
            let ready = (0..HOSTS)
                .filter(|other| known & bit(*other) != 0 && well(self, *other) && self.has_room(*other));
            let enough = ready.count() >= ENOUGH.min(known.count_ones() as usize).max(1);
            let standing = &mut self.standings[host];
            if standing.alone.is_none() {
                standing.alone = Some(now);
                self.figures.isolations += 1;
            }
            if troubled & bit(host) != 0 || !enough {
                standing.clear = now;
                continue;
            }
            let since = standing.alone.unwrap_or(now).max(standing.clear);
            self.figures.recovered_within = self.figures.recovered_within.max(now - since);
            if now - since > RECOVERY && !standing.told {
                standing.told = true;
                let since = since.as_secs_f64();
                self.complain(&format!(
                    "host {host} is alone, and nothing has kept it from others since {since:.3} s"
                ));
            }
        }
    }

    /// The hosts whose addresses a host has.
    fn known_to(&self, host: usize) -> Mask {
        let Some(life) = self.running(host) else { return 0 };
        let entries = life.state.book.entries();
        let known = entries.iter().filter_map(|entry| self.weather.host_at(entry.address.ip()));
        known.chain(0..host::BOOTSTRAP).fold(0, |mask, known| mask | bit(known)) & !bit(host)
    }

    /// Whether a host can take one more connection.
    fn has_room(&self, host: usize) -> bool {
        let Some(life) = self.running(host) else { return false };
        let pool = &life.state.pool;
        let (stats, limits) = (pool.stats(0, Duration::MAX), pool.limits());
        let unsettled = stats.handshaking + stats.closing;
        stats.inbound + unsettled < limits.inbound
            && stats.total + unsettled < limits.capacity
            && stats.handshaking < limits.handshakes
    }

    /// For each running host, the hosts that it reports as connected.
    fn graph(&self) -> Vec<Mask> {
        let ids = Arc::clone(&self.machines[0].ids);
        (0..HOSTS)
            .map(|host| {
                let Some(life) = self.running(host) else { return 0 };
                let connected = life.state.pool.connected_among(ids.iter());
                connected
                    .iter()
                    .enumerate()
                    .fold(0, |mask, (at, yes)| if *yes { mask | bit(at) } else { mask })
            })
            .collect()
    }

    /// Whether every host reaches every other over connections that both ends hold.
    fn is_one_piece(&self) -> bool {
        let graph = self.graph();
        let mut reached = bit(0);
        loop {
            let next = (0..HOSTS).filter(|host| reached & bit(*host) != 0).fold(reached, |mask, host| {
                let mutual = (0..HOSTS).filter(|other| graph[*other] & bit(host) != 0);
                mask | mutual.fold(0, |mask, other| mask | bit(other)) & graph[host]
            });
            if next == reached {
                return reached == everybody();
            }
            reached = next;
        }
    }

    /// After three minutes without faults no host may hold a connection that the other end lacks.
    fn look_at_both_ends(&self) {
        let graph = self.graph();
        for (a, b) in pairs() {
            if (graph[a] & bit(b) != 0) != (graph[b] & bit(a) != 0) {
                self.complain(&format!("hosts {a} and {b} do not agree whether they are connected"));
            }
        }
        if !self.is_one_piece() {
            self.complain(&format!("the mesh has fallen apart again: {graph:?}"));
        }
    }

    /// Adds the journal of a host's last process to the hash.
    fn seal(&mut self, host: usize) {
        let Some(life) = self.machines[host].life() else { return };
        self.figures.processes += 1;
        self.figures.disconnects += life.state.journal.disconnects();
        if self.tell == Tell::Journals {
            self.print_journal(host, &life);
        }
        let Some(hash) = &mut self.hash else { return };
        hash.update([host as u8]);
        hash.update(life.since.as_nanos().to_le_bytes());
        for record in life.state.journal.select(usize::MAX, |_| true) {
            let line = serde_json::to_vec(&record).expect("a record is plain data");
            hash.update((line.len() as u64).to_le_bytes());
            hash.update(&line);
        }
    }

    fn print_journal(&self, host: usize, life: &Life) {
        for record in life.state.journal.select(usize::MAX, |_| true) {
            let at = Duration::from_millis(record.unix_ms).saturating_sub(host::EPOCH).as_secs_f64();
            let peer = record.peer.and_then(|peer| self.machines[0].ids.iter().position(|id| *id == peer));
            let (what, reason, outcome) = (record.what, &record.reason, &record.outcome);
            let (by, conn, address) = (&record.by, record.conn, record.address);
            println!(
                "{at:>8.3} host {host} {what:?} peer {peer:?} conn {conn:?} at {address:?} by {by}: {reason}: {outcome}"
            );
        }
    }

    fn outcome(mut self) -> Outcome {
        let complaints = std::mem::take(&mut *self.complaints.lock());
        let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let tallies = &self.tallies;
        Outcome {
            seed: self.seed,
            complaints,
            hash: self.hash.take().map(|hash| hex(&hash.finalize())),
            figures: Figures {
                delivered: tallies.delivered.load(Relaxed),
                queue_full: tallies.queue_full.load(Relaxed),
                answered: tallies.answered.load(Relaxed),
                unanswered: tallies.unanswered.load(Relaxed),
                beats: tallies.beats.load(Relaxed),
                checks: tallies.checks.load(Relaxed),
                saved: tallies.saved.load(Relaxed),
                unsaved: tallies.unsaved.load(Relaxed),
                ..self.figures
            },
        }
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..HOSTS).flat_map(|a| (a + 1..HOSTS).map(move |b| (a, b)))
}
