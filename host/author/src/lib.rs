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

pub use build::{BuildOutput, build, build_native};
pub use dry::DryRun;
pub use inspect::{Import, InspectedModule, Inspection, inspect};
pub use install::{InstalledFiles, install};
pub use load::load;
pub use template::{Lang, create};
pub use trial::{TrialReport, trial};

#[doc(hidden)]
pub use {
    c::c_compiler,
    load::{LoadPreview, load_folder, load_native},
    source::sources,
    template::sdk_nearby,
    trial::{read_fixture, read_fixtures},
};
