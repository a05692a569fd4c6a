//! Modules that nobody wrote: made by wasm-smith to import the contract, and valid phases with bytes and sections moved.
//! None may panic, hang or leave memory behind.
//!
//! `GROUNDSKEEPER_MODULES=10000 cargo test --release -p groundskeeper --test library smith:: -- --nocapture` makes more of them than a usual run.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Unstructured;
use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Guest, GuestSetup, Wasm};
use groundskeeper::engine::{PhaseCall, PhaseProgram, RunOutcome};
use groundskeeper_sdk::contract::WIT;
use groundskeeper_sdk::host::Frozen;
use groundskeeper_sdk::rng::Rng;
use groundskeeper_sdk::testing::world;
use wasmparser::{FuncType, Parser, Payload, TypeRef, ValType};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

use crate::support::alone::{alone, resident_kib};
use crate::wat::{self, FUNCTIONS, Wat};

/// Of each kind, unless the environment says otherwise: a compiler that is not optimised itself takes a tenth of a second
/// for each.
const MODULES: usize = 150;
/// What memory may differ by between a fifth of them and all: the allocator's pages come and go. A tenth of what one
/// leaked kilobyte a module would be at ten thousand of them.
const SLACK_KIB: usize = 4_096;

/// What became of so many modules.
#[derive(Default, Debug)]
struct Tally {
    /// Taken by the loader: validated, made a component, compiled and linked.
    loaded: usize,
    /// Those of them that import functions of the contract.
    importing: usize,
    /// Those of them that said what they are.
    described: usize,
    /// Runs of those, two each, by how they ended.
    planned: usize,
    failed: usize,
    rule: usize,
    trapped: usize,
    cut: usize,
    /// Asks in the plans.
    asks: usize,
}

#[test]
fn modules_that_nobody_wrote_neither_panic_nor_hang_nor_leave_memory_behind() {
    if !alone(module_path!(), "modules_that_nobody_wrote_neither_panic_nor_hang_nor_leave_memory_behind") {
        return;
    }
    let modules = std::env::var("GROUNDSKEEPER_MODULES").map_or(MODULES, |count| count.parse().unwrap());
    let smith = Smith::new();
    let made = rounds("made by wasm-smith", modules, |seed| smith.module(seed));
    assert!(made.loaded * 3 >= modules, "{} of {modules} loaded: too few to say anything", made.loaded);
    assert!(made.planned > 0, "{made:?}");
    let phases = valid_phases();
    let mutated = rounds("mutated", modules, |seed| mutated(&phases, seed));
    assert!(mutated.loaded > 0 && mutated.loaded < modules, "{mutated:?}");
}

/// Loads and runs so many modules, and holds memory at the end against what it was after a fifth of them.
fn rounds(what: &str, modules: usize, mut module: impl FnMut(u64) -> Vec<u8>) -> Tally {
    let wasm = Wasm::by_hand(None).unwrap();
    let job = job();
    let mut tally = Tally::default();
    let mut early = None;
    for at in 0..modules {
        let seed = Named(what, at as u64);
        tally.take(&wasm, &module(seed.1), &job);
        if at == modules / 5 {
            early = Some(resident_kib());
        }
    }
    let (early, late) = (early.expect("five or more"), resident_kib());
    println!("{modules} {what}: {tally:?}; {early} KiB after a fifth of them, {late} KiB after all");
    assert!(late <= early + SLACK_KIB, "{early} KiB after a fifth of those {what}, {late} KiB after all");
    tally
}

/// Says which module it was, if the test ends while it is looked at.
struct Named<'a>(&'a str, u64);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the module was number {} of those {}", self.1, self.0);
        }
    }
}

impl Tally {
    fn take(&mut self, wasm: &Wasm, bytes: &[u8], job: &PhaseCall) {
        let Ok(code) = wasm.load(bytes) else { return };
        self.loaded += 1;
        self.importing += usize::from(!code.imports().is_empty());
        let Ok(guest) = Guest::new(wasm, code, setup()) else { return };
        self.described += 1;
        _ = guest.check();
        // The second one in the same instance, if the first one has left it whole.
        for _ in 0..2 {
            match guest.run(job).ended {
                RunOutcome::Planned(parts) => {
                    self.planned += 1;
                    self.asks += parts.asks.len();
                }
                RunOutcome::Failed(_) => self.failed += 1,
                RunOutcome::Rule(_) => self.rule += 1,
                RunOutcome::Trapped(_) => self.trapped += 1,
                RunOutcome::Cut { .. } => self.cut += 1,
                ended @ (RunOutcome::Panicked(_) | RunOutcome::Overran { .. } | RunOutcome::Shortage(_)) => {
                    panic!("{ended:?}")
                }
            }
        }
    }
}

