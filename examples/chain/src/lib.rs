//! A small chain on Groundskeeper's library: processes that agree on blocks of signed transactions, through kills and
//! restarts. It has no economics: wallets may fall below zero, and nobody is paid for anything.
//!
//! What it is made of, in the order in which a file may use another:
//!
//! | file | owns |
//! |---|---|
//! | [`block`] | transactions, blocks, votes, the genesis; digests and signatures over them |
//! | [`ledger`] | which blocks have enough votes and which are final: a pure state machine, after Streamlet |
//! | [`log`] | what must not be forgotten, in a file that a crash leaves whole |
//! | [`wire`] | topics and request kinds, and what they carry |
//! | [`upkeep`] | a maintenance phase of the chain's own |
//! | [`node`] | the node: handlers, slots, catching up |
//!
//! Of Groundskeeper it uses the builder, handlers for requests and broadcasts, a phase in Rust, and the node's key.

pub mod block;
pub mod ledger;
pub mod log;
pub mod node;
pub mod upkeep;
pub mod wire;
