//! Views and plans of a WebAssembly guest: each call is a call of the host. Rules are the host's to keep; it traps.
//!
//! Nothing here dispatches at run time: what a phase does not call is not linked, and so not requested from the host.

mod asks;
#[allow(
    missing_docs,
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::mem_forget,
    clippy::allow_attributes_without_reason,
    clippy::uninlined_format_args,
    clippy::unwrap_used,
    reason = "generated; a test regenerates it"
)]
#[rustfmt::skip]
pub mod bindings;
mod entry;
mod reads;

pub(crate) use asks::Asks;
pub(crate) use bindings::groundskeeper::phase::types;
pub(crate) use reads::{Reads, Source};

pub(crate) type Test = types::Test<'static>;
pub(crate) type Order = types::Order<'static>;
