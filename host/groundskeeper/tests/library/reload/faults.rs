//! File operations that fail: each in turn, and all of a kind for a while. What runs runs on, and the next good look heals.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use groundskeeper::data::{DiskFileSystem, FileStamp, FileSystem};
use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{ScanKind, StartFrom};
use rustix::io::Errno;

use super::disk::{Memory, Weather};
use super::world::{Hand, Process, manifest, module};

const DIR: &str = "/phases.d";

/// A node whose folders are in memory.
struct Node {
    memory: Memory,
    clock: Arc<Hand>,
    data: tempfile::TempDir,
}

impl Node {
    fn put(&self, name: &str, version: u32, behaviour: &str) {
        self.memory.put(&Path::new(DIR).join(format!("{name}.wasm")), module(version, behaviour).as_bytes());
        self.memory.put(&Path::new(DIR).join(format!("{name}.toml")), manifest(name, "").as_bytes());
    }

    fn start(&self) -> Process {
        let files = Arc::new(self.memory.clone());
        Process::start(&self.clock, self.data.path(), Path::new(DIR), files, StartFrom::Folder)
    }

    /// "alpha" and "beta" at version 1 and proven.
    fn new() -> (Self, Process) {
        let data = tempfile::tempdir().unwrap();
        let node = Self { memory: Memory::default(), clock: Arc::default(), data };
        node.put("alpha", 1, "good");
        node.put("beta", 1, "good");
        let mut process = node.start();
        beats(&mut process, 4);
        (node, process)
    }
}

fn beats(process: &mut Process, n: u32) {
    for _ in 0..n {
        let report = process.beat();
        for run in &report.runs {
            // A generation that is given what a newer one stored says so.
            assert!(run.words.as_ref().is_none_or(|words| !words.contains("was given memory")), "{run:?}");
        }
        process.step(ScanKind::Hint);
    }
}

/// In good weather, what is wanted runs soon, here and after a start.
fn heals(node: &Node, mut process: Process, wanted: [Option<u32>; 2], at: &str) {
    node.memory.set(Weather::Fine);
    node.clock.advance(5_000);
    process.come_to_rest();
    beats(&mut process, 5);
    process.come_to_rest();
    let runs = |process: &Process| ["alpha", "beta"].map(|name| process.runs(name));
    assert_eq!(runs(&process), wanted, "{at}: {:?}", process.phases());
    drop(process);
    assert_eq!(runs(&node.start()), wanted, "{at}: after a start");
}

#[test]
fn any_one_operation_of_a_reload_may_fail() {
    // What "beta" becomes while "alpha" becomes version 2: good, bad on probation, gone; and whether the operation is done.
    let kinds = ["good", "trap-run 1", "gone"].into_iter().flat_map(|beta| [(beta, false), (beta, true)]);
    for (beta, is_done) in kinds {
        let mut tried = 0;
        for k in 0.. {
            let (node, mut process) = Node::new();
            let at = format!("operation {k} fails, done: {is_done}, beta is {beta}");
            node.put("alpha", 2, "good");
            if beta == "gone" {
                node.memory.delete(&Path::new(DIR).join("beta.toml"));
            } else {
                node.put("beta", 2, beta);
            }
            node.memory.set(if is_done { Weather::FailsLate(k) } else { Weather::FailsAfter(k) });
            for _ in 0..6 {
                process.step(ScanKind::Hint);
                node.clock.advance(301);
                process.step(ScanKind::Hint);
                beats(&mut process, 1);
                assert!(matches!(process.runs("alpha"), Some(1 | 2)), "{at}");
                let is_there = matches!(process.runs("beta"), Some(1 | 2));
                assert!(is_there || beta == "gone", "{at}: {:?}", process.phases());
            }
            let is_over = !node.memory.is_fine();
            let wanted = match beta {
                "good" => Some(2),
                "gone" => None,
                _ => Some(1),
            };
            heals(&node, process, [Some(2), wanted], &at);
            if is_over {
                break;
            }
            tried = k + 1;
        }
        println!("beta is {beta}: {tried} operations failed in turn, done: {is_done}");
        assert!(tried > 20, "{beta}: {tried}");
    }
}

