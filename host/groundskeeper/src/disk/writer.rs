//! Writes the state of a running node: the newest value of each file, on a thread that no caller waits for.
//!
//! All writes of address book, schedule, start count and phase memory go through one [`StateWriter`], so they have one
//! order. It holds one value per file: a newer one replaces an older one that is not written yet. If a write does not
//! return, another thread takes over. The first one looks, before it replaces a file, whether it was taken over; and what it
//! may have replaced nevertheless is written again when it returns.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{DiskCalls, DiskTrouble, DiskUser, PATIENCE, WatchedFileSystem};
use crate::book::BookEntry;
use crate::cycle::KeptLimits;
use crate::data::{DataError, DataFolder};
use crate::registry::{KeptPhase, LastRuns};

/// After this long another thread takes over. Some disks answer after a minute or two, when a path fails over; they must
/// not cost more than the state of some ticks.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// Threads that may hang at one time, besides the one that writes: each holds a copy of what it writes.
const MOST_ABANDONED: usize = 3;

/// Waits before a failed write is tried again: the first one, and the longest, doubled in between.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How often the thread that writes is looked after while it has something to write.
const LOOK: Duration = Duration::from_secs(1);

/// The content of one state file.
#[derive(Debug)]
pub(crate) enum StateValue {
    Book(Vec<BookEntry>),
    Schedule(LastRuns),
    /// Bans, and what guests have used of their ceilings.
    Limits(KeptLimits),
    /// Starts since the last good one.
    Starts(u32),
    Phase(Arc<str>, KeptPhase),
}

/// Names one state file. In the order in which files are written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum StateKey {
    Book,
    Phase(Arc<str>),
    Starts,
    Limits,
    Schedule,
}

impl StateValue {
    fn key(&self) -> StateKey {
        match self {
            Self::Book(_) => StateKey::Book,
            Self::Schedule(_) => StateKey::Schedule,
            Self::Limits(_) => StateKey::Limits,
            Self::Starts(_) => StateKey::Starts,
            Self::Phase(name, _) => StateKey::Phase(Arc::clone(name)),
        }
    }

    fn save(&self, folder: &DataFolder) -> Result<(), DataError> {
        match self {
            Self::Book(entries) => folder.save_book(entries),
            Self::Schedule(last_runs) => folder.save_schedule(last_runs),
            Self::Limits(limits) => folder.save_limits(limits),
            Self::Starts(starts) => folder.save_starts(*starts),
            Self::Phase(name, kept) => folder.save_phase(name, kept),
        }
    }
}

impl StateKey {
    /// In words for the operator.
    fn what(&self) -> String {
        match self {
            Self::Book => "the address book".to_owned(),
            Self::Schedule => "when phases ran".to_owned(),
            Self::Limits => "bans and what guests have used".to_owned(),
            Self::Starts => "the number of starts".to_owned(),
            Self::Phase(name) => format!("what phase {name} remembers"),
        }
    }
}

/// One state file.
#[derive(Default)]
struct StateEntry {
    /// The newest value, until it is on disk. Kept longer while a thread may come back and replace the file.
    value: Option<Arc<StateValue>>,
    is_saved: bool,
    /// Order of the newest value.
    order: u64,
    /// SaveCounters the values, and the attempts that failed.
    changes: u64,
    failures: u64,
    trouble: Option<SaveTrouble>,
}

/// A file that could not be written.
struct SaveTrouble {
    error: String,
    since: Instant,
    tries: u32,
    again_at: Instant,
}

struct Queue {
    files: BTreeMap<StateKey, StateEntry>,
    /// The thread that writes, and its calls. Threads before it are abandoned.
    writer: u64,
    calls: Arc<DiskCalls>,
    abandoned: usize,
    /// The stuck call was logged.
    is_told: bool,
    is_closed: bool,
}

/// Starts a thread of this name.
type SpawnThread = dyn Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

struct Shared {
    folder: Arc<DataFolder>,
    abandoned_after: Duration,
    spawn: Box<SpawnThread>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// `Queue::writer`, for a look without the lock.
    writer: Arc<AtomicU64>,
    counts: SaveCounters,
}

