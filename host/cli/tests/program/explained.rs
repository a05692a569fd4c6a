//! `explain` and `journal` with real processes: floods of dials, restarts, rotated and damaged files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use groundskeeper::journal::{Cause, Initiator, Outcome, Record};
use serde_json::Value;

use super::processes::{PASSIVE, Proc, Setup, folder, free_port};

/// Little room in memory, dead addresses that are dialled all the time, and a reaper that does not wait.
const CROWDED: &str = "[journal]\nnotable = 16\nchatter = 16\n[book]\nbackoff_first = \"100ms\"\nbackoff_most = \"1s\"\n\
                       [phases.reaper.settings]\nping_after = \"1s\"\nstale_after = \"4s\"\n";

/// The program about the node in `folder`, whether it runs or not.
fn program(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(args)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .output()
        .expect("the binary starts")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn records(output: &Output) -> Vec<Record> {
    let page: Value = serde_json::from_str(&text(output)).expect("JSON");
    serde_json::from_value(page["records"].clone()).expect("records")
}

/// Failed dials so far, by the journal with its file.
fn failed_dials(watched: &Proc) -> usize {
    let page = watched.ask(&["journal", "--what", "dial", "--last", "10000"]).expect("it answers");
    let records: Vec<Record> = serde_json::from_value(page["records"].clone()).expect("records");
    records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count()
}

#[test]
fn neither_hundreds_of_dials_nor_a_restart_make_a_disconnect_unexplained() {
    let root = folder();
    let (home, peer_home) = (root.path().join("watched"), root.path().join("peer"));
    let peer = Setup { extra: PASSIVE, ..Setup::new(&peer_home, "30s") }.start();
    let mut bootstrap = vec![peer.address()];
    bootstrap.extend((0..30).map(|_| free_port()));
    let setup = Setup { bootstrap, extra: CROWDED, ..Setup::new(&home, "500ms") };
    let watched = setup.start();
    let id = peer.id();
    watched.until("it is connected", || watched.connected() == 1);
    peer.kill();
    watched.until("the peer's end is explained", || watched.disconnect_of(&id).is_some());
    watched.until("it has dialled in vain for long", || failed_dials(&watched) >= 200);
    let cause = |node: &Proc| node.disconnect_of(&id).and_then(|record| record.cause);
    assert_eq!(cause(&watched), Some(Cause::RemoteClosed));
    // The book knows whose address it dials.
    let told = watched.explain(&id);
    assert!(told.iter().any(|record| matches!(record.outcome, Outcome::Failed(_))), "{told:?}");
    let room = watched.ask(&["status"]).expect("it answers")["journal"]["notable"].as_u64();
    assert!(room.is_some_and(|held| held <= 16), "memory holds only the newest: {room:?}");
    watched.kill();

    let watched = setup.start();
    assert_eq!(cause(&watched), Some(Cause::RemoteClosed), "the file remembers");
    let said = text(&program(&home, &["explain", &id[..12]]));
    assert!(said.contains("not connected") && said.contains("cause remote-closed"), "{said}");
    let numbers = || -> Vec<(u64, u64)> {
        watched.explain(&id).iter().map(|record| (record.start, record.seq)).collect()
    };
    let is_of_both_starts = || numbers().chunk_by(|a, b| a.0 == b.0).count() == 2;
    watched.until("it has dialled the peer in this start too", is_of_both_starts);
    assert!(numbers().is_sorted_by(|a, b| a < b), "each record once, in order: {:?}", numbers());
    assert_eq!(watched.stop(), Some(0));
}

#[test]
fn a_phase_and_the_user_who_gave_orders_are_in_the_journal_that_outlives_the_node() {
    let root = folder();
    let home = root.path().join("watched");
    let setup = Setup::new(&home, "500ms");
    let watched = setup.start();
    watched.until("two ticks are over", || {
        watched.ask(&["status"]).is_some_and(|is| is["tick"].as_u64() > Some(2))
    });
    let uid = fs::metadata(&home).expect("our folder").uid();
    for verb in ["pause", "resume", "run-now"] {
        assert!(program(&home, &[verb, "reaper"]).status.success());
    }
    assert!(program(&home, &["reload"]).status.success());
    let said = text(&program(&home, &["explain", "reaper"]));
    for part in ["phase reaper", "its last ", "pause", "resume", "run-now", "operator"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let by_operators = |records: Vec<Record>| -> Vec<&'static str> {
        let ours = Initiator::Operator { uid: Some(uid) };
        records.iter().filter(|record| record.by == ours).map(|record| record.what.as_str()).collect()
    };
    let filtered =
        ["--json", "journal", "--since", "1h", "--phase", "reaper", "--what", "pause,resume,run-now"];
    assert_eq!(by_operators(records(&program(&home, &filtered))), ["pause", "resume", "run-now"]);
    let orders = program(&home, &["--json", "journal", "--what", "config,reload"]);
    assert_eq!(by_operators(records(&orders)), ["config", "reload"]);
    assert!(records(&program(&home, &["--json", "journal", "--since", "2100-01-01T00:00:00Z"])).is_empty());
    assert_eq!(records(&program(&home, &["--json", "journal", "--last", "1"])).len(), 1);
    let wrong = program(&home, &["journal", "--what", "disconect"]);
    assert_eq!(wrong.status.code(), Some(2));
    let words = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(words.contains("did you mean \"disconnect\"?"), "{words}");
    let file = home.join("data/journal.jsonl");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    watched.kill();

    // No node answers: the file does. It was rotated, a crash tore its last line, and it has a line that is not text.
    fs::rename(&file, home.join("data/journal.jsonl.1")).expect("our folder");
    let before = fs::read(home.join("data/journal.jsonl.1")).expect("our file");
    fs::write(&file, b"\xff\xfe no text\n").expect("our folder");
    OpenOptions::new()
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(&before[..40]))
        .expect("our file");
    assert_eq!(by_operators(records(&program(&home, &filtered))), ["pause", "resume", "run-now"]);
    let said = text(&program(&home, &["journal", "--phase", "reaper"]));
    assert!(said.contains("2 lines of") && said.contains("damaged"), "{said}");

    // And a node that starts upon it explains what was before.
    let watched = setup.start();
    let said = text(&program(&home, &["explain", "reaper"]));
    assert!(said.contains("run-now") && said.contains("2 lines of"), "{said}");
    assert_eq!(watched.stop(), Some(0));
}

