//! Every function of the contract in a loop, and every one with a row that does not exist. Fuel ends the loops.

use std::collections::BTreeSet;

use groundskeeper_sdk::contract::{INTERFACES, Interface, Role};

use super::{GuestLimit, RunOutcome, Wat, every_grant, fueled, run, run_with, told};
use crate::wat::FUNCTIONS;

/// A function of the contract, and a call of it that is allowed with three peers and two addresses.
struct Call {
    interface: &'static str,
    name: &'static str,
    /// `{}` is the row, where there is one. Results are left at 256, or dropped.
    arguments: &'static str,
}

const fn call(interface: &'static str, name: &'static str, arguments: &'static str) -> Call {
    Call { interface, name, arguments }
}

/// At 1024 "slow", at 1040 "conn", at 1056 a list of the strings "conn", "idle-s", at 1072 one test: conn 0 to 4
/// billion; at 1100 one row.
const DATA: &str = r#"
    (data (i32.const 1024) "slow") (data (i32.const 1040) "conn") (data (i32.const 1048) "idle-s")
    (data (i32.const 1056) "\10\04\00\00\04\00\00\00\18\04\00\00\06\00\00\00")
    (data (i32.const 1072) "\10\04\00\00\04\00\00\00\00\00\00\00\ff\ff\ff\ff")"#;

const CALLS: &[Call] = &[
    call("peers", "totals-now", "(i32.const 256)"),
    call("peers", "select", SELECT),
    call("peers", "count", "(i32.const 1072) (i32.const 1)"),
    call("peers", "facts", FACTS),
    call("peers", "column", COLUMN),
    call("peers", "names", NAMES),
    call("peers", "columns", "(i32.const 256)"),
    call("book", "select", SELECT_ALL),
    call("book", "count", "(i32.const 1072) (i32.const 0)"),
    call("book", "facts", FACTS_OF_NOTHING),
    call("book", "column", BOOK_COLUMN),
    call("book", "names", NAMES),
    call("book", "columns", "(i32.const 256)"),
    call("broadcasts", "totals-now", "(i32.const 256)"),
    call("disconnect", "ask", "(i32.const {}) (i32.const 1024) (i32.const 4)"),
    call("disconnect", "ask-if-silent", "(i32.const {}) (i32.const 1024) (i32.const 4)"),
    call("health", "adjust", "(i32.const {}) (i32.const -1) (i32.const 1024) (i32.const 4)"),
    call("ping", "ask", "(i32.const 1100) (i32.const 1)"),
    call("ping", "matching", "(i32.const 1072) (i32.const 1)"),
    call("dial", "ask", "(i32.const {}) (i32.const 1024) (i32.const 4)"),
    call("dial", "probe", "(i32.const {})"),
    call("protect", "ask", "(i32.const {}) (i32.const 9) (i32.const 1024) (i32.const 4)"),
    call("ban", "ask", "(i32.const {}) (i32.const 9) (i32.const 1024) (i32.const 4)"),
    call("forget", "broadcasts", "(i32.const 9)"),
    call("forget", "addresses", "(i32.const 9)"),
    call("cadence", "again-in", "(i32.const 9)"),
    call("memory", "load", "(i32.const 256)"),
    call("memory", "store", "(i32.const 1) (i32.const 1024) (i32.const 64)"),
    call("log", "write", "(i32.const 2) (i32.const 1024) (i32.const 4)"),
    call("metrics", "add", "(i32.const 1024) (i32.const 4) (i32.const 1)"),
    call("metrics", "set", "(i32.const 1024) (i32.const 4) (f64.const 1)"),
];

/// One test, sorted by `conn`, at most 9.
const SELECT: &str = "(i32.const 1072) (i32.const 1) (i32.const 1) (i32.const 1040) (i32.const 4) (i32.const 1) \
     (i32.const 9) (i32.const 256)";
const SELECT_ALL: &str = "(i32.const 1072) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) \
     (i32.const 9) (i32.const 256)";
const FACTS: &str = "(i32.const 1100) (i32.const 1) (i32.const 1056) (i32.const 2) (i32.const 256)";
const FACTS_OF_NOTHING: &str =
    "(i32.const 1100) (i32.const 1) (i32.const 1056) (i32.const 0) (i32.const 256)";
