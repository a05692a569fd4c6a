//! One peer does not read, over TLS on loopback: time until a broadcast has reached the others, in pairs with a network
//! where that peer reads.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use groundskeeper::flow::OutboxLimits;
use groundskeeper::net::{Audience, SendReport};
use tokio::runtime::Builder;

use super::GROUP;
use super::broadcast::{TOPIC, Taken, drain, framed, greeted, payload, settled, until};
use super::wire::{Far, Loopback};
use crate::Effort;
use crate::nodes::{BenchNode, Shape};
use crate::report::{Report, Row};
use crate::rounds::{median, nanos};

/// Peers that read.
const OTHERS: usize = 100;

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(2_000, 200);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (beside, alone) = runtime.block_on(async {
        let loopback = Loopback::listen().await;
        let beside = Network::connected(&loopback, true).await;
        beside.fill().await;
        (Arc::new(beside), Arc::new(Network::connected(&loopback, false).await))
    });
    let took = |network: &Arc<Network>| {
        let network = Arc::clone(network);
        // On a thread of the runtime, where handlers send broadcasts.
        runtime.block_on(async { tokio::spawn(network.send()).await.expect("nothing in a sample panics") })
    };
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (one, other) = if round % 2 == 0 {
            let one = took(&beside);
            (one, took(&alone))
        } else {
            let other = took(&alone);
            (took(&beside), other)
        };
        with.push(one);
        without.push(other);
        ratios.push(one / other);
    }
    let paired = median(ratios);
    report.push(
        Row::cost(
            GROUP,
            "broadcast to 100 others over TLS, read",
            "beside a peer that does not read",
            median(with),
            "us",
        )
        .against("the same with all 101 reading", median(without))
        .note(format!("median of {rounds} paired ratios {paired:.3}")),
    );
}

/// A network with one peer that may not read.
struct Network {
    node: BenchNode,
    /// Bytes that the other peers have read.
    taken: Taken,
    _stopped: Option<Far>,
}

impl Network {
    async fn connected(loopback: &Loopback, stops: bool) -> Self {
        let outbox = OutboxLimits { data_bytes: 64 << 10, ..OutboxLimits::default() };
        let node = BenchNode::start(&Shape { outbox, ..Shape::of(OTHERS + 1) });
        let taken = Taken::default();
        for peer in 0..OTHERS {
            let (near, far) = loopback.connection().await;
            tokio::spawn(drain(greeted(&node, peer, near, far).await, Arc::clone(&taken)));
        }
        let (near, far) = loopback.connection().await;
        let last = greeted(&node, OTHERS, near, far).await;
        let stopped = if stops {
            Some(last)
        } else {
            tokio::spawn(drain(last, Taken::default()));
            None
        };
        settled(&taken).await;
        Self { node, taken, _stopped: stopped }
    }

    /// Sends until the socket and the queue of the peer that does not read are full.
    async fn fill(&self) {
        while self.broadcast().await.full == 0 {}
    }

    async fn broadcast(&self) -> SendReport {
        let before = self.taken.load(Relaxed);
        let payload = payload(before);
        let sent = self.node.net.broadcast(TOPIC, &payload, Audience::All);
        until(&self.taken, before + OTHERS * framed(&payload)).await;
        sent.expect("nothing limits broadcasts here")
    }

    /// Microseconds until the other peers have read one broadcast.
    async fn send(self: Arc<Self>) -> f64 {
        let begun = Instant::now();
        self.broadcast().await;
        nanos(begun.elapsed()) / 1000.0
    }
}
