//! A node without a network whose phases are scripts: a module is one line that says how its phase behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::config::{GuestManifest, Manifest};
use groundskeeper::cycle::{Beat, BeatContext, BeatReport, Cycle, Thresholds};
use groundskeeper::data::{DataError, DataFolder, FileSystem, Generation};
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::engine::{Executor, PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper::loader::{CompileTicket, PhaseRefusal};
use groundskeeper::node::{NodeLimits, NodeState};
use groundskeeper::peer::PeerId;
use groundskeeper::registry::{LastRuns, PhaseSpec, PhaseStatus, PriorState, Registry};
use groundskeeper::reload::{
    CycleChange, PhaseFactory, PhaseReloader, ReloadOptions, ReloadReport, ScanKind, StartFrom,
};
use groundskeeper_sdk::host::{Plan, Saved, Table};
use groundskeeper_sdk::phase::{Failure, Tick};
use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

/// A clock that stands until it is moved.
#[derive(Default)]
pub struct Hand(AtomicU64);

impl Hand {
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Relaxed);
    }
}

impl Clock for Hand {
    fn mono(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }

    fn boot(&self) -> Duration {
        self.mono()
    }

    fn unix(&self) -> Duration {
        self.mono() + Duration::from_secs(1_000_000)
    }
}

/// What a file is given that is touched.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + SystemClock::new().unix()
}

/// Holds a load, or a run that says `gated`, until it is opened.
#[derive(Default)]
pub struct Gate {
    /// Whether it is shut, and how many have come to it since it was.
    state: Mutex<(bool, u32)>,
    moved: Condvar,
}

impl Gate {
    /// A bound on every wait of a test: what takes longer is broken.
    pub const LONGEST: Duration = Duration::from_secs(30);

    pub fn shut(&self) {
        *self.state.lock() = (true, 0);
    }

    pub fn open(&self) {
        self.state.lock().0 = false;
        self.moved.notify_all();
    }

    pub fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.moved.notify_all();
        self.moved.wait_while_for(&mut state, |(is_shut, _)| *is_shut, Self::LONGEST);
    }

    /// Returns when somebody has come to it.
    pub fn wait_for_one(&self) {
        let waited = self.moved.wait_while_for(&mut self.state.lock(), |(_, n)| *n == 0, Self::LONGEST);
        assert!(!waited.timed_out(), "nobody came to the gate");
    }
}

/// What a module says: `version N`, then how the phase behaves: `good`, `trap-trial`, `trap-run N`, `gated`.
pub fn module(version: u32, behaviour: &str) -> String {
    format!("version {version} {behaviour}")
}

pub fn manifest(name: &str, more: &str) -> String {
    format!("name = \"{name}\"\nkind = \"wasm\"\n{more}\n[grants]\nmemory = true\n")
}

/// A phase that does as its module says. It keeps the version of who wrote its memory, and how often it ran.
struct Script {
    version: u32,
    traps_at: Option<u32>,
    gated: Option<Scripts>,
    runs: AtomicU32,
    /// What the trial and the runs learned about themselves.
    ticks: Arc<Mutex<Vec<(bool, Tick)>>>,
    digest: [u8; 32],
}

impl PhaseProgram for Script {
    fn summary(&self) -> &str {
        "a script"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(self.digest)
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        self.act(job, self.runs.fetch_add(1, Relaxed) + 1)
    }

    fn run_on_trial(&self, job: &PhaseCall, _: Duration) -> RunResult {
        self.act(job, 0)
    }
}

impl Script {
    /// One run; 0 is the trial.
    fn act(&self, job: &PhaseCall, run: u32) -> RunResult {
        let is_trial = run == 0;
        self.ticks.lock().push((is_trial, job.tick));
        let memory = job.view.memory();
        if let Some(memory) = &memory
            && memory.version > self.version
        {
            return RunOutcome::Failed(Failure::permanent(format!(
                "version {} was given memory of version {}",
                self.version, memory.version
            )))
            .into();
        }
        if self.traps_at == Some(run) {
            return RunOutcome::Trapped(format!("scripted, in run {run}")).into();
        }
        if let Some(scripts) = self.gated.as_ref().filter(|_| !is_trial) {
            scripts.runs.pass();
            scripts.ended.lock().push((job.tick.number, self.version));
        }
        let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
        let count = memory.map_or(0, |memory| u32::from_le_bytes(memory.bytes.try_into().unwrap()));
        plan.store(Saved { version: self.version, bytes: (count + 1u32).to_le_bytes().to_vec() });
        RunOutcome::Planned(plan.into_parts()).into()
    }
}

