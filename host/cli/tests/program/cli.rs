//! The built binary: exit codes, what goes where, and a real admin socket behind it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::admin::{AdminSocket, AdminState, serve_admin};
use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::data::DataFolder;
use groundskeeper::journal::{Cause, Initiator};
use groundskeeper::metrics::MetricSources;
use groundskeeper::node::{NodeLimits, NodeState};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts, Removal, Slot};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Runs the binary without any of the caller's environment, in `home`.
fn groundskeeper(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
    command.args(args).env_clear().env("HOME", home).current_dir(home).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

#[test]
fn check_accepts_the_shipped_file_and_the_defaults() {
    let home = tempfile::tempdir().unwrap();
    let shipped = config_folder().join("groundskeeper.toml");
    let shipped = shipped.to_str().unwrap();
    for args in [&["check"][..], &["check", shipped], &["check", "--config", shipped]] {
        let output = groundskeeper(home.path(), args);
        assert_eq!(code(&output), 0, "{}", err(&output));
        assert!(out(&output).contains("no problems"));
    }
}

#[test]
fn check_lists_five_mistakes_by_line_and_exits_78() {
    let home = tempfile::tempdir().unwrap();
    let file = config_folder().join("invalid/five-mistakes.toml");
    let file = file.to_str().unwrap();
    let output = groundskeeper(home.path(), &["check", file]);
    assert_eq!(code(&output), 78);
    let text = out(&output);
    assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{file}:"))).count(), 6, "{text}");
    assert!(text.contains("did you mean \"max_connections\"?") && text.ends_with("5 problems\n"));

    let output = groundskeeper(home.path(), &["check", "--json", file]);
    assert_eq!(code(&output), 78);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    let problems = answer["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 5);
    assert!(problems.iter().all(|problem| problem["line"].is_u64() && problem["message"].is_string()));
}

#[test]
fn every_invalid_file_exits_78() {
    let home = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(config_folder().join("invalid")).unwrap() {
        let path = entry.unwrap().path();
        let output = groundskeeper(home.path(), &["check", path.to_str().unwrap()]);
        assert_eq!(code(&output), 78, "{}", path.display());
    }
    assert_eq!(code(&groundskeeper(home.path(), &["check", "none.toml"])), 78);
}

#[test]
fn run_refuses_a_bad_config_and_a_bad_folder_with_their_own_codes() {
    let home = tempfile::tempdir().unwrap();
    let output = groundskeeper(home.path(), &["run", "--interval", "2h"]);
    assert_eq!(code(&output), 78);
    assert!(err(&output).contains("--interval: 2h is out of range: 100ms to 1h"), "{}", err(&output));
    assert!(!home.path().join(".local").exists(), "nothing was made");

    let data = home.path().join("data");
    let held = DataFolder::open(&data).unwrap();
    let output = groundskeeper(home.path(), &["run", "--data-dir", "data"]);
    assert_eq!(code(&output), 73);
    assert!(err(&output).contains(&format!("pid {}", std::process::id())), "{}", err(&output));
    drop(held);
}

#[test]
fn check_reads_the_drop_in_folder_too() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("phases.d");
    std::fs::create_dir(&folder).unwrap();
    let good = ready(&folder, "stats");
    let check =
        |args: &[&str]| groundskeeper(home.path(), &[&["check", "--phases", "phases.d"], args].concat());
    let output = check(&[]);
    assert_eq!(code(&output), 0, "{}", out(&output));
    let manifest = std::fs::read_to_string(&good).unwrap();
    let pinned =
        manifest.lines().find_map(|line| line.strip_prefix("sha256 = \"")).expect("it pins its module");
    let rows = format!("PHASE  KIND  SHA256        STATE\nstats  wasm  {}  loads\n", &pinned[..12]);
    assert_eq!(
        out(&output),
        format!("{rows}the built-in defaults with the phases of phases.d: no problems\n"),
        "as a node would load them"
    );
    std::fs::write(folder.join("bad.toml"), "name = \"bad\"\nkind = \"wasm\"\n[grants]\nban = true\n")
        .unwrap();
    std::fs::write(folder.join("lonely.wasm"), "").unwrap();
    let output = check(&[]);
    assert_eq!(code(&output), 78);
    let text = out(&output);
    assert!(text.contains("phases.d/bad.toml:4: grants.ban: a ban ends a connection"), "{text}");
    assert!(text.contains("write lonely.toml beside it"), "{text}");
    assert!(text.contains("\nbad     wasm  -             NOT loaded\n"), "{text}");
    assert!(text.ends_with("2 problems\n"), "{text}");
    // A module is opened, not only named.
    std::fs::write(folder.join("bad.toml"), "name = \"bad\"\nkind = \"wasm\"\n").unwrap();
    std::fs::write(folder.join("bad.wasm"), "no module").unwrap();
    let output = check(&["--json"]);
    assert_eq!(code(&output), 78);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phase = answer["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "bad").unwrap();
    assert!(phase["problem"].as_str().unwrap().contains("bad.wasm: it is"), "{phase}");
    std::fs::remove_file(good).unwrap();
    // A node goes on without them; a built-in phase's file is another matter.
    std::fs::write(folder.join("reaper.toml"), "name = \"reaper\"\nkind = \"built-in\"\nmod = 1\n").unwrap();
    let output = groundskeeper(home.path(), &["run", "--phases", "phases.d", "--ticks", "1"]);
    assert_eq!(code(&output), 78);
    assert!(
        err(&output).contains("phases.d/reaper.toml:3: mod: unknown key; did you mean \"mode\"?"),
        "{}",
        err(&output)
    );
    // Looking at a running node does not hang on what lies in its folder.
    std::fs::create_dir(home.path().join("data")).unwrap();
    std::fs::rename(&folder, home.path().join("data/phases.d")).unwrap();
    assert_eq!(code(&groundskeeper(home.path(), &["status", "--data-dir", "data"])), 69);
    std::fs::rename(home.path().join("data/phases.d"), &folder).unwrap();
    std::fs::remove_file(folder.join("reaper.toml")).unwrap();
    let output = groundskeeper(home.path(), &["check", "--phases", "nowhere"]);
    assert!(out(&output).contains("--phases: there is no folder nowhere"), "{}", out(&output));
    for file in std::fs::read_dir(config_folder().join("invalid-manifests")).unwrap() {
        std::fs::copy(file.unwrap().path(), folder.join("bad.toml")).unwrap();
        assert_eq!(code(&check(&[])), 78);
    }
}

/// The whole phase in C of the page about native phases, in a folder of its own.
fn clogged(home: &Path) -> PathBuf {
    let page = std::fs::read_to_string(config_folder().join("../docs/native-phases.md")).unwrap();
    let block = |language: &str, begins: &str| {
        let mut blocks = page.split("```").skip(1).step_by(2);
        let block = blocks.find_map(|block| block.strip_prefix(language)?.strip_prefix(begins));
        format!("{begins}{}", block.unwrap_or_else(|| panic!("{language}: {begins}")))
    };
    let folder = home.join("clogged");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("clogged.c"), block("c\n", "/* Ends")).unwrap();
    std::fs::write(folder.join("clogged.toml"), block("toml\n", "name = \"clogged\"")).unwrap();
    folder
}

#[test]
fn a_folder_of_c_is_built_as_a_library_if_it_is_written_as_one() {
    let home = tempfile::tempdir().unwrap();
    let folder = clogged(home.path());
    let build = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
        // Compilers are found by the path.
        command.args(["build", "--native", "clogged"]).current_dir(home.path()).output().unwrap()
    };
    let output = build();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let library = std::fs::read(folder.join("clogged.so")).unwrap();
    assert!(library.starts_with(b"\x7fELF"));

    std::fs::write(folder.join("clogged.c"), "#include \"phase.h\"\n").unwrap();
    let output = build();
    assert_eq!(code(&output), 1);
    let said = "no C file in clogged defines groundskeeper_phase_v1: they are written for a component";
    assert!(err(&output).contains(said), "{}", err(&output));
    std::fs::remove_file(folder.join("clogged.c")).unwrap();
    assert!(err(&build()).contains("clogged has neither a Cargo.toml nor C files"));
}