#[test]
fn any_one_operation_of_a_start_may_fail() {
    // What has happened to the folder meanwhile.
    for changed in [false, true] {
        let (mut tried, mut refused) = (0, 0);
        for k in 0.. {
            let (node, process) = Node::new();
            let at = format!("operation {k} fails, changed: {changed}");
            drop(process);
            if changed {
                node.put("alpha", 2, "good");
                node.put("beta", 2, "trap-trial");
            }
            node.memory.set(Weather::FailsAfter(k));
            let mut process = node.start();
            let is_over = !node.memory.is_fine();
            if process.begun.is_err() {
                // It says so and is started again by whoever watches it.
                refused += 1;
                drop(process);
                process = node.start();
            }
            // The first look is before the first tick.
            process.step(ScanKind::Hint);
            let alpha = process.runs("alpha");
            assert!(alpha == Some(1) || changed && alpha == Some(2), "{at}: {:?}", process.phases());
            assert_eq!(process.runs("beta"), Some(1), "{at}: {:?}", process.phases());
            beats(&mut process, 1);
            heals(&node, process, [Some(1 + u32::from(changed)), Some(1)], &at);
            if is_over {
                break;
            }
            tried = k + 1;
        }
        println!("changed: {changed}: {tried} operations failed in turn, {refused} of them ended the start");
        assert!(tried > 8 && refused < 4, "{tried} {refused}");
    }
}

/// The machine's file system with something wrong with it.
#[derive(Default)]
struct Sick {
    /// 0: nothing.
    error: AtomicI32,
    /// Whether reading is hit too.
    all: std::sync::atomic::AtomicBool,
    /// Whether the records of the generations cannot be listed.
    hides_records: std::sync::atomic::AtomicBool,
}

