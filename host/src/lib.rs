//! Groundskeeper: one heartbeat for everything a peer-to-peer node does again and again.

pub mod book;
pub mod clock;
pub mod cycle;
pub mod flow;
pub mod journal;
pub mod net;
pub mod peer;
pub mod pool;
pub mod ticker;
