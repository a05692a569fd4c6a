//! The host functions that a guest can call. They use the same code as built-in phases, and none of them blocks.

use std::borrow::Cow;

use groundskeeper_sdk::contract::{Interface, NAMES, PACKAGE, ROWS, TESTS};
use groundskeeper_sdk::host::{self, Ask, Frozen, MetricChange, RuleBroken, Table};
use groundskeeper_sdk::query;
use wasmtime::Result;
use wasmtime::component::Linker;

use super::run::{CALL, Cx, StoreState, charge, scanning};
use super::shapes::{self, Level, Saved};

/// `groundskeeper:phase/<interface>@<version>`.
fn path(interface: &str) -> String {
    PACKAGE.replacen('@', &format!("/{interface}@"), 1)
}

/// Links every interface of the contract, for any grants. [`super::Guest::new`] checks a component's imports.
pub(super) fn link(linker: &mut Linker<StoreState>) -> Result<()> {
    linker.instance(&path("types"))?;
    table(linker, Table::Peers)?;
    table(linker, Table::Book)?;
    reads(linker)?;
    asks(linker)?;
    beside(linker)
}

fn rule(call: &'static str, rule: String) -> wasmtime::Error {
    RuleBroken { call, rule }.into()
}

fn tests(given: Vec<shapes::Test>) -> Vec<query::Test> {
    given.into_iter().map(test).collect()
}

fn test(shapes::Test { column, at_least, at_most }: shapes::Test) -> query::Test {
    query::Test { column: Cow::Owned(column), at_least, at_most }
}

/// Fuel for texts that the host has copied from the guest and checked.
fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> u64 {
    texts.into_iter().map(|text| CALL + text.len() as u64).sum()
}

fn columns_of(tests: &[shapes::Test]) -> impl Iterator<Item = &String> {
    tests.iter().map(|test| &test.column)
}

fn few_tests(call: &'static str, tests: usize) -> Result<()> {
    if tests > TESTS { Err(rule(call, format!("{tests} tests are more than {TESTS}"))) } else { Ok(()) }
}

fn table(linker: &mut Linker<StoreState>, table: Table) -> Result<()> {
    let contract = match table {
        Table::Peers => Interface::Peers,
        Table::Book => Interface::Book,
    };
    let named = |function| contract.call(function).expect("both tables have these functions");
    let mut interface = linker.instance(&path(contract.name()))?;
    let call = named("select");
    interface.func_wrap("select", move |mut cx: Cx<'_>, (which,): (shapes::Query,)| {
        few_tests(call, which.tests.len())?;
        let view = cx.data().view(call)?.clone();
        let columns = columns_of(&which.tests).chain(which.sort_by.iter().map(|order| &order.column));
        let sorting = if which.sort_by.is_some() { u64::from(view.rows(table)) } else { 0 };
        let fuel = scanning(&*view, table, which.tests.len()) + texts(columns) + sorting;
        charge(&mut cx, fuel)?;
        let which = query::Query {
            tests: tests(which.tests),
            sort_by: which
                .sort_by
                .map(|order| query::Order { column: Cow::Owned(order.column), descending: order.descending }),
            limit: which.limit,
        };
        let rows = query::try_select(&*view, table, &which)?;
        charge(&mut cx, rows.len() as u64)?;
        Ok((rows,))
    })?;
    let call = named("count");
    interface.func_wrap("count", move |mut cx: Cx<'_>, (given,): (Vec<shapes::Test>,)| {
        few_tests(call, given.len())?;
        let view = cx.data().view(call)?.clone();
        charge(&mut cx, scanning(&*view, table, given.len()) + texts(columns_of(&given)))?;
        Ok((query::try_count(&*view, table, &tests(given))?,))
    })?;
    let call = named("facts");
    interface.func_wrap("facts", move |mut cx: Cx<'_>, (rows, columns): (Vec<u32>, Vec<String>)| {
        let view = cx.data().view(call)?.clone();
        let values = rows.len() as u64 * (1 + columns.len() as u64);
        charge(&mut cx, CALL + values + texts(&columns))?;
        Ok((facts(&*view, table, call, &rows, &columns)?,))
    })?;
    let call = named("column");
    interface.func_wrap("column", move |mut cx: Cx<'_>, (name, first): (String, u32)| {
        let view = cx.data().view(call)?.clone();
        charge(&mut cx, texts([&name]))?;
        let values = column(&*view, table, call, &name)?;
        let first = values.len().min(first as usize);
        let end = values.len().min(first + ROWS as usize);
        charge(&mut cx, CALL + (end - first) as u64 / 2)?;
        Ok((values[first..end].to_vec(),))
    })?;
    let call = named("names");
    match table {
        Table::Peers => interface.func_wrap("names", move |mut cx: Cx<'_>, (rows,): (Vec<u32>,)| {
            let names = names(&mut cx, table, call, &rows)?;
            Ok((names.into_iter().map(shapes::Name::from).collect::<Vec<_>>(),))
        })?,
        Table::Book => interface.func_wrap("names", move |mut cx: Cx<'_>, (rows,): (Vec<u32>,)| {
            let names = names(&mut cx, table, call, &rows)?;
            Ok((names.into_iter().map(|name| name.address).collect::<Vec<_>>(),))
        })?,
    }
    let call = named("columns");
    interface.func_wrap("columns", move |mut cx: Cx<'_>, (): ()| {
        let view = cx.data().view(call)?.clone();
        charge(&mut cx, CALL * (1 + view.columns(table).len() as u64))?;
        Ok((view.columns(table).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),))
    })
}

