//! The baselines: the pools of the node that Groundskeeper replaces, written plainly from that node's own description,
//! and the same in a dashmap. Nothing here is tuned for speed or against it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{Mutex, RwLock};

use crate::ours::address;

/// Stands for the socket and its buffers. They are not part of the bookkeeping, so it is empty.
#[derive(Default)]
pub struct Connection {
    pings: u64,
}

impl Connection {
    #[expect(clippy::unused_async, reason = "like the method it stands for: awaited under the read guard")]
    pub async fn ping(&mut self) -> Result<(), String> {
        self.pings += 1;
        Ok(())
    }
}

pub type Shared = Arc<Mutex<Connection>>;

#[derive(Clone, Copy)]
#[expect(dead_code, reason = "only its size matters for the baseline")]
pub struct PeerInfo {
    pub address: SocketAddr,
    pub services: u64,
    pub version: u32,
    pub height: u32,
}

impl PeerInfo {
    fn of(peer: usize) -> Self {
        Self { address: address(peer), services: 1, version: 70_016, height: 0 }
    }
}

/// All data of one connection, as the later of the two designs keeps it.
#[expect(dead_code, reason = "only its size matters for the baseline")]
pub struct Unified {
    pub connection: Shared,
    pub info: PeerInfo,
    pub last_seen: Instant,
    pub connected_at: Instant,
    pub health_score: u8,
}

impl Unified {
    pub fn new(connection: Shared, peer: usize, now: Instant) -> Self {
        Self { connection, info: PeerInfo::of(peer), last_seen: now, connected_at: now, health_score: 100 }
    }
}

pub fn ip(peer: usize) -> IpAddr {
    address(peer).ip()
}

/// What the maintenance loop and the benches need from both designs.
pub trait SeedPool: Default + Send + Sync + 'static {
    const NAME: &'static str;

    fn insert(&self, peer: usize, connection: Shared, now: Instant) -> impl Future<Output = ()> + Send;
    fn remove(&self, ip: &IpAddr) -> impl Future<Output = ()> + Send;
    fn peer_seen(&self, ip: &IpAddr, now: Instant) -> impl Future<Output = ()> + Send;
    /// The peers not heard for `limit`, and the number of peers.
    fn stale(&self, limit: Duration, now: Instant) -> impl Future<Output = (Vec<IpAddr>, usize)> + Send;
    fn contains(&self, ip: &IpAddr) -> impl Future<Output = bool> + Send;
    fn connection(&self, ip: &IpAddr) -> impl Future<Output = Option<Shared>> + Send;
    fn count(&self) -> impl Future<Output = usize> + Send;

    /// `peers` connections that share one empty connection object.
    fn filled(peers: usize) -> impl Future<Output = Self> + Send {
        async move {
            let (pool, shared, now) = (Self::default(), Shared::default(), Instant::now());
            for peer in 0..peers {
                pool.insert(peer, Arc::clone(&shared), now).await;
            }
            pool
        }
    }
}

/// After the unification: one map with one lock.
#[derive(Default)]
pub struct OneMap {
    pub connections: RwLock<HashMap<IpAddr, Unified>>,
}

impl SeedPool for OneMap {
    const NAME: &'static str = "one RwLock<HashMap>";

    async fn insert(&self, peer: usize, connection: Shared, now: Instant) {
        self.connections.write().await.insert(ip(peer), Unified::new(connection, peer, now));
    }

    async fn remove(&self, ip: &IpAddr) {
        self.connections.write().await.remove(ip);
    }

    async fn peer_seen(&self, ip: &IpAddr, now: Instant) {
        if let Some(one) = self.connections.write().await.get_mut(ip) {
            one.last_seen = now;
        }
    }

    async fn stale(&self, limit: Duration, now: Instant) -> (Vec<IpAddr>, usize) {
        let connections = self.connections.read().await;
        let is_stale = |one: &Unified| now.saturating_duration_since(one.last_seen) > limit;
        let stale = connections.iter().filter(|(_, one)| is_stale(one)).map(|(ip, _)| *ip).collect();
        (stale, connections.len())
    }

    async fn contains(&self, ip: &IpAddr) -> bool {
        self.connections.read().await.contains_key(ip)
    }

    async fn connection(&self, ip: &IpAddr) -> Option<Shared> {
        self.connections.read().await.get(ip).map(|one| Arc::clone(&one.connection))
    }

