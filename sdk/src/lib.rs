//! Everything a maintenance phase of Groundskeeper needs. Owns the contract; opens, sends and waits for nothing.
//!
//! A phase reads a [`View`](view::View) of the node and asks for actions in a [`Plan`](plan::Plan). Here is a whole
//! one, with its test:
//!
//! ```
//! use groundskeeper_sdk::prelude::*;
//!
//! /// Drops peers that stay slow.
//! #[derive(Deserialize)]
//! #[serde(crate = "groundskeeper_sdk::serde", deny_unknown_fields)]
//! pub struct SlowPeers {
//!     /// Slower than this is slow.
//!     pub rtt_over: Span,
//!     /// Never drop below so many connections.
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
//! | [`view`], [`select`], [`mod@column`] | reading |
//! | [`plan`] | asking |
//! | [`span`], [`mod@decay`], [`rng`] | time, forgetting and chance in integers, alike on every machine |
//! | [`settings`], [`memory`] | what a phase is told, and what outlives a run |
//! | [`testing`] | a world by hand, for tests without a host |
//! | [`mod@export`] | a component or a shared library out of a phase |
//! | [`contract`], [`query`], [`host`], [`abi`] | the contract as data, and what a host does with it |

#![warn(missing_docs)]
// A panic in a guest is a trap; what a phase has to say goes through its plan.
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

// What a guest has instead of the rest: its calls into the host.
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

/// The code on the page for authors is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-phase.md")]
pub struct WriteAPhase;
