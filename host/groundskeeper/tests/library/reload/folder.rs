//! Real files, changed in the ways in which people and programs change them, and a reloader that is moved by hand.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use groundskeeper::data::{DiskFileSystem, FileStamp, FileSystem};
use groundskeeper::registry::{KeptPhase, PhaseState, PhaseStatus};
use groundskeeper::reload::{PhaseChange, ScanKind, StartFrom};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::world::{Hand, Process, manifest, module, now};

/// A node on real folders, on a clock that is moved by hand.
pub struct Room {
    pub home: TempDir,
    pub clock: Arc<Hand>,
    pub process: Process,
    /// What the reloader has told so far.
    told: Vec<(String, PhaseChange)>,
}

impl Room {
    /// The folder has phases "alpha" and "beta", both at version 1, if it is there.
    fn new(is_there: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        if is_there {
            fs::create_dir(home.path().join("phases.d")).unwrap();
            for name in ["alpha", "beta"] {
                fs::write(home.path().join(format!("phases.d/{name}.wasm")), module(1, "good")).unwrap();
                fs::write(home.path().join(format!("phases.d/{name}.toml")), manifest(name, "")).unwrap();
            }
        }
        Self::on(home)
    }

    pub fn on(home: TempDir) -> Self {
        let clock = Arc::new(Hand::default());
        let process = start(&home, &clock, StartFrom::Folder);
        Self { home, clock, process, told: Vec::new() }
    }

    /// The process ends, and another one begins.
    pub fn start_anew(self, from: StartFrom) -> Self {
        let Self { home, clock, process, told } = self;
        drop(process);
        let process = start(&home, &clock, from);
        Self { home, clock, process, told }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.home.path().join("phases.d").join(file)
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        seen(&path, || fs::write(&path, text).unwrap());
    }

    /// Module and manifest, as somebody does who writes in place.
    pub fn put(&self, name: &str, version: u32, behaviour: &str, more: &str) {
        self.write(&format!("{name}.wasm"), &module(version, behaviour));
        self.write(&format!("{name}.toml"), &manifest(name, more));
    }

    fn look(&mut self, kind: ScanKind) {
        let report = self.process.step(kind);
        self.told.extend(report.events.into_iter().map(|event| (event.phase, event.change)));
    }

    /// Some time passes in which nobody looks, and then somebody does.
    fn pass(&mut self, ms: u64) {
        self.clock.advance(ms);
        self.look(ScanKind::Hint);
    }

    pub fn rest(&mut self) {
        for report in self.process.come_to_rest() {
            self.told.extend(report.events.into_iter().map(|event| (event.phase, event.change)));
        }
    }

    /// Ticks, each with the look that follows. In which of them `name` ended a run well.
    pub fn beats(&mut self, ticks: u32, name: &str) -> Vec<u32> {
        let mut ran = Vec::new();
        for _ in 0..ticks {
            let report = self.process.beat();
            let good = report.runs.iter().filter(|run| &*run.name == name && run.result == "ok");
            ran.extend(good.map(|_| report.tick));
            self.look(ScanKind::Hint);
        }
        ran
    }

    pub fn runs(&self, name: &str) -> Option<u32> {
        self.process.runs(name)
    }

    pub fn phase(&self, name: &str) -> PhaseStatus {
        self.process.phase(name).expect("it is shown")
    }

    /// Version and count in its memory.
    pub fn memory(&self, name: &str) -> (u32, u32) {
        remembered(&self.process.cycle.snapshot(name).expect("it runs"))
    }

    fn take_told(&mut self) -> Vec<(String, PhaseChange)> {
        std::mem::take(&mut self.told)
    }

    fn applied(&mut self) -> usize {
        self.take_told().iter().filter(|(_, change)| *change == PhaseChange::Applied).count()
    }

    fn digests(&self) -> u64 {
        self.process.reloader.counts().digests
    }
}

