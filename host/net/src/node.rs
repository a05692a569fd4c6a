//! What does not change while a network runs: how it was started, and where it holds what. Does nothing.

use std::net::SocketAddr;

use groundskeeper_pool::NodeState;

use super::settings::NetConfig;
use super::tasks::Tasks;
use super::wire::MAX_LISTEN;

pub(crate) struct Node {
    /// As the network was started; what can change since is in [`Traffic`](super::traffic::Traffic).
    pub(crate) config: NetConfig,
    pub(crate) state: NodeState,
    pub(crate) tasks: Tasks,
    /// Where it listens, with the ports that the system chose.
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) boot_nonce: u64,
}

impl Node {
    /// Where peers are told to find this node.
    pub(crate) fn told_addresses(&self) -> &[SocketAddr] {
        let advertise = &self.config.advertise;
        let all = if advertise.is_empty() { &self.bound } else { advertise };
        &all[..all.len().min(MAX_LISTEN)]
    }
}
