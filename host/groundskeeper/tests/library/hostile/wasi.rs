//! Guests whose language cannot do without WASI: it is there, answers at once, and reveals and opens nothing.

use super::*;

use groundskeeper_sdk::contract::WIT;
use groundskeeper_sdk::host::Level;

/// As much of WASI as these guests call, in its own words.
const SUBSET: &str = r#"
package wasi:io@0.2.6 {
    interface error { resource error { to-debug-string: func() -> string; } }
    interface poll {
        resource pollable { ready: func() -> bool; block: func(); }
        poll: func(in: list<borrow<pollable>>) -> list<u32>;
    }
    interface streams {
        use error.{error};
        use poll.{pollable};
        variant stream-error { last-operation-failed(error), closed }
        resource input-stream { read: func(len: u64) -> result<list<u8>, stream-error>; }
        resource output-stream {
            check-write: func() -> result<u64, stream-error>;
            write: func(contents: list<u8>) -> result<_, stream-error>;
            blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            subscribe: func() -> pollable;
        }
    }
}
package wasi:clocks@0.2.6 {
    interface monotonic-clock {
        use wasi:io/poll@0.2.6.{pollable};
        now: func() -> u64;
        subscribe-duration: func(when: u64) -> pollable;
    }
    interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
}
package wasi:random@0.2.6 {
    interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }
}
package wasi:filesystem@0.2.6 {
    interface types {
        enum error-code { access, not-permitted, unsupported }
        resource descriptor { open-at: func(path: string) -> result<descriptor, error-code>; }
    }
    interface preopens {
        use types.{descriptor};
        get-directories: func() -> list<tuple<descriptor, string>>;
    }
}
package wasi:cli@0.2.6 {
    interface environment {
        get-environment: func() -> list<tuple<string, string>>;
        get-arguments: func() -> list<string>;
        initial-cwd: func() -> option<string>;
    }
    interface stdout { use wasi:io/streams@0.2.6.{output-stream}; get-stdout: func() -> output-stream; }
    interface stdin { use wasi:io/streams@0.2.6.{input-stream}; get-stdin: func() -> input-stream; }
    interface exit { exit: func(status: result); }
}
"#;

const WORLD: &str = "
world talkative {
    include phase;
    import wasi:io/error@0.2.6;
    import wasi:io/poll@0.2.6;
    import wasi:io/streams@0.2.6;
    import wasi:clocks/monotonic-clock@0.2.6;
    import wasi:clocks/wall-clock@0.2.6;
    import wasi:random/random@0.2.6;
    import wasi:filesystem/types@0.2.6;
    import wasi:filesystem/preopens@0.2.6;
    import wasi:cli/environment@0.2.6;
    import wasi:cli/stdout@0.2.6;
    import wasi:cli/stdin@0.2.6;
    import wasi:cli/exit@0.2.6;
}
";

/// What a run of these instructions may call, by short names. Results that are not numbers lie at 256.
fn wasi(run: &str) -> Wat {
    let import = |path: &str, function: &str, name: &str, signature: &str| {
        format!("(import \"wasi:{path}@0.2.6\" \"{function}\" (func ${name} {signature}))\n")
    };
    let head = [
        import("io/poll", "[method]pollable.block", "block", "(param i32)"),
        import("io/poll", "[method]pollable.ready", "ready", "(param i32) (result i32)"),
        import("io/poll", "poll", "poll", "(param i32 i32 i32)"),
        import("io/streams", "[method]output-stream.check-write", "check-write", "(param i32 i32)"),
        import("io/streams", "[method]output-stream.write", "write", "(param i32 i32 i32 i32)"),
        import(
            "io/streams",
            "[method]output-stream.blocking-write-and-flush",
            "flush",
            "(param i32 i32 i32 i32)",
        ),
        import("io/streams", "[method]input-stream.read", "read", "(param i32 i64 i32)"),
        import("clocks/monotonic-clock", "now", "now", "(result i64)"),
        import("clocks/monotonic-clock", "subscribe-duration", "sleep", "(param i64) (result i32)"),
        import("clocks/wall-clock", "now", "wall", "(param i32)"),
        import("random/random", "get-random-bytes", "bytes", "(param i64 i32)"),
        import("random/random", "get-random-u64", "chance", "(result i64)"),
        import("filesystem/preopens", "get-directories", "directories", "(param i32)"),
        import("filesystem/types", "[method]descriptor.open-at", "open", "(param i32 i32 i32 i32)"),
        import("cli/environment", "get-environment", "environment", "(param i32)"),
        import("cli/environment", "get-arguments", "arguments", "(param i32)"),
        import("cli/stdout", "get-stdout", "stdout", "(result i32)"),
        import("cli/stdin", "get-stdin", "stdin", "(result i32)"),
        import("cli/exit", "exit", "exit", "(param i32)"),
    ]
    .concat();
    let wit = format!("{WIT}\n{WORLD}\n{SUBSET}");
    let tail = "(func $is (param $it i64) (param $expected i64) \
         (if (i64.ne (local.get $it) (local.get $expected)) (then (unreachable))))"
        .to_owned();
    Wat { head, tail, wit, world: "talkative", ..Wat::run(run) }
}