#[test]
fn a_node_without_a_file_says_what_it_cannot_know() {
    let root = folder();
    let home = root.path().join("watched");
    let watched = Setup { extra: "[journal]\nfile = \"\"\n", ..Setup::new(&home, "500ms") }.start();
    assert!(!home.join("data/journal.jsonl").exists());
    let said = text(&program(&home, &["explain", "reaper"]));
    assert!(said.contains("no journal file is configured; records before the start at"), "{said}");
    watched.kill();
    let config = home.join("config.toml");
    let gone = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["journal", "--config"])
        .arg(&config)
        .env("XDG_STATE_HOME", root.path())
        .output()
        .expect("the binary starts");
    assert_eq!(gone.status.code(), Some(69), "{}", String::from_utf8_lossy(&gone.stderr));
}

#[test]
fn the_journal_of_an_older_version_is_read() {
    let root = folder();
    let data = root.path().join("data");
    fs::create_dir(&data).expect("our folder");
    let before = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1-pre/data/journal.jsonl");
    fs::copy(&before, data.join("journal.jsonl")).expect("our folder");
    let lines = fs::read_to_string(&before).expect("a fixture").lines().count();
    let read = program(root.path(), &["--json", "journal"]);
    assert_eq!(records(&read).len(), lines);
    assert!(!text(&read).contains("damaged"));
}
