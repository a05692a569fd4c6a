//! What grows: memory, tables, strings, log lines, asks. Each has an end, and the end has a name.

use super::*;

const MEMORY: &str = "wanted more than its 16384 KiB of memory ([limits] memory)";
const HOSTCALL: &str = "too much data is being copied between the host and the guest: fuel allocated for hostcalls has been exhausted";

#[test]
fn memory_that_grows_page_by_page_or_at_once_ends_at_the_limit() {
    let page_by_page =
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)";
    let done = run(&Wat::run(page_by_page));
    assert_cut(&done, GuestLimit::Memory, &format!("{MEMORY}, in run"));
    assert_eq!(done.cost.memory, Some(16 << 20));
    let at_once =
        "(if (i32.eq (memory.grow (i32.const 65535)) (i32.const -1)) (then (unreachable))) (i32.const 8)";
    assert_cut(&run(&Wat::run(at_once)), GuestLimit::Memory, &format!("{MEMORY}, in run"));
    let untouched = Wat { pages: 65_536, ..Wat::default() };
    assert_eq!(unfit(&untouched.component(), setup()), MEMORY);
}

#[test]
fn a_growth_that_is_refused_and_coped_with_is_no_failure() {
    let done = run(&Wat::run("(drop (memory.grow (i32.const 65535))) (i32.const 8)"));
    assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
    assert_eq!(done.cost.memory, Some(1 << 16));
}

#[test]
fn all_memories_of_a_component_count_together() {
    // 63 more modules with 5 pages each: none of them much by itself.
    let more = "(core module $m (memory 5))".to_owned()
        + &(0..60).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect::<String>();
    assert_eq!(unfit(&beside(&more), setup()), MEMORY);
}

#[test]
fn a_table_that_grows_ends_at_its_limit() {
    let wat = Wat {
        head: "(table $t 0 funcref)".into(),
        ..Wat::run(
            "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) \
             (unreachable)",
        )
    };
    assert_cut(&run(&wat), GuestLimit::Memory, "wanted more than 100000 elements of tables, in run");
    let large = Wat { head: "(table $t 10000000 funcref)".into(), ..Wat::default() };
    assert_eq!(unfit(&large.component(), setup()), "wanted more than 100000 elements of tables");
}

#[test]
fn all_tables_of_a_component_count_together() {
    let tables = (0..10).map(|n| format!("(table $t{n} 20000 funcref)")).collect::<String>();
    let wat = Wat { head: tables, ..Wat::default() };
    assert_eq!(unfit(&wat.component(), setup()), "wanted more than 100000 elements of tables");
}

#[test]
fn a_component_of_very_many_parts_is_refused() {
    let more = "(core module $m)".to_owned()
        + &(0..500).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect::<String>();
    assert_eq!(unfit(&beside(&more), setup()), "resource limit exceeded: instance count too high at 65");
}

#[test]
fn one_large_string_named_ten_thousand_times_is_not_copied_ten_thousand_times() {
    // A list of (address, length) that all say: these 64 KiB.
    let wat = Wat {
        pages: 8,
        tail: LIST_OF_ONE_STRING.into(),
        ..Wat::run(
            "(call $fill (i32.const 10000)) \
             (call $peers.facts (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const 10000) (i32.const 256)) \
             (i32.const 8)",
        )
    }
    .importing(&[("peers", "facts", "(param i32 i32 i32 i32 i32)")]);
    assert_told(&run(&wat), &format!("{HOSTCALL}, in run"));
}

/// Fills 131072.. with so many times (65536, 65536): names of one string of 64 KiB.
const LIST_OF_ONE_STRING: &str = "(func $fill (param $count i32) (local $at i32) \
     (memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536)) \
     (loop $more \
       (i32.store (i32.add (i32.const 131072) (i32.mul (local.get $at) (i32.const 8))) (i32.const 65536)) \
       (i32.store (i32.add (i32.const 131076) (i32.mul (local.get $at) (i32.const 8))) (i32.const 65536)) \
       (br_if $more (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $count)))))";

#[test]
fn an_empty_string_named_a_hundred_thousand_times_costs_what_its_list_costs() {
    let wat = Wat {
        pages: 16,
        ..Wat::run(
            "(call $peers.facts (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const 100000) (i32.const 256)) \
             (i32.const 8)",
        )
    }
    .importing(&[("peers", "facts", "(param i32 i32 i32 i32 i32)")]);
    assert_told(&run(&wat), &format!("{HOSTCALL}, in run"));
}

