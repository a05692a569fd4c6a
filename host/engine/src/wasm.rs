//! WebAssembly guests: components in a sandbox, with bounded fuel, memory and time. Their plans are applied elsewhere.
//!
//! [`Wasm::load`] makes [`Code`] of a module's bytes: it inspects them, converts them to a component, and compiles it
//! unless the artifact store has it. [`Guest::new`] combines code and a setup; a guest runs like any other
//! [`PhaseProgram`](super::PhaseProgram). Each run has a new store unless the setup says otherwise. A run that does not return normally
//! always ends its store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, OptLevel};

mod artifacts;
mod backstop;
mod code;
mod guest;
mod imports;
mod inspect;
mod run;
mod shapes;
mod trap;
mod types;
mod wasi;

pub use artifacts::Artifacts;
pub use backstop::Backstop;
pub use code::{Code, LoadError, ModuleDigest, sha256};
pub use guest::{CheckFailure, Guest, GuestSetup, PhaseDescription, SetupError};
pub use inspect::{MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS, Sizes, component_of, with_contract};

/// The stack of a guest. A component that needs more recurses without end or was not written for this host.
const STACK_BYTES: usize = 512 << 10;

/// Bytes that the host may allocate for one call of a guest, besides its memory grant: twice the longest list of the
/// contract, with space for a reason and for settings.
const HOSTCALL_BYTES: usize = 256 << 10;

/// What all guests of a process share: the compiler, the host's functions, the wall clock limit.
#[derive(Clone)]
pub struct Wasm {
    engine: Engine,
    linker: Arc<Linker<run::StoreState>>,
    backstop: Arc<Backstop>,
    artifacts: Option<Arc<Artifacts>>,
}

impl Wasm {
    /// An engine that stores compiled code in the folder `artifacts`, if given. A thread enforces wall time limits.
    ///
    /// # Errors
    /// This machine cannot run compiled WebAssembly, or the thread cannot be started.
    pub fn new(artifacts: Option<PathBuf>) -> Result<Self, LoadError> {
        Self::with_backstop(artifacts, Backstop::start)
    }

    /// An engine whose wall clock moves only by [`Backstop::step`]: for tests of limits.
    ///
    /// # Errors
    /// The same as [`Wasm::new`].
    pub fn by_hand(artifacts: Option<PathBuf>) -> Result<Self, LoadError> {
        Self::with_backstop(artifacts, |engine| Ok(Backstop::by_hand(engine)))
    }

    fn with_backstop(
        artifacts: Option<PathBuf>,
        backstop: impl FnOnce(Engine) -> std::io::Result<Backstop>,
    ) -> Result<Self, LoadError> {
        let machine = |error: &dyn std::fmt::Display| LoadError::Machine(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(|error| machine(&error))?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(|error| machine(&error))?;
        let backstop = backstop(engine.clone()).map_err(|error| machine(&error))?;
        let artifacts = match artifacts {
            Some(folder) => Some(Arc::new(Artifacts::open(folder, &engine)?)),
            None => None,
        };
        Ok(Self { engine, linker: Arc::new(linker), backstop: Arc::new(backstop), artifacts })
    }

    /// The wall clock limit of runs.
    pub fn backstop(&self) -> &Backstop {
        &self.backstop
    }

    /// Compiles a component, or a core module that contains the contract's metadata.
    ///
    /// Takes milliseconds to seconds of CPU time unless the artifact store has the code, so do not call it in a tick.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the bytes and how to fix it.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Code>, LoadError> {
        inspect::few_bytes(bytes)?;
        let digest = sha256(bytes);
        // No inspection in this case: the same bytes were inspected before they were compiled, by the same rules.
        let kept = self.artifacts.as_ref().and_then(|artifacts| artifacts.load(&self.engine, &digest));
        let compiled = match kept {
            Some(compiled) => compiled,
            None => {
                let component = inspect::component_of(bytes)?;
                let compiled = inspect::unpanicked(|| self.engine.precompile_component(&component))?;
                let compiled = compiled.map_err(|error| LoadError::compile(&error))?;
                self.keep(&digest, &compiled)?
            }
        };
        Code::new(self, compiled, digest).map(Arc::new)
    }

    fn keep(&self, digest: &ModuleDigest, compiled: &[u8]) -> Result<Component, LoadError> {
        if let Some(artifacts) = &self.artifacts {
            match artifacts.keep(digest, compiled) {
                // Map the code from the file, so that the system can reclaim its pages.
                Ok(()) => {
                    if let Some(component) = artifacts.load(&self.engine, digest) {
                        return Ok(component);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "compiled code could not be stored; it is compiled again next time")
                }
            }
        }
        artifacts::from_memory(&self.engine, compiled)
    }
}

/// How guests are compiled and run. After a change here, stored artifacts are compiled again.
fn config() -> Config {
    let mut config = Config::new();
    config
        // The most important setting: calls are three times as fast without it, and nothing here is async.
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        // A recorded run must decide the same on another machine: only one bit pattern for NaN, and no instructions
        // with results that depend on the processor.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}

/// One step of the wall clock.
const EPOCH: Duration = Duration::from_millis(10);
