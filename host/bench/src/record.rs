//! The group `record`: the cost of recording per tick in bytes and CPU time, compared with a node that does not record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use groundskeeper::book::{AddressSource, Book, BookLimits};
use groundskeeper::broadcasts::{BroadcastLimits, Broadcasts};
use groundskeeper::clock::{Clock, CoarseInstant};
use groundskeeper::cycle::{Beat, BeatContext, Cycle, Thresholds};
use groundskeeper::engine::Executor;
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::node::NodeState;
use groundskeeper::pool::{Goodbye, Link, LinkTraffic, Pool, Slot};
use groundskeeper::record::{RecordCounts, Recorder, RecorderOptions, Recording, builtin, replay};
use groundskeeper_sdk::column::{address as book_columns, peer as peer_columns};

use crate::Effort;
use crate::ours::{Rings, address, attach, empty, journal};
use crate::pool::scan::thousands;
use crate::report::{Report, Row};
use crate::rounds::{cpu_micros, median, mix, nanos};
use crate::tick::built_ins;

pub const HOW: &str = "record: a simulated day, 30 s a tick; in each tick 80 % of the peers speak, half of these answer a ping, \
    all of these carry up to 400 KiB, 0.5 % leave and others come; 1,000 known addresses, 2 % of them named anew. The same day \
    once without a recorder, once with it, once with every beat whole, in turn, tick by tick; medians over the ticks.";

const GROUP: &str = "record";
const INTERVAL: Duration = Duration::from_secs(30);
const AROUND: usize = 1_000;
/// Ticks per day.
const DAY: f64 = 2880.0;

/// A clock that advances only on request.
struct Stepped(AtomicU64);

/// So that peers can have been seen in the past.
const START: Duration = Duration::from_secs(3600);

impl Clock for Stepped {
    fn mono(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }

    fn boot(&self) -> Duration {
        self.mono()
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + self.mono()
    }
}

/// A link that counts traffic.
#[derive(Default)]
struct Busy {
    kib_in: AtomicU32,
    kib_out: AtomicU32,
}

impl Link for Busy {
    fn ping(&self) {}

    fn close(&self, _: &Goodbye) {}

    fn traffic(&self) -> LinkTraffic {
        LinkTraffic { kib_in: self.kib_in.load(Relaxed), kib_out: self.kib_out.load(Relaxed), kib_queued: 0 }
    }

    fn agent(&self) -> &str {
        "groundskeeper/0.1.0"
    }
}

struct Member {
    number: usize,
    slot: Slot,
    link: Arc<Busy>,
}

