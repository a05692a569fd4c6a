//! One record, as the caller gives it and as it is kept.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use serde::{Deserialize, Serialize};

use super::kinds::{ActionKind, Cause, Initiator};

/// Outcome of an action.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "why")]
pub enum Outcome {
    /// Done, in full or in the part that was granted.
    Applied,
    /// Started; another record gives the end.
    Started,
    /// No longer applicable: the peer spoke, or is gone.
    Void(String),
    /// Not allowed, or not possible.
    Refused(String),
    /// Tried and failed.
    Failed(String),
    /// Would have been applied if its phase were not in shadow mode.
    Shadow,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Applied => f.write_str("applied"),
            Outcome::Started => f.write_str("started"),
            Outcome::Void(why) => write!(f, "void: {why}"),
            Outcome::Refused(why) => write!(f, "refused: {why}"),
            Outcome::Failed(why) => write!(f, "failed: {why}"),
            Outcome::Shadow => f.write_str("shadow: would have been applied"),
        }
    }
}

/// A named number that a decision was based on, in the unit of the column of that name.
pub type Input = (std::borrow::Cow<'static, str>, u32);

/// The caller's part of a record; the journal adds number, time and beat.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Who wants the action, even if the host refuses it.
    pub by: Initiator,
    /// Together with `outcome` it decides which room keeps the record: see [`JournalLimits`](super::JournalLimits).
    pub what: ActionKind,
    /// The phase that the action concerns, if that is not its initiator.
    pub phase: Option<Arc<str>>,
    /// None if the action concerns no single peer, or if the peer's key is not known. The peer of a dial that failed
    /// before the key was proven is the one that the address book expects there.
    pub peer: Option<PeerId>,
    /// The number of the connection since the host started.
    pub conn: Option<u32>,
    /// The remote address of the connection or the dial, if the action concerns one.
    pub address: Option<SocketAddr>,
    /// Only for disconnects.
    pub cause: Option<Cause>,
    /// Why, in words for the operator; may be empty.
    pub reason: String,
    /// The numbers that the decision was based on, if there were any.
    pub inputs: Vec<Input>,
    /// [`NewRecord::new`] sets [`Outcome::Applied`].
    pub outcome: Outcome,
    /// How many things one action touched: peers pinged, broadcasts forgotten.
    pub count: u32,
}

impl NewRecord {
    /// An applied action on one thing, without peer, connection, address, cause or inputs.
    pub fn new(by: Initiator, what: ActionKind, reason: impl Into<String>) -> Self {
        Self {
            by,
            what,
            phase: None,
            peer: None,
            conn: None,
            address: None,
            cause: None,
            reason: reason.into(),
            inputs: Vec::new(),
            outcome: Outcome::Applied,
            count: 1,
        }
    }
}

/// One line of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Counts all records since the host started, from 1, without gaps.
    pub seq: u64,
    /// Wall time at which the host started, in milliseconds since 1970; tells the records of one start from those of
    /// another. 0 in files of older versions.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub start: u64,
    /// Wall time at which the record was written, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The last tick that had begun when the record was written.
    pub tick: u32,
    /// Number of the urgent beat after that tick, 0 for the tick itself.
    pub beat: u32,
    /// See [`NewRecord::by`].
    pub by: Initiator,
    /// See [`NewRecord::what`].
    pub what: ActionKind,
    /// See [`NewRecord::phase`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phase: Option<Arc<str>>,
    /// See [`NewRecord::peer`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<PeerId>,
    /// The number of the connection since the host started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conn: Option<u32>,
    /// See [`NewRecord::address`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<SocketAddr>,
    /// Only for disconnects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// Why, in words for the operator; may be empty.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// The numbers that the decision was based on, if there were any.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub inputs: Vec<Input>,
    /// See [`NewRecord::outcome`].
    pub outcome: Outcome,
    /// How many things one action touched: peers pinged, broadcasts forgotten.
    pub count: u32,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Record {
    /// The phase that initiated the action, or that the action concerns.
    pub fn about_phase(&self) -> Option<&Arc<str>> {
        match &self.by {
            Initiator::Phase { name, .. } => Some(name),
            _ => self.phase.as_ref(),
        }
    }
}
