//! Guests in their sandbox: what they may do, what they may use up, and what is told when they end. Fuel and epochs are
//! stepped by hand; no clock decides anything.

use std::sync::Arc;

use groundskeeper::engine::policy::{DisconnectGrant, Grants, Instance, Limits, MemoryGrant};
use groundskeeper::engine::wasm::{Code, Guest, GuestSetup, LoadError, SetupError, Wasm};
use groundskeeper::engine::{GuestLimit, PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::phase::Tick;
use groundskeeper_sdk::testing::{World, world};

use crate::wat::{self, Wat};

fn all() -> Grants {
    Grants {
        peers: true,
        book: true,
        broadcasts: true,
        disconnect: Some(DisconnectGrant { max_per_tick: 8, max_per_hour: 80, min_connections_left: 0 }),
        memory: Some(MemoryGrant { max_bytes: 1024 }),
        cadence: true,
        metrics: true,
        ..Grants::default()
    }
}

fn setup() -> GuestSetup {
    GuestSetup {
        settings: "{}".into(),
        limits: Limits { fuel: 1_000_000, ..Limits::default() },
        grants: all(),
        instance: Instance::Fresh,
    }
}

fn load(wasm: &Wasm, bytes: &[u8]) -> Arc<Code> {
    wasm.load(bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn job(world: &World) -> PhaseCall {
    PhaseCall { tick: Tick { number: 1, ..Tick::default() }, view: Arc::new(world.clone()) }
}

fn run_with(wat: &Wat, setup: GuestSetup) -> RunResult {
    let wasm = Wasm::by_hand(None).unwrap();
    let guest = Guest::new(&wasm, load(&wasm, &wat.component()), setup).unwrap();
    guest.check().unwrap();
    guest.run(&job(&world()))
}

fn run(wat: &Wat) -> RunResult {
    run_with(wat, setup())
}

#[test]
fn an_empty_phase_plans_nothing_as_core_module_and_as_component() {
    let wasm = Wasm::by_hand(None).unwrap();
    for bytes in [Wat::default().core(), Wat::default().component()] {
        let guest = Guest::new(&wasm, load(&wasm, &bytes), setup()).unwrap();
        let done = guest.run(&job(&world()));
        let RunOutcome::Planned(parts) = done.ended else { panic!("{:?}", done.ended) };
        assert!(parts.asks.is_empty());
        assert!(done.cost.fuel.unwrap() < 1_000);
        assert_eq!(done.cost.memory, Some(65536));
    }
}

#[test]
fn fuel_is_the_same_number_each_time_and_ends_an_endless_loop() {
    let endless = Wat::run("(loop $again (br $again)) (unreachable)");
    for _ in 0..2 {
        let done = run(&endless);
        let RunOutcome::Cut { limit: GuestLimit::Fuel, words } = done.ended else {
            panic!("{:?}", done.ended)
        };
        assert_eq!(words, "used up its 1000000 of fuel ([limits] fuel), in run");
        assert_eq!(done.cost.fuel, Some(1_000_000));
    }
    let some = Wat::run("(i32.const 8)");
    let costs: Vec<_> = (0..3).map(|_| run(&some).cost.fuel.unwrap()).collect();
    assert!(costs.iter().all(|cost| *cost == costs[0] && *cost > 0), "{costs:?}");
}

#[test]
fn epochs_end_a_guest_whose_fuel_lasts() {
    let wasm = Wasm::by_hand(None).unwrap();
    let endless = Wat::run("(loop $again (br $again)) (unreachable)").component();
    let limits = Limits { fuel: u64::MAX, ..Limits::default() };
    let guest = Guest::new(&wasm, load(&wasm, &endless), GuestSetup { limits, ..setup() }).unwrap();
    let done = std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.run(&job(&world())));
        while wasm.backstop().inside() == 0 {
            std::thread::yield_now();
        }
        // Armed before instantiating, so steps from here on count, and 26 are enough for 250 ms. More hurt nobody.
        while !running.is_finished() {
            wasm.backstop().step();
            std::thread::yield_now();
        }
        running.join().unwrap()
    });
    let RunOutcome::Cut { limit: GuestLimit::Wall, words } = done.ended else { panic!("{:?}", done.ended) };
    assert_eq!(words, "was inside for more than 250 ms ([limits] wall), in run");
}

