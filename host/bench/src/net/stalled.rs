//! One peer stops reading. Measures the effect on the others: marking them as seen, and broadcasts to them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use groundskeeper::flow::OutboxLimits;
use groundskeeper::net::{Audience, SendReport};
use groundskeeper::pool::Link;
use nix::sys::resource::UsageWho;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, RwLock};

use super::GROUP;
use super::broadcast::{TOPIC, Taken, adopted, drain, framed, payload, settled};
use crate::Effort;
use crate::nodes::{BenchNode, Shape};
use crate::ours::{Quiet, attach};
use crate::report::{Reach, Report, Row};
use crate::rounds::{self, median, preemptions};
use crate::seeds::ip;

/// Peers that read.
const OTHERS: usize = 100;

/// Time between two samples. Every tenth sample includes a broadcast.
const PAUSE: Duration = Duration::from_millis(1);

pub fn run(effort: &Effort, report: &mut Report) {
    let time = Duration::from_secs(effort.choose(5, 2));
    // The measuring thread has its own core; otherwise each broadcast would wait for the session that it wakes.
    let pinned = rounds::why_not_pinned();
    let measured = |stalls| {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                rounds::pin(0);
                ours(time, stalls)
            });
            thread.join().expect("nothing in a sample panics")
        })
    };
    let (control, ours) = (measured(false), measured(true));
    let (seen, broadcast) = seeds(time);
    let subject = format!("{} s beside a peer that does not read", time.as_secs());
    let row = |measure, longest: &Longest, baseline| {
        let row = Row::cost(GROUP, measure, subject.as_str(), longest.value(), "ms")
            .reach(Reach::AtMost(1.0))
            .note(longest.words())
            .note(pinned.unwrap_or_default());
        match baseline {
            Some(baseline) => row.against("a read guard held over a send", baseline),
            None => row,
        }
    };
    report.push(row("longest peer_seen", &ours.seen, Some(seen)));
    report.push(row("longest broadcast to 100 others, queued", &ours.queued, Some(broadcast)));
    report.push(row("longest broadcast to 100 others, read", &ours.read, None));
    let middle = |longest: &Longest| median(longest.all.clone());
    for (measure, beside, without) in [
        ("peer_seen, median", &ours.seen, &control.seen),
        ("broadcast to 100 others, queued, median", &ours.queued, &control.queued),
        ("broadcast to 100 others, read, median", &ours.read, &control.read),
    ] {
        let row = Row::cost(GROUP, measure, subject.as_str(), middle(beside), "ms");
        report.push(row.against("the same with all 101 reading", middle(without)).note(format!(
            "longest {:.3} ms, with all reading {:.3} ms",
            beside.value(),
            without.value()
        )));
    }
}

/// Times in milliseconds.
#[derive(Default)]
struct Longest {
    /// Of samples without a preemption by the system.
    undisturbed: f64,
    all: Vec<f64>,
    disturbed: usize,
}

impl Longest {
    /// Measures the time of `work`. `whose` selects the preemptions that disturb a sample.
    fn take(&mut self, whose: UsageWho, work: impl FnOnce()) {
        let before = preemptions(whose);
        let begun = Instant::now();
        work();
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.all.push(took);
        if preemptions(whose) == before {
            self.undisturbed = self.undisturbed.max(took);
        } else {
            self.disturbed += 1;
        }
    }

    fn of_all(&self) -> f64 {
        self.all.iter().copied().fold(0.0, f64::max)
    }

    /// Falls back to all samples if every sample was disturbed.
    fn value(&self) -> f64 {
        if self.disturbed < self.all.len() { self.undisturbed } else { self.of_all() }
    }

    fn words(&self) -> String {
        let longest = self.of_all();
        format!(
            "{} samples, median {:.4} ms, {} preempted by the system and left out; longest of all {longest:.3} ms",
            self.all.len(),
            median(self.all.clone()),
            self.disturbed
        )
    }
}

#[derive(Default)]
struct Ours {
    seen: Longest,
    queued: Longest,
    read: Longest,
}

