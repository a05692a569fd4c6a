#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

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
#[cfg(any(feature = "dylib", feature = "wasm"))]
mod shortage;
mod thread;
mod timing;
mod view;
#[cfg(feature = "wasm")]
#[doc(hidden)]
pub mod wasm;

pub use builtin::{BuiltInPhase, BuiltInPhases};
pub use run::Executor;
pub use thread::{MOST_STUCK, PhaseThread};
#[cfg(feature = "wasm")]
pub use wasm::{CompileLimits, Compiler};

#[doc(hidden)]
pub use {
    breaker::PhaseBreaker,
    builtin::{BUILT_IN, BUILTINS, Settings, builtin},
    policy::{MEMORY_BYTES, is_phase_name},
    run::{
        BuiltIn, Cost, FailureKind, FinishedRun, GuestLimit, PhaseCall, PhaseProgram, RunFailure, RunOutcome,
        RunResult, TrialRun,
    },
    timing::{Timing, spread},
    view::{Changes, NameOf, PhaseView, Snapshot},
};