/// Stores so many bytes if nothing is kept, and else what was kept.
fn keeper(bytes: u32) -> Wat {
    let run = format!(
        "(call $memory.load (i32.const 256)) \
         (if (i32.load8_u (i32.const 256)) \
           (then (call $memory.store (i32.const 2) (i32.load (i32.const 264)) (i32.load (i32.const 268)))) \
           (else (memory.fill (i32.const 65536) (i32.const 97) (i32.const {bytes})) \
                 (call $memory.store (i32.const 1) (i32.const 65536) (i32.const {bytes})))) \
         (i32.const 8)"
    );
    Wat { pages: 20, ..Wat::run(&run) }
        .importing(&[("memory", "load", "(param i32)"), ("memory", "store", "(param i32 i32 i32)")])
}

#[test]
fn a_grant_of_a_mebibyte_is_written_and_read_back_whole() {
    let wasm = Wasm::by_hand(None).unwrap();
    let granted = |max_bytes| GuestSetup {
        limits: Limits { fuel: 10_000_000, ..Limits::default() },
        grants: Grants { memory: Some(MemoryGrant { max_bytes }), ..all() },
        ..setup()
    };
    let nearly = (1 << 20) - 1;
    let guest = Guest::new(&wasm, load(&wasm, &keeper(nearly).component()), granted(1 << 20)).unwrap();
    let kept = |world: &World| match guest.run(&job(world)).ended {
        RunOutcome::Planned(parts) => parts.memory.unwrap(),
        other => panic!("{other:?}"),
    };
    let first = kept(&world());
    assert_eq!((first.version, first.bytes.len()), (1, nearly as usize));
    let again = kept(&world().saved(first.clone()));
    assert!(again.version == 2 && again.bytes == first.bytes);
    // What is more than the grant is told as that.
    let small = Guest::new(&wasm, load(&wasm, &keeper(nearly).component()), granted(800_000)).unwrap();
    let RunOutcome::Rule(words) = small.run(&job(&world())).ended else { panic!() };
    assert_eq!(
        words,
        "memory.store: 1048575 bytes are more than the 800000 that [grants] memory allows, in run"
    );
}

#[test]
fn a_trap_says_where_with_names() {
    let inner = Wat {
        tail: "(func $slow_peers::pick (unreachable))".into(),
        ..Wat::run("(call $slow_peers::pick) (i32.const 8)")
    };
    let RunOutcome::Trapped(words) = run(&inner).ended else { panic!() };
    assert_eq!(words, "wasm trap: wasm `unreachable` instruction executed, in slow_peers::pick < run");
}

#[test]
fn memory_and_stack_have_an_end() {
    let greedy =
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let RunOutcome::Cut { limit: GuestLimit::Memory, words } = run(&Wat::run(greedy)).ended else { panic!() };
    assert!(words.starts_with("wanted more than its 16384 KiB of memory"), "{words}");
    let deep = Wat { tail: "(func $deep (call $deep))".into(), ..Wat::run("(call $deep) (i32.const 8)") };
    let RunOutcome::Cut { limit: GuestLimit::Stack, .. } =
        run_with(&deep, GuestSetup { limits: Limits { fuel: u64::MAX, ..Limits::default() }, ..setup() })
            .ended
    else {
        panic!()
    };
    let large = Wat { pages: 300, ..Wat::default() };
    let wasm = Wasm::by_hand(None).unwrap();
    let Err(SetupError::Describe(words)) = Guest::new(&wasm, load(&wasm, &large.component()), setup()) else {
        panic!()
    };
    assert!(words.starts_with("wanted more than its 16384 KiB of memory"), "{words}");
}

