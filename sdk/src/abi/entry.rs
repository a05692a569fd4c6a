//! The phase's side: a table of C functions for any Rust phase. Nothing that it hands out outlives the call.

#![expect(unsafe_code, reason = "reads what the host hands over by pointer")]

use std::mem::size_of;
use std::slice;
use std::sync::{Arc, OnceLock};

use super::{
    ABI, ADD, BOOK, FAILED, FAILED_FOR_GOOD, OK, PANICKED, PEERS, RULE_BROKEN, SET, gk_ask, gk_name,
    gk_phase, gk_run, gk_saved, gk_test, gk_text,
};
use crate::ask::{Ask, AskField};
use crate::column::{Table, UNKNOWN};
use crate::export::{Exports, TOOLKIT, checked};
use crate::host::{BroadcastTotals, Frozen, Name, NativeExit, Saved, Totals, guard};
use crate::phase::{Failure, Phase, Tick};
use crate::plan::{MetricChange, Parts, Plan};
use crate::query::Test;
use crate::view::View;

// SAFETY: the texts of a table are static, and it is never written to.
unsafe impl Sync for gk_phase {}

/// The table of a phase, for the static that [`ENTRY`](super::ENTRY) returns.
pub const fn table<E: Exports>() -> gk_phase {
    gk_phase {
        size: size_of::<gk_phase>() as u32,
        abi: ABI,
        summary: gk_text::of(E::Phase::SUMMARY.as_bytes()),
        version: gk_text::of(E::VERSION.as_bytes()),
        toolkit: gk_text::of(TOOLKIT.as_bytes()),
        check: Some(check::<E>),
        run: Some(run::<E>),
    }
}

/// # Safety
/// `run` is a `gk_run` as the header promises it.
unsafe extern "C" fn check<E: Exports>(run: *const gk_run) -> u32 {
    // SAFETY: the caller's promise.
    let Some(host) = (unsafe { Host::new(run) }) else { return FAILED_FOR_GOOD };
    match guard(|| checked::<E>(host.settings()).map(drop)) {
        Ok(Ok(())) => OK,
        Ok(Err(problem)) => host.failed(FAILED, &problem),
        Err(unwound) => host.unwound(unwound),
    }
}

/// # Safety
/// `run` is a `gk_run` as the header promises it.
unsafe extern "C" fn run<E: Exports>(run: *const gk_run) -> u32 {
    // SAFETY: the caller's promise.
    let Some(host) = (unsafe { Host::new(run) }) else { return FAILED_FOR_GOOD };
    // As for a built-in, the host checks rows of the book: counting them here would make it freeze the book.
    let mut plan = Plan::within(host.rows(Table::Peers), u32::MAX);
    let ended = guard(|| {
        let phase = E::phase(host.settings()).map_err(Failure::Permanent)?;
        phase.run(&host.tick(), &View::new(Arc::new(host.frozen())), &mut plan)
    });
    let parts = plan.into_parts();
    for line in &parts.log {
        host.log(line.level as u32, &line.text);
    }
    match ended {
        Ok(Ok(())) => host.hand_over(&parts),
        Ok(Err(Failure::Transient(text))) => host.failed(FAILED, &text),
        Ok(Err(Failure::Permanent(text))) => host.failed(FAILED_FOR_GOOD, &text),
        Err(unwound) => host.unwound(unwound),
    }
}

/// The host's side of one call. It must be dropped before the call returns.
#[derive(Clone, Copy)]
struct Host {
    run: *const gk_run,
}

// SAFETY: the data behind it does not change during the call, and the header allows callbacks from any thread.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

const fn number(table: Table) -> u32 {
    match table {
        Table::Peers => PEERS,
        Table::Book => BOOK,
    }
}

/// Calls a callback of the host. The arguments live until it returns.
macro_rules! call {
    ($host:expr, $callback:ident $(, $argument:expr)*) => {{
        let run = $host.get();
        // SAFETY: the host's promise for its callbacks, and `run.host` is the first argument of each.
        unsafe { (run.$callback)(run.host $(, $argument)*) }
    }};
}

impl Host {
    /// None if the host is older than this header.
    ///
    /// # Safety
    /// `run` is a `gk_run` as the header promises it, and the `Host` is dropped before the call returns.
    unsafe fn new(run: *const gk_run) -> Option<Host> {
        // SAFETY: the caller's promise; every version begins with its size.
        let size = unsafe { (*run).size };
        (size as usize >= size_of::<gk_run>()).then_some(Host { run })
    }

    fn get(&self) -> &gk_run {
        // SAFETY: the caller of `new` promised that it lives as long as this.
        unsafe { &*self.run }
    }

    fn settings(&self) -> &str {
        // SAFETY: the text lives as long as the call.
        let settings = unsafe { self.get().settings.bytes() };
        str::from_utf8(settings).expect("the host's JSON is UTF-8")
    }

    fn tick(&self) -> Tick {
        let tick = &self.get().tick;
        Tick {
            number: tick.number,
            since_last_s: (tick.since_last_s != UNKNOWN).then_some(tick.since_last_s),
            missed: tick.missed,
            late: tick.late != 0,
            unix_s: tick.unix_s,
            seed: tick.seed,
        }
    }

    fn rows(&self, table: Table) -> u32 {
        call!(self, rows, number(table))
    }

