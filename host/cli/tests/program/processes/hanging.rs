//! Nodes on file systems whose calls do not return: while they start, run, reload and stop. The calls hang by a preloaded
//! library (`hanging.c`); pipes in the place of files hang by themselves, for a program that opens them like files.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{PATIENCE, Proc, Setup, folder, free_port};

/// The calls that may hang, as `hanging.c` names them.
const CALLS: [&str; 7] = ["list", "stat", "open", "read", "write", "fsync", "rename"];
/// Those that writing a file takes, and those that reading a folder takes.
const WRITING: [&str; 4] = ["open", "write", "fsync", "rename"];
const READING: [&str; 4] = ["list", "stat", "open", "read"];

/// The node has this long to stop, and its first ticks come at once.
const TIMES: &str = "[shutdown]\ndeadline = \"3s\"\n";

/// The library that makes calls hang.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let folder = folder();
        let library = folder.path().join("hanging.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/processes/hanging.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(compiler.status().expect("a C compiler").success());
        (folder, library)
    });
    library
}

/// A disk that hangs at will, below one path.
struct Disk {
    under: PathBuf,
    control: PathBuf,
}

impl Disk {
    fn new(root: &Path, under: PathBuf) -> Self {
        Self { under, control: root.join("hangs") }
    }

    /// The environment of a node on this disk.
    fn env(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", library().to_owned()),
            ("HANG_UNDER", self.under.clone()),
            ("HANG_CONTROL", self.control.clone()),
        ]
    }

    /// From now on, this call does not return.
    fn hang(&self, call: &str) {
        _ = std::fs::remove_file(self.hit());
        let draft = self.control.with_extension("draft");
        std::fs::write(&draft, call)
            .and_then(|()| std::fs::rename(&draft, &self.control))
            .expect("our folder");
    }

    fn answer(&self) {
        std::fs::remove_file(&self.control).expect("it hangs");
    }

    fn hit(&self) -> PathBuf {
        self.control.with_extension("hit")
    }

    fn until_hit(&self, proc: &Proc, call: &str) {
        proc.until(&format!("{call} hangs"), || self.hit().exists());
    }
}

/// Runs `case` for each of `calls`, all at once: most of the time they wait.
fn for_each(calls: &[&'static str], case: impl Fn(&'static str, &Path) + Sync) {
    library();
    std::thread::scope(|scope| {
        for call in calls {
            scope.spawn(|| case(call, folder().path()));
        }
    });
}

impl Proc {
    /// The node ticks on, and answers.
    fn goes_on(&self, call: &str) {
        let begun = self.tick();
        self.until(&format!("it ticks on while {call} hangs"), || self.tick() >= begun + 3);
    }

    /// The part of the node that has trouble with its disk, as `status` shows it.
    fn has_trouble(&self, user: &str) -> bool {
        let status = self.status();
        status["disk"].as_array().expect("a list").iter().any(|trouble| trouble["user"] == user)
    }

    /// The output of a verb, whatever its exit code.
    fn output(&self, verb: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
            .arg("--json")
            .args(verb)
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .output()
            .expect("the binary starts");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Waits for the end of the process. Its exit code; `None` for one that was killed.
    fn ended(&mut self, what: &str) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status.code();
            }
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: the node did not end; its log:\n{}", log());
            _ = self.beats.recv_timeout(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_data_folder_that_hangs_while_a_node_runs_costs_no_tick_and_is_reported() {
    for_each(&WRITING, |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, home.join("data"));
        // With an address to dial, it is ready.
        let bootstrap = vec![free_port()];
        let mut node =
            Setup { extra: TIMES, env: disk.env(), bootstrap, ..Setup::new(&home, "300ms") }.start();
        node.until("it is ready", || node.ask(&["healthcheck", "--ready"]).is_some());
        disk.hang(call);
        // A peer is news for the address book.
        let bootstrap = vec![node.address()];
        let _peer = Setup { bootstrap, ..Setup::new(&root.join("peer"), "300ms") }.start();
        disk.until_hit(&node, call);
        node.goes_on(call);
        node.until("status reports it", || node.has_trouble("state"));
        assert!(node.ask(&["healthcheck", "--ready"]).is_none(), "{call}: it is not ready");
        assert!(node.ask(&["healthcheck"]).is_some(), "{call}: it is alive");
        disk.answer();
        node.until("it saves again", || !node.has_trouble("state"));
        disk.hang(call);
        node.signal(Signal::TERM);
        assert_eq!(node.ended(call), Some(1), "{call}: the state is not saved\n{}", node.log());
    });
}