fn start(home: &TempDir, clock: &Arc<Hand>, from: StartFrom) -> Process {
    let (data, dir) = (home.path().join("data"), home.path().join("phases.d"));
    let process = Process::start(clock, &data, &dir, Arc::new(DiskFileSystem), from);
    process.begun.as_ref().expect("the folder can be read");
    process
}

pub fn remembered(kept: &KeptPhase) -> (u32, u32) {
    let memory = kept.memory.as_ref().expect("it remembers");
    (memory.version, u32::from_le_bytes(memory.bytes.clone().try_into().unwrap()))
}

/// Does something to `path` until the file system shows it: its clock stands for milliseconds, in which ours may have gone
/// on for seconds.
fn seen(path: &Path, change: impl Fn()) {
    let stamp = || DiskFileSystem.stamp(path).unwrap_or_default();
    let before = stamp();
    change();
    while before != FileStamp::default() && stamp() == before {
        change();
    }
}

/// How a file is saved, with what somebody may see of it in between.
type Save = fn(&mut Room, &str, &str);

fn in_place(room: &mut Room, file: &str, text: &str) {
    for end in [0, 3, text.len() / 2, text.len()] {
        room.write(file, &text[..end]);
        room.pass(20);
    }
}

fn renamed(room: &mut Room, file: &str, text: &str) {
    let (draft, path) = (room.path(&format!(".{file}.draft")), room.path(file));
    fs::write(&draft, text).unwrap();
    room.pass(20);
    fs::rename(draft, path).unwrap();
    room.pass(20);
}

/// As some editors do: a backup of the old one, in the same folder and not hidden.
fn backed_up(room: &mut Room, file: &str, text: &str) {
    let path = room.path(file);
    fs::rename(&path, room.path(&format!("{file}~"))).unwrap();
    room.pass(20);
    fs::write(path, text).unwrap();
    room.pass(20);
}

fn deleted(room: &mut Room, file: &str, text: &str) {
    let path = room.path(file);
    fs::remove_file(&path).unwrap();
    room.pass(20);
    fs::write(path, text).unwrap();
    room.pass(20);
}

/// Long enough for a look that is at rest to find it gone.
fn deleted_for_a_while(room: &mut Room, file: &str, text: &str) {
    let path = room.path(file);
    fs::remove_file(&path).unwrap();
    room.pass(0);
    room.pass(301);
    fs::write(path, text).unwrap();
    room.pass(50);
}

const WAYS: [(&str, Save); 5] = [
    ("truncate and write", in_place),
    ("write and rename", renamed),
    ("backup and write", backed_up),
    ("delete and create", deleted),
    ("delete, look, create", deleted_for_a_while),
];

#[test]
fn editors_save_as_they_like() {
    for (way, save) in WAYS {
        for file in ["alpha.wasm", "alpha.toml"] {
            let mut room = Room::new(true);
            room.beats(2, "alpha");
            let text = match file {
                "alpha.wasm" => module(2, "good"),
                _ => manifest("alpha", "[schedule]\nevery_n_ticks = 7\n"),
            };
            save(&mut room, file, &text);
            room.rest();
            let told = room.take_told();
            let bad = told.iter().filter(|(_, change)| *change != PhaseChange::Applied);
            // What is away when it is looked at is waited for; nothing else is even told.
            assert!(
                bad.clone().all(|(_, change)| *change == PhaseChange::Pending),
                "{way}, {file}: {told:?}"
            );
            assert_eq!(told.len() - bad.count(), 1, "{way}, {file}: {told:?}");
            let phase = room.phase("alpha");
            assert_eq!(phase.candidate, None, "{way}, {file}");
            if file == "alpha.wasm" {
                assert_eq!(&*phase.version, "2", "{way}");
            } else {
                assert_eq!(phase.every_n_ticks, 7, "{way}");
            }
            assert_eq!((room.runs("beta"), room.memory("alpha")), (Some(1), (1, 2)), "{way}, {file}");
        }
    }
}

