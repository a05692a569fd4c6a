//! The parent's side of a compile: starts the child process, feeds it, ends it, and says why there is no code.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::clean;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::Signal;

use super::super::LoadError;
use super::super::trap::short;
use super::worker::{self, REFUSED, WorkerError};
use super::{CompileLimits, CompileRequest, share};

/// A child that gets less than a tenth of a core is ended, and the compile is tried again later.
const SLOWEST: u32 = 10;

/// It gets this long in any case: its priority is low.
const LEAST_PATIENCE: Duration = Duration::from_secs(300);

/// All that the program may need of the environment.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// How often the parent asks whether the result is still wanted.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Between two looks at a child that has closed its pipes.
const ENDING: Duration = Duration::from_millis(2);

/// Bytes of standard error that are read. An error is shorter.
const MOST_WORDS: usize = 4096;

/// Compiles in a child process that runs `program`.
///
/// # Errors
/// The outer error: this process may not start `program`. The inner one: the compile failed.
pub(super) fn compile(
    program: &Path,
    limits: &CompileLimits,
    job: &CompileRequest<'_>,
) -> io::Result<Result<(), LoadError>> {
    let granted = CompileLimits { memory: share::of(limits.memory), ..*limits };
    let mut running = match start(program, &granted, job.output) {
        Ok(running) => running,
        Err(error) if is_forbidden(&error) => return Err(error),
        Err(error) => return Ok(Err(interrupted(&format!("{}: {error}", program.display())))),
    };
    let deadline = Instant::now() + (limits.cpu * SLOWEST).max(LEAST_PATIENCE);
    let ended = running.talk(job, deadline);
    if let Ok(status) = &ended
        && status.signal() == Some(Signal::SYS.as_raw())
    {
        return Err(io::Error::other("seccomp ended it"));
    }
    let words = String::from_utf8_lossy(&running.words).into_owned();
    Ok(match ended {
        Ok(status) => verdict(status, &words, limits, &granted),
        Err(why) => Err(interrupted(why)),
    })
}

/// Whether trying again does not help: there is no such program, or this process may start none.
fn is_forbidden(error: &io::Error) -> bool {
    let is_refused = matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::NotADirectory
    );
    is_refused || error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error())
}

fn interrupted(why: &str) -> LoadError {
    LoadError::Interrupted(why.to_owned())
}

fn start(program: &Path, limits: &CompileLimits, output: &File) -> io::Result<RunningChild> {
    let mut command = Command::new(program);
    command
        .args(worker::arguments(limits))
        .env_clear()
        .envs(env::var_os(LIBRARIES).map(|path| (LIBRARIES, path)))
        .current_dir("/")
        // Ctrl-C is for the parent, which then ends the child.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let running = RunningChild { child, input, errors, words: Vec::new() };
    // From here on, dropping it ends the child.
    running.input.iter().try_for_each(|input| ioctl_fionbio(input, true))?;
    running.errors.iter().try_for_each(|errors| ioctl_fionbio(errors, true))?;
    Ok(running)
}

/// A child process. Dropping it ends the process.
struct RunningChild {
    child: Child,
    /// `None` after everything was written.
    input: Option<ChildStdin>,
    /// `None` after the child has closed it.
    errors: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Drop for RunningChild {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl RunningChild {
    /// Writes the component, reads errors, and waits for the end.
    ///
    /// # Errors
    /// Why the child did not come to its end.
    fn talk(&mut self, job: &CompileRequest<'_>, deadline: Instant) -> Result<ExitStatus, &'static str> {
        let mut left = job.component;
        loop {
            if !(job.is_wanted)() {
                return Err("its files have changed, or the node stops");
            }
            if Instant::now() > deadline {
                return Err("the machine is too busy for it");
            }
            let failed = |_| "the pipes to the compiler failed";
            if self.errors.is_none() {
                match self.child.try_wait().map_err(failed)? {
                    Some(status) => return Ok(status),
                    None => thread::sleep(ENDING),
                }
                continue;
            }
            self.wait_for_pipes().map_err(failed)?;
            self.feed(&mut left).map_err(failed)?;
            self.listen().map_err(failed)?;
        }
    }

    fn wait_for_pipes(&self) -> io::Result<()> {
        let mut pipes = Vec::with_capacity(2);
        pipes.extend(self.input.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)));
        pipes.extend(self.errors.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        match poll(&mut pipes, Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn feed(&mut self, left: &mut &[u8]) -> io::Result<()> {
        while let Some(input) = &mut self.input {
            match input.write(left) {
                Ok(written) => *left = &left[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // It has ended; its exit says why.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => *left = &[],
                Err(error) => return Err(error),
            }
            if left.is_empty() {
                self.input = None;
            }
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        while let Some(errors) = &mut self.errors {
            match errors.read(&mut chunk) {
                Ok(0) => self.errors = None,
                Ok(read) => {
                    let kept = read.min(MOST_WORDS.saturating_sub(self.words.len()));
                    self.words.extend_from_slice(&chunk[..kept]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the end of the child says about the module. `granted` is what it got of `limits`.
fn verdict(
    status: ExitStatus,
    words: &str,
    limits: &CompileLimits,
    granted: &CompileLimits,
) -> Result<(), LoadError> {
    if status.success() {
        return Ok(());
    }
    if let (Some(REFUSED), Some((refusal, text))) = (status.code(), WorkerError::parse(words)) {
        let text = short(text);
        return Err(match refusal {
            WorkerError::Compile if is_out_of_memory(&text) => out_of_memory(limits, granted),
            WorkerError::Compile => LoadError::Compile(text),
            WorkerError::Panicked => LoadError::Panicked(text),
            WorkerError::Machine => LoadError::Interrupted(text),
        });
    }
    let Some(signal) = status.signal().and_then(Signal::from_named_raw) else {
        return Err(interrupted("the program that compiles does not call `Compiler::of_this_program` first"));
    };
    Err(match signal {
        Signal::XCPU => LoadError::TooCostly(format!("{} s of CPU time", limits.cpu.as_secs())),
        Signal::XFSZ if inherited_file_limit().is_some_and(|limit| limit < limits.code) => {
            interrupted("the limit of file sizes (ulimit -f) is lower than what the compiler may write")
        }
        Signal::XFSZ => LoadError::TooCostly(format!("{} of machine code", mib(limits.code))),
        Signal::ABORT if is_out_of_memory(words) => out_of_memory(limits, granted),
        Signal::ABORT | Signal::SEGV | Signal::BUS | Signal::ILL | Signal::FPE | Signal::TRAP => {
            let last = clean(words.trim().lines().last().unwrap_or_default()).into_owned();
            LoadError::Crashed(short(format!("signal {}, {last}", signal.as_raw()).trim_end_matches(", ")))
        }
        other => interrupted(&format!("signal {} ended the compiler", other.as_raw())),
    })
}

/// The limit of file sizes that a child of this process cannot raise, in bytes.
fn inherited_file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum
}

/// What the standard library and the system say when memory cannot be had.
fn is_out_of_memory(words: &str) -> bool {
    words.contains("memory allocation of") || words.contains("annot allocate memory")
}

fn out_of_memory(limits: &CompileLimits, granted: &CompileLimits) -> LoadError {
    let granted_mib = mib(granted.memory);
    if granted.memory < limits.memory {
        return interrupted(&format!(
            "it needs more than {granted_mib}, its share of what is left of this machine's limit"
        ));
    }
    LoadError::TooCostly(format!("{granted_mib} of memory"))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
