//! The group `net`: the cost of a connection, broadcasts to many peers, and one peer that does not read.

use crate::Effort;
use crate::report::Report;

mod beside;
pub mod broadcast;
mod fanout;
pub mod live;
pub mod overload;
mod requests;
mod stalled;
mod wire;

pub const HOW: &str = "net: connections on loopback, both ends in one process, each with keys of its own, made one after the \
    other on one thread; broadcasts over in-memory streams; a peer that does not read for 5 s (2 s with --quick); requests and \
    broadcasts over TLS on loopback, both ends in one process, two workers; overload for 60 s (5 s with --quick).";

const GROUP: &str = "net";

pub fn run(effort: &Effort, report: &mut Report) {
    live::run(effort, report);
    broadcast::run(effort, report);
    stalled::run(effort, report);
    beside::run(effort, report);
    requests::run(effort, report);
    fanout::run(effort, report);
    overload::run(effort, report);
}
