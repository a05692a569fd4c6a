//! Tools for authors of phases: create, build, inspect, test and install a phase. They work on the local machine and
//! talk to no node.
//!
//! Hidden items are for the crates of this workspace and promise nothing.

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
#[doc(hidden)]
pub mod toolchain;
mod trial;
#[doc(hidden)]
pub mod views;

pub use build::{Built, build, build_native};
pub use dry::DryRun;
pub use inspect::{Import, Inspection, Subject, inspect};
pub use install::{Installed, install};
pub use load::load;
pub use template::{Lang, create};
pub use trial::{Trial, trial};

#[doc(hidden)]
pub use {
    c::c_compiler,
    load::{Loading, load_folder, load_native},
    source::sources,
    template::sdk_nearby,
    trial::{read_fixture, read_fixtures},
};
