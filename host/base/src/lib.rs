//! Basic types of every other crate: peer ids and network groups, clocks, byte sizes, files that survive a crash.
//!
//! ```
//! use groundskeeper_base::peer::{NetGroup, PeerId};
//!
//! let id = PeerId::from_bytes([7; 32]);
//! assert_eq!(id.to_string().parse(), Ok(id));
//! assert_eq!(NetGroup::of("10.1.2.3".parse().unwrap()), NetGroup::of("10.1.200.9".parse().unwrap()));
//! ```
//!
//! Hidden items are for the crates of this workspace; they may change at any time.

pub mod bootstrap;
#[doc(hidden)]
pub mod bounds;
pub mod bytes;
#[doc(hidden)]
pub mod chance;
pub mod clock;
pub mod peer;
pub mod problem;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod write;
