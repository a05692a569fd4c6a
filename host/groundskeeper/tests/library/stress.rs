//! Many threads at once: routing, queues, the pool, and all of it together. Sizes are those of the stress tests of the
//! code that this host replaces, and ten times as many. Nothing is asserted about how long it took.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper::broadcasts::BroadcastLimits;
use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::flow::{
    AttemptEnd, Backpressure, NotQueued, Outbox, OutboxLimits, Performance, Priority, QueuedFrame,
    RequestQueue, Route, TimeoutSettings, TrafficReport,
};
use groundskeeper::journal::{Cause, Initiator, Journal, JournalLimits};
use groundskeeper::net::{
    Ask, AskError, Audience, BroadcastVerdict, Handlers, Identity, Net, NetConfig, RequestError,
};
use groundskeeper::node::{NodeLimits, NodeState};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Denied, Direction, Goodbye, Link, PeerFacts, Pool, PoolLimits, Removal, Slot};
use parking_lot::Mutex;
use tokio::io::duplex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Scrambles a number: splitmix64's last step.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn address(n: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n as u32), 9000))
}

fn id(n: u64) -> PeerId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    PeerId::from_bytes(bytes)
}

/// Waits for what the last tasks still have to do.
fn until(what: &str, done: impl Fn() -> bool) {
    // Real time ends a wait that would never end; nothing depends on how much of it there was.
    let clock = SystemClock::new();
    while !done() {
        assert!(clock.mono() < PATIENCE, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// A link to nobody.
struct Quiet;

impl Link for Quiet {
    fn ping(&self) {}

    fn close(&self, _: &Goodbye) {}
}

/// Nobody is left and nothing is lost: every place of the pool can be taken once, by as many as there are places.
fn no_slot_leaked(pool: &Arc<Pool>, journal: &Journal) {
    until("every connection has let go of its slot", || pool.closing() == 0);
    assert_eq!(pool.removals(), journal.disconnects());
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let attach = |n: u32| {
        let n = 1_000_000 + u64::from(n);
        let facts = PeerFacts { id: id(n), address: address(n), direction: Direction::Inbound };
        pool.attach(facts, Arc::clone(&link))
    };
    let free = pool.capacity() - pool.live();
    let slots: Vec<Slot> = (0..free).map(|n| attach(n).expect("a free place")).collect();
    assert!(matches!(attach(free), Err(Denied::Full(_) | Denied::Limit(_))), "more places than there are");
    assert_eq!(pool.live(), pool.capacity());
    drop(slots);
    assert_eq!(pool.live(), pool.capacity() - free);
    assert_eq!(pool.removals(), journal.disconnects());
}

const KIND: &str = "echo";
const TOPIC: &str = "news";

/// A network, what it works on, and what it was asked and told: how often each number was.
struct Party {
    net: Net,
    state: NodeState,
    asked: Arc<Mutex<HashMap<u64, u32>>>,
    told: Arc<Mutex<HashMap<u64, u32>>>,
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("payloads are numbers"))
}

impl Party {
    /// Call inside a runtime.
    fn start(capacity: u32) -> Self {
        let identity = Identity::generate();
        let limits = NodeLimits {
            pool: PoolLimits::only_capacity(capacity),
            broadcasts: BroadcastLimits { per_window: u32::MAX, ..BroadcastLimits::default() },
            ..NodeLimits::for_connections(capacity)
        };
        let state = NodeState::new(identity.peer_id(), limits, SystemClock::new(), None);
        let (asked, told) = <(Arc<Mutex<HashMap<u64, u32>>>, Arc<Mutex<HashMap<u64, u32>>>)>::default();
        let (asks, tells) = (Arc::clone(&asked), Arc::clone(&told));
        let handlers = Handlers::new()
            .on_request(KIND, move |_, payload| {
                let n = number(&payload);
                *asks.lock().entry(n).or_default() += 1;
                async move {
                    if n.is_multiple_of(3) {
                        // So that some answers are given by tasks of their own.
                        tokio::task::yield_now().await;
                    }
                    Ok(Bytes::copy_from_slice(&mix(n).to_le_bytes()))
                }
            })
            .on_broadcast(TOPIC, move |_, payload| {
                *tells.lock().entry(number(payload)).or_default() += 1;
                BroadcastVerdict::Keep
            });
        // How long an answer takes is not judged here: under a sanitizer, or beside other work, it takes longer.
        let slow = TimeoutSettings { base: PATIENCE, least: None, most: PATIENCE, adaptive: false };
        let timeouts = [(Performance::ALL_KINDS.to_owned(), slow)].into();
        let performance = Performance { timeouts, ..Performance::default() };
        let config = NetConfig {
            network: "stress".into(),
            listen: Vec::new(),
            performance,
            broadcasts_per_second_per_peer: u32::MAX,
            ..NetConfig::default()
        };
        let net = Net::start(config, &identity, state.clone(), handlers).expect("it listens nowhere");
        Self { net, state, asked, told }
    }

    fn id(&self) -> PeerId {
        self.state.pool.self_id()
    }
}

/// One that asks, and those it asks.
struct Circle {
    runtime: Runtime,
    here: Party,
    others: Vec<Party>,
}

/// What became of what one thread asked.
#[derive(Default)]
struct Counts {
    answered: Vec<u64>,
    nobody: u64,
    not_answered: u64,
}

impl Counts {
    fn add(&mut self, n: u64, ended: Result<Bytes, AskError>) {
        match ended {
            Ok(payload) => {
                assert_eq!(number(&payload), mix(n), "the answer to another question");
                self.answered.push(n);
            }
            Err(AskError::NoPeerAvailable { .. }) => self.nobody += 1,
            Err(AskError::NoAnswer { asked: 1, last }) => {
                let lost = matches!(
                    last,
                    RequestError::Disconnected
                        | RequestError::NotQueued(NotQueued::Ended)
                        | RequestError::Busy
                        | RequestError::TooManyPending
                );
                assert!(lost, "{last}");
                self.not_answered += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.answered.extend(other.answered);
        self.nobody += other.nobody;
        self.not_answered += other.not_answered;
        self
    }
}

impl Circle {
    /// `others` networks, all connected to one.
    fn of(others: usize) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let here = Party::start(64);
        let others = (0..others).map(|_| Party::start(4)).collect();
        drop(entered);
        let circle = Self { runtime, here, others };
        (0..circle.others.len()).for_each(|at| circle.connect(at));
        circle
    }

    /// Until there is a connection to the `at`th: the other side may not have noticed yet that the last one is gone.
    fn connect(&self, at: usize) {
        let other = &self.others[at];
        let both = async {
            loop {
                let (near, far) = duplex(8 * 1024);
                let to =
                    PeerFacts { id: other.id(), address: address(at as u64), direction: Direction::Outbound };
                let from = PeerFacts {
                    id: self.here.id(),
                    address: address(1000 + at as u64),
                    direction: Direction::Inbound,
                };
                let (here, there) = tokio::join!(self.here.net.adopt(near, to), other.net.adopt(far, from));
                if here.is_ok() && there.is_ok() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let limited = async { timeout(PATIENCE, both).await };
        self.runtime.block_on(limited).expect("nothing keeps two networks apart");
    }

    /// Ends the connection to the `at`th, if there is one, and makes another.
    fn reconnect(&self, at: usize) {
        let pool = &self.here.state.pool;
        if let Some(key) = pool.find(&self.others[at].id()) {
            pool.disconnect(key, Removal::new(Initiator::Application, Cause::OwnerDropped, "stress"), None);
        }
        self.connect(at);
    }

    /// Has `threads` do `each` operations at once while connections come and go. What they counted, together.
    fn while_reconnecting(
        &self,
        threads: u64,
        each: u64,
        work: impl Fn(&Handle, u64, &mut Counts) + Sync,
    ) -> Counts {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for round in 0.. {
                    if round >= 20 && over.load(Relaxed) {
                        break;
                    }
                    self.reconnect(round % self.others.len());
                }
            });
            let (work, handle) = (&work, self.runtime.handle());
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut counts = Counts::default();
                        (thread * each..(thread + 1) * each).for_each(|n| work(handle, n, &mut counts));
                        counts
                    })
                })
                .collect();
            let counts: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            // Also if one has panicked: nothing else ends the churn.
            over.store(true, Relaxed);
            churn.join().expect("connections come back");
            let counts = counts.into_iter().map(|counts| counts.expect("no worker panics"));
            counts.reduce(Counts::merge).expect("there are workers")
        })
    }

    /// Nothing is lost, doubled or left over.
    fn settle(self, asks: u64, counts: &Counts) {
        assert_eq!(counts.answered.len() as u64 + counts.nobody + counts.not_answered, asks);
        let Self { runtime, here, others } = self;
        until("no request is open", || here.net.traffic().pending == 0);
        let kinds = here.net.kinds();
        let kind = kinds.iter().find(|kind| &*kind.kind == KIND);
        let ends = kind.map_or([0; AttemptEnd::COUNT], |kind| kind.ends);
        assert_eq!(ends[AttemptEnd::Answered as usize], counts.answered.len() as u64);
        assert_eq!(ends.iter().sum::<u64>(), asks - counts.nobody, "{ends:?}");

        let mut asked: HashMap<u64, u32> = HashMap::new();
        for other in &others {
            other.asked.lock().iter().for_each(|(&n, times)| *asked.entry(n).or_default() += times);
            assert!(other.told.lock().values().all(|&times| times == 1), "a broadcast came twice");
        }
        assert!(asked.values().all(|&times| times == 1), "a request was worked on twice");
        assert!(counts.answered.iter().all(|n| asked.contains_key(n)), "answered by nobody");

        for party in others.into_iter().chain([here]) {
            no_slot_leaked(&party.state.pool, &party.state.journal);
            let stopped = runtime.block_on(party.net.shutdown(PATIENCE));
            assert_eq!((stopped.aborted, party.net.tasks()), (0, 0));
            let NodeState { pool, journal, .. } = &party.state;
            assert_eq!((pool.live(), pool.closing()), (0, 0));
            assert_eq!(pool.removals(), journal.disconnects());
            assert_eq!(party.net.traffic().queued_bytes, 0, "a frame outlived its queue");
        }
    }
}

