//! What the nodes of the chain say to each other: topics of broadcasts, kinds of requests, and what they carry, in
//! postcard. `ping` and the list of peers are the host's own.

use std::net::SocketAddr;

use groundskeeper::peer::PeerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::block::{Digest, Transaction};

/// Broadcasts.
pub mod topic {
    /// A [`Transaction`](crate::block::Transaction). Passed on.
    pub const MESSAGE: &str = "message";
    /// A [`TipUpdate`](super::TipUpdate). Each node tells its own neighbours.
    pub const TIP: &str = "tip";
    /// A [`Proposal`](crate::block::Proposal). Passed on.
    pub const PROPOSAL: &str = "proposal";
    /// A [`Vote`](crate::block::Vote). Passed on.
    pub const VOTE: &str = "vote";
    /// A [`NewPeer`](super::NewPeer). Passed on.
    pub const PEER: &str = "peer";
}

/// Requests, with question and answer.
pub mod kind {
    /// `()` to [`Genesis`](crate::block::Genesis).
    pub const GENESIS: &str = "genesis";
    /// [`Above`](super::Above) to [`Certified`](crate::block::Certified) blocks of the longest chain, lowest first, as many as fit.
    pub const BLOCK: &str = "block";
    /// `()` to the [`Transaction`](crate::block::Transaction)s that wait, as many as fit.
    pub const MEMPOOL: &str = "mempool";
    /// [`Above`](super::Above) to [`AtHeight`](super::AtHeight)s, lowest first, as many as fit.
    pub const FINALIZED: &str = "finalized";
    /// A wallet's id to its [`Wallet`](super::Wallet).
    pub const WALLET: &str = "wallet";
}

/// Where a node's chain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TipUpdate {
    pub height: u64,
    pub block: Digest,
    /// Height of its last final block.
    pub finals: u64,
}

/// A node that has joined, and where it listens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewPeer {
    pub id: PeerId,
    pub addresses: Vec<SocketAddr>,
}

/// What is asked for lies above this height.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Above(pub u64);

/// A final transaction and the height of its block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AtHeight(pub u64, pub Transaction);

/// Final transactions from or to one wallet, the first so many as fit, and what all of them make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wallet {
    pub balance: i128,
    pub transactions: Vec<AtHeight>,
}

/// Half of what the host's default frame holds.
const MOST_BYTES: usize = 512 << 10;

/// The first so many of `items` as an answer holds.
pub fn fitting<T: Serialize>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut left = MOST_BYTES;
    let fits = |item: &T| match left.checked_sub(encode(item).len()) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    items.into_iter().take_while(fits).collect()
}

pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data has a postcard form")
}

/// The value that all of `bytes` say; None if they say anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}
