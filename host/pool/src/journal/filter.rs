//! Which records a reader wants. The same for the records in memory and those in the file.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use groundskeeper_base::peer::{PeerId, canonical};

use super::{ActionKind, Record};

/// Minimum length of the beginning of a peer id: shorter ones match by chance.
const LEAST_PREFIX: usize = 4;

/// A peer as an operator writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordPeer {
    /// A whole id.
    Id(PeerId),
    /// The beginning of an id, in lower case, at least 4 characters.
    Prefix(String),
    /// An address with its port.
    Address(SocketAddr),
    /// An address with any port.
    Ip(IpAddr),
}

impl std::str::FromStr for RecordPeer {
    type Err = String;

    /// # Errors
    /// A sentence that says what is accepted.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(id) = text.parse::<PeerId>() {
            return Ok(Self::Id(id));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(canonical(address)));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        let prefix = text.to_ascii_lowercase();
        let is_base32 = prefix.chars().all(|c| c.is_ascii_lowercase() || ('2'..='7').contains(&c));
        if prefix.len() < LEAST_PREFIX || !is_base32 {
            return Err(format!(
                "{text:?} is not a peer id, the beginning of one (at least {LEAST_PREFIX} characters), ip:port or ip"
            ));
        }
        Ok(Self::Prefix(prefix))
    }
}

impl RecordPeer {
    /// Whether this names the peer `id`.
    pub fn is_peer(&self, id: &PeerId) -> bool {
        match self {
            Self::Id(wanted) => wanted == id,
            Self::Prefix(prefix) => id.to_string().starts_with(prefix),
            Self::Address(_) | Self::Ip(_) => false,
        }
    }

    /// Whether this names the address `at`.
    pub fn is_at(&self, at: SocketAddr) -> bool {
        match self {
            Self::Address(wanted) => *wanted == canonical(at),
            Self::Ip(wanted) => *wanted == at.ip().to_canonical(),
            Self::Id(_) | Self::Prefix(_) => false,
        }
    }

    /// Whether the record names this peer or this address.
    pub fn matches(&self, record: &Record) -> bool {
        record.peer.is_some_and(|id| self.is_peer(&id)) || record.address.is_some_and(|at| self.is_at(at))
    }
}

/// Conditions for a record; all of them must hold. The default accepts everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JournalFilter {
    /// Written at or after this wall time, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Initiated by this phase, or about it.
    pub phase: Option<Arc<str>>,
    /// About this peer or address.
    pub peer: Option<RecordPeer>,
    /// One of these kinds; empty for all.
    pub what: Vec<ActionKind>,
}

impl JournalFilter {
    /// Whether the record fulfils all conditions.
    pub fn matches(&self, record: &Record) -> bool {
        record.unix_ms >= self.since_unix_ms
            && (self.what.is_empty() || self.what.contains(&record.what))
            && self.phase.as_ref().is_none_or(|phase| record.about_phase() == Some(phase))
            && self.peer.as_ref().is_none_or(|peer| peer.matches(record))
    }
}