const ROUTES: [Route; 3] = [Route::RoundRobin, Route::LeastLoaded, Route::LowestRtt];

/// One in four is a request, the others only choose.
fn routing(threads: u64, each: u64) {
    let circle = Circle::of(8);
    let known: Vec<PeerId> = circle.others.iter().map(Party::id).collect();
    let counts = circle.while_reconnecting(threads, each, |handle, n, counts| {
        let route = ROUTES[(mix(n) % 3) as usize];
        let payload = n.to_le_bytes();
        let ask = Ask::new(KIND, &payload).route(route).within(PATIENCE);
        if n.is_multiple_of(4) {
            let ended = handle.block_on(circle.here.net.ask(ask)).map(|answer| {
                assert!(known.contains(&answer.from));
                answer.payload
            });
            counts.add(n, ended);
        } else if let Some(peer) = circle.here.net.choose(&ask) {
            assert!(known.contains(&peer));
        }
    });
    circle.settle(threads * each / 4, &counts);
}

#[test]
fn eight_threads_route_while_connections_come_and_go() {
    routing(8, 1_000);
}

#[test]
fn eight_threads_route_ten_times_as_much() {
    routing(8, 10_000);
}

/// Every item comes out once; what one producer puts in comes out in its order wherever one consumer takes it.
fn request_queue(producers: u64, each: u64, consumers: u64) {
    let queue = RequestQueue::new(256);
    let (left, refused) = (AtomicU64::new(producers * each), AtomicU64::new(0));
    let taken: Vec<Vec<(u64, u64)>> = thread::scope(|scope| {
        for producer in 0..producers {
            let (queue, refused) = (&queue, &refused);
            scope.spawn(move || {
                for n in 0..each {
                    let mut item = Some((producer, n));
                    while let Err(back) = queue.push(item) {
                        refused.fetch_add(1, Relaxed);
                        item = back;
                        thread::yield_now();
                    }
                }
            });
        }
        let consumers: Vec<_> = (0..consumers)
            .map(|consumer| {
                let (queue, left) = (&queue, &left);
                scope.spawn(move || {
                    let runtime = Builder::new_current_thread().build().expect("a runtime");
                    let (mut mine, mut batch) = (Vec::new(), Vec::new());
                    loop {
                        // Some take one at a time, some what is there.
                        match consumer % 2 {
                            0 => runtime.block_on(queue.drain(&mut batch, 32)),
                            _ => batch.push(runtime.block_on(queue.pop())),
                        }
                        // Nothing is an order to go home, and to tell the next one.
                        let items: Vec<_> = batch.drain(..).flatten().collect();
                        let last = left.fetch_sub(items.len() as u64, Relaxed) == items.len() as u64;
                        if last || items.is_empty() {
                            queue.push(None).expect("the queue is empty");
                        }
                        if items.is_empty() {
                            return mine;
                        }
                        mine.extend(items);
                    }
                })
            })
            .collect();
        consumers.into_iter().map(|consumer| consumer.join().expect("no consumer panics")).collect()
    });
    for mine in &taken {
        for producer in 0..producers {
            let numbers = mine.iter().filter(|(by, _)| *by == producer).map(|(_, n)| *n);
            assert!(numbers.is_sorted(), "one consumer got what one producer sent in another order");
        }
    }
    let mut all: Vec<_> = taken.into_iter().flatten().collect();
    all.sort_unstable();
    let expected: Vec<_> = (0..producers).flat_map(|by| (0..each).map(move |n| (by, n))).collect();
    assert_eq!(all, expected, "{} were refused at first", refused.into_inner());
}