/// One of the committed components with its manifest, in `folder`.
fn ready(folder: &Path, name: &str) -> PathBuf {
    for end in ["toml", "wasm"] {
        let file = format!("{name}.{end}");
        std::fs::copy(config_folder().join("../examples/ready").join(&file), folder.join(&file)).unwrap();
    }
    folder.join(name).with_extension("toml")
}

#[test]
fn a_module_is_not_installed_with_a_manifest_of_another_kind() {
    let home = tempfile::tempdir().unwrap();
    let install = |file: &str| groundskeeper(home.path(), &["install", file, "--phases", "phases.d"]);
    let manifest = ready(home.path(), "stats");
    std::fs::write(home.path().join("stats.so"), b"\x7fELF, as far as it is looked at").unwrap();
    let output = install("stats.so");
    assert_eq!(code(&output), 1);
    let said = "stats.toml: kind = \"wasm\", and stats.so is a shared library; write kind = \"native\"";
    assert!(err(&output).contains(said), "{}", err(&output));

    let text = std::fs::read_to_string(&manifest).unwrap();
    let native = text.replace("kind = \"wasm\"", "kind = \"native\"");
    for native in [native.clone(), native.replace("stats.wasm", "stats.so")] {
        std::fs::write(&manifest, native).unwrap();
        let output = install("stats.wasm");
        assert_eq!(code(&output), 1);
        let said = "stats.toml: kind = \"native\", and stats.wasm is a component; write kind = \"wasm\"";
        assert!(err(&output).contains(said), "{}", err(&output));
    }
    assert!(!home.path().join("phases.d").exists(), "nothing was put there");
    std::fs::write(&manifest, text).unwrap();
    assert_eq!(code(&install("stats.wasm")), 0);
}