#[derive(Default)]
struct SaveCounters {
    saved: AtomicU64,
    failed: AtomicU64,
    abandoned: AtomicU64,
}

/// Writes since the start, by result.
#[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "only operators ask for it"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SaveCounts {
    pub saved: u64,
    pub failed: u64,
    /// Writes that did not return in time, so that another thread took over.
    pub abandoned: u64,
}

/// See the module. Dropping it ends the thread after the values that wait.
pub struct StateWriter {
    shared: Arc<Shared>,
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl StateWriter {
    /// Starts the thread that writes, and the one that looks after it.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(crate) fn start(folder: &Arc<DataFolder>) -> io::Result<Self> {
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
        };
        Self::start_with(folder, ABANDONED_AFTER, Box::new(spawn))
    }

    fn start_with(
        folder: &Arc<DataFolder>,
        abandoned_after: Duration,
        spawn: Box<SpawnThread>,
    ) -> io::Result<Self> {
        let queue = Queue {
            files: BTreeMap::new(),
            writer: 0,
            calls: DiskCalls::new(DiskUser::State),
            abandoned: 0,
            is_told: false,
            is_closed: false,
        };
        let shared = Arc::new(Shared {
            folder: Arc::clone(folder),
            abandoned_after,
            spawn,
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            writer: Arc::default(),
            counts: SaveCounters::default(),
        });
        // Dropped after an error, which ends the threads.
        let this = Self { shared };
        let shared = &this.shared;
        let calls = Arc::clone(&shared.queue.lock().calls);
        Shared::spawn_writer(shared, &mut shared.queue.lock(), calls)?;
        let supervised = Arc::clone(shared);
        (shared.spawn)("gk-state-watch", Box::new(move || supervised.supervise_all()))?;
        Ok(this)
    }

    /// Has `value` written. A value of lower `order` than an earlier one for the same file is older, and ignored.
    pub(crate) fn put(&self, value: StateValue, order: u64) {
        let mut queue = self.shared.queue.lock();
        let entry = queue.files.entry(value.key()).or_default();
        if order < entry.order {
            return;
        }
        entry.order = order;
        entry.value = Some(Arc::new(value));
        entry.is_saved = false;
        entry.changes += 1;
        self.shared.changed.notify_all();
    }

    /// Has what the phase `name` keeps written, and waits for the end of an attempt. Without an `order`, this is the newest
    /// value: the phase does not run.
    pub(crate) fn put_phase_and_wait(&self, name: &str, kept: KeptPhase, order: Option<u64>) {
        let name: Arc<str> = name.into();
        let key = StateKey::Phase(Arc::clone(&name));
        let order =
            order.unwrap_or_else(|| self.shared.queue.lock().files.get(&key).map_or(0, |entry| entry.order));
        self.put(StateValue::Phase(name, kept), order);
        let mut queue = self.shared.queue.lock();
        let Some(entry) = queue.files.get_mut(&key) else { return };
        let failures = entry.failures;
        entry.try_now();
        self.shared.changed.notify_all();
        while queue.files.get(&key).is_some_and(|entry| !entry.is_saved && entry.failures == failures) {
            self.shared.changed.wait(&mut queue);
        }
    }

    /// Forgets the files of phases for which `is_there` returns false, once they are written.
    pub(crate) fn forget_phases(&self, is_there: impl Fn(&str) -> bool) {
        let mut queue = self.shared.queue.lock();
        queue.files.retain(|key, entry| match key {
            StateKey::Phase(name) => !entry.is_saved || entry.value.is_some() || is_there(name),
            _ => true,
        });
    }

    /// What the phase `name` keeps, if it is not on disk yet.
    pub(crate) fn unsaved_phase(&self, name: &str) -> Option<KeptPhase> {
        let queue = self.shared.queue.lock();
        let entry = queue.files.get(&StateKey::Phase(name.into()))?;
        match entry.value.as_deref().filter(|_| !entry.is_saved)? {
            StateValue::Phase(_, kept) => Some(kept.clone()),
            _ => None,
        }
    }

    /// Waits, at most this long, until everything is written or has failed once more. Blocks the caller.
    ///
    /// # Errors
    /// What is not on disk, in words for the operator.
    pub(crate) fn finish(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        let mut queue = self.shared.queue.lock();
        let begun: BTreeMap<StateKey, u64> =
            queue.files.iter().map(|(key, entry)| (key.clone(), entry.failures)).collect();
        queue.files.values_mut().for_each(StateEntry::try_now);
        self.shared.changed.notify_all();
        loop {
            let is_open = |(key, entry): &(&StateKey, &StateEntry)| {
                !entry.is_saved && begun.get(*key).is_none_or(|failures| entry.failures == *failures)
            };
            if !queue.files.iter().any(|file| is_open(&file)) {
                break;
            }
            if self.shared.changed.wait_until(&mut queue, until).timed_out() {
                let open: Vec<String> =
                    queue.files.iter().filter(is_open).map(|(key, _)| key.what()).collect();
                return Err(format!("the disk did not answer in time: {} is not saved", open.join(", ")));
            }
        }
        let failed = queue.files.iter().find_map(|(key, entry)| {
            let trouble = entry.trouble.as_ref().filter(|_| !entry.is_saved)?;
            Some(format!("cannot save {}: {}", key.what(), trouble.error))
        });
        failed.map_or(Ok(()), Err)
    }

    /// The write that has not returned, and files that cannot be written.
    pub(crate) fn troubles(&self) -> Vec<DiskTrouble> {
        let queue = self.shared.queue.lock();
        let failing = queue.files.iter().filter_map(|(key, entry)| {
            let SaveTrouble { error, since, .. } = entry.trouble.as_ref()?;
            let lasted = since.elapsed();
            (lasted >= PATIENCE).then(|| DiskTrouble {
                user: DiskUser::State,
                what: format!("saving {}", key.what()),
                for_s: lasted.as_secs(),
                error: Some(error.clone()),
            })
        });
        queue.calls.trouble().into_iter().chain(failing).collect()
    }

    #[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "only operators ask for it"))]
    pub(crate) fn counts(&self) -> SaveCounts {
        let SaveCounters { saved, failed, abandoned } = &self.shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SaveCounts { saved: of(saved), failed: of(failed), abandoned: of(abandoned) }
    }
}