/// Everything granted and little of it: no clock cuts anything here, so fuel has to.
fn setup() -> GuestSetup {
    GuestSetup {
        settings: "{}".into(),
        limits: Limits { fuel: 20_000, memory: 1 << 20, ..Limits::default() },
        grants: Grants::everything(),
        instance: Instance::Persistent { max_runs: 2 },
    }
}

fn job() -> PhaseCall {
    let world = world().peer(|_| {}).peer(|_| {}).address(|_| {});
    PhaseCall { tick: world.now(), view: Arc::new(world) as Arc<dyn Frozen> }
}

/// Makes modules that import what the contract has and export what it asks for, with anything in between.
struct Smith {
    resolve: Resolve,
    world: WorldId,
    imports: Vec<u8>,
    exports: Vec<u8>,
}

/// What a module is made of: so many bytes make some functions of some ten instructions.
const MATTER: u64 = 1_500;

impl Smith {
    fn new() -> Self {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("phase.wit", WIT).unwrap();
        let world = resolve.select_world(&[package], Some("phase")).unwrap();
        let imports: String = FUNCTIONS
            .iter()
            .map(|(interface, name, signature)| {
                format!("(import \"groundskeeper:phase/{interface}@0.1.0\" \"{name}\" (func {signature}))\n")
            })
            .collect();
        let imports = wat::parse(&format!("(module {imports})"));
        let exports = wat::parse(&Wat::default().text());
        Self { resolve, world, imports, exports }
    }

    fn module(&self, seed: u64) -> Vec<u8> {
        let mut rng = Rng::new(seed);
        let length = rng.below(MATTER) + 8;
        let matter: Vec<u8> = (0..length).map(|_| rng.bits() as u8).collect();
        let config = wasm_smith::Config {
            available_imports: Some(self.imports.clone()),
            exports: Some(self.exports.clone()),
            max_imports: 8,
            allow_start_export: rng.below(8) == 0,
            max_funcs: 4,
            max_instructions: 40,
            max_types: 8,
            max_globals: 8,
            // One is exported, beside any others.
            max_memories: 0,
            max_memory32_bytes: 2 << 20,
            max_table_elements: 200_000,
            // What the host does not take is refused as a whole, which would leave little to be run: seldom.
            reference_types_enabled: rng.below(8) == 0,
            memory64_enabled: false,
            threads_enabled: false,
            // Half of them: what traps at its fifth instruction calls nothing.
            disallow_traps: rng.below(2) == 0,
            // Few kinds of instruction, so that calls are among them.
            allow_floats: rng.below(4) == 0,
            simd_enabled: rng.below(4) == 0,
            exceptions_enabled: false,
            gc_enabled: false,
            relaxed_simd_enabled: false,
            ..wasm_smith::Config::default()
        };
        let module = wasm_smith::Module::new(config, &mut Unstructured::new(&matter)).unwrap();
        let mut bytes = returning(&module.to_bytes(), &mut rng);
        embed_component_metadata(&mut bytes, &self.resolve, self.world, StringEncoding::UTF8).unwrap();
        bytes
    }
}

/// An exported function that has to return something in particular.
struct Result {
    function: &'static str,
    instructions: &'static [u8],
    /// Whether it does first what wasm-smith made up.
    made_up: bool,
    /// Whether it then calls what the module imports: wasm-smith itself does so in one module of eight.
    calling: bool,
}

impl Result {
    /// Bytes of a body of this length that stay: all but its `end`, or none.
    fn kept(&self, length: usize) -> usize {
        if self.made_up { length - 1 } else { 0 }
    }
}