#[test]
fn sixteen_producers_of_requests() {
    request_queue(16, 500, 1);
    request_queue(16, 500, 4);
}

#[test]
fn sixteen_producers_of_ten_times_as_many_requests() {
    request_queue(16, 5_000, 1);
    request_queue(16, 5_000, 4);
}

/// Where a frame has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gone {
    Taken,
    Shed,
}

/// Every frame is taken, expires or is shed, once; what is taken of one lane and one producer is in order.
fn outbox(producers: u64, each: u64) {
    let outbox = Outbox::new(OutboxLimits { data_bytes: 4096, data_frames: 100, control_frames: 20 });
    let frame = |tag: u64| Bytes::copy_from_slice(&tag.to_le_bytes());
    // One in seven was never worth sending.
    let expires = |tag: u64| tag.is_multiple_of(7).then_some(Duration::ZERO);
    let lane = |tag: u64| Priority::ALL[(mix(tag) % 4) as usize];
    let now = || Duration::from_secs(1);
    let (over, shed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let (taken, expired) = thread::scope(|scope| {
        let (outbox, over, shed) = (&outbox, &over, &shed);
        let consumer = scope.spawn(move || {
            let (mut taken, mut expired, mut batch) = (Vec::new(), 0, VecDeque::new());
            let consume = poll_fn(|cx| {
                loop {
                    let took = outbox.take(&mut batch, 16, 32 * 1024, now, cx.waker());
                    assert_eq!(took.frames.iter().sum::<u32>() as usize, batch.len());
                    expired += u64::from(took.expired);
                    taken.extend(batch.drain(..).map(|frame| number(&frame)));
                    if took.is_empty() {
                        return if over.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending };
                    }
                }
            });
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(consume);
            (taken, expired)
        });
        let shedder = scope.spawn(move || {
            while !over.load(Relaxed) {
                let gone = outbox.shed(2048);
                assert!(gone.iter().all(|(from, _)| matches!(from, Priority::Broadcast | Priority::Bulk)));
                shed.lock().extend(gone.into_iter().map(|(_, tag)| tag.expect("all frames have one")));
                thread::yield_now();
            }
        });
        let producers: Vec<_> = (0..producers)
            .map(|producer| {
                scope.spawn(move || {
                    let runtime = Builder::new_current_thread().build().expect("a runtime");
                    for tag in producer * each..(producer + 1) * each {
                        let parcel = QueuedFrame { frame: frame(tag), expires: expires(tag), tag: Some(tag) };
                        loop {
                            let room = outbox.room();
                            match outbox.push(lane(tag), parcel.clone()) {
                                Ok(()) => break,
                                Err(NotQueued::Full) => runtime.block_on(room),
                                Err(NotQueued::Ended) => panic!("nobody has ended it"),
                            }
                        }
                    }
                })
            })
            .collect();
        producers.into_iter().for_each(|producer| producer.join().expect("no producer panics"));
        over.store(true, Relaxed);
        outbox.nudge();
        shedder.join().expect("the shedder does not panic");
        consumer.join().expect("the consumer does not panic")
    });
    assert!((0..producers).all(|producer| {
        let of = |priority| {
            taken.iter().filter(move |&&tag| tag / each == producer && lane(tag) == priority).is_sorted()
        };
        Priority::ALL.into_iter().all(of)
    }));
    let mut gone = HashMap::new();
    let all = taken
        .iter()
        .map(|&tag| (tag, Gone::Taken))
        .chain(shed.into_inner().into_iter().map(|tag| (tag, Gone::Shed)));
    for (tag, how) in all {
        assert_eq!(gone.insert(tag, how), None, "frame {tag} went twice");
        assert!(how == Gone::Shed || expires(tag).is_none(), "frame {tag} was taken too late");
    }
    let lost = (0..producers * each).filter(|tag| !gone.contains_key(tag));
    assert!(lost.clone().all(|tag| expires(tag).is_some()), "a frame was lost");
    assert_eq!(lost.count() as u64, expired);
    assert_eq!(outbox.kib_queued(), 0);
    assert!(outbox.end().is_empty());
    assert_eq!(outbox.push(Priority::Control, frame(0)), Err(NotQueued::Ended));
}

