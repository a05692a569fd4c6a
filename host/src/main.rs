//! The binary: sets up what is one per process, and hands over to the command line.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use groundskeeper::cli::{self, Cli};
use groundskeeper::config::{Level, Log, LogFormat};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    cli::execute(Cli::parse(), start_logging)
}

/// To standard error: standard output is for results.
fn start_logging(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let terminal = std::io::stderr().is_terminal();
    let pretty = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    if pretty {
        subscriber.with_ansi(terminal).with_target(false).compact().init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}
