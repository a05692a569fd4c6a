//! Groundskeeper: one heartbeat for everything a peer-to-peer node does again and again.
//!
//! [`pool`] holds the connections, [`ticker`] beats, [`cycle`] runs the phases of one beat and applies what they ask for,
//! [`journal`] keeps who asked what and why. [`node::Maintenance`] puts these together for applications with connections
//! of their own: see [`pool::Pool::attach`], [`pool::Link`] and [`book::Dial`]. Applications that want a whole node, with
//! messages and phases of theirs, begin with [`node::Node::builder`].
//!
//! Without features it is that and no more. `config`, `data`, `dropin`, `wasm`, `dylib`, `watch`, `record`, `net`, `node` and
//! `telemetry` add to it: `docs/library.md` tells what each brings.

// Tests and tools may; the library may not: it reports by value, by journal and by tracing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub use groundskeeper_base::{self as base, chance, clock, peer};
#[cfg(feature = "config")]
pub use groundskeeper_config as config;
pub use groundskeeper_engine as engine;
#[cfg(any(feature = "net", feature = "telemetry"))]
pub use groundskeeper_flow as flow;
#[cfg(feature = "net")]
pub use groundskeeper_net as net;
pub use groundskeeper_pool::{book, broadcasts, journal, pool};
#[cfg(feature = "record")]
pub use groundskeeper_record as record;

// Hidden items are public for the crates, benchmarks and tests of this workspace, and no promise: docs/library.md.
#[cfg(feature = "telemetry")]
#[doc(hidden)]
pub mod admin;
pub mod cycle;
#[cfg(feature = "data")]
pub mod data;
#[cfg(feature = "dropin")]
pub mod loader;
#[cfg(feature = "telemetry")]
#[doc(hidden)]
pub mod metrics;
pub mod node;
pub mod registry;
#[cfg(feature = "dropin")]
pub mod reload;
pub mod ticker;

/// The code on the migration page is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/migrating.md")]
pub struct Migrating;

/// The program on the page for applications is run, too.
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../../../docs/library.md")]
pub struct Library;