/// A compiler that is told when it has compiled.
#[derive(Default)]
pub struct FakeCompiler {
    /// Otherwise every script compiles at once.
    pub is_slow: bool,
    stored: BTreeSet<[u8; 32]>,
    tickets: BTreeMap<[u8; 32], CompileTicket>,
}

impl FakeCompiler {
    fn compile(&mut self, digest: [u8; 32]) -> Result<(), PhaseRefusal> {
        if !self.is_slow || self.stored.contains(&digest) {
            return Ok(());
        }
        Err(PhaseRefusal::Compiling(self.tickets.entry(digest).or_default().clone()))
    }

    /// Everything that is being compiled is now in the store. False if that was nothing.
    pub fn finish(&mut self) -> bool {
        let is_busy = !self.tickets.is_empty();
        for (digest, ticket) in std::mem::take(&mut self.tickets) {
            self.stored.insert(digest);
            ticket.end();
        }
        is_busy
    }

    /// Another version of the compiler: nothing in the store fits.
    pub fn update(&mut self) {
        self.stored.clear();
        self.tickets.clear();
    }
}

/// Makes phases of scripts.
#[derive(Clone, Default)]
pub struct Scripts {
    pub compiler: Arc<Mutex<FakeCompiler>>,
    /// Every load goes through it.
    pub loads: Arc<Gate>,
    /// And every run of a phase that says `gated`.
    pub runs: Arc<Gate>,
    /// Tick and version of those, as they ended.
    ended: Arc<Mutex<Vec<(u32, u32)>>>,
    /// What the trials (true) and the runs of all phases learned about themselves.
    pub ticks: Arc<Mutex<Vec<(bool, Tick)>>>,
}

impl Scripts {
    pub fn ended(&self) -> Vec<(u32, u32)> {
        self.ended.lock().clone()
    }
}

impl Scripts {
    pub fn factory(self) -> PhaseFactory {
        Box::new(move |manifest, guest, _, generation| self.load(manifest, guest, generation))
    }

    fn load(
        &self,
        manifest: &Manifest,
        guest: &GuestManifest,
        generation: &Generation,
    ) -> Result<PhaseSpec, PhaseRefusal> {
        let module = &generation.module;
        self.loads.pass();
        let digest: [u8; 32] = Sha256::digest(module).into();
        if guest.sha256.is_some_and(|pinned| pinned != digest) {
            return Err(PhaseRefusal::Unfinished("the manifest pins another module".to_owned()));
        }
        let words = std::str::from_utf8(module).unwrap_or_default();
        let mut words = words.split(' ');
        let (Some("version"), Some(Ok(version)), Some(behaviour)) =
            (words.next(), words.next().map(str::parse), words.next())
        else {
            return Err(PhaseRefusal::Unfinished("half a script".to_owned()));
        };
        let traps_at = match behaviour {
            "good" | "gated" => None,
            "trap-trial" => Some(0),
            "trap-run" => Some(words.next().unwrap().parse().unwrap()),
            _ => return Err(PhaseRefusal::Bad(format!("nobody knows {behaviour:?}"))),
        };
        let gated = (behaviour == "gated").then(|| self.clone());
        self.compiler.lock().compile(digest)?;
        let (runs, ticks) = (AtomicU32::new(0), Arc::clone(&self.ticks));
        let body = Script { version, traps_at, gated, runs, ticks, digest };
        let digest = generation.digest();
        Ok(PhaseSpec::guest(manifest, guest, format!("{version}"), Arc::new(body), digest))
    }
}

