//! Peer exchange: what this node tells of others, and what it believes of what it is told. Asks when the caller says so.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::{NetGroup, PeerId, is_public};
use groundskeeper_flow::Priority;
use groundskeeper_pool::book::{Book, Learned, Source};

use super::conn::Conn;
use super::frame_sender::FrameSender;
use super::own_addresses::OwnAddresses;
use super::pending::Waiter;
use super::request_error::RequestError;
use super::wire::{MAX_PEERS_TOLD, Message, Told, decode_peers, encode_peers};
use crate::NodeState;

pub(crate) struct PeerExchange {
    self_id: PeerId,
    addresses: Arc<OwnAddresses>,
    book: Arc<Book>,
    sender: Arc<FrameSender>,
}

impl PeerExchange {
    pub(crate) fn new(
        state: &NodeState,
        addresses: &Arc<OwnAddresses>,
        sender: &Arc<FrameSender>,
    ) -> Arc<Self> {
        let (self_id, book) = (state.pool.self_id(), state.book.clone());
        Arc::new(Self { self_id, addresses: addresses.clone(), book, sender: sender.clone() })
    }

    /// The host's own question for peers. Not sent if the queue is full.
    pub(crate) fn ask(&self, conn: &Conn) -> Result<(), RequestError> {
        let id = conn.pending.begin(Waiter::PeerList)?;
        let request = Message::Request { id, kind: "peers", payload: &[] };
        let queued = self
            .sender
            .encode(&request)
            .map_err(RequestError::from)
            .and_then(|frame| Ok(self.sender.queue(conn, Priority::Request, frame.into())?));
        queued.inspect_err(|_| conn.pending.forget(id, false))
    }

    /// The answer to "peers": ourselves where we are told to be, then reached addresses by chance, without the asker.
    pub(crate) fn peers_for(&self, asker: &PeerId) -> Vec<u8> {
        let book = &self.book;
        let allow_private = book.limits().allow_private;
        let ourselves = self
            .addresses
            .advertised()
            .iter()
            .filter(|address| allow_private || is_public(address.ip()))
            .map(|&address| (address, Some(self.self_id)));
        let others = book.sample(MAX_PEERS_TOLD).into_iter().filter(|(_, peer)| peer.as_ref() != Some(asker));
        let told: Vec<Told> = ourselves.chain(others).take(MAX_PEERS_TOLD).collect();
        encode_peers(&told)
    }

    /// Takes a peer list from a peer in `group`. How many addresses were new.
    ///
    /// Addresses that the book refuses are passed over; a list that breaks the rules is an error and nothing is taken.
    pub(crate) fn learn(&self, payload: &[u8], group: NetGroup) -> Result<usize, postcard::Error> {
        let ours = self.addresses.told();
        let is_other = |address: &SocketAddr, peer: &Option<PeerId>| {
            peer.as_ref() != Some(&self.self_id) && !ours.contains(address)
        };
        let told = decode_peers(payload)?.into_iter();
        let others = told.filter(|(address, peer)| is_other(address, peer));
        let new = others
            .filter(|&(address, peer)| self.book.learn(address, peer, Source::Told(group)) == Learned::New);
        Ok(new.count())
    }
}
