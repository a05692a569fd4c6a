//! The log: its content and format. It goes to standard error, because standard output is for results.

use std::io::{self, IsTerminal, Write};

use groundskeeper::base::text::{printable_coloured, printable_json};
use groundskeeper::config::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Standard error, one event per write. Names and reasons in an event cannot begin a line of their own; tracing has escaped
/// their escape sequences.
struct LogLines {
    pretty: bool,
}

impl LogLines {
    fn line(&self, event: &[u8]) -> String {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.pretty { printable_coloured(line) } else { printable_json(line) };
        format!("{line}\n")
    }
}

impl Write for LogLines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(self.line(event).as_bytes())?;
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

/// Starts the log. Called once, when the node's config is known. Returns the function that changes the level later.
pub(super) fn start(log: &LogSettings) -> SetLevel {
    let terminal = std::io::stderr().is_terminal();
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let (level, set_level) = reload::Layer::new(filter(log.level));
    // If standard error is closed, the node goes on. The layer would panic when it says so there.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(move || LogLines { pretty }).log_internal_errors(false);
    let subscriber = tracing_subscriber::registry().with(level);
    if pretty {
        subscriber.with(lines.with_ansi(terminal && takes_colours()).with_target(false).compact()).init();
    } else {
        subscriber.with(lines.json().flatten_event(true)).init();
    }
    Box::new(move |level| {
        if let Err(error) = set_level.reload(filter(level)) {
            tracing::warn!(%error, "the log level stays as it is");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_keeps_its_colours() {
        let line = |pretty, event: &str| LogLines { pretty }.line(event.as_bytes());
        let event = "\x1b[32m INFO\x1b[0m file=a\n2026-01-01 forged\r\u{9b}2J\n";
        assert_eq!(line(true, event), "\x1b[32m INFO\x1b[0m file=a\\n2026-01-01 forged\\r\\u{9b}2J\n");
        assert_eq!(line(false, "{\"file\":\"a\u{9b}\"}\n"), "{\"file\":\"a\\u009b\"}\n");
    }
}