/// A process that another test is just making has our open files for a moment, and with them our locks.
fn open(data: &Path, files: Arc<dyn FileSystem>) -> DataFolder {
    for _ in 0..Gate::LONGEST.as_millis() {
        match DataFolder::open_on(data, Arc::clone(&files)) {
            Err(DataError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened.expect("a folder of our own"),
        }
    }
    panic!("{} stays locked", data.display())
}

/// One process of a node, from its start to its end.
pub struct Process {
    pub cycle: Cycle,
    pub reloader: PhaseReloader,
    pub clock: Arc<Hand>,
    pub tick: u32,
    pub folder: Arc<DataFolder>,
    /// A node whose start comes to an error here does not start.
    pub begun: Result<(), DataError>,
    /// Of each phase, how often what it keeps had changed when it was saved.
    saved: BTreeMap<Arc<str>, u64>,
}

impl Process {
    /// `data` has to be a folder that is there; what is kept in it goes through `files`, and so does the drop-in folder
    /// `dir`.
    pub fn start(
        clock: &Arc<Hand>,
        data: &Path,
        dir: &Path,
        files: Arc<dyn FileSystem>,
        trust: StartFrom,
    ) -> Self {
        let options = ReloadOptions::trusting(dir.to_owned());
        Self::start_with(clock, data, options, files, trust, Scripts::default().factory())
    }

    pub fn start_with(
        clock: &Arc<Hand>,
        data: &Path,
        options: ReloadOptions,
        files: Arc<dyn FileSystem>,
        trust: StartFrom,
        stage: PhaseFactory,
    ) -> Self {
        let folder = Arc::new(open(data, files));
        let limits = NodeLimits::for_connections(8);
        let state = NodeState::new(PeerId::from_bytes([0; 32]), limits, Arc::clone(clock) as _, None);
        let interval = Duration::from_secs(30);
        let before = PriorState { interval, unix_now: 1_000_000, ..PriorState::default() };
        let registry = Registry::new(Vec::new(), Vec::new(), |_| 0, &before).unwrap();
        let world = BeatContext {
            state,
            dialer: None,
            thresholds: Thresholds {
                healthy_above: 30,
                least: 5,
                most: 8,
                stale_after: Duration::from_secs(90),
            },
            guests: GuestCeilings::default(),
        };
        let mut cycle = Cycle::new(world, registry, Executor::Inline, interval, 42)
            .measured_by(Box::new(|| Duration::ZERO));
        let mut reloader =
            PhaseReloader::new(options, Arc::clone(&folder), stage, Executor::Inline, Arc::clone(clock) as _);
        let mut ticks = |change: CycleChange| {
            change(&mut cycle);
            true
        };
        let begun = reloader.begin(&mut ticks, trust, &LastRuns::default());
        let saved = BTreeMap::new();
        Self { cycle, reloader, clock: Arc::clone(clock), tick: 0, folder, begun, saved }
    }

    pub fn step(&mut self, kind: ScanKind) -> ReloadReport {
        let cycle = &mut self.cycle;
        let mut ticks = |change: CycleChange| {
            change(cycle);
            true
        };
        self.reloader.scan(&mut ticks, kind)
    }

    /// Looks until nothing is waited for any more.
    pub fn come_to_rest(&mut self) -> Vec<ReloadReport> {
        let mut reports = vec![self.step(ScanKind::Hint)];
        while let Some(next) = self.reloader.next() {
            let wait = next.saturating_sub(self.clock.mono());
            self.clock.advance(wait.as_millis() as u64 + 1);
            reports.push(self.step(ScanKind::Hint));
            assert!(
                reports.len() < 100,
                "it never comes to rest: {:?}, {next:?}, {:?}",
                reports.last(),
                self.phases()
                    .iter()
                    .map(|phase| (
                        phase.name.clone(),
                        phase.state,
                        phase.candidate.clone(),
                        phase.last_error.clone()
                    ))
                    .collect::<Vec<_>>()
            );
        }
        reports
    }

    /// One tick, and what a node writes down after it.
    pub fn beat(&mut self) -> BeatReport {
        self.clock.advance(30_000);
        self.tick += 1;
        let beat =
            Beat { tick: self.tick, urgent: 0, skipped: 0, slept: Duration::ZERO, lateness: Duration::ZERO };
        let report = self.cycle.beat(beat);
        for (name, kept, changes) in self.cycle.kept() {
            // The disk may be broken: then it is tried again after the next tick.
            if self.saved.get(name).copied().unwrap_or(0) != changes
                && self.folder.save_phase(name, kept).is_ok()
            {
                self.saved.insert(Arc::clone(name), changes);
            }
        }
        self.saved.retain(|name, _| self.cycle.snapshot(name).is_some());
        report
    }

    pub fn phases(&self) -> Arc<Vec<PhaseStatus>> {
        self.cycle.statuses().read()
    }

    pub fn phase(&self, name: &str) -> Option<PhaseStatus> {
        self.phases().iter().find(|phase| &*phase.name == name).cloned()
    }

    /// What runs under this name, as its version.
    pub fn runs(&self, name: &str) -> Option<u32> {
        self.phase(name)
            .filter(|phase| phase.digest.is_some() && !phase.version.is_empty())?
            .version
            .parse()
            .ok()
    }
}
