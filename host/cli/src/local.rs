//! `--local-peers`: more nodes in the same process, each with its own key, port and pool, so that a newcomer sees a
//! network at work. They are complete nodes and communicate only over the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use groundskeeper::book::AddressSource;
use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::config::Config;
use groundskeeper::data::DataFolder;
use groundskeeper::descriptors::DescriptorLimit;
use groundskeeper::node::{Node, StartError};

/// Number of local nodes that the main node knows at the start. It must discover the others.
const INTRODUCED: usize = 2;

/// Without a config, a demonstration does not listen on public addresses or collide with another node's port.
pub(super) fn keep_to_this_machine(config: &mut Config) {
    config.net.listen = vec![loopback()];
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Starts one node per folder, each with its part of the process's `descriptors`. Each is like the main node except for its port, and knows no other node yet.
pub(super) async fn start(
    config: &Config,
    folders: Vec<DataFolder>,
    descriptors: DescriptorLimit,
    clock: &Arc<SystemClock>,
) -> Result<Vec<Node>, StartError> {
    if folders.is_empty() {
        return Ok(Vec::new());
    }
    let mut theirs = config.clone();
    theirs.net.listen = vec![loopback()];
    theirs.net.advertise.clear();
    theirs.net.bootstrap.clear();
    theirs.journal.file = None;
    // The user watches the main node; the others run without dropped-in phases.
    theirs.guests.dir = None;
    let mut locals = Vec::new();
    for folder in folders {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let builder = Node::builder().config(theirs.clone()).data_folder(folder).clock(clock);
        locals.push(builder.descriptors(descriptors).start().await?);
    }
    Ok(locals)
}

/// Gives every local node the address of the main node, and the main node the addresses of the first few local nodes.
pub(super) fn introduce(locals: &[Node], main: &Node) {
    let Some(&at) = main.net().local_addrs().first() else { return };
    let reachable = SocketAddr::new(
        if at.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { at.ip() },
        at.port(),
    );
    for local in locals {
        local.state().book.learn(reachable, Some(main.id()), AddressSource::Bootstrap);
    }
    for local in &locals[..locals.len().min(INTRODUCED)] {
        for address in local.net().local_addrs() {
            main.state().book.learn(address, Some(local.id()), AddressSource::Bootstrap);
        }
    }
}
