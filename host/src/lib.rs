//! Groundskeeper: one heartbeat for everything a peer-to-peer node does again and again.

// Tests and tools may; the library may not: it reports by value, by journal and by tracing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod book;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cycle;
pub mod data;
pub mod engine;
pub mod flow;
pub mod journal;
pub mod metrics;
pub mod net;
pub mod node;
pub mod peer;
pub mod pool;
pub mod registry;
pub mod ticker;

/// The code on the migration page is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/migrating.md")]
pub struct Migrating;
