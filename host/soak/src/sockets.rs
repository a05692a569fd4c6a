//! Whole nodes with real sockets in real time: one is there all the time, the others come and go.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use groundskeeper::admin::Client;
use groundskeeper::admin::answers::NodeStatus;
use groundskeeper::net::{Audience, BroadcastVerdict, Handlers};
use groundskeeper::node::Node;
use groundskeeper::reload::PhaseChange;
use tokio::sync::broadcast::error::RecvError;

use crate::folder::Phases;
use crate::meter::Sample;
use crate::paused::Soaked;

/// Nodes beside the one that stays.
const NEIGHBOURS: usize = 4;

/// Ticks between two changes of each kind.
const PER_ARRIVAL: u32 = 20;
const PER_CHANGE: u32 = 20;
const PER_STRANGER: u32 = 5;

/// Strangers that have connected and say nothing, at most.
const STRANGERS: usize = 8;

const SAMPLES: u32 = 100;

/// A busy machine is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

const DEADLINE: Duration = Duration::from_secs(5);

/// One node that lives for a while.
struct Neighbour {
    node: Node,
    folder: PathBuf,
}

/// Runs about `ticks` ticks of `interval` with churn, traffic, reloads, garbage and silent strangers. Uses `folder` for
/// everything.
///
/// # Errors
/// If a node does not start, or the local API does not answer.
pub async fn run(ticks: u32, interval: Duration, folder: &Path) -> Result<Soaked> {
    let mut phases = Phases::fill(folder.join("phases.d"))?;
    phases.compile(folder.join("watched/artifacts"))?;
    let socket = folder.join("admin.sock");
    let watched = Node::builder()
        .data_dir(folder.join("watched"))
        .listen([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .private_network()
        .interval(interval)
        .drop_in(folder.join("phases.d"))
        .journal_file("journal.jsonl")
        .admin_socket(&socket)
        .handlers(handlers())
        .start()
        .await?;
    let at = *watched.net().local_addrs().first().context("it listens")?;
    let client = Client::new(&socket);
    let mut beats = watched.maintenance().handle().reports();
    let mut neighbours = VecDeque::new();
    let mut strangers = VecDeque::new();
    let mut samples = Vec::new();
    let (mut arrived, mut last) = (0, 0);
    loop {
        let tick = match tokio::time::timeout(PATIENCE, beats.recv()).await.context("no tick in a minute")? {
            Ok(beat) => beat.tick,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => bail!("the ticker has ended"),
        };
        let is_due = |every: u32| tick / every > last / every;
        if tick == last {
            continue;
        }
        if is_due(PER_ARRIVAL) {
            arrived += 1;
            neighbours
                .push_back(arrive(&watched, interval, folder.join(format!("neighbour-{arrived}"))).await?);
            if neighbours.len() > NEIGHBOURS {
                // Half of them leave without a goodbye.
                let Neighbour { node, folder } = neighbours.pop_front().context("there are some")?;
                if arrived % 2 == 0 {
                    node.shutdown(DEADLINE).await;
                } else {
                    drop(node);
                }
                // A node that was dropped may still write for a moment; then its folder stays until the end.
                _ = std::fs::remove_dir_all(folder);
            }
        }
        if is_due(PER_CHANGE) {
            phases.change()?;
        }
        if is_due(PER_STRANGER) {
            strangers.push_back(stranger(at, tick));
            if strangers.len() > STRANGERS {
                strangers.pop_front();
            }
        }
        talk(&watched, tick).await;
        if is_due((ticks / SAMPLES).max(1)) {
            client.get::<NodeStatus>("/status").await.context("the node answers operators")?;
            samples.push(Sample::take(tick)?);
        }
        last = tick;
        if tick >= ticks {
            break;
        }
    }
    let ended = watched.state().pool.removals();
    let reloads = watched.reload().context("there is a drop-in folder")?.counts().of(PhaseChange::Applied);
    for neighbour in neighbours {
        neighbour.node.shutdown(DEADLINE).await;
    }
    watched.shutdown(DEADLINE).await;
    Ok(Soaked { samples, ended, reloads })
}

fn handlers() -> Handlers {
    Handlers::new()
        .on_request("echo", |_, payload| async move { Ok(payload) })
        .on_broadcast("news", |_, _| BroadcastVerdict::Relay)
}

async fn arrive(watched: &Node, interval: Duration, folder: PathBuf) -> Result<Neighbour> {
    let node = Node::builder()
        .data_dir(&folder)
        .listen([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .private_network()
        .interval(interval)
        .bootstrap(watched.as_bootstrap())
        .handlers(handlers())
        .start()
        .await?;
    Ok(Neighbour { node, folder })
}

/// Connects and sends half a handshake, garbage or nothing.
fn stranger(at: SocketAddr, tick: u32) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(at).ok()?;
    match tick % 3 {
        0 => {}
        // The node may have hung up already.
        1 => _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"),
        _ => _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]),
    }
    Some(stream)
}

/// A broadcast and a request. Both may fail: peers leave at any time.
async fn talk(node: &Node, tick: u32) {
    _ = node.net().broadcast("news", &tick.to_le_bytes(), Audience::All);
    if let Some(peer) = node.peers().first() {
        _ = node.net().request(*peer, "echo", &[tick as u8; 256], Duration::from_secs(1)).await;
    }
}
