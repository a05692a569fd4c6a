//! The command line of the chain: creates keys and a genesis, runs a node. Prints JSON lines, reads a command a line.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use chain_node::block::Genesis;
use chain_node::node::{ChainNode, Command, Origin, Settings};
use clap::{Parser, Subcommand};
use groundskeeper::config::Bootstrap;
use groundskeeper::data::DataFolder;
use groundskeeper::net::Identity;
use groundskeeper::peer::PeerId;
use groundskeeper_sdk::span::Span;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A small chain: processes that agree on blocks. No economics.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Creates a data folder with a key, and prints the node's id
    Init {
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Prints a genesis
    Genesis {
        /// The validators that propose and vote, by id
        #[arg(required = true)]
        validators: Vec<PeerId>,
        #[arg(long, default_value = "toy")]
        name: String,
        /// Milliseconds between two blocks
        #[arg(long, default_value_t = 1000)]
        slot_ms: u32,
    },
    /// Runs a node until SIGTERM. Takes commands from standard input: `send ID AMOUNT`, `wallet ID`, `peers`, `journal`, and
    /// `ask KIND [ID]` with genesis, block, mempool, finalized, wallet, peers or ping
    Run {
        #[arg(long)]
        data_dir: PathBuf,
        /// The file of a genesis; a node that has run before knows its own
        #[arg(long, conflicts_with = "join")]
        genesis: Option<PathBuf>,
        /// The name of the network to join; the node asks a peer for its genesis
        #[arg(long)]
        join: Option<String>,
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: Vec<SocketAddr>,
        /// A node to connect to at the start, as id@host:port
        #[arg(long)]
        bootstrap: Vec<Bootstrap>,
        /// Time between two ticks of the host
        #[arg(long, default_value = "30s")]
        interval: Span,
    },
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match Cli::parse().verb {
        Verb::Init { data_dir } => {
            let folder = DataFolder::open(&data_dir)?;
            let key = folder.key(|| Ok(Identity::generate().to_pkcs8().to_vec()))?;
            tell(&json!({ "event": "made", "id": Identity::from_pkcs8(&key.bytes)?.peer_id() }));
            Ok(())
        }
        Verb::Genesis { validators, name, slot_ms } => {
            let genesis = Genesis { name, slot_ms, validators };
            genesis.check().map_err(anyhow::Error::msg)?;
            tell(&serde_json::to_value(genesis)?);
            Ok(())
        }
        Verb::Run { data_dir, genesis, join, listen, bootstrap, interval } => {
            let origin = match (genesis, join) {
                (Some(path), _) => {
                    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                    Origin::Genesis(serde_json::from_str(&text).with_context(|| path.display().to_string())?)
                }
                (None, Some(network)) => Origin::Network(network),
                (None, None) => Origin::Log,
            };
            run(Settings { data_dir, listen, bootstrap, interval: interval.into() }, origin)
        }
    }
}

#[tokio::main]
async fn run(settings: Settings, origin: Origin) -> Result<()> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    let signals = tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, () = stopping.cancelled() => {} }
        stopping.cancel();
    });
    let node = tokio::select! {
        // The node may wait for a genesis until it finds a peer that has it.
        () = stop.cancelled() => return Ok(()),
        node = ChainNode::start(&settings, origin) => node?,
    };
    tell(&node.introduction());
    let (send, commands) = mpsc::channel(16);
    // Ends with the process: nothing wakes a thread that reads a terminal.
    std::thread::spawn(move || read_commands(&send));
    let steps = node.run(commands, |event| tell(&event), stop).await?;
    signals.await?;
    let troubles: Vec<String> = steps.into_iter().filter_map(|step| step.trouble).collect();
    anyhow::ensure!(troubles.is_empty(), "not stopped in order: {}", troubles.join(", "));
    Ok(())
}

fn tell(line: &Value) {
    // If the reader has closed the pipe, it wants no more output.
    _ = writeln!(std::io::stdout(), "{line}");
}

fn read_commands(send: &mpsc::Sender<Command>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match command(&line) {
            Ok(command) => {
                if send.blocking_send(command).is_err() {
                    return;
                }
            }
            Err(error) => tell(&json!({ "event": "refused", "line": line, "error": format!("{error:#}") })),
        }
    }
}

fn command(line: &str) -> Result<Command> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words[..] {
        ["send", to, amount] => Command::Send { to: to.parse()?, amount: amount.parse()? },
        ["wallet", of] => Command::Wallet(of.parse()?),
        ["peers"] => Command::Peers,
        ["journal"] => Command::Journal,
        ["ask", kind] => Command::Ask(kind.to_owned(), None),
        ["ask", kind, argument] => Command::Ask(kind.to_owned(), Some(argument.parse()?)),
        _ => anyhow::bail!("not a command: send ID AMOUNT, wallet ID, peers, journal, ask KIND [ID]"),
    })
}
