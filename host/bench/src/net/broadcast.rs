//! One message to many peers: time until every queue holds it, and until every peer has read it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use groundskeeper::net::wire::{GREATEST_VERSION, Hello, LEAST_VERSION, Message};
use groundskeeper::net::{Audience, SendReport};
use groundskeeper::pool::{Direction, PeerFacts};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, RwLock, mpsc};
use tokio::task::yield_now;

use super::GROUP;
use crate::Effort;
use crate::nodes::{BenchNode, Shape};
use crate::ours::{address, id};
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, nanos};
use crate::seeds::ip;

pub const TOPIC: &str = "bench";
pub const MESSAGE: usize = 1024;

/// Bytes that a stream buffers before its writer must wait.
const STREAM: usize = 16 * 1024;

/// When a sample ends.
#[derive(Clone, Copy)]
enum Until {
    Queued,
    Read,
}

/// Bytes or messages that all far ends together have read.
pub type Taken = Arc<AtomicUsize>;

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(15, 5);
    for peers in [1_000, 10_000] {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let ours = Arc::new(runtime.block_on(Ours::connected(peers)));
        let entered = runtime.enter();
        let queues = Arc::new(Seeds::connected(peers, Kind::Queue));
        let streams = Arc::new(Seeds::connected(peers, Kind::Stream));
        drop(entered);
        let samples: [Sample<'_>; 5] = [
            Box::new(|| sample(&runtime, ours.clone().send(Until::Queued))),
            Box::new(|| sample(&runtime, queues.clone().send(Until::Queued))),
            Box::new(|| sample(&runtime, ours.clone().send(Until::Read))),
            Box::new(|| sample(&runtime, queues.clone().send(Until::Read))),
            Box::new(|| sample(&runtime, streams.clone().send(Until::Read))),
        ];
        let [ours_queued, queued, ours_read, read, streamed] =
            medians(rounds, samples).map(|nanos| nanos / 1000.0);
        let subject = format!("1 KiB to {} peers", thousands(peers));
        let row = |measure, value| Row::cost(GROUP, measure, subject.as_str(), value, "us");
        let earlier = |ns: f64| ns * peers as f64 / 1000.0;
        let parked = if peers == 1_000 { 542.0 } else { 1_261.0 };
        let first = row("broadcast until all queues hold it", ours_queued)
            .against("task + map read + mutex per peer, into a queue", queued)
            .earlier(earlier(parked)..=earlier(parked));
        report.push(if peers == 10_000 { first.reach(Reach::Times(5.0)) } else { first });
        let measure = "broadcast until all peers have read it";
        report.push(
            row(measure, ours_read)
                .against("the same, into the stream itself", streamed)
                .note("both through the same in-memory streams"),
        );
        report.push(
            row(measure, ours_read)
                .against("the same, out of a queue", read)
                .note("the baseline has no framing and no stream"),
        );
    }
}

/// One sample on a thread of the runtime, where handlers send broadcasts.
fn sample(runtime: &Runtime, work: impl Future<Output = f64> + Send + 'static) -> f64 {
    runtime.block_on(async { tokio::spawn(work).await.expect("nothing in a sample panics") })
}

/// Waits until `taken` has reached `enough`, and yields to other tasks meanwhile.
pub async fn until(taken: &Taken, enough: usize) {
    while taken.load(Relaxed) < enough {
        yield_now().await;
    }
}

/// A network with peers at the far ends of in-memory streams. They read everything.
struct Ours {
    node: BenchNode,
    taken: Taken,
    sent: AtomicUsize,
}

impl Ours {
    async fn connected(peers: usize) -> Self {
        let node = BenchNode::start(&Shape::of(peers));
        let taken = Taken::default();
        for peer in 0..peers {
            tokio::spawn(drain(adopted(&node, peer).await, Arc::clone(&taken)));
        }
        settled(&taken).await;
        Self { node, taken, sent: AtomicUsize::new(0) }
    }

    async fn send(self: Arc<Self>, until_what: Until) -> f64 {
        let payload = payload(self.sent.fetch_add(1, Relaxed));
        let peers = self.node.live();
        let enough = self.taken.load(Relaxed) + peers * framed(&payload);
        let begun = Instant::now();
        let sent = self.node.net.broadcast(TOPIC, &payload, Audience::All);
        let queued = nanos(begun.elapsed());
        assert_eq!(sent, Ok(SendReport { queued: peers as u32, full: 0 }));
        until(&self.taken, enough).await;
        match until_what {
            Until::Queued => queued,
            Until::Read => nanos(begun.elapsed()),
        }
    }
}

/// A payload of 1 KiB that was not sent before.
pub fn payload(number: usize) -> [u8; MESSAGE] {
    let mut payload = [7; MESSAGE];
    payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
    payload
}

