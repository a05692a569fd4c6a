//! A disk that hangs or fails at will, and what the writer makes of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::data::{DiskFileSystem, FileStamp, FileSystem};
use crate::registry::KeptMemory;

/// A bound on every wait of a test: what takes longer is broken.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Default)]
struct DiskState {
    /// Writes hang while this is set.
    hangs: bool,
    fails: bool,
    /// Writes that hang now.
    hanging: usize,
    /// Ask whether the file may be replaced before the hang, not after it: as a rename that hangs.
    asks_early: bool,
}

#[derive(Default)]
struct BadDisk {
    state: Mutex<DiskState>,
    changed: Condvar,
}

impl BadDisk {
    fn set(&self, change: impl FnOnce(&mut DiskState)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn until_hanging(&self, n: usize) {
        let mut state = self.state.lock();
        let waited = self.changed.wait_while_for(&mut state, |state| state.hanging != n, LONGEST);
        assert!(!waited.timed_out(), "no write came to the disk");
    }
}

impl FileSystem for BadDisk {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        DiskFileSystem.list(folder)
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        DiskFileSystem.stamp(file)
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        DiskFileSystem.read(file, most)
    }

    fn distrust(&self, _: &Path) -> Option<String> {
        None
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.write_if(file, bytes, mode, &|| true)
    }

    fn write_if(
        &self,
        file: &Path,
        bytes: &[u8],
        mode: u32,
        may_replace: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let early = state.asks_early.then(may_replace);
        state.hanging += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| state.hangs);
        state.hanging -= 1;
        let fails = state.fails;
        drop(state);
        self.changed.notify_all();
        if fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match early {
            Some(early) => DiskFileSystem.write_if(file, bytes, mode, &|| early),
            None => DiskFileSystem.write_if(file, bytes, mode, may_replace),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFileSystem.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        DiskFileSystem.remove(file)
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        DiskFileSystem.make_folder(folder, mode)
    }
}

fn kept(n: u8) -> KeptPhase {
    KeptPhase { memory: Some(KeptMemory { version: 1, bytes: vec![n; 8] }), ..KeptPhase::default() }
}

struct Fixture {
    disk: Arc<BadDisk>,
    folder: Arc<DataFolder>,
    writer: StateWriter,
    /// Threads cannot be started while this is set.
    has_no_threads: Arc<AtomicBool>,
    _root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::abandoning_after(ABANDONED_AFTER)
    }

    fn abandoning_after(after: Duration) -> Self {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(BadDisk::default());
        let folder = Arc::new(DataFolder::open_on(root.path(), Arc::clone(&disk) as _).unwrap());
        let has_no_threads = Arc::new(AtomicBool::new(false));
        let fails = Arc::clone(&has_no_threads);
        let spawn = move |name: &str, run: Box<dyn FnOnce() + Send>| {
            if fails.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
        };
        let writer = StateWriter::start_with(&folder, after, Box::new(spawn)).unwrap();
        Self { disk, folder, writer, has_no_threads, _root: root }
    }

    fn put(&self, n: u8, order: u64) {
        self.writer.put(StateValue::Phase("a".into(), kept(n)), order);
    }

    fn on_disk(&self) -> KeptPhase {
        self.folder.load_phase("a").unwrap().value
    }

    /// Hands over to another thread at once, as the thread that supervises does after a while.
    fn abandon(&self) {
        let shared = &self.writer.shared;
        shared.supervise(&mut shared.queue.lock(), Duration::ZERO);
    }

    fn until_returned(&self) {
        let mut queue = self.writer.shared.queue.lock();
        let changed = &self.writer.shared.changed;
        let waited = changed.wait_while_for(&mut queue, |queue| queue.abandoned > 0, LONGEST);
        assert!(!waited.timed_out(), "the abandoned thread did not return");
    }
}

#[test]
fn handing_over_never_waits_and_the_newest_value_wins() {
    let fixture = Fixture::new();
    fixture.disk.set(|disk| disk.hangs = true);
    fixture.put(1, 1);
    fixture.disk.until_hanging(1);
    for n in 2..100 {
        fixture.put(n, n.into());
    }
    let late = fixture.writer.finish(Duration::from_millis(10)).unwrap_err();
    assert_eq!(late, "the disk did not answer in time: what phase a remembers is not saved");
    assert_eq!(fixture.writer.unsaved_phase("a"), Some(kept(99)));
    fixture.disk.set(|disk| disk.hangs = false);
    fixture.writer.finish(LONGEST).unwrap();
    assert_eq!((fixture.on_disk(), fixture.writer.unsaved_phase("a")), (kept(99), None));
    // The first value, and the last one: those in between were replaced before they were written.
    assert_eq!(fixture.writer.counts().saved, 2);
}

