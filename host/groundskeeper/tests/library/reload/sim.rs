//! Edits, faults, crashes and ticks in any order: each phase is at exactly one generation, and it is one that was good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use groundskeeper::data::FileSystem;
use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{PhaseChange, ReloadOptions, ScanKind, StartFrom};
use groundskeeper_sdk::rng::Rng;

use super::disk::{Memory, Weather};
use super::world::{Hand, Process, Scripts, manifest, module};

const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const DIR: &str = "/phases.d";
/// In all, over all seeds.
const STEPS: u32 = 100_000;
const SEEDS: u64 = 50;

/// What the test knows of one phase.
#[derive(Clone, Default, Debug)]
struct Known {
    /// What lies in the folder: version, and whether it would do well. None: nothing, or half a file.
    wanted: Option<(u32, bool)>,
    /// The version that ran at the last look.
    running: Option<u32>,
    /// The newest version that has ended its probation.
    proven: Option<u32>,
    /// What ran before that, and could return: in memory, or on a disk that did not take the news of its end.
    former: Vec<u32>,
    /// Versions that failed on probation: none of them may run again.
    failed: Vec<u32>,
    /// What ran before a restart is being compiled.
    is_starting: bool,
}

struct Sim {
    random: Rng,
    memory: Memory,
    data: PathBuf,
    clock: Arc<Hand>,
    process: Option<Process>,
    scripts: Scripts,
    known: BTreeMap<&'static str, Known>,
    versions: u32,
    /// What each version does, and what else its manifest says.
    written: BTreeMap<u32, (&'static str, &'static str)>,
    /// All that is known is on the disk.
    in_sync: bool,
    crashes: u32,
    returned: u32,
    applied: u32,
    taken_out: u32,
}

fn start(clock: &Arc<Hand>, data: &Path, memory: &Memory, scripts: &Scripts) -> Process {
    let options = ReloadOptions::trusting(DIR.into());
    let factory = scripts.clone().factory();
    Process::start_with(clock, data, options, Arc::new(memory.clone()), StartFrom::Folder, factory)
}

