//! Groundskeeper: one heartbeat for everything a peer-to-peer node does again and again.

pub mod admin;
pub mod book;
pub mod clock;
pub mod config;
pub mod cycle;
pub mod data;
pub mod engine;
pub mod flow;
pub mod journal;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod pool;
pub mod registry;
pub mod ticker;
