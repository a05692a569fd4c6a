//! A node that exchanges lines over plain TCP. Owns its sockets; Groundskeeper decides which peers to keep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use groundskeeper::book::{
    AddressSource, BookLimits, ConnectedGuard, Dial, DialAttempt, DialFailure, DialOrder,
};
use groundskeeper::clock::SystemClock;
use groundskeeper::cycle::{BeatReport, Thresholds};
use groundskeeper::engine::BuiltInPhases;
use groundskeeper::journal::{Cause, Initiator, Journal};
use groundskeeper::node::{Maintenance, NodeLimits, NodeState, Options, builtins};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts, Removal, Slot};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A peer that has not sent its id by then is dropped.
const HELLO_DEADLINE: Duration = Duration::from_secs(2);

/// Groundskeeper's orders for a connection, as messages to the task that owns it.
enum Order {
    Ping,
    Close(String),
}

struct ChatLink(mpsc::Sender<Order>);

impl Link for ChatLink {
    fn ping(&self) {
        // A full queue means that the last ping is still waiting: one is enough.
        _ = self.0.try_send(Order::Ping);
    }

    fn close(&self, why: &Goodbye) {
        // If the queue is full, the connection is stuck; its task is dropped with the node.
        _ = self.0.try_send(Order::Close(why.text.clone()));
    }
}

/// State that the tasks of one node share.
struct Shared {
    id: PeerId,
    state: NodeState,
    silent: AtomicBool,
}

/// One node of the example.
pub struct ChatNode {
    address: SocketAddr,
    shared: Arc<Shared>,
    maintenance: Maintenance,
    listener: JoinHandle<()>,
}

impl ChatNode {
    pub async fn start(n: u8, tick: Duration, phases: &BuiltInPhases) -> Result<Self> {
        let id = PeerId::from_bytes([n; 32]);
        let limits = NodeLimits {
            book: BookLimits { allow_private: true, ..BookLimits::default() },
            ..NodeLimits::for_connections(16)
        };
        let state = NodeState::new(id, limits, SystemClock::new(), None);
        let shared = Arc::new(Shared { id, state: state.clone(), silent: false.into() });
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a loopback port")?;
        let address = listener.local_addr()?;
        let stale_after = Duration::from_millis(phases.reaper.settings.stale_after.as_millis());
        let options = Options {
            interval: tick,
            dialer: Some(Arc::new(ChatDialer(Arc::clone(&shared)))),
            thresholds: Thresholds { stale_after, ..Thresholds::default() },
            ..Options::default()
        };
        let maintenance = Maintenance::start(&state, builtins(phases), options)?;
        let listener = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, maintenance, listener })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn know(&self, address: SocketAddr) {
        self.shared.state.book.learn(address, None, AddressSource::Bootstrap);
    }

    pub fn reports(&self) -> broadcast::Receiver<Arc<BeatReport>> {
        self.maintenance.handle().reports()
    }

    pub fn journal(&self) -> &Journal {
        &self.shared.state.journal
    }

    pub fn removals(&self) -> u64 {
        self.shared.state.pool.removals()
    }

    /// From now on this node answers no peer, although its sockets stay open.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    pub async fn stop(self) {
        self.listener.abort();
        self.maintenance.stop().await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, from)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A stranger that sends no id is dropped without a trace.
            if let Ok(Ok((peer, stream))) = timeout(HELLO_DEADLINE, hello(stream, shared.id)).await {
                talk(
                    &shared,
                    stream,
                    PeerFacts { id: peer, address: from, direction: Direction::Inbound },
                    None,
                )
                .await;
            }
        });
    }
}

/// Both sides send their id on the first line.
async fn hello(stream: TcpStream, id: PeerId) -> Result<(PeerId, BufReader<TcpStream>)> {
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{id}\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok((line.trim().parse()?, stream))
}

struct ChatDialer(Arc<Shared>);

impl Dial for ChatDialer {
    fn dial(&self, order: DialOrder, ticket: DialAttempt) {
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let connected = timeout(HELLO_DEADLINE, async {
                let stream = TcpStream::connect(order.address).await?;
                hello(stream, shared.id).await
            });
            match connected.await {
                Err(_) => ticket.failed(&DialFailure::TimedOut),
                Ok(Err(error)) => ticket.failed(&DialFailure::Handshake(format!("{error:#}"))),
                Ok(Ok((peer, stream))) if shared.state.pool.find(&peer).is_none() => {
                    let facts =
                        PeerFacts { id: peer, address: order.address, direction: Direction::Outbound };
                    talk(&shared, stream, facts, Some(ticket)).await;
                }
                Ok(Ok((peer, _))) => ticket.duplicate(peer),
            }
        });
    }
}

/// Owns one connection until it ends.
async fn talk(shared: &Shared, stream: BufReader<TcpStream>, facts: PeerFacts, ticket: Option<DialAttempt>) {
    let (orders, mut todo) = mpsc::channel(4);
    let peer = facts.id;
    let slot = match shared.state.pool.attach(facts, Arc::new(ChatLink(orders))) {
        Ok(slot) => slot,
        Err(denied) => {
            if let Some(ticket) = ticket {
                ticket.failed(&DialFailure::Denied(denied.to_string()));
            }
            return;
        }
    };
    let _tenure: Option<ConnectedGuard> = ticket.map(|ticket| ticket.connected(peer));
    let removal = lines(shared, &slot, stream, &mut todo).await;
    slot.retire(removal);
}

/// Reads and writes lines until either side ends the connection. Returns the reason.
async fn lines(
    shared: &Shared,
    slot: &Slot,
    mut stream: BufReader<TcpStream>,
    todo: &mut mpsc::Receiver<Order>,
) -> Removal {
    let mut line = String::new();
    loop {
        line.clear();
        let reply = tokio::select! {
            read = stream.read_line(&mut line) => {
                if !matches!(read, Ok(1..)) {
                    return Removal::new(Initiator::Remote, Cause::RemoteClosed, "the stream ended");
                }
                slot.peer_seen(shared.state.clock.coarse());
                (line.trim() == "ping").then_some("pong\n")
            }
            order = todo.recv() => match order {
                Some(Order::Ping) => Some("ping\n"),
                Some(Order::Close(why)) => {
                    // Best effort: the peer may be gone.
                    _ = stream.write_all(format!("goodbye: {why}\n").as_bytes()).await;
                    return Removal::new(Initiator::Host, Cause::Phase, why);
                }
                None => return Removal::new(Initiator::Host, Cause::Shutdown, "the node is gone"),
            },
        };
        if let Some(reply) = reply
            && !shared.silent.load(Ordering::Relaxed)
            && stream.write_all(reply.as_bytes()).await.is_err()
        {
            return Removal::new(Initiator::Remote, Cause::WriteFailure, "could not write");
        }
    }
}
