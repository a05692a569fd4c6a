//! Finds the peer or the phase that an operator means, and everything known about it, in memory and in the journal's file.
//! Completes an id only if one peer matches.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::AdminState;
use super::answers::{Explanation, JournalPast};
use crate::journal::{ActionKind, Record, RecordPeer};
use crate::peer::{PeerId, canonical};

/// Candidates listed when the start of an id matches several.
const CANDIDATES_LISTED: usize = 8;

/// Records in one explanation: more than a person reads, some 300 KiB.
const RECORDS: usize = 1000;

/// Of those, records without a peer at its addresses: many peers may share an address.
const AT_ITS_ADDRESSES: usize = 50;

/// Addresses by which records without a peer are found. An incoming connection has another port each time.
const ADDRESSES: usize = 64;

/// Why there is no explanation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ExplainError {
    #[error("{0}, and no phase")]
    NotAName(String),
    #[error("nothing is known about {who:?}: it is not connected, and no record of it is left{past}")]
    Unknown { who: String, past: String },
    #[error("{0:?} fits several peers: {1}; give more of the id")]
    Several(String, String),
}

impl AdminState {
    /// Everything that is still known about `who`: a peer id, the beginning of one, an address, or the name of a phase.
    ///
    /// A name that fits both a phase and the beginning of an id means the phase. O(records held + slots ever used +
    /// addresses known), and a reading of the journal's file.
    pub(super) async fn explain(&self, who: &str) -> Result<Explanation, ExplainError> {
        let who = who.trim();
        let subject = who.parse::<RecordPeer>();
        let may_be_phase = self.has_phase(who) || is_phase_name(who);
        let phase: Option<Arc<str>> = may_be_phase.then(|| who.into());
        if let (Err(why), None) = (&subject, &phase) {
            return Err(ExplainError::NotAName(why.clone()));
        }
        let found = self.search(phase, subject.as_ref().ok().cloned()).await;
        if self.has_phase(who) || !found.of_phase.is_empty() {
            return Ok(self.about_phase(who, found));
        }
        match subject {
            Ok(subject) => self.about_peer(who, &subject, found),
            Err(why) => Err(ExplainError::NotAName(why)),
        }
    }

    async fn search(&self, phase: Option<Arc<str>>, subject: Option<RecordPeer>) -> FoundRecords {
        let journal = &self.sources.state.journal;
        let mut wanted = RecordQuery { phase, subject, ..RecordQuery::default() };
        wanted.start_from(self);
        // Records in memory name further peers and addresses, which older records are about.
        journal.select(RECORDS, |record| wanted.wants(record));
        let wanted = Arc::new(Mutex::new(wanted));
        let keep = {
            let wanted = Arc::clone(&wanted);
            move |record: &Record| wanted.lock().wants(record)
        };
        let (records, past) = self.past.find(journal, RECORDS, keep).await;
        let wanted = wanted.lock();
        let mut found = FoundRecords { peers: wanted.peers.clone(), past, ..FoundRecords::default() };
        for record in records {
            if wanted.is_of_phase(&record) {
                found.of_phase.push(record);
            } else if wanted.is_about_peer(&record) {
                found.of_peer.push(record);
            } else {
                found.at_its_addresses.push(record);
            }
        }
        let at = found.at_its_addresses.len().saturating_sub(AT_ITS_ADDRESSES);
        found.at_its_addresses.drain(..at);
        found
    }

    fn about_peer(
        &self,
        who: &str,
        subject: &RecordPeer,
        found: FoundRecords,
    ) -> Result<Explanation, ExplainError> {
        let FoundRecords { of_peer, at_its_addresses, peers, past, .. } = found;
        if matches!(subject, RecordPeer::Prefix(_)) && peers.len() > 1 {
            let mut names: Vec<String> =
                peers.iter().take(CANDIDATES_LISTED).map(ToString::to_string).collect();
            if peers.len() > CANDIDATES_LISTED {
                names.push("and more".to_owned());
            }
            return Err(ExplainError::Several(who.to_owned(), names.join(", ")));
        }
        let peer = match subject {
            RecordPeer::Id(id) => Some(*id),
            _ if peers.len() == 1 => peers.first().copied(),
            _ => None,
        };
        let connected = self.connected(|id, at| peer == Some(id) || subject.is_at(at));
        let known_at = self.book_addresses(|id, at| peer.is_some() && id == peer || subject.is_at(at));
        if connected.is_none() && of_peer.is_empty() && known_at.is_empty() {
            let hint = self.similar_phase(who).unwrap_or_else(|| before(&past));
            return Err(ExplainError::Unknown { who: who.to_owned(), past: hint });
        }
        Ok(Explanation {
            peer,
            connected,
            records: of_peer,
            at_its_addresses,
            known_at,
            past,
            ..Explanation::default()
        })
    }

