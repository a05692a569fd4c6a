//! `run`: from flags to everything a node needs to start. Starts nothing itself.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{RunArgs, admin_socket, data_dir, exit, refuse_config};
use crate::config::{self, Config};
use crate::data::{DataError, DataFolder};

/// What a node is started with: checked config and locked folders.
#[derive(Debug)]
pub struct Prepared {
    pub config: Config,
    pub data: DataFolder,
    /// One folder for each further local node.
    pub local_peers: Vec<DataFolder>,
    /// None: the config switches the admin API off.
    pub admin_socket: Option<PathBuf>,
    /// Stop after so many ticks.
    pub ticks: Option<u32>,
    /// Print ticks as JSON lines.
    pub json: bool,
}

/// Prepares a node and runs it until it is told to stop.
///
/// # Errors
/// Whatever keeps a node from running that has no exit code of its own.
pub(super) fn run(
    args: &RunArgs,
    json: bool,
    start_logging: impl FnOnce(&config::Log),
) -> anyhow::Result<ExitCode> {
    let config = match Config::load_with(args.config.as_deref(), &args.overrides()) {
        Ok(config) => config,
        Err(problems) => return Ok(refuse_config(&problems)),
    };
    start_logging(&config.log);
    match prepare(args, config, json) {
        Ok(prepared) => run_node(prepared),
        Err(error) => match error.downcast::<DataError>() {
            Ok(error) => {
                eprintln!("groundskeeper: {error}");
                Ok(ExitCode::from(exit::DATA))
            }
            Err(error) => Err(error),
        },
    }
}

fn prepare(args: &RunArgs, config: Config, json: bool) -> anyhow::Result<Prepared> {
    let path = data_dir(&config)?;
    let data = DataFolder::open(&path)?;
    let local_peers = (1..=args.local_peers)
        .map(|n| DataFolder::open(&DataFolder::local_peer(&path, n)))
        .collect::<Result<_, _>>()?;
    let admin_socket = if config.admin.enabled { Some(admin_socket(&config)?) } else { None };
    Ok(Prepared { config, data, local_peers, admin_socket, ticks: args.ticks, json })
}

fn run_node(_: Prepared) -> anyhow::Result<ExitCode> {
    anyhow::bail!("running a node is not built yet")
}