/// The same module, with results that the contract can read: what a made-up function returns is an address somewhere, so
/// that nearly every phase would end at being asked what it is.
fn returning(module: &[u8], rng: &mut Rng) -> Vec<u8> {
    const RESULTS: [Result; 4] = [
        // No locals, 4096 or 64.
        Result {
            function: "cabi_realloc",
            instructions: &[0, 0x41, 0x80, 0x20],
            made_up: false,
            calling: false,
        },
        Result { function: "describe", instructions: &[0, 0x41, 0xc0, 0x00], made_up: false, calling: false },
        // Drop, 8.
        Result { function: "check", instructions: &[0x1a, 0x41, 0x08], made_up: true, calling: false },
        Result { function: "run", instructions: &[0x1a, 0x41, 0x08], made_up: true, calling: true },
    ];
    const END: u8 = 0x0b;
    let mut types: Vec<FuncType> = Vec::new();
    let mut imported: Vec<FuncType> = Vec::new();
    let mut results: BTreeMap<u32, &Result> = BTreeMap::new();
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut code = None;
    for payload in Parser::new(0).parse_all(module) {
        match payload.unwrap() {
            Payload::TypeSection(section) => {
                types = section.into_iter_err_on_gc_types().collect::<std::result::Result<_, _>>().unwrap();
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let TypeRef::Func(ty) = import.unwrap().ty {
                        imported.push(types[ty as usize].clone());
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.unwrap();
                    let name = export.name.split('#').next_back().unwrap();
                    if let Some(result) = RESULTS.iter().find(|result| result.function == name) {
                        results.insert(export.index, result);
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => code = Some(range),
            Payload::CodeSectionEntry(body) => {
                let mut bytes = module[body.range()].to_vec();
                if let Some(result) = results.get(&((imported.len() + bodies.len()) as u32)) {
                    let calls = if result.calling { calls(&imported, rng) } else { Vec::new() };
                    bytes =
                        [&bytes[..result.kept(bytes.len())], &calls, result.instructions, &[END]].concat();
                }
                bodies.push(bytes);
            }
            _ => {}
        }
    }
    let code = code.expect("it exports functions");
    let mut content = number(bodies.len());
    for body in bodies {
        content.extend(number(body.len()));
        content.extend(body);
    }
    // The section's head: its id and the length of what it held.
    let head = 1 + number(code.len()).len();
    let before = &module[..code.start - head];
    [before, &[module[code.start - head]], &number(content.len()), &content, &module[code.end..]].concat()
}

/// Calls of some of these functions, which are the first of their module, with small numbers.
fn calls(imported: &[FuncType], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, function) in imported.iter().enumerate().filter(|_| rng.below(2) == 0).collect::<Vec<_>>() {
        for parameter in function.params() {
            // For the most part what is a row, a length and the place of a list at once; the last one is -1.
            const SMALL: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 1, 1, 1, 2, 63, 0x7f];
            let small = SMALL[rng.below(SMALL.len() as u64) as usize];
            match parameter {
                ValType::I32 => bytes.extend([0x41, small]),
                ValType::I64 => bytes.extend([0x42, small]),
                ValType::F32 => bytes.extend([0x43, 0, 0, small, 0]),
                ValType::F64 => bytes.extend([0x44, 0, 0, 0, 0, 0, 0, small, 0]),
                other => panic!("the contract has no {other:?}"),
            }
        }
        bytes.push(0x10);
        bytes.extend(number(at));
        bytes.extend(function.results().iter().map(|_| 0x1a));
    }
    bytes
}

/// A number as WebAssembly writes it.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Phases that do something, as components and as core modules.
fn valid_phases() -> Vec<Vec<u8>> {
    let asking = Wat {
        tail: r#"(data (i32.const 1024) "slow")"#.into(),
        ..Wat::run("(call $disconnect.ask (i32.const 1) (i32.const 1024) (i32.const 4)) (i32.const 8)")
    }
    .importing(&[("disconnect", "ask", "(param i32 i32 i32)")]);
    let reading = Wat::run("(call $peers.columns (i32.const 256)) (i32.const 8)").importing(&[(
        "peers",
        "columns",
        "(param i32)",
    )]);
    [&Wat::default(), &asking, &reading].iter().flat_map(|wat| [wat.component(), wat.core()]).collect()
}

/// One of them with some bytes changed, or with a section moved, doubled or left out.
fn mutated(phases: &[Vec<u8>], seed: u64) -> Vec<u8> {
    const HEADER: usize = 8;
    let mut rng = Rng::new(seed);
    let mut bytes = phases[rng.below(phases.len() as u64) as usize].clone();
    if rng.below(3) > 0 {
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = match rng.below(3) {
                0 => bytes[at] ^ 1 << rng.below(8),
                1 => bytes[at].wrapping_add(1),
                _ => rng.bits() as u8,
            };
        }
        return bytes;
    }
    let mut sections = sections(&bytes[HEADER..]);
    let from = rng.below(sections.len() as u64) as usize;
    let to = rng.below(sections.len() as u64) as usize;
    match rng.below(3) {
        0 => sections.swap(from, to),
        1 => sections.insert(to, sections[from]),
        _ => _ = sections.remove(from),
    }
    [&bytes[..HEADER], &sections.concat()].concat()
}

/// The sections of a module or component, each with its head.
fn sections(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let digits = rest[1..].iter().position(|byte| byte & 0x80 == 0).expect("a last byte") + 1;
        let length =
            rest[1..=digits].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
        let (section, next) = rest.split_at(1 + digits + length);
        sections.push(section);
        rest = next;
    }
    sections
}
