//! One message to a thousand TLS connections, compared with a loop that writes to the same kind of streams.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use groundskeeper::net::{Audience, SendReport};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

use super::GROUP;
use super::broadcast::{MESSAGE, TOPIC, Taken, drain, framed, greeted, payload, settled, until};
use super::wire::{Loopback, Near};
use crate::Effort;
use crate::nodes::{BenchNode, Shape, room_for};
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, cpu_micros, medians, nanos};

const PEERS: usize = 1_000;

pub fn run(effort: &Effort, report: &mut Report) {
    // Both ends of our connections and of the baseline's.
    let peers = room_for(PEERS, 4);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (ours, loops) = runtime.block_on(async {
        let loopback = Loopback::listen().await;
        (Arc::new(Ours::connected(&loopback, peers).await), Arc::new(Loop::connected(&loopback, peers).await))
    });
    let samples: [Sample<'_>; 5] = [
        Box::new(|| sample(&runtime, ours.clone().send()).read),
        Box::new(|| sample(&runtime, loops.clone().send()).read),
        Box::new(|| sample(&runtime, ours.clone().send()).queued),
        Box::new(|| sample(&runtime, ours.clone().send()).cpu),
        Box::new(|| sample(&runtime, loops.clone().send()).cpu),
    ];
    let [read, looped, queued, cpu, looped_cpu] = medians(effort.choose(31, 9), samples);
    let subject = format!("1 KiB to {} TLS connections", thousands(peers));
    let row = |measure, value| {
        let row = Row::cost(GROUP, measure, subject.as_str(), value, "us");
        if peers < PEERS { row.note("the system gives no more descriptors") } else { row }
    };
    let name = "a loop of writes";
    report.push(
        row("broadcast until all peers have read it", read).against(name, looped).reach(Reach::Times(1.0)),
    );
    report.push(row("CPU of it, both ends", cpu).against(name, looped_cpu));
    report.push(row("of it: encoded, in all queues, all sessions woken", queued));
}

fn sample(runtime: &Runtime, work: impl Future<Output = Took> + Send + 'static) -> Took {
    runtime.block_on(async { tokio::spawn(work).await.expect("nothing in a sample panics") })
}

/// Microseconds until it was in all queues, until all had read it, and of CPU time of the whole process.
struct Took {
    queued: f64,
    read: f64,
    cpu: f64,
}

/// Connections of a network, over hand-made TLS, so that the readers are the same as the baseline's.
struct Ours {
    node: BenchNode,
    taken: Taken,
}

impl Ours {
    async fn connected(loopback: &Loopback, peers: usize) -> Self {
        let (node, taken) = (BenchNode::start(&Shape::of(peers)), Taken::default());
        for peer in 0..peers {
            let (near, far) = loopback.connection().await;
            tokio::spawn(drain(greeted(&node, peer, near, far).await, Arc::clone(&taken)));
        }
        settled(&taken).await;
        Self { node, taken }
    }

    async fn send(self: Arc<Self>) -> Took {
        let before = self.taken.load(Relaxed);
        let payload = payload(before);
        let peers = self.node.live();
        let (cpu, begun) = (cpu_micros(), Instant::now());
        let sent = self.node.net.broadcast(TOPIC, &payload, Audience::All);
        let queued = nanos(begun.elapsed()) / 1000.0;
        assert_eq!(sent, Ok(SendReport { queued: peers as u32, full: 0 }));
        until(&self.taken, before + peers * framed(&payload)).await;
        Took { queued, read: nanos(begun.elapsed()) / 1000.0, cpu: cpu_micros() - cpu }
    }
}

/// The sender writes to one stream after the other.
struct Loop {
    streams: Mutex<Vec<Near>>,
    taken: Taken,
}

impl Loop {
    async fn connected(loopback: &Loopback, peers: usize) -> Self {
        let (mut streams, taken) = (Vec::new(), Taken::default());
        for _ in 0..peers {
            let (near, far) = loopback.connection().await;
            tokio::spawn(drain(far, Arc::clone(&taken)));
            streams.push(near);
        }
        Self { streams: Mutex::new(streams), taken }
    }

    async fn send(self: Arc<Self>) -> Took {
        let before = self.taken.load(Relaxed);
        let mut streams = self.streams.lock().await;
        let (cpu, begun) = (cpu_micros(), Instant::now());
        let message = Bytes::copy_from_slice(&[7; MESSAGE]);
        for stream in &mut *streams {
            stream.write_all(&message).await.expect("somebody reads it");
            stream.flush().await.expect("somebody reads it");
        }
        let queued = nanos(begun.elapsed()) / 1000.0;
        until(&self.taken, before + streams.len() * MESSAGE).await;
        Took { queued, read: nanos(begun.elapsed()) / 1000.0, cpu: cpu_micros() - cpu }
    }
}
