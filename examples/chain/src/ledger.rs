//! Which blocks have enough votes and which are final. A pure state machine: it reads no clock, signs nothing, sends
//! nothing and opens no file.
//!
//! The rules are those of Streamlet (Chan and Shi, "Streamlet: Textbook Streamlined Blockchains", 2020):
//! - the leader of a slot proposes one block on top of the longest chain of *certified* blocks that it has seen;
//! - a validator votes once per slot, for the leader's block if its parent ends one of the longest such chains;
//! - a block with the votes of more than two thirds is certified;
//! - of three certified blocks in a row, from slots in a row, the second one and all before it are final.
//!
//! As long as fewer than a third of the validators cheat, two nodes never hold different final blocks at one height. A
//! validator that forgets its promises, or the certified blocks it has seen, would be cheating: see [`crate::log`].

use std::collections::{BTreeMap, HashMap, HashSet};

use groundskeeper::peer::PeerId;

use crate::block::{
    Block, Certified, Digest, Genesis, MOST_TRANSACTIONS, Proposal, Signature, Transaction, Vote,
};

/// Proposals and votes of this many slots are kept. A node that was away longer gets certified blocks.
const SLOTS: u64 = 64;

/// Proposals kept per slot: an honest leader makes one.
const PROPOSALS: usize = 4;

/// Maximum number of waiting transactions.
const WAITING: usize = 4096;

/// The result of receiving something from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is new, and other peers should get it.
    New,
    /// It is known or not useful. The sender did nothing wrong.
    Useless,
    /// It breaks the rules, and the sender could have known.
    Bad,
}

/// The end of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    pub height: u64,
    pub block: Digest,
}

/// One node's view of the chain, in memory.
pub struct Ledger {
    genesis: Genesis,
    root: Digest,
    certified: HashMap<Digest, Certified>,
    /// The end of the longest chain of certified blocks; of two equally long ones, that with the lower digest.
    tip: Tip,
    /// By height, from 1.
    finals: Vec<Digest>,
    /// Transactions in final blocks.
    settled: HashSet<Digest>,
    proposals: BTreeMap<u64, BTreeMap<Digest, Proposal>>,
    /// By slot and seat; the first vote counts.
    votes: BTreeMap<u64, BTreeMap<u8, (Digest, Signature)>>,
    /// With the slot in which each arrived.
    waiting: BTreeMap<Digest, (u64, Transaction)>,
    unsaved: Vec<Certified>,
}

impl Ledger {
    pub fn new(genesis: Genesis) -> Self {
        let root = genesis.digest();
        Self {
            genesis,
            root,
            certified: HashMap::new(),
            tip: Tip { height: 0, block: root },
            finals: Vec::new(),
            settled: HashSet::new(),
            proposals: BTreeMap::new(),
            votes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unsaved: Vec::new(),
        }
    }

    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// The last final block.
    pub fn last_final(&self) -> Tip {
        let block = self.finals.last().copied().unwrap_or(self.root);
        Tip { height: self.finals.len() as u64, block }
    }

    /// The final blocks above `height`, lowest first.
    pub fn finals_above(&self, height: u64) -> impl Iterator<Item = &Block> {
        let from = usize::try_from(height).unwrap_or(usize::MAX).min(self.finals.len());
        self.finals[from..].iter().filter_map(|digest| self.certified.get(digest)).map(Certified::block)
    }

