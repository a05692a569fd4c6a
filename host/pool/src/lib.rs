#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod book;
pub mod broadcasts;
pub mod journal;
pub mod pool;
pub mod settings;
mod state;

pub use state::{NodeLimits, NodeState};
