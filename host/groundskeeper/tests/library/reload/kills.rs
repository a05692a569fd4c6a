//! `kill -9` at every step of the protocol: real processes on real files, each of which ends itself at one file operation.
//! Whoever starts in the folder after that finds each phase at its old or its new generation, with memory to match.
//!
//! The parent runs this same binary as the child, with [`child`] as its only test.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use groundskeeper::data::{DiskFileSystem, FileStamp, FileSystem};
use groundskeeper::reload::{ScanKind, StartFrom};
use parking_lot::Mutex;
use rustix::process::{Signal, getpid, kill_process};
use tempfile::TempDir;

use crate::support::alone::name;

use super::world::{Hand, Process, manifest, module};

/// Where the child works; with it, it runs.
const HOME: &str = "GK_RELOAD_HOME";
/// At which operation it ends itself, from 0; at none without it.
const AT: &str = "GK_RELOAD_AT";
/// When: see [`Moment`].
const MOMENT: &str = "GK_RELOAD_MOMENT";

const KILLS: usize = 200;

/// When in an operation a process dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    Before,
    /// Half of the new file lies beside the old one.
    Torn,
    After,
}

use Moment::{After, Before, Torn};

/// The machine's file system, and a process that dies at one of its operations.
struct Lethal {
    at: Option<(u64, Moment)>,
    operations: AtomicU64,
    /// What each of them was.
    log: Mutex<Vec<String>>,
}

impl Lethal {
    fn step<R>(&self, what: &str, path: &Path, torn: impl FnOnce(), done: impl FnOnce() -> R) -> R {
        let n = self.operations.fetch_add(1, Relaxed);
        self.log.lock().push(format!("{what} {}", kind(path)));
        let moment = self.at.filter(|(at, _)| *at == n).map(|(_, moment)| moment);
        match moment {
            Some(Before) => die(),
            Some(Torn) => {
                torn();
                die()
            }
            _ => {}
        }
        let result = done();
        if moment == Some(After) {
            die();
        }
        result
    }
}

fn die() {
    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    loop {
        std::thread::park();
    }
}

/// Which of our files it is, in a word.
fn kind(path: &Path) -> &'static str {
    let path = path.display().to_string();
    let kinds = [
        (".gen", "a generation"),
        ("/generations", "heads"),
        ("/memory", "memory"),
        (".toml", "a manifest"),
        (".wasm", "a module"),
        ("/phases.d", "the folder"),
    ];
    kinds.iter().find(|(part, _)| path.contains(part)).map_or("something else", |(_, kind)| kind)
}

impl FileSystem for Lethal {
    fn distrust(&self, file: &Path) -> Option<String> {
        DiskFileSystem.distrust(file)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        self.step("list", folder, || {}, || DiskFileSystem.list(folder))
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        self.step("stat", file, || {}, || DiskFileSystem.stamp(file))
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.step("read", file, || {}, || DiskFileSystem.read(file, most))
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let torn = || {
            let mut beside = file.as_os_str().to_owned();
            beside.push(".tmp");
            fs::write(beside, &bytes[..bytes.len() / 2]).expect("as a write begins");
        };
        self.step("write", file, torn, || DiskFileSystem.write(file, bytes, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", to, || {}, || DiskFileSystem.rename(from, to))
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.step("remove", file, || {}, || DiskFileSystem.remove(file))
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        self.step("make", folder, || {}, || DiskFileSystem.make_folder(folder, mode))
    }
}

fn put(home: &Path, name: &str, version: u32, behaviour: &str) {
    fs::write(home.join(format!("phases.d/{name}.wasm")), module(version, behaviour)).unwrap();
    fs::write(home.join(format!("phases.d/{name}.toml")), manifest(name, "")).unwrap();
}

fn start(home: &Path, files: Arc<dyn FileSystem>) -> Process {
    let clock = Arc::new(Hand::default());
    let process =
        Process::start(&clock, &home.join("data"), &home.join("phases.d"), files, StartFrom::Folder);
    process.begun.as_ref().expect("nothing is wrong with the disk");
    process
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

/// Three phases at version 1, of which there is no former one.
fn prepare() -> TempDir {
    // A process that is killed loses nothing that it has written, synced or not: memory is as good as a disk, and faster.
    let shm = Path::new("/dev/shm");
    let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    fs::create_dir(home.path().join("phases.d")).unwrap();
    for name in ["alpha", "beta", "gamma"] {
        put(home.path(), name, 1, "good");
    }
    beats(&mut start(home.path(), Arc::new(DiskFileSystem)), 4);
    home
}

/// Every step of the protocol: starts, a change for the better and one for the worse, a newcomer, a removal, probations that
/// end well and badly.
#[test]
#[ignore = "the other half of a_kill_leaves_each_phase_at_one_of_its_generations"]
fn child() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let moment = match std::env::var(MOMENT).as_deref() {
        Ok("torn") => Torn,
        Ok("after") => After,
        _ => Before,
    };
    let at = std::env::var(AT).ok().map(|at| (at.parse().unwrap(), moment));
    let files = Arc::new(Lethal { at, operations: AtomicU64::new(0), log: Mutex::default() });
    let mut process = start(&home, Arc::clone(&files) as _);
    beats(&mut process, 4);
    put(&home, "alpha", 2, "good");
    put(&home, "beta", 2, "trap-run 2");
    put(&home, "delta", 1, "good");
    fs::remove_file(home.join("phases.d/gamma.toml")).unwrap();
    fs::remove_file(home.join("phases.d/gamma.wasm")).unwrap();
    process.come_to_rest();
    beats(&mut process, 5);
    put(&home, "alpha", 3, "good");
    process.come_to_rest();
    beats(&mut process, 1);
    drop(process);
    // On probation from one process to the next.
    let mut process = start(&home, Arc::clone(&files) as _);
    beats(&mut process, 5);
    fs::write(home.join("log"), files.log.lock().join("\n")).unwrap();
}

/// Runs the child in `home`; whether it was killed.
fn run(home: &Path, at: Option<(u64, Moment)>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name(module_path!(), "child"), "--ignored"]).env(HOME, home);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((at, moment)) = at {
        let moment = format!("{moment:?}").to_lowercase();
        command.env(AT, at.to_string()).env(MOMENT, moment);
    }
    let status = command.status().unwrap();
    let killed = status.signal() == Some(Signal::KILL.as_raw());
    assert!(killed || status.success(), "{at:?}: {status}");
    killed
}

