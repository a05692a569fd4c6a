//! What authors of phases do on their own machine: start one, build it, look at it, try it, put it in place. Talks to no
//! node.

mod build;
mod inspect;
mod install;
mod template;
pub mod toolchain;

pub use build::{Built, build, build_native};
pub use inspect::{Import, Inspection, Subject, inspect};
pub use install::{Installed, install};
pub use template::{Lang, create, sdk_nearby};
