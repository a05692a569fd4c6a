//! What authors of phases do on their own machine: start one, build it, look at it, try it, put it in place. Talks to no
//! node.

mod beside;
mod build;
mod c;
mod dry;
mod inspect;
mod install;
mod load;
mod scratch;
mod source;
mod template;
pub mod toolchain;
mod trial;
pub mod views;

pub use build::{Built, build, build_native};
pub use c::c_compiler;
pub use dry::DryRun;
pub use inspect::{Import, Inspection, Subject, inspect};
pub use install::{Installed, install};
pub use load::{Loading, load, load_folder, load_native};
pub use source::sources;
pub use template::{Lang, create, sdk_nearby};
pub use trial::{Trial, read_fixture, read_fixtures, trial};
