#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod bootstrap;
#[doc(hidden)]
pub mod bounds;
pub mod bytes;
#[doc(hidden)]
pub mod chance;
pub mod clock;
#[doc(hidden)]
pub mod path;
pub mod peer;
pub mod problem;
#[doc(hidden)]
pub mod read;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod write;
