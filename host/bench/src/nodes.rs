//! Nodes with real connections for measurements: many peers in one or two processes. Starts no ticker.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use groundskeeper::book::{AddressSource, BookLimits};
use groundskeeper::broadcasts::BroadcastLimits;
use groundskeeper::clock::SystemClock;
use groundskeeper::flow::OutboxLimits;
use groundskeeper::journal::{Initiator, JournalLimits};
use groundskeeper::net::{Handlers, Identity, Net, NetConfig};
use groundskeeper::node::{NodeLimits, NodeState};
use groundskeeper::pool::PoolLimits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::masks::MaskedTls;

/// The argument with which this program starts itself as the far end.
pub const FAR: &str = "far-child";

/// No handshake on loopback takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors for everything but connections.
const DESCRIPTORS: u64 = 128;

/// The dimensions of a measured node.
pub struct Shape {
    pub capacity: usize,
    /// Number of keys that it uses in turn, one per connection; 0 for its own key only.
    pub masks: usize,
    pub listens: bool,
    pub outbox: OutboxLimits,
}

impl Shape {
    pub fn of(capacity: usize) -> Self {
        Self { capacity, masks: 0, listens: false, outbox: OutboxLimits::default() }
    }

    /// A different key for each connection.
    pub fn masked(capacity: usize) -> Self {
        Self { masks: capacity, ..Self::of(capacity) }
    }
}

/// A network with its tables.
pub struct BenchNode {
    pub net: Net,
    pub state: NodeState,
}

impl BenchNode {
    /// Must be called inside a runtime.
    pub fn start(shape: &Shape) -> Self {
        Self::answering(shape, Handlers::new())
    }

    /// Like `start`, for a node that answers requests.
    pub fn answering(shape: &Shape, handlers: Handlers) -> Self {
        let Shape { capacity, masks, listens, outbox } = *shape;
        let identity = Identity::generate();
        let limits = NodeLimits {
            pool: PoolLimits::only_capacity(capacity as u32),
            // Room to dial every address. Loopback addresses must not be passed on.
            book: BookLimits { capacity: capacity.max(64), ..BookLimits::default() },
            // Broadcasts have no rate limit.
            broadcasts: BroadcastLimits { per_window: u32::MAX, ..BroadcastLimits::default() },
            journal: JournalLimits { notable: 64, chatter: 64 },
        };
        let state = NodeState::new(identity.peer_id(), limits, SystemClock::new(), None);
        let config = NetConfig {
            network: "bench".into(),
            // All of 127.0.0.0/8: one address for each connection.
            listen: if listens { vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))] } else { Vec::new() },
            outbox,
            // Traffic has no limit either.
            bytes_per_second_per_peer: u64::MAX,
            broadcasts_per_second_per_peer: u32::MAX,
            ..NetConfig::default()
        };
        let net = match masks {
            0 => Net::start(config, &identity, state.clone(), handlers),
            _ => {
                let transport = Arc::new(MaskedTls::new(masks, &config.network));
                let start = Net::start_over(transport, config, state.clone(), handlers);
                start.now_or_never().expect("binding an address waits for nothing")
            }
        };
        Self { net: net.expect("a port of the system's choice is free"), state }
    }

    pub fn port(&self) -> u16 {
        self.net.local_addrs()[0].port()
    }

    pub fn live(&self) -> usize {
        self.state.pool.live() as usize
    }

    /// Adds an address for each of `count` connections to `port` to the address book.
    pub fn learn(&self, port: u16, count: usize) {
        for at in 0..count {
            self.state.book.learn(loopback(at, port), None, AddressSource::Bootstrap);
        }
    }

    /// Dials the `at`th address as a phase would, and waits until the connection is live here and `there` reports the
    /// same. Returns the time that this took.
    ///
    /// # Panics
    /// If it is not live in time.
    pub async fn connect(&self, at: usize, port: u16, there: impl Fn() -> usize) -> Duration {
        let (here_before, there_before) = (self.live(), there());
        let begun = Instant::now();
        let (order, ticket) = self
            .state
            .book
            .begin(loopback(at, port), false, Initiator::Host, "a measurement", Vec::new())
            .expect("each address is learned, and dialled once");
        self.net.dialer().dial(order, ticket);
        while self.live() == here_before || there() == there_before {
            // There is no notification: polling after other tasks have run costs them almost nothing.
            tokio::task::yield_now().await;
            assert!(begun.elapsed() < PATIENCE, "connection {at} is not live: {:?}", self.last_words());
        }
        begun.elapsed()
    }

    fn last_words(&self) -> Vec<String> {
        let last = self.state.journal.select(3, |_| true);
        last.into_iter().map(|record| format!("{}: {}", record.reason, record.outcome)).collect()
    }
}

fn loopback(at: usize, port: u16) -> SocketAddr {
    // After the usual loopback address.
    let ip = u32::from(Ipv4Addr::new(127, 1, 0, 0)) + at as u32;
    SocketAddr::from((Ipv4Addr::from(ip), port))
}

/// How many of `wanted` connections this process has descriptors for, with `each` per connection. Raises the process's
/// limit to its maximum.
pub fn room_for(wanted: usize, each: usize) -> usize {
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    wanted.min((most.saturating_sub(DESCRIPTORS) / each as u64) as usize)
}

/// Another process with the far ends of connections, without a ticker. Ends with its handle.
pub struct Far(Child);

impl Far {
    /// Starts it and waits until it has dialled `count` connections to `port`.
    pub fn start(port: u16, count: usize) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([FAR, &port.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let told = child.stdout.take().map(|out| BufReader::new(out).lines().next());
        match told {
            Some(Some(Ok(_))) => Ok(Self(child)),
            _ => Err(std::io::Error::other("the other end did not come up")),
        }
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The program of [`Far`]: dials, reports, and lives until its standard input ends.
pub fn far(port: &str, count: &str) -> ExitCode {
    let (Ok(port), Ok(count)) = (port.parse(), count.parse::<usize>()) else { return ExitCode::from(2) };
    room_for(count, 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let node = runtime.block_on(async {
        let node = BenchNode::start(&Shape::masked(count));
        node.learn(port, count);
        for at in 0..count {
            // It is live at the other end before it is live here.
            node.connect(at, port, || node.live()).await;
        }
        node
    });
    println!("ready");
    _ = std::io::stdout().flush();
    _ = std::io::stdin().read(&mut [0]);
    drop(node);
    ExitCode::SUCCESS
}
