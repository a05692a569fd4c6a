//! The pool under test, filled: peers with different ids and addresses, and one shared link that does nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::clock::{Clock, CoarseInstant, SystemClock};
use groundskeeper::journal::{Journal, JournalLimits};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts, Pool, PoolLimits, Slot};

use crate::rounds::mix;

/// The machine's clock, an hour ahead, so that peers can have been seen in the past.
pub struct HourAhead(Arc<SystemClock>);

const HOUR: Duration = Duration::from_secs(3600);

impl HourAhead {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(SystemClock::new()))
    }
}

impl Clock for HourAhead {
    fn mono(&self) -> Duration {
        self.0.mono() + HOUR
    }

    fn coarse(&self) -> CoarseInstant {
        CoarseInstant(self.0.coarse().0 + HOUR.as_secs() as u32 * CoarseInstant::PER_SECOND)
    }

    fn boot(&self) -> Duration {
        self.0.boot() + HOUR
    }

    fn unix(&self) -> Duration {
        self.0.unix()
    }
}

/// A link without a peer.
pub struct Quiet;

impl Link for Quiet {
    fn ping(&self) {}

    fn close(&self, _: &Goodbye) {}
}

pub fn id(peer: usize) -> PeerId {
    let mut bytes = [0; 32];
    for (at, part) in bytes.chunks_mut(8).enumerate() {
        part.copy_from_slice(&mix((peer * 4 + at) as u64).to_le_bytes());
    }
    PeerId::from_bytes(bytes)
}

/// A different address for each peer, scattered over all networks. An odd factor gives each number a different result.
pub fn address(peer: usize) -> SocketAddr {
    let ip = Ipv4Addr::from((peer as u32).wrapping_mul(2_654_435_761));
    SocketAddr::new(IpAddr::V4(ip), 9000)
}

pub fn facts(peer: usize) -> PeerFacts {
    let direction = if peer.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound };
    PeerFacts { id: id(peer), address: address(peer), direction }
}

/// The journal's memory: as in a node, or almost none.
pub enum Rings {
    AsInANode,
    Tiny,
}

pub fn journal(clock: Arc<dyn Clock>, rings: Rings) -> Arc<Journal> {
    let limits = match rings {
        Rings::AsInANode => JournalLimits::default(),
        Rings::Tiny => JournalLimits { notable: 1, chatter: 1 },
    };
    Journal::new(clock, limits, None)
}

/// An empty pool with room for `capacity` peers.
pub fn empty(capacity: usize, clock: Arc<dyn Clock>, journal: Arc<Journal>) -> Arc<Pool> {
    let ourselves = PeerId::from_bytes([0; 32]);
    Pool::new(ourselves, PoolLimits::only_capacity(capacity as u32), clock, journal)
}

pub fn attach(pool: &Arc<Pool>, peer: usize, link: &Arc<dyn Link>) -> Slot {
    pool.attach(facts(peer), Arc::clone(link)).expect("the pool was made for so many")
}

/// A full pool and the owners' ends of it.
pub struct Filled {
    pub pool: Arc<Pool>,
    pub clock: Arc<dyn Clock>,
    pub journal: Arc<Journal>,
    pub link: Arc<dyn Link>,
    pub slots: Vec<Option<Slot>>,
}

impl Filled {
    pub fn new(peers: usize) -> Self {
        let clock: Arc<dyn Clock> = HourAhead::new();
        let journal = journal(Arc::clone(&clock), Rings::AsInANode);
        let pool = empty(peers, Arc::clone(&clock), Arc::clone(&journal));
        let link: Arc<dyn Link> = Arc::new(Quiet);
        let slots = (0..peers).map(|peer| Some(attach(&pool, peer, &link))).collect();
        Self { pool, clock, journal, link, slots }
    }

    pub fn slot(&self, peer: usize) -> &Slot {
        self.slots[peer].as_ref().expect("filled when made, and again after each round")
    }

    /// Marks one peer in a thousand as last seen `stale` ago, one in five `idle` ago, and the others now.
    pub fn spread(&self, idle: Duration, stale: Duration) {
        let now = self.clock.coarse();
        let before = |age: Duration| CoarseInstant(now.0 - CoarseInstant::from_duration(age).0);
        for peer in 0..self.slots.len() {
            let seen = match kind(peer) {
                Kind::Stale => before(stale),
                Kind::Idle => before(idle),
                Kind::Busy => now,
            };
            self.slot(peer).peer_seen(seen);
        }
    }

    /// Reconnects the peers that a tick has dropped.
    pub fn refill(&mut self) {
        for peer in (0..self.slots.len()).filter(|&peer| matches!(kind(peer), Kind::Stale)) {
            self.slots[peer] = None;
            self.slots[peer] = Some(attach(&self.pool, peer, &self.link));
        }
    }
}

/// How long ago a peer of the measured pools was last heard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stale,
    Idle,
    Busy,
}

/// The same for our pool and for the baselines: 0.1 % stale and 20 % idle, scattered.
pub fn kind(peer: usize) -> Kind {
    match mix(peer as u64) % 1000 {
        0 => Kind::Stale,
        1..=200 => Kind::Idle,
        _ => Kind::Busy,
    }
}
