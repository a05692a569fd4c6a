//! What the program writes: results to standard output, errors to standard error. Everything passes through here, so that
//! no text from elsewhere rewrites the screen.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use groundskeeper::base::text::{printable_json, printable_lines};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often it is looked whether the reader of standard output has left.
const LOOK: Duration = Duration::from_millis(250);

/// The reader of standard output has closed it (`| head`): the command ends, and that is no failure.
#[derive(Debug)]
pub(super) struct ClosedOutput;

impl std::error::Error for ClosedOutput {}

impl fmt::Display for ClosedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of standard output has closed it")
    }
}

/// Writes text to standard output.
///
/// # Errors
/// [`ClosedOutput`], or that of the system.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(&printable_lines(text))
}

/// Writes JSON to standard output.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(json: &str) -> anyhow::Result<()> {
    write(&printable_json(json))
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        written => Ok(written?),
    }
}

/// Writes a line to standard error. If that is closed, there is no other place for it.
pub(super) fn complain(text: &str) {
    _ = writeln!(io::stderr(), "{}", printable_lines(text));
}

/// An error and its sources, each said once: many messages contain those of their sources.
pub(super) fn with_sources(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for source in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&source) {
            text += &format!(": {source}");
        }
    }
    text
}

/// Returns when the reader of standard output has closed it. A command that waits for a node would notice it only when it
/// writes next.
pub(super) async fn reader_left() {
    while !is_closed() {
        tokio::time::sleep(LOOK).await;
    }
}

fn is_closed() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|_| fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_source_is_said_once() {
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let bare: anyhow::Result<()> = Err(source()).context("cannot read a.toml");
        assert_eq!(with_sources(&bare.unwrap_err()), "cannot read a.toml: entity not found");
        let doubled: anyhow::Result<()> =
            Err(source()).context("cannot read a.toml: entity not found; mend it");
        assert_eq!(with_sources(&doubled.unwrap_err()), "cannot read a.toml: entity not found; mend it");
    }
}