/// For simulations: what a node's state still has to be written.
#[doc(hidden)]
pub struct PendingSaves(Weak<StateWriter>);

impl PendingSaves {
    pub(crate) fn of(writer: &Arc<StateWriter>) -> Self {
        Self(Arc::downgrade(writer))
    }

    /// Has failed writes tried again now, and waits at most `deadline` until everything is written. Blocks the caller. `None`
    /// if the node has ended; otherwise what is not on disk, as an error.
    pub fn settle(&self, deadline: Duration) -> Option<Result<(), String>> {
        self.0.upgrade().map(|writer| writer.finish(deadline))
    }
}

impl Shared {
    /// Starts a thread that writes from now on, and notes its calls in `calls`.
    fn spawn_writer(shared: &Arc<Self>, queue: &mut Queue, calls: Arc<DiskCalls>) -> io::Result<()> {
        let number = queue.writer + 1;
        let (current, this) = (Arc::clone(&shared.writer), Arc::clone(shared));
        let files = WatchedFileSystem {
            files: Arc::clone(&shared.folder.files),
            calls: Arc::clone(&calls),
            may_replace: Box::new(move || current.load(Ordering::Acquire) == number),
        };
        let folder = shared.folder.on(Arc::new(files));
        (shared.spawn)("gk-state", Box::new(move || this.write_all(number, &folder)))?;
        // It waits for the queue, which the caller has locked. Without a thread, the one before stays in charge.
        (queue.writer, queue.calls) = (number, calls);
        shared.writer.store(number, Ordering::Release);
        Ok(())
    }

    /// Looks after the thread that writes, until the writer is dropped. Not at ticks: they may be ten minutes apart, and
    /// there are none during a shutdown.
    fn supervise_all(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while !queue.is_closed {
            if queue.files.values().all(|entry| entry.is_saved) && !queue.is_told {
                self.changed.wait(&mut queue);
            } else {
                self.changed.wait_for(&mut queue, LOOK);
            }
            self.supervise(&mut queue, self.abandoned_after);
        }
    }

