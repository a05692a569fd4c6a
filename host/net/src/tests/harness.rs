//! Test nodes, raw peers and bounded waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::{Clock, SystemClock};
use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::NodeLimits;
use groundskeeper_pool::book::{AddressSource, Book, BookLimits};
use groundskeeper_pool::broadcasts::BroadcastLimits;
use groundskeeper_pool::journal::{ActionKind, Cause, Initiator, Journal, JournalLimits, Outcome, Record};
use groundskeeper_pool::pool::{Pool, PoolLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::frame::HEADER;
use crate::tls::Tls;
use crate::wire::{Hello, Message};
use crate::{Handlers, Identity, Net, NetConfig, NodeState, Transport};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const NETWORK: &str = "test";
pub(super) const MAX_FRAME: usize = 1 << 20;

/// Waits until `holds`. Checks again whenever other tasks have run.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

/// The machine's clock, which tests can move forward.
pub(super) struct LaterClock {
    clock: Arc<SystemClock>,
    later_ms: AtomicU64,
}

impl LaterClock {
    pub(super) fn later(&self, by: Duration) {
        self.later_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for LaterClock {
    fn mono(&self) -> Duration {
        self.clock.mono() + Duration::from_millis(self.later_ms.load(Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        self.mono()
    }

    fn unix(&self) -> Duration {
        self.clock.unix()
    }
}

/// The settings of a test node.
pub(super) struct Setup {
    pub(super) identity: Identity,
    pub(super) config: NetConfig,
    pub(super) pool: PoolLimits,
    pub(super) book: BookLimits,
    pub(super) broadcasts: BroadcastLimits,
    pub(super) journal: JournalLimits,
    pub(super) handlers: Handlers,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            identity: Identity::generate(),
            config: NetConfig {
                network: NETWORK.into(),
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                ..NetConfig::default()
            },
            pool: PoolLimits::only_capacity(256),
            book: BookLimits { allow_private: true, ..BookLimits::default() },
            broadcasts: BroadcastLimits::default(),
            journal: JournalLimits::default(),
            handlers: Handlers::new(),
        }
    }
}

pub(super) struct TestNode {
    pub(super) net: Net,
    pub(super) identity: Identity,
    pub(super) pool: Arc<Pool>,
    pub(super) book: Arc<Book>,
    pub(super) journal: Arc<Journal>,
    pub(super) clock: Arc<LaterClock>,
}

impl Setup {
    pub(super) fn start(self) -> TestNode {
        let (house, config, handlers) = self.furnish();
        let net = Net::start(config, &house.identity, house.state.clone(), handlers).unwrap();
        house.with(net)
    }

    /// The same without TLS and TCP.
    pub(super) async fn start_over(self, transport: Arc<dyn Transport>) -> TestNode {
        let (house, config, handlers) = self.furnish();
        let net = Net::start_over(transport, config, house.state.clone(), handlers).await.unwrap();
        house.with(net)
    }

    /// The result of listening at `address` over `transport`.
    pub(super) async fn try_over(
        self,
        transport: Arc<dyn Transport>,
        address: SocketAddr,
    ) -> std::io::Result<()> {
        let (house, config, handlers) = self.furnish();
        let config = NetConfig { listen: vec![address], ..config };
        Net::start_over(transport, config, house.state, handlers).await.map(drop)
    }

    fn furnish(self) -> (House, NetConfig, Handlers) {
        let Setup { identity, config, pool, book, broadcasts, journal, handlers } = self;
        let later = Arc::new(LaterClock { clock: SystemClock::new(), later_ms: AtomicU64::new(0) });
        let clock: Arc<dyn Clock> = later.clone();
        let limits = NodeLimits { pool, book, broadcasts, journal };
        let state = NodeState::new(identity.peer_id(), limits, clock, None);
        (House { identity, state, later }, config, handlers)
    }
}

/// A node without its network.
struct House {
    identity: Identity,
    state: NodeState,
    later: Arc<LaterClock>,
}

impl House {
    fn with(self, net: Net) -> TestNode {
        let Self { identity, state: NodeState { pool, book, journal, .. }, later: clock } = self;
        TestNode { net, identity, pool, book, journal, clock }
    }
}

pub(super) fn node() -> TestNode {
    Setup::default().start()
}

impl TestNode {
    pub(super) fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.net.local_addrs()[0]
    }

    pub(super) fn order(&self, address: SocketAddr, expect: Option<PeerId>, probe: bool) {
        self.book.learn(address, expect, AddressSource::Bootstrap);
        let (order, ticket) = self.book.begin(address, probe, Initiator::Host, "a test", Vec::new()).unwrap();
        self.net.dialer().dial(order, ticket);
    }

    /// Dials and waits until the attempt ends.
    pub(super) async fn dial(&self, address: SocketAddr, expect: Option<PeerId>) -> Outcome {
        let before = self.last_dial().map_or(0, |record| record.seq);
        self.order(address, expect, false);
        until("the dial has ended", || self.last_dial().is_some_and(|record| record.seq > before)).await;
        self.last_dial().unwrap().outcome
    }

    fn last_dial(&self) -> Option<Record> {
        let ended = |record: &Record| record.what == ActionKind::Dial && record.outcome != Outcome::Started;
        self.journal.select(1, ended).pop()
    }

    pub(super) async fn connect(&self, other: &TestNode) {
        assert_eq!(self.dial(other.address(), None).await, Outcome::Applied);
        until("both ends are live", || {
            self.pool.find(&other.id()).is_some() && other.pool.find(&self.id()).is_some()
        })
        .await;
    }

    /// Reasons of all disconnects so far, oldest first.
    pub(super) fn ends(&self) -> Vec<(Cause, String)> {
        let disconnects = self.journal.select(usize::MAX, |record| record.what == ActionKind::Disconnect);
        disconnects.into_iter().map(|record| (record.cause.unwrap(), record.reason)).collect()
    }

    pub(super) fn refusals(&self) -> Vec<String> {
        let refused = self.journal.select(usize::MAX, |record| record.what == ActionKind::Refused);
        refused.into_iter().map(|record| record.outcome.to_string()).collect()
    }

    /// The number of incoming connections that never became live, by their records: complete after a shutdown.
    pub(super) fn refused(&self) -> u32 {
        let refused = self.journal.select(usize::MAX, |record| record.what == ActionKind::Refused);
        refused.iter().map(|record| record.count).sum()
    }

    /// Waits until no peer is connected, and checks the pool's counts.
    pub(super) async fn is_empty_again(&self) {
        until("the pool is empty", || {
            let stats = self.pool.stats(0, Duration::MAX);
            stats.total + stats.handshaking + stats.closing == 0
        })
        .await;
        // The record of a disconnect follows the removal, after the pool's lock.
        until("each removal has its record", || self.pool.removals() == self.journal.disconnects()).await;
        let mut held = 0;
        self.net.roster.for_each(|_| held += 1);
        assert_eq!(held, 0, "the roster holds nobody whom the pool does not");
        let listeners = self.net.local_addrs().len();
        until("only the listeners' tasks are left", || self.net.tasks() == listeners).await;
    }
}

/// A peer that the test drives: TLS is real, the messages are up to the test.
pub(super) struct Raw {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) identity: Identity,
}

pub(super) fn hello() -> Hello {
    Hello {
        least_version: 1,
        greatest_version: 1,
        features: 0,
        boot_nonce: 7,
        listen: vec![],
        agent: "raw".into(),
    }
}

impl Raw {
    /// After TLS, before any message.
    pub(super) async fn to(node: &TestNode) -> Self {
        Self::known_as(Identity::generate(), node).await
    }

    /// The same, with a key that the node may know already.
    pub(super) async fn known_as(identity: Identity, node: &TestNode) -> Self {
        let tcp = TcpStream::connect(node.address()).await.unwrap();
        let (stream, peer) = Tls::new(&identity, NETWORK).unwrap().connect(tcp).await.unwrap();
        assert_eq!(peer, node.id());
        Self { stream, identity }
    }

    /// After TLS and hellos: the node takes us for a peer.
    pub(super) async fn greeted_by(node: &TestNode) -> Self {
        Self::greeted_with(Identity::generate(), hello(), node).await
    }

    pub(super) async fn greeted_with(identity: Identity, hello: Hello, node: &TestNode) -> Self {
        let mut raw = Self::known_as(identity, node).await;
        raw.say(Message::Hello(hello)).await;
        raw.hear(|message| assert!(matches!(message, Message::Hello(_)))).await;
        let id = raw.identity.peer_id();
        until("it is live", || node.pool.find(&id).is_some()).await;
        raw
    }

    pub(super) async fn say(&mut self, message: Message<'_>) {
        self.send(&message.encode(MAX_FRAME).unwrap()).await;
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// For a node that may close meanwhile.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next message of any kind.
    pub(super) async fn hear<T>(&mut self, look: impl FnOnce(&Message<'_>) -> T) -> T {
        let (kind, body) = self.hear_frame().await;
        look(&Message::decode(kind, &body).unwrap())
    }

    async fn hear_frame(&mut self) -> (crate::frame::FrameKind, Bytes) {
        let heard = tokio::time::timeout(PATIENCE, async {
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header).await.unwrap();
            let size = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
            let mut body = vec![0; size - 1];
            self.stream.read_exact(&mut body).await.unwrap();
            let kind = crate::frame::FrameKind::ALL[usize::from(header[4])];
            (kind, Bytes::from(body))
        });
        heard.await.expect("a message comes in time")
    }

    /// Reads messages up to a goodbye; returns the code of its cause and its text.
    pub(super) async fn hear_goodbye(&mut self) -> (u8, String) {
        loop {
            let said = self
                .hear(|message| match message {
                    Message::Goodbye { code, text } => Some((*code, (*text).to_owned())),
                    _ => None,
                })
                .await;
            if let Some(goodbye) = said {
                return goodbye;
            }
        }
    }
}

/// Reads until the other side closes.
pub(super) async fn closes(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let closed = tokio::time::timeout(PATIENCE, async {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
    });
    assert!(closed.await.is_ok(), "the node closes in time");
}

/// Runs one test of this crate in a separate process, where nothing else opens descriptors or takes memory. False in
/// the parent, once the test has passed there.
pub(super) fn alone(test: &str) -> bool {
    const MARK: &str = "GROUNDSKEEPER_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    let failed = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}{failed}");
    false
}

pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
