//! The group `pool`: marking peers as alive, finding stale ones, memory, coming and going, growth.

use crate::Effort;
use crate::report::Report;

mod churn;
mod growth;
mod memory;
pub mod scan;
mod seen;

pub const HOW: &str = "pool: medians of interleaved rounds (31; 9 with --quick), the clock read outside of inner loops; \
    a sample in which the system took the core away is taken again (8 tries); two threads on a core each.";

const GROUP: &str = "pool";

pub fn run(effort: &Effort, report: &mut Report) {
    seen::run(effort, report);
    scan::run(effort, report);
    memory::run(effort, report);
    churn::run(effort, report);
    growth::run(effort, report);
}