    fn connected(&self, fits: impl Fn(PeerId, SocketAddr) -> bool) -> Option<super::answers::Peer> {
        let pool = &self.sources.state.pool;
        let rows = pool.freeze();
        let row = (0..rows.len())
            .find(|row| pool.name(rows.key(*row)).is_some_and(|name| fits(name.id, name.address)))?;
        self.rows(&rows, [row]).pop()
    }

    fn book_addresses(&self, fits: impl Fn(Option<PeerId>, SocketAddr) -> bool) -> Vec<SocketAddr> {
        let entries = self.sources.state.book.entries().into_iter();
        entries.filter(|entry| fits(entry.peer, entry.address)).map(|entry| entry.address).collect()
    }
}

/// What is missing, for an operator who looks for what is not there.
fn before(past: &JournalPast) -> String {
    match (&past.file, &past.trouble) {
        (None, _) => {
            ". No journal file is configured: what was before the start of the node is not known".into()
        }
        (Some(file), Some(trouble)) => format!(". In {file} there may be older ones: {trouble}"),
        (Some(_), None) => String::new(),
    }
}

/// Whether a phase could have this name. Only the journal's file may still know it.
fn is_phase_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 40 && text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(plain)
}

/// Records that were found, oldest first, and the peers that they are about.
#[derive(Default)]
pub(super) struct FoundRecords {
    pub(super) of_phase: Vec<Record>,
    of_peer: Vec<Record>,
    at_its_addresses: Vec<Record>,
    pub(super) peers: BTreeSet<PeerId>,
    pub(super) past: JournalPast,
}

/// Which records belong to an explanation. Each one that does may name a further peer or address.
#[derive(Default)]
struct RecordQuery {
    phase: Option<Arc<str>>,
    subject: Option<RecordPeer>,
    peers: BTreeSet<PeerId>,
    addresses: BTreeSet<SocketAddr>,
}

impl RecordQuery {
    /// Learns from the pool and the book.
    fn start_from(&mut self, node: &AdminState) {
        let state = &node.sources.state;
        for (_, naming) in state.pool.peers() {
            self.learn(Some(naming.id), Some(naming.address));
        }
        for entry in state.book.entries() {
            self.learn(entry.peer, Some(entry.address));
        }
    }

    /// Notes a peer and an address that belong together, if one of them is wanted.
    fn learn(&mut self, peer: Option<PeerId>, address: Option<SocketAddr>) -> bool {
        let Some(subject) = &self.subject else { return false };
        let is_meant = peer.is_some_and(|peer| subject.is_peer(&peer) || self.peers.contains(&peer));
        if !is_meant && !address.is_some_and(|at| subject.is_at(at)) {
            return false;
        }
        if let Some(peer) = peer {
            self.peers.insert(peer);
            self.addresses.extend(address.map(canonical).filter(|_| self.addresses.len() < ADDRESSES));
        }
        true
    }

    fn wants(&mut self, record: &Record) -> bool {
        let is_wanted = self.learn(record.peer, record.address);
        is_wanted || self.is_of_phase(record) || self.is_at_its_address(record)
    }

    fn is_of_phase(&self, record: &Record) -> bool {
        self.phase.is_some() && record.about_phase() == self.phase.as_ref()
    }

    fn is_about_peer(&self, record: &Record) -> bool {
        record.peer.is_some_and(|peer| self.peers.contains(&peer))
            || self.subject.as_ref().is_some_and(|subject| subject.matches(record))
    }

    fn is_at_its_address(&self, record: &Record) -> bool {
        let Some(address) = record.address.filter(|_| record.peer.is_none()) else { return false };
        let address = canonical(address);
        // An incoming connection may have any port.
        let has_any_port = record.what == ActionKind::Refused;
        self.addresses.iter().any(|at| *at == address || has_any_port && at.ip() == address.ip())
    }
}
