//! Connections that come and go while others are marked as alive and the pool is scanned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use groundskeeper::clock::CoarseInstant;
use groundskeeper::journal::{ActionKind, Cause, Initiator, Journal, NewRecord};
use groundskeeper_sdk::column::peer;
use groundskeeper_sdk::span::Span;

use super::GROUP;
use super::scan::{Still, thousands, view};
use crate::Effort;
use crate::ours::{Filled, HourAhead, Rings, address, attach, id, journal};
use crate::report::{Reach, Report, Row};
use crate::rounds::{median, nanos, per_op, scattered, used};
use crate::seeds::{Shared, Unified, dashmap, ip};

const SPAN: Duration = Duration::from_millis(300);
const SCAN_EVERY: Duration = Duration::from_millis(10);
/// Peers that come and go; the others stay.
const LEAVERS: usize = 64;

/// Rates per second: pairs of one removal and one insert, and marks of life.
struct Pace {
    pairs: f64,
    seen: f64,
}

/// Runs `pair` and `seen` on one thread each until the time is over, and `scan` now and then on a third.
fn together(pair: impl FnMut(usize) + Send, seen: impl Fn(usize) + Sync, scan: impl Fn() + Sync) -> Pace {
    let over = AtomicBool::new(false);
    let (pairs, marks) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let mut pair = pair;
        let (over, pairs, marks, seen, scan) = (&over, &pairs, &marks, &seen, &scan);
        scope.spawn(move || {
            let mut step = 0;
            while !over.load(Relaxed) {
                (0..64).for_each(|i| pair(step + i));
                step += 64;
            }
            pairs.store(step as u64, Relaxed);
        });
        scope.spawn(move || {
            let mut step = 0;
            while !over.load(Relaxed) {
                (0..256).for_each(|i| seen(step + i));
                step += 256;
            }
            marks.store(step as u64, Relaxed);
        });
        scope.spawn(move || {
            while !over.load(Relaxed) {
                scan();
                thread::sleep(SCAN_EVERY);
            }
        });
        thread::sleep(SPAN);
        over.store(true, Relaxed);
    });
    let seconds = begun.elapsed().as_secs_f64();
    Pace { pairs: pairs.load(Relaxed) as f64 / seconds, seen: marks.load(Relaxed) as f64 / seconds }
}

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(9, 3);
    for (peers, earlier) in [(1_000, 7.705e6), (10_000, 7.617e6), (100_000, 3.18e6)] {
        if peers == 100_000 && effort.choose(false, true) {
            continue;
        }
        let mut paces: [Vec<Pace>; 3] = Default::default();
        let clock = HourAhead::new();
        for _ in 0..rounds {
            paces[0].push(ours(peers));
            paces[1].push(dash(peers, |_| ()));
            let journal = journal(clock.clone(), Rings::AsInANode);
            paces[2].push(dash(peers, move |peer| both_records(&journal, peer)));
        }
        let pairs = paces.each_ref().map(|paces| median(paces.iter().map(|pace| pace.pairs).collect()));
        let seen = paces.each_ref().map(|paces| median(paces.iter().map(|pace| pace.seen).collect()));
        let subject = format!("{} peers", thousands(peers));
        let measure = "remove + insert beside peer_seen and scans";
        let row = |value| Row::rate(GROUP, measure, &subject, value, "pairs/s");
        report.push(
            row(pairs[0]).against("dashmap", pairs[1]).earlier(earlier..=earlier).reach(Reach::Times(2.0)),
        );
        report.push(row(pairs[0]).against("dashmap, the same two records written", pairs[2]));
        report.push(
            Row::rate(GROUP, "peer_seen beside them", &subject, seen[0], "ops/s").against("dashmap", seen[1]),
        );
    }
    parts(effort, report);
}

/// The cost of one pair when nothing else runs, and the share of the journal's records in it.
fn parts(effort: &Effort, report: &mut Report) {
    const PAIRS: usize = 20_000;
    let mut filled = Filled::new(10_000);
    let clock = HourAhead::new();
    let journal = journal(clock, Rings::AsInANode);
    let mut samples: [Vec<f64>; 2] = Default::default();
    for _ in 0..effort.choose(31, 9) {
        samples[0].push(per_op(PAIRS, || (0..PAIRS).for_each(|step| again(&mut filled, step))));
        samples[1].push(per_op(PAIRS, || (0..PAIRS).for_each(|peer| both_records(&journal, peer))));
    }
    let [pair, records] = samples.map(median);
    let row = |measure, value| Row::cost(GROUP, measure, "10,000 peers, nothing beside", value, "ns");
    report.push(row("remove + insert", pair));
    report.push(row("of it: the journal's two records", records));
}

fn again(filled: &mut Filled, step: usize) {
    let peer = step % LEAVERS;
    filled.slots[peer] = None;
    filled.slots[peer] = Some(attach(&filled.pool, peer, &filled.link));
}

fn ours(peers: usize) -> Pace {
    let mut filled = Filled::new(peers);
    let still = Still::new(&filled);
    let leavers: Vec<_> = filled.slots.drain(..LEAVERS).collect();
    let (pool, link) = (Arc::clone(&filled.pool), Arc::clone(&filled.link));
    let order = scattered(1 << 16, peers - LEAVERS, 3);
    let now = filled.clock.coarse();
    let mut leavers = leavers;
    together(
        |step| {
            let peer = step % LEAVERS;
            leavers[peer] = None;
            leavers[peer] = Some(attach(&pool, peer, &link));
        },
        |step| {
            // Time advances by an eighth of a second per 65,536 marks of life.
            let now = CoarseInstant(now.0 + (step >> 16) as u32);
            filled.slot(order[step & 0xffff] as usize).peer_seen(now);
        },
        || {
            let frame = still.frame();
            used(view(&frame).peers().at_least(peer::IDLE, Span::secs(90)).count());
        },
    )
}

fn dash(peers: usize, also: impl Fn(usize) + Send + Sync) -> Pace {
    let map = dashmap(peers);
    let shared = Shared::default();
    let ips: Vec<_> = (0..peers).map(ip).collect();
    let order = scattered(1 << 16, peers - LEAVERS, 3);
    let now = Instant::now();
    together(
        |step| {
            let peer = step % LEAVERS;
            map.remove(&ips[peer]);
            map.insert(ips[peer], Unified::new(Arc::clone(&shared), peer, now));
            also(peer);
        },
        |step| {
            if let Some(mut one) = map.get_mut(&ips[LEAVERS + order[step & 0xffff] as usize]) {
                one.last_seen = now;
            }
        },
        || used(map.iter().filter(|one| nanos(now.duration_since(one.last_seen)) > 90e9).count()),
    )
}

/// The records that the pool writes for one connection that goes and one that comes.
fn both_records(journal: &Journal, peer: usize) {
    let draft = |what, reason: &str| NewRecord {
        peer: Some(id(peer)),
        conn: Some(peer as u32),
        address: Some(address(peer)),
        ..NewRecord::new(Initiator::Host, what, reason)
    };
    let number = |name: &'static str| (name.into(), 1);
    journal.record(NewRecord {
        by: Initiator::Application,
        cause: Some(Cause::OwnerDropped),
        inputs: ["idle-s", "age-s", "health", "rtt-us", "pings-lost"].map(number).into(),
        ..draft(ActionKind::Disconnect, "its owner let go without a reason")
    });
    journal.record(draft(ActionKind::Connect, "accepted"));
}
