//! The program: flags, exit codes and terminal output. Holds no logic of the node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use groundskeeper_author::Lang;
use groundskeeper_sdk::span::Span;
use serde::Serialize;

use groundskeeper::config::{self, ByteSize, Config, Overrides, Problem};
use groundskeeper::data::{DataError, DataFolder};
use groundskeeper::engine::Compiler;
use groundskeeper::node::StartError;

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
    /// The data folder cannot be used (EX_CANTCREAT).
    pub const DATA: u8 = 73;
    /// Not allowed to talk to the node (EX_NOPERM).
    pub const NOT_ALLOWED: u8 = 77;
    /// The config has problems (EX_CONFIG).
    pub const CONFIG: u8 = 78;

    pub fn done_if(done: bool) -> u8 {
        if done { DONE } else { FAILED }
    }
}

const EXIT_CODES: &str = "\
Exit codes:
   0  done; healthcheck: healthy
   1  failed; healthcheck: not healthy, or no node; replay: a run was different
   2  wrong usage
  69  no node answers, or it is too busy
  73  the data folder cannot be used
  77  not allowed to talk to the node
  78  the config has problems";

/// Keeps a peer-to-peer node's connections in order.
#[derive(Parser, Debug)]
#[command(name = "groundskeeper", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: CliCommand,
}

