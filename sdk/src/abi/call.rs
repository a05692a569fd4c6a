//! The callbacks of one call of a native phase: reads and asks. A broken rule is stored, and ends the call.

#![expect(unsafe_code, reason = "is called back with pointers")]
#![expect(clippy::disallowed_types, reason = "no dependency for a lock without contention")]

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{
    ADD, BOOK, ERROR, INFO, PEERS, SET, WARN, gk_ask, gk_broadcasts, gk_name, gk_run, gk_saved, gk_text,
    gk_tick, gk_totals,
};
use crate::ask::{Ask, AskFieldMut, KINDS};
use crate::column::{Table, UNKNOWN};
use crate::host::{Frozen, Name, NativeExit, RuleBroken, Saved, guard};
use crate::phase::Tick;
use crate::plan::{Level, MetricChange, Plan};
use crate::query::{self, Test};

/// The state behind the callbacks of one call. Everything that they hand out lives as long as this.
pub(super) struct Call<'c> {
    view: Option<&'c Arc<dyn Frozen>>,
    columns: [OnceLock<String>; 2],
    saved: OnceLock<Option<Saved>>,
    names: Mutex<Vec<Name>>,
    asked: Mutex<Asked<'c>>,
}

struct Asked<'c> {
    plan: Option<&'c mut Plan>,
    /// The text that the phase passed to `fail`.
    words: String,
    /// The first broken rule or panic. After it the plan does not change.
    unwound: Option<NativeExit>,
}

fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'c> Call<'c> {
    /// A call that may neither read nor ask.
    pub(super) fn check() -> Call<'c> {
        Call::new(None, None)
    }

    pub(super) fn run(view: &'c Arc<dyn Frozen>, plan: &'c mut Plan) -> Call<'c> {
        Call::new(Some(view), Some(plan))
    }

    fn new(view: Option<&'c Arc<dyn Frozen>>, plan: Option<&'c mut Plan>) -> Call<'c> {
        Call {
            view,
            columns: Default::default(),
            saved: OnceLock::new(),
            names: Mutex::new(Vec::new()),
            asked: Mutex::new(Asked { plan, words: String::new(), unwound: None }),
        }
    }

    /// The table for the phase. It points to this and to the settings: both must live until the phase returns.
    pub(super) fn table(&self, tick: &Tick, settings: &str) -> gk_run {
        gk_run {
            size: size_of::<gk_run>() as u32,
            tick: gk_tick {
                number: tick.number,
                since_last_s: tick.since_last_s.unwrap_or(UNKNOWN),
                missed: tick.missed,
                late: tick.late.into(),
                unix_s: tick.unix_s,
                seed: tick.seed,
            },
            settings: gk_text::of(settings.as_bytes()),
            host: (&raw const *self).cast_mut().cast(),
            rows,
            column,
            columns,
            name,
            totals,
            broadcasts,
            memory,
            ask,
            store,
            metric,
            log,
            fail,
        }
    }

    /// The phase's error text, and the broken rule or panic if there was one.
    pub(super) fn ended(self) -> (String, Option<NativeExit>) {
        let asked = self.asked.into_inner().unwrap_or_else(PoisonError::into_inner);
        (asked.words, asked.unwound)
    }

    /// The view. A call without one breaks a rule.
    fn view(&self, call: &'static str) -> &Arc<dyn Frozen> {
        self.view.unwrap_or_else(|| outside_of_run(call).unwind())
    }

    /// Changes the plan, or stores the broken rule. After a broken rule or a panic it changes nothing.
    fn change(&self, call: &'static str, change: impl FnOnce(&mut Plan) -> Result<(), RuleBroken>) {
        let mut asked = open(&self.asked);
        if asked.unwound.is_some() {
            return;
        }
        let result = match &mut asked.plan {
            Some(plan) => change(plan),
            None => Err(outside_of_run(call)),
        };
        asked.unwound = result.err().map(NativeExit::Rule);
    }
}

