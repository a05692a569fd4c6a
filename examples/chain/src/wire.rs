//! The messages between nodes of the chain: topics of broadcasts, kinds of requests, and their payloads, encoded as
//! postcard. The host itself provides `ping` and the list of peers.

use std::net::SocketAddr;

use groundskeeper::peer::PeerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::block::{Digest, Transaction};

/// Broadcasts.
pub mod topic {
    /// A [`Transaction`](crate::block::Transaction). Passed on.
    pub const MESSAGE: &str = "message";
    /// A [`TipUpdate`](super::TipUpdate). Each node sends it to its own neighbours only.
    pub const TIP: &str = "tip";
    /// A [`Proposal`](crate::block::Proposal). Passed on.
    pub const PROPOSAL: &str = "proposal";
    /// A [`Vote`](crate::block::Vote). Passed on.
    pub const VOTE: &str = "vote";
    /// A [`NewPeer`](super::NewPeer). Passed on.
    pub const PEER: &str = "peer";
}

/// Requests, with the types of request and answer.
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

/// The end of a node's chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TipUpdate {
    pub height: u64,
    pub block: Digest,
    /// Height of its last final block.
    pub finals: u64,
}

/// A node that has joined, with its addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewPeer {
    pub id: PeerId,
    pub addresses: Vec<SocketAddr>,
}

/// Requests everything above this height.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Above(pub u64);

/// A final transaction and the height of its block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AtHeight(pub u64, pub Transaction);

/// As many final transactions from or to one wallet as fit, first ones first, and the balance from all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wallet {
    pub balance: i128,
    pub transactions: Vec<AtHeight>,
}

/// Half of the host's default frame.
const MOST_BYTES: usize = 512 << 10;

/// The first of `items`, as many as an answer holds.
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

/// The value encoded in exactly `bytes`; None if they encode anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}
