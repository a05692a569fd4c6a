//! Modules of strangers, as they are and made by wasm-smith.

use std::sync::{Arc, LazyLock};

use arbitrary::Unstructured;
use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Guest, GuestSetup, Wasm};
use groundskeeper::engine::{PhaseCall, PhaseProgram as _};
use groundskeeper_sdk::testing::world;

/// Its clock is advanced by hand, that is never: only fuel ends a run.
static WASM: LazyLock<Wasm> = LazyLock::new(|| Wasm::by_hand(None).expect("this machine runs guests"));

/// A module is refused with a reason, or runs until its fuel ends. If the first byte is odd, the others are the seed of a
/// valid module or component; a fuzzer rarely finds one byte by byte.
pub(crate) fn module(bytes: &[u8]) {
    match bytes.split_first() {
        Some((first, rest)) if first % 2 == 1 => {
            if let Some(made) = made(first % 4 == 1, rest) {
                load(&made);
            }
        }
        Some((_, rest)) => load(rest),
        None => {}
    }
}

/// A module, or a component, drawn from `bytes`.
fn made(is_module: bool, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut drawn = Unstructured::new(bytes);
    let config = wasm_smith::Config { max_memories: 2, ..wasm_smith::Config::default() };
    if is_module {
        wasm_smith::Module::new(config, &mut drawn).ok().map(|module| module.to_bytes())
    } else {
        wasm_smith::Component::new(config, &mut drawn).ok().map(|component| component.to_bytes())
    }
}

fn load(bytes: &[u8]) {
    let code = match WASM.load(bytes) {
        Ok(code) => code,
        Err(refusal) => return assert!(!refusal.to_string().is_empty()),
    };
    let setup = GuestSetup {
        settings: "{}".into(),
        limits: Limits { fuel: 20_000, memory: 1 << 20, ..Limits::default() },
        grants: Grants { peers: true, book: true, broadcasts: true, metrics: true, ..Grants::default() },
        instance: Instance::Persistent { max_runs: 2 },
    };
    match Guest::new(&WASM, code, setup) {
        Ok(guest) => {
            _ = guest.check();
            let world = world().peer(|_| {}).peer(|_| {}).address(|_| {});
            let call = PhaseCall { tick: world.now(), view: Arc::new(world) };
            for _ in 0..2 {
                _ = guest.run(&call);
            }
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}
