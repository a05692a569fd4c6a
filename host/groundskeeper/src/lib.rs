#![cfg_attr(feature = "node", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "node"),
    doc = "The maintenance of a peer-to-peer node; its page needs the feature `node`."
)]
#![warn(missing_docs)]
// Tests and tools may do this. The library reports through return values, the journal and tracing.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub use groundskeeper_base::{self as base, chance, clock, descriptors, peer};
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

// Hidden items are public only for the crates, benchmarks and tests of this workspace, without a promise:
// docs/library.md.
#[cfg(feature = "telemetry")]
#[doc(hidden)]
pub mod admin;
pub mod cycle;
#[cfg(feature = "data")]
pub mod data;
#[cfg(feature = "dropin")]
#[doc(hidden)]
pub mod disk;
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

/// Runs the code of the migration page as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/migrating.md")]
pub struct Migrating;

/// Runs the program of the page for applications as a doc test.
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../../../docs/library.md")]
pub struct Library;