    /// The blocks of the longest chain above `height`, lowest first.
    pub fn chain_above(&self, height: u64) -> Vec<&Certified> {
        let mut chain: Vec<_> =
            self.back_from(self.tip.block).take_while(|one| one.block().height > height).collect();
        chain.reverse();
        chain
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Transaction> {
        self.waiting.values().map(|(_, transaction)| transaction)
    }

    /// The balance of a wallet from final transactions, and these transactions with their heights.
    pub fn wallet(&self, of: &PeerId) -> (i128, Vec<(u64, &Transaction)>) {
        let all =
            self.finals_above(0).flat_map(|block| block.transactions.iter().map(|one| (block.height, one)));
        let its: Vec<_> = all.filter(|(_, one)| one.from == *of || one.to == *of).collect();
        let gain = |one: &Transaction| {
            i128::from(one.amount) * (i128::from(one.to == *of) - i128::from(one.from == *of))
        };
        (its.iter().map(|(_, one)| gain(one)).sum(), its)
    }

    pub fn take_transaction(&mut self, transaction: Transaction, slot: u64) -> Taken {
        let id = transaction.id();
        if self.settled.contains(&id) || self.waiting.contains_key(&id) || self.waiting.len() >= WAITING {
            return Taken::Useless;
        }
        if !transaction.is_signed() {
            return Taken::Bad;
        }
        self.waiting.insert(id, (slot, transaction));
        Taken::New
    }

    pub fn take_proposal(&mut self, proposal: Proposal, now: u64) -> Taken {
        let (slot, digest) = (proposal.block.slot, proposal.block.digest());
        let held = self.proposals.get(&slot);
        let is_known = held.is_some_and(|held| held.contains_key(&digest) || held.len() >= PROPOSALS);
        if !is_near(slot, now) || is_known || self.certified.contains_key(&digest) {
            return Taken::Useless;
        }
        if !proposal.is_sound(&self.genesis) {
            return Taken::Bad;
        }
        self.proposals.entry(slot).or_default().insert(digest, proposal);
        self.certify();
        Taken::New
    }

    pub fn take_vote(&mut self, vote: Vote, now: u64) -> Taken {
        let Vote { slot, block, seat, .. } = vote;
        let is_known = self.votes.get(&slot).is_some_and(|held| held.contains_key(&seat));
        if !is_near(slot, now) || is_known {
            return Taken::Useless;
        }
        if !vote.is_sound(&self.genesis) {
            return Taken::Bad;
        }
        self.votes.entry(slot).or_default().insert(seat, (block, vote.signature));
        self.certify();
        Taken::New
    }

    /// Adds a block that others have certified. Its parent must be here: request chains from the lowest block up.
    pub fn take_certified(&mut self, one: Certified, now: u64) -> Taken {
        if self.certified.contains_key(&one.block().digest()) || one.block().slot > now + 1 {
            return Taken::Useless;
        }
        if !one.is_sound(&self.genesis) {
            return Taken::Bad;
        }
        if !self.fits(one.block()) {
            return Taken::Useless;
        }
        self.insert(one.clone());
        self.unsaved.push(one);
        self.certify();
        Taken::New
    }

    /// Adds a block that this node has saved earlier. False if it does not fit the blocks added before it.
    pub fn restore(&mut self, one: Certified) -> bool {
        let fits = self.fits(one.block());
        if fits {
            self.insert(one);
        }
        fits
    }

    /// Blocks certified since the last call. The caller must save them before its next promise.
    pub fn take_unsaved(&mut self) -> Vec<Certified> {
        std::mem::take(&mut self.unsaved)
    }

    /// The block that this node would propose as the leader of `slot`.
    pub fn propose(&self, slot: u64) -> Block {
        let spent = self.spent_up_to(self.tip.block);
        let fresh = self.waiting.iter().filter(|(id, _)| !spent.contains(id) && !self.settled.contains(id));
        let transactions = fresh.take(MOST_TRANSACTIONS).map(|(_, (_, one))| one.clone()).collect();
        Block { height: self.tip.height + 1, parent: self.tip.block, slot, transactions }
    }

    /// The block of `slot` that this node would vote for.
    pub fn choose(&self, slot: u64) -> Option<Digest> {
        let good = |block: &Block| {
            let spent = self.spent_up_to(block.parent);
            block.height == self.tip.height + 1
                && self.fits(block)
                && block
                    .transactions
                    .iter()
                    .map(Transaction::id)
                    .all(|id| !spent.contains(&id) && !self.settled.contains(&id))
        };
        let proposals = self.proposals.get(&slot)?;
        proposals.iter().find(|(_, proposal)| good(&proposal.block)).map(|(digest, _)| *digest)
    }

    /// Whether a proposal has a parent that is not certified here, although others must have seen its certificate.
    pub fn is_behind(&self) -> bool {
        let blocks = self.proposals.values().flat_map(BTreeMap::values).map(|proposal| &proposal.block);
        let known = |digest: &Digest| *digest == self.root || self.certified.contains_key(digest);
        blocks.into_iter().any(|block| block.height > self.tip.height + 1 && !known(&block.parent))
    }

    /// Removes old proposals and votes.
    pub fn forget_slots_before(&mut self, slot: u64) {
        self.proposals = self.proposals.split_off(&slot.saturating_sub(SLOTS));
        self.votes = self.votes.split_off(&slot.saturating_sub(SLOTS));
    }

    /// Removes transactions that have waited since before `slot`. Returns how many there were.
    pub fn forget_waiting_before(&mut self, slot: u64) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|_, (since, _)| *since >= slot);
        before - self.waiting.len()
    }

    /// A certified block, its parent, and so on down to the first one.
    fn back_from(&self, block: Digest) -> impl Iterator<Item = &Certified> {
        let parent = |one: &&Certified| self.certified.get(&one.block().parent);
        std::iter::successors(self.certified.get(&block), parent)
    }

    /// Transactions in the blocks up to `block` that are not final yet.
    fn spent_up_to(&self, block: Digest) -> HashSet<Digest> {
        let finals = self.finals.len() as u64;
        let open = self.back_from(block).take_while(|one| one.block().height > finals);
        open.flat_map(|one| &one.block().transactions).map(Transaction::id).collect()
    }

    /// Whether its parent is certified, one lower and from an earlier slot.
    fn fits(&self, block: &Block) -> bool {
        if block.parent == self.root {
            return block.height == 1;
        }
        let parent = self.certified.get(&block.parent).map(Certified::block);
        parent.is_some_and(|parent| block.height == parent.height + 1 && block.slot > parent.slot)
    }

    /// Certifies every block that now has enough votes. One block may make another one fit.
    fn certify(&mut self) {
        while let Some(one) = self.next_certified() {
            self.insert(one.clone());
            self.unsaved.push(one);
        }
    }

    fn next_certified(&self) -> Option<Certified> {
        let proposals = self.proposals.values().flatten();
        proposals.filter(|(digest, _)| !self.certified.contains_key(digest)).find_map(|(digest, proposal)| {
            let votes = self.votes.get(&proposal.block.slot)?.iter();
            let votes: Vec<_> = votes
                .filter(|(_, (block, _))| block == digest)
                .map(|(seat, (_, signature))| (*seat, signature.clone()))
                .collect();
            let is_certified = self.genesis.is_enough(votes.len()) && self.fits(&proposal.block);
            is_certified.then(|| Certified { proposal: proposal.clone(), votes })
        })
    }

    fn insert(&mut self, one: Certified) {
        let (height, block) = (one.block().height, one.block().digest());
        self.certified.insert(block, one);
        if height > self.tip.height || (height == self.tip.height && block < self.tip.block) {
            self.tip = Tip { height, block };
        }
        self.settle(block);
    }

    /// Makes blocks final if the new block `last` completes three in a row.
    fn settle(&mut self, last: Digest) {
        let three: Vec<&Block> = self.back_from(last).take(3).map(Certified::block).collect();
        let [third, second, first] = three[..] else { return };
        if third.slot != second.slot + 1 || second.slot != first.slot + 1 {
            return;
        }
        let height = self.finals.len() as u64;
        let chain =
            self.back_from(third.parent).map(Certified::block).take_while(|block| block.height > height);
        let mut chain: Vec<&Block> = chain.collect();
        chain.reverse();
        let Some(lowest) = chain.first() else { return };
        if lowest.parent != self.last_final().block {
            // More than a third of the validators cheat or forgot. This node keeps the blocks that it called final.
            tracing::error!(height, "two chains are final: validators have broken their word");
            return;
        }
        let settled: Vec<Digest> =
            chain.iter().flat_map(|block| &block.transactions).map(Transaction::id).collect();
        let finals: Vec<Digest> = chain.iter().map(|block| block.digest()).collect();
        self.waiting.retain(|id, _| !settled.contains(id));
        self.settled.extend(settled);
        self.finals.extend(finals);
    }
}

