//! What a node knows: its connections, the addresses it has heard of, the broadcasts it has seen, and the journal of
//! every action on them. Opens no socket and decides nothing.
//!
//! Hidden items are for the crates of this workspace and promise nothing.

pub mod book;
pub mod broadcasts;
pub mod journal;
pub mod pool;
pub mod settings;
mod state;

pub use state::{NodeLimits, NodeState};