#[test]
fn sixteen_producers_of_frames() {
    outbox(16, 500);
}

#[test]
fn sixteen_producers_of_ten_times_as_many_frames() {
    outbox(16, 5_000);
}

/// Connections that are attached, seen, moved in health, closed by others and let go of, while the pool is scanned.
fn topology(threads: u64, each: u64) {
    let clock = SystemClock::new();
    let journal = Journal::new(clock.clone(), JournalLimits::default(), None);
    let pool = Pool::new(id(u64::MAX), PoolLimits::only_capacity(200), clock.clone(), Arc::clone(&journal));
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let (over, attached, denied) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let (pool, journal, link, clock) = (&pool, &journal, &link, &clock);
        let (over, attached, denied) = (&over, &attached, &denied);
        let scanner = scope.spawn(move || {
            while !over.load(Relaxed) {
                let rows = pool.freeze();
                assert!(rows.len() <= pool.capacity() as usize);
                assert_eq!(pool.freeze_last_seen(&rows).len(), rows.len());
                assert_eq!(rows.words().len(), rows.len());
                assert!((1..rows.len()).all(|row| rows.key(row - 1).slot < rows.key(row).slot));
                assert!(rows.words().iter().all(|word| word.health() <= 100));
                pool.abort_overdue();
                assert!(pool.peers().iter().all(|(_, naming)| naming.id != pool.self_id()));
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut slots: VecDeque<Slot> = VecDeque::new();
                    for n in thread * each..(thread + 1) * each {
                        let draw = mix(n);
                        match draw % 8 {
                            0..=2 => {
                                let direction =
                                    if draw & 64 == 0 { Direction::Inbound } else { Direction::Outbound };
                                // One in a few is a peer that others bring too.
                                let peer = if draw & 128 == 0 { draw >> 32 & 63 } else { 1000 + n };
                                let facts = PeerFacts { id: id(peer), address: address(peer), direction };
                                match pool.attach(facts, Arc::clone(link)) {
                                    Ok(slot) => {
                                        attached.fetch_add(1, Relaxed);
                                        slots.push_back(slot);
                                    }
                                    Err(Denied::Full(_) | Denied::Limit(_) | Denied::Duplicate) => {
                                        denied.fetch_add(1, Relaxed);
                                    }
                                    Err(other) => panic!("{other}"),
                                }
                            }
                            3 => {
                                let removal =
                                    Removal::new(Initiator::Application, Cause::RemoteClosed, "stress");
                                slots.pop_front().into_iter().for_each(|slot| slot.retire(removal.clone()));
                            }
                            4 => drop(slots.pop_back()),
                            5 => slots.iter().for_each(|slot| slot.peer_seen(clock.coarse())),
                            6 => {
                                let by = (draw >> 32) as i32 % 50;
                                let changed =
                                    slots.front().and_then(|slot| pool.adjust_health(slot.key(), by, 0));
                                assert!(changed.is_none_or(|(_, after)| after <= 100));
                            }
                            _ => {
                                let rows = pool.freeze();
                                if !rows.is_empty() {
                                    let key = rows.key((draw >> 32) as usize % rows.len());
                                    let removal = Removal::new(Initiator::Host, Cause::Limits, "stress");
                                    pool.disconnect(key, removal, None);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("no worker panics"));
        over.store(true, Relaxed);
        scanner.join().expect("a scan sees what can be");
        // Every owner has let go of what it had.
        assert_eq!((pool.live(), pool.closing()), (0, 0));
        assert_eq!(
            (pool.removals(), journal.disconnects()),
            (attached.load(Relaxed), attached.load(Relaxed))
        );
        let by_cause: u64 = Cause::ALL.into_iter().map(|cause| journal.disconnects_by(cause)).sum();
        assert_eq!(by_cause, attached.load(Relaxed));
    });
    no_slot_leaked(&pool, &journal);
}

#[test]
fn eight_threads_change_the_pool_while_it_is_scanned() {
    topology(8, 500);
}

#[test]
fn eight_threads_change_the_pool_ten_times_as_often() {
    topology(8, 5_000);
}

/// Requests, broadcasts, health, protection, other connections, tuning and reports, all at once.
fn mixed(threads: u64, each: u64) {
    let circle = Circle::of(6);
    let (asks, announced) = (AtomicU64::new(0), AtomicU32::new(0));
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let counts = circle.while_reconnecting(threads, each, |handle, n, counts| {
        let Party { net, state, .. } = &circle.here;
        let pool = &state.pool;
        let draw = mix(n);
        let somebody = || pool.find(&circle.others[(draw >> 32) as usize % circle.others.len()].id());
        match draw % 10 {
            0..=3 => {
                let payload = n.to_le_bytes();
                let route = ROUTES[(draw >> 16) as usize % 3];
                let ask = Ask::new(KIND, &payload).route(route).within(PATIENCE);
                asks.fetch_add(1, Relaxed);
                counts.add(n, handle.block_on(net.ask(ask)).map(|answer| answer.payload));
            }
            4 | 5 => {
                let sent = net.broadcast(TOPIC, &n.to_le_bytes(), Audience::All).expect("nothing limits it");
                announced.fetch_add(1, Relaxed);
                assert!(sent.queued + sent.full <= pool.capacity());
            }
            6 => {
                // Never so low that nobody is asked.
                let by = (draw >> 32) as i32 % 20;
                let changed = somebody().and_then(|key| pool.adjust_health(key, by, 50));
                assert!(changed.is_none_or(|(_, after)| after <= 100));
            }
            7 => {
                // A connection of the application's own: it is in the pool, and never asked.
                let facts = PeerFacts { id: id(n), address: address(n), direction: Direction::Inbound };
                match pool.attach(facts, Arc::clone(&link)) {
                    Ok(slot) => assert!(pool.is_live(slot.key())),
                    Err(Denied::Full(_) | Denied::Limit(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            8 => {
                if let Some(key) = somebody() {
                    pool.protect(key, Duration::from_secs(draw % 60));
                    if let Some(link) = pool.link(key) {
                        link.ping();
                    }
                }
                let backpressure =
                    Backpressure { queue_budget: 1 << 20 | n as usize, ..Backpressure::default() };
                net.tune(Performance { backpressure, ..Performance::default() }, 30);
            }
            _ => {
                let traffic = net.traffic();
                assert!(traffic.pending <= threads);
                assert!(net.breakers().is_empty(), "nobody fails here");
                assert!(pool.freeze().len() <= pool.capacity() as usize);
            }
        }
    });
    let told: usize = circle.others.iter().map(|other| other.told.lock().len()).sum();
    assert!(told <= announced.load(Relaxed) as usize * circle.others.len());
    circle.settle(asks.into_inner(), &counts);
}

#[test]
fn twelve_threads_of_everything() {
    mixed(12, 300);
}

#[test]
fn twelve_threads_of_ten_times_everything() {
    mixed(12, 3_000);
}