#[test]
fn a_slow_writer_is_waited_for() {
    let text = module(2, "good");
    // Three seconds in pieces that come faster than files rest: it is read once.
    let mut room = Room::new(true);
    let before = room.digests();
    for piece in 1..=12 {
        room.write("alpha.wasm", &text[..text.len() * piece / 12]);
        room.pass(250);
        assert_eq!(room.runs("alpha"), Some(1), "piece {piece}");
    }
    room.rest();
    assert_eq!((room.runs("alpha"), room.digests() - before), (Some(2), 1));
    assert_eq!(room.take_told(), [("alpha".to_owned(), PhaseChange::Applied)]);
    // With pauses in which a file seems to rest: what is half is waited for.
    let mut room = Room::new(true);
    for end in [4, 7, 9, text.len()] {
        assert_eq!(room.runs("alpha"), Some(1), "up to {end}");
        room.write("alpha.wasm", &text[..end]);
        for _ in 0..3 {
            room.pass(350);
        }
    }
    room.rest();
    assert_eq!((room.runs("alpha"), room.phase("alpha").candidate), (Some(2), None));
    let told = room.take_told();
    assert!(
        told.iter().all(|(_, change)| matches!(change, PhaseChange::Pending | PhaseChange::Applied)),
        "{told:?}"
    );
}

#[test]
fn a_pair_may_come_two_seconds_apart() {
    let pin = |version| {
        let digest: [u8; 32] = Sha256::digest(module(version, "good")).into();
        format!("sha256 = \"{}\"\n", data_encoding::HEXLOWER.encode(&digest))
    };
    for is_pinned in [true, false] {
        for first in ["alpha.toml", "alpha.wasm"] {
            let at = format!("pinned: {is_pinned}, first: {first}");
            let mut room = Room::new(true);
            let text = |version| {
                let pin = if is_pinned { pin(version) } else { String::new() };
                let schedule = format!("[schedule]\nevery_n_ticks = {version}\n");
                manifest("alpha", &(pin + &schedule))
            };
            room.write("alpha.toml", &text(1));
            room.rest();
            room.beats(4, "alpha");
            assert_eq!(room.phase("alpha").state, PhaseState::Active, "{at}");
            room.take_told();
            let rename = |room: &mut Room, file: &str| {
                let text = if file == "alpha.toml" { text(2) } else { module(2, "good") };
                renamed(room, file, &text);
            };
            rename(&mut room, first);
            for _ in 0..10 {
                let phase = room.phase("alpha");
                let pair = (&*phase.version, phase.every_n_ticks);
                // A pinned pair changes as one; without a pin each file means what it says.
                if is_pinned {
                    assert_eq!(pair, ("1", 1), "{at}");
                }
                room.pass(200);
            }
            if is_pinned {
                let candidate = room.phase("alpha").candidate.expect("it is shown");
                assert_eq!(candidate.state, PhaseState::Pending, "{at}");
            }
            rename(&mut room, if first == "alpha.toml" { "alpha.wasm" } else { "alpha.toml" });
            room.rest();
            let phase = room.phase("alpha");
            assert_eq!((&*phase.version, phase.every_n_ticks, phase.candidate), ("2", 2, None), "{at}");
            assert_eq!(room.applied(), if is_pinned { 1 } else { 2 }, "{at}");
            // Either way it is the pair before that could return.
            room.beats(1, "alpha");
            room.put("alpha", 3, "trap-run 1", "");
            room.rest();
            room.beats(2, "alpha");
            assert_eq!((room.runs("alpha"), room.phase("alpha").every_n_ticks), (Some(1), 1), "{at}");
        }
    }
}