#[test]
fn long_texts_are_paid_for_by_their_length() {
    // Each loop hands over 240 KB; what the host does with them is refused or nothing, what it costs is fuel.
    let long = "(i32.const 65536) (i32.const 240000)";
    for (interface, name, signature, call) in [
        ("log", "write", "(param i32 i32 i32)", format!("(call $log.write (i32.const 3) {long})")),
        ("memory", "store", "(param i32 i32 i32)", format!("(call $memory.store (i32.const 1) {long})")),
    ] {
        let wat = Wat { pages: 8, ..Wat::run(&format!("(loop $again {call} (br $again)) (unreachable)")) }
            .importing(&[(interface, name, signature)]);
        let grants = Grants { memory: Some(MemoryGrant { max_bytes: 1 << 20 }), ..every_grant() };
        let done = run_with(&wat, GuestSetup { grants, ..setup() });
        assert_cut(&done, GuestLimit::Fuel, "used up its 1000000 of fuel ([limits] fuel), in run");
    }
}

#[test]
fn a_column_of_a_very_long_name_is_not_there_and_is_not_repeated_whole() {
    let wat = Wat {
        pages: 8,
        tail: LIST_OF_ONE_STRING.into(),
        ..Wat::run(
            "(call $fill (i32.const 1)) \
             (drop (call $peers.count (i32.const 131072) (i32.const 1))) (i32.const 8)",
        )
    }
    .importing(&[("peers", "count", "(param i32 i32) (result i32)")]);
    let done = run(&wat);
    let RunOutcome::Rule(words) = &done.ended else { panic!("{:?}", done.ended) };
    assert!(words.len() < 400, "{} bytes", words.len());
    assert!(words.starts_with("peers.count: no column \"aaaa"), "{words}");
    assert!(done.cost.fuel.unwrap() > 65_536, "a name of 64 KiB is paid for");
}

#[test]
fn what_a_phase_says_of_itself_is_cut_cleaned_and_bounded() {
    let described = |length: u32, pages: u32| Wat {
        pages,
        describe: format!(
            "(memory.fill (i32.const 65536) (i32.const 7) (i32.const {length})) \
             (i32.store (i32.const 512) (i32.const 65536)) (i32.store (i32.const 516) (i32.const {length})) \
             (i32.const 512)"
        ),
        ..Wat::default()
    };
    let wasm = Wasm::by_hand(None).unwrap();
    let long = guest(&wasm, &described(200_000, 8), setup());
    assert_eq!(long.described().summary, " ".repeat(200), "200 bells");
    assert_eq!(unfit(&described(10 << 20, 180).component(), fueled(50_000_000)), HOSTCALL);
}

#[test]
fn what_a_phase_says_of_its_settings_and_of_its_failure_is_cut() {
    // An error of 100,000 bytes for both.
    let said = "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 100000)) (i32.store8 (i32.const 512) (i32.const 1)) ";
    let check = "(i32.store (i32.const 516) (i32.const 65536)) (i32.store (i32.const 520) (i32.const 100000)) (i32.const 512)";
    let run = "(i32.store (i32.const 516) (i32.const 1)) (i32.store (i32.const 520) (i32.const 65536)) \
               (i32.store (i32.const 524) (i32.const 100000)) (i32.const 512)";
    let wat = Wat { pages: 8, check: format!("{said}{check}"), ..Wat::run(&format!("{said}{run}")) };
    let wasm = Wasm::by_hand(None).unwrap();
    let guest = guest(&wasm, &wat, setup());
    assert_eq!(guest.check().unwrap_err(), "a".repeat(1_000));
    let RunOutcome::Failed(failure) = guest.run(&job(&few())).ended else { panic!() };
    assert_eq!(failure.text(), "a".repeat(1_000));
}

#[test]
fn a_flood_of_log_lines_leaves_as_many_as_the_manifest_says_and_the_number_of_the_others() {
    let wat = Wat {
        tail: r#"(data (i32.const 1024) "x\1b[2J\nforged")"#.into(),
        ..Wat::run(
            "(local $n i32) (loop $more (call $log.write (i32.const 2) (i32.const 1024) (i32.const 12)) \
             (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000)))) \
             (i32.const 8)",
        )
    }
    .importing(&[("log", "write", "(param i32 i32 i32)")]);
    let done = run(&wat);
    assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
    assert_eq!(done.log.len(), 21);
    assert_eq!(done.log[0].text, "x [2J forged", "neither escapes nor new lines");
    assert_eq!(done.log[20].text, "9980 more lines were dropped: [limits] log_lines = 20");
}

#[test]
fn a_log_line_of_a_quarter_of_a_megabyte_is_cut() {
    let wat = Wat {
        pages: 8,
        ..Wat::run("(call $log.write (i32.const 2) (i32.const 65536) (i32.const 240000)) (i32.const 8)")
    }
    .importing(&[("log", "write", "(param i32 i32 i32)")]);
    let done = run(&wat);
    assert_eq!(done.log[0].text.len(), 2048);
}

