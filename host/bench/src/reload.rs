//! The group `reload`: time from a renamed file to the first run of its phase, and memory after a thousand reloads.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use groundskeeper::data::write_whole;
use groundskeeper::reload::QUIET;
use groundskeeper_author as author;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use crate::Effort;
use crate::engine::{Scratch, raw};
use crate::report::{Reach, Report, Row};

mod node;

use node::{Held, Node};

pub const HOW: &str = "reload: groundskeeper::reload::run beside a running Maintenance with the real loader, real files, the \
    usual settling. Settling, 300 ms, is taken off. The first run is ordered as soon as the phase is told to be in. Raw is \
    wasmtime with the same configuration: read, compile, instantiate; in turn with ours.";

const GROUP: &str = "reload";
const PHASE: &str = "pulse";
const INTERVAL: Duration = Duration::from_secs(1);

/// The allocator's own mappings vary. A mapping leaked per reload would show a thousand times.
const ALLOCATORS_OWN: f64 = 10.0;

/// Phases that change at once.
const MANY: usize = 100;

pub fn run(effort: &Effort, report: &mut Report) {
    let pulse = Pulse::build();
    // First, while this process holds little else.
    growth(&pulse, effort, report);
    one(&pulse, effort, report);
    many(&pulse, effort, report);
    grid(&pulse, effort, report);
}

/// The phase in any number of versions: the same module with a number appended.
struct Pulse {
    bytes: Vec<u8>,
    compiled: Vec<u8>,
    next: std::cell::Cell<usize>,
}

impl Pulse {
    fn build() -> Self {
        let out = Scratch::new("pulse");
        fs::create_dir_all(&out.0).expect("a folder of our own");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pulse");
        let built = author::build(&folder, Some(&out.0), &mut |note| eprintln!("  {note}"));
        let built = built.unwrap_or_else(|error| panic!("{error:#}"));
        let bytes = fs::read(built.file).expect("it was built");
        let compiled = Raw::new().engine.precompile_component(&bytes).expect("it compiles");
        Self { bytes, compiled, next: 0.into() }
    }

    /// Module bytes that were not used before.
    fn another(&self) -> Vec<u8> {
        const CUSTOM: u8 = 0;
        self.next.set(self.next.get() + 1);
        let mut all = self.bytes.clone();
        all.extend([CUSTOM, 10, 1, b'n']);
        all.extend(self.next.get().to_le_bytes());
        all
    }

    /// Milliseconds to write and sync the files of a reload with new bytes: generation, head, compiled code.
    fn synced(&self, folder: &Path) -> f64 {
        let head = vec![0; 300];
        let begun = Instant::now();
        for (name, bytes) in [("a", &self.bytes), ("b", &head), ("c", &self.compiled)] {
            write_whole(&folder.join(name), bytes, 0o600).expect("a folder of our own");
        }
        ms(begun.elapsed())
    }

    fn subject(&self) -> String {
        format!("one phase of {:.1} KB", self.bytes.len() as f64 / 1000.0)
    }
}

/// Plain wasmtime.
struct Raw {
    engine: Engine,
}

impl Raw {
    fn new() -> Self {
        Self { engine: Engine::new(&raw::config()).expect("a plain configuration") }
    }

