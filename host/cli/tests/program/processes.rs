//! Real processes of the built binary on loopback: killed, stopped, restarted. Order and tick numbers come from the
//! journal of the node that is watched; how long things took is printed and not judged.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use groundskeeper::data::DataFolder;
use groundskeeper::journal::{ActionKind, Cause, Initiator, Outcome, Record};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod hanging;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node in a process of its own. Killed when dropped.
pub(super) struct Proc {
    pub(super) child: Child,
    pub(super) folder: PathBuf,
    /// JSON lines of its beats.
    beats: Receiver<Value>,
}

/// How a node is to be started.
pub(super) struct Setup<'a> {
    pub(super) folder: &'a Path,
    pub(super) interval: &'a str,
    pub(super) listen: SocketAddr,
    pub(super) bootstrap: Vec<SocketAddr>,
    /// Further bootstrap nodes, by name.
    pub(super) names: Vec<String>,
    /// A command that runs its arguments, in the same process.
    pub(super) wrapper: Vec<OsString>,
    /// Further TOML.
    pub(super) extra: &'a str,
    /// Variables of its environment.
    pub(super) env: Vec<(&'static str, PathBuf)>,
    /// Soft and hard limit of open files.
    pub(super) files: Option<(u32, u32)>,
}

/// A node that accepts and answers but dials nobody.
pub(super) const PASSIVE: &str = "[phases.reconnect]\nenabled = false\n";

pub(super) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("a constant address")
}

/// A port that nobody listens on now. Another process may take it before we do; then the test fails loudly.
pub(super) fn free_port() -> SocketAddr {
    TcpListener::bind(loopback()).and_then(|listener| listener.local_addr()).expect("a loopback port")
}

impl<'a> Setup<'a> {
    pub(super) fn new(folder: &'a Path, interval: &'a str) -> Self {
        Self {
            folder,
            interval,
            listen: loopback(),
            bootstrap: Vec::new(),
            names: Vec::new(),
            wrapper: Vec::new(),
            extra: "",
            env: Vec::new(),
            files: None,
        }
    }

    /// A node that can be asked.
    pub(super) fn start(&self) -> Proc {
        let proc = self.spawn();
        proc.until("its admin socket answers", || proc.ask(&["status"]).is_some());
        proc
    }

