use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::peer::PeerId;
use crate::registry::LastRun;

/// The folder that the child of `another_process_is_named` must lock.
const HOLD: &str = "GROUNDSKEEPER_TEST_HOLD";

fn open() -> (TempDir, DataFolder) {
    let root = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(root.path()).unwrap();
    (root, folder)
}

fn key(folder: &DataFolder) -> Result<NodeKey, DataError> {
    folder.key(|| Ok(b"a key".to_vec()))
}

fn never() -> Result<Vec<u8>, String> {
    panic!("a key must not be made here")
}

fn entries() -> Vec<BookEntry> {
    let entry = |n: u8| BookEntry {
        address: format!("[2001:db8::{n}]:7420").parse().unwrap(),
        peer: n.is_multiple_of(2).then(|| PeerId::from_bytes([n; 32])),
        heard_s: 86_400,
        reached_s: Some(70_000),
        has_answered: n.is_multiple_of(3),
        failures: n.into(),
        told_by: None,
    };
    (0..5).map(entry).collect()
}

#[test]
fn the_key_is_made_once_and_is_its_owners_alone() {
    let (root, folder) = open();
    assert!(key(&folder).unwrap().is_new);
    let path = root.path().join("node.key");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop(folder);
    let folder = DataFolder::open(root.path()).unwrap();
    let again = folder.key(never).unwrap();
    assert_eq!((again.bytes.as_slice(), again.is_new), (b"a key".as_slice(), false));
    assert!(!format!("{again:?}").contains("97"), "the key's bytes are nobody's business");
}

