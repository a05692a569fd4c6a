//! Peer exchange: which addresses this node sends to peers, and which it accepts from them. Asks only when called.

use groundskeeper_base::peer::{NetGroup, PeerId, canonical, is_public};
use groundskeeper_flow::Priority;
use groundskeeper_pool::book::AddressSource;

use super::conn::Conn;
use super::node::LocalNode;
use super::pending::Waiter;
use super::request_error::RequestError;
use super::traffic::Traffic;
use super::wire::{MAX_PEERS_TOLD, Message, ToldAddress, decode_peers, encode_peers};

/// Sends the host's own request for peers. Fails if the queue is full.
pub(crate) fn ask_for_peers(traffic: &Traffic, conn: &Conn) -> Result<(), RequestError> {
    let id = conn.pending.begin(Waiter::PeerList)?;
    let queued = traffic
        .encode(&Message::Request { id, kind: "peers", payload: &[] })
        .map_err(RequestError::from)
        .and_then(|frame| Ok(traffic.queue(conn, Priority::Request, frame.into())?));
    queued.inspect_err(|_| conn.pending.forget(id, false))
}

/// The answer to "peers": this node's advertised addresses, then random reached ones, without those of the asker.
pub(crate) fn peers_for(node: &LocalNode, asker: &PeerId) -> Vec<u8> {
    let book = &node.state.book;
    let allow_private = book.limits().allow_private;
    let advertise = node.config.advertise.iter();
    let ourselves = advertise
        .filter(|address| allow_private || is_public(address.ip()))
        .map(|&address| (address, Some(node.state.pool.self_id())));
    let others = book.sample(MAX_PEERS_TOLD).into_iter().filter(|(_, peer)| peer.as_ref() != Some(asker));
    let told: Vec<ToldAddress> = ourselves.chain(others).take(MAX_PEERS_TOLD).collect();
    encode_peers(&told)
}

/// Adds the peer list of a peer in `group` to the address book.
///
/// Skips addresses that the book refuses. A list that breaks the rules is an error, and none of it is used.
pub(crate) fn learn_peers(node: &LocalNode, payload: &[u8], group: NetGroup) -> Result<(), postcard::Error> {
    let ourselves = (node.told_addresses(), Some(node.state.pool.self_id()));
    for (address, peer) in decode_peers(payload)? {
        if peer != ourselves.1 && !ourselves.0.contains(&canonical(address)) {
            node.state.book.learn(address, peer, AddressSource::Told(group));
        }
    }
    Ok(())
}
