//! The log: its content and format. It goes to standard error, because standard output is for results.

use std::io::{self, IsTerminal, Write};

use groundskeeper::base::text::{printable_coloured, printable_json};
use groundskeeper::config::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

use super::lines::OutputLines;

/// Changes the log level at run time.
pub(super) type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The lines of the log, one event each. Names and reasons in an event cannot begin a line of their own; tracing has escaped
/// their escape sequences.
struct LogLines<W> {
    out: W,
    pretty: bool,
}

impl<W> LogLines<W> {
    fn line(&self, event: &[u8]) -> String {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.pretty { printable_coloured(line) } else { printable_json(line) };
        format!("{line}\n")
    }
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = self.line(event);
        self.out.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the user's terminal takes colours, by <https://no-color.org> and TERM.
fn takes_colours() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb" && !terminal.is_empty())
}

/// Starts the log. Called once, when the node's config is known. Returns the function that changes the level later, and the
/// lines, to wait for them at the end.
///
/// # Errors
/// If the system has no thread left.
pub(super) fn start(log: &LogSettings) -> io::Result<(SetLevel, OutputLines)> {
    let terminal = io::stderr().is_terminal();
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let (level, set_level) = reload::Layer::new(filter(log.level));
    let written = OutputLines::start("gk-log", io::stderr())?;
    let out = written.clone();
    // If standard error is closed, the node goes on. The layer would panic when it says so there.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || LogLines { out: out.clone(), pretty })
        .log_internal_errors(false);
    let subscriber = tracing_subscriber::registry().with(level);
    // Not `init`, which also takes the records of the crate `log`: the watcher logs each event of a file there, and a log file
    // beside the config would then cause events with each of its lines.
    let is_first = if pretty {
        let colours = terminal && takes_colours();
        set_global_default(subscriber.with(lines.with_ansi(colours).with_target(false).compact()))
    } else {
        set_global_default(subscriber.with(lines.json().flatten_event(true)))
    };
    is_first.map_err(io::Error::other)?;
    let set_level: SetLevel = Box::new(move |level| {
        if let Err(error) = set_level.reload(filter(level)) {
            tracing::warn!(%error, "the log level stays as it is");
        }
    });
    Ok((set_level, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_keeps_its_colours() {
        let line = |pretty, event: &str| LogLines { out: io::sink(), pretty }.line(event.as_bytes());
        let event = "\x1b[32m INFO\x1b[0m file=a\n2026-01-01 forged\r\u{9b}2J\n";
        assert_eq!(line(true, event), "\x1b[32m INFO\x1b[0m file=a\\n2026-01-01 forged\\r\\u{9b}2J\n");
        assert_eq!(line(false, "{\"file\":\"a\u{9b}\"}\n"), "{\"file\":\"a\\u009b\"}\n");
    }
}