impl Sick {
    fn may(&self, writes: bool) -> io::Result<()> {
        match self.error.load(Relaxed) {
            0 => Ok(()),
            error if writes || self.all.load(Relaxed) => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }
}

impl FileSystem for Sick {
    fn distrust(&self, file: &Path) -> Option<String> {
        DiskFileSystem.distrust(file)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        self.may(false)?;
        if self.hides_records.load(Relaxed) && folder.ends_with("generations") {
            return Err(io::ErrorKind::TimedOut.into());
        }
        DiskFileSystem.list(folder)
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        DiskFileSystem.stamp(file)
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.may(false)?;
        DiskFileSystem.read(file, most)
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.may(true)?;
        DiskFileSystem.write(file, bytes, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.may(true)?;
        DiskFileSystem.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.may(true)?;
        DiskFileSystem.remove(file)
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        DiskFileSystem.make_folder(folder, mode)
    }
}

#[test]
fn a_sick_disk_is_told_and_lived_with() {
    let table = [
        ("disk full", Errno::NOSPC, false),
        ("read-only", Errno::ROFS, false),
        ("no descriptors left", Errno::MFILE, true),
    ];
    for (what, error, all) in table {
        let home = tempfile::tempdir().unwrap();
        let (data, dir) = (home.path().join("data"), home.path().join("phases.d"));
        fs::create_dir(&dir).unwrap();
        let put = |name: &str, version, behaviour| {
            fs::write(dir.join(format!("{name}.wasm")), module(version, behaviour)).unwrap();
            fs::write(dir.join(format!("{name}.toml")), manifest(name, "")).unwrap();
        };
        put("alpha", 1, "good");
        put("beta", 1, "good");
        let (clock, files) = (Arc::new(Hand::default()), Arc::new(Sick::default()));
        let mut process = Process::start(&clock, &data, &dir, Arc::clone(&files) as _, StartFrom::Folder);
        beats(&mut process, 4);
        // "beta" is on probation, and fails while nothing can be written.
        put("beta", 2, "trap-run 2");
        process.come_to_rest();
        beats(&mut process, 1);
        assert_eq!(process.runs("beta"), Some(2), "{what}");

        files.error.store(error.raw_os_error(), Relaxed);
        files.all.store(all, Relaxed);
        put("alpha", 2, "good");
        let mut told = Vec::new();
        for _ in 0..4 {
            clock.advance(301);
            let report = process.step(ScanKind::Hint);
            told.extend(report.trouble);
            told.extend(report.events.into_iter().filter_map(|event| event.why));
        }
        let words = io::Error::from(error).to_string();
        assert!(told.iter().any(|why| why.contains(&words)), "{what}: {words:?} in {told:?}");
        if !all {
            let candidate = process.phase("alpha").unwrap().candidate.expect("it is shown");
            assert_eq!(candidate.state, PhaseState::Pending, "{what}");
            assert!(candidate.why.contains(&words), "{what}: {}", candidate.why);
        }
        let before = process.phase("alpha").unwrap().runs;
        beats(&mut process, 3);
        assert_eq!((process.runs("alpha"), process.runs("beta")), (Some(1), Some(1)), "{what}");
        assert_eq!(process.phase("alpha").unwrap().runs, before + 3, "{what}: it runs on");

        files.error.store(0, Relaxed);
        clock.advance(5_000);
        process.come_to_rest();
        beats(&mut process, 4);
        assert_eq!((process.runs("alpha"), process.runs("beta")), (Some(2), Some(1)), "{what}");
        drop(process);
        let process = Process::start(&clock, &data, &dir, Arc::new(DiskFileSystem), StartFrom::Folder);
        assert_eq!(
            (process.runs("alpha"), process.runs("beta")),
            (Some(2), Some(1)),
            "{what}: after a start"
        );
    }
}

#[test]
fn records_that_a_start_cannot_read_are_not_written_over() {
    let home = tempfile::tempdir().unwrap();
    let (data, dir) = (home.path().join("data"), home.path().join("phases.d"));
    fs::create_dir(&dir).unwrap();
    let put = |name: &str, version, behaviour| {
        fs::write(dir.join(format!("{name}.wasm")), module(version, behaviour)).unwrap();
        fs::write(dir.join(format!("{name}.toml")), manifest(name, "")).unwrap();
    };
    put("alpha", 1, "good");
    put("beta", 1, "good");
    let (clock, files) = (Arc::new(Hand::default()), Arc::new(Sick::default()));
    let mut process = Process::start(&clock, &data, &dir, Arc::clone(&files) as _, StartFrom::Folder);
    beats(&mut process, 4);
    drop(process);
    let record = || fs::read(data.join("generations/alpha.gk")).unwrap();
    let before = record();

    put("alpha", 2, "trap-run 2");
    put("beta", 2, "trap-trial");
    files.hides_records.store(true, Relaxed);
    let mut process = Process::start(&clock, &data, &dir, Arc::clone(&files) as _, StartFrom::Folder);
    process.begun.as_ref().unwrap_err();
    for kind in [ScanKind::Hint, ScanKind::Thorough, ScanKind::Ordered] {
        clock.advance(60_000);
        let trouble = process.step(kind).trouble.expect("the scan says why it changes nothing");
        assert!(trouble.starts_with("cannot read which phases ran"), "{trouble}");
        beats(&mut process, 1);
    }
    assert_eq!((process.runs("alpha"), process.runs("beta")), (None, None));
    assert_eq!(record(), before);

    files.hides_records.store(false, Relaxed);
    process.come_to_rest();
    // Version 2 of "beta" is bad at its trial, that of "alpha" on probation: both have the former one to go back to.
    assert_eq!((process.runs("alpha"), process.runs("beta")), (Some(2), Some(1)));
    beats(&mut process, 3);
    assert_eq!((process.runs("alpha"), process.runs("beta")), (Some(1), Some(1)));
}
