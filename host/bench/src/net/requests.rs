//! Requests and answers over one TLS connection: our code, a hand-written echo, and an RPC library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use groundskeeper::flow::OutboxLimits;
use groundskeeper::net::{Ask, Handlers};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::GROUP;
use super::wire::Loopback;
use crate::Effort;
use crate::nodes::{BenchNode, Shape};
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, nanos, used};

mod by_hand;
mod library;

/// Requests open at any moment.
const IN_FLIGHT: usize = 64;

const KIND: &str = "echo";

/// No answer on loopback takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(effort: &Effort, report: &mut Report) {
    for (size, count, name) in [(64, 20_000, "64 B"), (16 << 10, 4_000, "16 KiB")] {
        let count = effort.choose(count, count / 2);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let payload = Bytes::from(vec![7; size]);
        let pair = Arc::new(runtime.block_on(Pair::connected()));
        let loopback = runtime.block_on(Loopback::listen());
        let by_library = runtime.block_on(library::connected(&loopback));
        let samples: [Sample<'_>; 4] = [
            Box::new(|| runtime.block_on(ours(&pair, &payload, count, false))),
            Box::new(|| runtime.block_on(ours(&pair, &payload, count, true))),
            Box::new(|| runtime.block_on(by_hand::echoed(&loopback, &payload, count))),
            Box::new(|| runtime.block_on(library::echoed(&by_library, &payload, count))),
        ];
        let [request, ask, by_hand, library] = medians(effort.choose(9, 3), samples);
        let subject = format!("{name}, {IN_FLIGHT} in flight");
        let row = |measure, value| Row::rate(GROUP, measure, subject.as_str(), value, "1/s");
        let requests = row("requests over one TLS connection", request);
        report.push(
            requests.clone().against("by hand: one task a side, no askers", by_hand).reach(Reach::Times(0.8)),
        );
        report.push(requests.clone().against("tarpc, postcard", library).reach(Reach::Times(1.0)));
        report.push(requests.against("wanted at least", 10_000.0).reach(Reach::Times(1.0)));
        report.push(row("the same by Net::ask", ask).against("tarpc, postcard", library));
    }
}

/// Two nodes and one connection.
struct Pair {
    here: BenchNode,
    there: BenchNode,
}

impl Pair {
    async fn connected() -> Self {
        let handlers = Handlers::new().on_request(KIND, |_, payload| async move { Ok(payload) });
        // Queues have room for all requests in flight, as in the two baselines.
        let outbox = OutboxLimits { data_bytes: 4 << 20, ..OutboxLimits::default() };
        let there = BenchNode::answering(&Shape { listens: true, outbox, ..Shape::of(4) }, handlers);
        let here = BenchNode::start(&Shape { outbox, ..Shape::of(4) });
        here.learn(there.port(), 1);
        here.connect(0, there.port(), || there.live()).await;
        Self { here, there }
    }
}

/// Requests per second. There is one task per request in flight; it asks again when it gets its answer.
async fn ours(pair: &Arc<Pair>, payload: &Bytes, count: usize, ask: bool) -> f64 {
    let begun = Instant::now();
    let mut askers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (pair, payload) = (Arc::clone(pair), payload.clone());
        askers.spawn(async move {
            let peer = pair.there.state.pool.self_id();
            for _ in 0..count / IN_FLIGHT {
                let answer = match ask {
                    true => pair.here.net.ask(Ask::new(KIND, &payload)).await.map(|answer| answer.payload),
                    false => {
                        let answer = pair.here.net.request(peer, KIND, &payload, PATIENCE).await;
                        Ok(answer.expect("the peer echoes"))
                    }
                };
                used(answer.expect("the peer echoes"));
            }
        });
    }
    askers.join_all().await;
    rate(count, begun)
}

/// Requests per second. All tasks together send the largest multiple of [`IN_FLIGHT`] that `count` allows.
fn rate(count: usize, begun: Instant) -> f64 {
    (count / IN_FLIGHT * IN_FLIGHT) as f64 * 1e9 / nanos(begun.elapsed())
}
