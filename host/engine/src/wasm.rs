//! Guests: WebAssembly components in a sandbox, with bounded fuel, memory and time. Decides nothing about their plans.
//!
//! Bytes become [`Code`] (looked at, made a component, compiled or found in the artifact store), code and a setup become
//! a [`Guest`], and a guest runs like any other [`Body`](super::Body). A run has a store of its own unless the setup
//! says otherwise; whatever ends a run other than by returning ends its store too.

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
pub use code::{Code, Digest, LoadError, sha256};
pub use guest::{Described, Guest, Setup, SetupError};
pub use inspect::{MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS, Sizes, component_of, with_contract};

/// The stack of a guest. A component that needs more recurses without an end, or was not written for this.
const STACK_BYTES: usize = 512 << 10;

/// Bytes that one call of a guest may make the host allocate, besides what its memory grant lets it store: twice the
/// longest list of the contract, with room for a reason and for settings.
const HOSTCALL_BYTES: usize = 256 << 10;

/// What all guests of a process share: the compiler, the host's functions, the clock behind the fuel.
#[derive(Clone)]
pub struct Wasm {
    engine: Engine,
    linker: Arc<Linker<run::Inside>>,
    backstop: Arc<Backstop>,
    artifacts: Option<Arc<Artifacts>>,
}

impl Wasm {
    /// An engine that keeps what it compiled in `artifacts`, or nowhere. Runs are cut by wall time too.
    ///
    /// # Errors
    /// If this machine cannot run compiled WebAssembly, or the thread for the clock cannot be started.
    pub fn new(artifacts: Option<PathBuf>) -> Result<Self, LoadError> {
        Self::with_backstop(artifacts, Backstop::start)
    }

    /// An engine whose wall clock moves only by [`Backstop::step`]: for tests of limits.
    ///
    /// # Errors
    /// As [`Wasm::new`].
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

    /// The clock behind the fuel.
    pub fn backstop(&self) -> &Backstop {
        &self.backstop
    }

    /// Makes code of a component's bytes, or of a core module's that carries the contract's metadata.
    ///
    /// Costs milliseconds to seconds of CPU unless the artifact store has it: not for the tick.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the bytes and the way out.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Code>, LoadError> {
        inspect::few_bytes(bytes)?;
        let digest = sha256(bytes);
        // These very bytes were looked at when they were compiled, by the same rules.
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

    fn keep(&self, digest: &Digest, compiled: &[u8]) -> Result<Component, LoadError> {
        if let Some(artifacts) = &self.artifacts {
            match artifacts.keep(digest, compiled) {
                // Mapped from the file, so that its pages can be given back.
                Ok(()) => {
                    if let Some(component) = artifacts.load(&self.engine, digest) {
                        return Ok(component);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "compiled code was not kept; it is compiled again next time")
                }
            }
        }
        artifacts::from_memory(&self.engine, compiled)
    }
}

/// What is compiled in, and how. A change here makes other artifacts.
fn config() -> Config {
    let mut config = Config::new();
    config
        // The one big switch: calls are three times as fast without it, and nothing here is async.
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        // A recorded run must decide alike on another machine: one bit pattern for "not a number", and none of the
        // instructions whose result a processor may choose.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}

/// One step of the wall clock.
const EPOCH: Duration = Duration::from_millis(10);
