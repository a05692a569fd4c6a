//! How long a guest can keep the host busy with the default fuel of a manifest. Whatever the guest calls, fuel should
//! end it before the wall-clock limit does.

use groundskeeper::engine::policy::{Instance, Limits};
use groundskeeper::engine::wasm::{GuestSetup, Wasm, with_contract};
use groundskeeper::engine::{GuestLimit, PhaseProgram, RunOutcome};

use super::{GROUP, guest, job, setup};
use crate::Effort;
use crate::report::{Reach, Report, Row};
use crate::rounds::median;

const PEERS: usize = 100_000;

/// The endless operation, the imports that it needs, and the call.
const LOOPS: &[(&str, &str, &str)] = &[
    ("nothing", "", ""),
    ("totals-now", IMPORT_TOTALS, "(call $f (i32.const 256))"),
    ("select, 8 tests, sorted", IMPORT_SELECT, SELECT),
    ("count, no tests", IMPORT_COUNT, "(drop (call $f (i32.const 0) (i32.const 0)))"),
    ("facts, 16,384 values", IMPORT_FACTS, FACTS),
    ("facts of no row, 4,000 columns", IMPORT_FACTS, FACTS_OF_NOBODY),
    ("column, 16,384 values", IMPORT_COLUMN, COLUMN),
    ("names, 64 rows", IMPORT_NAMES, "(call $f (i32.const 1048576) (i32.const 64) (i32.const 256))"),
    ("columns", IMPORT_COLUMNS, "(call $f (i32.const 256))"),
    ("log, 240,000 bytes", IMPORT_LOG, "(call $f (i32.const 3) (i32.const 1048576) (i32.const 240000))"),
    ("memory.store, 64 KiB", IMPORT_STORE, "(call $f (i32.const 1) (i32.const 1048576) (i32.const 65536))"),
    ("metrics, 16 names", IMPORT_METRICS, "(call $f (i32.const 1032) (i32.const 4) (i32.const 1))"),
];

const IMPORT_TOTALS: &str =
    r#"(import "groundskeeper:phase/peers@0.1.0" "totals-now" (func $f (param i32)))"#;
const IMPORT_SELECT: &str = r#"(import "groundskeeper:phase/peers@0.1.0" "select" (func $f (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
const IMPORT_COUNT: &str =
    r#"(import "groundskeeper:phase/peers@0.1.0" "count" (func $f (param i32 i32) (result i32)))"#;
const IMPORT_FACTS: &str =
    r#"(import "groundskeeper:phase/peers@0.1.0" "facts" (func $f (param i32 i32 i32 i32 i32)))"#;
const IMPORT_COLUMN: &str =
    r#"(import "groundskeeper:phase/peers@0.1.0" "column" (func $f (param i32 i32 i32 i32)))"#;
const IMPORT_NAMES: &str =
    r#"(import "groundskeeper:phase/peers@0.1.0" "names" (func $f (param i32 i32 i32)))"#;
const IMPORT_COLUMNS: &str = r#"(import "groundskeeper:phase/peers@0.1.0" "columns" (func $f (param i32)))"#;
const IMPORT_LOG: &str = r#"(import "groundskeeper:phase/log@0.1.0" "write" (func $f (param i32 i32 i32)))"#;
const IMPORT_STORE: &str =
    r#"(import "groundskeeper:phase/memory@0.1.0" "store" (func $f (param i32 i32 i32)))"#;
const IMPORT_METRICS: &str =
    r#"(import "groundskeeper:phase/metrics@0.1.0" "add" (func $f (param i32 i32 i32)))"#;

/// All peers pass all tests, and all are sorted.
const SELECT: &str = "(call $f (i32.const 2097152) (i32.const 8) (i32.const 1) (i32.const 1032) (i32.const 4) \
     (i32.const 1) (i32.const 16384) (i32.const 256))";
/// Rows of zeros. The list of columns is at 1024: one name.
const FACTS: &str =
    "(call $f (i32.const 1048576) (i32.const 16384) (i32.const 1024) (i32.const 1) (i32.const 256))";
const FACTS_OF_NOBODY: &str =
    "(call $f (i32.const 1048576) (i32.const 0) (i32.const 3145728) (i32.const 4000) (i32.const 256))";
const COLUMN: &str = "(call $f (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 256))";

/// Memory: at 1024 a list of one name, at 1032 "conn", zeros from 1 MiB, at 2 MiB eight tests that all pass, at 3 MiB
/// the list of one name four thousand times. Each call reuses the space for results.
fn module(import: &str, call: &str) -> Vec<u8> {
    let test = r"\08\04\00\00\04\00\00\00\00\00\00\00\ff\ff\ff\ff".repeat(8);
    let names = r"\08\04\00\00\04\00\00\00".repeat(4_000);
    let text = format!(
        r#"(module {import}
          (memory (export "memory") 64)
          (data (i32.const 1024) "\08\04\00\00\04\00\00\00conn")
          (data (i32.const 2097152) "{test}") (data (i32.const 3145728) "{names}")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 262144))
          (func (export "groundskeeper:phase/lifecycle@0.1.0#describe") (result i32) (i32.const 64))
          (func (export "groundskeeper:phase/lifecycle@0.1.0#check") (param i32 i32) (result i32) (i32.const 8))
          (func (export "groundskeeper:phase/lifecycle@0.1.0#run")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            (loop $again {call} (br $again)) (unreachable)))"#
    );
    with_contract(&wat::parse_str(&text).expect("text as above")).expect("it follows the contract")
}

pub fn run(effort: &Effort, report: &mut Report) {
    let wasm = Wasm::new(None).expect("this machine runs guests");
    let job = job(PEERS);
    let limits = Limits { wall: std::time::Duration::from_secs(60), ..Limits::default() };
    let wall = Limits::default().wall.as_millis() as f64;
    for (what, import, call) in LOOPS {
        let setup = GuestSetup { limits, ..setup(Instance::Fresh) };
        let guest = guest(&wasm, &module(import, call), setup);
        let mut taken = Vec::new();
        for _ in 0..effort.choose(5, 2) {
            let begun = std::time::Instant::now();
            let ended = guest.run(&job).ended;
            taken.push(begun.elapsed().as_nanos() as f64 / 1e6);
            assert!(matches!(ended, RunOutcome::Cut { limit: GuestLimit::Fuel, .. }), "{what}: {ended:?}");
        }
        report.push(
            Row::cost(
                GROUP,
                "until the usual fuel is used up",
                format!("a loop of {what}"),
                median(taken),
                "ms",
            )
            .reach(Reach::AtMost(wall)),
        );
    }
}
