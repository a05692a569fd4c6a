//! The group `idle`: the cost of a node while nothing happens. In real time, with a separate process for each variant.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::cycle::Cycle;
use groundskeeper::engine::{Executor, PhaseThread};
use groundskeeper::pool::{Goodbye, Link, Slot};
use groundskeeper::ticker::Ticker;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Effort;
use crate::ours::{Filled, Rings, empty, facts, journal};
use crate::report::{Reach, Report, Row};
use crate::rounds::cpu_micros;
use crate::seeds::{OneMap, SeedPool, ip, keep_alive};
use crate::tick::{built_ins, world};

mod folder;
mod sockets;

pub const HOW: &str = "idle: 1,000 connections, real time, 65 s (35 s with --quick) in a process for each, the other ends of \
    sockets in yet others; whole process by getrusage, per hour by the pings that happened (120,000 an hour), never by a scaled interval. \
    The folder: a whole node with ticks of 1 s.";

const GROUP: &str = "idle";
const PEERS: usize = 1_000;
const INTERVAL: Duration = Duration::from_secs(30);
const PINGS_PER_HOUR: f64 = PEERS as f64 * 120.0;

/// The argument with which this program starts itself.
pub const CHILD: &str = "idle-child";

/// The resources that one variant used while it was measured.
struct Usage {
    cpu_ms: f64,
    switches: f64,
    pings: f64,
    seconds: f64,
}

impl Usage {
    /// Usage in one hour if each connection is pinged every 30 s. Without pings: usage in one hour.
    fn per_hour(&self, amount: f64) -> f64 {
        if self.pings > 0.0 { amount * PINGS_PER_HOUR / self.pings } else { amount * 3600.0 / self.seconds }
    }

    fn words(&self) -> String {
        format!("{} pings in {} s", self.pings, self.seconds.round())
    }
}

pub fn run(effort: &Effort, report: &mut Report) {
    // Ticks are at 30 s and 60 s.
    let seconds = effort.choose(65, 35);
    let variants = ["nothing", "tasks", "ticker", "sockets", "one-stopped"];
    let [Some(nothing), Some(tasks), Some(ticker), Some(sockets), Some(stopped)] =
        variants.map(|variant| watch(variant, seconds))
    else {
        eprintln!("idle: a child process failed; no figures");
        return;
    };
    let baseline = "a task per connection + 4 timers";
    let subject = "1,000 connections, an hour of scheduling";
    let note = ticker.words();
    report.push(
        Row::cost(GROUP, "CPU", subject, ticker.per_hour(ticker.cpu_ms), "ms/h")
            .against(baseline, tasks.per_hour(tasks.cpu_ms))
            .earlier(8_157.0..=8_157.0)
            .reach(Reach::Times(50.0))
            .note(&note),
    );
    report.push(
        Row::cost(GROUP, "context switches", subject, ticker.per_hour(ticker.switches), "1/h")
            .against(baseline, tasks.per_hour(tasks.switches))
            .earlier(166_168.0..=166_168.0)
            .reach(Reach::Times(10.0))
            .note(&note),
    );
    let baseline = "the same without sockets";
    for (subject, one) in
        [("1,000 TLS connections, an hour", sockets), ("of them one peer stopped, an hour", stopped)]
    {
        report.push(
            Row::cost(GROUP, "CPU", subject, one.per_hour(one.cpu_ms), "ms/h")
                .against(baseline, ticker.per_hour(ticker.cpu_ms))
                .note(one.words()),
        );
        report.push(
            Row::cost(GROUP, "context switches", subject, one.per_hour(one.switches), "1/h")
                .against(baseline, ticker.per_hour(ticker.switches))
                .note(one.words()),
        );
    }
    folder::report(seconds, report);
    let subject = "an empty runtime, for comparison";
    report.push(Row::cost(GROUP, "CPU", subject, nothing.per_hour(nothing.cpu_ms), "ms/h"));
    report.push(Row::cost(GROUP, "context switches", subject, nothing.per_hour(nothing.switches), "1/h"));
}

fn watch(variant: &str, seconds: u32) -> Option<Usage> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program).args([CHILD, variant, &seconds.to_string()]).output().ok()?;
    let told: Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |name: &str| told.get(name).and_then(Value::as_f64);
    Some(Usage {
        cpu_ms: number("cpu_ms")?,
        switches: number("switches")?,
        pings: number("pings")?,
        seconds: seconds.into(),
    })
}

