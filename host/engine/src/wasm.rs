//! WebAssembly guests: components in a sandbox, with bounded fuel, memory and time. Their plans are applied elsewhere.
//!
//! [`Wasm::load`] makes [`Code`] of a module's bytes: it inspects them, converts them to a component, and has a
//! [`Compiler`] compile it unless the artifact store has it. [`Guest::new`] combines code and a setup; a guest runs like any other
//! [`PhaseProgram`](super::PhaseProgram). Each run has a new store unless the setup says otherwise. A run that does not return normally
//! always ends its store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, OptLevel};

mod artifacts;
mod backstop;
mod code;
mod compile;
mod guest;
mod imports;
mod inspect;
mod outline;
mod run;
mod shapes;
mod trap;
mod types;
mod wasi;

pub use artifacts::Artifacts;
use artifacts::NewArtifact;
pub use backstop::Backstop;
pub use code::{Code, LoadError, ModuleDigest, sha256};
pub use compile::{CompileLimits, Compiler, MOST_CODE_IN_PROCESS};
use compile::{CompileRequest, CompileRunner};
pub use guest::{CheckFailure, Guest, GuestSetup, PhaseDescription, SetupError};
pub use inspect::{MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS, Sizes, component_of, with_contract};
use outline::ModuleOutline;

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
    compiler: Arc<CompileRunner>,
}

/// The result of looking at a module's bytes without compiling.
pub enum InspectedBytes {
    /// It was compiled before.
    Compiled(Arc<Code>),
    /// It must be compiled before it can run.
    Uncompiled(UncompiledModule),
}

/// A component that may become a phase if it compiles.
pub struct UncompiledModule {
    digest: ModuleDigest,
    component: Vec<u8>,
}

impl UncompiledModule {
    /// Digest of the module, as it was before its conversion to a component.
    pub fn digest(&self) -> ModuleDigest {
        self.digest
    }

    /// Bytes of the component.
    pub fn bytes(&self) -> usize {
        self.component.len()
    }
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
        let artifacts = artifacts.and_then(|folder| Artifacts::open(folder, &engine)).map(Arc::new);
        let compiler = Arc::new(CompileRunner::new(Compiler::in_process()));
        Ok(Self { engine, linker: Arc::new(linker), backstop: Arc::new(backstop), artifacts, compiler })
    }

    /// The same engine with another compiler. The default compiles in this process.
    pub fn compiled_by(mut self, compiler: Compiler) -> Self {
        self.compiler = Arc::new(CompileRunner::new(compiler));
        self
    }

    /// The wall clock limit of runs.
    pub fn backstop(&self) -> &Backstop {
        &self.backstop
    }

    /// Inspects and compiles a component, or a core module that contains the contract's metadata.
    ///
    /// Takes milliseconds to a minute unless the artifact store has the code, so do not call it in a tick.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the bytes and how to fix it.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Code>, LoadError> {
        match self.inspect(bytes)? {
            InspectedBytes::Compiled(code) => Ok(code),
            InspectedBytes::Uncompiled(module) => self.compile(&module, &|| true),
        }
    }

    /// Looks for compiled code, or inspects the bytes: size, kind, counts, imports and exports. O(bytes).
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the bytes and how to fix it.
    pub fn inspect(&self, bytes: &[u8]) -> Result<InspectedBytes, LoadError> {
        inspect::few_bytes(bytes)?;
        let digest = sha256(bytes);
        // No inspection in this case: the same bytes were inspected before they were compiled, by the same rules.
        let kept = self.artifacts.as_ref().and_then(|artifacts| artifacts.load(&self.engine, &digest));
        if let Some(component) = kept {
            return Ok(InspectedBytes::Compiled(Arc::new(Code::new(self, component, digest)?)));
        }
        let component = inspect::component_of(bytes)?.into_owned();
        ModuleOutline::of(&component)?.check()?;
        Ok(InspectedBytes::Uncompiled(UncompiledModule { digest, component }))
    }

    /// Compiles until the code is there or `is_wanted` returns false. Stores the code if there is an artifact store.
    ///
    /// # Errors
    /// [`LoadError`] says why there is no code.
    pub fn compile(
        &self,
        module: &UncompiledModule,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Arc<Code>, LoadError> {
        let UncompiledModule { digest, component } = module;
        let machine = |error: std::io::Error| LoadError::Interrupted(error.to_string());
        let entry = self.artifacts.as_ref().and_then(|artifacts| artifacts.begin(digest));
        let memory;
        let output = match &entry {
            Some(entry) => entry.file(),
            None => {
                memory = compile::memory_file().map_err(machine)?;
                &memory
            }
        };
        self.compiler.run(&self.engine, &CompileRequest { component, output, is_wanted })?;
        // Map the code from the store, so that the system can reclaim its pages.
        let stored = entry.as_ref().is_some_and(NewArtifact::finish);
        let stored = self.artifacts.as_ref().filter(|_| stored);
        let component = match stored.and_then(|artifacts| artifacts.load(&self.engine, digest)) {
            Some(component) => component,
            None => artifacts::from_memory(&self.engine, &compile::content(output).map_err(machine)?)?,
        };
        Code::new(self, component, *digest).map(Arc::new)
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
        // For the adapters that wasmtime generates between the parts of a composed component. Modules of guests with
        // several memories are refused by inspection.
        .wasm_multi_memory(true);
    config
}

/// One step of the wall clock.
const EPOCH: Duration = Duration::from_millis(10);