fn column<'v>(view: &'v dyn Frozen, table: Table, call: &'static str, name: &str) -> Result<&'v [u32]> {
    view.column(table, name).ok_or_else(|| {
        let known = view.columns(table).join(", ");
        let shown = host::clean(crate::log::cut(name, 40)).into_owned();
        rule(call, format!("no column {shown:?}; this host knows {known}"))
    })
}

fn facts(
    view: &dyn Frozen,
    table: Table,
    call: &'static str,
    rows: &[u32],
    columns: &[String],
) -> Result<Vec<u32>> {
    let values = rows.len().saturating_mul(columns.len());
    if values > ROWS as usize {
        return Err(rule(call, format!("{values} values are more than {ROWS}")));
    }
    let read: Vec<&[u32]> =
        columns.iter().map(|name| column(view, table, call, name)).collect::<Result<_>>()?;
    in_table(view, table, call, rows)?;
    Ok(rows.iter().flat_map(|row| read.iter().map(|column| column[*row as usize])).collect())
}

fn in_table(view: &dyn Frozen, table: Table, call: &'static str, rows: &[u32]) -> Result<()> {
    let count = view.rows(table);
    match rows.iter().find(|row| **row >= count) {
        Some(row) => Err(rule(call, format!("row {row} of {count}; keep no row beyond its run"))),
        None => Ok(()),
    }
}

/// Fuel for one name, which is formatted on each call.
const NAME: u64 = 1_000;

fn names(cx: &mut Cx<'_>, table: Table, call: &'static str, rows: &[u32]) -> Result<Vec<host::Name>> {
    let view = cx.data().view(call)?.clone();
    if rows.len() > NAMES {
        return Err(rule(call, format!("{} rows are more than {NAMES}", rows.len())));
    }
    charge(cx, CALL + NAME * rows.len() as u64)?;
    in_table(&*view, table, call, rows)?;
    Ok(rows.iter().map(|row| view.name(table, *row)).collect())
}

fn reads(linker: &mut Linker<StoreState>) -> Result<()> {
    linker.instance(&path("peers"))?.func_wrap("totals-now", |mut cx: Cx<'_>, (): ()| {
        let view = cx.data().view("peers.totals-now")?.clone();
        charge(&mut cx, CALL)?;
        Ok((shapes::Totals::from(view.totals()),))
    })?;
    linker.instance(&path("broadcasts"))?.func_wrap("totals-now", |mut cx: Cx<'_>, (): ()| {
        let view = cx.data().view("broadcasts.totals-now")?.clone();
        charge(&mut cx, CALL)?;
        Ok((shapes::BroadcastTotals::from(view.broadcasts()),))
    })
}

/// Adds one ask to the plan. Charges fuel for the length of its text, which the host has already copied.
fn ask(cx: &mut Cx<'_>, ask: Ask) -> Result<()> {
    charge(cx, CALL + ask.reason().len() as u64)?;
    Ok(cx.data_mut().plan(ask.call())?.push(ask)?)
}

/// Adds an ask about an address. Checks the row against the book, which a guest that knows a row has already read.
fn ask_book(cx: &mut Cx<'_>, row: u32, asked: Ask) -> Result<()> {
    let view = cx.data().view(asked.call())?.clone();
    in_table(&*view, Table::Book, asked.call(), &[row])?;
    ask(cx, asked)
}

