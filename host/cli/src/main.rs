//! The program: flags, exit codes and terminal output. Holds no logic of the node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use groundskeeper::config::{self, Config, Overrides, Problem};
use groundskeeper::data::{DataError, DataFolder};
use groundskeeper::engine::Compiler;
use groundskeeper::node::StartError;

mod args;
mod ask;
mod author;
mod check;
mod code;
mod dev;
mod journal;
mod lines;
mod local;
mod logging;
mod notify;
mod output;
mod replay;
mod run;
mod show;
mod signals;
mod watchdog;

use args::{
    BuildArgs, CheckArgs, Cli, CliCommand, DevArgs, InstallArgs, NewArgs, NodeArgs, PhaseArgs, ReplayArgs,
    RunArgs, TestArgs, TryArgs,
};
use output::{ClosedOutput, complain, print, with_sources};

/// Exit codes of the process. Those above 63 come from sysexits.h.
mod exit {
    pub const DONE: u8 = 0;
    /// The command ran and failed. Also: the node is not healthy, or `explain` knows no such peer.
    pub const FAILED: u8 = 1;
    /// The flags are wrong or do not go together; clap's code.
    pub const USAGE: u8 = 2;
    /// No node answers, or it is too busy (EX_UNAVAILABLE).
    pub const NO_NODE: u8 = 69;
    /// The data folder or the node's key cannot be used, or no folder is known (EX_CANTCREAT).
    pub const DATA: u8 = 73;
    /// Not allowed to talk to the node (EX_NOPERM).
    pub const NOT_ALLOWED: u8 = 77;
    /// The config has problems (EX_CONFIG).
    pub const CONFIG: u8 = 78;

    pub fn done_if(done: bool) -> u8 {
        if done { DONE } else { FAILED }
    }
}

fn main() -> ExitCode {
    // In a child process that compiles, this does not return.
    let compiler = Compiler::of_this_program();
    let Cli { json, verb } = Cli::parse();
    let done = match verb {
        CliCommand::Run(args) => run::run(&args, compiler, json),
        CliCommand::Check(CheckArgs { file: Some(file), config, .. }) if author::is_phase(&file) => {
            author::check(&file, config.as_deref(), &compiler, json)
        }
        CliCommand::Check(CheckArgs { file: Some(file), config: Some(config), .. }) => {
            let (file, config) = (file.display(), config.display());
            complain(&format!(
                "groundskeeper: {file} is a config, and so is --config {config}; name one of them"
            ));
            Ok(ExitCode::from(exit::USAGE))
        }
        CliCommand::Check(args) => {
            let overrides = args.overrides();
            check::check(args.config.or(args.file).as_deref(), &overrides, &compiler, json)
        }
        CliCommand::Status(node) => ask::status(&node, json),
        CliCommand::Peers { node, limit } => ask::peers(&node, limit, json),
        CliCommand::Phases(node) => ask::phases(&node, json),
        CliCommand::Pause(args) => ask::pause(&args, json),
        CliCommand::RunNow(args) => ask::run_now(&args, json),
        CliCommand::Tap(node) => ask::tap(&node, json),
        CliCommand::Reload { wait, node } => ask::reload(&node, wait, json),
        CliCommand::Resume(args) => ask::resume(&args, json),
        CliCommand::Explain { who, node } => ask::explain(&node, &who, json),
        CliCommand::Journal(args) => journal::journal(&args, json),
        CliCommand::Replay(args) => replay::replay(&args, &compiler, json),
        CliCommand::Healthcheck { node, ready } => ask::healthcheck(&node, ready, json),
        CliCommand::Try(args) => author::dry_run(&args, &compiler, json),
        CliCommand::Test(args) => author::test(&args, &compiler, json),
        CliCommand::Install(args) => author::install(&args, &compiler),
        CliCommand::Dev(args) => dev::dev(&args, &compiler, json),
        CliCommand::New(args) => author::new(&args),
        CliCommand::Build(args) => author::build(&args, json),
        CliCommand::Schema { manifest } => {
            let schema = if manifest { config::manifest_schema() } else { config::schema() };
            print(&format!("{schema:#}\n")).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| ExitCode::from(tell(&error)))
}

/// Prints an error to standard error and returns its exit code.
fn tell(error: &anyhow::Error) -> u8 {
    if error.is::<ClosedOutput>() {
        return exit::DONE;
    }
    if let Some(BadConfig(problems)) = error.downcast_ref() {
        problems.iter().for_each(|problem| complain(&problem.to_string()));
        complain(&format!("groundskeeper: the config has {}", problems_found(problems)));
        return exit::CONFIG;
    }
    complain(&format!("groundskeeper: {}", with_sources(error)));
    match error.downcast_ref() {
        Some(StartError::Data(_) | StartError::Key(_)) => exit::DATA,
        _ if error.is::<DataError>() || error.is::<NoFolder>() => exit::DATA,
        _ => error.downcast_ref().map_or(exit::FAILED, ask::code_of),
    }
}

/// The number of problems. Of one file, only the first are listed.
fn problems_found(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".to_owned(),
        count if count > config::MOST_PROBLEMS => format!("more than {} problems", config::MOST_PROBLEMS),
        count => format!("{count} problems"),
    }
}

/// The user's environment names no folder.
#[derive(Debug)]
struct NoFolder(&'static str);

impl std::error::Error for NoFolder {}

impl std::fmt::Display for NoFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "no {}: neither XDG_STATE_HOME nor HOME is set to an absolute path; name one with {}",
            if self.0 == "--phases" { "drop-in folder" } else { "data folder" },
            self.0
        )
    }
}

/// Every problem of a config that a command needs.
#[derive(Debug)]
struct BadConfig(Vec<Problem>);

impl std::error::Error for BadConfig {}

impl std::fmt::Display for BadConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}

/// Overrides for a command that needs only a node's folders: manifests are not read.
fn without_manifests(data_dir: Option<PathBuf>) -> Overrides {
    Overrides {
        data_dir,
        usual_data_dir: usual_data_dir(),
        usual_journal: Some(JOURNAL_FILE.into()),
        without_manifests: true,
        ..Overrides::default()
    }
}

fn load_config(file: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Config> {
    Config::load_with(file, overrides).map_err(|problems| BadConfig(problems).into())
}

/// Prints the result of a command and returns `code`, also if standard output is closed.
fn answer<T: Serialize>(
    found: &T,
    code: u8,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let printed = if json {
        output::print_json(&(serde_json::to_string_pretty(found)? + "\n"))
    } else {
        print(&text(found))
    };
    match printed {
        Err(error) if !error.is::<ClosedOutput>() => Err(error),
        _ => Ok(ExitCode::from(code)),
    }
}

/// The journal's file in the data folder, unless the config names another or none.
const JOURNAL_FILE: &str = "journal.jsonl";

/// The node's data folder, from flags, config or the user's environment, in this order.
fn data_dir(config: &Config) -> anyhow::Result<PathBuf> {
    config.node.data_dir.clone().or_else(usual_data_dir).ok_or(NoFolder("--data-dir").into())
}

/// The data folder according to the user's environment.
fn usual_data_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("groundskeeper"))
}

fn admin_socket(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.admin.socket {
        Some(path) => Ok(path.clone()),
        None => Ok(DataFolder::admin_socket(&data_dir(config)?)),
    }
}
