//! Processes of the built binary on loopback agree on a chain while nodes are killed, stopped and restarted, and while
//! a node of another chain runs beside them. Times are not judged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A block needs a proposal, the votes of three nodes, and a write to the disk at each of them.
const SLOT_MS: &str = "300";

/// A node in a separate process. Killed when dropped.
struct Proc {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    log: PathBuf,
    /// Its first line.
    started: Value,
    /// Final blocks that it has reported, by height.
    finals: BTreeMap<u64, String>,
    settled: Vec<String>,
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_chain-node"))
}

/// The one line that a short command prints.
fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Creates a data folder; returns the id of its node.
fn init(folder: &Path) -> String {
    let line = printed(program().arg("init").arg("--data-dir").arg(folder));
    let made: Value = serde_json::from_str(&line).expect("JSON");
    made["id"].as_str().expect("an id").to_owned()
}

fn genesis(file: &Path, ids: &[String]) {
    let line = printed(program().args(["genesis", "--slot-ms", SLOT_MS]).args(ids));
    std::fs::write(file, line).expect("our folder");
}

impl Proc {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let log = folder.with_extension("log");
        let file = std::fs::File::options().append(true).create(true).open(&log).expect("our folder");
        let mut child = program()
            .args(["run", "--interval", "1s", "--data-dir"])
            .arg(folder)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let input = child.stdin.take().expect("piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let parsed = output.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            // Ends with the process, or when the test no longer reads.
            parsed.take_while(|line: &Value| send.send(line.clone()).is_ok()).for_each(drop);
        });
        let (started, finals, settled) = (Value::Null, BTreeMap::new(), Vec::new());
        let mut proc = Self { child, input, lines, log, started, finals, settled };
        let started = proc.until("it has started", |line| (line["event"] == "started").then(|| line.clone()));
        let before = started["finals"].as_array().expect("a list").iter();
        proc.finals = (1..).zip(before.map(|block| block.as_str().expect("a digest").to_owned())).collect();
        proc.started = started;
        proc
    }

    fn text(&self, key: &str) -> &str {
        self.started[key].as_str().expect("it is told")
    }

    /// Reads its output until `found` returns a value.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited in vain until {what}; its log:\n{}", log());
            let line = match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before {what}; its log:\n{}", log()),
            };
            if line["event"] == "final" {
                let height = line["height"].as_u64().expect("a height");
                let before = self.finals.insert(height, line["block"].as_str().expect("a digest").to_owned());
                assert_eq!(before, None, "nothing becomes final twice");
                let ids = line["transactions"].as_array().expect("a list").iter();
                self.settled.extend(ids.map(|id| id.as_str().expect("an id").to_owned()));
            }
            if let Some(found) = found(&line) {
                return found;
            }
        }
    }

    /// Sends a command; returns the next line of `event`.
    fn tell(&mut self, command: &str, event: &str) -> Value {
        writeln!(self.input, "{command}").expect("it reads");
        self.until(command, |line| (line["event"] == event).then(|| line.clone()))
    }

    /// Sends a payment; returns the transaction's id.
    fn send(&mut self, to: &str, amount: u64) -> String {
        let sent = self.tell(&format!("send {to} {amount}"), "sent");
        assert_eq!(sent["taken"], true);
        sent["transaction"].as_str().expect("an id").to_owned()
    }

    fn until_settled(&mut self, transaction: &str) {
        if !self.settled.iter().any(|id| id == transaction) {
            self.until("the transaction is final", |line| {
                let ids = line["transactions"].as_array().filter(|_| line["event"] == "final")?;
                ids.iter().any(|id| id == transaction).then_some(())
            });
        }
    }

    fn final_height(&self) -> u64 {
        self.finals.len() as u64
    }

    fn until_final(&mut self, height: u64) {
        if self.final_height() < height {
            self.until("it has caught up", |line| {
                (line["event"] == "final" && line["height"].as_u64() >= Some(height)).then_some(())
            });
        }
    }

    fn kill(mut self) -> BTreeMap<u64, String> {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        // Its output from before the kill is still in the pipe.
        while let Ok(line) = self.lines.recv() {
            if line["event"] == "final" {
                let block = line["block"].as_str().expect("a digest").to_owned();
                self.finals.insert(line["height"].as_u64().expect("a height"), block);
            }
        }
        std::mem::take(&mut self.finals)
    }

    /// Sends SIGTERM; returns the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("our own child");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < deadline, "the node did not end on SIGTERM");
            _ = self.lines.recv_timeout(Duration::from_millis(50));
        }
        self.child.wait().expect("our own child").code()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // In most cases it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// All have the same blocks at common heights, and blocks that one has reported never change.
fn assert_agreed<'a>(chains: impl IntoIterator<Item = &'a BTreeMap<u64, String>>) {
    let mut all: BTreeMap<u64, &str> = BTreeMap::new();
    for (height, block) in chains.into_iter().flatten() {
        assert_eq!(all.entry(*height).or_insert(block), block, "at height {height}");
    }
}