fn asking(times: u32, call: &str) -> String {
    format!(
        "(local $n i32) (loop $more {call} \
         (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {times})))) (i32.const 8)"
    )
}

#[test]
fn a_million_asks_end_at_the_plans_cap_and_leave_no_plan() {
    let ask = "(call $disconnect.ask (i32.const 1) (i32.const 1024) (i32.const 4))";
    let wat = |times| {
        Wat { tail: r#"(data (i32.const 1024) "slow")"#.into(), ..Wat::run(&asking(times, ask)) }
            .importing(&[("disconnect", "ask", "(param i32 i32 i32)")])
    };
    let RunOutcome::Planned(parts) = run(&wat(4_096)).ended else { panic!() };
    assert_eq!(parts.asks.len(), 4_096);
    assert_told(
        &run_with(&wat(1_000_000), fueled(50_000_000)),
        "disconnect.ask: one ask more than 4096, in run",
    );
}

#[test]
fn four_thousand_pings_of_many_rows_hold_no_more_rows_than_one_may() {
    // Zeros are rows too: the list lies in memory that was never written.
    let ping = |times: u32, rows: u32| {
        let call = format!("(call $ping.ask (i32.const 65536) (i32.const {rows}))");
        Wat { pages: 4, ..Wat::run(&asking(times, &call)) }.importing(&[("ping", "ask", "(param i32 i32)")])
    };
    assert_told(
        &run_with(&ping(4_096, 16_384), fueled(100_000_000)),
        "ping.ask: 32768 rows in one run are more than 16384; use ping_matching, in run",
    );
    assert_told(
        &run_with(&ping(4_096, 9), fueled(100_000_000)),
        "ping.ask: 16389 rows in one run are more than 16384; use ping_matching, in run",
    );
    let RunOutcome::Planned(parts) = run_with(&ping(4_096, 4), fueled(100_000_000)).ended else { panic!() };
    assert_eq!(parts.asks.len(), 4_096);
    let RunOutcome::Planned(parts) = run_with(&ping(100_000, 0), fueled(100_000_000)).ended else { panic!() };
    assert!(parts.asks.is_empty(), "nobody is nothing");
}

#[test]
fn more_tests_values_names_or_metrics_than_the_contract_says_are_broken_rules() {
    let memory = Wat { pages: 8, ..Wat::default() };
    let cases = [
        (
            "peers",
            "count",
            "(param i32 i32) (result i32)",
            "(drop (call $f (i32.const 65536) (i32.const 9)))",
            "peers.count: 9 tests are more than 8",
        ),
        (
            "peers",
            "names",
            "(param i32 i32 i32)",
            "(call $f (i32.const 65536) (i32.const 65) (i32.const 256))",
            "peers.names: 65 rows are more than 64",
        ),
        (
            "book",
            "names",
            "(param i32 i32 i32)",
            "(call $f (i32.const 65536) (i32.const 65) (i32.const 256))",
            "book.names: 65 rows are more than 64",
        ),
        (
            "peers",
            "facts",
            "(param i32 i32 i32 i32 i32)",
            "(call $f (i32.const 65536) (i32.const 16385) (i32.const 65536) (i32.const 1) (i32.const 256))",
            "peers.facts: 16385 values are more than 16384",
        ),
        (
            "ping",
            "matching",
            "(param i32 i32)",
            "(call $f (i32.const 65536) (i32.const 9))",
            "ping.matching: 9 tests are more than 8",
        ),
        (
            "memory",
            "store",
            "(param i32 i32 i32)",
            "(call $f (i32.const 1) (i32.const 65536) (i32.const 1025))",
            "memory.store: 1025 bytes are more than the 1024 that [grants] memory allows",
        ),
        (
            "metrics",
            "add",
            "(param i32 i32 i32)",
            "(call $f (i32.const 65536) (i32.const 9) (i32.const 1))",
            "metrics.add: name \"\\0\\0\\0\\0\\0\\0\\0\\0\\0\" is not 1 to 40 of a-z 0-9 _",
        ),
        (
            "cadence",
            "again-in",
            "(param i32)",
            "(call $f (i32.const 0))",
            "cadence.again-in: 0 ticks; again-in takes 1 or more",
        ),
        (
            "disconnect",
            "ask",
            "(param i32 i32 i32)",
            "(call $f (i32.const 0) (i32.const 65536) (i32.const 201))",
            "disconnect.ask: a reason of 201 bytes is not within 1 to 200",
        ),
    ];
    for (interface, name, signature, call, words) in cases {
        let call = call.replace("$f", &format!("${interface}.{name}"));
        let wat = Wat { run: format!("{call} (i32.const 8)"), pages: memory.pages, ..Wat::default() }
            .importing(&[(interface, name, signature)]);
        assert_told(&run(&wat), &format!("{words}, in run"));
    }
}
