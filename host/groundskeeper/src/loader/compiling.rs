//! Compiles modules of a node on threads of their own, small ones first. Nothing waits for it: a caller gets a ticket,
//! and loads the phase again when the ticket has ended.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::PhaseRefusal;
use super::ticket::CompileTicket;
use crate::engine::wasm::{Code, LoadError, ModuleDigest, UncompiledModule, Wasm};

/// Compiles at one time. A third would take time from the node on a small machine.
const AT_ONCE: usize = 2;

/// While both compile, one more compiles if its module is at most this large, in bytes: a phase in Rust or C has 10 to 60 KiB
/// and compiles in less than a second, and must not wait for a minute behind two that are large or made to take long.
const SMALL: usize = 64 << 10;

/// Bytes of modules that may wait. The others are read again when there is room.
const MOST_WAITING_BYTES: usize = 64 << 20;

/// See the module. Dropping it ends every compile, and does not wait.
pub(super) struct CompileQueue {
    shared: Arc<SharedQueue>,
}

struct SharedQueue {
    wasm: Wasm,
    /// Notified when a ticket has ended.
    hint: Arc<Notify>,
    jobs: Mutex<Jobs>,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Jobs {
    by_digest: BTreeMap<ModuleDigest, CompileJob>,
    threads: usize,
    /// The thread for small modules runs.
    is_small_thread: bool,
}

struct CompileJob {
    /// Gone if no caller waits.
    ticket: Weak<AtomicBool>,
    bytes: usize,
    state: JobState,
}

enum JobState {
    /// Too much waits already.
    NoRoom,
    Waiting(UncompiledModule),
    Running,
    /// Stays until the tickets are dropped.
    Ended(Result<Arc<Code>, LoadError>),
}

impl CompileQueue {
    pub fn new(wasm: Wasm, hint: Arc<Notify>) -> Self {
        let shared = SharedQueue { wasm, hint, jobs: Mutex::default(), is_closed: AtomicBool::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// The compiled code, or a ticket to wait for it.
    pub fn code(&self, module: UncompiledModule) -> Result<Result<Arc<Code>, LoadError>, PhaseRefusal> {
        let mut jobs = self.shared.jobs.lock();
        jobs.remove_abandoned();
        let (digest, bytes) = (module.digest(), module.bytes());
        let has_room = jobs.has_room_for(bytes);
        let job = jobs.by_digest.entry(digest).or_insert_with(|| CompileJob {
            ticket: Weak::new(),
            bytes,
            state: JobState::NoRoom,
        });
        if let JobState::Ended(result) = &job.state {
            return Ok(result.clone());
        }
        let mut ticket = job.ticket.upgrade().map_or_else(CompileTicket::default, CompileTicket);
        if matches!(job.state, JobState::NoRoom) {
            // A ticket that has ended because there was room is used up.
            ticket = if ticket.is_done() { CompileTicket::default() } else { ticket };
            if has_room {
                job.state = JobState::Waiting(module);
            }
        }
        job.ticket = Arc::downgrade(&ticket.0);
        self.shared.start_threads(&mut jobs)?;
        Err(PhaseRefusal::Compiling(ticket))
    }
}

impl Drop for CompileQueue {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

impl Jobs {
    /// Forgets jobs without a caller that waits. A running one is forgotten when it ends.
    fn remove_abandoned(&mut self) {
        let is_wanted =
            |job: &mut CompileJob| job.ticket.strong_count() > 0 || matches!(job.state, JobState::Running);
        self.by_digest.retain(|_, job| is_wanted(job));
    }

    fn waiting(&self) -> impl Iterator<Item = (&ModuleDigest, &CompileJob)> {
        self.by_digest.iter().filter(|(_, job)| matches!(job.state, JobState::Waiting(_)))
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        let waiting: usize = self.waiting().map(|(_, job)| job.bytes).sum();
        waiting == 0 || waiting + bytes <= MOST_WAITING_BYTES
    }

    /// The smallest module that waits, of at most `largest` bytes.
    fn take_next(&mut self, largest: usize) -> Option<(Weak<AtomicBool>, UncompiledModule)> {
        self.remove_abandoned();
        let smallest = self.waiting().min_by_key(|(_, job)| job.bytes);
        let digest = smallest.filter(|(_, job)| job.bytes <= largest).map(|(digest, _)| *digest)?;
        let job = self.by_digest.get_mut(&digest)?;
        match std::mem::replace(&mut job.state, JobState::Running) {
            JobState::Waiting(module) => Some((job.ticket.clone(), module)),
            _ => None,
        }
    }

    /// Ends tickets of modules that found no room and have it now, small ones first.
    fn let_in(&mut self) {
        let mut room = MOST_WAITING_BYTES.saturating_sub(self.waiting().map(|(_, job)| job.bytes).sum());
        let mut outside: Vec<&CompileJob> =
            self.by_digest.values().filter(|job| matches!(job.state, JobState::NoRoom)).collect();
        outside.sort_by_key(|job| job.bytes);
        for job in outside {
            if job.bytes > room {
                return;
            }
            room -= job.bytes;
            if let Some(ticket) = job.ticket.upgrade() {
                _ = CompileTicket(ticket).end();
            }
        }
    }
}

impl SharedQueue {
    fn start_threads(self: &Arc<Self>, jobs: &mut Jobs) -> Result<(), PhaseRefusal> {
        while jobs.threads < AT_ONCE.min(jobs.threads + jobs.waiting().count()) {
            match self.start_thread(usize::MAX) {
                Ok(()) => jobs.threads += 1,
                Err(_) if jobs.threads > 0 => return Ok(()),
                Err(error) => return Err(PhaseRefusal::Machine(format!("no thread to compile it: {error}"))),
            }
        }
        let is_small = jobs.waiting().any(|(_, job)| job.bytes <= SMALL);
        if is_small && jobs.threads == AT_ONCE && !jobs.is_small_thread {
            // Without another thread it waits.
            jobs.is_small_thread = self.start_thread(SMALL).is_ok();
        }
        Ok(())
    }

    fn start_thread(self: &Arc<Self>, largest: usize) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new().name("compile".to_owned()).spawn(move || shared.work(largest)).map(drop)
    }

    /// Compiles modules of at most `largest` bytes until none waits.
    fn work(&self, largest: usize) {
        loop {
            let mut jobs = self.jobs.lock();
            let is_closed = self.is_closed.load(Ordering::Acquire);
            let Some((ticket, module)) = jobs.take_next(largest).filter(|_| !is_closed) else {
                if largest == SMALL {
                    jobs.is_small_thread = false;
                } else {
                    jobs.threads -= 1;
                }
                return;
            };
            drop(jobs);
            let result = self.compile(&ticket, &module);
            let mut jobs = self.jobs.lock();
            if let Some(job) = jobs.by_digest.get_mut(&module.digest()) {
                job.state = JobState::Ended(result);
                // A later caller may have made a new ticket.
                if let Some(ticket) = job.ticket.upgrade() {
                    _ = CompileTicket(ticket).end();
                }
            }
            jobs.remove_abandoned();
            jobs.let_in();
            drop(jobs);
            self.hint.notify_one();
        }
    }

    fn compile(&self, first: &Weak<AtomicBool>, module: &UncompiledModule) -> Result<Arc<Code>, LoadError> {
        let is_claimed = || {
            let jobs = self.jobs.lock();
            jobs.by_digest.get(&module.digest()).is_some_and(|job| job.ticket.strong_count() > 0)
        };
        let is_wanted =
            || !self.is_closed.load(Ordering::Acquire) && (first.strong_count() > 0 || is_claimed());
        catch_unwind(AssertUnwindSafe(|| self.wasm.compile(module, &is_wanted)))
            .unwrap_or_else(|_| Err(LoadError::Interrupted("it panicked; see the log".to_owned())))
    }
}
