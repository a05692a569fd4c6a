//! Phases that change while the node runs: the protocol in simulation and on real files, and what a crash leaves.

mod disk;
mod sim;
mod world;