#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let mut room = Room::new(false);
    let folder = room.path("");
    let swap = |n: u32, versions: [u32; 2]| {
        let next = folder.join(format!("..2026_{n}"));
        fs::create_dir_all(&next).unwrap();
        for (name, version) in ["alpha", "beta"].into_iter().zip(versions) {
            fs::write(next.join(format!("{name}.wasm")), module(version, "good")).unwrap();
            fs::write(next.join(format!("{name}.toml")), manifest(name, "")).unwrap();
        }
        symlink(next.file_name().unwrap(), folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        // As it is after a first one: there is nothing before it.
        _ = fs::remove_dir_all(folder.join(format!("..2026_{}", n - 1)));
    };
    swap(1, [1, 1]);
    for file in ["alpha.wasm", "alpha.toml", "beta.wasm", "beta.toml"] {
        symlink(Path::new("..data").join(file), room.path(file)).unwrap();
    }
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(1), Some(1)));
    room.take_told();
    // All files are other files now, and one of them says something else.
    swap(2, [2, 1]);
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(2), Some(1)));
    assert_eq!(room.take_told(), [("alpha".to_owned(), PhaseChange::Applied)]);
    swap(3, [3, 3]);
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta"), room.applied()), (Some(3), Some(3), 2));
}

#[test]
fn the_same_bytes_are_no_news() {
    fn set_time(room: &Room, file: &str, time: SystemTime) {
        let path = room.path(file);
        seen(&path, || File::options().write(true).open(&path).unwrap().set_modified(time).unwrap());
    }
    // What is done, how often, how far apart, and how many digests that may cost.
    type Deed = fn(&Room);
    let table: [(&str, Deed, u32, u64, u64); 6] = [
        ("touch", |room| set_time(room, "alpha.wasm", now()), 1, 20, 1),
        ("touch the manifest", |room| set_time(room, "alpha.toml", now()), 1, 20, 1),
        ("mtime in the past", |room| set_time(room, "alpha.wasm", SystemTime::UNIX_EPOCH), 1, 20, 1),
        ("written anew", |room| room.write("alpha.wasm", &module(1, "good")), 1, 20, 1),
        // While files are written to all the time they are read each five seconds.
        ("1,000 times in a second", |room| room.write("alpha.wasm", &module(1, "good")), 1_000, 1, 1),
        ("1,000 times in 20 s", |room| room.write("alpha.wasm", &module(1, "good")), 1_000, 20, 4),
    ];
    for (what, deed, times, apart, most) in table {
        let mut room = Room::new(true);
        room.beats(1, "alpha");
        room.rest();
        let before = (room.digests(), room.phase("alpha"));
        for _ in 0..times {
            deed(&room);
            room.pass(apart);
        }
        room.rest();
        let digests = room.digests() - before.0;
        assert!((1..=most).contains(&digests), "{what}: {digests} digests");
        assert_eq!(room.take_told(), [], "{what}");
        assert_eq!(room.phase("alpha"), before.1, "{what}");
    }
}

#[test]
fn news_in_old_clothes_is_news() {
    // Other bytes of the same size, with the time of the old ones: the inode tells.
    let mut room = Room::new(true);
    let path = room.path("alpha.wasm");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    room.rest();
    let stamp = DiskFileSystem.stamp(&path).unwrap();
    while DiskFileSystem.stamp(&path).unwrap() == stamp {
        fs::write(&path, module(2, "good")).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let now = DiskFileSystem.stamp(&path).unwrap();
    assert_eq!((now.modified, now.size, now.inode), (stamp.modified, stamp.size, stamp.inode));
    room.rest();
    assert_eq!(room.runs("alpha"), Some(2));
}

#[test]
fn the_folder_may_go_and_come() {
    // Not there yet, which is nothing to complain about.
    let mut room = Room::new(false);
    assert_eq!(room.process.step(ScanKind::Hint).trouble, None);
    fs::create_dir(room.path("")).unwrap();
    room.put("alpha", 1, "good", "");
    room.put("beta", 1, "good", "");
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta"), room.applied()), (Some(1), Some(1), 2));
    room.beats(1, "alpha");
    // Gone as a whole: a volume that is not mounted is no order to stop.
    let away = room.home.path().join("away");
    fs::rename(room.path(""), &away).unwrap();
    for kind in [ScanKind::Hint, ScanKind::Thorough, ScanKind::Ordered, ScanKind::Hint] {
        room.clock.advance(1_000);
        let report = room.process.step(kind);
        let trouble = report.trouble.clone().expect("it is told");
        assert!(trouble.contains("runs on") && !report.is_good(), "{trouble}");
    }
    room.beats(2, "alpha");
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(1), (1, 3)));
    // Their probation has ended meanwhile.
    assert!(room.take_told().iter().all(|(_, change)| *change == PhaseChange::Proven));
    // Back as it was.
    fs::rename(&away, room.path("")).unwrap();
    room.rest();
    assert_eq!((room.take_told(), room.process.step(ScanKind::Hint).trouble), (Vec::new(), None));
    // Gone, and made again with something else in it.
    fs::remove_dir_all(room.path("")).unwrap();
    room.pass(1_000);
    fs::create_dir(room.path("")).unwrap();
    room.put("alpha", 2, "good", "");
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(2), None));
    let told = room.take_told();
    assert_eq!(
        told,
        [("alpha", PhaseChange::Applied), ("beta", PhaseChange::Removed)].map(|(n, c)| (n.to_owned(), c))
    );
    // A start without the folder runs what was good last.
    room.beats(4, "alpha");
    fs::remove_dir_all(room.path("")).unwrap();
    let room = room.start_anew(StartFrom::Folder);
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(2), None));
}

