//! Compares the WIT text with the Rust surface and the C header. Owns the golden listing; judges no behaviour.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use groundskeeper_sdk::abi::{self, HEADER};
use groundskeeper_sdk::column::{AddressColumn, PeerColumn, address, peer};
use groundskeeper_sdk::contract::{self, INTERFACES, KINDS, PACKAGE, Role, WIT};
use groundskeeper_sdk::host::{Ask, Level};
use wit_parser::{Function, Interface, Resolve, Type, TypeDefKind};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/wit/v0.1/golden.txt");

fn resolve() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_str("phase.wit", WIT).expect("the WIT parses");
    resolve
}

fn interfaces(resolve: &Resolve) -> Vec<(&str, &Interface)> {
    let (_, package) = resolve.packages.iter().next().expect("one package");
    package.interfaces.iter().map(|(name, id)| (name.as_str(), &resolve.interfaces[*id])).collect()
}

/// A type as the WIT writes it; named types by their name.
fn show(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Id(id) => match &resolve.types[*id].name {
            Some(name) => name.clone(),
            None => shape(resolve, &resolve.types[*id].kind),
        },
        other => format!("{other:?}").to_lowercase(),
    }
}

fn shape(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let show = |ty: &Type| show(resolve, ty);
    let maybe = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), show);
    match kind {
        TypeDefKind::Record(record) => {
            let fields: Vec<_> =
                record.fields.iter().map(|f| format!("{}: {}", f.name, show(&f.ty))).collect();
            format!("record {{ {} }}", fields.join(", "))
        }
        TypeDefKind::Variant(variant) => {
            let cases: Vec<_> =
                variant.cases.iter().map(|c| format!("{}({})", c.name, maybe(&c.ty))).collect();
            format!("variant {{ {} }}", cases.join(", "))
        }
        TypeDefKind::Enum(cases) => {
            let cases: Vec<_> = cases.cases.iter().map(|c| c.name.as_str()).collect();
            format!("enum {{ {} }}", cases.join(", "))
        }
        TypeDefKind::Tuple(tuple) => {
            format!("tuple<{}>", tuple.types.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Option(ty) => format!("option<{}>", show(ty)),
        TypeDefKind::List(ty) => format!("list<{}>", show(ty)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", maybe(&result.ok), maybe(&result.err)),
        TypeDefKind::Type(Type::Id(id)) => match resolve.types[*id].owner {
            wit_parser::TypeOwner::Interface(owner) => {
                format!("use {}", resolve.interfaces[owner].name.as_deref().unwrap_or("?"))
            }
            _ => show(&Type::Id(*id)),
        },
        TypeDefKind::Type(ty) => show(ty),
        other => panic!("the contract uses no {}", other.as_str()),
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<_> =
        function.params.iter().map(|p| format!("{}: {}", p.name, show(resolve, &p.ty))).collect();
    let result = function.result.as_ref().map_or(String::new(), |ty| format!(" -> {}", show(resolve, ty)));
    format!("({}){result}", params.join(", "))
}

fn listing(resolve: &Resolve) -> String {
    let mut text = format!("{PACKAGE}\n");
    for (name, interface) in interfaces(resolve) {
        writeln!(text, "\n{name}").expect("a String takes all");
        for (type_name, id) in &interface.types {
            writeln!(text, "  type {type_name} = {}", shape(resolve, &resolve.types[*id].kind))
                .expect("as above");
        }
        for (function, it) in &interface.functions {
            writeln!(text, "  {name}.{function}{}", signature(resolve, it)).expect("as above");
        }
    }
    for (_, world) in &resolve.worlds {
        writeln!(text, "\nworld {}", world.name).expect("as above");
        for (word, items) in [("import", &world.imports), ("export", &world.exports)] {
            for key in items.keys() {
                writeln!(text, "  {word} {}", resolve.name_world_key(key)).expect("as above");
            }
        }
    }
    text
}

#[test]
fn a_change_of_the_contract_shows_in_the_golden_listing() {
    let now = listing(&resolve());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &now).expect("golden.txt is writable");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("golden.txt is checked in");
    assert_eq!(now, golden, "the contract changed; if that is meant, run again with UPDATE_GOLDEN=1");
}

#[test]
fn package_and_interfaces_agree_with_the_table() {
    let resolve = resolve();
    let (_, package) = resolve.packages.iter().next().expect("one package");
    assert_eq!(package.name.to_string(), PACKAGE);
    let wit: Vec<_> = interfaces(&resolve)
        .into_iter()
        .map(|(name, it)| (name, it.functions.keys().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    let rust: Vec<_> = INTERFACES.iter().map(|it| (it.name, it.functions.to_vec())).collect();
    assert_eq!(wit, rust);
    let named = contract::Interface::ALL.iter().map(|it| it.name());
    assert!(named.clone().eq(INTERFACES.iter().map(|it| it.name)));
    assert!(named.map(contract::Interface::from_name).eq(contract::Interface::ALL.iter().copied().map(Some)));
}

#[test]
fn the_world_imports_all_but_types_and_exports_the_lifecycle() {
    let resolve = resolve();
    let (_, world) = resolve.worlds.iter().next().expect("one world");
    let short = |key: &wit_parser::WorldKey| {
        let name = resolve.name_world_key(key);
        name.split('/')
            .nth(1)
            .and_then(|rest| rest.split('@').next())
            .expect("ns:pkg/name@version")
            .to_owned()
    };
    let imports: BTreeSet<_> = world.imports.keys().map(short).collect();
    let exports: BTreeSet<_> = world.exports.keys().map(short).collect();
    let of = |export: bool| {
        INTERFACES
            .iter()
            .filter(|it| (it.role == Role::Export) == export)
            .map(|it| it.name.to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(imports, of(false));
    assert_eq!(exports, of(true));
}

#[test]
fn calls_are_the_functions_of_the_interfaces() {
    for it in INTERFACES {
        let calls: Vec<_> = it.functions.iter().map(|function| format!("{}.{function}", it.name)).collect();
        assert_eq!(calls, it.calls);
    }
}

#[test]
fn every_asking_function_is_one_kind_of_action() {
    let calls: BTreeSet<_> = INTERFACES
        .iter()
        .filter(|it| it.role == Role::Ask)
        .flat_map(|it| it.functions.iter().map(|function| format!("{}.{function}", it.name)))
        .collect();
    let kinds: BTreeSet<_> = KINDS.iter().map(|kind| kind.call.to_owned()).collect();
    assert_eq!(calls, kinds);
    assert_eq!(kinds.len(), KINDS.len(), "no call twice");
    assert_eq!(
        KINDS.iter().map(|kind| kind.name).collect::<BTreeSet<_>>().len(),
        KINDS.len(),
        "no name twice"
    );
    for kind in KINDS {
        assert_eq!(kind.call.split('.').next(), Some(kind.interface.name()));
    }
}

#[test]
fn an_ask_knows_its_own_kind() {
    let reason = String::new;
    let asks = [
        (Ask::Disconnect { peer: 0, reason: reason() }, "disconnect"),
        (Ask::DisconnectIfSilent { peer: 0, reason: reason() }, "disconnect-if-silent"),
        (Ask::Health { peer: 0, by: 1, reason: reason() }, "health"),
        (Ask::Ping { peers: vec![0] }, "ping"),
        (Ask::PingMatching { tests: Vec::new() }, "ping-matching"),
        (Ask::Dial { address: 0, reason: reason() }, "dial"),
        (Ask::Probe { address: 0 }, "probe"),
        (Ask::Protect { peer: 0, for_s: 1, reason: reason() }, "protect"),
        (Ask::Ban { peer: 0, for_s: 1, reason: reason() }, "ban"),
        (Ask::ForgetBroadcasts { older_than_s: 1 }, "forget-broadcasts"),
        (Ask::ForgetAddresses { not_heard_for_s: 1 }, "forget-addresses"),
        (Ask::AgainIn { ticks: 1 }, "again-in"),
    ];
    assert_eq!(asks.len(), KINDS.len());
    for (number, (ask, kind)) in asks.iter().enumerate() {
        assert_eq!((ask.number(), ask.kind()), (number, *kind));
    }
}

#[test]
fn column_names_agree_with_the_documentation_of_the_tables() {
    let resolve = resolve();
    assert!(peer::COLUMNS.iter().map(|name| PeerColumn::from_name(name)).eq(PeerColumn::ALL.map(Some)));
    assert!(
        address::COLUMNS.iter().map(|name| AddressColumn::from_name(name)).eq(AddressColumn::ALL.map(Some))
    );
    for (table, columns) in [("peers", peer::COLUMNS), ("book", address::COLUMNS)] {
        let (_, interface) =
            interfaces(&resolve).into_iter().find(|(name, _)| *name == table).expect("the table is there");
        let docs = interface.docs.contents.as_deref().expect("the table is documented");
        let list = docs.split("Columns:").nth(1).expect("its columns are listed");
        let names: BTreeSet<_> = list.split('`').skip(1).step_by(2).filter(|word| *word != "peers").collect();
        assert_eq!(names, columns.iter().copied().collect::<BTreeSet<_>>(), "columns of {table}");
    }
}

#[test]
fn what_needs_no_grant_is_said_in_the_text() {
    let resolve = resolve();
    for (name, interface) in interfaces(&resolve) {
        let docs = interface.docs.contents.as_deref().expect("every interface is documented");
        let entry = INTERFACES.iter().find(|it| it.name == name).expect("in the table");
        let exempt = docs.contains("Needs no grant") || entry.role == Role::Export;
        assert_eq!(entry.needs_grant, !exempt, "{name}");
    }
}

#[test]
fn limits_agree_with_the_text() {
    let text = WIT.split_whitespace().filter(|word| *word != "///").collect::<Vec<_>>().join(" ");
    for limit in [
        format!("(at most {})", contract::TESTS),
        format!("`limit` (1 to {})", contract::ROWS),
        format!("At most {} values", contract::ROWS),
        format!("At most {} rows in all calls of one run together", contract::ROWS),
        format!("A plan holds at most {}.", contract::ASKS_PER_PLAN),
        format!("A reason is 1 to {} bytes", contract::REASON_BYTES),
        format!("A name is 1 to {} of a-z 0-9 _", contract::METRIC_NAME_BYTES),
        format!("at most {} names", contract::METRICS),
        format!("At most {} rows.", contract::NAMES),
        format!(
            "saturate at {}, because {}",
            groundskeeper_sdk::column::MOST,
            groundskeeper_sdk::column::UNKNOWN
        ),
    ] {
        assert!(text.contains(&limit), "the WIT says nowhere: {limit}");
    }
}

/// The members of a struct of the C header, as the WIT would write them.
fn members(header: &str, name: &str) -> Vec<String> {
    let (_, body) = header.split_once(&format!("typedef struct {name} {{")).expect("the header has it");
    let (body, _) = body.split_once('}').expect("it ends");
    let member = |line: &str| {
        let word = line.trim().strip_suffix(';')?.rsplit([' ', '*']).next()?;
        Some(word.split('[').next()?.replace('_', "-"))
    };
    body.lines().filter_map(member).collect()
}

#[test]
fn records_are_the_same_in_the_text_and_in_the_c_header() {
    let resolve = resolve();
    for (interface, record, name) in [
        ("types", "test", "gk_test"),
        ("peers", "totals", "gk_totals"),
        ("peers", "name", "gk_name"),
        ("broadcasts", "totals", "gk_broadcasts"),
        ("memory", "saved", "gk_saved"),
        ("lifecycle", "tick", "gk_tick"),
    ] {
        let (_, interface) =
            interfaces(&resolve).into_iter().find(|(name, _)| *name == interface).expect("it is there");
        let TypeDefKind::Record(fields) = &resolve.types[interface.types[record]].kind else {
            panic!("{record} is no record")
        };
        let fields: Vec<_> = fields.fields.iter().map(|field| field.name.clone()).collect();
        assert_eq!(members(HEADER, name), fields, "{name}");
    }
}

#[test]
fn levels_have_one_order() {
    let resolve = resolve();
    let (_, log) = interfaces(&resolve).into_iter().find(|(name, _)| *name == "log").expect("it is there");
    let TypeDefKind::Enum(levels) = &resolve.types[log.types["level"]].kind else { panic!("no enum") };
    let levels: Vec<_> = levels.cases.iter().map(|case| case.name.as_str()).collect();
    let rust = [Level::Error, Level::Warn, Level::Info, Level::Debug];
    assert_eq!(levels, rust.map(|level| format!("{level:?}").to_lowercase()));
    assert_eq!(rust.map(|level| level as u32), [abi::ERROR, abi::WARN, abi::INFO, abi::DEBUG]);
}

// ---- The page ----

const PAGE: &str = include_str!("../../docs/contract.md");

/// The rows of the first table after `before`, without its head: cells without backticks.
fn table_after(before: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(before).unwrap_or_else(|| panic!("the page says {before:?}"));
    let lines =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    lines.skip(2).map(cells).collect()
}

#[test]
fn the_page_lists_the_interfaces_with_their_functions() {
    let role = |role| match role {
        Role::Types => "shapes",
        Role::Read => "reading",
        Role::Ask => "asking",
        Role::Beside => "beside the plan",
        Role::Export => "exported",
    };
    let grant = |needs_grant| if needs_grant { "yes" } else { "no" };
    let listed = INTERFACES.iter().map(|it| {
        vec![it.name.into(), role(it.role).into(), grant(it.needs_grant).into(), it.functions.join(", ")]
    });
    assert_eq!(table_after("## Interfaces"), listed.collect::<Vec<Vec<String>>>());
}

#[test]
fn the_page_lists_the_columns_in_their_order() {
    let names = |before| table_after(before).into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(names("`peers`: the live connections"), peer::COLUMNS);
    assert_eq!(names("`book`: addresses"), address::COLUMNS);
}

#[test]
fn the_page_lists_the_kinds_by_their_numbers() {
    let listed: Vec<_> = table_after("## Asks").into_iter().map(|row| row[..3].to_vec()).collect();
    let kinds = KINDS
        .iter()
        .enumerate()
        .map(|(number, kind)| vec![number.to_string(), kind.name.to_owned(), kind.call.to_owned()]);
    assert_eq!(listed, kinds.collect::<Vec<_>>());
}

#[test]
fn the_page_says_the_limits() {
    let table = table_after("## Rules and limits");
    for (rule, limit) in [
        ("tests in one query", contract::TESTS),
        ("limit of a query, from 1 up to", contract::ROWS as usize),
        ("values out of one facts or column", contract::ROWS as usize),
        ("rows of one names", contract::NAMES),
        ("rows of all ping.ask in a run", contract::ROWS as usize),
        ("asks in a plan", contract::ASKS_PER_PLAN),
        ("bytes of a reason, from 1 up to", contract::REASON_BYTES),
        ("names of metrics in a run", contract::METRICS),
        ("bytes of a metric's name, of a-z 0-9 _", contract::METRIC_NAME_BYTES),
    ] {
        assert!(
            table.contains(&vec![rule.to_owned(), limit.to_string()]),
            "{rule}: {limit} is not in {table:?}"
        );
    }
}