#[test]
fn an_older_value_that_comes_later_is_not_written() {
    let fixture = Fixture::new();
    fixture.put(2, 7);
    fixture.writer.put_phase_and_wait("a", kept(1), Some(6));
    fixture.writer.finish(LONGEST).unwrap();
    assert_eq!(fixture.on_disk(), kept(2));
    // Without an order it is what a phase that does not run has kept.
    fixture.writer.put_phase_and_wait("a", kept(3), None);
    assert_eq!(fixture.on_disk(), kept(3));
}

#[test]
fn a_thread_that_comes_back_after_it_was_abandoned_does_not_bring_back_older_state() {
    for asks_early in [false, true] {
        let fixture = Fixture::new();
        fixture.disk.set(|disk| (disk.hangs, disk.asks_early) = (true, asks_early));
        fixture.put(1, 1);
        fixture.disk.until_hanging(1);
        fixture.abandon();
        fixture.disk.until_hanging(2);
        fixture.put(2, 2);
        fixture.disk.set(|disk| disk.hangs = false);
        fixture.until_returned();
        fixture.writer.finish(LONGEST).unwrap();
        assert_eq!(fixture.on_disk(), kept(2), "asks early: {asks_early}");
    }
}

#[test]
fn a_write_that_fails_is_reported_and_tried_again() {
    let fixture = Fixture::new();
    fixture.disk.set(|disk| disk.fails = true);
    fixture.put(1, 1);
    let error = fixture.writer.finish(LONGEST).unwrap_err();
    assert!(error.starts_with("cannot save what phase a remembers: cannot write"), "{error}");
    assert_eq!(fixture.writer.unsaved_phase("a"), Some(kept(1)));
    fixture.disk.set(|disk| disk.fails = false);
    fixture.writer.finish(LONGEST).unwrap();
    assert_eq!(fixture.on_disk(), kept(1));
}

#[test]
fn a_thread_that_cannot_be_replaced_stays_in_charge_until_it_can() {
    let fixture = Fixture::new();
    fixture.disk.set(|disk| disk.hangs = true);
    fixture.put(1, 1);
    fixture.disk.until_hanging(1);
    fixture.has_no_threads.store(true, Ordering::Relaxed);
    fixture.abandon();
    assert_eq!(fixture.writer.counts().abandoned, 0);
    // The disk answers again: the first thread writes on.
    fixture.put(2, 2);
    fixture.disk.set(|disk| disk.hangs = false);
    fixture.writer.finish(LONGEST).unwrap();
    assert_eq!(fixture.on_disk(), kept(2));
    // Or it does not: the next look finds a thread.
    fixture.disk.set(|disk| disk.hangs = true);
    fixture.put(3, 3);
    fixture.disk.until_hanging(1);
    fixture.abandon();
    fixture.has_no_threads.store(false, Ordering::Relaxed);
    fixture.abandon();
    fixture.disk.until_hanging(2);
    assert_eq!(fixture.writer.counts().abandoned, 1);
    fixture.disk.set(|disk| disk.hangs = false);
    fixture.writer.finish(LONGEST).unwrap();
    assert_eq!(fixture.on_disk(), kept(3));
}

#[test]
fn a_write_that_hangs_is_handed_over_without_a_tick() {
    let fixture = Fixture::abandoning_after(Duration::from_millis(50));
    fixture.disk.set(|disk| disk.hangs = true);
    fixture.put(1, 1);
    fixture.disk.until_hanging(1);
    // Only the thread of the writer itself looks after it.
    let mut state = fixture.disk.state.lock();
    let waited = fixture.disk.changed.wait_while_for(&mut state, |state| state.hanging < 2, LONGEST);
    assert!(!waited.timed_out(), "no other thread took over");
    drop(state);
    fixture.disk.set(|disk| disk.hangs = false);
}

#[test]
fn a_caller_that_waits_does_not_wait_for_the_next_retry() {
    let fixture = Fixture::new();
    fixture.disk.set(|disk| disk.fails = true);
    fixture.put(1, 1);
    fixture.writer.finish(LONGEST).unwrap_err();
    {
        let mut queue = fixture.writer.shared.queue.lock();
        for entry in queue.files.values_mut() {
            // After many failures, the next retry is far away: here so far that a caller would never return.
            entry.trouble.as_mut().unwrap().again_at = Instant::now() + Duration::from_secs(1 << 20);
        }
    }
    fixture.disk.set(|disk| disk.fails = false);
    fixture.writer.put_phase_and_wait("a", kept(2), None);
    assert_eq!(fixture.on_disk(), kept(2));
}

#[test]
fn the_values_that_wait_are_written_when_the_writer_is_dropped() {
    let Fixture { folder, writer, _root, .. } = Fixture::new();
    writer.put(StateValue::Phase("a".into(), kept(1)), 1);
    let shared = Arc::clone(&writer.shared);
    drop(writer);
    let begun = Instant::now();
    while Arc::strong_count(&shared) > 1 {
        assert!(begun.elapsed() < LONGEST, "the thread did not end");
        std::thread::yield_now();
    }
    assert_eq!(folder.load_phase("a").unwrap().value, kept(1));
}