/// One node during a day.
struct Node {
    clock: Arc<Stepped>,
    pool: Arc<Pool>,
    cycle: Cycle,
    members: Vec<Member>,
    next: usize,
    tick: u32,
    file: Option<PathBuf>,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Node {
    /// With `record`, it records, and every `whole_every`-th beat is complete.
    fn new(peers: usize, record: Option<(&str, u32)>) -> Self {
        let clock = Arc::new(Stepped(AtomicU64::new(START.as_millis() as u64)));
        let journal = journal(Arc::clone(&clock) as _, Rings::AsInANode);
        let pool = empty(peers, Arc::clone(&clock) as _, Arc::clone(&journal));
        let limits = BookLimits { capacity: AROUND, per_source_group: AROUND, ..BookLimits::default() };
        let book = Book::new(limits, Arc::clone(&clock) as _, Arc::clone(&journal));
        // Far from the peers' own addresses.
        (0..AROUND).for_each(|at| _ = book.learn(address(at + 50_000_000), None, AddressSource::Bootstrap));
        let world = BeatContext {
            state: NodeState {
                pool: Arc::clone(&pool),
                book,
                broadcasts: Arc::new(Broadcasts::new(BroadcastLimits::default())),
                journal,
                clock: Arc::clone(&clock) as _,
            },
            dialer: None,
            thresholds: Thresholds {
                healthy_above: 30,
                least: 5,
                most: u32::MAX,
                stale_after: Duration::from_secs(90),
            },
            guests: GuestCeilings::default(),
        };
        let mut cycle = Cycle::new(world, built_ins(), Executor::Inline, INTERVAL, 7);
        let file = record.map(|(name, whole_every)| {
            let path =
                std::env::temp_dir().join(format!("groundskeeper-bench-{}-{name}.gkr", std::process::id()));
            let options =
                RecorderOptions { max_bytes: u64::MAX, whole_every, patience: Duration::from_secs(60) };
            cycle.record_into(Box::new(
                Recorder::start(&path, options).expect("the folder for temporary files takes files"),
            ));
            path
        });
        let mut node = Self {
            clock,
            pool,
            cycle,
            members: Vec::new(),
            next: 0,
            tick: 0,
            file,
            wall: Vec::new(),
            cpu: Vec::new(),
        };
        (0..peers).for_each(|_| {
            let member = node.newcomer();
            node.members.push(member);
        });
        node
    }

    fn newcomer(&mut self) -> Member {
        let link = Arc::new(Busy::default());
        self.next += 1;
        let slot = attach(&self.pool, self.next, &(Arc::clone(&link) as Arc<dyn Link>));
        Member { number: self.next, slot, link }
    }

    /// Half a minute passes.
    fn weather(&mut self) {
        let before = self.clock.0.load(Relaxed);
        let random = |peer: usize, what: u64| mix(mix(u64::from(self.tick) << 32 | peer as u64) ^ what);
        // The ticker wakes a little late.
        let now = before + INTERVAL.as_millis() as u64 + random(0, 0) % 3;
        let mut leaving = Vec::new();
        for (peer, member) in self.members.iter().enumerate() {
            let of = |what: u64, below: u64| random(peer, what) % below;
            if of(1, 200) == 0 {
                leaving.push(peer);
            }
            // In turn: no peer is silent twice in a row, so none is dropped.
            if (member.number + self.tick as usize).is_multiple_of(5) {
                continue;
            }
            member.slot.peer_seen(CoarseInstant::from_duration(Duration::from_millis(now - of(3, 30_000))));
            member.link.kib_in.fetch_add(of(4, 400) as u32, Relaxed);
            member.link.kib_out.fetch_add(of(5, 400) as u32, Relaxed);
            if of(6, 2) == 0 {
                let usual = 20_000 + mix(member.number as u64) % 200_000;
                member.slot.pong(Duration::from_micros(usual + of(7, usual / 5)));
            }
        }
        self.clock.0.store(now, Relaxed);
        for peer in leaving {
            drop(self.members.swap_remove(peer.min(self.members.len() - 1)));
            let member = self.newcomer();
            self.members.push(member);
        }
        let book = &self.cycle.world().state.book;
        for at in 0..AROUND / 50 {
            let at = (mix(u64::from(self.tick) * 1000 + at as u64) % AROUND as u64) as usize;
            _ = book.learn(address(at + 50_000_000), None, AddressSource::Bootstrap);
        }
    }

    /// One tick; waits until it is in the file.
    fn round(&mut self) {
        self.weather();
        self.tick += 1;
        let beat =
            Beat { tick: self.tick, urgent: 0, skipped: 0, slept: Duration::ZERO, lateness: Duration::ZERO };
        let (begun, cpu) = (Instant::now(), cpu_micros());
        let report = self.cycle.beat(beat);
        self.wall.push(nanos(begun.elapsed()) / 1000.0);
        while self.cycle.send_pings(4096) {}
        while self.cycle.recorded().is_some_and(|counts| counts.beats < self.tick.into()) {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.cpu.push(cpu_micros() - cpu);
        assert_eq!(report.tally.disconnected, 0, "nobody is silent for long in this day");
    }

    fn counts(&self) -> RecordCounts {
        self.cycle.recorded().expect("asked only of a node that records")
    }
}

/// Bytes of the columns in memory.
fn plain(peers: usize) -> f64 {
    (4 * (peers * peer_columns::COLUMNS.len() + AROUND * book_columns::COLUMNS.len())) as f64
}

pub fn run(effort: &Effort, report: &mut Report) {
    for peers in [1_000, 10_000] {
        let subject = format!("{} peers", thousands(peers));
        let ticks = effort.choose(480, 240);
        let mut without = Node::new(peers, None);
        let mut with = Node::new(peers, Some(("with", 120)));
        let mut whole = Node::new(peers, Some(("whole", 1)));
        for _ in 0..ticks {
            without.round();
            with.round();
            whole.round();
        }
        let per_tick = |node: &Node| node.counts().bytes as f64 / ticks as f64;
        let (bytes, whole_bytes) = (per_tick(&with), per_tick(&whole));
        let row = |measure, value, unit| Row::cost(GROUP, measure, subject.as_str(), value, unit);
        report.push(row("bytes per tick", bytes, "B").against("columns as they are", plain(peers)));
        report.push(row("bytes per tick", bytes, "B").against("every beat whole", whole_bytes));
        report.push(row("bytes per tick and peer", bytes / peers as f64, "B"));
        report.push(row("a day", bytes * DAY / 1e6, "MB").note("2,880 times the above"));
        let (cpu, cpu_without) = (median(with.cpu.clone()), median(without.cpu));
        report.push(row("CPU of a tick, recorded", cpu, "us").against("not recorded", cpu_without));
        report.push(row("of it: for the recording", cpu - cpu_without, "us").note(format!(
            "{:.4} % of one core at 30 s a tick",
            (cpu - cpu_without) / INTERVAL.as_micros() as f64 * 100.0
        )));
        let (wall, wall_without) = (median(with.wall.clone()), median(without.wall));
        report.push(row("the beat alone", wall, "us").against("not recorded", wall_without));
        report.push(row("CPU of a tick, every beat whole", median(whole.cpu), "us"));

        let files = [with.file.clone(), whole.file.clone()];
        drop((with.cycle, whole.cycle));
        let file = files[0].as_ref().expect("it records");
        let begun = Instant::now();
        let recording = Recording::open(file).expect("it was written just now");
        let replayed = replay(&recording, &builtin);
        let took = nanos(begun.elapsed()) / 1000.0 / ticks as f64;
        assert!(replayed.different() == 0 && replayed.extent.is_complete(), "{:?}", replayed.differences);
        report
            .push(row("replaying one tick", took, "us").note(format!("a day in {:.1} s", took * DAY / 1e6)));
        for file in files.iter().flatten() {
            // A leftover file in the temporary folder does no harm.
            _ = std::fs::remove_file(file);
        }
    }
}