/// Whether proposals and votes of this slot are kept. Clocks differ by at most one slot.
fn is_near(slot: u64, now: u64) -> bool {
    (now.saturating_sub(SLOTS)..=now + 1).contains(&slot)
}

#[cfg(test)]
mod tests {
    use groundskeeper::net::Identity;

    use super::*;

    /// A network of ledgers in one process. Any message may be lost.
    struct World {
        keys: Vec<Identity>,
        ledgers: Vec<Ledger>,
        genesis: Genesis,
        seed: u64,
    }

    impl World {
        fn new(validators: usize, seed: u64) -> Self {
            let keys: Vec<Identity> = (0..validators).map(|_| Identity::generate()).collect();
            let validators = keys.iter().map(Identity::peer_id).collect();
            let genesis = Genesis { name: "test".into(), slot_ms: 100, validators };
            let ledgers = keys.iter().map(|_| Ledger::new(genesis.clone())).collect();
            Self { keys, ledgers, genesis, seed }
        }

        /// True in `percent` of cases, by the seed.
        fn chance(&mut self, percent: u64) -> bool {
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33) % 100 < percent
        }

        /// Runs one slot among the nodes that are `up`; `lost` percent of the messages do not arrive.
        fn slot(&mut self, slot: u64, up: &[usize], lost: u64) {
            let leader = self.genesis.seat(self.genesis.leader(slot)).map(usize::from).unwrap();
            if up.contains(&leader) {
                let proposal = Proposal::new(&self.keys[leader], self.ledgers[leader].propose(slot));
                for &to in up {
                    if to == leader || !self.chance(lost) {
                        self.ledgers[to].take_proposal(proposal.clone(), slot);
                    }
                }
            }
            let choices: Vec<_> =
                up.iter().filter_map(|&at| Some((at, self.ledgers[at].choose(slot)?))).collect();
            for (at, choice) in choices {
                let vote = Vote::new(&self.keys[at], at as u8, slot, choice);
                for &to in up {
                    if to == at || !self.chance(lost) {
                        self.ledgers[to].take_vote(vote.clone(), slot);
                    }
                }
            }
        }

