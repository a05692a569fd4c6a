//! Ten hosts and the network between them, on simulated time: the host's own network, tables and maintenance over a
//! plain transport, with faults that follow from a seed. Checks invariants; changes nothing in the host.

mod alone;
mod disk;
mod faults;
mod host;
mod many;
mod scenario;
mod stopped;
mod transport;
mod weather;

pub use alone::recovery;
pub use many::{Ended, run_all};
pub use scenario::{Figures, HOSTS, LENGTH, Outcome, Sabotage, Tell, run, run_sabotaged};
pub use stopped::{Kind, deliveries};

/// The command that repeats one seed.
pub fn replay_line(seed: u64) -> String {
    format!("cargo xtask sim --seed {seed}")
}
