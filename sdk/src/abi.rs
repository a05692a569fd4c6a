//! The table of C functions between a host and a native phase, in Rust. `include/groundskeeper_phase.h` explains it; a
//! test compares shapes and numbers with that header.
//!
//! [`table`] makes the table of a Rust phase; [`NativePhase`] calls any table for a host. No Rust type crosses it.

#![expect(missing_docs, non_camel_case_types, reason = "the names are the header's, and it documents them")]

use std::ffi::{c_int, c_void};

use crate::view::{BroadcastTotals, Totals};

mod call;
mod entry;
mod phase;

pub use entry::table;
pub use phase::NativePhase;

/// The header, as authors in C need it.
pub const HEADER: &str = include_str!("../include/groundskeeper_phase.h");
/// The symbol that a library exports.
pub const ENTRY: &str = "groundskeeper_phase_v1";
/// The version of the header.
pub const ABI: u32 = 1;

pub const OK: u32 = 0;
pub const FAILED: u32 = 1;
pub const FAILED_FOR_GOOD: u32 = 2;
pub const PANICKED: u32 = 3;
pub const RULE_BROKEN: u32 = 4;

pub const PEERS: u32 = 0;
pub const BOOK: u32 = 1;

pub const ERROR: u32 = 0;
pub const WARN: u32 = 1;
pub const INFO: u32 = 2;
pub const DEBUG: u32 = 3;

pub const ADD: u32 = 0;
pub const SET: u32 = 1;

/// Text or bytes: `at` may be null if `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gk_text {
    pub at: *const u8,
    pub len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gk_tick {
    pub number: u32,
    pub since_last_s: u32,
    pub missed: u32,
    pub late: u32,
    pub unix_s: u32,
    pub seed: [u32; 2],
}

pub type gk_totals = Totals;

pub type gk_broadcasts = BroadcastTotals;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gk_name {
    pub id: gk_text,
    pub address: gk_text,
    pub agent: gk_text,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gk_saved {
    pub version: u32,
    pub bytes: gk_text,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gk_test {
    pub column: gk_text,
    pub at_least: u32,
    pub at_most: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gk_ask {
    pub size: u32,
    pub kind: u32,
    pub row: u32,
    pub number: i64,
    pub reason: gk_text,
    pub rows: *const u32,
    pub rows_len: usize,
    pub tests: *const gk_test,
    pub tests_len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gk_run {
    pub size: u32,
    pub tick: gk_tick,
    pub settings: gk_text,
    pub host: *mut c_void,
    pub rows: unsafe extern "C" fn(*mut c_void, u32) -> u32,
    pub column: unsafe extern "C" fn(*mut c_void, u32, gk_text) -> *const u32,
    pub columns: unsafe extern "C" fn(*mut c_void, u32) -> gk_text,
    pub name: unsafe extern "C" fn(*mut c_void, u32, u32, *mut gk_name) -> c_int,
    pub totals: unsafe extern "C" fn(*mut c_void, *mut gk_totals),
    pub broadcasts: unsafe extern "C" fn(*mut c_void, *mut gk_broadcasts),
    pub memory: unsafe extern "C" fn(*mut c_void, *mut gk_saved) -> c_int,
    pub ask: unsafe extern "C" fn(*mut c_void, *const gk_ask) -> c_int,
    pub store: unsafe extern "C" fn(*mut c_void, u32, gk_text) -> c_int,
    pub metric: unsafe extern "C" fn(*mut c_void, gk_text, u32, f64) -> c_int,
    pub log: unsafe extern "C" fn(*mut c_void, u32, gk_text),
    pub fail: unsafe extern "C" fn(*mut c_void, gk_text),
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gk_phase {
    pub size: u32,
    pub abi: u32,
    pub summary: gk_text,
    pub version: gk_text,
    pub toolkit: gk_text,
    pub check: Option<unsafe extern "C" fn(*const gk_run) -> u32>,
    pub run: Option<unsafe extern "C" fn(*const gk_run) -> u32>,
}

impl gk_text {
    /// A text of these bytes. It is valid only while they live.
    pub const fn of(bytes: &[u8]) -> gk_text {
        gk_text { at: bytes.as_ptr(), len: bytes.len() }
    }
}

impl Default for gk_text {
    fn default() -> gk_text {
        gk_text::of(&[])
    }
}
