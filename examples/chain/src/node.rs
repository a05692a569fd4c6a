//! A node of the chain: how it handles messages, what it does in each slot, how it catches up. The ledger owns the
//! rules, and the host owns the connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use groundskeeper::book::{AddressSource, Book, LearnOutcome};
use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::config::{Bootstrap, Config};
use groundskeeper::data::DataFolder;
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::net::{Ask, Audience, BroadcastVerdict, Handlers, Net};
use groundskeeper::node::{Node, NodeBuilder, ShutdownStep};
use groundskeeper::peer::{NetGroup, PeerId};
use groundskeeper_sdk::span::Span;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::block::{Certified, Genesis, Proposal, Transaction, Vote};
use crate::ledger::{Ledger, Taken, Tip};
use crate::log::{ChainLog, Record};
use crate::upkeep::Upkeep;
use crate::wire::{Above, AtHeight, NewPeer, TipUpdate, Wallet, decode, encode, fitting, kind, topic};

/// How long a peer may take to echo a message.
const ECHO_WITHIN: Duration = Duration::from_secs(3);

/// A node without news asks its peers after this many slots: after a cut it may be that no proposer is left.
const SLOTS_BETWEEN_LOOKS: u32 = 8;

/// Own broadcasts per minute. Each slot has proposals, votes and tips, and slots may be short.
const BROADCASTS: u32 = 6000;

/// A node's addresses, and the peers to connect to at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub bootstrap: Vec<Bootstrap>,
    /// Time between two ticks of the host.
    pub interval: Duration,
}

/// How a node without a log learns its chain.
#[derive(Clone, Debug)]
pub enum Origin {
    Genesis(Genesis),
    /// The name of its network, which is the digest of the genesis. The node requests the rest.
    Network(String),
    /// The node has a log.
    Log,
}

/// A command to a running node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Send {
        to: PeerId,
        amount: u64,
    },
    /// The balance of a wallet according to this node.
    Wallet(PeerId),
    /// Sends a request of this kind to a peer.
    Ask(String, Option<PeerId>),
    Peers,
    Journal,
}

/// State that the handlers share with the slot loop.
struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    clock: Arc<dyn Clock>,
    /// The ledger has changed.
    news: Notify,
    /// Another node has more blocks.
    behind: Notify,
    ahead: Mutex<Option<PeerId>>,
    /// Set once the node has started.
    book: OnceLock<Arc<Book>>,
}

impl Shared {
    fn slot(&self) -> u64 {
        self.ledger.lock().genesis().slot_at(self.unix_ms())
    }

    fn unix_ms(&self) -> u64 {
        self.clock.unix().as_millis() as u64
    }

    fn is_ahead(&self, peer: PeerId) {
        *self.ahead.lock() = Some(peer);
        self.behind.notify_one();
    }
}

/// A started node. It only answers until `run`.
pub struct ChainNode {
    node: Node,
    shared: Arc<Shared>,
    log: ChainLog,
    seat: Option<u8>,
    /// The last slots in which this node has proposed and voted.
    proposed: u64,
    voted: u64,
    told: Tip,
    told_final: u64,
    is_announced: bool,
}

