//! What stays the same while a network runs: its config, state, tasks and addresses.

use std::net::SocketAddr;

use groundskeeper_pool::NodeState;

use super::bootstrap::Lookups;
use super::key_watch::KeyWatch;
use super::settings::NetConfig;
use super::tasks::Tasks;
use super::wire::MAX_LISTEN;

pub(crate) struct LocalNode {
    /// The config at the start. What can change later is in [`Traffic`](super::traffic::Traffic).
    pub(crate) config: NetConfig,
    pub(crate) state: NodeState,
    pub(crate) tasks: Tasks,
    /// The addresses that it listens on, with the ports that the system chose.
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) boot_nonce: u64,
    pub(crate) lookups: Lookups,
    pub(crate) key_watch: KeyWatch,
}

impl LocalNode {
    /// The addresses that this node sends to peers as its own.
    pub(crate) fn told_addresses(&self) -> &[SocketAddr] {
        let advertise = &self.config.advertise;
        let all = if advertise.is_empty() { &self.bound } else { advertise };
        &all[..all.len().min(MAX_LISTEN)]
    }
}