#[test]
fn a_removal_takes_two_looks() {
    let mut room = Room::new(true);
    room.beats(3, "alpha");
    assert!(room.take_told().iter().all(|(_, change)| *change == PhaseChange::Proven));
    fs::remove_file(room.path("alpha.toml")).unwrap();
    room.pass(0);
    room.pass(299);
    assert_eq!(room.runs("alpha"), Some(1), "it may be on its way");
    room.pass(1);
    assert_eq!(room.runs("alpha"), Some(1), "gone at one look");
    room.pass(2_999);
    // Back before it counts as gone.
    room.write("alpha.toml", &manifest("alpha", ""));
    room.pass(299);
    room.rest();
    assert_eq!((room.runs("alpha"), room.take_told()), (Some(1), Vec::new()));
    fs::remove_file(room.path("alpha.toml")).unwrap();
    fs::remove_file(room.path("alpha.wasm")).unwrap();
    room.rest();
    assert_eq!(room.take_told(), [("alpha".to_owned(), PhaseChange::Removed)]);
    assert!(room.process.phase("alpha").is_none() && room.runs("beta") == Some(1));
    // What it knew waits for it.
    room.put("alpha", 2, "good", "");
    room.rest();
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(2), (1, 3)));
    // One that is ordered needs no second look, and a module that is gone is no removal.
    fs::remove_file(room.path("beta.toml")).unwrap();
    fs::remove_file(room.path("alpha.wasm")).unwrap();
    room.look(ScanKind::Ordered);
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(2), None));
    room.rest();
    let candidate = room.phase("alpha").candidate.expect("it is shown");
    assert!(candidate.state == PhaseState::Rejected && candidate.why.contains("alpha.wasm"), "{candidate:?}");
}

/// As deployment tools do: the files are unlinked, and written again a second later.
#[test]
fn a_file_that_is_missing_for_a_second_costs_no_run_and_no_former_generation() {
    for missing in [&["alpha.toml"][..], &["alpha.wasm"], &["alpha.toml", "alpha.wasm"]] {
        let mut room = Room::new(true);
        room.beats(4, "alpha");
        room.take_told();
        for file in missing {
            fs::remove_file(room.path(file)).unwrap();
        }
        for _ in 0..5 {
            room.pass(200);
            assert_eq!(room.runs("alpha"), Some(1), "{missing:?}");
        }
        // The new files fail on probation: there is a generation to go back to.
        room.put("alpha", 2, "trap-run 2", "");
        room.rest();
        assert_eq!((room.runs("alpha"), room.applied()), (Some(2), 1), "{missing:?}");
        room.beats(3, "alpha");
        assert_eq!(room.runs("alpha"), Some(1), "{missing:?}: it went back");
        // The manifest alone comes first, and its module a second later.
        room.put("beta", 2, "good", "");
        fs::remove_file(room.path("beta.wasm")).unwrap();
        (0..5).for_each(|_| room.pass(200));
        assert_eq!(room.runs("beta"), Some(1));
        room.write("beta.wasm", &module(2, "good"));
        room.rest();
        assert_eq!(room.runs("beta"), Some(2));
    }
}

