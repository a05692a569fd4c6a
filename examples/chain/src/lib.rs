//! A small chain on Groundskeeper's library: processes agree on blocks of signed transactions, even if some are killed
//! and restarted. It has no economics: wallets may fall below zero, and no node is paid.
//!
//! Its files, in order: each may use only those above it.
//!
//! | file | owns |
//! |---|---|
//! | [`block`] | transactions, blocks, votes, the genesis; digests and signatures over them |
//! | [`ledger`] | which blocks have enough votes and which are final: a pure state machine, after Streamlet |
//! | [`log`] | what the node must not forget, in a file that survives a crash |
//! | [`wire`] | topics and request kinds, and their payloads |
//! | [`upkeep`] | the chain's own maintenance phase |
//! | [`node`] | the node: handlers, slots, catching up |
//!
//! It uses Groundskeeper's builder, handlers for requests and broadcasts, a phase in Rust, and the node's key.

pub mod block;
pub mod ledger;
pub mod log;
pub mod node;
pub mod upkeep;
pub mod wire;