impl ChainNode {
    /// Starts a node on the current runtime, which must be a multi-threaded one.
    ///
    /// # Errors
    /// The reason why it cannot start, with the fix. Nothing is running then.
    pub async fn start(settings: &Settings, origin: Origin) -> Result<Self> {
        let path = settings.data_dir.join("chain.log");
        let genesis = match origin {
            Origin::Network(network) if !path.exists() => Some(fetch_genesis(settings, &network).await?),
            Origin::Network(_) | Origin::Log => None,
            Origin::Genesis(genesis) => Some(genesis),
        };
        // The folder is locked before the log is read.
        let folder = DataFolder::open(&settings.data_dir)?;
        let (log, records) = match (ChainLog::open(&path)?, &genesis) {
            (Some(found), _) => found,
            (None, Some(genesis)) => {
                genesis.check().map_err(anyhow::Error::msg)?;
                (ChainLog::create(&path, genesis)?, vec![Record::Genesis(genesis.clone())])
            }
            (None, None) => {
                bail!("{} is not there; give a genesis, or the name of a network", path.display())
            }
        };
        let (ledger, proposed, voted) = remembered(records)?;
        let known = ledger.genesis();
        let differs = genesis.is_some_and(|genesis| genesis != *known);
        ensure!(!differs, "{} is the log of {}, which has another genesis", path.display(), known.network());

        let shared = Arc::new(Shared {
            ledger: Arc::new(Mutex::new(ledger)),
            clock: SystemClock::new(),
            news: Notify::new(),
            behind: Notify::new(),
            ahead: Mutex::default(),
            book: OnceLock::new(),
        });
        let genesis = shared.ledger.lock().genesis().clone();
        let upkeep = Upkeep { ledger: Arc::clone(&shared.ledger), patience: Span::mins(10) };
        let node = builder(settings, &genesis.network())
            .data_folder(folder)
            .clock(Arc::clone(&shared.clock))
            .handlers(handlers(&shared))
            .phase("chain-upkeep", upkeep, Schedule::every(2))
            .start()
            .await?;
        _ = shared.book.set(Arc::clone(&node.state().book));
        let (told, told_final) = {
            let ledger = shared.ledger.lock();
            (ledger.tip(), ledger.last_final().height)
        };
        let seat = genesis.seat(&node.id());
        Ok(Self { node, shared, log, seat, proposed, voted, told, told_final, is_announced: false })
    }

    /// Its address and its blocks: the first line of a node's output.
    pub fn introduction(&self) -> Value {
        let ledger = self.shared.ledger.lock();
        json!({
            "event": "started",
            "id": self.node.id(),
            "address": self.node.as_bootstrap().map(|address| address.to_string()),
            "network": ledger.genesis().network(),
            "genesis": ledger.genesis().digest().to_string(),
            "validator": self.seat.is_some(),
            "finals": ledger.finals_above(0).map(|block| block.digest().to_string()).collect::<Vec<_>>(),
        })
    }

