//! Native phases: the header against its mirror, and runs through the table against runs without it.

#![expect(unsafe_code, reason = "a table of C functions is taken on trust")]

use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use groundskeeper_sdk::abi::{
    self, NativePhase, gk_ask, gk_broadcasts, gk_name, gk_phase, gk_run, gk_saved, gk_test, gk_text, gk_tick,
    gk_totals,
};
use groundskeeper_sdk::column::{Column, Count};
use groundskeeper_sdk::contract::{self, KINDS};
use groundskeeper_sdk::export::Exports;
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, NativeExit, Parts, Plan, Table, View, guard};
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::rng::Rng;
use groundskeeper_sdk::testing::{World, world};

// ---- The header ----

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

fn cc(arguments: &[&str], source: &Path, output: &Path) {
    let strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", INCLUDE];
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(compiler);
    command.args(strict).args(arguments).arg(source).arg("-o").arg(output);
    let ended = command.output().expect("a C compiler, as Rust needs it to link");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// A file name in cargo's folder for the files of tests.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Name in C, and value in Rust.
fn layout() -> Vec<(String, usize)> {
    let mut list = Vec::new();
    macro_rules! structs {
        ($($name:ident { $($member:ident)* })*) => {$(
            list.push((format!("sizeof({})", stringify!($name)), size_of::<$name>()));
            list.push((format!("_Alignof({})", stringify!($name)), align_of::<$name>()));
            $(list.push((
                format!("offsetof({}, {})", stringify!($name), stringify!($member)),
                offset_of!($name, $member),
            ));)*
        )*};
    }
    structs! {
        gk_text { at len }
        gk_tick { number since_last_s missed late unix_s seed }
        gk_totals { connected inbound dialing healthy least most }
        gk_broadcasts { held oldest_s in_window window_s }
        gk_name { id address agent }
        gk_saved { version bytes }
        gk_test { column at_least at_most }
        gk_ask { size kind row number reason rows rows_len tests tests_len }
        gk_run {
            size tick settings host rows column columns name totals broadcasts memory ask store metric log fail
        }
        gk_phase { size abi summary version toolkit check run }
    }
    list
}

fn constants() -> Vec<(String, usize)> {
    let mut list: Vec<(String, usize)> = KINDS
        .iter()
        .enumerate()
        .map(|(number, kind)| (format!("GK_{}", kind.name.to_uppercase().replace('-', "_")), number))
        .collect();
    let abi = [
        ("GK_ABI", abi::ABI),
        ("GK_OK", abi::OK),
        ("GK_FAILED", abi::FAILED),
        ("GK_FAILED_FOR_GOOD", abi::FAILED_FOR_GOOD),
        ("GK_PANICKED", abi::PANICKED),
        ("GK_RULE_BROKEN", abi::RULE_BROKEN),
        ("GK_PEERS", abi::PEERS),
        ("GK_BOOK", abi::BOOK),
        ("GK_ERROR", abi::ERROR),
        ("GK_WARN", abi::WARN),
        ("GK_INFO", abi::INFO),
        ("GK_DEBUG", abi::DEBUG),
        ("GK_ADD", abi::ADD),
        ("GK_SET", abi::SET),
        ("GK_UNKNOWN", UNKNOWN),
        ("GK_ROWS", contract::ROWS),
    ];
    list.extend(abi.map(|(name, value)| (name.to_owned(), value as usize)));
    let limits = [
        ("GK_TESTS", contract::TESTS),
        ("GK_ASKS_PER_PLAN", contract::ASKS_PER_PLAN),
        ("GK_REASON_BYTES", contract::REASON_BYTES),
        ("GK_METRICS", contract::METRICS),
        ("GK_METRIC_NAME_BYTES", contract::METRIC_NAME_BYTES),
    ];
    list.extend(limits.map(|(name, value)| (name.to_owned(), value)));
    list
}

#[test]
fn the_header_and_its_mirror_have_one_layout_and_the_same_numbers() {
    let list: Vec<_> = layout().into_iter().chain(constants()).collect();
    let mut program = "#include \"groundskeeper_phase.h\"\n#include <stdio.h>\nint main(void) {\n".to_owned();
    for (name, _) in &list {
        writeln!(program, "    printf(\"%zu\\n\", (size_t)({name}));").unwrap();
    }
    program.push_str("    return 0;\n}\n");
    let (source, binary) = (scratch("layout.c"), scratch("layout"));
    std::fs::write(&source, program).unwrap();
    cc(&[], &source, &binary);
    let printed = Command::new(&binary).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.lines().count(), list.len());
    for ((name, rust), c) in list.iter().zip(printed.lines()) {
        assert_eq!(&rust.to_string(), c, "{name}");
    }
}