    /// A node that starts.
    fn spawn(&self) -> Proc {
        std::fs::create_dir_all(self.folder).expect("our folder");
        let config = self.folder.join("config.toml");
        let addresses = self.bootstrap.iter().map(ToString::to_string);
        let bootstrap: Vec<String> =
            addresses.chain(self.names.iter().cloned()).map(|at| format!("{at:?}")).collect();
        let text = format!(
            "[node]\ninterval = {:?}\n[net]\nlisten = [{:?}]\nallow_private = true\nbootstrap = [{}]\n{}",
            self.interval,
            self.listen.to_string(),
            bootstrap.join(", "),
            self.extra
        );
        std::fs::write(&config, text).expect("our folder");
        let data = self.folder.join("data");
        let log = std::fs::File::create(self.folder.join("log")).expect("our folder");
        let mut child = self
            .program()
            .args(["--json", "run", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(&data)
            .envs(self.env.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (send, beats) = channel();
        std::thread::spawn(move || {
            let parsed = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            // Ends with the process, or when the test is done with it.
            parsed.take_while(|line: &Value| send.send(line.clone()).is_ok()).for_each(drop);
        });
        Proc { child, folder: self.folder.to_owned(), beats }
    }

    fn program(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_groundskeeper");
        if let [first, others @ ..] = &self.wrapper[..] {
            let mut command = Command::new(first);
            command.args(others).arg(binary);
            return command;
        }
        let Some((soft, hard)) = self.files else { return Command::new(binary) };
        let mut command = Command::new("sh");
        let limited = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
        command.args(["-c", &limited, "sh", binary]);
        command
    }
}

impl Proc {
    /// What the command line prints of this node as JSON, None while nobody answers.
    pub(super) fn ask(&self, verb: &[&str]) -> Option<Value> {
        let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
            .arg("--json")
            .args(verb)
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .output()
            .expect("the binary starts");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    pub(super) fn status(&self) -> Value {
        self.ask(&["status"]).expect("the node answers")
    }

    pub(super) fn connected(&self) -> u64 {
        self.status()["pool"]["total"].as_u64().expect("a number")
    }

    pub(super) fn tick(&self) -> u64 {
        self.status()["tick"].as_u64().expect("a number")
    }

    pub(super) fn id(&self) -> String {
        self.status()["node"].as_str().expect("a peer id").to_owned()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.status()["listening"][0].as_str().expect("an address").parse().expect("an address")
    }

    /// Everything this node's journal knows of a peer.
    pub(super) fn explain(&self, peer: &str) -> Vec<Record> {
        let Some(answer) = self.ask(&["explain", peer]) else { return Vec::new() };
        serde_json::from_value(answer["records"].clone()).expect("records")
    }

    pub(super) fn disconnect_of(&self, peer: &str) -> Option<Record> {
        self.explain(peer).into_iter().find(|record| record.cause.is_some())
    }

    /// Looks again whenever something may have changed, until `done` or the end of all patience.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited in vain until {what}; its log:\n{}", log());
            // A beat is news; without one, looking costs a process, so not too often.
            match self.beats.recv_timeout(Duration::from_millis(100)) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the node ended before {what}; its log:\n{}", log())
                }
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process id")
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child");
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("data/admin.sock")
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(super) fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// Every connection that ended has its record.
    fn assert_all_explained(&self) {
        let status = self.status();
        assert_eq!(status["pool"]["removals"], status["journal"]["disconnects"], "{status}");
    }

    /// SIGTERM, and the exit code.
    pub(super) fn stop(mut self) -> Option<i32> {
        self.assert_all_explained();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < deadline, "the node did not end on SIGTERM");
            _ = self.beats.recv_timeout(Duration::from_millis(50));
        }
        self.child.wait().expect("our own child").code()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // Gone already in most tests.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_killed_peer_is_explained_as_remote_closed_before_the_next_tick() {
    let root = folder();
    let peer = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("peer"), "30s") }.start();
    let watched =
        Setup { bootstrap: vec![peer.address()], ..Setup::new(&root.path().join("watched"), "30s") }.start();
    watched.until("it is connected", || watched.connected() == 1);
    let (id, tick) = (peer.id(), watched.tick());
    let killed = Instant::now();
    peer.kill();
    watched.until("the peer's end is explained", || watched.disconnect_of(&id).is_some());
    println!("explained {:?} after the kill", killed.elapsed());
    let record = watched.disconnect_of(&id).expect("just seen");
    assert_eq!(
        (record.cause, record.by, u64::from(record.tick)),
        (Some(Cause::RemoteClosed), Initiator::Remote, tick)
    );
    assert_eq!(watched.stop(), Some(0));
}

#[test]
fn a_stopped_peer_whose_sockets_stay_open_is_pinged_then_reaped() {
    let root = folder();
    let peer = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("peer"), "1s") }.start();
    let quick = "[phases.reaper.settings]\nping_after = \"1s\"\nstale_after = \"4s\"\n";
    let watched = Setup {
        bootstrap: vec![peer.address()],
        extra: quick,
        ..Setup::new(&root.path().join("watched"), "1s")
    }
    .start();
    watched.until("it is connected", || watched.connected() == 1);
    let id = peer.id();
    peer.signal(Signal::STOP);
    let stopped = Instant::now();
    watched.until("the silent peer is gone", || watched.disconnect_of(&id).is_some());
    println!("reaped {:?} after the stop", stopped.elapsed());
    let record = watched.disconnect_of(&id).expect("just seen");
    assert_eq!(record.cause, Some(Cause::Phase));
    assert!(matches!(&record.by, Initiator::Phase { name, .. } if &**name == "reaper"), "{record:?}");
    assert!(record.reason.contains("silent"), "{}", record.reason);
    let idle = record.inputs.iter().find(|(name, _)| name == "idle-s").expect("what it rested on").1;
    assert!(idle >= 4, "{:?}", record.inputs);
    let lost = record.inputs.iter().find(|(name, _)| name == "pings-lost").expect("what it rested on").1;
    assert!(lost >= 1, "it was pinged first: {:?}", record.inputs);
    watched.assert_all_explained();
    peer.signal(Signal::CONT);
}