fn at(seconds: u32, seed: [u32; 2]) -> PhaseCall {
    let world = few().tick(|tick| tick.unix_s = seconds).seed(seed);
    job(&world)
}

fn run_at(wat: &Wat, job: &PhaseCall) -> RunResult {
    let wasm = Wasm::by_hand(None).unwrap();
    guest(&wasm, wat, setup()).run(job)
}

#[track_caller]
fn assert_well(done: &RunResult) {
    assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
}

#[test]
fn it_asks_for_no_grant_and_says_which_stubs_it_uses() {
    let wasm = Wasm::by_hand(None).unwrap();
    let code = load(&wasm, &wasi("(drop (call $now)) (i32.const 8)").component());
    assert!(code.imports().is_empty());
    assert!(code.stubs().iter().all(|stub| stub.starts_with("wasi:") && stub.ends_with("@0.2.6")));
    assert!(code.stubs().contains(&"wasi:clocks/monotonic-clock@0.2.6".to_owned()), "{:?}", code.stubs());
}

#[test]
fn a_sleep_of_an_hour_returns_at_once_and_the_clock_stands_still() {
    // With `by_hand` nothing could cut it: a sleep that slept would hang this test.
    let wat = wasi(
        "(local $before i64) (local $nap i32)
         (local.set $before (call $now))
         (local.set $nap (call $sleep (i64.const 3600000000000)))
         (call $is (i64.extend_i32_u (call $ready (local.get $nap))) (i64.const 1))
         (call $block (local.get $nap))
         (i32.store (i32.const 512) (local.get $nap))
         (call $poll (i32.const 512) (i32.const 1) (i32.const 256))
         (call $is (i64.load32_u (i32.const 260)) (i64.const 1))
         (call $is (call $now) (local.get $before))
         (call $is (call $now) (i64.const 1700000000000000000))
         (call $wall (i32.const 256))
         (call $is (i64.load (i32.const 256)) (i64.const 1700000000))
         (i32.const 8)",
    );
    assert_well(&run_at(&wat, &at(1_700_000_000, [1, 2])));
}

#[test]
fn what_it_prints_is_log_lines() {
    let mut wat = wasi(
        "(local $out i32) (local.set $out (call $stdout))
         (call $check-write (local.get $out) (i32.const 256))
         (call $is (i64.load8_u (i32.const 256)) (i64.const 0))
         (call $flush (local.get $out) (i32.const 1024) (i32.const 25) (i32.const 256))
         (call $is (i64.load8_u (i32.const 256)) (i64.const 0))
         (call $write (local.get $out) (i32.const 1024) (i32.const 5) (i32.const 256))
         (i32.const 8)",
    );
    wat.tail += r#"(data (i32.const 1024) "first line\n\nsecond line\r\n")"#;
    let done = run_at(&wat, &at(0, [1, 2]));
    assert_well(&done);
    let lines: Vec<_> = done.log.iter().map(|line| (line.level, line.text.as_str())).collect();
    assert_eq!(lines, [(Level::Info, "first line"), (Level::Info, "second line"), (Level::Info, "first")]);
}

#[test]
fn what_it_prints_in_a_loop_is_bounded_as_log_lines_are() {
    let mut wat = wasi(
        "(local $out i32) (local.set $out (call $stdout))
         (loop $again (call $flush (local.get $out) (i32.const 1024) (i32.const 4) (i32.const 256)) (br $again))
         (unreachable)",
    );
    wat.tail += r#"(data (i32.const 1024) "more")"#;
    let done = run_at(&wat, &at(0, [1, 2]));
    assert_cut(&done, GuestLimit::Fuel, "used up its 1000000 of fuel ([limits] fuel), in run");
    assert_eq!(done.log.len(), 21);
}