impl Sim {
    fn new(seed: u64, data: &Path) -> Self {
        let (memory, clock) = (Memory::default(), Arc::new(Hand::default()));
        memory.make_folder(Path::new(DIR), 0).unwrap();
        let scripts = Scripts::default();
        // In half of the runs, modules must be compiled first.
        scripts.compiler.lock().is_slow = seed.is_multiple_of(2);
        let process = start(&clock, data, &memory, &scripts);
        Self {
            random: Rng::new(seed),
            memory,
            data: data.to_owned(),
            clock,
            process: Some(process),
            scripts,
            known: NAMES.iter().map(|name| (*name, Known::default())).collect(),
            versions: 0,
            written: BTreeMap::new(),
            in_sync: true,
            crashes: 0,
            returned: 0,
            applied: 0,
            taken_out: 0,
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("started")
    }

    fn edit(&mut self) {
        let name = NAMES[self.random.below(4) as usize];
        let file = |end: &str| PathBuf::from(format!("{DIR}/{name}.{end}"));
        self.versions += 1;
        let version = self.versions;
        let good = ["good", "trap-run 7"];
        let bad = ["trap-trial", "trap-run 1", "trap-run 2", "nonsense"];
        let known = self.known.get_mut(name).unwrap();
        match self.random.below(13) {
            12 => {
                // Somebody takes a change back. What runs then hangs on which of them was good: it need not be this one.
                let Some(version) = known.former.last().copied() else { return };
                let (behaviour, more) = self.written[&version];
                self.memory.put(&file("wasm"), module(version, behaviour).as_bytes());
                self.memory.put(&file("toml"), manifest(name, more).as_bytes());
                known.wanted = Some((version, false));
            }
            0 => {
                self.memory.delete(&file("toml"));
                known.wanted = None;
            }
            1 => {
                self.memory.put(&file("wasm"), b"vers");
                known.wanted = None;
            }
            2 => {
                self.memory.put(&file("toml"), b"name = \"");
                known.wanted = None;
            }
            3..=6 => {
                let behaviour = bad[self.random.below(4) as usize];
                self.memory.put(&file("wasm"), module(version, behaviour).as_bytes());
                self.memory.put(&file("toml"), manifest(name, "").as_bytes());
                self.written.insert(version, (behaviour, ""));
                known.wanted = Some((version, false));
            }
            _ => {
                let behaviour = good[self.random.below(2) as usize];
                self.memory.put(&file("wasm"), module(version, behaviour).as_bytes());
                let hint = if self.random.below(2) == 0 { "" } else { "mode = \"shadow\"" };
                self.memory.put(&file("toml"), manifest(name, hint).as_bytes());
                self.written.insert(version, (behaviour, hint));
                known.wanted = Some((version, behaviour == "good"));
            }
        }
    }

    fn look(&mut self, kind: ScanKind) {
        let was_fine = self.memory.is_fine();
        let report = self.process().step(kind);
        // What the disk refused is written at the next look that finds it well.
        self.in_sync = was_fine && self.memory.is_fine();
        for event in report.events {
            let known = self.known.get_mut(&*event.phase).unwrap();
            match event.change {
                PhaseChange::Applied => {
                    self.applied += 1;
                    // One that is taken back has passed its probation before.
                    let phase = self.process.as_ref().unwrap().phase(&event.phase).unwrap();
                    if phase.state != PhaseState::Probation {
                        known.proven = phase.version.parse().ok();
                    }
                }
                PhaseChange::Proven => known.proven = known.running,
                PhaseChange::Returned => {
                    self.returned += 1;
                    known.failed.extend(known.running);
                }
                PhaseChange::Removed => *known = Known { wanted: known.wanted, ..Known::default() },
                PhaseChange::Rejected
                    if event.why.as_ref().is_some_and(|why| why.contains("no generation before it")) =>
                {
                    self.taken_out += 1;
                    known.failed.extend(known.running.take());
                }
                PhaseChange::Rejected | PhaseChange::Pending | PhaseChange::Compiling => {}
            }
        }
    }

    /// The process is gone; the next one finds what is on the disk.
    fn crash(&mut self) {
        self.crashes += 1;
        if !self.in_sync {
            // What the disk never took has not happened: what has failed may be tried once more.
            self.known.values_mut().for_each(|known| known.failed.clear());
        }
        self.in_sync = true;
        drop(self.process.take());
        self.memory.set(Weather::Fine);
        if self.random.below(3) == 0 {
            self.scripts.compiler.lock().update();
        }
        self.process = Some(start(&self.clock, &self.data, &self.memory, &self.scripts));
    }

    /// What holds whatever happens.
    fn check(&mut self, seed: u64, step: u32, restarted: bool) {
        let process = self.process.as_ref().unwrap();
        let phases = process.phases();
        let is_slow = self.scripts.compiler.lock().is_slow;
        for (name, known) in &mut self.known {
            // Only put into words when it is wanted: this is done 400,000 times.
            let story = known.clone();
            let at = std::fmt::from_fn(|f| write!(f, "seed {seed}, step {step}, {name}: {story:?}"));
            let rows = phases.iter().filter(|phase| &*phase.name == *name);
            assert!(rows.count() <= 1, "{at}: twice");
            let runs = process.runs(name);
            if let Some(version) = runs {
                assert!(!known.failed.contains(&version), "{at}: runs {version}, which has failed");
            }
            if is_slow && runs.is_none() && known.running.is_some() && (restarted || known.is_starting) {
                // A process that has just started: it puts in what ran when that is compiled.
                known.is_starting = true;
                continue;
            }
            let restarted = restarted || std::mem::take(&mut known.is_starting);
            if let Some(before) = known.running {
                // What ran, runs, or something newer; never nothing but for a removal, or a first one that failed.
                let now = runs.unwrap_or_else(|| panic!("{at}: nothing runs any more"));
                let is_back = known.former.contains(&now) || known.proven == Some(now);
                assert!(now >= before || is_back, "{at}: {now} runs after {before}");
                if now != before && !known.failed.contains(&before) {
                    known.former.push(before);
                    known.former.drain(..known.former.len().saturating_sub(8));
                }
                if restarted {
                    let wanted = known.wanted.map(|(version, _)| version);
                    assert!(now == before || is_back || wanted == Some(now), "{at}: a restart made it {now}");
                }
            }
            known.running = runs;
        }
    }
}

fn run(seed: u64) -> [u32; 4] {
    let data = tempfile::tempdir().unwrap();
    let mut sim = Sim::new(seed, data.path());
    for step in 0..STEPS / SEEDS as u32 {
        let mut restarted = false;
        match sim.random.below(20) {
            0..=2 => sim.edit(),
            3..=7 => sim.look(ScanKind::Hint),
            8 => _ = sim.scripts.compiler.lock().finish(),
            9 => sim.look(ScanKind::Thorough),
            10..=13 => {
                let ms = [10, 200, 400, 3_000][sim.random.below(4) as usize];
                sim.clock.advance(ms);
            }
            14..=17 => {
                sim.process().beat();
                sim.look(ScanKind::Hint);
            }
            18 => {
                let left = sim.random.below(12);
                let weather = [Weather::FailsAfter(left), Weather::Full, Weather::Fine, Weather::Fine];
                sim.memory.set(weather[sim.random.below(4) as usize]);
            }
            _ => {
                // Dead in the middle of whatever comes next.
                sim.memory.set(Weather::DiesAfter(sim.random.below(12)));
                for _ in 0..4 {
                    sim.look(ScanKind::Hint);
                    sim.clock.advance(400);
                    sim.process().beat();
                    if sim.memory.is_dead() {
                        break;
                    }
                }
                sim.crash();
                restarted = true;
            }
        }
        sim.check(seed, step, restarted);
    }
    // In the end, in fine weather, what is wanted and good runs.
    sim.memory.set(Weather::Fine);
    sim.process().come_to_rest();
    for _ in 0..8 {
        sim.process().beat();
        sim.look(ScanKind::Hint);
    }
    sim.process().come_to_rest();
    // What was put in last may have had to wait for the one before.
    while sim.scripts.compiler.lock().finish() {
        sim.process().come_to_rest();
    }
    let process = sim.process.as_ref().unwrap();
    for (name, known) in &sim.known {
        // What ran before the last restart has come back, unless its manifest is gone.
        let is_wanted = sim.memory.read(&PathBuf::from(format!("{DIR}/{name}.toml")), 1 << 20).is_ok();
        let is_back = !known.is_starting || !is_wanted || process.runs(name).is_some();
        assert!(is_back, "seed {seed}, at the end, {name}: {known:?}");
        if let Some((version, true)) = known.wanted {
            assert_eq!(process.runs(name), Some(version), "seed {seed}, at the end, {name}: {known:?}");
        }
    }
    let generations = sim.memory.count(&sim.data.join("generations"));
    assert!(generations <= 3 * NAMES.len(), "seed {seed}: {generations} files of generations");
    [sim.applied, sim.returned, sim.taken_out, sim.crashes]
}

#[test]
fn whatever_happens_each_phase_is_at_one_generation_and_it_was_good() {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut all = [0; 4];
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= SEEDS {
                return all;
            }
            all.iter_mut().zip(run(seed)).for_each(|(all, one)| *all += one);
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let [applied, returned, taken_out, crashes] = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let counts = workers.into_iter().map(|worker| worker.join().expect("its panic is above"));
        counts.fold([0; 4], |all, one| std::array::from_fn(|at| all[at] + one[at]))
    });
    println!(
        "{STEPS} steps, {SEEDS} seeds: {applied} applied, {returned} returned, {taken_out} taken out, {crashes} crashes"
    );
    assert!(applied > 1_000 && returned > 100 && crashes > 1_000, "{applied}, {returned}, {crashes}");
    assert!(taken_out > 50, "{taken_out}");
}
