//! Compiles components: in a child process with limits of time and memory, or in this process under stricter limits on
//! the module.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use wasmtime::Engine;

use super::LoadError;
use super::inspect::unpanicked;

mod child;
mod in_process;
mod share;
mod worker;

pub use in_process::MOST_CODE_IN_PROCESS;

/// What one compile may use. A child process that exceeds a limit is ended, and the module is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileLimits {
    /// CPU time, in whole seconds.
    pub cpu: Duration,
    /// Bytes of memory, besides the program itself.
    pub memory: u64,
    /// Bytes of machine code.
    pub code: u64,
}

impl Default for CompileLimits {
    /// A guest in Python (18 MB) takes 10 s on a desktop and less than 500 MiB. Small boards are six times as slow.
    fn default() -> Self {
        Self { cpu: Duration::from_secs(60), memory: 768 << 20, code: 256 << 20 }
    }
}

/// Where WebAssembly modules are compiled.
///
/// Compiling can take minutes or gigabytes even for a small module, so programs should do it in a child process.
///
/// ```no_run
/// use groundskeeper_engine::Compiler;
///
/// fn main() {
///     // In the child process, this call compiles and does not return.
///     let compiler = Compiler::of_this_program();
///     // .. give `compiler` to the node that this program starts.
/// # drop(compiler);
/// }
/// ```
#[derive(Clone, Default, Debug)]
pub struct Compiler {
    /// `None`: this process.
    program: Option<PathBuf>,
    limits: CompileLimits,
}

impl Compiler {
    /// Compiles in this process. Refuses modules that could take long: see `docs/grants.md`. The default.
    pub fn in_process() -> Self {
        Self::default()
    }

    /// Compiles in a child process that runs `program`: a `groundskeeper` of the same version, or a program with the
    /// same version of this crate that calls [`Compiler::of_this_program`] first.
    pub fn child(program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), limits: CompileLimits::default() }
    }

    /// Compiles in a child process that runs this program again. Call it first in `main`: in the child process it
    /// compiles one module, ends the process and does not return.
    pub fn of_this_program() -> Self {
        worker::serve_if_asked();
        // The running program, even if its file was replaced since.
        Self::child("/proc/self/exe")
    }

    /// With other limits for each compile in a child process.
    #[doc(hidden)]
    pub fn within(mut self, limits: CompileLimits) -> Self {
        self.limits = limits;
        self
    }
}

/// Compiles for one engine.
pub(super) struct CompileRunner {
    compiler: Compiler,
    /// The fallback is logged once.
    fallback: Once,
}

/// The file for the machine code, and whether the caller still waits for it.
pub(super) struct CompileRequest<'a> {
    pub component: &'a [u8],
    pub output: &'a File,
    pub is_wanted: &'a dyn Fn() -> bool,
}

impl CompileRunner {
    pub fn new(compiler: Compiler) -> Self {
        Self { compiler, fallback: Once::new() }
    }

    /// Writes the machine code of a component to the job's file.
    ///
    /// # Errors
    /// [`LoadError`] says why there is none, and whether the module or the machine is to blame.
    pub fn run(&self, engine: &Engine, job: &CompileRequest<'_>) -> Result<(), LoadError> {
        let Some(program) = &self.compiler.program else { return in_this_process(engine, job) };
        match child::compile(program, &self.compiler.limits, job) {
            Ok(done) => done,
            Err(forbidden) => {
                self.fall_back(program, &forbidden);
                in_this_process(engine, job)
            }
        }
    }

    fn fall_back(&self, program: &Path, error: &io::Error) {
        self.fallback.call_once(|| {
            tracing::warn!(
                program = %program.display(),
                %error,
                "a child process for compiling cannot be started: this process compiles, and refuses large modules"
            );
        });
    }
}

fn in_this_process(engine: &Engine, job: &CompileRequest<'_>) -> Result<(), LoadError> {
    in_process::check(job.component)?;
    let compiled = unpanicked(|| engine.precompile_component(job.component))?;
    let compiled = compiled.map_err(|error| LoadError::compile(&error))?;
    let mut output = job.output;
    io::Write::write_all(&mut output, &compiled)
        .map_err(|error| LoadError::Interrupted(format!("writing the code: {error}")))
}

/// A file that exists only in memory.
pub(super) fn memory_file() -> io::Result<File> {
    Ok(File::from(memfd_create("compiled-code", MemfdFlags::CLOEXEC)?))
}

/// The whole content of a file that was written.
pub(super) fn content(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
