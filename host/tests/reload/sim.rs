//! Edits, faults, crashes and ticks in any order: each phase is at exactly one generation, and it is one that was good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use groundskeeper::data::Files;
use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{Change, Mood, StartFrom};
use groundskeeper_sdk::rng::Rng;

use crate::disk::{Memory, Weather};
use crate::world::{Hand, Process, manifest, module};

const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
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
    /// The newest version that has ended its probation, or that ran without one.
    proven: Option<u32>,
    /// What ran before that, and could return: in memory, or on a disk that did not take the news of its end.
    former: Vec<u32>,
    /// Versions that failed on probation: none of them may run again.
    failed: Vec<u32>,
}

struct Sim {
    random: Rng,
    memory: Memory,
    data: PathBuf,
    clock: Arc<Hand>,
    process: Option<Process>,
    known: BTreeMap<&'static str, Known>,
    versions: u32,
    /// All that is known is on the disk.
    in_sync: bool,
    crashes: u32,
    returned: u32,
    applied: u32,
}

impl Sim {
    fn new(seed: u64, data: &Path) -> Self {
        let (memory, clock) = (Memory::default(), Arc::new(Hand::default()));
        memory.make_folder(Path::new("/phases.d"), 0).unwrap();
        let process = Process::start(&clock, data, Arc::new(memory.clone()), StartFrom::Folder);
        Self {
            random: Rng::new(seed),
            memory,
            data: data.to_owned(),
            clock,
            process: Some(process),
            known: NAMES.iter().map(|name| (*name, Known::default())).collect(),
            versions: 0,
            in_sync: true,
            crashes: 0,
            returned: 0,
            applied: 0,
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("started")
    }

    fn edit(&mut self) {
        let name = NAMES[self.random.below(4) as usize];
        let file = |end: &str| PathBuf::from(format!("/phases.d/{name}.{end}"));
        self.versions += 1;
        let version = self.versions;
        let good = ["good", "trap-run 7"];
        let bad = ["trap-trial", "trap-run 1", "trap-run 2", "nonsense"];
        let known = self.known.get_mut(name).unwrap();
        match self.random.below(12) {
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
                known.wanted = Some((version, false));
            }
            _ => {
                let behaviour = good[self.random.below(2) as usize];
                self.memory.put(&file("wasm"), module(version, behaviour).as_bytes());
                let hint = if self.random.below(2) == 0 { "" } else { "mode = \"shadow\"" };
                self.memory.put(&file("toml"), manifest(name, hint).as_bytes());
                known.wanted = Some((version, behaviour == "good"));
            }
        }
    }

    fn look(&mut self, mood: Mood) {
        let was_fine = self.memory.is_fine();
        let report = self.process().step(mood);
        // What the disk refused is written at the next look that finds it well.
        self.in_sync = was_fine && self.memory.is_fine();
        for event in report.events {
            let known = self.known.get_mut(&*event.phase).unwrap();
            match event.change {
                Change::Applied => {
                    self.applied += 1;
                    // The first one of its name has nothing to go back to, and no probation.
                    let phase = self.process.as_ref().unwrap().phase(&event.phase).unwrap();
                    if phase.state != PhaseState::Probation {
                        known.proven = phase.version.parse().ok();
                    }
                }
                Change::Proven => known.proven = known.running,
                Change::Returned => {
                    self.returned += 1;
                    known.failed.extend(known.running);
                }
                Change::Removed => *known = Known { wanted: known.wanted, ..Known::default() },
                Change::Rejected | Change::Pending => {}
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
        let files = Arc::new(self.memory.clone());
        self.process = Some(Process::start(&self.clock, &self.data, files, StartFrom::Folder));
    }

    /// What holds whatever happens.
    fn check(&mut self, seed: u64, step: u32, restarted: bool) {
        let process = self.process.as_ref().unwrap();
        for (name, known) in &mut self.known {
            let at = format!("seed {seed}, step {step}, {name}: {known:?}");
            let phases = process.phases();
            let rows = phases.iter().filter(|phase| &*phase.name == *name);
            assert!(rows.count() <= 1, "{at}: twice");
            let runs = process.runs(name);
            if let Some(version) = runs {
                assert!(!known.failed.contains(&version), "{at}: runs {version}, which has failed");
            }
            if let Some(before) = known.running {
                // What ran, runs, or something newer; never nothing but for a removal.
                let now = runs.unwrap_or_else(|| panic!("{at}: nothing runs any more"));
                let is_back = known.former.contains(&now) || known.proven == Some(now);
                assert!(now >= before || is_back, "{at}: {now} runs after {before}");
                if now > before {
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

fn run(seed: u64) -> (u32, u32, u32) {
    let data = tempfile::tempdir().unwrap();
    let mut sim = Sim::new(seed, data.path());
    for step in 0..STEPS / SEEDS as u32 {
        let mut restarted = false;
        match sim.random.below(20) {
            0..=2 => sim.edit(),
            3..=8 => sim.look(Mood::Hint),
            9 => sim.look(Mood::Thorough),
            10..=13 => {
                let ms = [10, 200, 400, 3_000][sim.random.below(4) as usize];
                sim.clock.advance(ms);
            }
            14..=17 => {
                sim.process().beat();
                sim.look(Mood::Hint);
            }
            18 => {
                let left = u64::from(sim.random.below(12));
                let weather = [Weather::FailsAfter(left), Weather::Full, Weather::Fine, Weather::Fine];
                sim.memory.set(weather[sim.random.below(4) as usize]);
            }
            _ => {
                // Dead in the middle of whatever comes next.
                sim.memory.set(Weather::DiesAfter(u64::from(sim.random.below(12))));
                for _ in 0..4 {
                    sim.look(Mood::Hint);
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
        sim.look(Mood::Hint);
    }
    sim.process().come_to_rest();
    let process = sim.process.as_ref().unwrap();
    for (name, known) in &sim.known {
        if let Some((version, true)) = known.wanted {
            assert_eq!(process.runs(name), Some(version), "seed {seed}, at the end, {name}: {known:?}");
        }
    }
    let generations = sim.memory.count(&sim.data.join("generations"));
    assert!(generations <= 3 * NAMES.len(), "seed {seed}: {generations} files of generations");
    (sim.applied, sim.returned, sim.crashes)
}

#[test]
fn whatever_happens_each_phase_is_at_one_generation_and_it_was_good() {
    let mut all = (0, 0, 0);
    for seed in 0..SEEDS {
        let (applied, returned, crashes) = run(seed);
        all = (all.0 + applied, all.1 + returned, all.2 + crashes);
    }
    println!("{STEPS} steps, {SEEDS} seeds: {} applied, {} returned, {} crashes", all.0, all.1, all.2);
    assert!(all.0 > 1_000 && all.1 > 100 && all.2 > 1_000, "{all:?}");
}
