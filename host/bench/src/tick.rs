//! The group `tick`: a complete beat of the four built-in phases, and the cost of its parts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper::book::{AddressSource, Book, BookLimits};
use groundskeeper::broadcasts::{BroadcastLimits, Broadcasts};

use groundskeeper::config::Config;
use groundskeeper::cycle::{Beat, BeatContext, BeatReport, Cycle, SilenceCount, Thresholds, TickSnapshot};
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::engine::{Executor, PhaseThread};
use groundskeeper::node::NodeState;
use groundskeeper::node::builtins;
use groundskeeper::registry::{PriorState, Registry};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::RwLock;

use crate::Effort;
use crate::ours::{Filled, Kind, address, kind};
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{cpu_micros, median, mix, nanos, used};
use crate::seeds::{OneMap, SeedPool, Shared, Surroundings, ThreeMaps, ip, tick};

pub const HOW: &str = "tick: medians of interleaved rounds (15, 7 at 1,000,000; 5 and 3 with --quick); all four phases due, \
    0.1 % stale, 20 % idle for 40 s, the rest seen just now; the pings are handed out without the ticker's pauses.";

const GROUP: &str = "tick";
const INTERVAL: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(40);
const STALE: Duration = Duration::from_secs(100);
/// Remembered broadcasts and known addresses, here and in the baselines.
const AROUND: usize = 1_000;
/// The ticker sends this many pings at once.
const PINGS_AT_ONCE: usize = 4096;
/// Every built-in is due after this many ticks.
const ALL_DUE: u32 = 120;

/// The built-ins with a node's schedule.
pub fn built_ins() -> Registry {
    let specs = builtins(&Config::default().phases);
    Registry::new(specs, Vec::new(), |_| 0, &PriorState { interval: INTERVAL, ..PriorState::default() })
        .expect("the built-ins' defaults are valid")
}

pub fn world(ours: &Filled) -> BeatContext {
    let book = Book::new(
        BookLimits { capacity: AROUND, per_source_group: AROUND, ..BookLimits::default() },
        Arc::clone(&ours.clock),
        Arc::clone(&ours.journal),
    );
    // Far from the peers' own addresses.
    (0..AROUND).for_each(|at| _ = book.learn(address(at + 50_000_000), None, AddressSource::Bootstrap));
    let broadcasts = Broadcasts::new(BroadcastLimits::default());
    (0..AROUND as u64).for_each(|at| _ = broadcasts.first_seen(digest(at), ours.clock.coarse()));
    BeatContext {
        state: NodeState {
            pool: Arc::clone(&ours.pool),
            book,
            broadcasts: Arc::new(broadcasts),
            journal: Arc::clone(&ours.journal),
            clock: Arc::clone(&ours.clock),
        },
        dialer: None,
        thresholds: Thresholds {
            healthy_above: 30,
            least: 5,
            most: u32::MAX,
            stale_after: Duration::from_secs(90),
        },
        guests: GuestCeilings::default(),
    }
}

fn digest(at: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(at).to_le_bytes());
    bytes
}

/// One tick of our design and its parts, in microseconds.
#[derive(Default)]
struct Parts {
    whole: Vec<f64>,
    cpu: Vec<f64>,
    freeze: Vec<f64>,
    phases: [Vec<f64>; 4],
    apply: Vec<f64>,
    pings: Vec<f64>,
}

impl Parts {
    fn add(&mut self, freeze: f64, beat: f64, pings: f64, report: &BeatReport) {
        self.whole.push(beat + pings);
        self.freeze.push(freeze);
        self.pings.push(pings);
        assert_eq!(report.runs.len(), 4, "all four are due");
        let mut rest = beat - freeze;
        for (phase, run) in self.phases.iter_mut().zip(&report.runs) {
            assert_eq!(run.result, "ok");
            phase.push(micros(run.took));
            rest -= micros(run.took);
        }
        self.apply.push(rest.max(0.0));
    }
}

fn micros(time: Duration) -> f64 {
    nanos(time) / 1000.0
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let made = work();
    (micros(begun.elapsed()), made)
}

/// Our design with phases on one kind of executor.
struct Ours {
    filled: Filled,
    cycle: Cycle,
    tick: u32,
    parts: Parts,
}

impl Ours {
    fn new(peers: usize, fence: Executor) -> Self {
        let filled = Filled::new(peers);
        let cycle = Cycle::new(world(&filled), built_ins(), fence, INTERVAL, 7);
        Self { filled, cycle, tick: 0, parts: Parts::default() }
    }

