//! The same phases natively, as shared libraries and as components, over the same random views: identical plans.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use groundskeeper::engine::native::Native;
use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Guest, GuestSetup, Wasm, sha256};
use groundskeeper::engine::{BuiltIn, PhaseCall, PhaseProgram, RunOutcome};
use groundskeeper::record::Fixture;
use groundskeeper_author::{toolchain, views};
use groundskeeper_guests::Everything;
use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, LAST_GOOD, Reaper, Reconnect};
use groundskeeper_sdk::column::{UNKNOWN, peer};
use groundskeeper_sdk::contract::KINDS;
use groundskeeper_sdk::host::{AnyPhase, LogLine, Parts, Saved, Table};
use groundskeeper_sdk::span::Span;
use serde_json::{Value, json};
use slow_peers::SlowPeers;

const VIEWS: u64 = 1_000;
/// The first of the seeds, one for each view.
const SEED: u64 = 20_260_101;

/// The modules that a `cargo build` of the workspace makes: file by target.
fn built(mut command: Command) -> BTreeMap<String, PathBuf> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the program is in a workspace");
    command.args(["--message-format=json-render-diagnostics"]).current_dir(root);
    let output = command.stderr(std::process::Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "{command:?}");
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let files = messages.filter_map(|message| {
        let files = message["filenames"].as_array()?.iter().filter_map(|file| file.as_str());
        let file = files
            .map(PathBuf::from)
            .find(|file| file.extension().is_some_and(|end| end == "wasm" || end == "so"))?;
        Some((message["target"]["name"].as_str()?.replace('_', "-"), file))
    });
    files.collect()
}

fn components() -> BTreeMap<String, PathBuf> {
    let toolchain = toolchain::pick(&mut |note| println!("{note}")).unwrap_or_else(|why| panic!("{why}"));
    let mut modules = toolchain.cargo("build");
    modules.args(["--profile", "guest", "--package", "groundskeeper-guests", "--examples"]);
    let mut example = toolchain.cargo("rustc");
    example.args(["--profile", "guest", "--package", "slow-peers", "--lib", "--crate-type", "cdylib"]);
    let mut all = built(modules);
    all.extend(built(example));
    all
}

fn libraries() -> BTreeMap<String, PathBuf> {
    let mut command = Command::new("cargo");
    // A target folder apart: with the feature the SDK is another one than this test's own.
    let apart = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native");
    command.args(["build", "--features", "groundskeeper-sdk/dylib", "--package", "groundskeeper-guests"]);
    command.args(["--package", "slow-peers", "--lib", "--examples", "--target-dir"]).arg(apart);
    built(command)
}

struct Ways {
    name: &'static str,
    settings: Value,
    built_in: BuiltIn,
    component: Guest,
    library: Native,
}

fn ways<P: AnyPhase + 'static>(
    name: &'static str,
    phase: P,
    settings: Value,
    wasm: &Wasm,
    components: &BTreeMap<String, PathBuf>,
    libraries: &BTreeMap<String, PathBuf>,
    scratch: &Path,
) -> Ways {
    let component = std::fs::read(&components[name]).unwrap();
    let setup = GuestSetup {
        settings: settings.to_string(),
        limits: Limits::default(),
        grants: Grants::everything(),
        instance: Instance::Fresh,
    };
    let component = Guest::new(wasm, wasm.load(&component).unwrap(), setup).unwrap();
    component.check().unwrap();
    let library = &libraries[name];
    let digest = sha256(&std::fs::read(library).unwrap()).0;
    let library = Native::load(library, digest, settings.to_string(), scratch).unwrap();
    library.check().unwrap();
    Ways { name, settings, built_in: BuiltIn::new(Arc::new(phase)), component, library }
}

fn plan(body: &dyn PhaseProgram, fixture: &Fixture) -> (Parts, Vec<LogLine>) {
    let done = body.run(&PhaseCall { tick: fixture.tick, view: fixture.view() });
    match done.ended {
        RunOutcome::Planned(parts) => (parts, done.log),
        other => panic!("{other:?}"),
    }
}

