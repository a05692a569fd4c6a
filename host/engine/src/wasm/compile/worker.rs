//! The child process: limits itself, reads a component from standard input, writes its machine code to standard output.
//! The error goes to standard error: a word of [`WorkerError`], a colon, a text.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::panic;
use std::process;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit,
};
use wasmtime::Engine;

use super::super::inspect::unpanicked;
use super::super::trap::short;
use super::super::{LoadError, MOST_BYTES, config};
use super::CompileLimits;

/// The first argument of the child process, before its limits: CPU seconds, bytes of memory, bytes of code.
pub(super) const VERB: &str = "compile-module";

/// The exit code after an error that standard error describes.
pub(super) const REFUSED: i32 = 3;

/// The compiler opens no files.
const MOST_FILES: u64 = 16;

/// The kernel ends the process at the limit; this much later it would end it even if that signal were ignored.
const CPU_GRACE_S: u64 = 5;

/// Kinds of errors, as words on standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WorkerError {
    /// The module does not compile.
    Compile,
    /// The compiler panicked.
    Panicked,
    /// The machine failed.
    Machine,
}

impl WorkerError {
    const ALL: [Self; 3] = [Self::Compile, Self::Panicked, Self::Machine];

    fn word(self) -> &'static str {
        match self {
            Self::Compile => "compile",
            Self::Panicked => "panicked",
            Self::Machine => "machine",
        }
    }

    /// Reads what [`serve_if_asked`] has written. `None` if that was something else.
    pub fn parse(written: &str) -> Option<(Self, &str)> {
        let (word, text) = written.split_once(": ")?;
        Some((Self::ALL.into_iter().find(|refusal| refusal.word() == word)?, text))
    }
}

/// The arguments that make a child process compile within `limits`.
pub(super) fn arguments(limits: &CompileLimits) -> Vec<String> {
    let numbers = [limits.cpu.as_secs().max(1), limits.memory, limits.code];
    [VERB.to_owned()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

/// Compiles and ends the process if it was started for that.
#[expect(
    clippy::exit,
    reason = "the process was started for this alone; what its program does otherwise must not run"
)]
pub(super) fn serve_if_asked() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != VERB) {
        return;
    }
    let Some(numbers) = numbers(arguments) else { process::exit(2) };
    let code = match serve(numbers) {
        Ok(()) => 0,
        Err((refusal, text)) => {
            // Fails if the parent is gone.
            _ = write!(io::stderr(), "{}: {}", refusal.word(), short(&text));
            REFUSED
        }
    };
    process::exit(code)
}

fn numbers(arguments: impl Iterator<Item = OsString>) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> = arguments.map(|number| number.to_str()?.parse().ok()).collect();
    numbers?.try_into().ok()
}

fn serve(limits: [u64; 3]) -> Result<(), (WorkerError, String)> {
    let machine = |error: io::Error| (WorkerError::Machine, error.to_string());
    restrict(limits).map_err(machine)?;
    // The text of a panic goes to the parent as an error. A backtrace would be the compiler's.
    panic::set_hook(Box::new(|_| {}));
    let mut component = Vec::new();
    io::stdin().lock().take(MOST_BYTES as u64 * 2).read_to_end(&mut component).map_err(machine)?;
    let engine = Engine::new(&config()).map_err(|error| (WorkerError::Machine, format!("{error:#}")))?;
    let compiled = match unpanicked(|| engine.precompile_component(&component)) {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(error)) => return Err((WorkerError::Compile, format!("{error:#}"))),
        Err(LoadError::Panicked(text)) => return Err((WorkerError::Panicked, text)),
        Err(error) => return Err((WorkerError::Panicked, error.to_string())),
    };
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(machine)?);
    output.write_all(&compiled).map_err(machine)?;
    // The parent renames the file. After a crash it must not be there with holes.
    output.sync_all().map_err(machine)
}

/// Limits this process, before it reads the module.
fn restrict([cpu_s, memory, code]: [u64; 3]) -> io::Result<()> {
    // Where it is forbidden, the closed pipes or the limit of CPU time end this process.
    _ = set_parent_process_death_signal(Some(Signal::KILL));
    let limit = |resource, soft: u64, hard: u64| {
        // The machine's own limit may be lower, and cannot be raised.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) })
    };
    // Address space that is there already counts too: the program, its libraries, its stack.
    let memory = memory.saturating_add(address_space());
    limit(Resource::Cpu, cpu_s, cpu_s.saturating_add(CPU_GRACE_S))?;
    limit(Resource::As, memory, memory)?;
    limit(Resource::Fsize, code, code)?;
    limit(Resource::Nofile, MOST_FILES, MOST_FILES)?;
    limit(Resource::Core, 0, 0)?;
    // If memory runs out, this process ends and the node stays. Neither is needed for the limits.
    _ = fs::write("/proc/self/oom_score_adj", "1000");
    _ = nice(10);
    Ok(())
}

/// Bytes of address space of this process.
fn address_space() -> u64 {
    /// If the system does not tell: more than a program and its libraries.
    const UNKNOWN: u64 = 256 << 20;
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    pages.map_or(UNKNOWN, |pages| pages.saturating_mul(rustix::param::page_size() as u64))
}