#[test]
fn after_a_loss_down_to_four_the_next_tick_dials_again() {
    let root = folder();
    let peers: Vec<Proc> = (0..8)
        .map(|n| {
            Setup { extra: PASSIVE, ..Setup::new(&root.path().join(format!("peer-{n}")), "30s") }.start()
        })
        .collect();
    let addresses: Vec<SocketAddr> = peers.iter().map(Proc::address).collect();
    let six = "[phases.reconnect.settings]\ntarget = 6\n";
    let watched =
        Setup { bootstrap: addresses.clone(), extra: six, ..Setup::new(&root.path().join("watched"), "2s") }
            .start();
    watched.until("it has six of the eight", || watched.connected() == 6);
    let connected: Vec<String> = watched.ask(&["peers"]).expect("it answers")["peers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|peer| peer["id"].as_str().expect("a peer id").to_owned())
        .collect();
    let (lost, kept): (Vec<Proc>, Vec<Proc>) =
        peers.into_iter().partition(|peer| connected[..2].contains(&peer.id()));
    assert_eq!(lost.len(), 2);
    let ids: Vec<String> = lost.iter().map(Proc::id).collect();
    lost.into_iter().for_each(Proc::kill);
    watched.until("both are explained", || ids.iter().all(|id| watched.disconnect_of(id).is_some()));
    let last_loss = ids.iter().filter_map(|id| watched.disconnect_of(id)).map(|record| record.tick).max();
    watched.until("it has six again", || watched.connected() == 6);
    // Which of the known addresses are dialled is a matter of chance, and the dead may be among them; when is not.
    let dialled_again = addresses
        .iter()
        .flat_map(|address| watched.explain(&address.to_string()))
        .filter(|record| record.what == ActionKind::Dial && record.outcome == Outcome::Started)
        .map(|record| record.tick)
        .filter(|tick| Some(*tick) > last_loss)
        .min();
    assert_eq!(dialled_again, last_loss.map(|tick| tick + 1));
    watched.assert_all_explained();
    drop(kept);
}

#[test]
fn a_node_that_lost_everybody_finds_newcomers_between_two_ticks() {
    let root = folder();
    let later = free_port();
    let first = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("first"), "30s") }.start();
    let watched = Setup {
        bootstrap: vec![first.address(), later],
        // The port of the one who comes later refuses at first; a demonstration does not wait an hour for it.
        extra: "[book]\nbackoff_most = \"5s\"\n",
        ..Setup::new(&root.path().join("watched"), "60s")
    }
    .start();
    watched.until("it is connected", || watched.connected() == 1);
    let tick = watched.tick();
    first.kill();
    watched.until("it is alone", || watched.connected() == 0);
    let second =
        Setup { listen: later, extra: PASSIVE, ..Setup::new(&root.path().join("second"), "30s") }.start();
    let there = Instant::now();
    watched.until("it has found the newcomer", || watched.connected() == 1);
    println!("found {:?} after the newcomer answered its own status", there.elapsed());
    assert_eq!(watched.tick(), tick, "urgent beats do not move the tick");
    let records = watched.explain(&second.id());
    let connect = records.iter().find(|record| record.what == ActionKind::Connect).expect("a connection");
    assert_eq!(u64::from(connect.tick), tick);
    assert!(connect.beat > 0, "{connect:?}");
    watched.assert_all_explained();
}