/// Ways to be broken: file, what is in it, part of the reason that is shown, failed runs.
const BROKEN: [(&str, &str, &str, &str, u64); 7] = [
    ("broken TOML", "alpha.toml", "name = \"alpha", "alpha.toml", 0),
    ("an unknown key", "alpha.toml", "name = \"alpha\"\nkind = \"wasm\"\ngarnts = 1\n", "grants", 0),
    ("a truncated module", "alpha.wasm", "version 2", "half a script", 0),
    ("no module at all", "alpha.wasm", "", "half a script", 0),
    ("a trap on trial", "alpha.wasm", "version 2 trap-trial", "on trial: ", 0),
    ("a trap in its first run", "alpha.wasm", "version 2 trap-run 1", "the generation before runs again", 1),
    ("a trap in its second run", "alpha.wasm", "version 2 trap-run 2", "the generation before runs again", 1),
];

#[test]
fn what_is_broken_costs_nothing() {
    for (every, before, after) in [(1, 3, 8), (120, 130, 370)] {
        let schedule = format!("[schedule]\nevery_n_ticks = {every}\n");
        let begin = || {
            let mut room = Room::new(true);
            room.put("alpha", 1, "good", &schedule);
            room.put("beta", 1, "good", &schedule);
            room.rest();
            // Its probation is over, or it would have nothing of its own to go back to.
            while room.phase("alpha").state == PhaseState::Probation {
                room.beats(1, "alpha");
            }
            let ran = room.beats(before, "alpha");
            room.take_told();
            (room, ran)
        };
        let (mut control, mut calm) = begin();
        calm.extend(control.beats(after, "alpha"));
        assert!(calm.len() >= 3, "{calm:?}");
        for (what, file, text, reason, failures) in BROKEN {
            let at = format!("{what}, every {every}");
            let (mut room, mut ran) = begin();
            room.write(file, text);
            // Its neighbour changes at the same time.
            room.put("beta", 2, "good", &schedule);
            room.rest();
            assert_eq!(room.runs("beta"), Some(2), "{at}");
            if failures == 0 {
                assert_eq!(room.runs("alpha"), Some(1), "{at}");
            }
            ran.extend(room.beats(after, "alpha"));
            assert_eq!(ran, calm, "{at}: the ticks in which it ran well");
            let phase = room.phase("alpha");
            assert_eq!((&*phase.version, phase.state), ("1", PhaseState::Active), "{at}");
            assert_eq!(phase.runs, control.phase("alpha").runs + failures, "{at}");
            assert_eq!(phase.failures, failures, "{at}");
            let candidate = phase.candidate.expect("it is shown");
            assert_eq!(candidate.state, PhaseState::Rejected, "{at}");
            assert!(candidate.why.contains(reason), "{at}: {}", candidate.why);
            assert!(candidate.since_unix_s.is_some(), "{at}");
            // What the newer one stored before it failed is gone with it, and nothing else.
            let (version, count) = control.memory("alpha");
            let undone = u32::from(what == "a trap in its second run");
            assert_eq!(room.memory("alpha"), (version, count - undone), "{at}");
            // The fixed file heals it; nothing is started anew.
            room.put("alpha", 3, "good", &schedule);
            room.rest();
            assert_eq!((room.runs("alpha"), room.phase("alpha").candidate), (Some(3), None), "{at}");
            assert_eq!(room.runs("beta"), Some(2), "{at}");
        }
    }
}

