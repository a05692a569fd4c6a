//! The choice of a peer for a request: one decision over a thousand connections.

use std::sync::Arc;

use groundskeeper::flow::Route;
use groundskeeper::net::Ask;
use tokio::runtime::Builder;

use super::GROUP;
use crate::Effort;
use crate::net::broadcast::{Taken, adopted, drain, settled};
use crate::nodes::{BenchNode, Shape};
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, per_op, used};

const PEERS: usize = 1_000;
const DECISIONS: usize = 100_000;
/// Fewer decisions for the variant that checks every connection, because it is slower.
const SLOW_DECISIONS: usize = 500;

pub fn run(effort: &Effort, report: &mut Report) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let node = runtime.block_on(async {
        let (node, taken) = (BenchNode::start(&Shape::of(PEERS)), Taken::default());
        for peer in 0..PEERS {
            tokio::spawn(drain(adopted(&node, peer).await, Arc::clone(&taken)));
        }
        settled(&taken).await;
        node
    });
    let decide = |route, count| {
        let ask = Ask::new("block", &[]).route(route);
        per_op(count, || (0..count).for_each(|_| used(node.net.choose(&ask).expect("all are healthy"))))
    };
    let samples: [Sample<'_>; 3] = [
        Box::new(|| decide(Route::RoundRobin, DECISIONS)),
        Box::new(|| decide(Route::LeastLoaded, DECISIONS)),
        Box::new(|| decide(Route::LowestRtt, SLOW_DECISIONS)),
    ];
    let [turns, least, fastest] = medians(effort.choose(31, 9), samples);
    let subject = format!("{} connections", thousands(PEERS));
    let row = |measure, value| Row::cost(GROUP, measure, subject.as_str(), value, "ns");
    report.push(row("whom to ask, in turn", turns).reach(Reach::AtMost(100.0)));
    report.push(row("whom to ask, of two the less loaded", least).reach(Reach::AtMost(100.0)));
    report.push(row("whom to ask, the fastest", fastest).note("looks at all of them"));
}