    /// Takes part in the chain until `stop`, then shuts down in order. Reports events and results of commands as JSON.
    ///
    /// # Errors
    /// If the log cannot be written: a node that cannot remember must not vote. It has shut down in order then, too.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut tell: impl FnMut(Value),
        stop: CancellationToken,
    ) -> Result<Vec<ShutdownStep>> {
        let net = Arc::clone(self.node.net());
        let pool = Arc::clone(&self.node.state().pool);
        let peers = move || pool.peers().into_iter().map(|(_, naming)| naming.id).collect();
        let catching_up = tokio::spawn(catch_up(net, peers, Arc::clone(&self.shared), stop.clone()));
        let ended = loop {
            if let Err(error) = self.attend(&mut tell) {
                break Err(error);
            }
            let slot_ms = u64::from(self.shared.ledger.lock().genesis().slot_ms);
            let next_slot = Duration::from_millis(slot_ms - self.shared.unix_ms() % slot_ms);
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = self.shared.news.notified() => {}
                () = tokio::time::sleep(next_slot) => {}
                Some(command) = commands.recv() => tell(self.obey(command).await),
            }
        };
        stop.cancel();
        catching_up.await?;
        let steps = self.node.shutdown(Config::default().shutdown.deadline).await;
        ended.map(|()| steps)
    }

    /// Does the node's work for this slot, once. It writes every promise to the log before it sends it.
    fn attend(&mut self, tell: &mut impl FnMut(Value)) -> Result<()> {
        let key = self.node.identity().clone();
        loop {
            let now = self.shared.slot();
            let (unsaved, block, choice) = {
                let mut ledger = self.shared.ledger.lock();
                let leads = *ledger.genesis().leader(now) == key.peer_id() && self.proposed < now;
                let block = leads.then(|| ledger.propose(now));
                let votes = self.seat.filter(|_| self.voted < now && block.is_none());
                let choice = votes.and_then(|seat| Some((seat, ledger.choose(now)?)));
                (ledger.take_unsaved(), block, choice)
            };
            let mut records: Vec<Record> = unsaved.into_iter().map(Record::Certified).collect();
            records.extend(block.is_some().then_some(Record::Proposed(now)));
            records.extend(choice.is_some().then_some(Record::Voted(now)));
            if !records.is_empty() {
                tokio::task::block_in_place(|| self.log.append(&records))?;
            }
            if let Some(block) = block {
                self.proposed = now;
                let proposal = Proposal::new(&key, block);
                self.broadcast(topic::PROPOSAL, &proposal);
                self.shared.ledger.lock().take_proposal(proposal, now);
            } else if let Some((seat, block)) = choice {
                self.voted = now;
                let vote = Vote::new(&key, seat, now, block);
                self.broadcast(topic::VOTE, &vote);
                self.shared.ledger.lock().take_vote(vote, now);
            } else {
                break;
            }
        }
        self.tell_news(tell);
        Ok(())
    }

    /// Reports a new tip and new final blocks, and sends the tip to the peers.
    fn tell_news(&mut self, tell: &mut impl FnMut(Value)) {
        if !self.is_announced && self.node.state().pool.live() > 0 {
            let addresses = self.node.net().local_addrs();
            self.broadcast(topic::PEER, &NewPeer { id: self.node.id(), addresses });
            self.is_announced = true;
        }
        let (tip, last_final, finals) = {
            let ledger = self.shared.ledger.lock();
            let finals: Vec<Value> = ledger
                .finals_above(self.told_final)
                .map(|block| {
                    let transactions: Vec<_> =
                        block.transactions.iter().map(|one| one.id().to_string()).collect();
                    json!({
                        "event": "final",
                        "height": block.height,
                        "block": block.digest().to_string(),
                        "transactions": transactions,
                    })
                })
                .collect();
            (ledger.tip(), ledger.last_final().height, finals)
        };
        finals.into_iter().for_each(&mut *tell);
        if tip == self.told && last_final == self.told_final {
            return;
        }
        (self.told, self.told_final) = (tip, last_final);
        let Tip { height, block } = tip;
        tell(json!({ "event": "tip", "height": height, "block": block.to_string(), "final": last_final }));
        self.broadcast(topic::TIP, &TipUpdate { height, block, finals: last_final });
    }

    fn broadcast<T: Serialize>(&self, topic: &str, what: &T) {
        // A node without peers reaches no other; newcomers ask for blocks.
        if let Err(error) = self.node.net().broadcast(topic, &encode(what), Audience::All) {
            tracing::warn!(topic, %error, "not broadcast");
        }
    }

    async fn obey(&mut self, command: Command) -> Value {
        match command {
            Command::Send { to, amount } => {
                let nonce = self.shared.clock.unix().as_nanos() as u64;
                let transaction = Transaction::new(self.node.identity(), to, amount, nonce);
                let now = self.shared.slot();
                let taken = self.shared.ledger.lock().take_transaction(transaction.clone(), now);
                if taken == Taken::New {
                    self.broadcast(topic::MESSAGE, &transaction);
                }
                json!({ "event": "sent", "transaction": transaction.id().to_string(), "taken": taken == Taken::New })
            }
            Command::Wallet(of) => told_wallet("wallet", &wallet(&self.shared.ledger.lock(), of)),
            Command::Ask(kind, argument) => match self.ask_somebody(&kind, argument).await {
                Ok(answer) => answer,
                Err(error) => json!({ "event": kind, "error": format!("{error:#}") }),
            },
            Command::Peers => {
                let (peers, known) = (self.node.peers(), self.node.state().book.len());
                json!({ "event": "peers", "connected": peers, "addresses": known })
            }
            Command::Journal => {
                let records = self.node.state().journal.select(100, |_| true);
                let line = |record: groundskeeper::journal::Record| {
                    let address = record.address.map(|address| address.to_string()).unwrap_or_default();
                    format!("{:?} {address}: {} ({})", record.what, record.outcome, record.reason)
                };
                json!({ "event": "journal", "records": records.into_iter().map(line).collect::<Vec<_>>() })
            }
        }
    }

    /// Sends one request of the given kind to any peer that answers it, to show one to people.
    async fn ask_somebody(&self, kind: &str, argument: Option<PeerId>) -> Result<Value> {
        let net = self.node.net();
        Ok(match kind {
            kind::GENESIS => {
                json!({ "event": kind, "answer": ask::<Genesis>(net, None, kind, &()).await? })
            }
            kind::BLOCK => {
                let blocks: Vec<Certified> = ask(net, None, kind, &Above(0)).await?;
                let digests = blocks.iter().map(|one| one.block().digest().to_string());
                json!({ "event": kind, "answer": digests.collect::<Vec<_>>() })
            }
            kind::MEMPOOL => {
                let waiting: Vec<Transaction> = ask(net, None, kind, &()).await?;
                let ids = waiting.iter().map(|one| one.id().to_string());
                json!({ "event": kind, "answer": ids.collect::<Vec<_>>() })
            }
            kind::FINALIZED => {
                let finals: Vec<AtHeight> = ask(net, None, kind, &Above(0)).await?;
                json!({ "event": kind, "answer": shown(&finals) })
            }
            kind::WALLET => {
                let of = argument.unwrap_or(self.node.id());
                told_wallet("asked-wallet", &ask(net, None, kind, &of).await?)
            }
            "ping" => {
                let peer = *self.node.peers().first().context("there is nobody to ping")?;
                let echo = net.request(peer, kind, b"chain", ECHO_WITHIN).await?;
                json!({ "event": kind, "from": peer, "is_echo": &echo[..] == b"chain" })
            }
            "peers" => json!({ "event": "asked-peers", "is_asked": net.ask_for_addresses() }),
            other => bail!("no request is called {other:?}"),
        })
    }
}