/// The size of a broadcast on the stream, in bytes.
pub fn framed(payload: &[u8]) -> usize {
    let message = Message::Broadcast { topic: TOPIC, payload };
    message.encode(2 * MESSAGE).expect("a small message is under the cap").len()
}

/// Adds a connection with a peer that has said hello. Returns its far end.
pub async fn adopted(node: &BenchNode, peer: usize) -> DuplexStream {
    let (near, far) = duplex(STREAM);
    greeted(node, peer, near, far).await
}

/// Like `adopted`, over the two given ends of a stream.
pub async fn greeted<N, F>(node: &BenchNode, peer: usize, near: N, mut far: F) -> F
where
    N: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: AsyncWrite + Unpin,
{
    let hello = Message::Hello(Hello {
        least_version: LEAST_VERSION,
        greatest_version: GREATEST_VERSION,
        features: 0,
        boot_nonce: 7,
        listen: Vec::new(),
        agent: "bench".into(),
    });
    let hello = hello.encode_bounded();
    far.write_all(&hello).await.expect("the stream has room for a hello");
    far.flush().await.expect("the stream has room for a hello");
    let facts = PeerFacts { id: id(peer), address: address(peer), direction: Direction::Inbound };
    node.net.adopt(near, facts).await.expect("it said a proper hello");
    far
}

/// Reads until the other side closes.
pub async fn drain(mut stream: impl AsyncRead + Unpin, taken: Taken) {
    let mut buffer = [0; 2048];
    while let Ok(read) = stream.read(&mut buffer).await
        && read > 0
    {
        taken.fetch_add(read, Relaxed);
    }
}

/// Waits until all greetings have been exchanged.
pub async fn settled(taken: &Taken) {
    loop {
        let before = taken.load(Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if taken.load(Relaxed) == before {
            return;
        }
    }
}

/// The value that the baseline's mutex guards.
#[derive(Clone, Copy)]
enum Kind {
    Queue,
    Stream,
}

enum Guarded {
    Queue(mpsc::UnboundedSender<Bytes>),
    Stream(DuplexStream),
}

impl Guarded {
    async fn send(&mut self, message: Bytes) {
        match self {
            Self::Queue(queue) => _ = queue.send(message),
            Self::Stream(stream) => stream.write_all(&message).await.expect("somebody reads it"),
        }
    }
}

/// The design of the seeds: one task per peer, which finds its connection in the map and sends under its mutex.
struct Seeds {
    connections: RwLock<HashMap<IpAddr, Arc<Mutex<Guarded>>>>,
    /// Number of peers that hold the message.
    held: AtomicUsize,
    taken: Taken,
}

impl Seeds {
    /// Must be called inside a runtime.
    fn connected(peers: usize, kind: Kind) -> Self {
        let taken = Taken::default();
        let mut connections = HashMap::new();
        for peer in 0..peers {
            let guarded = match kind {
                Kind::Queue => {
                    let (sender, mut queue) = mpsc::unbounded_channel::<Bytes>();
                    let taken = Arc::clone(&taken);
                    tokio::spawn(async move {
                        while let Some(message) = queue.recv().await {
                            taken.fetch_add(message.len(), Relaxed);
                        }
                    });
                    Guarded::Queue(sender)
                }
                Kind::Stream => {
                    let (near, far) = duplex(STREAM);
                    tokio::spawn(drain(far, Arc::clone(&taken)));
                    Guarded::Stream(near)
                }
            };
            connections.insert(ip(peer), Arc::new(Mutex::new(guarded)));
        }
        Self { connections: RwLock::new(connections), held: AtomicUsize::new(0), taken }
    }

    async fn send(self: Arc<Self>, until_what: Until) -> f64 {
        let message = Bytes::copy_from_slice(&[7; MESSAGE]);
        self.held.store(0, Relaxed);
        let taken = self.taken.load(Relaxed);
        let begun = Instant::now();
        let everyone: Vec<IpAddr> = self.connections.read().await.keys().copied().collect();
        let peers = everyone.len();
        for ip in everyone {
            let (seeds, message) = (Arc::clone(&self), message.clone());
            tokio::spawn(async move {
                let connection = seeds.connections.read().await.get(&ip).map(Arc::clone);
                if let Some(connection) = connection {
                    connection.lock().await.send(message).await;
                    seeds.held.fetch_add(1, Relaxed);
                }
            });
        }
        while self.held.load(Relaxed) < peers {
            yield_now().await;
        }
        let queued = nanos(begun.elapsed());
        until(&self.taken, taken + peers * MESSAGE).await;
        match until_what {
            Until::Queued => queued,
            Until::Read => nanos(begun.elapsed()),
        }
    }
}
