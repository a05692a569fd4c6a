//! Arbitrary bytes as a module: no panic, whatever is refused is refused with a reason, and fuel ends what runs.

#![no_main]

use std::sync::{Arc, LazyLock};

use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Guest, Setup, Wasm};
use groundskeeper::engine::{Body, Job};
use groundskeeper_sdk::testing::world;

static WASM: LazyLock<Wasm> = LazyLock::new(|| Wasm::by_hand(None).expect("this machine runs guests"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let code = match WASM.load(bytes) {
        Ok(code) => code,
        Err(refused) => return assert!(!refused.to_string().is_empty()),
    };
    let setup = Setup {
        settings: "{}".into(),
        limits: Limits { fuel: 20_000, memory: 1 << 20, ..Limits::default() },
        grants: Grants { peers: true, book: true, broadcasts: true, metrics: true, ..Grants::default() },
        instance: Instance::Persistent { max_runs: 2 },
    };
    match Guest::new(&WASM, code, setup) {
        Ok(guest) => {
            _ = guest.check();
            let world = world().peer(|_| {}).peer(|_| {}).address(|_| {});
            let job = Job { tick: world.now(), view: Arc::new(world) };
            // No clock cuts it: if it comes back at all, its fuel is used up or it ended by itself.
            (0..2).for_each(|_| _ = guest.run(&job));
        }
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
});
