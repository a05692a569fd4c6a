//! What every part of Groundskeeper needs: who a peer is, what time it is, sizes, and files that survive a crash.
//!
//! ```
//! use groundskeeper_base::peer::{NetGroup, PeerId};
//!
//! let id = PeerId::from_bytes([7; 32]);
//! assert_eq!(id.to_string().parse(), Ok(id));
//! assert_eq!(NetGroup::of("10.1.2.3".parse().unwrap()), NetGroup::of("10.1.200.9".parse().unwrap()));
//! ```

pub mod bootstrap;
pub mod bounds;
pub mod bytes;
pub mod chance;
pub mod clock;
pub mod peer;
pub mod problem;
pub mod units;
pub mod write;