/// What the header defines and the list above does not compare would be tied to nothing.
#[test]
fn every_number_of_the_header_is_compared() {
    let compared: Vec<String> = constants().into_iter().map(|(name, _)| name).collect();
    let macros = ["GK_HAS", "GK_TEXT"];
    let words = abi::HEADER.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    for word in words.filter(|word| word.starts_with("GK_")) {
        assert!(
            compared.iter().any(|name| name == word) || macros.contains(&word),
            "{word} is compared nowhere"
        );
    }
    assert!(abi::HEADER.contains(&format!("const gk_phase *{}(void);", abi::ENTRY)));
}

// ---- Runs ----

fn native<E: Exports>() -> NativePhase {
    // The table of a type, which lives as long as the process.
    let table: &'static gk_phase = Box::leak(Box::new(abi::table::<E>()));
    // SAFETY: `abi::table` made it.
    unsafe { NativePhase::new(table) }.unwrap()
}

/// How a run ended, and all it left; what a failed run asked for is dropped, as a host does.
fn left(ended: Result<Result, NativeExit>, plan: Plan) -> String {
    let parts = plan.into_parts();
    match ended {
        Ok(Ok(())) => format!("{parts:#?}"),
        Ok(Err(failure)) => format!("{failure:?} {:?}", parts.log),
        Err(NativeExit::Rule(broken)) => format!("{broken:?} {:?}", parts.log),
        Err(NativeExit::Panic(text)) => format!("panicked: {text} {:?}", parts.log),
    }
}

fn plan_of(world: &World) -> Plan {
    Plan::within(world.rows(Table::Peers), u32::MAX)
}

fn built_in<E: Exports>(world: &World, settings: &str) -> String {
    let mut plan = plan_of(world);
    let ended = guard(|| {
        let phase = E::phase(settings).map_err(Failure::Permanent)?;
        phase.run(&world.now(), &world.view(), &mut plan)
    });
    left(ended, plan)
}

fn through_the_table(phase: &NativePhase, world: &World, settings: &str) -> String {
    let mut plan = plan_of(world);
    let view: Arc<dyn Frozen> = Arc::new(world.clone());
    let ended = phase.run(settings, &world.now(), &view, &mut plan);
    left(ended, plan)
}

/// Reads and asks in every way there is, by lot, and now and then breaks a rule, fails or panics.
#[derive(Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", deny_unknown_fields)]
struct Everything {
    steps: u32,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(crate = "groundskeeper_sdk::serde")]
struct Runs(u32);

impl Memory for Runs {}

const NEWER: Column<Peer, Count> = Column::new("newer");

impl Phase for Everything {
    const SUMMARY: &'static str = "does everything";

    fn check(&self) -> Result<(), String> {
        match self.steps {
            0 => Err("steps = 0 is out of range: 1 to 100".to_owned()),
            13 => panic!("thirteen"),
            _ => Ok(()),
        }
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let mut rng = now.rng();
        plan.log(Level::Info, format!("{now:?}\n{:?} {:?}", view.totals(), view.broadcasts()));
        (0..self.steps).try_for_each(|_| step(&mut rng, view, plan))
    }
}

