#![doc = include_str!("../README.md")]
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