#[test]
fn a_restarted_node_comes_back_by_its_address_book() {
    let root = folder();
    let peer = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("peer"), "30s") }.start();
    let home = root.path().join("watched");
    let watched = Setup { bootstrap: vec![peer.address()], ..Setup::new(&home, "1s") }.start();
    watched.until("it is connected", || watched.connected() == 1);
    let id = watched.id();
    assert_eq!(watched.stop(), Some(0));
    let goodbye = peer.disconnect_of(&id);
    let back = Setup::new(&home, "1s").start();
    back.until("it is connected again", || back.connected() == 1);
    assert_eq!(back.id(), id);
    let goodbye = goodbye.or_else(|| peer.disconnect_of(&id)).expect("the peer was told");
    assert_eq!(goodbye.cause, Some(Cause::RemoteGoodbye), "{goodbye:?}");
    // Killed without warning it comes back too: the book is written at the tick after it changes.
    let reached = back.tick() + 1;
    back.until("a tick has ended since", || back.tick() > reached);
    back.kill();
    let again = Setup::new(&home, "1s").start();
    again.until("it is connected a third time", || again.connected() == 1);
}

#[test]
fn a_killed_node_has_missed_only_what_it_misses_itself() {
    let root = folder();
    let home = root.path().join("watched");
    let watched = Setup::new(&home, "300ms").start();
    watched.until("some ticks have ended", || watched.tick() >= 12);
    watched.kill();
    let again = Setup::new(&home, "300ms").start();
    again.until("it has ticked", || again.tick() >= 1);
    let status = again.status();
    let missed = |phase: &Value| phase["missed"].as_u64().expect("a count");
    let most = status["phases"].as_array().expect("phases").iter().map(missed).max();
    assert!(most <= status["tick"].as_u64(), "{status}");
}

#[test]
fn a_peer_that_is_restarted_at_once_replaces_its_ghost() {
    let root = folder();
    let watched = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("watched"), "30s") }.start();
    let home = root.path().join("peer");
    let ghost = Setup { bootstrap: vec![watched.address()], ..Setup::new(&home, "30s") }.start();
    watched.until("it is connected", || watched.connected() == 1);
    let id = ghost.id();
    // Stopped, not killed: its sockets stay open and its lock stays held, so the new one runs on a copy of the folder.
    ghost.signal(Signal::STOP);
    let copy = root.path().join("copy");
    std::fs::create_dir_all(copy.join("data")).expect("our folder");
    for entry in std::fs::read_dir(home.join("data")).expect("its folder") {
        let from = entry.expect("its folder").path();
        if from.is_file() && !from.ends_with("lock") {
            std::fs::copy(&from, copy.join("data").join(from.file_name().expect("a file"))).expect("a copy");
        }
    }
    let back = Setup { bootstrap: vec![watched.address()], ..Setup::new(&copy, "30s") }.start();
    assert_eq!(back.id(), id);
    watched.until("the ghost is replaced", || watched.disconnect_of(&id).is_some());
    let record = watched.disconnect_of(&id).expect("just seen");
    assert_eq!((record.cause, record.by), (Some(Cause::Replaced), Initiator::Host));
    assert_eq!(watched.connected(), 1);
    watched.assert_all_explained();
    ghost.signal(Signal::CONT);
}

