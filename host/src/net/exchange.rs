//! Peer exchange: what this node tells of others, and what it believes of what it is told. Asks nobody by itself.

use crate::book::Source;
use crate::peer::{NetGroup, PeerId, is_public};

use super::node::Node;
use super::wire::{MAX_PEERS_TOLD, Told, decode_peers, encode_peers};

impl Node {
    /// The answer to "peers": ourselves where we are told to be, then reached addresses by chance, without the asker.
    pub(crate) fn peers_for(&self, asker: &PeerId) -> Vec<u8> {
        let book = &self.rooms.book;
        let allow_private = book.limits().allow_private;
        let ourselves = self
            .config
            .advertise
            .iter()
            .filter(|address| allow_private || is_public(address.ip()))
            .map(|&address| (address, Some(self.self_id)));
        let others = book.sample(MAX_PEERS_TOLD).into_iter().filter(|(_, peer)| peer.as_ref() != Some(asker));
        let told: Vec<Told> = ourselves.chain(others).take(MAX_PEERS_TOLD).collect();
        encode_peers(&told)
    }

    /// Takes a peer list from somebody in `group`. How many addresses were new.
    ///
    /// Addresses that the book refuses are passed over; a list that breaks the rules is an error and nothing is taken.
    pub(crate) fn learn_peers(&self, payload: &[u8], group: NetGroup) -> Result<usize, postcard::Error> {
        let told = decode_peers(payload)?;
        let ours = self.told_addresses();
        let others = told
            .into_iter()
            .filter(|(address, peer)| peer.as_ref() != Some(&self.self_id) && !ours.contains(address));
        Ok(others
            .filter(|&(address, peer)| {
                self.rooms.book.learn(address, peer, Source::Told(group)) == crate::book::Learned::New
            })
            .count())
    }
}
