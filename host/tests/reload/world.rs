//! A node without a network whose phases are scripts: a module is one line that says how its phase behaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper::clock::Clock;
use groundskeeper::config::{Config, Guest, Manifest};
use groundskeeper::cycle::{Beat, BeatReport, Cycle, Thresholds, World};
use groundskeeper::data::{DataFolder, Files};
use groundskeeper::engine::{Body, Done, Ended, Fence, Job};
use groundskeeper::loader::Unfit;
use groundskeeper::node::{TableLimits, Tables};
use groundskeeper::peer::PeerId;
use groundskeeper::registry::{Before, LastRuns, PhaseSpec, PhaseStatus, Registry};
use groundskeeper::reload::{Between, Keeper, KeeperOptions, Mood, ReloadReport, Stage, StartFrom};
use groundskeeper_sdk::host::{Plan, Saved, Table};
use groundskeeper_sdk::phase::Failure;
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

/// What a module says: `version N`, then how the phase behaves: `good`, `trap-trial`, `trap-run N`, `bad-settings`.
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
    runs: AtomicU32,
    digest: [u8; 32],
}

impl Body for Script {
    fn summary(&self) -> &str {
        "a script"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(self.digest)
    }

    fn run(&self, job: &Job) -> Done {
        let is_trial = job.tick.seed == [0; 2];
        let run = if is_trial { 0 } else { self.runs.fetch_add(1, Relaxed) + 1 };
        let memory = job.view.memory();
        if let Some(memory) = &memory
            && memory.version > self.version
        {
            return Ended::Failed(Failure::permanent(format!(
                "version {} was given memory of version {}",
                self.version, memory.version
            )))
            .into();
        }
        if self.traps_at == Some(run) {
            return Ended::Trapped(format!("scripted, in run {run}")).into();
        }
        let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
        let count = memory.map_or(0, |memory| u32::from_le_bytes(memory.bytes.try_into().unwrap()));
        plan.store(Saved { version: self.version, bytes: (count + 1u32).to_le_bytes().to_vec() });
        Ended::Planned(plan.into_parts()).into()
    }
}

/// Makes phases of scripts. `latch` is called in the middle of it.
pub struct Scripts {
    pub latch: Box<dyn FnMut() + Send>,
}

impl Stage for Scripts {
    fn load(
        &mut self,
        manifest: &Manifest,
        guest: &Guest,
        text: &str,
        _path: &Path,
        module: &[u8],
    ) -> Result<PhaseSpec, Unfit> {
        (self.latch)();
        let digest: [u8; 32] = Sha256::digest(module).into();
        if guest.sha256.is_some_and(|pinned| pinned != digest) {
            return Err(Unfit::Unfinished("the manifest pins another module".to_owned()));
        }
        let words = std::str::from_utf8(module).unwrap_or_default();
        let mut words = words.split(' ');
        let (Some("version"), Some(Ok(version)), Some(behaviour)) =
            (words.next(), words.next().map(str::parse), words.next())
        else {
            return Err(Unfit::Unfinished("half a script".to_owned()));
        };
        let traps_at = match behaviour {
            "good" => None,
            "trap-trial" => Some(0),
            "trap-run" => Some(words.next().unwrap().parse().unwrap()),
            _ => return Err(Unfit::Bad(format!("nobody knows {behaviour:?}"))),
        };
        let body = Script { version, traps_at, runs: AtomicU32::new(0), digest };
        let digest = groundskeeper::data::generation_digest(&digest, text);
        Ok(PhaseSpec::guest(manifest, guest, format!("{version}"), Arc::new(body), digest))
    }
}

/// One process of a node, from its start to its end.
pub struct Process {
    pub cycle: Cycle,
    pub keeper: Keeper,
    pub clock: Arc<Hand>,
    pub dir: PathBuf,
    pub tick: u32,
    pub folder: Arc<DataFolder>,
}

impl Process {
    /// `data` has to be a folder that is there; what is kept in it goes through `files`, and so does the drop-in folder.
    pub fn start(clock: &Arc<Hand>, data: &Path, files: Arc<dyn Files>, trust: StartFrom) -> Self {
        Self::with(clock, data, files, trust, Scripts { latch: Box::new(|| {}) })
    }

    pub fn with(
        clock: &Arc<Hand>,
        data: &Path,
        files: Arc<dyn Files>,
        trust: StartFrom,
        scripts: Scripts,
    ) -> Self {
        let folder = Arc::new(DataFolder::open_on(data, files).expect("nobody else has it"));
        let limits = TableLimits::for_connections(8);
        let tables = Tables::new(PeerId::from_bytes([0; 32]), limits, Arc::clone(clock) as _, None);
        let interval = Duration::from_secs(30);
        let before = Before { interval, unix_now: 1_000_000, ..Before::default() };
        let registry = Registry::new(Vec::new(), Vec::new(), |_| 0, &before).unwrap();
        let Tables { pool, book, broadcasts, journal, clock: known } = tables;
        let world = World {
            pool,
            book,
            broadcasts,
            journal,
            clock: known,
            dialer: None,
            thresholds: Thresholds { healthy_above: 30, least: 5, most: 8 },
            stale_after: Duration::from_secs(90),
            guests: Config::default().guests,
        };
        let mut cycle =
            Cycle::new(world, registry, Fence::Inline, interval, 42).measured_by(Box::new(|| Duration::ZERO));
        let dir = PathBuf::from("/phases.d");
        let options = KeeperOptions::trusting(dir.clone());
        let mut keeper = Keeper::new(
            options,
            Arc::clone(&folder),
            Box::new(scripts),
            Fence::Inline,
            Arc::clone(clock) as _,
        );
        let mut desk = |change: Between| {
            change(&mut cycle);
            true
        };
        // A disk that fails at the start leaves a node without guests; that is for the test to see.
        _ = keeper.begin(&mut desk, trust, &LastRuns::new());
        Self { cycle, keeper, clock: Arc::clone(clock), dir, tick: 0, folder }
    }

    pub fn step(&mut self, mood: Mood) -> ReloadReport {
        let cycle = &mut self.cycle;
        let mut desk = |change: Between| {
            change(cycle);
            true
        };
        self.keeper.step(&mut desk, mood)
    }

    /// Looks until nothing is waited for any more.
    pub fn come_to_rest(&mut self) -> Vec<ReloadReport> {
        let mut reports = vec![self.step(Mood::Hint)];
        while let Some(next) = self.keeper.next() {
            let wait = next.saturating_sub(self.clock.mono());
            self.clock.advance(wait.as_millis() as u64 + 1);
            reports.push(self.step(Mood::Hint));
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
            if changes > 0 {
                // The disk may be broken.
                _ = self.folder.save_phase(name, kept);
            }
        }
        report
    }

    pub fn phases(&self) -> Arc<Vec<PhaseStatus>> {
        self.cycle.board().read()
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
