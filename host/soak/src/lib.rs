//! Runs a node for a very long time under churn, reloads and faults, and measures what the process holds. Nothing may grow.
//!
//! [`paused`] computes ticks of 30 s as fast as the machine can, over connections that are not real. [`sockets`] runs whole
//! nodes in real time.

mod crowd;
mod folder;
pub mod meter;
pub mod paused;
pub mod sockets;
