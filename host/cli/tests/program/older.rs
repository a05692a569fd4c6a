//! What earlier versions left behind: a recording and a data folder, made by a commit named in their folder's README.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use groundskeeper::data::DataFolder;
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1-pre")
}

/// What the program prints as JSON when it is run inside the fixture's folder.
fn printed(words: &[&str]) -> Value {
    let program =
        Command::new(env!("CARGO_BIN_EXE_groundskeeper")).args(words).current_dir(fixture()).output();
    let output = program.expect("the program starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn golden(name: &str) -> Value {
    let text = fs::read_to_string(fixture().join(name)).expect("a file of the fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// Copies a folder and what is in it, for its owner alone.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("our folder");
    for entry in fs::read_dir(from).expect("a folder of the fixture") {
        let entry = entry.expect("a folder of the fixture");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("our folder");
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("our file");
        }
    }
}

#[test]
fn an_older_recording_replays_bit_for_bit_as_it_did() {
    let report = printed(&["replay", "day.gkrec", "--phases", "phases", "--json"]);
    assert_eq!(report, golden("replay.json"));
    let runs = report["phases"].as_array().expect("phases");
    assert!(runs.iter().all(|phase| phase["identical"] == phase["runs"]), "{runs:?}");
    assert_eq!(printed(&["replay", "day.gkrec", "--dump", "12"]), golden("view-12.json"));
    assert_eq!(printed(&["replay", "day.gkrec", "--phase", "reaper", "--json"]), golden("what-if.json"));
}

#[test]
fn an_older_data_folder_keeps_its_key_addresses_memory_and_generations() {
    let home = tempfile::tempdir().expect("a folder");
    let (data, phases) = (home.path().join("data"), home.path().join("phases"));
    copy(&fixture().join("data"), &data);
    copy(&fixture().join("phases"), &phases);
    let folder = DataFolder::open(&data).expect("a folder of before");
    let addresses = folder.load_book().expect("a book of before");
    assert_eq!((addresses.value.len(), addresses.warning), (12, None));
    assert!(addresses.value.iter().all(|entry| entry.heard_s <= 86_400), "no clock of then or now ages them");
    assert_eq!(folder.load_schedule().expect("a schedule of before").value.phases.len(), 6);
    let memory = folder.load_phase("partition-watch").expect("memory of before").value.memory;
    assert_eq!(memory.map(|memory| memory.version), Some(1));
    drop(folder);

    let config = home.path().join("config.toml");
    let text = "[net]\nlisten = [\"127.0.0.1:0\"]\n[guests]\ndir = \"phases\"\n[journal]\nfile = \"journal.jsonl\"\n";
    fs::write(&config, text).expect("our folder");
    let recording = home.path().join("after.gkrec");
    let run = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["--json", "run", "--interval", "500ms", "--ticks", "20", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(&data)
        .arg("--record")
        .arg(&recording)
        .output()
        .expect("the program starts");
    let log = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{log}");
    assert!(!log.contains("damaged") && !log.contains("rejected"), "{log}");
    // The generation that was on probation goes on where it was, and ends it; the one before it stays, to go back to.
    assert!(log.contains("\"proven\""), "{log}");
    let folder = DataFolder::open(&data).expect("the folder again");
    let generations = fs::read_dir(data.join("generations")).expect("generations").count();
    assert_eq!(generations, 5, "two heads and three generations: {log}");
    assert!(folder.load_book().expect("the book again").value.len() >= 12);
    let journal = fs::read_to_string(data.join("journal.jsonl")).expect("the journal");
    let before = fs::read_to_string(fixture().join("data/journal.jsonl")).expect("the journal of before");
    assert!(journal.starts_with(&before) && journal.len() > before.len(), "a journal is appended to");
}
