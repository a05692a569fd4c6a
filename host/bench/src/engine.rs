//! The group `engine`: the cost of a guest compared with plain wasmtime, and with the same phase compiled in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Guest, GuestSetup, Wasm, with_contract};
use groundskeeper::engine::{PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper_sdk::phase::Tick;

use crate::Effort;
use crate::report::Report;

mod calls;
mod fuel;
pub mod loaded;
mod peers;
pub mod raw;
mod ten;
mod view;

pub const HOW: &str = "engine: medians of interleaved rounds (31; 9 with --quick). Raw is wasmtime with the same \
    configuration (it compiles to the same bytes), limits, epoch, fuel and imports, and nothing of ours.";

const GROUP: &str = "engine";

const SLOW_PEERS: &[u8] = include_bytes!("../../../examples/ready/slow-peers.wasm");

pub fn run(effort: &Effort, report: &mut Report) {
    calls::run(effort, report);
    peers::run(effort, report);
    ten::run(effort, report);
    fuel::run(effort, report);
    loaded::run(effort, report);
}

/// A phase that does nothing, with the imports of one that drops slow peers: a core module with the contract's metadata.
fn empty() -> Vec<u8> {
    let text = include_str!("engine/empty.wat");
    with_contract(&wat::parse_str(text).expect("text as above")).expect("it follows the contract")
}

/// A temporary folder, removed on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Self {
        Self(std::env::temp_dir().join(format!("groundskeeper-bench-{}-{what}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Everything granted, and more fuel than a million peers use.
fn setup(instance: Instance) -> GuestSetup {
    GuestSetup {
        settings: "{}".into(),
        limits: Limits { fuel: 1_000_000_000, wall: Duration::from_secs(10), ..Limits::default() },
        grants: Grants::everything(),
        instance,
    }
}

fn guest(wasm: &Wasm, bytes: &[u8], setup: GuestSetup) -> Guest {
    let code = wasm.load(bytes).unwrap_or_else(|error| panic!("{error}"));
    Guest::new(wasm, code, setup).unwrap_or_else(|error| panic!("{error}"))
}

fn job(peers: usize) -> PhaseCall {
    let tick =
        Tick { number: 7, since_last_s: Some(30), unix_s: 1_700_000_000, seed: [1, 2], ..Tick::default() };
    PhaseCall { tick, view: Arc::new(view::Columns::new(peers)) }
}

/// The number of asks of a run. Any result other than a plan is a mistake of the bench.
fn asks(done: RunResult) -> usize {
    match done.ended {
        RunOutcome::Planned(parts) => parts.asks.len(),
        other => panic!("{other:?}"),
    }
}

fn once(body: &dyn PhaseProgram, job: &PhaseCall) -> usize {
    asks(body.run(job))
}