#[test]
fn chance_is_the_ticks_and_so_the_same_when_a_run_is_repeated() {
    // Says what it drew by failing with it.
    let wat = wasi(
        "(i64.store (i32.const 528) (call $chance)) (call $bytes (i64.const 8) (i32.const 256))
         (i64.store (i32.const 536) (i64.load (i32.load (i32.const 256))))
         (call $is (i64.load32_u (i32.const 260)) (i64.const 8))
         (i64.store (i32.const 528) (i64.or (i64.and (i64.load (i32.const 528)) (i64.const 0x0f0f0f0f0f0f0f0f)) (i64.const 0x4040404040404040)))
         (i64.store (i32.const 536) (i64.or (i64.and (i64.load (i32.const 536)) (i64.const 0x0f0f0f0f0f0f0f0f)) (i64.const 0x4040404040404040)))
         (i32.store8 (i32.const 512) (i32.const 1))
         (i32.store (i32.const 520) (i32.const 528)) (i32.store (i32.const 524) (i32.const 16))
         (i32.const 512)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let guest = guest(&wasm, &wat, setup());
    let drawn = |seed| match guest.run(&at(0, seed)).ended {
        RunOutcome::Failed(failure) => failure.text().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(drawn([1, 2]), drawn([1, 2]));
    assert_ne!(drawn([1, 2]), drawn([1, 3]));
    let draw = drawn([1, 2]);
    assert_ne!(draw[..8], draw[8..]);
}

#[test]
fn exit_is_a_failure_of_the_run() {
    assert_told(
        &run_at(&wasi("(call $exit (i32.const 0)) (i32.const 8)"), &at(0, [1, 2])),
        "it called exit, in run",
    );
}

#[test]
fn there_are_no_directories_no_variables_no_arguments_and_nothing_to_read() {
    let wat = wasi(
        "(call $directories (i32.const 256)) (call $is (i64.load32_u (i32.const 260)) (i64.const 0))
         (call $environment (i32.const 256)) (call $is (i64.load32_u (i32.const 260)) (i64.const 0))
         (call $arguments (i32.const 256)) (call $is (i64.load32_u (i32.const 260)) (i64.const 0))
         (call $read (call $stdin) (i64.const 4096) (i32.const 256))
         (call $is (i64.load8_u (i32.const 256)) (i64.const 1))
         (call $is (i64.load8_u (i32.const 260)) (i64.const 1))
         (i32.const 8)",
    );
    assert_well(&run_at(&wat, &at(0, [1, 2])));
}

#[test]
fn a_handle_that_it_never_got_is_a_trap() {
    let done = run_at(
        &wasi("(call $open (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 256)) (i32.const 8)"),
        &at(0, [1, 2]),
    );
    assert_told(&done, "unknown handle index 1, in run");
}

#[test]
fn handles_in_a_loop_come_to_an_end() {
    let wat = wasi("(loop $again (drop (call $stdout)) (br $again)) (unreachable)");
    let done = run_at(&wat, &at(0, [1, 2]));
    assert_cut(&done, GuestLimit::Fuel, "used up its 1000000 of fuel ([limits] fuel), in run");
}

#[test]
fn handles_that_are_kept_are_bounded_over_all_runs_of_an_instance() {
    let wat = wasi(
        "(local $n i32) (loop $more (drop (call $stdout))
         (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3000)))) (i32.const 8)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 100 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = at(0, [1, 2]);
    (0..3).for_each(|_| assert_well(&guest.run(&job)));
    assert_told(&guest.run(&job), "it holds 10000 handles and asks for one more, in run");
}

#[test]
fn a_made_up_interface_whose_result_is_a_million_values_is_refused_when_it_is_called() {
    // Each type holds the one before four times; the ninth is 262,144 numbers.
    let types: String =
        (1..9).map(|n| format!("type t{n} = tuple<t{0}, t{0}, t{0}, t{0}>;\n", n - 1)).collect();
    let interface = format!(
        "package wasi:made@0.2.6 {{ interface up {{ type t0 = tuple<u8, u8, u8, u8>; {types} big: func() -> t8; }} }}"
    );
    let wat = Wat {
        pages: 8,
        wit: format!("{WIT}\nworld inventive {{ include phase; import wasi:made/up@0.2.6; }}\n{interface}"),
        world: "inventive",
        head: r#"(import "wasi:made/up@0.2.6" "big" (func $big (param i32)))"#.into(),
        ..Wat::run("(call $big (i32.const 65536)) (i32.const 8)")
    };
    let done = run_at(&wat, &at(0, [1, 2]));
    assert_told(&done, "a result of more than 1000 values, which no released WASI returns, in run");
}
