//! Traps in every function that a guest exports, and the ways of breaking the canonical ABI.

use super::*;

const UNREACHABLE: &str = "wasm trap: wasm `unreachable` instruction executed";

#[test]
fn a_trap_at_every_export_is_told_with_its_place() {
    assert_told(&run(&Wat::run("(unreachable)")), &format!("{UNREACHABLE}, in run"));
    let describe = Wat { describe: "(unreachable)".into(), ..Wat::default() };
    assert_eq!(unfit(&describe.component(), setup()), format!("{UNREACHABLE}, in describe"));
    let check = Wat { check: "(unreachable)".into(), ..Wat::default() };
    let wasm = Wasm::by_hand(None).unwrap();
    let problem = guest(&wasm, &check, setup()).check().unwrap_err();
    assert_eq!(problem, format!("its `check` failed: {UNREACHABLE}, in check"));
    let start = Wat { tail: "(func $begin (unreachable)) (start $begin)".into(), ..Wat::default() };
    assert_eq!(unfit(&start.component(), setup()), format!("{UNREACHABLE}, in begin"));
    let realloc = Wat { realloc: "(unreachable)".into(), ..Wat::default() };
    assert_told(&run(&realloc), &format!("{UNREACHABLE}, in realloc"));
    for (export, parameters) in
        [("run", "(param i32)"), ("check", "(param i32)"), ("describe", "(param i32)")]
    {
        let post = Wat {
            tail: format!(
                "(func $after (export \"cabi_post_groundskeeper:phase/lifecycle@0.1.0#{export}\") {parameters} \
                 (unreachable))"
            ),
            ..Wat::default()
        };
        let expected = format!("{UNREACHABLE}, in after");
        match export {
            "run" => assert_told(&run(&post), &expected),
            "check" => {
                let problem = guest(&wasm, &post, setup()).check().unwrap_err();
                assert_eq!(problem, format!("its `check` failed: {expected}"));
            }
            _ => assert_eq!(unfit(&post.component(), setup()), expected),
        }
    }
}

#[test]
fn arithmetic_memory_and_tables_trap_by_name() {
    for (instructions, words) in [
        ("(i32.div_u (i32.const 1) (i32.const 0))", "wasm trap: integer divide by zero"),
        ("(i32.div_s (i32.const 0x80000000) (i32.const -1))", "wasm trap: integer overflow"),
        ("(i32.trunc_f32_s (f32.const nan))", "wasm trap: invalid conversion to integer"),
        ("(i32.load (i32.const -4))", "wasm trap: out of bounds memory access"),
        (
            "(memory.fill (i32.const 65000) (i32.const 0) (i32.const 999)) (i32.const 8)",
            "wasm trap: out of bounds memory access",
        ),
        (
            "(call_indirect $t (type $none) (i32.const 9)) (i32.const 8)",
            "wasm trap: undefined element: out of bounds table access",
        ),
        ("(call_indirect $t (type $none) (i32.const 0)) (i32.const 8)", "wasm trap: uninitialized element"),
        (
            "(table.get $t (i32.const 9)) (drop) (i32.const 8)",
            "wasm trap: undefined element: out of bounds table access",
        ),
    ] {
        let wat = Wat { head: "(type $none (func)) (table $t 1 funcref)".into(), ..Wat::run(instructions) };
        assert_told(&run(&wat), &format!("{words}, in run"));
    }
}