        /// `to` requests the blocks that it lacks from `from`.
        fn fetch(&mut self, to: usize, from: usize, slot: u64) {
            let above = self.ledgers[to].last_final().height;
            let blocks: Vec<Certified> = self.ledgers[from].chain_above(above).into_iter().cloned().collect();
            for one in blocks {
                assert_ne!(self.ledgers[to].take_certified(one, slot), Taken::Bad);
            }
        }

        fn assert_agreed(&self) {
            for one in &self.ledgers {
                for other in &self.ledgers {
                    let common = one.finals.len().min(other.finals.len());
                    assert_eq!(one.finals[..common], other.finals[..common], "seed {}", self.seed);
                }
            }
        }
    }

    #[test]
    fn without_losses_a_chain_grows_by_a_block_a_slot_and_settles_transactions_once() {
        let mut world = World::new(4, 1);
        let payment = Transaction::new(&world.keys[0], world.keys[1].peer_id(), 7, 1);
        for ledger in &mut world.ledgers {
            assert_eq!(ledger.take_transaction(payment.clone(), 1), Taken::New);
            assert_eq!(ledger.take_transaction(payment.clone(), 1), Taken::Useless);
        }
        for slot in 1..=10 {
            world.slot(slot, &[0, 1, 2, 3], 0);
        }
        world.assert_agreed();
        for ledger in &world.ledgers {
            assert_eq!((ledger.tip().height, ledger.last_final().height), (10, 9));
            assert_eq!(ledger.wallet(&payment.to), (7, vec![(1, &payment)]));
            assert_eq!(ledger.wallet(&payment.from).0, -7);
            assert_eq!(ledger.waiting().count(), 0);
        }
    }

    #[test]
    fn two_of_four_certify_nothing_and_three_go_on() {
        let mut world = World::new(4, 1);
        (1..=8).for_each(|slot| world.slot(slot, &[0, 1], 0));
        assert_eq!(world.ledgers[0].tip().height, 0);
        (9..=20).for_each(|slot| world.slot(slot, &[0, 1, 2], 0));
        assert!(world.ledgers[2].last_final().height > 0);
        // The node that was away gets it from one of them.
        world.fetch(3, 0, 20);
        assert_eq!(world.ledgers[3].last_final(), world.ledgers[0].last_final());
        world.assert_agreed();
    }

    #[test]
    fn slots_with_a_gap_between_them_decide_nothing() {
        let mut world = World::new(4, 1);
        let all = [0, 1, 2, 3];
        for (slot, last_final) in [(1, 0), (2, 0), (4, 0), (5, 0), (6, 4), (8, 4), (9, 4), (10, 7)] {
            world.slot(slot, &all, 0);
            assert!(
                world.ledgers.iter().all(|ledger| ledger.last_final().height == last_final),
                "slot {slot}"
            );
        }
    }

    #[test]
    fn who_has_seen_a_longer_chain_votes_for_no_shorter_one() {
        let mut world = World::new(4, 1);
        (1..=2).for_each(|slot| world.slot(slot, &[0, 1, 2], 0));
        let first = world.ledgers[0].chain_above(0)[0].clone();
        assert_eq!(world.ledgers[3].take_certified(first, 2), Taken::New);
        // This node leads slot 3 and has not seen the second block.
        let short = Proposal::new(&world.keys[3], world.ledgers[3].propose(3));
        assert_eq!(short.block.height, 2);
        assert!(world.ledgers[3].take_proposal(short.clone(), 3) == Taken::New);
        assert_eq!(world.ledgers[3].choose(3), Some(short.block.digest()));
        assert_eq!(world.ledgers[0].take_proposal(short, 3), Taken::New);
        assert_eq!(world.ledgers[0].choose(3), None);
    }

    #[test]
    fn whatever_is_lost_nobody_disagrees_about_final_blocks_and_all_go_on_afterwards() {
        for seed in 0..8 {
            let mut world = World::new(4, seed);
            let mut slot = 0;
            for _ in 0..40 {
                slot += 1;
                let lost = 40;
                world.slot(slot, &[0, 1, 2, 3], lost);
                let (to, from) = (slot as usize % 4, (slot as usize / 4) % 4);
                if world.chance(30) {
                    world.fetch(to, from, slot);
                }
                world.assert_agreed();
            }
            let before = world.ledgers.iter().map(|ledger| ledger.last_final().height).max().unwrap();
            for _ in 0..8 {
                slot += 1;
                for at in 0..16 {
                    world.fetch(at / 4, at % 4, slot);
                }
                world.slot(slot, &[0, 1, 2, 3], 0);
            }
            world.assert_agreed();
            assert!(world.ledgers.iter().all(|ledger| ledger.last_final().height > before), "seed {seed}");
        }
    }

    #[test]
    fn what_is_forged_is_bad_and_counts_for_nothing() {
        let mut world = World::new(4, 1);
        let stranger = Identity::generate();
        let block = world.ledgers[0].propose(5);
        let forged = Proposal::new(&stranger, block.clone());
        assert_eq!(world.ledgers[0].take_proposal(forged, 5), Taken::Bad);
        // The second node leads slot 5.
        let proposal = Proposal::new(&world.keys[1], block);
        assert_eq!(world.ledgers[0].take_proposal(proposal.clone(), 5), Taken::New);
        let digest = proposal.block.digest();
        let stolen = Vote::new(&stranger, 2, 5, digest);
        assert_eq!(world.ledgers[0].take_vote(stolen, 5), Taken::Bad);
        let mut votes: Vec<_> = (0..2).map(|at| Vote::new(&world.keys[at], at as u8, 5, digest)).collect();
        let certified = |votes: &[Vote]| Certified {
            proposal: proposal.clone(),
            votes: votes.iter().map(|vote| (vote.seat, vote.signature.clone())).collect(),
        };
        // Two of four votes are not enough, and a vote that is given twice counts once.
        assert_eq!(world.ledgers[3].take_certified(certified(&votes), 5), Taken::Bad);
        votes.push(votes[0].clone());
        assert_eq!(world.ledgers[3].take_certified(certified(&votes), 5), Taken::Bad);
        votes[2] = Vote::new(&world.keys[2], 2, 5, digest);
        assert_eq!(world.ledgers[3].take_certified(certified(&votes), 5), Taken::New);
        assert_eq!(world.ledgers[3].tip().height, 1);
    }

    #[test]
    fn what_was_saved_is_restored_with_its_final_blocks() {
        let mut world = World::new(4, 1);
        (1..=6).for_each(|slot| world.slot(slot, &[0, 1, 2, 3], 0));
        let saved = world.ledgers[0].take_unsaved();
        assert_eq!(saved.len(), 6);
        let mut again = Ledger::new(world.genesis.clone());
        assert!(saved.iter().all(|one| again.restore(one.clone())));
        assert_eq!(
            (again.tip(), again.last_final()),
            (world.ledgers[0].tip(), world.ledgers[0].last_final())
        );
        assert!(!Ledger::new(world.genesis.clone()).restore(saved[3].clone()), "it has no parent there");
    }
}
