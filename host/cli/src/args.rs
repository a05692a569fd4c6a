//! The command line: verbs, flags and their help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use groundskeeper_author::Lang;
use groundskeeper_sdk::span::Span;

use groundskeeper::config::{ByteSize, Overrides};

use super::{JOURNAL_FILE, journal, usual_data_dir};

const EXIT_CODES: &str = "\
Exit codes:
   0  done; healthcheck: healthy
   1  failed; healthcheck: not healthy, no node, or not allowed; explain: nothing is known; replay, test: a run was
      different; try: no plan
   2  wrong usage
  69  no node answers, or it is too busy
  73  the data folder or the node's key cannot be used, or no folder is known
  77  not allowed to talk to the node
  78  the config, or a phase that was checked, is wrong or cannot be read";

/// Keeps a peer-to-peer node's connections in order.
#[derive(Parser, Debug)]
#[command(name = "groundskeeper", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: CliCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CliCommand {
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
        /// Wait for the compiler for up to 90 s, and for pending files for up to 10 s
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
        /// Check whether it is ready: the first tick is done, built-in phases and the disk work, and there is a peer or an
        /// address to dial
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
pub(crate) struct RunArgs {
    /// The config file; without one, the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the node's key, state and socket [default: $XDG_STATE_HOME/groundskeeper or ~/.local/state/groundskeeper]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Folder of dropped-in phases; overrides the config [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) phases: Option<PathBuf>,
    /// Start this many more nodes in this process, each with its own key and port, to see a network at work
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    pub(crate) local_peers: u32,
    /// Time from one tick to the next, like 10s; overrides the config
    #[arg(long, value_name = "TIME")]
    pub(crate) interval: Option<Span>,
    /// Stop after this many ticks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ticks: Option<u32>,
    /// Record what each beat saw and did into this file, for `replay`; the file contains addresses of peers
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Maximum size of the recording and its predecessor, FILE.1, together; at half of it a new file begins
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = record_max, requires = "record")]
    pub(crate) record_max: ByteSize,
}

/// With less, a large node would begin a new file every few beats.
const LEAST_RECORD_MAX: ByteSize = ByteSize::mib(1);

fn record_max(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size < LEAST_RECORD_MAX { Err(format!("{size} is less than {LEAST_RECORD_MAX}")) } else { Ok(size) }
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The recording
    pub(crate) file: PathBuf,
    /// Run this phase instead (a component, its manifest, or a built-in's name) where it would have been due, and show what it would have done next to what happened
    #[arg(long, value_name = "PHASE")]
    pub(crate) phase: Option<OsString>,
    /// Folder of the components that ran, to run them again [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) phases: Option<PathBuf>,
    /// The config with the settings of built-in phases; without one, the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Two drops of one connection count as agreed if they are at most this many ticks apart
    #[arg(long, value_name = "TICKS", default_value_t = 10, requires = "phase")]
    pub(crate) within: u32,
    /// Print the view of this tick as JSON instead, to use it as a fixture
    #[arg(long, value_name = "TICK", conflicts_with = "phase")]
    pub(crate) dump: Option<u32>,
    /// Print the view, tick and memory that this phase had in it
    #[arg(long, value_name = "NAME", requires = "dump")]
    pub(crate) seen_by: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The config file; without one, the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A phase: its module or its manifest (a native one needs a --config that trusts it); or the same as --config
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Folder of dropped-in phases; overrides the config [default: phases.d in the data folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) phases: Option<PathBuf>,
    /// The data folder that `run` would get
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The interval that `run` would get, like 10s; overrides the config
    #[arg(long, value_name = "TIME")]
    pub(crate) interval: Option<Span>,
}

/// The node to talk to.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// The data folder of the node; overrides the config
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The admin socket of the node
    #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
    pub(crate) socket: Option<PathBuf>,
    /// The config that the node runs with, to find its data folder and socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct PhaseArgs {
    /// Name of the phase
    pub(crate) phase: String,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// The language of a new phase: Rust or C.
fn lang() -> impl TypedValueParser<Value = Lang> {
    PossibleValuesParser::new(["rust", "c"]).map(|name| if name == "c" { Lang::C } else { Lang::Rust })
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Name of the phase, and of its folder
    pub(crate) name: String,
    /// Language of the phase
    #[arg(long, default_value = "rust", value_parser = lang())]
    pub(crate) lang: Lang,
    /// A checkout of groundskeeper-sdk [default: the one that contains this binary or folder, else the published one]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Folder for the module [default: the folder of the phase]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Build a shared library instead: a native phase, which a node has to trust
    #[arg(long)]
    pub(crate) native: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TryArgs {
    /// The module, or its manifest; a native one runs only with a --config that allows native phases
    #[arg(value_name = "FILE")]
    pub(crate) module: PathBuf,
    #[command(flatten)]
    pub(crate) from: ViewArgs,
    /// The node for --from-node
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Run it this many times, each time with the memory of the run before
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) runs: u32,
}

/// The view for a dry run.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ViewArgs {
    /// A view in a file, as `replay --dump` writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) view: Option<PathBuf>,
    /// The current view of a running node
    #[arg(long)]
    pub(crate) from_node: bool,
    /// A beat of a recording: FILE@TICK, or FILE for its first one
    #[arg(long, value_name = "FILE[@TICK]")]
    pub(crate) recording: Option<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Do it once, and exit with the result
    #[arg(long)]
    pub(crate) once: bool,
    /// The node that runs it
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Folder of the phase
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// The first seed of the random views
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct InstallArgs {
    /// The module; its manifest is next to it, or one is generated
    #[arg(value_name = "FILE")]
    pub(crate) module: PathBuf,
    /// The drop-in folder [default: that of the node]
    #[arg(long, value_name = "DIR")]
    pub(crate) phases: Option<PathBuf>,
    /// The data folder of the node
    #[arg(long, value_name = "DIR", conflicts_with = "phases")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The config that the node runs with, to find its folders
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl CheckArgs {
    pub(crate) fn overrides(&self) -> Overrides {
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
    pub(crate) fn overrides(&self) -> Overrides {
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