#[test]
fn results_that_lie_outside_of_memory_or_say_no_such_case_are_refused() {
    // The result's address, then what lies at 512: a case that is not there; a text beyond the end; a broken text.
    let failing = |at_512: &str| Wat {
        tail: format!("(data (i32.const 512) \"{at_512}\") (data (i32.const 1024) \"\\ff\\fe\")"),
        ..Wat::run("(i32.const 512)")
    };
    for (wat, words) in [
        (Wat::run("(i32.const -4)"), "pointer out of bounds of memory"),
        (Wat::run("(i32.const 9)"), "return pointer not aligned"),
        (failing("\\07"), "invalid expected discriminant"),
        (failing("\\01\\00\\00\\00\\02\\00\\00\\00"), "unexpected discriminant: 2"),
        (
            failing("\\01\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\04\\00\\00\\00"),
            "string pointer/length out of bounds of memory",
        ),
        (
            failing("\\01\\00\\00\\00\\00\\00\\00\\00\\00\\04\\00\\00\\02\\00\\00\\00"),
            "invalid utf-8 sequence of 1 bytes from index 0",
        ),
    ] {
        assert_told(&run(&wat), words);
    }
}

#[test]
fn room_for_results_that_is_no_room_is_refused() {
    for (realloc, words) in [
        ("(return (i32.const -8))", "realloc return: beyond end of memory"),
        ("(return (i32.const 0x7fffffff))", "realloc return: beyond end of memory"),
    ] {
        let wat = Wat { realloc: realloc.into(), ..Wat::default() };
        assert_told(&run(&wat), words);
    }
}

#[test]
fn nothing_of_the_contract_may_be_called_while_the_host_makes_room() {
    let wat = Wat {
        realloc: "(call $log.write (i32.const 2) (i32.const 1024) (i32.const 1))".into(),
        ..Wat::default()
    }
    .importing(&[("log", "write", "(param i32 i32 i32)")]);
    assert_told(&run(&wat), "wasm trap: cannot leave component instance, in realloc");
}

#[test]
fn what_it_said_last_is_told_with_its_trap() {
    let wat = Wat {
        tail: r#"(data (i32.const 1024) "panicked at src/lib.rs:7: no\nluck")"#.into(),
        ..Wat::run("(call $log.write (i32.const 0) (i32.const 1024) (i32.const 33)) (unreachable)")
    }
    .importing(&[("log", "write", "(param i32 i32 i32)")]);
    let done = run(&wat);
    let said = format!("{UNREACHABLE}, having said \"panicked at src/lib.rs:7: no luck\", in run");
    assert_told(&done, &said);
    assert_eq!(done.log.len(), 1, "log lines are kept");
}

#[test]
fn an_instance_that_trapped_is_never_entered_again() {
    // Marks its memory, then traps. Entered again it would run well.
    let wat = Wat::run(
        "(if (i32.load (i32.const 512)) (then (return (i32.const 8)))) \
         (i32.store (i32.const 512) (i32.const 1)) (unreachable)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 100 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = job(&few());
    for _ in 0..5 {
        assert_told(&guest.run(&job), &format!("{UNREACHABLE}, in run"));
    }
}

#[test]
fn an_instance_that_returned_a_failure_goes_on() {
    let wat = Wat {
        tail: r#"(data (i32.const 520) "\01\00\00\00\00\00\00\00\00\04\00\00\07\00\00\00") (data (i32.const 1024) "no luck")"#
            .into(),
        ..Wat::run(
            "(if (i32.load (i32.const 512)) (then (return (i32.const 8)))) \
             (i32.store (i32.const 512) (i32.const 1)) (i32.const 520)",
        )
    };
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 100 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = job(&few());
    let RunOutcome::Failed(failure) = guest.run(&job).ended else { panic!() };
    assert_eq!(failure.text(), "no luck");
    assert!((0..5).all(|_| matches!(guest.run(&job).ended, RunOutcome::Planned(_))));
}

#[test]
fn a_refused_growth_that_did_no_harm_is_not_blamed_for_a_trap_of_a_later_run() {
    let wat = Wat::run(
        "(if (i32.load (i32.const 512)) (then (unreachable))) (i32.store (i32.const 512) (i32.const 1)) \
         (drop (memory.grow (i32.const 60000))) (i32.const 8)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 100 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = job(&few());
    assert!(matches!(guest.run(&job).ended, RunOutcome::Planned(_)));
    assert_told(&guest.run(&job), &format!("{UNREACHABLE}, in run"));
}
