//! The cost of marking a peer as alive: the one operation for each read of each socket.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use groundskeeper::clock::{Clock, CoarseInstant};
use groundskeeper::pool::Slot;
use tokio::runtime::{Builder, Runtime};

use super::GROUP;
use crate::Effort;
use crate::ours::Filled;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, per_op, pin_in_turn, scattered, two_threads, used, why_not_pinned};
use crate::seeds::{OneMap, SeedPool, ThreeMaps, dashmap, ip};

const PEERS: usize = 10_000;
/// Operations in one sample: about 1 ms each, short enough that most samples are undisturbed.
const OURS: usize = 300_000;
const MAPS: usize = 10_000;
const DASH: usize = 20_000;

/// The order of heard peers: random, and the same for all.
type Order = [u32; 1 << 16];

fn order(seed: u64) -> Box<Order> {
    scattered(1 << 16, PEERS, seed).try_into().expect("as many as were asked for")
}

fn at(order: &Order, step: usize) -> usize {
    order[step % order.len()] as usize
}

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(31, 9);
    let mut filled = Filled::new(PEERS);
    let slots: Vec<Slot> = filled.slots.drain(..).flatten().collect();
    let ours = Ours { slots: &slots, clock: &*filled.clock };
    let orders = [order(1), order(2)];
    one_thread(rounds, ours, &orders[0], report);
    two(rounds, ours, orders, report);
}

#[derive(Clone, Copy)]
struct Ours<'a> {
    slots: &'a [Slot],
    clock: &'a dyn Clock,
}

fn one_thread(rounds: usize, ours: Ours<'_>, order: &Order, report: &mut Report) {
    let Ours { slots, clock } = ours;
    let runtime = Builder::new_current_thread().build().expect("a runtime without drivers");
    let (one, three) =
        runtime.block_on(async { (OneMap::filled(PEERS).await, ThreeMaps::filled(PEERS).await) });
    let dash = dashmap(PEERS);
    let ips: Vec<_> = (0..PEERS).map(ip).collect();
    let then = Instant::now();
    let mut eighth = clock.coarse().0;
    let mut next = || {
        eighth += 1;
        CoarseInstant(eighth)
    };
    let (one, three, runtime, ips, dash) = (&one, &three, &runtime, &ips, &dash);
    let samples: [Sample<'_>; 8] = [
        Box::new(|| {
            let now = next();
            per_op(OURS, || (0..OURS).for_each(|step| slots[at(order, step)].peer_seen(now)))
        }),
        Box::new(|| {
            per_op(OURS, || {
                (0..OURS).for_each(|step| slots[at(order, step)].peer_seen(CoarseInstant(step as u32)))
            })
        }),
        Box::new(|| {
            per_op(OURS / 10, || {
                (0..OURS / 10).for_each(|step| slots[at(order, step)].peer_seen(clock.coarse()));
            })
        }),
        Box::new(move || seen_in(runtime, one, ips, order, Some(then))),
        Box::new(move || seen_in(runtime, one, ips, order, None)),
        Box::new(move || seen_in(runtime, three, ips, order, Some(then))),
        Box::new(move || seen_in(runtime, three, ips, order, None)),
        Box::new(move || {
            per_op(DASH, || {
                for step in 0..DASH {
                    if let Some(mut one) = dash.get_mut(&ips[at(order, step)]) {
                        one.last_seen = then;
                    }
                }
            })
        }),
    ];
    let [seen, stored, with_clock, map, map_clock, maps, maps_clock, dash] = medians(rounds, samples);
    let row = |subject: &str, value| Row::cost(GROUP, "peer_seen", subject, value, "ns");
    let subject = "1 thread, 10,000 peers";
    report
        .push(row(subject, seen).against(OneMap::NAME, map).earlier(112.0..=112.0).reach(Reach::Times(50.0)));
    report.push(row(subject, seen).against(ThreeMaps::NAME, maps));
    report.push(row(subject, seen).against("dashmap", dash).earlier(21.0..=26.0));
    let subject = "1 thread, another eighth of a second at each call";
    report.push(row(subject, stored).against(OneMap::NAME, map).earlier(112.0..=112.0));
    let subject = "1 thread, the clock read at each call";
    report.push(row(subject, with_clock).against(OneMap::NAME, map_clock));
    report.push(row(subject, with_clock).against(ThreeMaps::NAME, maps_clock).earlier(329.0..=487.0));
}