fn outside_of_run(call: &'static str) -> RuleBroken {
    RuleBroken { call, rule: "called outside of run".to_owned() }
}

/// Answers one callback. An unwind in here must not reach the phase: it is stored, and the phase gets `otherwise`.
///
/// # Safety
/// `host` is the pointer that [`Call::table`] gave to the phase, and that call has not returned yet.
unsafe fn answer<R>(host: *mut c_void, otherwise: R, body: impl FnOnce(&Call<'_>) -> R) -> R {
    // SAFETY: the caller's promise.
    let call = unsafe { &*host.cast::<Call<'_>>() };
    guard(|| body(call)).unwrap_or_else(|unwound| {
        open(&call.asked).unwound.get_or_insert(unwound);
        otherwise
    })
}

/// [`answer`] for callbacks that report whether a rule was broken.
///
/// # Safety
/// As for [`answer`].
unsafe fn obey(host: *mut c_void, body: impl FnOnce(&Call<'_>)) -> c_int {
    let answered = |call: &Call<'_>| {
        body(call);
        c_int::from(open(&call.asked).unwound.is_some())
    };
    // SAFETY: the caller's promise.
    unsafe { answer(host, 1, answered) }
}

fn table_of(number: u32, call: &'static str) -> Table {
    match number {
        PEERS => Table::Peers,
        BOOK => Table::Book,
        _ => RuleBroken { call, rule: format!("{number} is no table") }.unwind(),
    }
}

impl gk_text {
    /// # Safety
    /// The bytes live for `'t`.
    pub(super) unsafe fn bytes<'t>(self) -> &'t [u8] {
        // SAFETY: the caller's promise.
        unsafe { list(self.at, self.len) }
    }

    /// The text, which must be UTF-8.
    ///
    /// # Safety
    /// As for `bytes`.
    unsafe fn text<'t>(self, call: &'static str) -> Result<&'t str, RuleBroken> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.bytes() };
        str::from_utf8(bytes).map_err(|_| RuleBroken { call, rule: "text is not UTF-8".to_owned() })
    }
}

/// A list from its pointer, which may be null if the list is empty.
///
/// # Safety
/// The list lives for `'t`.
unsafe fn list<'t, T>(at: *const T, len: usize) -> &'t [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(at, len) }
}

unsafe extern "C" fn rows(host: *mut c_void, table: u32) -> u32 {
    let named = if table == BOOK { "book.count" } else { "peers.count" };
    let rows = |call: &Call<'_>| call.view(named).rows(table_of(table, named));
    // SAFETY: `host` is ours.
    unsafe { answer(host, 0, rows) }
}

unsafe extern "C" fn column(host: *mut c_void, table: u32, name: gk_text) -> *const u32 {
    let named = if table == BOOK { "book.column" } else { "peers.column" };
    let column = |call: &Call<'_>| {
        // SAFETY: the phase's text lives until this returns.
        let name = unsafe { name.text(named) }.unwrap_or_else(|broken| broken.unwind());
        let view = call.view(named);
        let table = table_of(table, named);
        let values = view.column(table, name);
        assert!(
            values.is_none_or(|values| values.len() == view.rows(table) as usize),
            "a host's column {name} has one value per row"
        );
        values.map_or(std::ptr::null(), <[u32]>::as_ptr)
    };
    // SAFETY: `host` is ours.
    unsafe { answer(host, std::ptr::null(), column) }
}

unsafe extern "C" fn columns(host: *mut c_void, table: u32) -> gk_text {
    let named = if table == BOOK { "book.columns" } else { "peers.columns" };
    let columns = |call: &Call<'_>| {
        let view = call.view(named);
        let names = || view.columns(table_of(table, named)).join("\n");
        gk_text::of(call.columns[usize::from(table == BOOK)].get_or_init(names).as_bytes())
    };
    // SAFETY: `host` is ours.
    unsafe { answer(host, gk_text::default(), columns) }
}

