//! The way of somebody who has never seen this: a new phase, built, tested, installed, and running in a node. Real
//! processes, and the seconds of each step.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use groundskeeper::admin::Client;
use groundskeeper::admin::answers::ReloadHold;
use groundskeeper::data::DataFolder;
use groundskeeper_author::c_compiler;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

struct Newcomer<'a> {
    folder: &'a Path,
    seconds: Vec<(&'static str, f64)>,
}

impl Newcomer<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
        // Of its own, so that what earlier tests built does not shorten the way.
        command.env("CARGO_TARGET_DIR", self.folder.join("target")).args(words);
        command
    }

    fn step(&mut self, name: &'static str, within: &Path, words: &[&str]) -> Output {
        let begun = Instant::now();
        let output = self.command(words).current_dir(within).output().expect("the binary runs");
        self.seconds.push((name, begun.elapsed().as_secs_f64()));
        assert!(
            output.status.success(),
            "{words:?}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

/// A child that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_new_phase_is_built_tested_installed_and_listed_with_its_cost() {
    let scratch = tempfile::tempdir().unwrap();
    let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");
    let mut newcomer = Newcomer { folder: scratch.path(), seconds: Vec::new() };
    newcomer.step("new", scratch.path(), &["new", "calm", "--sdk", sdk]);
    let phase = scratch.path().join("calm");
    newcomer.step("build", &phase, &["build"]);
    let tested = newcomer.step("test", &phase, &["test"]);
    let tested = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(tested.contains("natively and as a component, identical plans"), "{tested}");
    let tried = newcomer.step("try", &phase, &["try", "calm.wasm", "--view", "views/busy.json", "--json"]);
    let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!(tried[0]["asks"], serde_json::json!(["disconnect 1: slow, and leaves pings unanswered"]));
    newcomer.step("check", &phase, &["check", "calm.wasm"]);
    let data = scratch.path().join("data");
    let data_dir = data.to_str().unwrap();
    newcomer.step("install", &phase, &["install", "calm.wasm", "--data-dir", data_dir]);

    let begun = Instant::now();
    let run = ["run", "--local-peers", "2", "--interval", "200ms", "--data-dir", data_dir];
    let mut node = newcomer.command(&run);
    let node = Ended(node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // Bounded, and over as soon as the phase has run.
    let listed = loop {
        let phases = newcomer.command(&["phases", "--data-dir", data_dir, "--json"]).output().unwrap();
        let phases: Value = serde_json::from_slice(&phases.stdout).unwrap_or_default();
        let listed =
            phases["phases"].as_array().into_iter().flatten().find(|phase| phase["name"] == "calm").cloned();
        if let Some(listed) = listed.filter(|listed| listed["runs"].as_u64() > Some(0)) {
            break listed;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "the phase has not run: {phases}");
        std::thread::sleep(Duration::from_millis(50));
    };
    newcomer.seconds.push(("run until it ran", begun.elapsed().as_secs_f64()));
    drop(node);
    assert_eq!(listed["kind"], "wasm", "{listed}");
    let state = listed["state"].as_str();
    assert!(matches!(state, Some("probation" | "active")), "it runs: {listed}");
    assert!(listed["last_fuel"].as_u64() > Some(0), "{listed}");
    for (step, seconds) in &newcomer.seconds {
        println!("{step:>18} {seconds:6.1} s");
    }
}

impl Newcomer<'_> {
    /// What a node tells of the phase `name`, once `enough` of it is told.
    fn listed(&self, data_dir: &str, name: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let told = self.command(&["phases", "--data-dir", data_dir, "--json"]).output().unwrap();
            let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
            let phase = told["phases"].as_array().into_iter().flatten().find(|phase| phase["name"] == name);
            if let Some(phase) = phase.filter(|phase| enough(phase)) {
                return phase.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{name}: {told}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_source_that_is_saved_runs_in_the_node_and_one_that_does_not_build_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");
    let mut newcomer = Newcomer { folder: scratch.path(), seconds: Vec::new() };
    newcomer.step("new", scratch.path(), &["new", "calm", "--sdk", sdk]);
    let (phase, data) = (scratch.path().join("calm"), scratch.path().join("data"));
    let data_dir = data.to_str().unwrap();
    let dev = ["dev", "calm", "--json", "--data-dir", data_dir];
    let once = |newcomer: &Newcomer<'_>| {
        let mut command = newcomer.command(&[&dev[..], &["--once"]].concat());
        let output = command.current_dir(scratch.path()).output().expect("the binary runs");
        let told = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), told, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let alone = once(&newcomer);
    assert_eq!(alone.0, Some(69), "built and tried, and no node answers: {alone:?}");
    assert_eq!(alone.1["tries"][0]["run"]["asks"].as_array().map(Vec::len), Some(1), "{alone:?}");
    assert!(alone.1["installed"].is_null() && !data.exists(), "{alone:?}");

    let mut node = newcomer.command(&["run", "--interval", "200ms", "--data-dir", data_dir]);
    let _node = Ended(node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    newcomer.listed(data_dir, "reaper", |_| true);
    let first = once(&newcomer);
    assert_eq!(first.0, Some(0), "{first:?}");
    assert_eq!(first.1["reload"]["events"][0]["change"], "applied", "{first:?}");
    let ran = newcomer.listed(data_dir, "calm", |phase| phase["runs"].as_u64() > Some(0));

    let source = phase.join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("take(4)", "take(4) oops")).unwrap();
    let mut child = newcomer.command(&dev);
    child.current_dir(scratch.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut following = Ended(child.spawn().unwrap());
    let mut lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let broken = next();
    assert!(broken["failed"].as_str().is_some_and(|why| why.contains("the build failed")), "{broken}");
    let still = newcomer.listed(data_dir, "calm", |_| true);
    assert_eq!((&still["digest"], &still["candidate"]), (&ran["digest"], &Value::Null), "{still}");
    std::fs::write(&source, text.replace("take(4)", "take(3)")).unwrap();
    let mended = next();
    assert!(mended["failed"].is_null(), "{mended}");
    assert_eq!(mended["reload"]["events"][0]["change"], "applied", "{mended}");
    let now = newcomer.listed(data_dir, "calm", |phase| phase["digest"] != ran["digest"]);

    kill_process(Pid::from_child(&following.0), Signal::INT).unwrap();
    assert_eq!(following.0.wait().unwrap().code(), Some(0));
    // The node looks by itself again, also if whoever held it was killed.
    let client = Client::new(&DataFolder::admin_socket(&data));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let held: ReloadHold = runtime.block_on(client.post("/reload/hold?for=1")).unwrap();
    assert_eq!(held.folder, data.join("phases.d"));
    let manifest = data.join("phases.d/calm.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text + "# by hand\n").unwrap();
    newcomer.listed(data_dir, "calm", |phase| phase["digest"] != now["digest"]);
}

#[test]
fn a_new_phase_in_c_has_its_own_name_and_asks_at_its_first_try() {
    if let Err(why) = c_compiler() {
        println!("NOT tested: {why}");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut newcomer = Newcomer { folder: scratch.path(), seconds: Vec::new() };
    let made = newcomer.step("new", scratch.path(), &["new", "calm-c", "--lang", "c"]);
    let made = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(!made.contains("test,") && made.contains("calm-c: a phase in C, a manifest"), "{made}");
    let phase = scratch.path().join("calm-c");
    newcomer.step("build", &phase, &["build"]);
    let tried = newcomer.step("try", &phase, &["try", "calm-c.wasm", "--view", "views/busy.json", "--json"]);
    let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!(tried[0]["asks"], serde_json::json!(["disconnect 1: round trip 900 ms (limit 500ms)"]));
    let checked = newcomer.step("check", &phase, &["check", "calm-c.wasm"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("calm-c.toml") && checked.contains("no problems"), "{checked}");

    let test = |newcomer: &mut Newcomer<'_>| {
        let output = newcomer.step("test", &phase, &["test"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tested = test(&mut newcomer);
    assert!(tested.contains("twice as a component, with no native side, identical plans"), "{tested}");
    assert!(!tested.contains("WARNING"), "{tested}");
    let random: u64 =
        tested.lines().find_map(|line| line.trim().split_once(" with asks")?.0.parse().ok()).unwrap();
    assert!(random > 100, "views are made around rtt_over_ms too: {tested}");

    let manifest = phase.join("calm-c.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("keep = 2", "keep = 1000000")).unwrap();
    let tested = test(&mut newcomer);
    assert!(tested.contains("WARNING: 0 asks: nothing was compared"), "{tested}");
}
