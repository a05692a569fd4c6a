//! Runs one phase, whatever it is made of, and brings back what it asked for or how it failed. Schedules nothing.
//!
//! [`schedule`] says when a phase is due, [`policy`] what it may do, a [`Fence`] where it runs. Hidden items are for the
//! crates of this workspace and promise nothing.

#[doc(hidden)]
pub mod beat;
mod breaker;
mod builtin;
#[cfg(any(feature = "dylib", feature = "wasm"))]
mod log;
#[cfg(feature = "dylib")]
#[doc(hidden)]
pub mod native;
pub mod policy;
mod run;
pub mod schedule;
mod thread;
mod timing;
mod view;
#[cfg(feature = "wasm")]
#[doc(hidden)]
pub mod wasm;

pub use builtin::{Phase, Phases};
pub use run::Fence;
pub use thread::PhaseThread;

#[doc(hidden)]
pub use {
    breaker::Breaker,
    builtin::{BUILT_IN, BUILTINS, Settings, builtin},
    policy::{MEMORY_BYTES, is_phase_name},
    run::{Body, BuiltIn, Cost, Done, Ended, FailureKind, Job, Limit, Run, RunFailure},
    timing::{Timing, spread},
    view::{Changes, NameOf, PhaseView, Snapshot},
};