unsafe extern "C" fn name(host: *mut c_void, table: u32, row: u32, out: *mut gk_name) -> c_int {
    let named = if table == BOOK { "book.names" } else { "peers.names" };
    let name = |call: &Call<'_>| {
        let (view, table) = (call.view(named), table_of(table, named));
        let count = view.rows(table);
        if row >= count {
            RuleBroken { call: named, rule: format!("row {row} of {count}; keep no row beyond its run") }
                .unwind();
        }
        let name = view.name(table, row);
        let shown = gk_name {
            id: gk_text::of(name.id.as_bytes()),
            address: gk_text::of(name.address.as_bytes()),
            agent: gk_text::of(name.agent.as_bytes()),
        };
        open(&call.names).push(name);
        // SAFETY: the phase provides the space for a name.
        unsafe { out.write(shown) };
    };
    // SAFETY: `host` is ours.
    unsafe { obey(host, name) }
}

unsafe extern "C" fn totals(host: *mut c_void, out: *mut gk_totals) {
    let totals = |call: &Call<'_>| call.view("peers.totals-now").totals();
    // SAFETY: `host` is ours.
    let totals = unsafe { answer(host, gk_totals::default(), totals) };
    // SAFETY: the phase provides the space for totals.
    unsafe { out.write(totals) };
}

unsafe extern "C" fn broadcasts(host: *mut c_void, out: *mut gk_broadcasts) {
    let totals = |call: &Call<'_>| call.view("broadcasts.totals-now").broadcasts();
    // SAFETY: `host` is ours.
    let totals = unsafe { answer(host, gk_broadcasts::default(), totals) };
    // SAFETY: the phase provides the space for totals.
    unsafe { out.write(totals) };
}

unsafe extern "C" fn memory(host: *mut c_void, out: *mut gk_saved) -> c_int {
    let saved = |call: &Call<'_>| {
        let saved = call.saved.get_or_init(|| call.view("memory.load").memory()).as_ref()?;
        Some(gk_saved { version: saved.version, bytes: gk_text::of(&saved.bytes) })
    };
    // SAFETY: `host` is ours.
    let Some(saved) = (unsafe { answer(host, None, saved) }) else { return 0 };
    // SAFETY: the phase provides the space for the memory.
    unsafe { out.write(saved) };
    1
}

unsafe extern "C" fn ask(host: *mut c_void, asked: *const gk_ask) -> c_int {
    const CALL: &str = "lifecycle.run";
    let ask = |call: &Call<'_>| {
        let broken = |rule| RuleBroken { call: CALL, rule }.unwind();
        // SAFETY: the phase's ask lives until this returns; every version begins with its size.
        let size = unsafe { (*asked).size };
        if (size as usize) < size_of::<gk_ask>() {
            broken(format!("an ask of {size} bytes is too short"));
        }
        // SAFETY: as above, and it is long enough.
        let asked = unsafe { *asked };
        let Some(mut ask) = Ask::empty(asked.kind as usize) else {
            broken(format!("asked for kind {}, of {}", asked.kind, KINDS.len()))
        };
        let called = ask.call();
        call.change(called, |plan| {
            for field in ask.fields_mut() {
                // SAFETY: its lists and texts live until this returns.
                unsafe { fill(field, &asked, called) }?;
            }
            if let Ask::PingMatching { tests } = &ask {
                let (view, table) = (&**call.view(called), Table::Peers);
                let unknown = tests.iter().find(|test| !view.columns(table).contains(&&*test.column));
                unknown.map_or(Ok(()), |test| Err(query::no_column(called, view, table, &test.column)))?;
            }
            plan.push(ask)
        });
    };
    // SAFETY: `host` is ours.
    unsafe { obey(host, ask) }
}