/// The content of a log: the ledger, and the last slots in which its node has proposed and voted.
fn remembered(records: Vec<Record>) -> Result<(Ledger, u64, u64)> {
    let mut records = records.into_iter();
    let Some(Record::Genesis(genesis)) = records.next() else {
        bail!("the log does not begin with a genesis")
    };
    genesis.check().map_err(anyhow::Error::msg)?;
    let (mut ledger, mut proposed, mut voted) = (Ledger::new(genesis), 0, 0);
    for record in records {
        match record {
            Record::Genesis(_) => bail!("the log has a second genesis"),
            Record::Certified(one) => ensure!(ledger.restore(one), "a block in the log has no parent there"),
            Record::Proposed(slot) => proposed = slot,
            Record::Voted(slot) => voted = slot,
        }
    }
    Ok((ledger, proposed, voted))
}

/// The settings that every node of the chain has, whatever it does.
fn builder(settings: &Settings, network: &str) -> NodeBuilder {
    let mut config = Config::default();
    config.broadcasts.per_window = BROADCASTS;
    Node::builder()
        .config(config)
        .application(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
        .network(network)
        .listen(settings.listen.clone())
        .bootstrap(settings.bootstrap.clone())
        .interval(settings.interval)
        // This example is for one machine.
        .private_network()
}

/// Asks the network for the genesis with its name. The node has no chain yet.
async fn fetch_genesis(settings: &Settings, network: &str) -> Result<Genesis> {
    let node = builder(settings, network).data_dir(&settings.data_dir).start().await?;
    let genesis = loop {
        node.until_connected(1).await;
        let answer = ask::<Genesis>(node.net(), None, kind::GENESIS, &()).await;
        // The name is the digest, so a forged genesis does not match.
        if let Ok(genesis) = answer
            && genesis.network() == network
        {
            break genesis;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    node.shutdown(Config::default().shutdown.deadline).await;
    Ok(genesis)
}

fn handlers(shared: &Arc<Shared>) -> Handlers {
    let handlers = Handlers::new();
    let handlers = hears(handlers, shared, topic::MESSAGE, |shared, _, transaction| {
        let now = shared.slot();
        shared.ledger.lock().take_transaction(transaction, now)
    });
    let handlers = hears(handlers, shared, topic::PROPOSAL, |shared, from, proposal| {
        let now = shared.slot();
        let mut ledger = shared.ledger.lock();
        let taken = ledger.take_proposal(proposal, now);
        if ledger.is_behind() {
            shared.is_ahead(from);
        }
        taken
    });
    let handlers = hears(handlers, shared, topic::VOTE, |shared, _, vote| {
        let now = shared.slot();
        shared.ledger.lock().take_vote(vote, now)
    });
    let handlers = hears(handlers, shared, topic::TIP, |shared, from, TipUpdate { height, finals, .. }| {
        let (ours, our_finals) = {
            let ledger = shared.ledger.lock();
            (ledger.tip().height, ledger.last_final().height)
        };
        if height > ours || finals > our_finals {
            shared.is_ahead(from);
        }
        // A tip says only where the sender's chain ends, so it is not passed on.
        Taken::Useless
    });
    let handlers = hears(handlers, shared, topic::PEER, |shared, _, NewPeer { id, addresses }| {
        let Some(book) = shared.book.get() else { return Taken::Useless };
        let learn = |at: SocketAddr| book.learn(at, Some(id), AddressSource::Told(NetGroup::of(at.ip())));
        let is_new = addresses.into_iter().take(8).filter(|at| learn(*at) == LearnOutcome::New).count() > 0;
        if is_new { Taken::New } else { Taken::Useless }
    });
    let handlers = answers(handlers, shared, kind::GENESIS, |ledger, ()| encode(ledger.genesis()));
    let handlers = answers(handlers, shared, kind::BLOCK, |ledger, Above(height)| {
        encode(&fitting(ledger.chain_above(height)))
    });
    let handlers = answers(handlers, shared, kind::MEMPOOL, |ledger, ()| encode(&fitting(ledger.waiting())));
    let handlers = answers(handlers, shared, kind::FINALIZED, |ledger, Above(height)| {
        let finals = ledger.finals_above(height);
        let all =
            finals.flat_map(|block| block.transactions.iter().map(|one| AtHeight(block.height, one.clone())));
        encode(&fitting(all))
    });
    answers(handlers, shared, kind::WALLET, |ledger, of| encode(&wallet(ledger, of)))
}

/// Handles broadcasts of one topic. A payload that is no `T` is the sender's fault.
fn hears<T: DeserializeOwned>(
    handlers: Handlers,
    shared: &Arc<Shared>,
    topic: &str,
    take: impl Fn(&Shared, PeerId, T) -> Taken + Send + Sync + 'static,
) -> Handlers {
    let shared = Arc::clone(shared);
    handlers.on_broadcast(topic, move |from, payload| {
        let taken = decode(payload).map_or(Taken::Bad, |what| take(&shared, *from, what));
        match taken {
            Taken::New => {
                shared.news.notify_one();
                BroadcastVerdict::Relay
            }
            Taken::Useless => BroadcastVerdict::Keep,
            Taken::Bad => BroadcastVerdict::Punish,
        }
    })
}

/// Answers requests of one kind from the ledger.
fn answers<T: DeserializeOwned>(
    handlers: Handlers,
    shared: &Arc<Shared>,
    kind: &str,
    answer: impl Fn(&Ledger, T) -> Vec<u8> + Copy + Send + Sync + 'static,
) -> Handlers {
    let shared = Arc::clone(shared);
    handlers.on_request(kind, move |_, payload| {
        let shared = Arc::clone(&shared);
        async move {
            let question = decode(&payload).ok_or("this is not how it is asked")?;
            Ok(answer(&shared.ledger.lock(), question).into())
        }
    })
}

/// Fetches certified blocks from peers that have more of them. Also fetches the waiting transactions of each newcomer:
/// those that were sent while it was alone have reached no other node.
async fn catch_up(
    net: Arc<Net>,
    peers: impl Fn() -> Vec<PeerId>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let look = Duration::from_millis(shared.ledger.lock().genesis().slot_ms.into()) * SLOTS_BETWEEN_LOOKS;
    let (mut round, mut met) = (0, BTreeSet::new());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.behind.notified() => {}
            () = tokio::time::sleep(look) => {}
        }
        let mut asked: Vec<PeerId> = shared.ahead.lock().take().into_iter().collect();
        let mut others = peers();
        let connected: BTreeSet<PeerId> = others.iter().copied().collect();
        for &peer in connected.difference(&met) {
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = fetch_transactions(&net, peer, &shared) => taken,
            };
            if let Err(error) = taken {
                tracing::debug!(%peer, %error, "no transactions");
            }
        }
        met = connected;
        // Another peer each time: the first one may be as far behind as this node.
        let first = round % others.len().max(1);
        others.rotate_left(first);
        round += 1;
        asked.extend(others);
        for peer in asked {
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = fetch_blocks(&net, peer, &shared) => fetched,
            };
            match fetched {
                Ok(0) => {}
                Ok(_) => {
                    shared.news.notify_one();
                    break;
                }
                Err(error) => tracing::debug!(%peer, %error, "no blocks"),
            }
        }
    }
}

