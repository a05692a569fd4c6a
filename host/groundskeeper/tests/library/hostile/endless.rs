//! Loops and recursions without an end, wherever a guest's code is called from.

use super::*;

const ENDLESS: &str = "(loop $again (br $again)) (unreachable)";
const USED_UP: &str = "used up its 1000000 of fuel ([limits] fuel)";
const TOO_DEEP: &str = "used up its stack: it recurses too deeply";

/// Enough for any recursion to come to the end of its stack.
fn long() -> GuestSetup {
    fueled(u64::MAX)
}

fn starting(instructions: &str) -> String {
    format!("(func $begin {instructions}) (start $begin)")
}

/// Called by the host when it has read what `run` returned.
fn after_run(instructions: &str) -> String {
    format!(
        "(func $after (export \"cabi_post_groundskeeper:phase/lifecycle@0.1.0#run\") (param i32) {instructions})"
    )
}

#[test]
fn a_loop_in_run_is_cut() {
    assert_cut(&run(&Wat::run(ENDLESS)), GuestLimit::Fuel, &format!("{USED_UP}, in run"));
}

#[test]
fn a_loop_in_check_is_told_as_what_is_wrong_with_the_settings() {
    let wasm = Wasm::by_hand(None).unwrap();
    let guest = guest(&wasm, &Wat { check: ENDLESS.into(), ..Wat::default() }, setup());
    assert_eq!(guest.check().unwrap_err(), format!("its `check` failed: {USED_UP}, in check"));
}

#[test]
fn a_loop_in_describe_makes_it_no_phase() {
    let wat = Wat { describe: ENDLESS.into(), ..Wat::default() };
    assert_eq!(unfit(&wat.component(), setup()), format!("{USED_UP}, in describe"));
}

#[test]
fn a_loop_in_a_start_function_makes_it_no_phase() {
    let wat = Wat { tail: starting("(loop $again (br $again))"), ..Wat::default() };
    assert_eq!(unfit(&wat.component(), setup()), format!("{USED_UP}, in begin"));
}

#[test]
fn a_start_function_that_loops_later_is_cut_then() {
    // Nothing a guest knows differs between `describe` and `run` while it starts, but chance and the clock of the inert
    // WASI do; so here fuel does: enough to start once, not enough to start and run.
    let wat = Wat {
        tail: starting(
            "(local $n i32) (loop $again (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) \
             (i32.const 1))) (i32.const 100000))))",
        ),
        ..Wat::run("(loop $again (br $again)) (unreachable)")
    };
    let done = run(&wat);
    assert_cut(&done, GuestLimit::Fuel, &format!("{USED_UP}, in run"));
    assert_eq!(done.cost.fuel, Some(1_000_000), "starting and running share one budget");
}

#[test]
fn a_loop_in_the_room_for_results_is_cut() {
    // Settings are handed over through it, so a loop there ends `run` before it begins.
    let wat = Wat { realloc: "(loop $again (br $again))".into(), ..Wat::default() };
    assert_cut(&run(&wat), GuestLimit::Fuel, &format!("{USED_UP}, in realloc"));
}

#[test]
fn a_loop_after_run_has_returned_is_cut_and_its_plan_is_dropped() {
    let wat = Wat {
        tail: after_run("(loop $again (br $again))") + r#"(data (i32.const 1024) "slow")"#,
        ..Wat::run("(call $disconnect.ask (i32.const 1) (i32.const 1024) (i32.const 4)) (i32.const 8)")
    }
    .importing(&[("disconnect", "ask", "(param i32 i32 i32)")]);
    assert_cut(&run(&wat), GuestLimit::Fuel, &format!("{USED_UP}, in after"));
}

#[test]
fn recursion_ends_at_the_end_of_the_stack_with_the_innermost_frames_told() {
    let deep = Wat { tail: "(func $deep (call $deep))".into(), ..Wat::run("(call $deep) (i32.const 8)") };
    let frames = ["deep"; 8].join(" < ");
    let done = run_with(&deep, long());
    let (limit, words) = told(&done);
    assert_eq!(limit, Some(GuestLimit::Stack));
    assert!(words.starts_with(&format!("{TOO_DEEP}, in {frames} < ")), "{words}");
    assert!(words.len() < 200, "{words}");
}

#[test]
fn recursion_with_large_frames_through_a_table_and_in_a_start_function_ends_too() {
    let locals = (0..1_000).map(|n| format!("(local $l{n} i64)")).collect::<String>();
    // All of them live across the call, so that they lie in the frame.
    let kept = (0..1_000)
        .map(|n| format!("(local.set $l{n} (i64.load (i32.const {}))) ", n * 8))
        .collect::<String>();
    let used = (0..1_000)
        .map(|n| format!("(i64.store (i32.const {}) (local.get $l{n})) ", n * 8))
        .collect::<String>();
    let large = Wat {
        tail: format!("(func $large {locals} {kept} (call $large) {used})"),
        ..Wat::run("(call $large) (i32.const 8)")
    };
    assert_eq!(told(&run_with(&large, long())).0, Some(GuestLimit::Stack));

    let indirect = Wat {
        head: "(type $none (func)) (table $t 1 funcref) (elem (i32.const 0) $deep)".into(),
        tail: "(func $deep (call_indirect $t (type $none) (i32.const 0)))".into(),
        ..Wat::run("(call $deep) (i32.const 8)")
    };
    assert_eq!(told(&run_with(&indirect, long())).0, Some(GuestLimit::Stack));

    let at_start = Wat { tail: "(func $deep (call $deep)) (start $deep)".into(), ..Wat::default() };
    assert!(unfit(&at_start.component(), long()).starts_with(TOO_DEEP));
}

#[test]
fn a_persistent_instance_gets_its_fuel_anew_and_is_not_entered_again_once_it_was_cut() {
    // Runs well twice, then never ends: the count is in its memory, so only a new instance runs well again.
    let wat = Wat::run(
        "(i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1))) \
         (if (i32.gt_u (i32.load (i32.const 512)) (i32.const 2)) (then (loop $again (br $again)))) (i32.const 8)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 100 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = job(&few());
    let ended: Vec<&str> = (0..9)
        .map(|_| match guest.run(&job).ended {
            RunOutcome::Planned(_) => "well",
            RunOutcome::Cut { limit: GuestLimit::Fuel, .. } => "cut",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ended, ["well", "well", "cut"].repeat(3));
}

#[test]
fn a_persistent_instance_is_new_after_as_many_runs_as_its_manifest_says() {
    let wat = Wat::run(
        "(i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1))) \
         (if (i32.gt_u (i32.load (i32.const 512)) (i32.const 3)) (then (unreachable))) (i32.const 8)",
    );
    let wasm = Wasm::by_hand(None).unwrap();
    let instance = Instance::Persistent { max_runs: 3 };
    let guest = guest(&wasm, &wat, GuestSetup { instance, ..setup() });
    let job = job(&few());
    assert!((0..20).all(|_| matches!(guest.run(&job).ended, RunOutcome::Planned(_))));
}