fn step(rng: &mut Rng, view: &View, plan: &mut Plan) -> Result {
    let slow = || view.peers().over(peer::RTT, Span::millis(500)).most(peer::RTT);
    let peers: Vec<Peer> = view.rows().collect();
    let addresses: Vec<Address> = view.rows().collect();
    let any = |rng: &mut Rng| peers.get(rng.below(peers.len() as u64) as usize).copied();
    let (Some(one), Some(address)) = (any(rng), addresses.first().copied()) else { return Ok(()) };
    match rng.below(64) {
        0 => plan.disconnect(one, ""),
        1 => plan.again_in(0),
        2 => plan.ping(&vec![one; 16_385]),
        3 => drop(view.column(NEWER)),
        4 => drop(view.peers().take(16_385)),
        5 => plan.ping_matching(slow().known(NEWER)),
        6 => plan.metric_add("Not a name", 1),
        7 => return Err(Failure::transient("no luck")),
        8 => return Err(Failure::permanent("no luck at all")),
        9 => panic!("out of luck: {}", rng.below(10)),
        10..=14 => slow().take(4).into_iter().for_each(|p| plan.disconnect(p, "slow\tpeer")),
        15..=18 => plan.disconnect_if_silent(one, format!("silent for {:?}", view.fact(one, peer::IDLE))),
        19..=22 => plan.health(one, rng.below(200) as i32 - 100, "by lot"),
        23..=26 => plan.ping(&[one, one]),
        27..=30 => plan.ping_matching(slow().is(peer::INBOUND, false).under(peer::HEALTH, 60)),
        31..=33 => plan.dial(address, format!("{} connected", view.peers().count())),
        34..=36 => view.book().least(address::HEARD).take(3).into_iter().for_each(|a| plan.probe(a)),
        37..=39 => plan.protect(one, Span::millis(rng.below(10_000)), "kept"),
        40..=42 => plan.ban(one, Span::secs(u64::from(u32::MAX)), "rude"),
        43 => plan.forget_broadcasts(Span::mins(5)),
        44 => plan.forget_addresses(Span::days(7)),
        45 => plan.again_in(rng.below(5) as u32 + 1),
        46..=48 => {
            let Runs(runs) = view.memory()?;
            plan.remember(&Runs(runs + 1))?;
        }
        49..=51 => plan.metric_add("seen", rng.bits() as u32),
        52..=54 => plan.metric_set("share", rng.below(100) as f64 / 7.0),
        55..=57 => plan.log(Level::Debug, format!("{:?}", view.names(&[one]))),
        58 => plan.log(Level::Warn, format!("{:?}", view.names(&[address]))),
        59 => plan.log(Level::Warn, view.knows(NEWER).to_string()),
        60 => plan.log(Level::Error, view.knows(peer::RTT).to_string()),
        61 => plan.log(Level::Info, format!("{:?}", view.facts(&peers, (peer::RTT, peer::GROUP)))),
        62 => plan.log(Level::Info, format!("{:?}", view.column(peer::HEALTH))),
        _ => drop("x".parse::<u32>()?),
    }
    Ok(())
}

enum Exported {}

impl Exports for Exported {
    type Phase = Everything;
    const VERSION: &'static str = "1.2.3";
    fn phase(settings: &str) -> Result<Everything, String> {
        groundskeeper_sdk::export::from_json(settings)
    }
}

/// Ties and unknown values are common.
fn random_world(rng: &mut Rng) -> World {
    let mut world = world().seed([rng.bits() as u32, rng.bits() as u32]);
    for _ in 0..rng.below(30) {
        let (rtt, idle, health) = (rng.below(8) * 150, rng.below(100), rng.below(101));
        let inbound = rng.below(2) == 1;
        world = world.peer(|p| {
            p.with(peer::RTT, Span::millis(rtt)).with(peer::IDLE, Span::secs(idle));
            p.with(peer::HEALTH, health as u32).with(peer::INBOUND, inbound);
            if rtt == 0 {
                p.unknown(peer::RTT);
            }
        });
    }
    for _ in 0..rng.below(4) {
        let heard = rng.below(3);
        world = world.address(|a| {
            a.with(address::HEARD, Span::mins(heard));
        });
    }
    if rng.below(2) == 0 {
        world = world.memory(&Runs(rng.below(100) as u32));
    }
    if rng.below(3) == 0 {
        world = world.late().tick(|tick| tick.since_last_s = None);
    }
    world.broadcasts(BroadcastTotals { held: 1, oldest_s: 2, in_window: 3, window_s: 4 })
}