#[test]
fn five_processes_agree_through_a_kill_and_a_stop_and_a_stranger_stays_out() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| root.path().join(name);
    let ids: Vec<String> = ["one", "two", "three", "four"].iter().map(|name| init(&at(name))).collect();
    let file = at("genesis.json");
    genesis(&file, &ids);
    let file = file.to_str().expect("a path in UTF-8");

    // The others know only the first node. The fifth knows the second, and only the name of the chain.
    let mut one = Proc::start(&at("one"), &["--genesis", file]);
    let first = one.text("address").to_owned();
    let others = ["two", "three", "four"]
        .map(|name| Proc::start(&at(name), &["--genesis", file, "--bootstrap", &first]));
    let [mut two, three, mut four] = others;
    let network = one.text("network").to_owned();
    let mut fifth = Proc::start(&at("five"), &["--join", &network, "--bootstrap", two.text("address")]);
    for node in [&one, &two, &three, &four, &fifth] {
        assert_eq!((node.text("genesis"), node.text("network")), (one.text("genesis"), one.text("network")));
        assert_eq!(node.started["validator"], node.text("id") != fifth.text("id"));
    }
    let payment = fifth.send(&ids[3], 5);
    let mut three = three;
    for node in [&mut one, &mut two, &mut three, &mut four, &mut fifth] {
        node.until_settled(&payment);
    }
    assert_agreed([&one, &two, &three, &four, &fifth].map(|node| &node.finals));

    // A node of another chain knows their addresses, and gets no further than the handshake.
    let (other_file, other_id) = (at("other.json"), init(&at("stranger")));
    genesis(&other_file, &[other_id]);
    let other_file = other_file.to_str().expect("a path in UTF-8");
    let mut stranger = Proc::start(&at("stranger"), &["--genesis", other_file, "--bootstrap", &first]);
    assert_ne!(stranger.text("network"), network);

    // A node that is killed in the middle forgets nothing that it has reported. The others continue without it.
    let before = three.kill();
    let payment = one.send(&ids[1], 11);
    for node in [&mut one, &mut two, &mut four, &mut fifth] {
        node.until_settled(&payment);
    }
    // It has no flags for its chain or for peers to dial: it remembers both.
    let mut three = Proc::start(&at("three"), &[]);
    assert!(before.iter().all(|(height, block)| three.finals.get(height) == Some(block)), "it has forgotten");
    three.until_final(one.final_height());
    assert_agreed([&before, &one.finals, &three.finals]);

    // A node that gets SIGTERM ends in order, and can start again.
    assert_eq!(four.stop(), Some(0));
    let payment = three.send(&ids[0], 2);
    for node in [&mut one, &mut two, &mut three, &mut fifth] {
        node.until_settled(&payment);
    }
    let mut four = Proc::start(&at("four"), &["--bootstrap", &first]);
    four.until_final(one.final_height());
    let payment = four.send(&ids[0], 1);
    for node in [&mut one, &mut two, &mut three, &mut four, &mut fifth] {
        node.until_settled(&payment);
    }
    assert_agreed([&one, &two, &three, &four, &fifth].map(|node| &node.finals));

    // One request of each kind, answered by any connected node.
    let asked = |node: &mut Proc, kind: &str| node.tell(&format!("ask {kind}"), kind);
    assert_eq!(asked(&mut fifth, "genesis")["answer"]["validators"].as_array().map(Vec::len), Some(4));
    assert!(!asked(&mut fifth, "block")["answer"].as_array().expect("blocks").is_empty());
    assert!(asked(&mut fifth, "mempool")["answer"].is_array());
    assert_eq!(asked(&mut fifth, "finalized")["answer"].as_array().map(Vec::len), Some(4));
    assert_eq!(asked(&mut fifth, "ping")["is_echo"], true);
    assert_eq!(fifth.tell("ask peers", "asked-peers")["is_asked"], true);
    for (event, command) in [("asked-wallet", "ask wallet"), ("wallet", "wallet")] {
        let wallet = fifth.tell(&format!("{command} {}", ids[0]), event);
        assert_eq!(wallet["balance"], "-8", "{wallet}");
        assert_eq!(wallet["transactions"].as_array().map(Vec::len), Some(3));
    }

    // The stranger has tried meanwhile, and still has only its own blocks.
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "nobody has told the stranger off");
        let journal = stranger.tell("journal", "journal").to_string();
        if journal.contains("it belongs to another network") {
            break journal;
        }
        stranger.until("a tick more", |line| (line["event"] == "final").then_some(()));
    };
    assert!(!refused.contains("Connect "), "{refused}");
    assert_eq!(stranger.tell("peers", "peers")["connected"].as_array().map(Vec::len), Some(0));
    let theirs: Vec<&String> = one.finals.values().collect();
    assert!(stranger.finals.values().all(|block| !theirs.contains(&block)));
    // All stop in order even while each sends requests and payments and the others answer.
    for node in [&mut one, &mut two, &mut three, &mut four, &mut fifth] {
        for _ in 0..50 {
            writeln!(node.input, "send {} 1\nask finalized\nask block", ids[1]).expect("it reads");
        }
    }
    for node in [one, two, three, four, fifth, stranger] {
        assert_eq!(node.stop(), Some(0));
    }
}