/// With `stalls` there is one more peer that does not read; otherwise that peer reads like the others.
fn ours(time: Duration, stalls: bool) -> Ours {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(|| _ = rounds::pin(1))
        .enable_all()
        .build()
        .expect("a runtime");
    let outbox = OutboxLimits { data_bytes: 64 << 10, ..OutboxLimits::default() };
    let taken = Taken::default();
    let readers = OTHERS + usize::from(!stalls);
    let (node, stopped) = runtime.block_on(async {
        let node = BenchNode::start(&Shape { outbox, ..Shape::of(OTHERS + 2) });
        for peer in 0..readers {
            tokio::spawn(drain(adopted(&node, peer).await, Arc::clone(&taken)));
        }
        let stopped = if stalls { Some(adopted(&node, OTHERS).await) } else { None };
        settled(&taken).await;
        (node, stopped)
    });
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let slot = attach(&node.state.pool, OTHERS + 1, &link);
    let mut number = 0;
    let mut broadcast = |longest: Option<&mut Longest>| {
        number += 1;
        let payload = payload(number);
        let mut sent = Ok(SendReport::default());
        let mut send = || sent = node.net.broadcast(TOPIC, &payload, Audience::All);
        match longest {
            // Of the whole process: a session that loses its core may hold the lock of its queue meanwhile.
            Some(longest) => longest.take(UsageWho::RUSAGE_SELF, send),
            None => send(),
        }
        sent.expect("nothing limits broadcasts here")
    };
    let each = readers * framed(&payload(0));
    let wait = |enough: usize| {
        while taken.load(Relaxed) < enough {
            std::hint::spin_loop();
        }
    };
    // Until the stream and the queue of that peer are full; the others keep up.
    let mut enough = taken.load(Relaxed);
    while stalls && broadcast(None).full == 0 {
        enough += each;
        wait(enough);
    }
    enough += if stalls { each } else { 0 };
    wait(enough);

    let mut ours = Ours::default();
    let begun = Instant::now();
    for round in 0_u32.. {
        if begun.elapsed() >= time {
            break;
        }
        let clock = &node.state.clock;
        ours.seen.take(UsageWho::RUSAGE_THREAD, || slot.peer_seen(clock.coarse()));
        if round.is_multiple_of(10) {
            enough += each;
            let Ours { queued, read, .. } = &mut ours;
            read.take(UsageWho::RUSAGE_SELF, || {
                let sent = broadcast(Some(queued));
                assert_eq!(sent, SendReport { queued: readers as u32, full: stalls.into() });
                wait(enough);
            });
        }
        std::thread::sleep(PAUSE);
    }
    drop(stopped);
    ours
}

/// A stream, and when its peer was last seen.
struct Wired {
    stream: Arc<Mutex<DuplexStream>>,
    last_seen: Instant,
}

/// The design of the seeds: a sender holds the map's read guard until the peer has taken the message or `time` is over.
/// Returns milliseconds that marking another peer as seen takes meanwhile, and finding a peer for a broadcast.
fn seeds(time: Duration) -> (f64, f64) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut map, mut far_ends) = (HashMap::<IpAddr, Wired>::new(), Vec::new());
        for peer in 0..=OTHERS {
            let (near, far) = duplex(1024);
            let stream = Arc::new(Mutex::new(near));
            map.insert(ip(peer), Wired { stream, last_seen: Instant::now() });
            far_ends.push(far);
        }
        let map = Arc::new(RwLock::new(map));
        let sending = Arc::clone(&map);
        let stopped = tokio::spawn(async move {
            let connections = sending.read().await;
            let one = &connections[&ip(OTHERS)];
            let mut stream = one.stream.lock().await;
            _ = tokio::time::timeout(time, stream.write_all(&[7; 4096])).await;
        });
        // Wait until the guard is held.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let marking = Arc::clone(&map);
        let seen = tokio::spawn(async move {
            let begun = Instant::now();
            if let Some(one) = marking.write().await.get_mut(&ip(0)) {
                one.last_seen = Instant::now();
            }
            begun.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        // These wait behind the writer, which waits behind the guard.
        for peer in 0..OTHERS {
            let stream = map.read().await.get(&ip(peer)).map(|one| Arc::clone(&one.stream));
            if let Some(stream) = stream {
                stream.lock().await.write_all(&[7; 1024]).await.expect("the stream has room for one");
            }
        }
        let broadcast = begun.elapsed();
        let seen = seen.await.expect("nothing in a sample panics");
        stopped.await.expect("nothing in a sample panics");
        let newest = map.read().await.values().map(|one| one.last_seen).max();
        rounds::used((newest, far_ends));
        (seen.as_secs_f64() * 1000.0, broadcast.as_secs_f64() * 1000.0)
    })
}