    /// Milliseconds to read, compile and instantiate the module at `path`.
    fn load(&self, path: &Path) -> f64 {
        let begun = Instant::now();
        let bytes = fs::read(path).expect("it is there");
        let component = Component::new(&self.engine, bytes).expect("it compiles");
        let mut linker: Linker<()> = Linker::new(&self.engine);
        linker.define_unknown_imports_as_traps(&component).expect("functions alone");
        let mut store = Store::new(&self.engine, ());
        store.set_fuel(1_000_000_000).expect("fuel is on");
        store.set_epoch_deadline(1_000);
        linker.instantiate(&mut store, &component).expect("it fits");
        ms(begun.elapsed())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The node's own share of the time.
fn beside_settling(whole: Duration) -> f64 {
    ms(whole) - ms(QUIET)
}

/// The value below which `part` of all values lie.
fn part(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// p50 and p99 as two rows, the first with the goal.
fn rows(
    report: &mut Report,
    measure: &'static str,
    subject: &str,
    ours: &[f64],
    raw: Option<&[f64]>,
    reach: Option<Reach>,
) {
    for (words, at) in [("p50", 0.5), ("p99", 0.99)] {
        let mut row = Row::cost(GROUP, measure, format!("{subject}, {words}"), part(ours, at), "ms");
        if let Some(raw) = raw {
            row = row.against("raw", part(raw, at));
        }
        if let Some(reach) = reach.filter(|_| at == 0.5) {
            row = row.reach(reach);
        }
        report.push(row.note(format!("of {}", ours.len())));
    }
}

/// One phase changes: new bytes, known bytes, only the manifest.
fn one(pulse: &Pulse, effort: &Effort, report: &mut Report) {
    let times = effort.choose(200, 10);
    let (raw, node) = (Raw::new(), Node::start("one", INTERVAL, &[PHASE.to_owned()], || pulse.another()));
    let subject = pulse.subject();

    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let module = node.prepare(PHASE, &pulse.another());
        plain.push(raw.load(&module.from));
        ours.push(beside_settling(node.rename_to_run(PHASE, module)));
    }
    let within = Reach::Times(1.0 / 1.3);
    rows(report, "new bytes, rename to first run", &subject, &ours, Some(&plain), Some(within));
    let synced: Vec<f64> = (0..times).map(|_| pulse.synced(node.folder())).collect();
    rows(report, "the files that are synced for it", &subject, &synced, None, None);

    // Three versions, because going back to the previous one is another case.
    let known: Vec<Vec<u8>> = (0..3).map(|_| pulse.another()).collect();
    known.iter().for_each(|bytes| _ = node.rename_to_run(PHASE, node.prepare(PHASE, bytes)));
    let ours: Vec<f64> = (0..times)
        .map(|at| beside_settling(node.rename_to_run(PHASE, node.prepare(PHASE, &known[at % known.len()]))))
        .collect();
    rows(report, "known bytes, rename to first run", &subject, &ours, None, Some(Reach::AtMost(5.0)));

    let ours: Vec<f64> = (0..times)
        .map(|at| {
            let text = node::manifest(PHASE, &format!("# {at}\n"));
            beside_settling(node.rename_to_run(PHASE, node.prepare_manifest(PHASE, &text)))
        })
        .collect();
    rows(report, "manifest alone, rename to first run", &subject, &ours, None, Some(Reach::AtMost(5.0)));
}

/// Many phases that change at once.
fn many(pulse: &Pulse, effort: &Effort, report: &mut Report) {
    let names: Vec<String> = (0..MANY).map(|at| format!("pulse-{at}")).collect();
    let (raw, node) = (Raw::new(), Node::start("many", INTERVAL, &names, || pulse.another()));
    let subject = format!("{MANY} phases");
    let (mut ours, mut known, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.choose(5, 1) {
        let modules: Vec<_> = names.iter().map(|name| node.prepare(name, &pulse.another())).collect();
        plain.push(modules.iter().map(|module| raw.load(&module.from)).sum());
        let bytes: Vec<Vec<u8>> =
            modules.iter().map(|module| fs::read(&module.from).expect("just written")).collect();
        ours.push(beside_settling(node.rename_all(modules)));
        // Each phase gets the bytes of its neighbour.
        let modules = names.iter().enumerate();
        let modules = modules.map(|(at, name)| node.prepare(name, &bytes[(at + 1) % MANY])).collect();
        known.push(beside_settling(node.rename_all(modules)));
    }
    let rounds = format!("median of {}", ours.len());
    let within = Reach::Times(1.0 / 1.3);
    let row =
        Row::cost(GROUP, "new bytes, rename to the last one in", subject.clone(), part(&ours, 0.5), "ms");
    report.push(row.against("raw, one after the other", part(&plain, 0.5)).reach(within).note(&rounds));
    let row = Row::cost(GROUP, "known bytes, rename to the last one in", subject, part(&known, 0.5), "ms");
    report.push(row.note(rounds));
}

/// Memory that reloads leave behind.
fn growth(pulse: &Pulse, effort: &Effort, report: &mut Report) {
    let (warm, times) = (effort.choose(300, 20), effort.choose(1000, 100));
    let node = Node::start("growth", INTERVAL, &[PHASE.to_owned()], || pulse.another());
    let reload = || node.ordered(PHASE, node.prepare(PHASE, &pulse.another()));
    (0..warm).for_each(|_| reload());
    let before = node.held();
    (0..times).for_each(|_| reload());
    let after = node.held();
    let subject = format!("{times} reloads of {}", pulse.subject());
    let grown = |of: fn(&Held) -> f64| of(&after) - of(&before);
    let figures: [(&'static str, f64, &'static str, f64); 5] = [
        ("resident memory, growth", grown(|held| held.resident_mb), "MB", 2.0),
        ("mappings, growth", grown(|held| held.mappings), "", ALLOCATORS_OWN),
        ("descriptors, growth", grown(|held| held.descriptors), "", 0.0),
        ("tasks, growth", grown(|held| held.tasks), "", 0.0),
        ("threads, growth", grown(|held| held.threads), "", 0.0),
    ];
    for (measure, value, unit, most) in figures {
        let row = Row::cost(GROUP, measure, subject.clone(), value, unit).reach(Reach::AtMost(most));
        report.push(row.note(format!("after {warm} others")));
    }
}

/// Whether reloads cause missed ticks.
fn grid(pulse: &Pulse, effort: &Effort, report: &mut Report) {
    let interval = Duration::from_millis(100);
    let span = Duration::from_secs(effort.choose(20, 2));
    let (mut ours, mut control, mut reloads) = (Ticks::default(), Ticks::default(), 0);
    for round in 0..effort.choose(3, 1) {
        for busy in [round % 2 == 0, round % 2 == 1] {
            let node = Node::start("grid", interval, &[PHASE.to_owned()], || pulse.another());
            let mut beats = node.beats();
            let begun = Instant::now();
            let ticks = if busy { &mut ours } else { &mut control };
            while begun.elapsed() < span {
                if busy {
                    node.ordered(PHASE, node.prepare(PHASE, &pulse.another()));
                    reloads += 1;
                } else {
                    std::thread::sleep(interval);
                }
                // Drained each time: the channel keeps only a limited number.
                while let Ok(beat) = beats.try_recv() {
                    ticks.lateness.extend((beat.urgent == 0).then(|| ms(beat.lateness)));
                }
            }
            ticks.skipped += node.skipped() as f64;
        }
    }
    let subject =
        format!("{reloads} reloads in {} ticks of {} ms", ours.lateness.len(), interval.as_millis());
    let row = Row::cost(GROUP, "grid points skipped", subject.clone(), ours.skipped, "");
    report.push(row.against("without reloads", control.skipped).reach(Reach::AtMost(control.skipped)));
    let row = Row::cost(GROUP, "lateness of ticks, p99", subject, part(&ours.lateness, 0.99), "ms");
    report.push(row.against("without reloads", part(&control.lateness, 0.99)));
}

#[derive(Default)]
struct Ticks {
    skipped: f64,
    lateness: Vec<f64>,
}