#[test]
fn a_phase_does_the_same_through_the_table_as_without_it() {
    let phase = native::<Exported>();
    let (mut rng, mut endings) = (Rng::new(1), [0; 5]);
    for round in 0..1_000 {
        let world = random_world(&mut rng);
        let settings = format!("{{\"steps\": {}}}", rng.below(12));
        let plain = built_in::<Exported>(&world, &settings);
        assert_eq!(through_the_table(&phase, &world, &settings), plain, "round {round}, {settings}");
        let starts = ["Parts", "Transient", "Permanent", "RuleBroken", "panicked"];
        endings[starts.iter().position(|start| plain.starts_with(start)).unwrap()] += 1;
    }
    assert!(endings.iter().all(|count| *count >= 20), "all endings were met: {endings:?}");
}

#[test]
fn a_table_says_what_it_is_and_checks_settings() {
    let phase = native::<Exported>();
    assert_eq!(phase.summary(), "does everything");
    assert_eq!(phase.version(), "1.2.3");
    assert_eq!(phase.toolkit(), format!("groundskeeper-sdk {}", env!("CARGO_PKG_VERSION")));
    phase.check("{\"steps\": 1}").unwrap();
    assert_eq!(phase.check("{\"steps\": 0}").unwrap_err(), "steps = 0 is out of range: 1 to 100");
    assert!(phase.check("{\"step\": 1}").unwrap_err().starts_with("settings: unknown field `step`"));
    assert_eq!(phase.check("{\"steps\": 13}").unwrap_err(), "check panicked: thirteen");
}

#[test]
fn a_table_of_another_version_is_refused() {
    let good = abi::table::<Exported>();
    let new = |table: gk_phase| {
        // SAFETY: refused by what it says of itself, before any of its functions is called.
        unsafe { NativePhase::new(&raw const table) }.unwrap_err()
    };
    let wanted = "this host speaks 1; rebuild it with the header of this host";
    assert_eq!(new(gk_phase { abi: 2, ..good }), format!("built for ABI 2, {wanted}"));
    assert_eq!(
        new(gk_phase { size: 8, ..good }),
        format!("a table of 8 bytes is too short for ABI 1, {wanted}")
    );
    assert_eq!(new(gk_phase { run: None, ..good }), "the library's table lacks check or run");
    // SAFETY: null is allowed.
    let none = unsafe { NativePhase::new(std::ptr::null()) }.unwrap_err();
    assert_eq!(none, "the library has no table for this host");
}

/// A host of tomorrow hands over more than this header knows, one of yesterday less: only the latter is refused.
#[test]
fn a_run_that_is_too_short_is_refused_by_the_phase() {
    let table = abi::table::<Exported>();
    let size = 4u32;
    // SAFETY: the entry looks at the size first, and no further if it is too small.
    let result = unsafe { table.run.unwrap()((&raw const size).cast()) };
    assert_eq!(result, abi::FAILED_FOR_GOOD);
}

// ---- C ----

struct SlowPeers;

impl Phase for SlowPeers {
    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        for p in view.peers().over(peer::RTT, Span::millis(500)).most(peer::RTT).take(4) {
            plan.disconnect(p, "slow");
        }
        Ok(())
    }
}