#[test]
fn a_manifest_is_checked_with_its_module_and_not_as_a_config() {
    let home = tempfile::tempdir().unwrap();
    let check = |file: &str| groundskeeper(home.path(), &["check", file]);
    let manifest = ready(home.path(), "stats");
    let output = check("stats.toml");
    assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
    assert!(
        out(&output).starts_with("stats.wasm: ") && out(&output).contains("imports   metrics      granted")
    );

    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("metrics = true", "")).unwrap();
    let output = check("stats.toml");
    assert_eq!(code(&output), 78);
    assert!(out(&output).contains("add to [grants]: metrics = true"), "{}", out(&output));

    std::fs::write(&manifest, text.replace("every_n_ticks", "every_n_tick")).unwrap();
    let output = check("stats.toml");
    assert_eq!(code(&output), 78);
    assert!(out(&output).contains("stats.toml:8: schedule.every_n_tick: unknown key"), "{}", out(&output));

    std::fs::write(&manifest, text).unwrap();
    std::fs::remove_file(home.path().join("stats.wasm")).unwrap();
    let output = check("stats.toml");
    assert_eq!(code(&output), 78);
    assert!(out(&output).contains("stats.toml is about it: cannot read stats.wasm"), "{}", out(&output));

    std::fs::write(home.path().join("reaper.toml"), "name = \"reaper\"\nkind = \"built-in\"\n").unwrap();
    assert_eq!(out(&check("reaper.toml")), "reaper.toml: no problems\n");
    std::fs::write(home.path().join("node.toml"), "").unwrap();
    let output = groundskeeper(home.path(), &["check", "node.toml", "--config", "node.toml"]);
    assert_eq!(code(&output), 2);
}