/// Adds the blocks of one peer's chain above our last final one, in batches. Returns how many were new.
async fn fetch_blocks(net: &Net, peer: PeerId, shared: &Shared) -> Result<usize> {
    let mut above = shared.ledger.lock().last_final().height;
    let mut new = 0;
    loop {
        let batch: Vec<Certified> = ask(net, Some(peer), kind::BLOCK, &Above(above)).await?;
        let Some(last) = batch.last() else { return Ok(new) };
        ensure!(last.block().height > above, "{peer} tells the same blocks again");
        above = last.block().height;
        let now = shared.slot();
        let mut ledger = shared.ledger.lock();
        for one in batch {
            match ledger.take_certified(one, now) {
                Taken::New => new += 1,
                Taken::Useless => {}
                Taken::Bad => bail!("{peer} tells of blocks that nobody has certified"),
            }
        }
    }
}

/// Adds the transactions that wait at one peer, and sends new ones to all other peers.
async fn fetch_transactions(net: &Net, peer: PeerId, shared: &Shared) -> Result<()> {
    let waiting: Vec<Transaction> = ask(net, Some(peer), kind::MEMPOOL, &()).await?;
    let now = shared.slot();
    for transaction in waiting {
        let payload = encode(&transaction);
        if shared.ledger.lock().take_transaction(transaction, now) == Taken::New {
            net.broadcast(topic::MESSAGE, &payload, Audience::AllBut(&[peer]))?;
        }
    }
    Ok(())
}