fn asks(linker: &mut Linker<StoreState>) -> Result<()> {
    let mut interface = linker.instance(&path("disconnect"))?;
    interface.func_wrap("ask", |mut cx: Cx<'_>, (peer, reason): (u32, String)| {
        ask(&mut cx, Ask::Disconnect { peer, reason })
    })?;
    interface.func_wrap("ask-if-silent", |mut cx: Cx<'_>, (peer, reason): (u32, String)| {
        ask(&mut cx, Ask::DisconnectIfSilent { peer, reason })
    })?;
    let mut interface = linker.instance(&path("health"))?;
    interface.func_wrap("adjust", |mut cx: Cx<'_>, (peer, by, reason): (u32, i32, String)| {
        ask(&mut cx, Ask::Health { peer, by, reason })
    })?;
    let mut interface = linker.instance(&path("ping"))?;
    interface.func_wrap("ask", |mut cx: Cx<'_>, (peers,): (Vec<u32>,)| {
        charge(&mut cx, peers.len() as u64)?;
        ask(&mut cx, Ask::Ping { peers })
    })?;
    interface.func_wrap("matching", |mut cx: Cx<'_>, (given,): (Vec<shapes::Test>,)| {
        let call = "ping.matching";
        few_tests(call, given.len())?;
        charge(&mut cx, texts(columns_of(&given)))?;
        let view = cx.data().view(call)?.clone();
        // The plan stores column names, so each must be a known column: this bounds the size of a plan.
        columns_of(&given).try_for_each(|name| column(&*view, Table::Peers, call, name).map(drop))?;
        ask(&mut cx, Ask::PingMatching { tests: tests(given) })
    })?;
    let mut interface = linker.instance(&path("dial"))?;
    interface.func_wrap("ask", |mut cx: Cx<'_>, (address, reason): (u32, String)| {
        ask_book(&mut cx, address, Ask::Dial { address, reason })
    })?;
    interface.func_wrap("probe", |mut cx: Cx<'_>, (address,): (u32,)| {
        ask_book(&mut cx, address, Ask::Probe { address })
    })?;
    let mut interface = linker.instance(&path("protect"))?;
    interface.func_wrap("ask", |mut cx: Cx<'_>, (peer, for_s, reason): (u32, u32, String)| {
        ask(&mut cx, Ask::Protect { peer, for_s, reason })
    })?;
    let mut interface = linker.instance(&path("ban"))?;
    interface.func_wrap("ask", |mut cx: Cx<'_>, (peer, for_s, reason): (u32, u32, String)| {
        ask(&mut cx, Ask::Ban { peer, for_s, reason })
    })?;
    let mut interface = linker.instance(&path("forget"))?;
    interface.func_wrap("broadcasts", |mut cx: Cx<'_>, (older_than_s,): (u32,)| {
        ask(&mut cx, Ask::ForgetBroadcasts { older_than_s })
    })?;
    interface.func_wrap("addresses", |mut cx: Cx<'_>, (not_heard_for_s,): (u32,)| {
        ask(&mut cx, Ask::ForgetAddresses { not_heard_for_s })
    })?;
    let mut interface = linker.instance(&path("cadence"))?;
    interface.func_wrap("again-in", |mut cx: Cx<'_>, (ticks,): (u32,)| ask(&mut cx, Ask::AgainIn { ticks }))
}

fn beside(linker: &mut Linker<StoreState>) -> Result<()> {
    let mut interface = linker.instance(&path("memory"))?;
    interface.func_wrap("load", |mut cx: Cx<'_>, (): ()| {
        let view = cx.data().view("memory.load")?.clone();
        let saved = view.memory();
        charge(&mut cx, CALL + saved.as_ref().map_or(0, |saved| saved.bytes.len() as u64))?;
        Ok((saved.map(|host::Saved { version, bytes }| Saved { version, bytes }),))
    })?;
    interface.func_wrap("store", |mut cx: Cx<'_>, (value,): (Saved,)| {
        let Saved { version, bytes } = value;
        charge(&mut cx, CALL + bytes.len() as u64)?;
        let most = cx.data().memory_bytes;
        if bytes.len() > most {
            let text = format!("{} bytes are more than the {most} that [grants] memory allows", bytes.len());
            return Err(rule("memory.store", text));
        }
        cx.data_mut().plan("memory.store")?.store(host::Saved { version, bytes });
        Ok(())
    })?;
    let mut interface = linker.instance(&path("log"))?;
    interface.func_wrap("write", |mut cx: Cx<'_>, (at, text): (Level, String)| {
        charge(&mut cx, CALL + text.len() as u64)?;
        cx.data_mut().log.write(at.into(), &text);
        Ok(())
    })?;
    let mut interface = linker.instance(&path("metrics"))?;
    interface.func_wrap("add", |mut cx: Cx<'_>, (name, by): (String, u32)| {
        metric(&mut cx, "metrics.add", &name, MetricChange::Add(by))
    })?;
    interface.func_wrap("set", |mut cx: Cx<'_>, (name, value): (String, f64)| {
        metric(&mut cx, "metrics.set", &name, MetricChange::Set(value))
    })
}

fn metric(cx: &mut Cx<'_>, call: &'static str, name: &str, change: MetricChange) -> Result<()> {
    charge(cx, 2 * CALL + name.len() as u64)?;
    Ok(cx.data_mut().plan(call)?.metric(name, change)?)
}