#[test]
fn each_generation_has_its_own_memory_back() {
    let mut room = Room::new(true);
    room.beats(3, "alpha");
    assert_eq!(room.memory("alpha"), (1, 3));
    room.put("alpha", 2, "trap-run 2", "");
    room.rest();
    room.beats(1, "alpha");
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(2), (2, 4)));
    // Ended in probation: the next one goes on with it, and can still go back.
    let mut room = room.start_anew(StartFrom::Folder);
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(2), (2, 4)));
    assert_eq!(room.phase("alpha").state, PhaseState::Probation);
    let report = room.process.beat();
    let results: Vec<&str> =
        report.runs.iter().filter(|run| &*run.name == "alpha").map(|run| run.result).collect();
    // Scripts count their runs from when they are loaded.
    assert_eq!(results, ["ok"]);
    let report = room.process.beat();
    let results: Vec<&str> =
        report.runs.iter().filter(|run| &*run.name == "alpha").map(|run| run.result).collect();
    assert_eq!(results, ["trapped", "ok"], "the run that it failed is made good");
    room.look(ScanKind::Hint);
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(1), (1, 4)));
    let on_disk = room.process.folder.load_phase("alpha").unwrap();
    assert_eq!((on_disk.warning, remembered(&on_disk.value).0), (None, 1));
    // Nothing brings the bad bytes back but other bytes: no look, no order, no start.
    room.look(ScanKind::Thorough);
    room.look(ScanKind::Ordered);
    let mut room = room.start_anew(StartFrom::Folder);
    room.look(ScanKind::Ordered);
    assert_eq!(room.runs("alpha"), Some(1));
    assert!(room.phase("alpha").candidate.expect("it is shown").why.contains("have failed"));
    assert_eq!(room.beats(2, "alpha"), [1, 2]);
    assert_eq!(room.memory("alpha"), (1, 6));
    // Forgiven, they have another chance; and who takes them back before they failed gets his own memory too.
    room.process.reloader.forgive("alpha");
    room.look(ScanKind::Ordered);
    room.beats(1, "alpha");
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(2), (2, 7)));
    room.put("alpha", 1, "good", "");
    room.rest();
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(1), (1, 6)));
    assert_eq!(room.phase("alpha").state, PhaseState::Active);
}

#[test]
fn a_first_generation_that_fails_on_probation_is_taken_out_and_known_to_be_bad() {
    let mut room = Room::new(true);
    room.put("delta", 1, "trap-run 2", "");
    room.rest();
    assert_eq!((room.runs("delta"), room.phase("delta").state), (Some(1), PhaseState::Probation));
    room.beats(1, "delta");
    assert_eq!(room.memory("delta"), (1, 1));
    room.beats(1, "delta");
    let check = |room: &Room, at: &str| {
        let phase = room.phase("delta");
        assert_eq!((room.runs("delta"), phase.state), (None, PhaseState::Rejected), "{at}");
        let why = phase.last_error.expect("it is shown");
        assert!(why.contains("scripted, in run 2") || why.contains("have failed before"), "{at}: {why}");
        let kept = room.process.folder.load_phase("delta").unwrap().value;
        assert_eq!(kept.memory, None, "{at}: what it stored is gone with it");
    };
    check(&room, "after the failure");
    room.look(ScanKind::Thorough);
    room.look(ScanKind::Ordered);
    check(&room, "after an order");
    let mut room = room.start_anew(StartFrom::Folder);
    check(&room, "after a start");
    // Forgiven, it has another chance, and its probation begins again.
    room.process.reloader.forgive("delta");
    room.look(ScanKind::Ordered);
    assert_eq!((room.runs("delta"), room.phase("delta").state), (Some(1), PhaseState::Probation));
    // Other bytes are on probation too, and pass it.
    room.put("delta", 2, "good", "");
    room.rest();
    room.beats(3, "delta");
    assert_eq!((room.runs("delta"), room.phase("delta").state), (Some(2), PhaseState::Active));
    // The neighbours have noticed nothing.
    assert_eq!((room.runs("alpha"), room.phase("alpha").state), (Some(1), PhaseState::Active));
}