/// Runs one variant and prints its usage.
pub fn child(variant: &str, seconds: &str) -> ExitCode {
    let Ok(seconds) = seconds.parse() else { return ExitCode::from(2) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let time = Duration::from_secs(seconds);
    let told = runtime.block_on(async {
        match variant {
            "tasks" => tasks(time).await,
            "ticker" => ticker(time).await,
            "sockets" => sockets::connected(time, 0).await,
            "one-stopped" => sockets::connected(time, 1).await,
            "empty-folder" => folder::node(time, false).await,
            "full-folder" => folder::node(time, true).await,
            _ => used_in(time, || 0).await,
        }
    });
    println!("{told}");
    ExitCode::SUCCESS
}

/// The usage of the whole process during `time` from now.
async fn used_in(time: Duration, pings: impl Fn() -> u64) -> Value {
    let now = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        (cpu_micros() / 1000.0, switches as f64, pings())
    };
    let before = now();
    sleep(time).await;
    let after = now();
    json!({ "cpu_ms": after.0 - before.0, "switches": after.1 - before.1, "pings": after.2 - before.2 })
}

/// The design of the seeds: each connection's task sleeps 30 s, and so do four maintenance tasks. Connections were made
/// one after the other, so their sleeps also end one after the other.
async fn tasks(time: Duration) -> Value {
    let pool = Arc::new(OneMap::filled(PEERS).await);
    let pings = Arc::new(AtomicU64::new(0));
    for peer in 0..PEERS {
        let (pool, pings) = (Arc::clone(&pool), Arc::clone(&pings));
        tokio::spawn(async move {
            sleep(INTERVAL.mul_f64(peer as f64 / PEERS as f64)).await;
            loop {
                sleep(INTERVAL).await;
                pings.fetch_add(1, Relaxed);
                keep_alive(&*pool, &ip(peer)).await;
            }
        });
    }
    for seconds in [30, 30, 60, 3600] {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(seconds)).await;
                crate::rounds::used(pool.stale(Duration::from_secs(90), Instant::now()).await);
            }
        });
    }
    // The first round of sleeps is part of the setup.
    sleep(INTERVAL).await;
    used_in(time, move || pings.load(Relaxed)).await
}

/// A link to a peer that answers every ping at once.
struct Answering {
    slot: OnceLock<Slot>,
    clock: Arc<SystemClock>,
    pings: Arc<AtomicU64>,
}

impl Link for Answering {
    fn ping(&self) {
        self.pings.fetch_add(1, Relaxed);
        if let Some(slot) = self.slot.get() {
            slot.peer_seen(self.clock.coarse());
        }
    }

    fn close(&self, _: &Goodbye) {}
}

/// Our design: no task per connection, and one ticker.
async fn ticker(time: Duration) -> Value {
    let clock = SystemClock::new();
    let pings = Arc::new(AtomicU64::new(0));
    let journal = journal(clock.clone(), Rings::AsInANode);
    let pool = empty(PEERS, clock.clone(), Arc::clone(&journal));
    let links: Vec<_> = (0..PEERS)
        .map(|peer| {
            let (clock, pings) = (Arc::clone(&clock), Arc::clone(&pings));
            let link = Arc::new(Answering { slot: OnceLock::new(), clock, pings });
            let slot = pool.attach(facts(peer), Arc::clone(&link) as Arc<dyn Link>);
            _ = link
                .slot
                .set(slot.unwrap_or_else(|denied| panic!("the pool was made for so many: {denied}")));
            link
        })
        .collect();
    let quiet: Arc<dyn Link> = Arc::new(crate::ours::Quiet);
    let filled = Filled { pool, clock, journal, link: quiet, slots: Vec::new() };
    let cycle =
        Cycle::new(world(&filled), built_ins(), Executor::Thread(PhaseThread::default()), INTERVAL, 7);
    let (ticker, _handle) = Ticker::new(cycle, INTERVAL, 7, None);
    tokio::spawn(ticker.run(std::future::pending()));
    let told = used_in(time, move || pings.load(Relaxed)).await;
    drop(links);
    told
}