/// Fills one field of an ask with what the phase gave for it.
///
/// # Safety
/// The lists and texts of `asked` live until this returns.
unsafe fn fill(field: AskFieldMut<'_>, asked: &gk_ask, call: &'static str) -> Result<(), RuleBroken> {
    let number = asked.number;
    let outside = |least: i64, most: i64| {
        let rule = format!("{number} is not within {least} to {most}");
        RuleBroken { call, rule }
    };
    match field {
        AskFieldMut::Peer(row) | AskFieldMut::Address(row) => *row = asked.row,
        AskFieldMut::Peers(rows) => {
            // SAFETY: the caller's promise.
            *rows = unsafe { list(asked.rows, asked.rows_len) }.to_vec();
        }
        AskFieldMut::Tests(tests) => {
            // SAFETY: the caller's promise.
            for test in unsafe { list(asked.tests, asked.tests_len) } {
                // SAFETY: the caller's promise.
                let column = unsafe { test.column.text(call) }?.to_owned().into();
                tests.push(Test { column, at_least: test.at_least, at_most: test.at_most });
            }
        }
        AskFieldMut::Points(by) => {
            *by = i32::try_from(number).map_err(|_| outside(i32::MIN.into(), i32::MAX.into()))?;
        }
        AskFieldMut::Lasting(it) | AskFieldMut::Age(it) | AskFieldMut::Ticks(it) => {
            *it = u32::try_from(number).map_err(|_| outside(0, u32::MAX.into()))?;
        }
        AskFieldMut::Reason(reason) => {
            // SAFETY: the caller's promise.
            *reason = unsafe { asked.reason.text(call) }?.to_owned();
        }
    }
    Ok(())
}

unsafe extern "C" fn store(host: *mut c_void, version: u32, bytes: gk_text) -> c_int {
    let store = |call: &Call<'_>| {
        call.change("memory.store", |plan| {
            // SAFETY: the phase's bytes live until this returns.
            let bytes = unsafe { bytes.bytes() }.to_vec();
            plan.store(Saved { version, bytes });
            Ok(())
        });
    };
    // SAFETY: `host` is ours.
    unsafe { obey(host, store) }
}

unsafe extern "C" fn metric(host: *mut c_void, name: gk_text, change: u32, value: f64) -> c_int {
    let call_name = if change == ADD { "metrics.add" } else { "metrics.set" };
    let metric = |call: &Call<'_>| {
        call.change(call_name, |plan| {
            let broken = |rule| Err(RuleBroken { call: call_name, rule });
            // SAFETY: the phase's text lives until this returns.
            let name = unsafe { name.text(call_name) }?;
            // A cast cuts off what does not fit, so it comes back as another number.
            match change {
                ADD if f64::from(value as u32) == value => plan.metric(name, MetricChange::Add(value as u32)),
                ADD => broken(format!("{value} is not a whole number from 0 to {}", u32::MAX)),
                SET => plan.metric(name, MetricChange::Set(value)),
                _ => broken(format!("{change} is no way to change a metric")),
            }
        });
    };
    // SAFETY: `host` is ours.
    unsafe { obey(host, metric) }
}

unsafe extern "C" fn log(host: *mut c_void, level: u32, text: gk_text) {
    let level = match level {
        ERROR => Level::Error,
        WARN => Level::Warn,
        INFO => Level::Info,
        _ => Level::Debug,
    };
    let log = |call: &Call<'_>| {
        // SAFETY: the phase's text lives until this returns.
        let text = String::from_utf8_lossy(unsafe { text.bytes() });
        if let Some(plan) = &mut open(&call.asked).plan {
            plan.log(level, text);
        }
    };
    // SAFETY: `host` is ours.
    unsafe { answer(host, (), log) }
}

unsafe extern "C" fn fail(host: *mut c_void, text: gk_text) {
    let fail = |call: &Call<'_>| {
        // SAFETY: the phase's text lives until this returns.
        open(&call.asked).words = String::from_utf8_lossy(unsafe { text.bytes() }).into_owned();
    };
    // SAFETY: `host` is ours.
    unsafe { answer(host, (), fail) }
}
