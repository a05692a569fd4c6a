//! The log: its content and format. It goes to standard error, because standard output is for results.

use std::io::{self, IsTerminal};

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
    let lines = written.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || lines.clone());
    let subscriber = tracing_subscriber::registry().with(level);
    // Not `init`, which also takes the records of the crate `log`: the watcher logs each event of a file there, and a log file
    // beside the config would then cause events with each of its own lines.
    let is_first = if pretty {
        set_global_default(subscriber.with(lines.with_ansi(terminal).with_target(false).compact()))
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
