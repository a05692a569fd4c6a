//! Phases that change while the node runs: the protocol in simulation and on real files, and what a crash leaves.

mod components;
mod disk;
mod exchanges;
mod faults;
mod folder;
mod kills;
mod signed;
mod sim;
mod starts;
#[path = "../support/wat.rs"]
mod wat;
mod watching;
mod world;
