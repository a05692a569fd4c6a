#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod beside;
mod build;
mod c;
mod dry;
mod inspect;
mod install;
mod load;
mod progress;
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