/// The version that lies in the folder.
fn wanted(home: &Path, name: &str) -> Option<u32> {
    let module = fs::read_to_string(home.join(format!("phases.d/{name}.wasm"))).ok()?;
    module.split(' ').nth(1)?.parse().ok()
}

fn judge(home: &Path, at: &str) {
    let mut process = start(home, Arc::new(DiskFileSystem));
    let lies = |name| wanted(home, name);
    let check = |process: &Process| {
        for name in ["alpha", "beta"] {
            let (new, runs) = (lies(name).unwrap(), process.runs(name));
            let is_one = runs.is_some_and(|runs| runs == new || runs + 1 == new);
            assert!(is_one, "{at}: of {name} {runs:?} runs, and {new} lies there");
        }
        assert_eq!(process.runs("gamma"), lies("gamma"), "{at}: gamma");
        assert_eq!(process.runs("delta"), lies("delta"), "{at}: delta");
        for (name, kept, _) in process.cycle.kept() {
            let memory = kept.memory.as_ref().map_or(0, |memory| memory.version);
            assert!(Some(memory) <= process.runs(name), "{at}: {name} has memory of version {memory}");
        }
    };
    check(&process);
    let count = |process: &Process| {
        let memory = process.cycle.snapshot("alpha").unwrap().memory.unwrap();
        u32::from_le_bytes(memory.bytes.try_into().unwrap())
    };
    let before = count(&process);
    assert!(before >= 4, "{at}: alpha remembers {before} runs");
    for _ in 0..5 {
        beats(&mut process, 1);
        check(&process);
    }
    process.come_to_rest();
    assert_eq!(count(&process), before + 5, "{at}");
    // What was on its way arrives, whatever happened.
    assert_eq!(process.runs("alpha"), lies("alpha"), "{at}");
    assert_eq!(process.runs("beta"), Some(1), "{at}: its other version is a bad one");
    let files: Vec<String> = fs::read_dir(home.join("data/generations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    drop(process);
    let process = start(home, Arc::new(DiskFileSystem));
    assert_eq!((process.runs("alpha"), process.runs("beta")), (lies("alpha"), Some(1)), "{at}: once more");
    let generations = files.iter().filter(|name| name.ends_with(".gen")).count();
    assert!(generations <= 8, "{at}: {files:?}");
}

#[test]
fn a_kill_leaves_each_phase_at_one_of_its_generations() {
    let calm = prepare();
    assert!(!run(calm.path(), None));
    judge(calm.path(), "not killed at all");
    let log = fs::read_to_string(calm.path().join("log")).unwrap();
    // Each kind of operation in turn, so that the rare ones are all hit.
    let mut kinds: BTreeMap<(String, Moment), Vec<u64>> = BTreeMap::new();
    for (n, what) in log.lines().enumerate() {
        let moments: &[Moment] = match what.split(' ').next() {
            Some("write") => &[Before, Torn, After],
            Some("remove" | "rename" | "make") => &[Before, After],
            _ => &[Before],
        };
        for moment in moments {
            kinds.entry((what.to_owned(), *moment)).or_default().push(n as u64);
        }
    }
    let mut kills: Vec<(String, u64, Moment)> = Vec::new();
    for round in 0.. {
        let left = kinds.iter().filter(|(_, all)| all.len() > round);
        // From both ends: the first of a kind are those of the start.
        let pick = |all: &[u64]| if round % 2 == 0 { all[round / 2] } else { all[all.len() - 1 - round / 2] };
        let before = kills.len();
        kills.extend(left.map(|((what, moment), all)| (what.clone(), pick(all), *moment)));
        if kills.len() >= KILLS || kills.len() == before {
            break;
        }
    }
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let hit: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let worker = || {
        while let Some((n, (what, at, moment))) = {
            let n = next.fetch_add(1, Relaxed);
            kills.get(n).map(|kill| (n, kill))
        } {
            let home = prepare();
            assert!(run(home.path(), Some((*at, *moment))), "{what}, {at}, {moment:?}: it lives");
            *hit.lock().entry(format!("{what}, {}", format!("{moment:?}").to_lowercase())).or_default() += 1;
            total.fetch_add(1, Relaxed);
            let mut words = format!("killed {moment:?} operation {at} ({what})");
            if n % 4 == 0 {
                // And once more while it starts anew.
                let again = (n / 4 % 12) as u64;
                if run(home.path(), Some((again, Before))) {
                    total.fetch_add(1, Relaxed);
                    words += &format!(", and before operation {again} of the next start");
                    *hit.lock().entry("a start after a kill".to_owned()).or_default() += 1;
                }
            }
            judge(home.path(), &words);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("its panic is above"));
    });
    let total = total.into_inner();
    println!("{} operations; {total} kills:", log.lines().count());
    for (what, times) in hit.into_inner() {
        println!("{times:>5} {what}");
    }
    assert!(total >= KILLS, "{total} kills");
}