const COLUMN: &str = "(i32.const 1040) (i32.const 4) (i32.const 0) (i32.const 256)";
const BOOK_COLUMN: &str = "(i32.const 1120) (i32.const 5) (i32.const 0) (i32.const 256)";
const NAMES: &str = "(i32.const 1100) (i32.const 1) (i32.const 256)";

impl Call {
    /// A phase that makes this call with `row`, again and again or once.
    fn wat(&self, row: u32, endless: bool) -> Wat {
        let Self { interface, name, arguments } = self;
        let signature = self.signature();
        let drop = if signature.contains("result") { "(drop)" } else { "" };
        let made = format!("{} (call ${interface}.{name}) {drop}", arguments.replace("{}", &row.to_string()));
        // The room for results is used again, so that memory is not what ends it.
        let run = if endless {
            format!("(loop $again (global.set $next (i32.const 4096)) {made} (br $again)) (unreachable)")
        } else {
            format!("{made} (i32.const 8)")
        };
        let rows = row.to_le_bytes().map(|byte| format!("\\{byte:02x}")).concat();
        let tail = format!("{DATA} (data (i32.const 1100) \"{rows}\") (data (i32.const 1120) \"group\")");
        Wat { tail, ..Wat::run(&run) }.importing(&[(interface, name, signature)])
    }

    fn signature(&self) -> &'static str {
        let known =
            FUNCTIONS.iter().find(|(interface, name, _)| (*interface, *name) == (self.interface, self.name));
        known.expect("it is in the contract").2
    }

    fn takes_rows(&self) -> bool {
        self.arguments.contains("{}") || self.arguments.contains("(i32.const 1100) (i32.const 1)")
    }
}

#[test]
fn each_function_is_called_once_and_does_as_it_says() {
    for call in CALLS {
        let done = run(&call.wat(1, false));
        assert!(
            matches!(done.ended, RunOutcome::Planned(_)),
            "{}.{}: {:?}",
            call.interface,
            call.name,
            done.ended
        );
    }
}

#[test]
fn each_function_in_a_loop_is_ended_by_fuel_and_pays_for_each_call() {
    // Less than 4,096 asks cost, so that no rule ends it sooner.
    const FUEL: u64 = 100_000;
    for call in CALLS {
        let done = run_with(&call.wat(1, true), fueled(FUEL));
        let words = format!("used up its {FUEL} of fuel ([limits] fuel), in ");
        let (limit, told) = told(&done);
        assert_eq!(limit, Some(GuestLimit::Fuel), "{}.{}: {told}", call.interface, call.name);
        assert!(told.starts_with(&words), "{told}");
        assert_eq!(done.cost.fuel, Some(FUEL));
    }
}

#[test]
fn a_row_that_does_not_exist_is_a_broken_rule_of_the_call_it_was_in() {
    let mut named = 0;
    for call in CALLS.iter().filter(|call| call.takes_rows()) {
        for row in [3, u32::MAX] {
            let Call { interface, name, .. } = call;
            let rows = if matches!(*interface, "book" | "dial") { 2 } else { 3 };
            let done = run(&call.wat(row, false));
            let RunOutcome::Rule(words) = done.ended else { panic!("{interface}.{name}: {:?}", done.ended) };
            let expected =
                format!("{interface}.{name}: row {row} of {rows}; keep no row beyond its run, in run");
            assert_eq!(words, expected);
            named += 1;
        }
    }
    assert_eq!(named, 24);
}

#[test]
fn no_function_of_the_contract_is_missing_here() {
    let here: BTreeSet<String> =
        CALLS.iter().map(|call| format!("{}.{}", call.interface, call.name)).collect();
    assert_eq!(here.len(), CALLS.len());
    let contract: BTreeSet<String> = INTERFACES
        .iter()
        .filter(|interface| interface.role != Role::Export)
        .flat_map(|interface| interface.functions.iter().map(|name| format!("{}.{name}", interface.name)))
        .collect();
    assert_eq!(here, contract);
    assert!(
        CALLS
            .iter()
            .all(|call| Interface::from_name(call.interface).is_some_and(|it| every_grant().allows(it)))
    );
}
