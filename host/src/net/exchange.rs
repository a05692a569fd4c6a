//! Peer exchange: what this node tells of others, and what it believes of what it is told. Asks nobody by itself.

use crate::book::Source;
use crate::peer::{NetGroup, PeerId, is_public};

use super::Net;
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

impl Net {
    /// Asks one connection, chosen by chance, for addresses; what comes goes into the book. False if nobody is there.
    ///
    /// For nodes whose book has nobody left to dial: a peer that knew nobody when it was first asked may know some by now.
    pub fn ask_for_addresses(&self) -> bool {
        let node = &self.node;
        let (mut chosen, mut met) = (None, 0);
        node.roster.for_each(|conn| {
            met += 1;
            if node.chance.below(met) == 0 {
                chosen = Some(conn.clone());
            }
        });
        // A queue that is full, or a table of questions that is: the next tick asks somebody else.
        chosen.is_some_and(|conn| node.ask_for_peers(&conn).is_ok())
    }
}
