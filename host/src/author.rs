//! What authors of phases do on their own machine: start one, build it, look at it, try it, put it in place. Talks to no
//! node.

mod build;
mod template;
pub mod toolchain;

pub use build::{Built, build, build_native};
pub use template::{Lang, create, sdk_nearby};
