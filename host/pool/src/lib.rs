//! The state of a peer-to-peer node: its connections, address book, seen broadcasts, and a journal of every action on
//! them. Opens no socket and makes no decisions.
//!
//! Hidden items are for the crates of this workspace; they have no stability promise.

pub mod book;
pub mod broadcasts;
pub mod journal;
pub mod pool;
pub mod settings;
mod state;

pub use state::{NodeLimits, NodeState};