/// Sends a request to `peer`, or to any peer that can answer. The only place where the chain sends requests.
async fn ask<A: DeserializeOwned>(
    net: &Net,
    peer: Option<PeerId>,
    kind: &str,
    question: &impl Serialize,
) -> Result<A> {
    let payload = encode(question);
    // Repeating a request changes nothing.
    let asking = Ask::new(kind, &payload).idempotent();
    let answer = match peer {
        Some(peer) => net.ask(asking.among(&[peer])).await?,
        None => net.ask(asking).await?,
    };
    decode(&answer.payload).with_context(|| format!("{} answered {kind:?} with something else", answer.from))
}

fn wallet(ledger: &Ledger, of: PeerId) -> Wallet {
    let (balance, transactions) = ledger.wallet(&of);
    let transactions = transactions.into_iter().map(|(height, one)| AtHeight(height, one.clone()));
    Wallet { balance, transactions: fitting(transactions) }
}

fn told_wallet(event: &str, wallet: &Wallet) -> Value {
    let balance = wallet.balance.to_string();
    json!({ "event": event, "balance": balance, "transactions": shown(&wallet.transactions) })
}

fn shown(finals: &[AtHeight]) -> Vec<Value> {
    let one = |AtHeight(height, transaction): &AtHeight| {
        let Transaction { from, to, amount, .. } = transaction;
        json!({ "height": height, "id": transaction.id().to_string(), "from": from, "to": to, "amount": amount })
    };
    finals.iter().map(one).collect()
}
