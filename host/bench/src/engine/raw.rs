//! Plain wasmtime as an expert would use it: the minimum cost of a run. Contains nothing of ours.

use std::time::Instant;

use groundskeeper::engine::wasm::component_of;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Config, Engine, OptLevel, ResourceLimiter, Store};

use super::empty;

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Tick {
    number: u32,
    #[component(name = "since-last-s")]
    since_last_s: u32,
    missed: u32,
    late: bool,
    #[component(name = "unix-s")]
    unix_s: u32,
    seed: (u32, u32),
}

const TICK: Tick =
    Tick { number: 7, since_last_s: 30, missed: 0, late: false, unix_s: 1_700_000_000, seed: (1, 2) };

#[derive(ComponentType, Lift)]
#[component(variant)]
#[expect(dead_code, reason = "read from the guest as the contract requires, and never used")]
enum Failure {
    #[component(name = "transient")]
    Transient(String),
    #[component(name = "permanent")]
    Permanent(String),
}

type Run = TypedFunc<(Tick, &'static str), (Result<(), Failure>,)>;

const FUEL: u64 = 1_000_000_000;
const MEMORY: usize = 16 << 20;
const EPOCHS: u64 = 1_000;

/// Counts bytes against a limit.
struct Limiter(usize);

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.0 += desired - current;
        Ok(self.0 <= MEMORY)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

/// The empty phase in plain wasmtime.
pub struct Raw {
    engine: Engine,
    pre: InstancePre<Limiter>,
    run: ComponentExportIndex,
}

impl Raw {
    pub fn new() -> Self {
        let engine = Engine::new(&config()).expect("a plain configuration");
        let component = Component::new(&engine, component_of(&empty()).expect("it is a phase"));
        let component = component.expect("it compiles");
        let lifecycle = component.get_export_index(None, "groundskeeper:phase/lifecycle@0.1.0");
        let run = component.get_export_index(lifecycle.as_ref(), "run").expect("it is a phase");
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component).expect("functions alone");
        let pre = linker.instantiate_pre(&component).expect("all is defined");
        Self { engine, pre, run }
    }

    /// The compiled form of a component. The host must produce the same bytes.
    pub fn compiled(&self, component: &[u8]) -> Vec<u8> {
        self.engine.precompile_component(component).expect("it compiles")
    }

    fn armed(store: &mut Store<Limiter>) {
        store.set_fuel(FUEL).expect("fuel is on");
        store.set_epoch_deadline(EPOCHS);
    }

    fn start(&self) -> (Store<Limiter>, Run) {
        let mut store = Store::new(&self.engine, Limiter(0));
        store.limiter(|limiter| limiter);
        Self::armed(&mut store);
        let instance = self.pre.instantiate(&mut store).expect("it fits");
        let run = instance.get_typed_func(&mut store, self.run).expect("it is a phase");
        (store, run)
    }

    /// Runs it once in a new store.
    pub fn fresh(&self) {
        let (mut store, run) = self.start();
        assert!(run.call(&mut store, (TICK, "{}")).is_ok_and(|(ended,)| ended.is_ok()));
    }

    /// Nanoseconds per run, for `runs` runs in one store.
    pub fn persistent(&self, runs: usize) -> f64 {
        let (mut store, run) = self.start();
        let begun = Instant::now();
        for _ in 0..runs {
            Self::armed(&mut store);
            assert!(run.call(&mut store, (TICK, "{}")).is_ok_and(|(ended,)| ended.is_ok()));
        }
        begun.elapsed().as_nanos() as f64 / runs as f64
    }
}

/// A copy of the host's settings. The comparison of compiled code shows whether it is still equal.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}
