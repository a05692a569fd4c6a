//! What every part of the network shares: the node's rooms, its settings and its tasks. Starts tasks, has no logic.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conn::Conn;
use super::handlers::Handlers;
use super::refusals::Refusals;
use super::roster::Roster;
use super::settings::{NetConfig, Rooms};
use super::traffic::Traffic;
use super::transport::Carrier;
use super::wire::{GREATEST_VERSION, Hello, LEAST_VERSION, MAX_AGENT, MAX_LISTEN, Message, clipped};
use crate::chance::Chance;
use crate::journal::{Asker, Cause};
use crate::peer::PeerId;
use crate::pool::{ConnKey, Link, Removal, Verdict};

/// Peers being told why they are turned away, at once. Further ones are dropped without a word: a flood of banned
/// peers must not hold descriptors that no limit counts.
const FAREWELLS: usize = 64;

pub(crate) struct Node {
    pub(crate) config: NetConfig,
    pub(crate) rooms: Rooms,
    pub(crate) self_id: PeerId,
    pub(crate) carrier: Carrier,
    pub(crate) handlers: Handlers,
    pub(crate) roster: Roster,
    pub(crate) refusals: Refusals,
    pub(crate) traffic: Traffic,
    pub(crate) chance: Chance,
    pub(crate) boot_nonce: u64,
    pub(crate) dials: Arc<Semaphore>,
    pub(crate) farewells: Semaphore,
    pub(crate) bound: Mutex<Vec<SocketAddr>>,
    pub(crate) runtime: Handle,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Node {
    pub(crate) fn new(
        config: NetConfig,
        rooms: Rooms,
        carrier: Carrier,
        handlers: Handlers,
        runtime: Handle,
    ) -> Self {
        let chance = Chance::new(config.seed);
        Self {
            self_id: rooms.pool.self_id(),
            carrier,
            handlers,
            roster: Roster::new(rooms.pool.capacity()),
            refusals: Refusals::default(),
            traffic: Traffic::new(config.tuning.clone(), chance.number()),
            boot_nonce: chance.number(),
            chance,
            dials: Arc::new(Semaphore::new(config.dials_at_once)),
            farewells: Semaphore::new(FAREWELLS),
            bound: Mutex::default(),
            runtime,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
            rooms,
        }
    }

    /// Where peers are told to find us.
    pub(crate) fn told_addresses(&self) -> Vec<SocketAddr> {
        let mut told = if self.config.advertise.is_empty() {
            self.bound.lock().clone()
        } else {
            self.config.advertise.clone()
        };
        told.truncate(MAX_LISTEN);
        told
    }

    pub(crate) fn hello(&self, features: u64) -> Bytes {
        let hello = Hello {
            least_version: LEAST_VERSION,
            greatest_version: GREATEST_VERSION,
            features,
            boot_nonce: self.boot_nonce,
            listen: self.told_addresses(),
            agent: clipped(&self.config.agent, MAX_AGENT).to_owned(),
        };
        self.encode(&Message::Hello(hello))
    }

    /// A message whose size the node itself bounds.
    pub(crate) fn encode(&self, message: &Message<'_>) -> Bytes {
        message
            .encode(&self.config.frame_caps)
            .expect("hellos, pings and goodbyes are built within their caps")
    }

    /// Whether this ended it.
    pub(crate) fn disconnect_for_shutdown(&self, key: ConnKey) -> bool {
        let removal = Removal::new(Asker::Host, Cause::Shutdown, "this node shuts down");
        self.rooms.pool.disconnect(key, removal, None) == Verdict::Closed
    }

    /// Ends the task of every connection without asking. How many there were.
    pub(crate) fn abort_sessions(&self) -> u32 {
        let mut left = Vec::new();
        self.roster.for_each(|conn| left.push(Arc::clone(conn)));
        left.iter().for_each(|conn| conn.abort());
        left.len() as u32
    }

    /// The live connection to `peer`, if it is one of ours.
    pub(crate) fn connection_to(&self, peer: &PeerId) -> Option<Arc<Conn>> {
        self.roster.find(self.rooms.pool.find(peer)?)
    }
}