#[test]
fn a_native_phase_is_looked_at_and_tried_where_a_config_trusts_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = clogged(home.path());
    let mut build = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
    assert!(
        build.args(["build", "--native", "clogged"]).current_dir(home.path()).status().unwrap().success()
    );
    std::fs::write(home.path().join("node.toml"), "[guests]\nallow_native = true\n").unwrap();
    let view = "{ \"peers\": [{ \"kib-queued\": 2000 }, { \"kib-queued\": 1 }] }";
    std::fs::write(home.path().join("view.json"), view).unwrap();
    let trusted = ["--config", "node.toml"];
    for file in ["clogged/clogged.so", "clogged/clogged.toml"] {
        let check = ["check", file];
        let output = groundskeeper(home.path(), &check);
        assert_eq!(code(&output), 78);
        assert!(out(&output).contains("set guests.allow_native = true in a config"), "{}", out(&output));
        let output = groundskeeper(home.path(), &[&check[..], &trusted].concat());
        assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
        assert!(
            out(&output).starts_with("clogged/clogged.toml: ends connections that take nothing any more\n")
        );

        let dry = ["try", file, "--view", "view.json"];
        let output = groundskeeper(home.path(), &dry);
        assert_eq!(code(&output), 1);
        assert!(err(&output).contains("set guests.allow_native = true in a config"), "{}", err(&output));
        let output = groundskeeper(home.path(), &[&dry[..], &trusted].concat());
        assert!(out(&output).contains("disconnect 0: more than 1 MiB waits"), "{}", err(&output));
    }
    let manifest = folder.join("clogged.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("native", "wasm")).unwrap();
    let output = groundskeeper(home.path(), &["check", "clogged/clogged.so"]);
    assert!(
        out(&output).contains("kind = \"wasm\", and clogged/clogged.so is a shared library"),
        "{}",
        out(&output)
    );
    std::fs::remove_file(manifest).unwrap();
    let output = groundskeeper(home.path(), &["check", "clogged/clogged.so"]);
    assert!(out(&output).contains("write clogged.toml with kind = \"native\""), "{}", out(&output));
}

#[test]
fn usage_errors_exit_2_and_help_tells_the_codes() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["run", "--ticks", "0"][..], &["run", "--interval", "fast"], &["fly"], &[]] {
        assert_eq!(code(&groundskeeper(home.path(), args)), 2, "{args:?}");
    }
    let help = out(&groundskeeper(home.path(), &["--help"]));
    for word in
        ["0", "1", "2", "69", "73", "77", "78", "run", "check", "status", "peers", "phases", "explain"]
    {
        assert!(help.contains(word), "{word}");
    }
    assert!(!help.contains("schema"));
    let schema: serde_json::Value =
        serde_json::from_slice(&groundskeeper(home.path(), &["schema"]).stdout).unwrap();
    assert_eq!(schema["title"], "groundskeeper.toml");
    let schema: serde_json::Value =
        serde_json::from_slice(&groundskeeper(home.path(), &["schema", "--manifest"]).stdout).unwrap();
    assert_eq!(schema["title"], "Manifest of a Groundskeeper phase");
}

#[test]
fn without_a_node_the_socket_and_the_way_out_are_named() {
    let home = tempfile::tempdir().unwrap();
    let default = home.path().join(".local/state/groundskeeper/admin.sock");
    for args in [&["status"][..], &["peers"], &["phases"], &["explain", "abcd"], &["status", "--json"]] {
        let output = groundskeeper(home.path(), args);
        assert_eq!(code(&output), 69, "{args:?}");
        let text = err(&output);
        assert!(text.contains(default.to_str().unwrap()) && text.contains("groundskeeper run"), "{text}");
        assert!(output.stdout.is_empty());
    }
    let output = groundskeeper(home.path(), &["healthcheck"]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("no node answers"));
    let output = groundskeeper(home.path(), &["status", "--data-dir", "elsewhere"]);
    assert!(err(&output).contains("elsewhere/admin.sock"));
}

struct FakeLink;

impl Link for FakeLink {
    fn ping(&self) {}

    fn close(&self, _: &Goodbye) {}

    fn agent(&self) -> &'static str {
        "fake/1\u{1b}[2J"
    }
}

