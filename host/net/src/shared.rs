//! What all parts of one node's network use. Made before them; starts nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::chance::Chance;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Budget;
use groundskeeper_pool::NodeState;
use tokio::runtime::Handle;

use super::conn::Conn;
use super::counters::Counters;
use super::roster::Roster;
use super::settings::NetConfig;
use super::tasks::Tasks;
use super::tuning::Tuning;
use super::wire::MAX_LISTEN;

pub(crate) struct Shared {
    /// As the network was started; what can change since is in `tuning`.
    pub(crate) config: NetConfig,
    pub(crate) tuning: Tuning,
    pub(crate) state: NodeState,
    /// Where it listens, with the ports that the system chose.
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) tasks: Tasks,
    /// Of the bytes in all send queues.
    pub(crate) budget: Arc<Budget>,
    pub(crate) counters: Counters,
    pub(crate) roster: Roster,
    pub(crate) chance: Chance,
    pub(crate) boot_nonce: u64,
}

impl Shared {
    pub(crate) fn new(
        config: NetConfig,
        state: NodeState,
        bound: Vec<SocketAddr>,
        chance: Chance,
    ) -> Arc<Self> {
        let bounds = &config.performance.backpressure;
        Arc::new(Self {
            budget: Budget::new(bounds.queue_budget, bounds.memory_pressure_threshold),
            tuning: Tuning::new(config.performance.clone(), config.healthy_above),
            tasks: Tasks::new(Handle::current()),
            counters: Counters::default(),
            roster: Roster::new(state.pool.capacity()),
            boot_nonce: chance.number(),
            chance,
            config,
            state,
            bound,
        })
    }

    /// The live connection to `peer`, if it is one of ours.
    pub(crate) fn find(&self, peer: &PeerId) -> Option<Arc<Conn>> {
        self.roster.find(self.state.pool.find(peer)?)
    }

    /// Where peers are told to find this node.
    pub(crate) fn told_addresses(&self) -> &[SocketAddr] {
        let advertise = &self.config.advertise;
        let all = if advertise.is_empty() { &self.bound } else { advertise };
        &all[..all.len().min(MAX_LISTEN)]
    }
}