fn compiled() -> NativePhase {
    library(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/slow.c"))
}

fn library(source: &Path) -> NativePhase {
    // Two tests may compile it at once.
    let thread = std::thread::current();
    let library = scratch(&format!("phase-{}.so", thread.name().unwrap_or_default()));
    cc(&["-shared", "-fPIC", "-O1"], source, &library);
    // SAFETY: it is ours, and nothing runs when it is loaded.
    let library = unsafe { libloading::Library::new(library) }.unwrap();
    let library = Box::leak(Box::new(library));
    // SAFETY: the header says so.
    let entry: extern "C" fn() -> *const gk_phase = unsafe { *library.get(abi::ENTRY).unwrap() };
    // SAFETY: the fixture keeps the header's promises.
    unsafe { NativePhase::new(entry()) }.unwrap()
}

#[test]
fn the_phase_on_the_page_about_native_phases_compiles_and_does_what_it_says() {
    let page = include_str!("../../docs/native-phases.md");
    let code =
        page.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page has it");
    let source = scratch("clogged.c");
    std::fs::write(&source, code).unwrap();
    let phase = library(&source);
    assert_eq!(phase.summary(), "ends connections that take nothing any more");
    phase.check("{}").unwrap();
    assert!(phase.check("{\"a\":1}").unwrap_err().starts_with("there are no settings"));
    let queued = [Some(1_025), Some(1_024), None, Some(9_999), Some(2_000)];
    let world = queued.into_iter().fold(world(), |world, kib| {
        world.peer(|p| {
            match kib {
                Some(kib) => p.with(peer::KIB_QUEUED, kib),
                None => p.unknown(peer::KIB_QUEUED),
            };
        })
    });
    let mut plan = plan_of(&world);
    let view: Arc<dyn Frozen> = Arc::new(world);
    phase.run("{}", &Tick::default(), &view, &mut plan).unwrap().unwrap();
    let asks: Vec<_> = plan.asks().iter().map(ToString::to_string).collect();
    assert_eq!(
        asks,
        ["disconnect 0: more than 1 MiB waits to be sent", "disconnect 3: more than 1 MiB waits to be sent"]
    );
}

#[test]
fn a_phase_in_c_asks_for_what_one_in_rust_does() {
    let phase = compiled();
    assert_eq!((phase.summary(), phase.version()), ("drops slow peers, in C", "1.0.0"));
    let mut rng = Rng::new(2);
    for round in 0..1_000 {
        let world = random_world(&mut rng);
        let rust: Parts = world.plan(&SlowPeers).unwrap();
        assert_eq!(through_the_table(&phase, &world, "{}"), format!("{rust:#?}"), "round {round}");
    }
}

#[test]
fn what_a_phase_in_c_does_wrong_is_named() {
    let phase = compiled();
    phase.check("{}").unwrap();
    assert_eq!(phase.check("{\"a\": 1}").unwrap_err(), "settings: there are none");
    assert_eq!(
        phase.check("{\"peek\": 1}").unwrap_err(),
        "check broke a rule: peers.totals-now: called outside of run"
    );
    let world = world().peer(|_| {});
    let view: Arc<dyn Frozen> = Arc::new(world.clone());
    for (what, expected) in [
        ("text", "disconnect.ask: text is not UTF-8"),
        ("kind", "lifecycle.run: asked for kind 99, of 12"),
        ("short", "lifecycle.run: an ask of 8 bytes is too short"),
        ("number", "cadence.again-in: -1 is not within 0 to 4294967295"),
        ("metric", "metrics.add: 0.5 is not a whole number from 0 to 4294967295"),
        ("name", "book.names: row 7 of 0; keep no row beyond its run"),
        // It went on asking and returned as if nothing had been.
        ("deaf", "disconnect.ask: text is not UTF-8"),
    ] {
        let mut plan = plan_of(&world);
        match phase.run(what, &world.now(), &view, &mut plan) {
            Err(NativeExit::Rule(broken)) => assert_eq!(broken.to_string(), expected),
            other => panic!("{what}: expected a broken rule, got {other:?}"),
        }
        assert!(plan.asks().is_empty(), "nothing is asked for after a breach");
    }
}