/// Adds the addresses that are never forgotten, so that the others may be.
fn add_good_addresses(view: &mut Value) {
    let book = view["book"].as_array_mut().expect("a random view has a book");
    book.extend((0..LAST_GOOD).map(|_| json!({ "heard-s": 0, "reached-s": 0 })));
}

#[test]
fn built_in_library_and_component_plan_the_same_over_a_thousand_random_views() {
    let (components, libraries) = (components(), libraries());
    let wasm = Wasm::new(None).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let slow = SlowPeers { rtt_over: Span::millis(500), settle: Span::secs(1), keep: 2, max_per_run: 4 };
    macro_rules! way {
        ($name:literal, $phase:expr) => {
            way!($name, $phase, serde_json::to_value($phase).unwrap())
        };
        ($name:literal, $phase:expr, $settings:expr) => {
            ways($name, $phase, $settings, &wasm, &components, &libraries, scratch.path())
        };
    }
    let all = [
        way!("reaper", Reaper::default()),
        way!("reconnect", Reconnect { target: 64, ..Reconnect::default() }),
        way!("broadcast-cleanup", BroadcastCleanup { forget_after: Span::secs(1) }),
        way!("exchange-cleanup", ExchangeCleanup::default()),
        way!("slow-peers", slow, json!({ "rtt_over": "500ms", "settle": "1s", "keep": 2, "max_per_run": 4 })),
        way!("everything", Everything::default()),
    ];
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut empty: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut plans, mut not_empty, mut with_memory, mut ties, mut unknown, mut thresholds) =
        (0, 0, 0, 0, 0, 0);
    for Ways { name, settings, built_in, component, library } in &all {
        let mut memory: Option<Saved> = None;
        for seed in SEED..SEED + VIEWS {
            let mut view = views::random(seed, settings);
            if *name == "exchange-cleanup" {
                add_good_addresses(&mut view);
            }
            let text = view.to_string();
            let mut fixture =
                Fixture::parse(&text, name).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
            fixture.memory = memory.clone();
            let view = fixture.view();
            let idle = view.column(Table::Peers, peer::IDLE.name()).unwrap();
            let rtt = view.column(Table::Peers, peer::RTT.name()).unwrap();
            unknown += u64::from(idle.contains(&UNKNOWN));
            thresholds += u64::from(
                rtt.contains(&499_999) || rtt.contains(&500_001) || idle.contains(&26) || idle.contains(&24),
            );
            let mut sorted = rtt.to_vec();
            sorted.sort_unstable();
            ties += u64::from(sorted.windows(2).any(|pair| pair[0] == pair[1] && pair[0] != UNKNOWN));

            let (native, log) = plan(built_in, &fixture);
            assert_eq!(
                (native.clone(), log.clone()),
                plan(library, &fixture),
                "{name} as a library, seed {seed}"
            );
            assert_eq!(
                (native.clone(), log),
                plan(component, &fixture),
                "{name} as a component, seed {seed}"
            );
            plans += 1;
            not_empty += u64::from(!native.asks.is_empty());
            *empty.entry(name).or_default() += u64::from(native.asks.is_empty());
            for ask in &native.asks {
                *kinds.entry(ask.kind()).or_default() += 1;
            }
            with_memory += u64::from(native.memory.is_some());
            memory = native.memory.or(memory);
        }
    }
    let asks: u64 = kinds.values().sum();
    println!(
        "{plans} plans three ways, {not_empty} not empty (empty: {empty:?}), {asks} asks {kinds:?}; with memory {with_memory}; views with ties \
         {ties}, unknown values {unknown}, neighbours of thresholds {thresholds}; seeds from {SEED}"
    );
    assert!(not_empty * 10 >= plans * 9, "{not_empty} of {plans} plans are not empty");
    for kind in KINDS {
        assert!(
            kinds.get(kind.name).is_some_and(|count| *count >= 10),
            "{} hardly occurs: {kinds:?}",
            kind.name
        );
    }
    assert!(with_memory >= VIEWS && ties > VIEWS && unknown > VIEWS && thresholds > VIEWS);
}
