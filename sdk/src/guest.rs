//! Views and plans of a WebAssembly guest: each call goes to the host, which checks the rules and traps.
//!
//! Nothing here dispatches at run time: calls that a phase does not make are not linked, so it does not import them.

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
