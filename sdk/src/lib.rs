//! The SDK for maintenance phases of Groundskeeper. It defines the contract between host and phase, and does no I/O.
//!
//! A phase reads a [`View`](view::View) of the node and asks for actions in a [`Plan`](plan::Plan). This is a complete
//! phase, with its test:
//!
//! ```
//! use groundskeeper_sdk::prelude::*;
//!
//! /// Drops peers that stay slow.
//! #[derive(Deserialize)]
//! #[serde(crate = "groundskeeper_sdk::serde", deny_unknown_fields)]
//! pub struct SlowPeers {
//!     /// A longer round trip than this is slow.
//!     pub rtt_over: Span,
//!     /// Keep at least this many connections.
//!     #[serde(default)]
//!     pub keep: u32,
//! }
//!
//! impl Phase for SlowPeers {
//!     const SUMMARY: &'static str = "drops peers that stay slow";
//!
//!     fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
//!         let spare = view.peers().count().saturating_sub(self.keep);
//!         for p in view.peers().over(peer::RTT, self.rtt_over).most(peer::RTT).take(spare.min(8)) {
//!             plan.disconnect(p, "slow");
//!         }
//!         Ok(())
//!     }
//! }
//!
//! groundskeeper_sdk::export!(SlowPeers);
//!
//! use groundskeeper_sdk::testing::world;
//!
//! let w = world()
//!     .peer(|p| { p.with(peer::RTT, Span::millis(900)); })
//!     .peer(|_| {})
//!     .peer(|p| { p.with(peer::RTT, Span::millis(950)); });
//! let phase = SlowPeers { rtt_over: Span::millis(500), keep: 1 };
//! assert_eq!(w.run(&phase).unwrap(), "disconnect 2: slow\ndisconnect 0: slow\n");
//! ```
//!
//! | module | what for |
//! |---|---|
//! | [`phase`] | the trait, the tick, failures |
//! | [`view`], [`select`], [`mod@column`] | reading: the snapshot, selections, typed columns |
//! | [`plan`] | asking for actions |
//! | [`span`], [`mod@decay`], [`rng`] | time, decay and randomness in integers: the same result on every machine |
//! | [`settings`], [`memory`] | the check of settings, and what a phase keeps between runs |
//! | [`testing`] | a node state built by hand, for tests without a host |
//! | [`mod@export`] | a component or a shared library from a phase |
//! | [`contract`], [`query`], [`host`], [`abi`] | the contract as data, and what a host needs to serve it |

#![warn(missing_docs)]
// A panic in a guest is a trap; a phase reports through its plan.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod column;
pub mod contract;
pub mod decay;
pub mod export;
pub mod memory;
pub mod phase;
pub mod plan;
pub mod prelude;
pub mod rng;
pub mod select;
pub mod settings;
pub mod span;
pub mod view;

// A guest has this module instead of the ones below: it calls the host.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
#[cfg(target_arch = "wasm32")]
use guest as backend;

#[cfg(not(target_arch = "wasm32"))]
pub mod abi;
#[cfg(not(target_arch = "wasm32"))]
mod ask;
#[cfg(not(target_arch = "wasm32"))]
pub mod host;
#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(not(target_arch = "wasm32"))]
pub mod query;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(not(target_arch = "wasm32"))]
use native as backend;

/// For `#[serde(crate = "groundskeeper_sdk::serde")]`, so that a phase needs no dependency on serde.
pub use serde;

/// Runs the code of the guide for authors with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-phase.md")]
pub struct WriteAPhase;