    /// Logs a write that has not returned, once, and hands over to another thread `after` a while.
    fn supervise(self: &Arc<Self>, queue: &mut Queue, after: Duration) {
        let waited = queue.calls.waited();
        if waited < PATIENCE.min(after) {
            if queue.abandoned == 0 && std::mem::take(&mut queue.is_told) {
                tracing::info!("the disk of the data folder answers again");
            }
            return;
        }
        if !std::mem::replace(&mut queue.is_told, true)
            && let Some(trouble) = queue.calls.trouble()
        {
            tracing::error!("{trouble}; the node goes on, and keeps its state in memory");
        }
        if waited >= after && queue.abandoned < MOST_ABANDONED {
            // Without a thread, the next look tries again.
            match Self::spawn_writer(self, queue, DiskCalls::new(DiskUser::State)) {
                Ok(()) => {
                    self.counts.abandoned.fetch_add(1, Ordering::Relaxed);
                    queue.abandoned += 1;
                }
                Err(error) => tracing::debug!(%error, "no thread to take over from the one that writes"),
            }
        }
    }

    /// Writes what waits until the writer is dropped or another thread has taken over.
    fn write_all(&self, number: u64, folder: &DataFolder) {
        let mut queue = self.queue.lock();
        while queue.writer == number {
            let now = Instant::now();
            let Some((key, value, changes)) = queue.next(now) else {
                if queue.is_closed {
                    return;
                }
                match queue.next_retry() {
                    Some(at) => _ = self.changed.wait_until(&mut queue, at),
                    None => self.changed.wait(&mut queue),
                }
                continue;
            };
            let saved = MutexGuard::unlocked(&mut queue, || value.save(folder));
            drop(value);
            self.note(&mut queue, number, &key, changes, saved);
            self.changed.notify_all();
        }
        // Taken over: the calls that returned late may have replaced a newer file.
        queue.abandoned -= 1;
        self.changed.notify_all();
    }

    fn note(
        &self,
        queue: &mut Queue,
        number: u64,
        key: &StateKey,
        changes: u64,
        saved: Result<(), DataError>,
    ) {
        let is_taken_over = queue.writer != number;
        let may_come_back = queue.abandoned > 0;
        let is_closed = queue.is_closed;
        let Some(entry) = queue.files.get_mut(key) else { return };
        if is_taken_over {
            entry.is_saved &= entry.value.is_none();
            return;
        }
        match saved {
            Ok(()) => {
                self.counts.saved.fetch_add(1, Ordering::Relaxed);
                if entry.trouble.take().is_some() {
                    tracing::info!("saved {} again", key.what());
                }
                if entry.changes == changes {
                    entry.is_saved = true;
                    if !may_come_back {
                        entry.value = None;
                    }
                }
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                entry.failures += 1;
                let now = Instant::now();
                let trouble = entry.trouble.get_or_insert_with(|| {
                    tracing::error!(%error, "cannot save {}; it is kept in memory and tried again", key.what());
                    SaveTrouble { error: String::new(), since: now, tries: 0, again_at: now }
                });
                let wait = FIRST_RETRY.saturating_mul(1 << trouble.tries.min(10)).min(LONGEST_RETRY);
                trouble.tries += 1;
                trouble.error = error.to_string();
                trouble.again_at = now + wait;
                if is_closed {
                    // There will be no further try.
                    entry.is_saved = true;
                }
            }
        }
    }
}

impl StateEntry {
    /// A failed file gets another chance now.
    fn try_now(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.again_at = Instant::now();
        }
    }
}

impl Queue {
    /// A file to write now.
    fn next(&self, now: Instant) -> Option<(StateKey, Arc<StateValue>, u64)> {
        let (key, entry) = self.files.iter().find(|(_, entry)| {
            !entry.is_saved
                && entry.value.is_some()
                && entry.trouble.as_ref().is_none_or(|trouble| self.is_closed || now >= trouble.again_at)
        })?;
        Some((key.clone(), Arc::clone(entry.value.as_ref()?), entry.changes))
    }

    fn next_retry(&self) -> Option<Instant> {
        let failed = self.files.values().filter(|entry| !entry.is_saved);
        failed.filter_map(|entry| Some(entry.trouble.as_ref()?.again_at)).min()
    }
}

#[cfg(test)]
mod tests;
