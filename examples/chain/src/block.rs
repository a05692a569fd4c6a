//! The data of the chain: transactions, blocks, votes, and their signatures. Knows no consensus rule.

use std::collections::BTreeSet;
use std::fmt;

use groundskeeper::net::Identity;
use groundskeeper::peer::PeerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Transactions in one block: at 200 bytes each, a block is a fifth of the host's largest frame.
pub const MOST_TRANSACTIONS: usize = 256;

/// More validators would make certificates larger than blocks.
const MOST_VALIDATORS: usize = 64;

/// SHA-256 over a value's kind and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(what: &str, value: &impl Serialize) -> Self {
        Self(Sha256::digest(bytes(what, value)).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The bytes that are hashed or signed. The kind comes first, so that a vote cannot pass for a transaction.
fn bytes(what: &str, value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(&(what, value)).expect("plain data has a postcard form")
}

/// A node's signature. It may be any bytes until it is checked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature(Vec<u8>);

impl Signature {
    fn by(key: &Identity, what: &str, value: &impl Serialize) -> Self {
        Self(key.sign(&bytes(what, value)).to_vec())
    }

    fn is_of(&self, signer: &PeerId, what: &str, value: &impl Serialize) -> bool {
        Identity::has_signed(signer, &bytes(what, value), &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

/// The start of a chain, equal on all its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    pub name: String,
    /// Length of a slot. Each slot can have one block.
    pub slot_ms: u32,
    /// The nodes that propose in turn and vote. A wallet is also a node's id.
    pub validators: Vec<PeerId>,
}

impl Genesis {
    /// # Errors
    /// What is wrong with it, and the valid range.
    pub fn check(&self) -> Result<(), String> {
        let distinct: BTreeSet<_> = self.validators.iter().collect();
        if !(1..=MOST_VALIDATORS).contains(&self.validators.len()) || distinct.len() != self.validators.len()
        {
            return Err(format!("a genesis names 1 to {MOST_VALIDATORS} validators, each once"));
        }
        if !(50..=60_000).contains(&self.slot_ms) {
            return Err(format!("slot_ms = {} is out of range: 50 to 60000", self.slot_ms));
        }
        Ok(())
    }

    pub fn digest(&self) -> Digest {
        Digest::of("genesis", self)
    }

    /// The name of its network. Nodes with another genesis fail the handshake.
    pub fn network(&self) -> String {
        let digest = self.digest().to_string();
        format!("chain-{}", &digest[..24])
    }

    /// The slot at `unix_ms` milliseconds since 1970.
    pub fn slot_at(&self, unix_ms: u64) -> u64 {
        unix_ms / u64::from(self.slot_ms)
    }

    /// The validator that proposes in `slot`.
    pub fn leader(&self, slot: u64) -> &PeerId {
        &self.validators[(slot % self.validators.len() as u64) as usize]
    }

    /// The index of a validator.
    pub fn seat(&self, of: &PeerId) -> Option<u8> {
        self.validators.iter().position(|one| one == of).map(|at| at as u8)
    }

    /// Whether this number of votes is more than two thirds.
    pub fn is_enough(&self, votes: usize) -> bool {
        3 * votes > 2 * self.validators.len()
    }
}

/// A payment. `nonce` distinguishes equal ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transaction {
    pub from: PeerId,
    pub to: PeerId,
    pub amount: u64,
    pub nonce: u64,
    signature: Signature,
}

impl Transaction {
    pub fn new(key: &Identity, to: PeerId, amount: u64, nonce: u64) -> Self {
        let from = key.peer_id();
        let signature = Signature::by(key, "transaction", &(from, to, amount, nonce));
        Self { from, to, amount, nonce, signature }
    }

    pub fn id(&self) -> Digest {
        Digest::of("transaction", &(self.from, self.to, self.amount, self.nonce))
    }

    pub fn is_signed(&self) -> bool {
        let Self { from, to, amount, nonce, signature } = self;
        signature.is_of(from, "transaction", &(from, to, amount, nonce))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Block {
    /// From 1.
    pub height: u64,
    /// The previous block, or the genesis.
    pub parent: Digest,
    pub slot: u64,
    pub transactions: Vec<Transaction>,
}

impl Block {
    pub fn digest(&self) -> Digest {
        Digest::of("block", self)
    }
}

/// A block with the signature of its leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub block: Block,
    signature: Signature,
}

impl Proposal {
    pub fn new(key: &Identity, block: Block) -> Self {
        let signature = Signature::by(key, "proposal", &block.digest());
        Self { block, signature }
    }

    /// Whether the leader of its slot may propose it, as far as that can be checked without the chain.
    pub fn is_sound(&self, genesis: &Genesis) -> bool {
        let Block { height, slot, transactions, .. } = &self.block;
        let ids: BTreeSet<Digest> = transactions.iter().map(Transaction::id).collect();
        *height > 0
            && transactions.len() <= MOST_TRANSACTIONS
            && ids.len() == transactions.len()
            && self.signature.is_of(genesis.leader(*slot), "proposal", &self.block.digest())
            && transactions.iter().all(Transaction::is_signed)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vote {
    pub slot: u64,
    pub block: Digest,
    pub seat: u8,
    pub signature: Signature,
}

impl Vote {
    pub fn new(key: &Identity, seat: u8, slot: u64, block: Digest) -> Self {
        Self { slot, block, seat, signature: Signature::by(key, "vote", &(slot, block)) }
    }

    pub fn is_sound(&self, genesis: &Genesis) -> bool {
        let voter = genesis.validators.get(usize::from(self.seat));
        voter.is_some_and(|voter| self.signature.is_of(voter, "vote", &(self.slot, self.block)))
    }
}

/// A block with the votes of more than two thirds. It proves itself, whichever peer sends it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Certified {
    pub proposal: Proposal,
    pub votes: Vec<(u8, Signature)>,
}

impl Certified {
    pub fn block(&self) -> &Block {
        &self.proposal.block
    }

    pub fn is_sound(&self, genesis: &Genesis) -> bool {
        let (slot, block) = (self.block().slot, self.block().digest());
        let seats: BTreeSet<u8> = self.votes.iter().map(|(seat, _)| *seat).collect();
        let is_sound = |(seat, signature): &(u8, Signature)| {
            Vote { slot, block, seat: *seat, signature: signature.clone() }.is_sound(genesis)
        };
        seats.len() == self.votes.len()
            && genesis.is_enough(seats.len())
            && self.proposal.is_sound(genesis)
            && self.votes.iter().all(is_sound)
    }
}