#[test]
fn a_second_sigterm_ends_the_node_at_once() {
    let root = folder();
    let peer = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("peer"), "30s") }.start();
    // A stopped peer never closes its side, so a goodbye to it takes a second: time for the second signal. A machine
    // that is busy may miss that second, hence a few attempts.
    let ended_at_once = (0..5).any(|attempt| {
        let home = root.path().join(format!("node-{attempt}"));
        let mut node = Setup { bootstrap: vec![peer.address()], ..Setup::new(&home, "30s") }.start();
        node.until("it is connected", || node.connected() == 1);
        let log =
            |words: &str| std::fs::read_to_string(home.join("log")).is_ok_and(|log| log.contains(words));
        peer.signal(Signal::STOP);
        node.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while !log("shutting down") && Instant::now() < deadline {
            _ = node.beats.recv_timeout(Duration::from_millis(20));
        }
        // Two at once are one, so again and again.
        let code = loop {
            node.signal(Signal::TERM);
            _ = node.beats.recv_timeout(Duration::from_millis(100));
            if let Some(status) = node.child.try_wait().expect("our own child") {
                break status.code();
            }
        };
        peer.signal(Signal::CONT);
        code == Some(1) && log("a second time")
    });
    assert!(ended_at_once);
}

#[test]
fn the_command_line_finds_explains_and_checks_a_running_node() {
    let root = folder();
    let home = root.path().join("node");
    let node =
        Setup { extra: "[telemetry]\nlisten = \"127.0.0.1:0\"\n", ..Setup::new(&home, "200ms") }.start();
    node.until("a tick has ended", || node.tick() > 1);
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
            .args(args)
            .arg("--data-dir")
            .arg(home.join("data"))
            .output()
            .expect("the binary starts");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (code, status) = run(&["status"]);
    assert_eq!(code, Some(0));
    assert!(status.contains(&node.id()), "{status}");
    let (code, phases) = run(&["phases"]);
    assert_eq!(code, Some(0));
    for name in groundskeeper::node::BUILTINS {
        assert!(phases.contains(name), "{phases}");
    }
    assert_eq!(run(&["peers"]).0, Some(0));
    assert_eq!(run(&["healthcheck"]).0, Some(0));
    assert_eq!(run(&["explain", "nobody-of-that-name"]).0, Some(1));
    assert_eq!(node.stop(), Some(0));
    assert_eq!(run(&["status"]).0, Some(69));
    assert_eq!(run(&["healthcheck"]).0, Some(1));
}

#[test]
fn the_readme_command_connects_to_at_least_five_peers_and_ends_with_zero() {
    let root = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["run", "--local-peers", "8", "--interval", "1s", "--ticks", "8", "--data-dir"])
        .arg(root.path())
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("tick 1:") && text.contains("tick 8:"), "{text}");
    let connected = |line: &str| line.split(": ").nth(1)?.split(' ').next()?.parse::<u32>().ok();
    let most = text.lines().filter(|line| line.starts_with("tick ")).filter_map(connected).max();
    assert!(most >= Some(5), "{text}");
}

#[test]
fn a_local_peer_that_cannot_start_leaves_no_trace_of_a_start_of_the_node() {
    let root = folder();
    let peer = DataFolder::local_peer(root.path(), 2);
    std::fs::create_dir_all(&peer).unwrap();
    std::fs::write(peer.join("node.key"), "no key").unwrap();
    std::fs::set_permissions(peer.join("node.key"), Permissions::from_mode(0o600)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["run", "--local-peers", "2", "--ticks", "1", "--data-dir"])
        .arg(root.path())
        .output()
        .expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{told}");
    assert!(told.contains("node.key"), "{told}");
    assert!(!root.path().join("node.key").exists(), "the node itself was never started");
}