#[test]
fn an_import_that_is_not_granted_is_refused_with_the_line_to_add() {
    let wat =
        Wat::run("(call $ban.ask (i32.const 0) (i32.const 60) (i32.const 1024) (i32.const 1)) (i32.const 8)")
            .importing(&[("ban", "ask", "(param i32 i32 i32 i32)")]);
    let wasm = Wasm::by_hand(None).unwrap();
    let code = load(&wasm, &wat.component());
    assert_eq!(code.imports(), [Interface::Ban]);
    let Err(error) = Guest::new(&wasm, code, setup()) else { panic!() };
    assert_eq!(
        error.to_string(),
        "it wants \"ban\", which is not granted; to grant it, add to [grants]: ban = { max_active = 8, max_duration = \"1h\" }"
    );
}

#[test]
fn a_broken_rule_names_the_call_and_the_place() {
    let wat = Wat {
        tail: r#"(data (i32.const 1024) "slow")"#.into(),
        ..Wat::run("(call $disconnect.ask (i32.const 7) (i32.const 1024) (i32.const 4)) (i32.const 8)")
    }
    .importing(&[("disconnect", "ask", "(param i32 i32 i32)")]);
    let RunOutcome::Rule(words) = run(&wat).ended else { panic!() };
    assert_eq!(words, "disconnect.ask: row 7 of 0; keep no row beyond its run, in run");
    let early = Wat { check: wat.run.clone(), run: "(i32.const 8)".into(), ..wat };
    let wasm = Wasm::by_hand(None).unwrap();
    let guest = Guest::new(&wasm, load(&wasm, &early.component()), setup()).unwrap();
    let problem = guest.check().unwrap_err();
    assert_eq!(
        problem,
        "its `check` failed: disconnect.ask: reading and asking are allowed only in `run`, in check"
    );
}

#[test]
fn asks_come_out_as_they_went_in() {
    let wat = Wat {
        tail: r#"(data (i32.const 1024) "slow")"#.into(),
        ..Wat::run("(call $disconnect.ask (i32.const 1) (i32.const 1024) (i32.const 4)) (i32.const 8)")
    }
    .importing(&[("disconnect", "ask", "(param i32 i32 i32)")]);
    let wasm = Wasm::by_hand(None).unwrap();
    for instance in [Instance::Fresh, Instance::Persistent { max_runs: 3 }] {
        let guest =
            Guest::new(&wasm, load(&wasm, &wat.component()), GuestSetup { instance, ..setup() }).unwrap();
        let world = world().peer(|_| {}).peer(|_| {});
        for _ in 0..5 {
            let RunOutcome::Planned(parts) = guest.run(&job(&world)).ended else { panic!() };
            let asks: Vec<String> = parts.asks.iter().map(ToString::to_string).collect();
            assert_eq!(asks, ["disconnect 1: slow"]);
        }
    }
}

#[test]
fn bytes_that_are_no_phase_are_refused_by_name() {
    let wasm = Wasm::by_hand(None).unwrap();
    let refused = |bytes: &[u8]| wasm.load(bytes).unwrap_err();
    assert_eq!(refused(b""), LoadError::Empty);
    assert!(matches!(refused(b"\x7fELF..."), LoadError::NotWasm(_)));
    assert!(matches!(refused(&vec![0; 50 << 20]), LoadError::TooLarge { what: "bytes", .. }));
    let whole = Wat::default().component();
    for end in [5, 9, whole.len() / 2, whole.len() - 1] {
        let error = refused(&whole[..end]);
        assert!(
            matches!(error, LoadError::Broken(_) | LoadError::NotWasm(_) | LoadError::Compile(_)),
            "{end}: {error}"
        );
    }
    assert_eq!(refused(&wat::parse("(module)")), LoadError::CoreWithoutMetadata);
    assert!(matches!(refused(&wat::parse("(component)")), LoadError::NoPhase(_)));
    let unknown =
        wat::parse(r#"(component (import "evil:files/open@1.0.0" (instance (export "open" (func)))))"#);
    let LoadError::UnknownImport { import, .. } = refused(&unknown) else { panic!() };
    assert_eq!(import, "evil:files/open@1.0.0");
}