#[test]
fn a_node_whose_data_folder_hangs_stops_within_its_deadline() {
    for_each(&CALLS, |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, home.join("data"));
        let mut node = Setup { extra: TIMES, env: disk.env(), ..Setup::new(&home, "300ms") }.start();
        disk.hang(call);
        node.signal(Signal::TERM);
        let code = node.ended(call);
        assert!(matches!(code, Some(0 | 1)), "{call}: {code:?}\n{}", node.log());
        if WRITING.contains(&call) {
            assert_eq!(code, Some(1), "{call}: the state is not saved\n{}", node.log());
        }
    });
}

#[test]
fn a_second_signal_ends_a_node_whose_disk_hangs_at_once() {
    for_each(&["fsync"], |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, home.join("data"));
        // Longer than the patience of this test.
        let extra = "[shutdown]\ndeadline = \"5m\"\n";
        let mut node = Setup { extra, env: disk.env(), ..Setup::new(&home, "300ms") }.start();
        disk.hang(call);
        node.signal(Signal::TERM);
        disk.until_hit(&node, call);
        let deadline = Instant::now() + PATIENCE;
        // Two at once are one, so again and again.
        while node.child.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < deadline, "the node did not end; its log:\n{}", node.log());
            node.signal(Signal::TERM);
            _ = node.beats.recv_timeout(Duration::from_millis(100));
        }
        assert_eq!(node.ended(call), Some(1));
        assert!(node.log().contains("a second time"), "{}", node.log());
    });
}

#[test]
fn a_node_that_starts_on_a_data_folder_that_hangs_obeys_signals() {
    for_each(&CALLS, |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, home.join("data"));
        // It has state to read.
        let mut node = Setup { extra: TIMES, ..Setup::new(&home, "300ms") }.start();
        node.signal(Signal::TERM);
        node.ended("the first run");
        disk.hang(call);
        let mut node = Setup { extra: TIMES, env: disk.env(), ..Setup::new(&home, "300ms") }.spawn();
        disk.until_hit(&node, call);
        node.signal(Signal::TERM);
        let code = node.ended(call);
        assert!(code != Some(0), "{call}: {code:?}\n{}", node.log());
    });
}

/// A node with a drop-in folder on `disk`.
fn with_phases<'a>(home: &'a Path, disk: &Disk, extra: &'a str) -> Setup<'a> {
    std::fs::create_dir_all(&disk.under).expect("our folder");
    Setup { extra, env: disk.env(), ..Setup::new(home, "300ms") }
}

#[test]
fn a_drop_in_folder_that_hangs_holds_up_nothing_but_itself() {
    for_each(&READING, |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, root.join("phases.d"));
        let extra = format!("{TIMES}[guests]\ndir = {:?}\n", disk.under);
        let mut node = with_phases(&home, &disk, &extra).start();
        std::fs::write(disk.under.join("one.toml"), "name = \"one\"\n").expect("our folder");
        node.until("it has read the folder", || node.status()["phases"].to_string().contains("one.toml"));
        disk.hang(call);
        std::fs::write(disk.under.join("two.toml"), "name = \"two\"\n").expect("our folder");
        disk.until_hit(&node, call);
        node.goes_on(call);
        node.until("status reports it", || node.has_trouble("phases"));
        let answer = node.output(&["reload"]);
        assert!(answer.contains("still reading"), "{call}: {answer}");
        assert!(node.ask(&["healthcheck", "--ready"]).is_none(), "{call}: it is not ready");
        disk.answer();
        node.until("it reads on", || node.status()["phases"].to_string().contains("two.toml"));
        node.until("the trouble is over", || !node.has_trouble("phases"));
        disk.hang(call);
        std::fs::write(disk.under.join("three.toml"), "name = \"three\"\n").expect("our folder");
        disk.until_hit(&node, call);
        node.signal(Signal::TERM);
        // Nothing of the node's own state is in that folder.
        assert_eq!(node.ended(call), Some(0), "{call}\n{}", node.log());
    });
}

