//! Finds the peer that an operator means, and everything known about it. Completes an id only if one peer matches.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::AdminState;
use super::answers::Explanation;
use crate::journal::Record;
use crate::peer::{PeerId, canonical};

/// Minimum length of the start of an id: shorter ones match by chance.
const LEAST_PREFIX: usize = 4;

/// Candidates listed when the start of an id matches several.
const CANDIDATES_LISTED: usize = 8;

/// Why there is no explanation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ExplainError {
    #[error("{0:?} is not a peer id, the beginning of one (at least 4 characters), ip:port or ip")]
    NotAName(String),
    #[error("nothing is known about {0:?}: it is not connected, and no record of it is left")]
    Unknown(String),
    #[error("{0:?} fits several peers: {1}; give more of the id")]
    Several(String, String),
}

impl AdminState {
    /// Everything that is still known about `who`. O(records held + slots ever used).
    pub(super) fn explain(&self, who: &str) -> Result<Explanation, ExplainError> {
        let who = who.trim();
        if let Ok(id) = who.parse::<PeerId>() {
            return self.about(id, who);
        }
        if let Ok(address) = who.parse::<SocketAddr>() {
            let address = canonical(address);
            return self.at(who, |other| other == address);
        }
        if let Ok(ip) = who.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return self.at(who, |other| other.ip() == ip);
        }
        let prefix = who.to_ascii_lowercase();
        let plausible = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        if prefix.len() < LEAST_PREFIX || !prefix.chars().all(plausible) {
            return Err(ExplainError::NotAName(who.to_owned()));
        }
        let fitting = self.known().into_iter().filter(|id| id.to_string().starts_with(&prefix));
        let fitting: Vec<PeerId> = fitting.take(CANDIDATES_LISTED + 1).collect();
        match fitting[..] {
            [] => Err(ExplainError::Unknown(who.to_owned())),
            [id] => self.about(id, who),
            _ => {
                let mut names: Vec<String> =
                    fitting.iter().take(CANDIDATES_LISTED).map(ToString::to_string).collect();
                if fitting.len() > CANDIDATES_LISTED {
                    names.push("and more".to_owned());
                }
                Err(ExplainError::Several(who.to_owned(), names.join(", ")))
            }
        }
    }

    fn known(&self) -> BTreeSet<PeerId> {
        let mut known: BTreeSet<PeerId> =
            self.sources.state.pool.peers().into_iter().map(|(_, naming)| naming.id).collect();
        self.sources.state.journal.select(0, |record| {
            known.extend(record.peer);
            false
        });
        known
    }

    fn about(&self, id: PeerId, who: &str) -> Result<Explanation, ExplainError> {
        let connected = self.connected(|peer, _| peer == id);
        let records = self.sources.state.journal.explain(&id);
        known_of(who, Explanation { peer: Some(id), connected, records })
    }

    /// By address: records of that address, and of the peers seen at it.
    fn at(&self, who: &str, fits: impl Fn(SocketAddr) -> bool) -> Result<Explanation, ExplainError> {
        let connected = self.connected(|_, address| fits(address));
        let here = |record: &Record| record.address.is_some_and(&fits);
        let mut met: BTreeSet<PeerId> = connected.iter().map(|peer| peer.id).collect();
        met.extend(
            self.sources.state.journal.select(usize::MAX, here).iter().filter_map(|record| record.peer),
        );
        let records =
            self.sources.state.journal.select(usize::MAX, |record| {
                here(record) || record.peer.is_some_and(|peer| met.contains(&peer))
            });
        let peer = if met.len() == 1 { met.first().copied() } else { None };
        known_of(who, Explanation { peer, connected, records })
    }

    fn connected(&self, fits: impl Fn(PeerId, SocketAddr) -> bool) -> Option<super::answers::Peer> {
        let pool = &self.sources.state.pool;
        let rows = pool.freeze();
        let row = (0..rows.len())
            .find(|row| pool.name(rows.key(*row)).is_some_and(|name| fits(name.id, name.address)))?;
        self.rows(&rows, [row]).pop()
    }
}

fn known_of(who: &str, found: Explanation) -> Result<Explanation, ExplainError> {
    let is_known = found.connected.is_some() || !found.records.is_empty();
    if is_known { Ok(found) } else { Err(ExplainError::Unknown(who.to_owned())) }
}