#[derive(Subcommand, Debug)]
enum CliCommand {
    /// Run a node
    Run(RunArgs),
    /// Check a config with its phases, or one phase with its manifest, and list every problem
    Check(CheckArgs),
    /// Show the state of a running node
    Status(NodeArgs),
    /// List the connections of a running node
    Peers {
        #[command(flatten)]
        node: NodeArgs,
        /// List at most this many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// List the phases of a running node
    Phases(NodeArgs),
    /// Let a paused, tripped or quarantined phase of a running node run again
    Resume(PhaseArgs),
    /// Keep a phase of a running node from running until it is resumed or the node restarts
    Pause(PhaseArgs),
    /// Run a phase of a running node now, outside of its schedule
    RunNow(PhaseArgs),
    /// Follow the activity of a running node: phase runs, actions, reloads; with --json one object per line
    Tap(NodeArgs),
    /// Make a running node scan its drop-in folder now, and show what changed; exit code 0 if all of it runs
    Reload {
        /// Repeat until nothing is pending, for up to 10 s
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show everything that a running node still knows about a peer (why it was dialled, why it left) or a phase (what it did)
    Explain {
        /// Peer id, the beginning of one (at least 4 characters), ip:port, ip, or the name of a phase
        #[arg(value_name = "PEER|PHASE")]
        who: String,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the newest records of the journal, of a running node or of the file that it left; `tap` follows them
    Journal(journal::JournalArgs),
    /// Run a recording again and compare, or try another phase on the same recording
    Replay(ReplayArgs),
    /// Check whether a running node is alive: exit code 0 or 1, for containers
    Healthcheck {
        #[command(flatten)]
        node: NodeArgs,
        /// Check whether it is ready: the first tick is done and every built-in phase works
        #[arg(long)]
        ready: bool,
    },
    /// Create a new phase: source (in Rust with a test), manifest, a view to try it on
    New(NewArgs),
    /// Build a phase: a WebAssembly component next to its manifest
    Build(BuildArgs),
    /// Run a phase once over a view, without effects: plan, fuel, memory
    Try(TryArgs),
    /// Run a phase's tests, then compare its native build with its component over the same views (C for components: the component with itself)
    Test(TestArgs),
    /// Put a phase and its manifest into the folder where a node looks for them
    Install(InstallArgs),
    /// Build, check, try and install a phase into a running node after each change of its source
    Dev(DevArgs),
    /// Print the JSON schema of the config
    #[command(hide = true)]
    Schema {
        /// Print the schema of phase manifests instead
        #[arg(long)]
        manifest: bool,
    },
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The config file; without one, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the node's key, state and socket [default: $XDG_STATE_HOME/groundskeeper or ~/.local/state/groundskeeper]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of dropped-in phases; overrides the config [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    phases: Option<PathBuf>,
    /// Start this many more nodes in this process, each with its own key and port, to see a network at work
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    local_peers: u32,
    /// Time from one tick to the next, like 10s; overrides the config
    #[arg(long, value_name = "TIME")]
    interval: Option<Span>,
    /// Stop after this many ticks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ticks: Option<u32>,
    /// Record what each beat saw and did into this file, for `replay`; the file contains addresses of peers
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Maximum size of the recording and its predecessor, FILE.1, together; at half of it a new file begins
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = record_max, requires = "record")]
    record_max: ByteSize,
}

/// With less, a large node would begin a new file every few beats.
const LEAST_RECORD_MAX: ByteSize = ByteSize::mib(1);

fn record_max(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size < LEAST_RECORD_MAX { Err(format!("{size} is less than {LEAST_RECORD_MAX}")) } else { Ok(size) }
}

#[derive(Args, Debug)]
struct ReplayArgs {
    /// The recording
    file: PathBuf,
    /// Run this phase instead (a component, its manifest, or a built-in's name) where it would have been due, and show what it would have done next to what happened
    #[arg(long, value_name = "PHASE")]
    phase: Option<OsString>,
    /// Folder of the components that ran, to run them again [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    phases: Option<PathBuf>,
    /// The config with the settings of built-in phases; without one, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Two drops of one connection count as agreed if they are at most this many ticks apart
    #[arg(long, value_name = "TICKS", default_value_t = 10, requires = "phase")]
    within: u32,
    /// Print the view of this tick as JSON instead, to use it as a fixture
    #[arg(long, value_name = "TICK", conflicts_with = "phase")]
    dump: Option<u32>,
    /// Print the view, tick and memory that this phase had in it
    #[arg(long, value_name = "NAME", requires = "dump")]
    seen_by: Option<String>,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The config file; without one, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A phase: its module or its manifest (a native one needs a --config that trusts it); or the same as --config
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Folder of dropped-in phases; overrides the config [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    phases: Option<PathBuf>,
    /// The data folder that `run` would get
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The interval that `run` would get, like 10s; overrides the config
    #[arg(long, value_name = "TIME")]
    interval: Option<Span>,
}

/// The node to talk to.
#[derive(Args, Debug)]
struct NodeArgs {
    /// The data folder of the node
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The admin socket of the node
    #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
    socket: Option<PathBuf>,
    /// The config that the node runs with, to find its data folder and socket
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "socket"])]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct PhaseArgs {
    /// Name of the phase
    phase: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// The language of a new phase: Rust or C.
fn lang() -> impl TypedValueParser<Value = Lang> {
    PossibleValuesParser::new(["rust", "c"]).map(|name| if name == "c" { Lang::C } else { Lang::Rust })
}

#[derive(Args, Debug)]
struct NewArgs {
    /// Name of the phase, and of its folder
    name: String,
    /// Language of the phase
    #[arg(long, default_value = "rust", value_parser = lang())]
    lang: Lang,
    /// A checkout of groundskeeper-sdk [default: the one that contains this binary or folder, else the published one]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct BuildArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Folder for the module [default: the folder of the phase]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build a shared library instead: a native phase, which a node has to trust
    #[arg(long)]
    native: bool,
}

#[derive(Args, Debug)]
struct TryArgs {
    /// The module, or its manifest; a native one runs only with a --config that allows native phases
    #[arg(value_name = "FILE")]
    module: PathBuf,
    #[command(flatten)]
    from: ViewArgs,
    /// The node for --from-node
    #[command(flatten)]
    node: NodeArgs,
    /// Run it this many times, each time with the memory of the run before
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

/// The view for a dry run.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct ViewArgs {
    /// A view in a file, as `replay --dump` writes it
    #[arg(long, value_name = "FILE")]
    view: Option<PathBuf>,
    /// The current view of a running node
    #[arg(long)]
    from_node: bool,
    /// A beat of a recording: FILE@TICK, or FILE for its first one
    #[arg(long, value_name = "FILE[@TICK]")]
    recording: Option<OsString>,
}

#[derive(Args, Debug)]
struct DevArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Do it once, and exit with the result
    #[arg(long)]
    once: bool,
    /// The node that runs it
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args, Debug)]
struct TestArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The first seed of the random views
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
struct InstallArgs {
    /// The module; its manifest is next to it, or one is generated
    #[arg(value_name = "FILE")]
    module: PathBuf,
    /// The drop-in folder [default: that of the node]
    #[arg(long, value_name = "DIR")]
    phases: Option<PathBuf>,
    /// The data folder of the node
    #[arg(long, value_name = "DIR", conflicts_with = "phases")]
    data_dir: Option<PathBuf>,
    /// The config that the node runs with, to find its folders
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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

impl CheckArgs {
    fn overrides(&self) -> Overrides {
        let Self { phases, data_dir, interval, .. } = self;
        Overrides {
            interval: *interval,
            data_dir: data_dir.clone(),
            phases: phases.clone(),
            usual_data_dir: usual_data_dir(),
            ..Overrides::default()
        }
    }
}

impl RunArgs {
    fn overrides(&self) -> Overrides {
        Overrides {
            interval: self.interval,
            data_dir: self.data_dir.clone(),
            phases: self.phases.clone(),
            usual_data_dir: usual_data_dir(),
            usual_journal: Some(JOURNAL_FILE.into()),
            without_manifests: false,
            // Local peers have private addresses: the nodes must accept and share those.
            allow_private: (self.local_peers > 0).then_some(true),
        }
    }
}