    fn round(&mut self, counts: bool) {
        self.filled.refill();
        self.filled.spread(IDLE, STALE);
        let BeatContext { state, thresholds, .. } = self.cycle.world();
        let (freeze, frame) =
            timed(|| TickSnapshot::take(state, *thresholds, state.clock.coarse(), SilenceCount::default()));
        drop(frame);
        self.tick += ALL_DUE;
        let cpu = cpu_micros();
        let beat =
            Beat { tick: self.tick, urgent: 0, skipped: 0, slept: Duration::ZERO, lateness: Duration::ZERO };
        let (beat, report) = timed(|| self.cycle.beat(beat));
        let (pings, ()) = timed(|| while self.cycle.send_pings(PINGS_AT_ONCE) {});
        if counts {
            self.parts.cpu.push(cpu_micros() - cpu);
            self.parts.add(freeze, beat, pings, &report);
        }
        let stale = (0..self.filled.slots.len()).filter(|&peer| kind(peer) == Kind::Stale).count();
        assert_eq!(report.tally.disconnected as usize, stale.min(4095));
    }
}

/// One design of the seeds with its surroundings.
struct Seeds<P> {
    pool: P,
    around: Surroundings,
    everyone: Vec<IpAddr>,
    shared: Shared,
    taken: Vec<f64>,
    cpu: Vec<f64>,
}

impl<P: SeedPool> Seeds<P> {
    fn new(runtime: &Runtime, peers: usize) -> Self {
        let now = Instant::now();
        Self {
            pool: runtime.block_on(P::filled(peers)),
            around: Surroundings {
                recent_broadcasts: RwLock::new((0..AROUND as u64).map(|at| (digest(at), now)).collect()),
                exchange: RwLock::new((0..AROUND).map(|at| (address(at + 50_000_000), now)).collect()),
            },
            everyone: (0..peers).map(ip).collect(),
            shared: Shared::default(),
            taken: Vec::new(),
            cpu: Vec::new(),
        }
    }

    fn round(&mut self, runtime: &Runtime, counts: bool) {
        runtime.block_on(async {
            let now = Instant::now();
            for (peer, ip) in self.everyone.iter().enumerate() {
                let seen = match kind(peer) {
                    Kind::Stale => now - STALE,
                    Kind::Idle => now - IDLE,
                    Kind::Busy => now,
                };
                if kind(peer) == Kind::Stale {
                    self.pool.insert(peer, Arc::clone(&self.shared), seen).await;
                } else {
                    self.pool.peer_seen(ip, seen).await;
                }
            }
            let (begun, cpu) = (Instant::now(), cpu_micros());
            used(tick(&self.pool, &self.around, &self.everyone).await);
            if counts {
                self.taken.push(micros(begun.elapsed()));
                self.cpu.push(cpu_micros() - cpu);
            }
        });
    }
}

pub fn run(effort: &Effort, report: &mut Report) {
    let runtime = Builder::new_current_thread().build().expect("a runtime without drivers");
    for peers in [1_000, 100_000, 1_000_000] {
        let rounds = if peers < 1_000_000 { effort.choose(15, 5) } else { effort.choose(7, 3) };
        let mut inline = Ours::new(peers, Executor::Inline);
        let mut fenced = Ours::new(peers, Executor::Thread(PhaseThread::default()));
        let mut three = Seeds::<ThreeMaps>::new(&runtime, peers);
        let mut one = Seeds::<OneMap>::new(&runtime, peers);
        for round in 0..=rounds {
            inline.round(round > 0);
            three.round(&runtime, round > 0);
            fenced.round(round > 0);
            one.round(&runtime, round > 0);
        }
        let (three, one, one_cpu) = (median(three.taken), median(one.taken), median(one.cpu));
        for (ours, fence) in [(fenced, "phases on their own thread"), (inline, "phases inline")] {
            let subject = format!("{} peers, {fence}", thousands(peers));
            let row = |measure, value| Row::cost(GROUP, measure, subject.as_str(), value, "us");
            let Parts { whole, cpu, freeze, phases, apply, pings } = ours.parts;
            let whole = median(whole);
            let target = |row: Row| if peers == 100_000 { row.reach(Reach::Times(20.0)) } else { row };
            report.push(target(
                row("whole tick", whole).against(format!("their loop, {}", ThreeMaps::NAME), three),
            ));
            report
                .push(target(row("whole tick", whole).against(format!("their loop, {}", OneMap::NAME), one)));
            report.push(
                row("whole tick, CPU time", median(cpu))
                    .against(format!("their loop, {}", OneMap::NAME), one_cpu),
            );
            report.push(row("of it: freeze", median(freeze)));
            let names =
                ["of it: reaper", "of it: reconnect", "of it: broadcast cleanup", "of it: exchange cleanup"];
            for (name, phase) in names.into_iter().zip(phases) {
                report.push(row(name, median(phase)));
            }
            report.push(row("of it: apply and the rest", median(apply)));
            report.push(row("of it: pings", median(pings)));
        }
    }
}