fn seen_in<P: SeedPool>(
    runtime: &Runtime,
    pool: &P,
    ips: &[std::net::IpAddr],
    order: &Order,
    now: Option<Instant>,
) -> f64 {
    per_op(MAPS, || {
        runtime.block_on(async {
            for step in 0..MAPS {
                pool.peer_seen(&ips[at(order, step)], now.unwrap_or_else(Instant::now)).await;
            }
        });
    })
}

fn two(rounds: usize, ours: Ours<'_>, orders: [Box<Order>; 2], report: &mut Report) {
    let Ours { slots, clock } = ours;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(pin_in_turn(2))
        .build()
        .expect("a runtime with two workers");
    let one = Arc::new(runtime.block_on(OneMap::filled(PEERS)));
    let three = Arc::new(runtime.block_on(ThreeMaps::filled(PEERS)));
    let dash = dashmap(PEERS);
    let ips: Arc<Vec<_>> = Arc::new((0..PEERS).map(ip).collect());
    let orders = Arc::new(orders);
    let then = Instant::now();
    let mut eighth = clock.coarse().0 + 1_000_000;
    let runtime = &runtime;
    let in_tasks = |pool: Arc<OneMap>| {
        let (ips, orders) = (Arc::clone(&ips), Arc::clone(&orders));
        move || two_tasks(runtime, &pool, &ips, &orders, then)
    };
    let in_three = {
        let (ips, orders) = (Arc::clone(&ips), Arc::clone(&orders));
        move || two_tasks(runtime, &three, &ips, &orders, then)
    };
    let (dash, ips, orders) = (&dash, &ips, &orders);
    let samples: [Sample<'_>; 5] = [
        Box::new(|| {
            eighth += 1;
            let now = CoarseInstant(eighth);
            two_threads(OURS, |thread| {
                (0..OURS).for_each(|step| slots[at(&orders[thread], step)].peer_seen(now));
            })
        }),
        Box::new(|| {
            two_threads(OURS / 10, |thread| {
                (0..OURS / 10).for_each(|step| slots[at(&orders[thread], step)].peer_seen(clock.coarse()));
            })
        }),
        Box::new(in_tasks(one)),
        Box::new(in_three),
        Box::new(move || {
            two_threads(DASH, |thread| {
                for step in 0..DASH {
                    if let Some(mut one) = dash.get_mut(&ips[at(&orders[thread], step)]) {
                        one.last_seen = then;
                    }
                }
            })
        }),
    ];
    let [seen, with_clock, map, maps, dash] = medians(rounds, samples);
    let pinned = why_not_pinned().unwrap_or("wall time over the operations of both");
    let row = |subject: &str, value| Row::cost(GROUP, "peer_seen", subject, value, "ns").note(pinned);
    let subject = "2 threads, 10,000 peers";
    report.push(
        row(subject, seen).against(OneMap::NAME, map).earlier(392.0..=392.0).reach(Reach::Times(200.0)),
    );
    report.push(row(subject, seen).against(ThreeMaps::NAME, maps).earlier(627.0..=627.0));
    report.push(row(subject, seen).against("dashmap", dash).earlier(49.0..=57.0));
    let subject = "2 threads, the clock read at each call";
    report.push(row(subject, with_clock).against(OneMap::NAME, map));
}

/// Two tasks on two workers, like the connection tasks of that node.
fn two_tasks<P: SeedPool>(
    runtime: &Runtime,
    pool: &Arc<P>,
    ips: &Arc<Vec<std::net::IpAddr>>,
    orders: &Arc<[Box<Order>; 2]>,
    now: Instant,
) -> f64 {
    let task = |which: usize| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let (pool, ips, orders) = (Arc::clone(pool), Arc::clone(ips), Arc::clone(orders));
        Box::pin(async move {
            for step in 0..MAPS {
                pool.peer_seen(&ips[at(&orders[which], step)], now).await;
            }
        })
    };
    per_op(2 * MAPS, || {
        runtime.block_on(async {
            let (first, second) = (tokio::spawn(task(0)), tokio::spawn(task(1)));
            used((first.await, second.await));
        });
    })
}