#[test]
fn a_hangup_while_a_node_starts_is_a_reload_and_not_its_end() {
    let root = folder();
    let dropped = root.path().join("data/phases.d");
    std::fs::create_dir_all(&dropped).unwrap();
    // A phase to compile: the start takes a while.
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    for file in ["health-decay.toml", "health-decay.wasm"] {
        std::fs::copy(ready.join(file), dropped.join(file)).unwrap();
    }
    let node = Setup::new(root.path(), "30s").spawn();
    node.until("it has a key", || root.path().join("data/node.key").exists());
    node.signal(Signal::HUP);
    node.until("its admin socket answers", || node.ask(&["status"]).is_some());
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn many_hangups_are_few_reloads() {
    let root = folder();
    let mut node = Setup::new(&root.path().join("node"), "30s").start();
    let begun = Instant::now();
    for _ in 0..300 {
        node.signal(Signal::HUP);
        std::thread::yield_now();
    }
    let reloads = || {
        let log = std::fs::read_to_string(root.path().join("node/log")).unwrap_or_default();
        log.matches("looked at the phases: SIGHUP").count()
    };
    node.until("it reloads", || reloads() > 0);
    node.signal(Signal::TERM);
    node.child.wait().expect("our own child");
    // One at once, and one a second at most.
    assert!(reloads() as u64 <= begun.elapsed().as_secs() + 2, "{} reloads", reloads());
}

#[test]
fn two_stop_signals_at_once_are_one() {
    let root = folder();
    for attempt in 0..3 {
        let home = root.path().join(format!("node-{attempt}"));
        let mut node = Setup::new(&home, "30s").start();
        // As `timeout` sends them: to the process, and to its group.
        node.signal(Signal::TERM);
        node.signal(Signal::TERM);
        let code = node.child.wait().expect("our own child").code();
        let log = std::fs::read_to_string(home.join("log")).expect("our folder");
        assert!(code == Some(0) && !log.contains("a second time"), "{code:?}\n{log}");
        assert!(home.join("data/book.gk").exists(), "its state is saved");
    }
}

#[test]
fn a_file_name_that_is_not_utf_8_is_shown_and_breaks_nothing() {
    let root = folder();
    let home = root.path().join("node");
    let dir = home.join("data/phases.d");
    std::fs::create_dir_all(&dir).expect("our folder");
    let odd = |name: &[u8]| dir.join(std::ffi::OsStr::from_bytes(name));
    std::fs::write(odd(b"bad\xff.toml"), "name = \"bad\"\n").expect("our folder");
    std::fs::write(odd(b"alone\xff.wasm"), "no module").expect("our folder");
    let node = Setup::new(&home, "300ms").start();
    for verb in ["status", "phases"] {
        let answer = node.ask(&[verb]).expect("an answer").to_string();
        for name in ["bad\u{fffd}.toml", "alone\u{fffd}.wasm"] {
            assert!(answer.contains(name), "{verb}: {answer}");
        }
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["--json", "check", "--phases"])
        .arg(&dir)
        .output()
        .expect("the binary starts");
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert!(report.to_string().contains("bad\u{fffd}.toml"), "{report}");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn phases_and_config_change_while_a_node_runs() {
    let root = folder();
    let home = root.path().join("node");
    let dropped = home.join("data/phases.d");
    std::fs::create_dir_all(&dropped).unwrap();
    let node = Setup::new(&home, "500ms").start();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
            .args(args)
            .arg("--data-dir")
            .arg(home.join("data"))
            .output()
            .expect("the binary starts");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let phase = || {
        let phases = node.ask(&["phases"]).expect("the node answers");
        phases["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "stats").cloned()
    };
    let is = |key: &str, value: Value| phase().is_some_and(|phase| phase[key] == value);

    // A component is dropped in.
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    let manifest = std::fs::read_to_string(ready.join("stats.toml")).unwrap();
    let place = dropped.join("stats.toml");
    std::fs::copy(ready.join("stats.wasm"), dropped.join("stats.wasm")).unwrap();
    std::fs::write(&place, &manifest).unwrap();
    node.until("the phase runs", || phase().is_some_and(|phase| phase["runs"].as_u64() > Some(0)));

    // Its manifest changes, goes through probation, and is good.
    let faster = manifest.replace("every_n_ticks = 2", "every_n_ticks = 1");
    std::fs::write(&place, &faster).unwrap();
    node.until("the new schedule holds", || is("every_n_ticks", 1.into()));
    node.until("it is good", || is("state", "active".into()));

    // One that cannot be read is told, by the exit code too, and changes nothing.
    std::fs::write(&place, "name = \"stats\"\nkind = \"wasm\"\nschedule = 7\n").unwrap();
    let (code, told) = run(&["reload"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("stats") && told.contains("rejected") && told.contains("schedule"), "{told}");
    let still = phase().unwrap();
    assert_eq!((&still["state"], &still["candidate"]["state"]), (&"active".into(), &"rejected".into()));
    std::fs::write(&place, &faster).unwrap();
    assert_eq!(run(&["reload", "--wait"]).0, Some(0));
    assert_eq!(phase().unwrap().get("candidate"), None);

    // SIGHUP does the same.
    std::fs::write(&place, &manifest).unwrap();
    node.signal(Signal::HUP);
    node.until("the old schedule holds again", || is("every_n_ticks", 2.into()));

    // The operator's verbs; what happens is told as it happens.
    let mut tap = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["--json", "tap", "--data-dir"])
        .arg(home.join("data"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.next().expect("something happens at each tick");
    assert_eq!(run(&["pause", "stats"]).0, Some(0));
    assert!(is("state", "paused".into()));
    let before = phase().unwrap()["runs"].as_u64().unwrap();
    let (code, told) = run(&["run-now", "stats"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(phase().unwrap()["runs"].as_u64(), Some(before + 1), "the one that was ordered");
    assert_eq!(run(&["resume", "stats"]).0, Some(0));
    let mut wanted = vec!["\"what\":\"pause\"", "\"what\":\"resume\"", "\"event\":\"run\""];
    let deadline = Instant::now() + PATIENCE;
    while !wanted.is_empty() {
        let line = lines.next().expect("the node tells on");
        assert!(Instant::now() < deadline, "waited in vain for {wanted:?}");
        wanted.retain(|words| !line.contains(words));
    }
    tap.kill().unwrap();
    tap.wait().unwrap();

    // The config: what can change does, what cannot is named, a mistake changes nothing.
    let config = home.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("500ms", "400ms")).unwrap();
    node.until("the interval holds", || node.status()["interval_ms"] == 400);
    std::fs::write(
        &config,
        text.replace("500ms", "300ms") + "[book]\ncapacity = 100\nper_source_group = 10\n",
    )
    .unwrap();
    let (code, told) = run(&["reload"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("at the next start: book.capacity, book.per_source_group"), "{told}");
    node.until("the interval holds", || node.status()["interval_ms"] == 300);
    std::fs::write(&config, text.replace("500ms", "soon")).unwrap();
    let (code, told) = run(&["reload"]);
    assert!(code == Some(1) && told.contains("node.interval"), "{told}");
    assert_eq!(node.status()["interval_ms"], 300);

    // What bounds traffic is among what can change, and an absurd value is refused with its range.
    let budget = |size: &str| format!("{text}\n[performance.backpressure]\nqueue_budget = \"{size}\"\n");
    std::fs::write(&config, budget("8 MiB")).unwrap();
    let (code, told) = run(&["reload"]);
    assert!(code == Some(0) && told.contains("performance.backpressure"), "{told}");
    assert_eq!(node.status()["traffic"]["budget_bytes"], 8 << 20);
    std::fs::write(&config, budget("8 KiB")).unwrap();
    let (code, told) = run(&["reload"]);
    assert!(code == Some(1) && told.contains("8 KiB is out of range: 1 MiB to 64 GiB"), "{told}");
    assert_eq!(node.status()["traffic"]["budget_bytes"], 8 << 20);

    // Gone from the folder is gone from the node.
    std::fs::remove_file(&place).unwrap();
    std::fs::remove_file(dropped.join("stats.wasm")).unwrap();
    node.until("the phase is gone", || phase().is_none());
    assert_eq!(node.stop(), Some(0));
}
