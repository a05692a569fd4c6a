//! A line on the terminal while a module is compiled.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A shorter compile shows nothing.
const QUIET: Duration = Duration::from_secs(1);

/// Shows how long a compile takes, on standard error if that is a terminal. Dropping it removes the line.
pub(super) struct CompileProgress<'a> {
    module: &'a Path,
    begun: Instant,
    shown_s: Cell<u64>,
    is_terminal: bool,
}

impl<'a> CompileProgress<'a> {
    pub fn of(module: &'a Path) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { module, begun: Instant::now(), shown_s: Cell::new(0), is_terminal }
    }

    /// Shows the seconds so far. To be called several times a second.
    pub fn show(&self) {
        let seconds = self.begun.elapsed().as_secs();
        if !self.is_terminal || self.begun.elapsed() < QUIET || seconds == self.shown_s.get() {
            return;
        }
        self.shown_s.set(seconds);
        let name = self.module.file_name().unwrap_or_default().to_string_lossy();
        let name = groundskeeper_sdk::host::clean(&name);
        // A terminal that has gone does not stop the command.
        _ = write!(io::stderr(), "\rcompiling {name}: {seconds} s ");
    }
}

impl Drop for CompileProgress<'_> {
    fn drop(&mut self) {
        if self.shown_s.get() > 0 {
            _ = write!(io::stderr(), "\r{:60}\r", "");
        }
    }
}
