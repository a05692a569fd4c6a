//! The group `flow`: the queue from requesters to workers, a connection's send queue, and the choice of a peer.

use crate::Effort;
use crate::report::Report;

mod outbox;
mod queue;
mod routing;

pub const HOW: &str = "flow: medians of interleaved rounds (15; 5 with --quick). Producers are threads or tasks, as the row says; \
    tasks run on a runtime with two workers. Routing: one thread, 1,000 connections over in-memory streams.";

const GROUP: &str = "flow";

pub fn run(effort: &Effort, report: &mut Report) {
    queue::run(effort, report);
    outbox::run(effort, report);
    routing::run(effort, report);
}