    async fn count(&self) -> usize {
        self.connections.read().await.len()
    }
}

/// Before: three maps with a lock each, always taken in the same order.
#[derive(Default)]
pub struct ThreeMaps {
    connections: RwLock<HashMap<IpAddr, Shared>>,
    peers: RwLock<HashMap<IpAddr, PeerInfo>>,
    last_seen: RwLock<HashMap<IpAddr, Instant>>,
}

impl SeedPool for ThreeMaps {
    const NAME: &'static str = "three RwLock<HashMap>";

    async fn insert(&self, peer: usize, connection: Shared, now: Instant) {
        let mut connections = self.connections.write().await;
        let mut peers = self.peers.write().await;
        let mut last_seen = self.last_seen.write().await;
        connections.insert(ip(peer), connection);
        peers.insert(ip(peer), PeerInfo::of(peer));
        last_seen.insert(ip(peer), now);
    }

    async fn remove(&self, ip: &IpAddr) {
        self.connections.write().await.remove(ip);
        self.peers.write().await.remove(ip);
        self.last_seen.write().await.remove(ip);
    }

    async fn peer_seen(&self, ip: &IpAddr, now: Instant) {
        if self.connections.read().await.contains_key(ip) && self.peers.read().await.contains_key(ip) {
            self.last_seen.write().await.insert(*ip, now);
        }
    }

    async fn stale(&self, limit: Duration, now: Instant) -> (Vec<IpAddr>, usize) {
        let last_seen = self.last_seen.read().await;
        let is_stale = |seen: &Instant| now.saturating_duration_since(*seen) > limit;
        let stale = last_seen.iter().filter(|(_, seen)| is_stale(seen)).map(|(ip, _)| *ip).collect();
        (stale, last_seen.len())
    }

    async fn contains(&self, ip: &IpAddr) -> bool {
        self.connections.read().await.contains_key(ip)
    }

    async fn connection(&self, ip: &IpAddr) -> Option<Shared> {
        self.connections.read().await.get(ip).map(Arc::clone)
    }

    async fn count(&self) -> usize {
        self.connections.read().await.len()
    }
}

/// The single map with a lock per shard: the obvious alternative.
pub fn dashmap(peers: usize) -> DashMap<IpAddr, Unified> {
    let (map, shared, now) = (DashMap::new(), Shared::default(), Instant::now());
    for peer in 0..peers {
        map.insert(ip(peer), Unified::new(Arc::clone(&shared), peer, now));
    }
    map
}

/// The parts of a node, besides the pool, that the maintenance loop works on.
pub struct Surroundings {
    pub recent_broadcasts: RwLock<HashMap<[u8; 16], Instant>>,
    pub exchange: RwLock<HashMap<SocketAddr, Instant>>,
}

const STALE_AFTER: Duration = Duration::from_secs(90);
const FORGET_BROADCASTS: Duration = Duration::from_secs(300);
const FORGET_PEERS: Duration = Duration::from_secs(604_800);

/// One round of the unified maintenance task, and of the keep-alive for each connection in `everyone`. That node runs
/// one task per keep-alive; the cost of those tasks is left out here. Returns the number of dropped peers.
pub async fn tick<P: SeedPool>(pool: &P, around: &Surroundings, everyone: &[IpAddr]) -> usize {
    let now = Instant::now();
    let (stale, current) = pool.stale(STALE_AFTER, now).await;
    for ip in &stale {
        pool.remove(ip).await;
    }
    let should_reconnect = current < 8;
    if should_reconnect {
        crate::rounds::used(pool.count().await);
    }
    around.recent_broadcasts.write().await.retain(|_, seen| now.duration_since(*seen) < FORGET_BROADCASTS);
    around.exchange.write().await.retain(|_, heard| now.duration_since(*heard) < FORGET_PEERS);
    for ip in everyone {
        keep_alive(pool, ip).await;
    }
    stale.len()
}

/// The work of a connection's keep-alive task after its 30 s.
pub async fn keep_alive<P: SeedPool>(pool: &P, ip: &IpAddr) {
    if !pool.contains(ip).await {
        return;
    }
    let pinged = match pool.connection(ip).await {
        Some(connection) => connection.lock().await.ping().await,
        None => Err("connection gone".to_owned()),
    };
    match pinged {
        Ok(()) => pool.peer_seen(ip, Instant::now()).await,
        Err(_) => pool.remove(ip).await,
    }
}
