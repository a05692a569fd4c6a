//! One run of a phase that does nothing: the overhead of our code over plain wasmtime.

use groundskeeper::engine::policy::Instance;
use groundskeeper::engine::wasm::{Wasm, component_of};

use super::raw::Raw;
use super::{GROUP, Scratch, empty, guest, job, once, setup};
use crate::Effort;
use crate::report::{Reach, Report, Row};
use crate::rounds::{medians, per_op};

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(31, 9);
    let runs = effort.choose(2_000, 500);
    let (raw, wasm) = (Raw::new(), Wasm::new(None).expect("this machine runs guests"));
    same_code(&raw);
    let job = job(1_000);
    let fresh = guest(&wasm, &empty(), setup(Instance::Fresh));
    let persistent = guest(&wasm, &empty(), setup(Instance::Persistent { max_runs: u32::MAX }));
    let [ours_fresh, raw_fresh, ours_persistent, raw_persistent] = medians(
        rounds,
        [
            Box::new(|| per_op(runs, || (0..runs).for_each(|_| assert_eq!(once(&fresh, &job), 0)))),
            Box::new(|| per_op(runs, || (0..runs).for_each(|_| raw.fresh()))),
            Box::new(|| per_op(runs, || (0..runs).for_each(|_| assert_eq!(once(&persistent, &job), 0)))),
            Box::new(|| raw.persistent(runs)),
        ],
    );
    let row = |measure, ours: f64, raw: f64| {
        Row::cost(GROUP, measure, "empty phase, 4 imports", ours / 1000.0, "us").against("raw", raw / 1000.0)
    };
    report.push(row("one run, fresh store", ours_fresh, raw_fresh).reach(Reach::Times(1.0 / 1.5)));
    report.push(
        row("one run, persistent instance", ours_persistent, raw_persistent).reach(Reach::Times(1.0 / 3.0)),
    );
    report.push(
        Row::cost(
            GROUP,
            "one run, persistent instance",
            "empty phase, 4 imports",
            ours_persistent / 1000.0,
            "us",
        )
        .reach(Reach::AtMost(2.0)),
    );
}

/// Both must compile to the same code, or the comparison means nothing.
fn same_code(raw: &Raw) {
    let folder = Scratch::new("same");
    let wasm = Wasm::new(Some(folder.0.clone())).expect("a folder of our own");
    wasm.load(&empty()).expect("it is a phase");
    let kept =
        std::fs::read_dir(&folder.0).expect("it is there").next().expect("one entry").expect("readable");
    let ours = std::fs::read(kept.path()).expect("readable");
    assert!(
        ours == raw.compiled(&component_of(&empty()).expect("it is a phase")),
        "the raw configuration is another"
    );
}
