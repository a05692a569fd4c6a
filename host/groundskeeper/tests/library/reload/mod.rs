//! Phases that change while the node runs: the protocol in simulation and on real files, and what a crash leaves.

mod compiling;
#[cfg(feature = "wasm")]
mod components;
mod disk;
mod exchanges;
mod faults;
mod folder;
mod kills;
mod signed;
mod sim;
mod starts;
mod trials;
mod watching;
mod world;