#[test]
fn a_folder_that_lost_its_key_is_not_given_a_new_one() {
    for state in ["book.gk", "schedule.gk", "book.gk.bad"] {
        let (root, folder) = open();
        fs::write(root.path().join(state), "anything").unwrap();
        let error = folder.key(never).unwrap_err();
        assert!(
            matches!(error, DataError::KeyMissing { .. }) && error.to_string().contains("restore node.key")
        );
    }
    let (root, folder) = open();
    key(&folder).unwrap();
    fs::remove_file(root.path().join("node.key")).unwrap();
    assert!(matches!(folder.key(never), Err(DataError::KeyMissing { .. })));
    assert!(!root.path().join("node.key").exists());
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_way_out() {
    for mode in [0o640, 0o604, 0o660] {
        let (root, folder) = open();
        key(&folder).unwrap();
        let path = root.path().join("node.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = folder.key(never).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
}

#[test]
fn an_empty_key_and_a_failed_generator_are_errors() {
    let (root, folder) = open();
    assert!(matches!(folder.key(|| Err("no randomness".into())), Err(DataError::NoKey(_))));
    assert!(key(&folder).unwrap().is_new, "nothing was left behind");
    write_whole(&root.path().join("node.key"), b"", 0o600).unwrap();
    assert!(matches!(folder.key(never), Err(DataError::KeyEmpty { .. })));
}

#[test]
fn state_comes_back_as_it_was_saved() {
    let (_root, folder) = open();
    assert_eq!(folder.load_book().unwrap(), LoadedState::default());
    folder.save_book(&entries()).unwrap();
    let phases =
        [("reaper".to_owned(), LastRun::accepted(1)), ("exchange-cleanup".to_owned(), LastRun::default())]
            .into();
    let runs = LastRuns { taken_unix_s: 1_700_000_000, phases };
    folder.save_schedule(&runs).unwrap();
    assert_eq!(folder.load_book().unwrap(), LoadedState { value: entries(), warning: None });
    assert_eq!(folder.load_schedule().unwrap().value, runs);
}

/// The bytes that released versions wrote: every later version must read them.
#[test]
fn files_of_version_1_are_read() {
    let (root, folder) = open();
    let schedule = b"GKsc\x01\x00\x99\x52\xc7\x5f\x01\x06reaper\x80\xe2\xcf\xaa\x06";
    fs::write(root.path().join("schedule.gk"), schedule).unwrap();
    let loaded = folder.load_schedule().unwrap().value;
    let phases = [("reaper".to_owned(), LastRun::accepted(0))].into();
    assert_eq!(loaded, LastRuns { taken_unix_s: 1_700_000_000, phases });
    assert_eq!((loaded.off_s(1_700_000_030), loaded.off_s(0)), (30, 0));
}

/// Stamps of wall time become ages to the newest stamp, whatever the clock said then and says now.
#[test]
fn a_book_of_version_1_is_read_and_no_clock_ages_it() {
    type EntryV1 = (std::net::SocketAddr, Option<PeerId>, u32, Option<u32>, u32, Option<u32>);
    let entry = |n: u8, heard: u32, reached: Option<u32>| -> EntryV1 {
        (format!("8.0.0.{n}:7420").parse().unwrap(), None, heard, reached, 3, Some(9))
    };
    let loaded = |entries: Vec<EntryV1>| {
        let (_root, folder) = open();
        let file = state::StateFile::<Vec<EntryV1>>::new("book.gk".into(), *b"GKbk", 1);
        file.save(&folder, &entries).unwrap();
        let LoadedState { value, warning } = folder.load_book().unwrap();
        assert_eq!(warning, None);
        value.into_iter().map(|entry| (entry.heard_s, entry.reached_s)).collect::<Vec<_>>()
    };
    for newest in [20_000, 1_700_000_000, u32::MAX] {
        let old = loaded(vec![
            entry(1, newest - 100, None),
            entry(2, newest - 50, Some(newest)),
            entry(3, 0, Some(newest - 19_999)),
        ]);
        let oldest = newest.min(86_400);
        assert_eq!(old, [(100, None), (50, Some(0)), (oldest, Some(19_999))], "newest {newest}");
    }
    assert!(loaded(Vec::new()).is_empty());
}

#[test]
fn damaged_files_are_moved_aside_with_a_warning() {
    let (root, folder) = open();
    let path = root.path().join("book.gk");
    folder.save_book(&entries()).unwrap();
    let good = fs::read(&path).unwrap();
    let flipped = (0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        bytes
    });
    let cut = (0..good.len()).map(|len| good[..len].to_vec());
    let longer = [good.iter().copied().chain([0]).collect::<Vec<u8>>()];
    for bytes in flipped.chain(cut).chain(longer) {
        fs::write(&path, &bytes).unwrap();
        let loaded = folder.load_book().unwrap();
        assert!(loaded.value.is_empty() && loaded.warning.unwrap().contains("damaged"));
        assert!(!path.exists());
        assert_eq!(fs::read(root.path().join("book.gk.bad")).unwrap(), bytes);
    }
    folder.save_book(&entries()).unwrap();
    assert_eq!(folder.load_book().unwrap().value, entries());
}

#[test]
fn files_of_a_newer_version_are_left_alone() {
    let (root, folder) = open();
    let path = root.path().join("book.gk");
    let newer = state::StateFile::<Vec<u32>>::new("book.gk".into(), *b"GKbk", 3);
    newer.save(&folder, &vec![7]).unwrap();
    let before = fs::read(&path).unwrap();
    let error = folder.load_book().unwrap_err();
    assert!(matches!(error, DataError::Newer { found: 3, known: 2, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!root.path().join("book.gk.bad").exists());
}

#[test]
fn leftovers_of_a_crash_are_removed_by_the_next_start() {
    let (root, folder) = open();
    key(&folder).unwrap();
    let leftover = root.path().join("node.key.0a0b0c0d.tmp");
    fs::write(&leftover, "half a k").unwrap();
    drop(folder);
    let folder = DataFolder::open(root.path()).unwrap();
    assert!(folder.key(never).is_ok() && !leftover.exists());
}

#[test]
fn a_pipe_in_the_place_of_the_key_or_of_a_state_file_is_refused_by_name() {
    for name in ["node.key", "book.gk"] {
        let (root, folder) = open();
        let path = root.path().join(name);
        let made = Command::new("mkfifo").arg("-m600").arg(&path).status().unwrap();
        assert!(made.success());
        let error = if name == "node.key" {
            folder.key(never).map(drop).unwrap_err()
        } else {
            folder.load_book().map(drop).unwrap_err()
        };
        let error = error.to_string();
        assert!(error.contains("is a named pipe, not a regular file") && error.contains(name), "{error}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [Path::new("/proc/self"), Path::new("/proc/none/x"), &file.path().join("x")] {
        let error = DataFolder::open(path).unwrap_err();
        assert!(
            matches!(error, DataError::Io { .. }) && error.to_string().contains(&path.display().to_string())
        );
    }
}

#[test]
fn a_folder_has_one_owner_at_a_time() {
    let (root, folder) = open();
    let pid = std::process::id().to_string();
    assert!(matches!(DataFolder::open(root.path()), Err(DataError::Locked { pid: by, .. }) if by == pid));
    drop(folder);
    assert!(DataFolder::open(root.path()).is_ok());
}

#[test]
fn another_process_is_named() {
    if let Some(path) = std::env::var_os(HOLD) {
        let _folder = DataFolder::open(Path::new(&path)).unwrap();
        writeln!(io::stdout(), "\nheld").unwrap();
        // Until the parent kills this process or closes the pipe.
        _ = io::stdin().read_line(&mut String::new());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "data::tests::another_process_is_named", "--nocapture"])
        .env(HOLD, root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "held"));
    let error = DataFolder::open(root.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("(pid {})", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(DataFolder::open(root.path()).is_ok(), "a killed owner leaves no lock");
}

/// Without this, a node goes on to write into what is mounted there now, past the lock of another node.
#[test]
fn a_folder_that_was_replaced_under_a_running_node_is_not_written_to() {
    let home = tempfile::tempdir().unwrap();
    let (path, aside) = (home.path().join("data"), home.path().join("aside"));
    let first = DataFolder::open(&path).unwrap();
    first.save_book(&Vec::new()).unwrap();
    fs::rename(&path, &aside).unwrap();
    let missing = first.save_book(&Vec::new()).unwrap_err().to_string();
    assert!(missing.contains("was moved, unmounted or replaced"), "{missing}");
    assert!(!path.exists());
    let second = DataFolder::open(&path).unwrap();
    assert!(first.save_book(&Vec::new()).unwrap_err().to_string().contains("restart the node"));
    assert!(!path.join("book.gk").exists(), "the folder of another node is left alone");
    second.save_book(&Vec::new()).unwrap();
    drop(second);
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    first.save_book(&Vec::new()).unwrap();
}