#[test]
fn a_node_starts_without_a_drop_in_folder_that_hangs_and_takes_it_in_later() {
    for_each(&READING, |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, root.join("phases.d"));
        let extra = format!("{TIMES}[guests]\ndir = {:?}\n", disk.under);
        let setup = with_phases(&home, &disk, &extra);
        std::fs::write(disk.under.join("one.toml"), "name = \"one\"\n").expect("our folder");
        let reaper = "name = \"reaper\"\nkind = \"built-in\"\nmode = \"shadow\"\n";
        std::fs::write(disk.under.join("reaper.toml"), reaper).expect("our folder");
        disk.hang(call);
        let node = setup.start();
        node.goes_on(call);
        node.until("status reports it", || node.has_trouble("phases"));
        disk.answer();
        let phases = || node.status()["phases"].as_array().expect("a list").clone();
        node.until("the folder is read", || phases().iter().any(|phase| phase["name"] == "one"));
        let shadow = |phase: &Value| phase["name"] == "reaper" && phase["mode"] == "shadow";
        node.until("its settings are in effect", || phases().iter().any(shadow));
        assert_eq!(node.stop(), Some(0));
    });
}

#[test]
fn a_config_that_hangs_while_a_node_runs_costs_no_tick() {
    for_each(&["stat", "open", "read"], |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, home.join("config.toml"));
        let mut node = Setup { extra: TIMES, env: disk.env(), ..Setup::new(&home, "300ms") }.start();
        disk.hang(call);
        node.signal(Signal::HUP);
        disk.until_hit(&node, call);
        node.goes_on(call);
        node.until("status reports it", || node.has_trouble("config"));
        disk.answer();
        node.until("the trouble is over", || !node.has_trouble("config"));
        disk.hang(call);
        node.signal(Signal::HUP);
        disk.until_hit(&node, call);
        node.signal(Signal::TERM);
        assert_eq!(node.ended(call), Some(0), "{call}\n{}", node.log());
    });
}

#[test]
fn a_journal_and_a_recording_on_a_disk_that_hangs_hold_up_no_tick_and_no_stop() {
    for_each(&["write"], |call, root| {
        let home = root.join("node");
        let disk = Disk::new(root, root.join("journal"));
        let extra = format!("{TIMES}[journal]\nfile = {:?}\n", disk.under);
        // A dead bootstrap node: dials are in the journal.
        let (bootstrap, env) = (vec![free_port()], disk.env());
        let mut node = Setup { bootstrap, extra: &extra, env, ..Setup::new(&home, "300ms") }.start();
        disk.hang(call);
        disk.until_hit(&node, call);
        node.goes_on(call);
        node.signal(Signal::TERM);
        assert_eq!(node.ended(call), Some(1), "the journal is not complete\n{}", node.log());
    });
}

#[test]
fn pipes_in_the_drop_in_folder_are_refused_by_name_and_everything_goes_on() {
    let root = folder();
    let home = root.path().join("node");
    let dir = home.join("data/phases.d");
    let node = Setup { extra: TIMES, ..Setup::new(&home, "300ms") }.start();
    std::fs::create_dir_all(&dir).expect("our folder");
    let pipe = |name: &str| {
        assert!(Command::new("mkfifo").arg(dir.join(name)).status().is_ok_and(|made| made.success()))
    };
    pipe("manifest.toml");
    pipe("module.wasm");
    std::fs::write(
        dir.join("module.toml"),
        "name = \"module\"\nkind = \"wasm\"\n[schedule]\nevery_n_ticks = 1\n",
    )
    .expect("our folder");
    symlink(dir.join("manifest.toml"), dir.join("link.toml")).expect("our folder");
    let told = |name: &str| {
        let status = node.status();
        let phases = status["phases"].as_array().expect("a list");
        let phase = phases.iter().find(|phase| phase["name"] == name);
        phase.is_some_and(|phase| {
            phase["last_error"].to_string().contains("it is a named pipe, not a regular file")
        })
    };
    for name in ["manifest", "module", "link"] {
        node.until(&format!("{name} is refused"), || told(name));
    }
    node.goes_on("open");
    // Reloads still work.
    std::fs::remove_file(dir.join("module.wasm")).expect("our folder");
    std::fs::write(dir.join("module.wasm"), "no module").expect("our folder");
    node.until("the module is read", || !told("module"));
    assert_eq!(node.stop(), Some(0));
}
