//! Guests that mean harm, or were never meant to be guests: each is refused or cut with its reason named, and costs the
//! host what its manifest allows. Fuel and epochs decide, never a clock.

use std::sync::Arc;

use groundskeeper::engine::policy::{
    BanGrant, DialGrant, DisconnectGrant, ForgetGrant, Grants, HealthGrant, Instance, Limits, MemoryGrant,
    PingGrant, ProtectGrant,
};
use groundskeeper::engine::wasm::{Code, Guest, GuestSetup, LoadError, SetupError, Wasm};
use groundskeeper::engine::{GuestLimit, PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper_sdk::host::Frozen;
use groundskeeper_sdk::phase::Tick;
use groundskeeper_sdk::testing::{World, world};

mod beats;
mod bombs;
mod calls;
mod endless;
mod strangers;
mod traps;
mod wasi;

use crate::wat::{self, Wat};

/// Every interface, so that nothing is refused for want of a grant.
fn every_grant() -> Grants {
    Grants {
        peers: true,
        book: true,
        broadcasts: true,
        disconnect: Some(DisconnectGrant::default()),
        health: Some(HealthGrant::default()),
        ping: Some(PingGrant::default()),
        dial: Some(DialGrant::default()),
        protect: Some(ProtectGrant::default()),
        ban: Some(BanGrant::default()),
        forget: Some(ForgetGrant::default()),
        cadence: true,
        memory: Some(MemoryGrant { max_bytes: 1024 }),
        metrics: true,
    }
}

fn setup() -> GuestSetup {
    fueled(1_000_000)
}

fn fueled(fuel: u64) -> GuestSetup {
    GuestSetup {
        settings: "{}".into(),
        limits: Limits { fuel, ..Limits::default() },
        grants: every_grant(),
        instance: Instance::Fresh,
    }
}

/// Three peers and two addresses.
fn few() -> World {
    let named = |world: World| world.peer(|_| {});
    named(named(named(world()))).address(|_| {}).address(|_| {})
}

fn job(world: &World) -> PhaseCall {
    PhaseCall { tick: Tick { number: 1, ..world.now() }, view: Arc::new(world.clone()) as Arc<dyn Frozen> }
}

fn load(wasm: &Wasm, bytes: &[u8]) -> Arc<Code> {
    wasm.load(bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn guest(wasm: &Wasm, wat: &Wat, setup: GuestSetup) -> Guest {
    Guest::new(wasm, load(wasm, &wat.component()), setup).unwrap_or_else(|error| panic!("{error}"))
}

/// Why it cannot be loaded.
fn refused(bytes: &[u8]) -> LoadError {
    Wasm::by_hand(None).unwrap().load(bytes).unwrap_err()
}

/// Why it loads and yet is no phase.
fn unfit(bytes: &[u8], setup: GuestSetup) -> String {
    let wasm = Wasm::by_hand(None).unwrap();
    let code = load(&wasm, bytes);
    match Guest::new(&wasm, code, setup) {
        Ok(_) => panic!("it was taken for a phase"),
        Err(SetupError::Describe(words)) => words,
        Err(other) => panic!("{other}"),
    }
}

fn run_with(wat: &Wat, setup: GuestSetup) -> RunResult {
    let wasm = Wasm::by_hand(None).unwrap();
    guest(&wasm, wat, setup).run(&job(&few()))
}

fn run(wat: &Wat) -> RunResult {
    run_with(wat, setup())
}

/// What was told of a run that did not end well, with the limit if it was one.
fn told(done: &RunResult) -> (Option<GuestLimit>, &str) {
    match &done.ended {
        RunOutcome::Cut { limit, words } => (Some(*limit), words),
        RunOutcome::Rule(words) | RunOutcome::Trapped(words) | RunOutcome::Panicked(words) => (None, words),
        other => panic!("it ended well: {other:?}"),
    }
}

#[track_caller]
fn assert_cut(done: &RunResult, limit: GuestLimit, words: &str) {
    assert_eq!(told(done), (Some(limit), words));
}

#[track_caller]
fn assert_told(done: &RunResult, words: &str) {
    assert_eq!(told(done), (None, words));
}

/// An empty phase's component with further core modules and instances of them, written as text.
fn beside(more: &str) -> Vec<u8> {
    const SECTION_OF_AN_EMPTY_MODULE: usize = 10;
    let phase = Wat::default().component();
    // As many modules as it has come first, so that those in `more` are numbered right; then they are cut off.
    let modules = sections(&phase).iter().filter(|(id, _)| *id == CORE_MODULE).count();
    let text = format!("(component {} {more})", "(core module)".repeat(modules));
    let added = wat::parse(&text);
    [&phase[..], &added[HEADER + modules * SECTION_OF_AN_EMPTY_MODULE..]].concat()
}

const HEADER: usize = 8;
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// The sections of a component: id and content.
fn sections(component: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &component[HEADER..];
    let mut sections = Vec::new();
    while let [id, after @ ..] = rest {
        let (length, after) = number(after);
        let (content, next) = after.split_at(length);
        sections.push((*id, content));
        rest = next;
    }
    sections
}

/// A number as WebAssembly writes it, and what follows.
fn number(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a last byte") + 1;
    let value = bytes[..end].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, &bytes[end..])
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut section = vec![id];
    let mut length = content.len();
    while length >= 0x80 {
        section.push(length as u8 | 0x80);
        length >>= 7;
    }
    section.push(length as u8);
    section.extend_from_slice(content);
    section
}