#[test]
fn a_first_generation_is_on_probation_from_one_process_to_the_next() {
    let mut room = Room::new(true);
    room.put("delta", 1, "trap-run 2", "");
    room.rest();
    room.beats(1, "delta");
    let room = room.start_anew(StartFrom::Folder);
    assert_eq!((room.runs("delta"), room.phase("delta").state), (Some(1), PhaseState::Probation));
    // A file that cannot be read does not stop it: nothing better is known.
    room.write("delta.toml", "name = \"");
    let mut room = room.start_anew(StartFrom::Folder);
    assert_eq!((room.runs("delta"), room.phase("delta").state), (Some(1), PhaseState::Probation));
    room.beats(2, "delta");
    assert_eq!(room.runs("delta"), None);
}

#[test]
fn a_disk_that_fails_at_a_start_costs_no_generation_to_go_back_to() {
    let mut room = Room::new(true);
    room.beats(4, "alpha");
    let folder = room.home.path().join("data/generations");
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !fs::read(path).unwrap().is_empty()).collect()
    };
    let before = files();
    room.put("alpha", 2, "trap-run 3", "");
    room.rest();
    room.beats(1, "alpha");
    assert_eq!(room.phase("alpha").state, PhaseState::Probation);
    // The former generations cannot be read for a while: folders are in their places.
    let aside = room.home.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let generations: Vec<&PathBuf> = before
        .iter()
        .filter(|path| fs::read(path).unwrap().windows(9).any(|part| part == b"version 1"))
        .collect();
    assert!(!generations.is_empty());
    for path in &generations {
        fs::rename(path, aside.join(path.file_name().unwrap())).unwrap();
        fs::create_dir(path).unwrap();
    }
    let mut room = room.start_anew(StartFrom::Folder);
    assert_eq!(room.runs("alpha"), None, "it waits: there would be nothing to go back to");
    for path in &generations {
        fs::remove_dir(path).unwrap();
        fs::rename(aside.join(path.file_name().unwrap()), path).unwrap();
    }
    room.rest();
    assert_eq!((room.runs("alpha"), room.phase("alpha").state), (Some(2), PhaseState::Probation));
    room.beats(3, "alpha");
    assert_eq!(room.runs("alpha"), Some(1), "it went back");
}

#[test]
fn a_start_knows_a_broken_file_by_its_place() {
    // The file is not called like its phase, so while it is torn nothing in it says whose it is.
    let mut room = Room::new(false);
    fs::create_dir(room.path("")).unwrap();
    room.write("beta.wasm", &module(1, "good"));
    room.write("other.toml", &manifest("beta", ""));
    room.rest();
    room.beats(4, "beta");
    room.write("other.toml", "name = \"");
    let mut room = room.start_anew(StartFrom::Folder);
    assert_eq!((room.runs("beta"), room.memory("beta")), (Some(1), (1, 4)));
    assert!(room.phase("beta").candidate.is_some_and(|candidate| candidate.why.contains("other.toml")));
    room.rest();
    assert_eq!(room.runs("beta"), Some(1));
    room.write("other.toml", &manifest("beta", ""));
    room.rest();
    assert_eq!((room.runs("beta"), room.phase("beta").candidate), (Some(1), None));
}

#[test]
fn what_was_taken_back_while_the_node_was_down_has_its_own_memory() {
    let mut room = Room::new(true);
    room.beats(3, "alpha");
    room.put("alpha", 2, "good", "");
    room.rest();
    room.beats(1, "alpha");
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(2), (2, 4)));
    room.put("alpha", 1, "good", "");
    let mut room = room.start_anew(StartFrom::Folder);
    let phase = room.phase("alpha");
    assert_eq!((&*phase.version, phase.state, phase.candidate), ("1", PhaseState::Active, None));
    assert_eq!(room.memory("alpha"), (1, 3));
    // It is no former of itself: the next bad one brings it back.
    room.put("alpha", 3, "trap-run 1", "");
    room.rest();
    room.beats(1, "alpha");
    assert_eq!((room.runs("alpha"), room.memory("alpha")), (Some(1), (1, 4)));
}