/// A node made by hand, served from this process: one peer is there, one has left.
struct Node {
    home: TempDir,
    _slot: Slot,
    _runtime: Runtime,
}

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn node() -> Node {
    let home = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = SystemClock::new();
    let state = NodeState::new(id(1), NodeLimits::for_connections(8), Arc::clone(&clock), None);
    let attach = |n, address: &str| {
        let facts =
            PeerFacts { id: id(n), address: address.parse().unwrap(), direction: Direction::Outbound };
        state.pool.attach(facts, Arc::new(FakeLink)).unwrap()
    };
    let slot = attach(2, "192.0.2.2:7420");
    attach(3, "192.0.2.3:7420").retire(Removal::new(Initiator::Remote, Cause::RemoteGoodbye, "upgrading"));
    let state = AdminState {
        sources: MetricSources {
            traffic: None,
            state,
            phases: Arc::default(),
            pulse: Arc::default(),
            thresholds: Arc::new(parking_lot::Mutex::new(groundskeeper::cycle::Thresholds {
                healthy_above: 30,
                least: 5,
                most: 64,
                stale_after: Duration::from_secs(90),
            })),
            started: clock.mono(),
            reload: None,
            refusals: None,
            disk: Default::default(),
        },
        metrics: Arc::default(),
        network: "test".into(),
        local_addrs: Vec::new(),
        ticker: None,
        reconfigure: None,
        past: Arc::default(),
    };
    let runtime = Runtime::new().unwrap();
    let socket = {
        let _inside = runtime.enter();
        AdminSocket::bind(&home.path().join("admin.sock")).unwrap()
    };
    runtime.spawn(serve_admin(socket, Arc::new(state), std::future::pending()));
    Node { home, _slot: slot, _runtime: runtime }
}

#[test]
fn a_running_node_is_shown_as_text_and_as_json() {
    let node = node();
    let ask = |args: &[&str]| {
        let output = groundskeeper(node.home.path(), &[args, &["--data-dir", "."]].concat());
        assert_eq!(code(&output), 0, "{args:?}: {}", err(&output));
        out(&output)
    };
    let status = ask(&["status"]);
    assert!(status.contains(&id(1).to_string()) && status.contains("1 of at most 8"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&ask(&["status", "--json"])).unwrap();
    assert_eq!((&json["node"], &json["pool"]["total"]), (&id(1).to_string().into(), &1.into()));

    let peers = ask(&["peers"]);
    assert!(
        peers.contains(&id(2).short()) && peers.contains("192.0.2.2:7420") && peers.ends_with("1 peer\n")
    );
    assert!(peers.contains("fake/1\\u{1b}[2J"), "what a peer says does not reach the terminal raw");
    assert!(ask(&["phases"]).contains("PHASE"));

    let explained = ask(&["explain", "192.0.2.3:7420"]);
    assert!(explained.contains("not connected") && explained.contains("cause remote-goodbye"), "{explained}");
    let explained = ask(&["explain", &id(3).to_string()[..8], "--json"]);
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["records"][1]["reason"], "upgrading");
}

#[test]
fn what_cannot_be_resumed_exits_1_and_says_why() {
    let node = node();
    let output = groundskeeper(node.home.path(), &["resume", "slow-peers", "--data-dir", "."]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("this node has no ticker"), "{}", err(&output));
}

#[test]
fn nobody_to_explain_exits_1() {
    let node = node();
    let output = groundskeeper(node.home.path(), &["explain", "192.0.2.77", "--socket", "admin.sock"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("nothing is known about"));
}

#[test]
fn healthcheck_tells_alive_from_ready_and_finds_the_node_by_its_config() {
    let node = node();
    std::fs::write(node.home.path().join("node.toml"), "[node]\ndata_dir = \".\"\n").unwrap();
    // The hand-made ticker has an interval of zero and never ticks: it is as dead as can be.
    let output = groundskeeper(node.home.path(), &["healthcheck", "--config", "node.toml"]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("no tick has ended"), "{}", err(&output));
    let output =
        groundskeeper(node.home.path(), &["healthcheck", "--ready", "--json", "--config", "node.toml"]);
    assert_eq!(code(&output), 1);
    let health: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(health["why"].as_array().unwrap().iter().any(|why| why == "the first tick has not ended"));
}
