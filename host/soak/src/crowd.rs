//! Connections that are not real: they come and go, answer or stay silent, as a seed decides. Dials end in every way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use groundskeeper::book::{AddressSource, ConnectedGuard, Dial, DialAttempt, DialFailure, DialOrder};
use groundskeeper::journal::{Cause, Initiator};
use groundskeeper::node::NodeState;
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Direction, Goodbye, Link, PeerFacts, Removal, Slot};
use groundskeeper_sdk::rng::Rng;
use parking_lot::Mutex;

/// Different peers in all. More than the pool and the book of a small node hold.
const PEERS: u64 = 5000;

#[derive(Default)]
struct CrowdLink {
    is_closed: AtomicBool,
    is_pinged: AtomicBool,
}

impl Link for CrowdLink {
    fn ping(&self) {
        self.is_pinged.store(true, Relaxed);
    }

    fn close(&self, _why: &Goodbye) {
        self.is_closed.store(true, Relaxed);
    }
}

struct Member {
    slot: Slot,
    link: Arc<CrowdLink>,
    /// Never answers; the reaper must end it.
    is_silent: bool,
    _guard: Option<ConnectedGuard>,
}

/// The dials that phases have asked for since the last step.
#[derive(Default)]
pub(crate) struct Dials(Mutex<Vec<(DialOrder, DialAttempt)>>);

impl Dial for Dials {
    fn dial(&self, order: DialOrder, attempt: DialAttempt) {
        self.0.lock().push((order, attempt));
    }
}

/// Everybody that a node is connected to.
pub(crate) struct Crowd {
    state: NodeState,
    dials: Arc<Dials>,
    random: Rng,
    members: Vec<Member>,
    /// Connections that ended, in any way.
    pub(crate) ended: u64,
}

fn peer(n: u64) -> PeerId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_le_bytes());
    id[31] = 1;
    PeerId::from_bytes(id)
}

fn address(n: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0800_0000 + n as u32 * 257), 7420))
}

impl Crowd {
    pub(crate) fn new(state: NodeState, dials: Arc<Dials>, seed: u64) -> Self {
        Self { state, dials, random: Rng::new(seed), members: Vec::new(), ended: 0 }
    }

    /// What happens between two ticks.
    pub(crate) fn step(&mut self) {
        let now = self.state.clock.coarse();
        for at in (0..self.members.len()).rev() {
            let member = &self.members[at];
            let is_leaving = self.random.below(40) == 0;
            if member.link.is_closed.load(Relaxed) || is_leaving {
                self.ended += 1;
                let Member { slot, .. } = self.members.swap_remove(at);
                slot.retire(Removal::new(Initiator::Remote, Cause::RemoteClosed, "it left"));
            } else if !member.is_silent && member.link.is_pinged.swap(false, Relaxed) {
                member.slot.peer_seen(now);
            }
        }
        let dials = std::mem::take(&mut *self.dials.0.lock());
        for (order, attempt) in dials {
            self.settle(order, attempt);
        }
        for _ in 0..self.random.below(3) {
            let n = self.random.below(PEERS);
            self.state.book.learn(address(n), Some(peer(n)), AddressSource::Itself);
            self.attach(n, Direction::Inbound, None);
        }
    }

    fn settle(&mut self, order: DialOrder, attempt: DialAttempt) {
        let SocketAddr::V4(v4) = order.address else { return attempt.failed(&DialFailure::Refused) };
        let n = u64::from((u32::from(*v4.ip()) - 0x0800_0000) / 257);
        match self.random.below(6) {
            0 => attempt.failed(&DialFailure::TimedOut),
            1 => attempt.failed(&DialFailure::Unreachable("no route".into())),
            // Dropped: given up.
            2 => {}
            3 if order.probe => attempt.probe_succeeded(peer(n)),
            _ if self.state.pool.find(&peer(n)).is_some() => attempt.duplicate(peer(n)),
            _ => self.attach(n, Direction::Outbound, Some(attempt)),
        }
    }

    fn attach(&mut self, n: u64, direction: Direction, attempt: Option<DialAttempt>) {
        let link = Arc::new(CrowdLink::default());
        let facts = PeerFacts { id: peer(n), address: address(n), direction };
        match self.state.pool.attach(facts, Arc::clone(&link) as _) {
            Ok(slot) => {
                let guard = attempt.map(|attempt| attempt.connected(peer(n)));
                let is_silent = self.random.below(4) == 0;
                self.members.push(Member { slot, link, is_silent, _guard: guard });
            }
            Err(denied) => {
                if let Some(attempt) = attempt {
                    attempt.failed(&DialFailure::Denied(denied.to_string()));
                }
            }
        }
    }
}