    fn frozen(&self) -> Borrowed {
        Borrowed { host: *self, columns: Default::default() }
    }

    fn log(&self, level: u32, text: &str) {
        call!(self, log, level, gk_text::of(text.as_bytes()));
    }

    fn failed(&self, result: u32, text: &str) -> u32 {
        call!(self, fail, gk_text::of(text.as_bytes()));
        result
    }

    fn unwound(&self, unwound: NativeExit) -> u32 {
        match unwound {
            NativeExit::Rule(broken) => self.failed(RULE_BROKEN, &broken.to_string()),
            NativeExit::Panic(text) => self.failed(PANICKED, &text),
        }
    }

    /// Asks the host for everything in the plan, in its order.
    fn hand_over(&self, parts: &Parts) -> u32 {
        let asked = parts.asks.iter().all(|ask| self.ask(ask));
        let stored = |saved: &Saved| call!(self, store, saved.version, gk_text::of(&saved.bytes)) == 0;
        let measured = parts.metrics.iter().all(|metric| {
            let (change, value) = match metric.change {
                MetricChange::Add(by) => (ADD, f64::from(by)),
                MetricChange::Set(value) => (SET, value),
            };
            call!(self, metric, gk_text::of(metric.name.as_bytes()), change, value) == 0
        });
        if asked && measured && parts.memory.as_ref().is_none_or(stored) { OK } else { RULE_BROKEN }
    }

    fn ask(&self, ask: &Ask) -> bool {
        let (mut row, mut number) = (0, 0);
        let (mut rows, mut tests): (&[u32], Vec<gk_test>) = (&[], Vec::new());
        for field in ask.fields() {
            match field {
                AskField::Peer(&it) | AskField::Address(&it) => row = it,
                AskField::Peers(list) => rows = list,
                AskField::Tests(list) => tests.extend(list.iter().map(gk_test::of)),
                AskField::Points(&by) => number = by.into(),
                AskField::Lasting(&it) | AskField::Age(&it) | AskField::Ticks(&it) => number = it.into(),
                AskField::Reason(_) => {}
            }
        }
        let ask = gk_ask {
            size: size_of::<gk_ask>() as u32,
            kind: ask.number() as u32,
            row,
            number,
            reason: gk_text::of(ask.reason().as_bytes()),
            rows: rows.as_ptr(),
            rows_len: rows.len(),
            tests: tests.as_ptr(),
            tests_len: tests.len(),
        };
        call!(self, ask, &raw const ask) == 0
    }
}

impl gk_test {
    fn of(test: &Test) -> gk_test {
        let Test { column, at_least, at_most } = test;
        gk_test { column: gk_text::of(column.as_bytes()), at_least: *at_least, at_most: *at_most }
    }
}

/// The host's snapshot, borrowed for one run.
struct Borrowed {
    host: Host,
    /// The column names, split on first use.
    columns: [OnceLock<Vec<&'static str>>; 2],
}

fn text(text: gk_text) -> String {
    // SAFETY: it is copied before the call returns.
    String::from_utf8_lossy(unsafe { text.bytes() }).into_owned()
}

impl Frozen for Borrowed {
    fn rows(&self, table: Table) -> u32 {
        self.host.rows(table)
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        let values = call!(self.host, column, number(table), gk_text::of(name.as_bytes()));
        // SAFETY: not null, a column has one value per row, and it lives as long as the run, which is longer than this.
        (!values.is_null()).then(|| unsafe { slice::from_raw_parts(values, self.rows(table) as usize) })
    }

    fn columns(&self, table: Table) -> &[&str] {
        self.columns[number(table) as usize].get_or_init(|| {
            let names = call!(self.host, columns, number(table));
            // SAFETY: the text lives as long as the run, which is longer than this.
            let names = unsafe { names.bytes() };
            str::from_utf8(names).unwrap_or_default().lines().collect()
        })
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        call!(self.host, totals, &raw mut totals);
        totals
    }

    fn broadcasts(&self) -> BroadcastTotals {
        let mut totals = BroadcastTotals::default();
        call!(self.host, broadcasts, &raw mut totals);
        totals
    }

    fn name(&self, table: Table, row: u32) -> Name {
        let mut name = gk_name::default();
        // A row that does not exist leaves the name empty, and the host stores the broken rule.
        call!(self.host, name, number(table), row, &raw mut name);
        Name { id: text(name.id), address: text(name.address), agent: text(name.agent) }
    }

    fn memory(&self) -> Option<Saved> {
        let mut saved = gk_saved::default();
        let there = call!(self.host, memory, &raw mut saved) != 0;
        // SAFETY: it is copied before the run ends.
        there.then(|| Saved { version: saved.version, bytes: unsafe { saved.bytes.bytes() }.to_vec() })
    }
}

/// The one symbol of a shared library. It is in a macro so that the crate of a phase can forbid unsafe code.
#[cfg(feature = "dylib")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_entry {
    ($exported:ident) => {
        #[cfg(not(panic = "unwind"))]
        ::core::compile_error!("a native phase needs panic = \"unwind\", or its panic would end the host");

        #[unsafe(no_mangle)]
        pub extern "C" fn groundskeeper_phase_v1() -> *const $crate::abi::gk_phase {
            static TABLE: $crate::abi::gk_phase = $crate::abi::table::<$exported>();
            &TABLE
        }
    };
}
