//! Too many requests, wrong answers and short memory: which peer pays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{
    AttemptEnd, Backpressure, BreakerSettings, BreakerState, NotQueued, OutboxLimits, Performance, Priority,
    Route, TimeoutSettings, TrafficReport,
};
use groundskeeper_pool::broadcasts::BroadcastLimits;
use groundskeeper_pool::journal::{ActionKind, Cause};
use tokio::sync::{Semaphore, mpsc};

use super::harness::{PATIENCE, Raw, Setup, TestNode, node, until};
use crate::wire::{Message, ResponseStatus};
use crate::{
    Ask, AskError, Audience, Broadcast, BroadcastError, Capacity, Handlers, IfFull, NetConfig, RequestError,
    SendReport, WhenFull,
};

const OPEN_FOR: Duration = Duration::from_secs(1000);

/// A node that sends requests, with `performance`.
fn asker(performance: Performance) -> TestNode {
    let base = Setup::default();
    Setup { config: NetConfig { performance, ..base.config }, ..base }.start()
}

/// A node that answers "who" with `answer`.
fn answering(answer: impl Fn() -> Result<Bytes, String> + Send + Sync + 'static) -> TestNode {
    let handlers = Handlers::new().on_request("who", move |_, _| std::future::ready(answer()));
    Setup { handlers, ..Setup::default() }.start()
}

fn well() -> Result<Bytes, String> {
    Ok(Bytes::from_static(b"here"))
}

fn quick(base: u64) -> TimeoutSettings {
    let base = Duration::from_millis(base);
    TimeoutSettings { base, least: Some(base), most: base, adaptive: true }
}

fn ends(node: &TestNode, end: AttemptEnd) -> u64 {
    node.net.kinds().iter().map(|kind| kind.ends[end as usize]).sum()
}

#[tokio::test]
async fn requests_rotate_over_healthy_peers_only() {
    let a = asker(Performance::default());
    let others: Vec<TestNode> = (0..3).map(|_| answering(well)).collect();
    for other in &others {
        a.connect(other).await;
    }
    let count = |asked: &[PeerId]| {
        others.iter().map(|b| asked.iter().filter(|id| **id == b.id()).count()).collect::<Vec<_>>()
    };
    let round = || Ask::new("who", b"").route(Route::RoundRobin);
    let mut asked = Vec::new();
    for _ in 0..30 {
        asked.push(a.net.ask(round()).await.unwrap().from);
    }
    assert_eq!(count(&asked), [10, 10, 10]);
    // One of them is not healthy, one is excluded, and one is left.
    a.pool.adjust_health(a.pool.find(&others[0].id()).unwrap(), -70, 0);
    for _ in 0..10 {
        let but = [others[1].id()];
        let answer = a.net.ask(round().but(&but)).await.unwrap();
        assert_eq!((answer.from, answer.asked, &answer.payload[..]), (others[2].id(), 1, &b"here"[..]));
    }
    let nobody = a.net.ask(round().among(&[others[0].id()])).await.unwrap_err();
    assert_eq!(nobody, AskError::NoPeerAvailable { live: 3, unhealthy: 1, open: 0 });
    // By the round trip of a ping that each has answered.
    for other in &others[1..] {
        let key = a.pool.find(&other.id()).unwrap();
        a.pool.link(key).unwrap().ping();
        until("the ping is answered", || a.pool.age_and_rtt(key).is_some_and(|(_, rtt)| rtt != u32::MAX))
            .await;
    }
    let rtt = |b: &TestNode| a.pool.age_and_rtt(a.pool.find(&b.id()).unwrap()).unwrap().1;
    let fastest = others[1..].iter().min_by_key(|b| rtt(b)).unwrap().id();
    assert_eq!(a.net.choose(&Ask::new("who", b"").route(Route::LowestRtt)), Some(fastest));
    assert_eq!(a.net.kinds()[0].latency.count, 40);
    // Its figure is too old: it may be slow by now. The others' are fresh.
    a.clock.later(Duration::from_secs(91));
    for other in others[1..].iter().filter(|other| other.id() != fastest) {
        a.pool.answered_within(a.pool.find(&other.id()).unwrap(), Duration::from_secs(2));
    }
    let chosen = a.net.choose(&Ask::new("who", b"").route(Route::LowestRtt));
    assert!(chosen.is_some() && chosen != Some(fastest), "{chosen:?}");
}

#[tokio::test]
async fn a_peer_that_fails_half_of_its_requests_is_skipped_tried_and_asked_again() {
    let breaker = BreakerSettings {
        failures: 4,
        error_rate: Some(0.5),
        window: Duration::from_secs(600),
        open_for: OPEN_FOR,
        successes: 2,
    };
    let a = asker(Performance { circuit_breaker: breaker, ..Performance::default() });
    let (count, is_well) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let half = answering({
        let (count, is_well) = (Arc::clone(&count), Arc::clone(&is_well));
        move || {
            let odd = count.fetch_add(1, Relaxed) % 2 == 1;
            if odd && !is_well.load(Relaxed) { Err("half the time".into()) } else { well() }
        }
    });
    let good = answering(well);
    a.connect(&half).await;
    a.connect(&good).await;

    let ask = || Ask::new("who", b"").route(Route::RoundRobin);
    let mut failed = 0;
    while a.net.breakers().is_empty() {
        failed += u32::from(a.net.ask(ask()).await.is_err());
    }
    assert_eq!((failed, count.load(Relaxed)), (4, 8), "four of its eight failed");
    let open = a.net.breakers();
    assert_eq!((open[0].peer, &*open[0].kind, open[0].state), (half.id(), "who", BreakerState::Open));
    // Meanwhile requests go to other peers. A request to this peer alone fails with the reason.
    for _ in 0..20 {
        assert_eq!(a.net.ask(ask()).await.unwrap().from, good.id());
    }
    let insists = a.net.request(half.id(), "who", b"", PATIENCE).await;
    assert_eq!(insists, Err(RequestError::BreakerOpen("who".into())));
    assert_eq!(count.load(Relaxed), 8);
    // Another kind has its own breaker.
    assert_eq!(a.net.request(half.id(), "ping", b"x", PATIENCE).await.unwrap(), "x");

    // Its wait is over, a trial is sent, and it fails again.
    a.clock.later(OPEN_FOR);
    assert_eq!(a.net.breakers()[0].state, BreakerState::HalfOpen);
    count.store(1, Relaxed);
    let mut from_half = 0;
    while a.net.breakers()[0].state == BreakerState::HalfOpen {
        from_half += u32::from(a.net.ask(ask()).await.is_err());
    }
    assert_eq!(from_half, 1);
    // The second trial succeeds.
    is_well.store(true, Relaxed);
    a.clock.later(OPEN_FOR * 2);
    while !a.net.breakers().is_empty() {
        a.net.ask(ask()).await.unwrap();
    }
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push(a.net.ask(ask()).await.unwrap().from);
    }
    assert_eq!(asked.iter().filter(|id| **id == half.id()).count(), 5);
    let told: Vec<String> = a
        .journal
        .select(usize::MAX, |record| record.what == ActionKind::Breaker)
        .into_iter()
        .map(|record| record.reason.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["open", "open", "closed"]);
    assert_eq!(a.net.traffic().breakers_opened, 2);
}

#[tokio::test]
async fn a_breaker_outlives_the_connection() {
    let breaker = BreakerSettings { failures: 2, open_for: OPEN_FOR, ..BreakerSettings::default() };
    let a = asker(Performance { circuit_breaker: breaker, ..Performance::default() });
    let b = answering(|| Err("never".into()));
    a.connect(&b).await;
    for _ in 0..2 {
        assert!(a.net.request(b.id(), "who", b"", PATIENCE).await.is_err());
    }
    let key = a.pool.find(&b.id()).unwrap();
    let why = groundskeeper_pool::pool::Removal::new(
        groundskeeper_pool::journal::Initiator::OPERATOR,
        Cause::Limits,
        "a test",
    );
    a.pool.disconnect(key, why, None);
    until("it is gone on both sides", || a.pool.live() + a.pool.closing() + b.pool.live() == 0).await;
    b.connect(&a).await;
    let again = a.net.request(b.id(), "who", b"", PATIENCE).await;
    assert_eq!(again, Err(RequestError::BreakerOpen("who".into())));
}

#[tokio::test]
async fn only_idempotent_requests_are_retried_and_only_within_the_budget() {
    let a = asker(Performance {
        circuit_breaker: BreakerSettings { failures: 1000, ..BreakerSettings::default() },
        ..Performance::default()
    });
    let (good, bad) = (answering(well), answering(|| Err("never".into())));
    a.connect(&bad).await;
    let once = a.net.ask(Ask::new("who", b"")).await.unwrap_err();
    assert!(matches!(once, AskError::NoAnswer { asked: 1, last: RequestError::Failed(_) }), "{once}");
    a.connect(&good).await;
    let (mut retried, mut given_up) = (0, 0);
    for _ in 0..200 {
        match a.net.ask(Ask::new("who", b"").route(Route::RoundRobin).idempotent()).await {
            Ok(answer) => {
                assert_eq!(answer.from, good.id());
                retried += answer.asked - 1;
            }
            Err(error) => {
                assert!(matches!(error, AskError::NoAnswer { asked: 1, .. }), "{error}");
                given_up += 1;
            }
        }
    }
    // Ten at the start, and one for each five requests.
    assert!((45..=51).contains(&retried), "{retried} retries, {given_up} given up");
    assert_eq!(a.net.traffic().retried, u64::from(retried));
}

#[tokio::test]
async fn a_second_peer_is_asked_beside_one_that_takes_long() {
    let a = asker(Performance::default());
    let stalls = Arc::new(AtomicBool::new(false));
    let slow = {
        let stalls = Arc::clone(&stalls);
        let handlers = Handlers::new().on_request("who", move |_, _| {
            let stalls = stalls.load(Relaxed);
            async move { if stalls { std::future::pending().await } else { well() } }
        });
        Setup { handlers, ..Setup::default() }.start()
    };
    let good = answering(well);
    a.connect(&slow).await;
    // Until there are enough answer times.
    for _ in 0..64 {
        a.net.ask(Ask::new("who", b"")).await.unwrap();
    }
    a.connect(&good).await;
    stalls.store(true, Relaxed);
    while a.net.traffic().hedged == 0 {
        let answer = a.net.ask(Ask::new("who", b"").hedged()).await.unwrap();
        assert_eq!(answer.from, good.id());
    }
    // The request to the slow one was cancelled.
    until("nothing is open", || a.net.traffic().pending == 0).await;
    assert_eq!(ends(&a, AttemptEnd::Dropped), 1);
}

#[tokio::test]
async fn wrong_answers_cost_only_their_peer() {
    let timeouts = [(Performance::ALL_KINDS.to_owned(), quick(300))].into();
    let a = Arc::new(asker(Performance { timeouts, ..Performance::default() }));
    let b = answering(well);
    a.connect(&b).await;
    let health = |id: &PeerId| a.pool.health(a.pool.find(id).unwrap()).unwrap();
    let ask = |id: PeerId, most: usize| {
        let a = Arc::clone(&a);
        tokio::spawn(async move { a.net.ask(Ask::new("who", b"").among(&[id]).at_most(most)).await })
    };

    // This peer never answers.
    let mut raw = Raw::greeted_by(&a).await;
    let id = raw.identity.peer_id();
    let silent = ask(id, 100).await.unwrap().unwrap_err();
    assert!(matches!(silent, AskError::NoAnswer { asked: 1, last: RequestError::TimedOut(_) }), "{silent}");
    assert_eq!(health(&id), 95);
    // Number 0 was the node's own request for peers; number 1 was not answered in time: a late answer is not wrong.
    raw.say(Message::Response { id: 1, status: ResponseStatus::Ok, payload: b"late" }).await;
    // A larger answer than allowed.
    let greedy = ask(id, 10);
    until("it is asked", || a.net.traffic().pending == 1).await;
    raw.say(Message::Response { id: 2, status: ResponseStatus::Ok, payload: b"eleven byte" }).await;
    let greedy = greedy.await.unwrap().unwrap_err();
    let too_much = RequestError::TooMuch { got: 11, most: 10 };
    assert_eq!(greedy, AskError::NoAnswer { asked: 1, last: too_much });
    assert_eq!(health(&id), 70);
    // A peer that answers a ping earns some of it back.
    let key = a.pool.find(&id).unwrap();
    a.pool.link(key).unwrap().ping();
    let nonce = loop {
        let heard =
            raw.hear(|said| if let Message::Ping { nonce } = said { Some(*nonce) } else { None }).await;
        if let Some(nonce) = heard {
            break nonce;
        }
    };
    raw.say(Message::Pong { nonce }).await;
    until("it has got health back", || health(&id) == 75).await;
    // Answers twice.
    let twice = ask(id, 100);
    until("it is asked", || a.net.traffic().pending == 1).await;
    for _ in 0..2 {
        raw.say(Message::Response { id: 3, status: ResponseStatus::Ok, payload: b"once" }).await;
    }
    assert_eq!(&twice.await.unwrap().unwrap().payload[..], b"once");
    // Plus one for the answer.
    until("it has cost health", || health(&id) == 66).await;
    assert_eq!(a.net.traffic().misbehaved, 2);
    // An answer without a request.
    raw.say(Message::Response { id: 1 << 40, status: ResponseStatus::Ok, payload: b"made up" }).await;
    until("it is gone", || a.pool.find(&id).is_none()).await;
    assert_eq!(a.journal.disconnects_by(Cause::ProtocolError), 1);
    // The other connection was not affected.
    assert_eq!(health(&b.id()), 100);
    assert_eq!(a.net.ask(Ask::new("who", b"")).await.unwrap().from, b.id());
    let told = a.journal.select(usize::MAX, |record| record.what == ActionKind::Health);
    assert!(told.len() == 5 && told.iter().all(|record| record.peer == Some(id)));
}

#[tokio::test]
async fn a_handler_with_a_capacity_works_at_its_limit_and_refuses_the_rest() {
    let (at_once, most, gate) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let handlers = {
        let (at_once, most, gate) = (Arc::clone(&at_once), Arc::clone(&most), Arc::clone(&gate));
        Handlers::new().on_request_limited("work", Capacity { at_once: 4, waiting: 8 }, move |_, _| {
            let (at_once, most, gate) = (Arc::clone(&at_once), Arc::clone(&most), Arc::clone(&gate));
            async move {
                most.fetch_max(at_once.fetch_add(1, Relaxed) + 1, Relaxed);
                gate.acquire().await.unwrap().forget();
                at_once.fetch_sub(1, Relaxed);
                well()
            }
        })
    };
    let b = Arc::new(Setup { handlers, ..Setup::default() }.start());
    let (sender, mut ended) = mpsc::unbounded_channel();
    let askers = [Arc::new(node()), Arc::new(node())];
    for (at, a) in askers.iter().enumerate() {
        a.connect(&b).await;
        for _ in 0..20 {
            let (a, to, sender) = (Arc::clone(a), b.id(), sender.clone());
            tokio::spawn(async move { sender.send((at, a.net.request(to, "work", b"", PATIENCE).await)) });
        }
    }
    // One peer gets at most half of the twelve places; the others get "busy" at once.
    let mut busy = [0, 0];
    for _ in 0..28 {
        let (at, answer) = ended.recv().await.unwrap();
        assert_eq!(answer, Err(RequestError::Busy));
        busy[at] += 1;
    }
    assert_eq!(busy, [14, 14]);
    gate.add_permits(12);
    let mut answered = [0, 0];
    for _ in 0..12 {
        let (at, answer) = ended.recv().await.unwrap();
        assert_eq!(answer.unwrap(), "here");
        answered[at] += 1;
    }
    assert_eq!((answered, most.load(Relaxed)), ([6, 6], 4));
}

#[tokio::test]
async fn a_worker_outlives_a_panic() {
    let handlers = Handlers::new().on_request_limited(
        "work",
        Capacity { at_once: 1, waiting: 4 },
        |_, asked| async move {
            tokio::task::yield_now().await;
            assert!(asked.is_empty(), "a mistake in the application");
            well()
        },
    );
    let b = Setup { handlers, ..Setup::default() }.start();
    let a = node();
    a.connect(&b).await;
    for _ in 0..3 {
        let failed = a.net.request(b.id(), "work", b"!", PATIENCE).await;
        assert!(matches!(failed, Err(RequestError::Failed(_))), "{failed:?}");
    }
    assert_eq!(a.net.request(b.id(), "work", b"", PATIENCE).await.unwrap(), "here");
}

/// A node with a small queue per connection, and a peer that does not read and has a full queue.
async fn with_one_that_does_not_read(backpressure: Backpressure) -> (TestNode, Raw) {
    let base = Setup::default();
    let outbox = OutboxLimits { data_bytes: 256 << 10, ..OutboxLimits::default() };
    let performance = Performance { backpressure, ..Performance::default() };
    let broadcasts = BroadcastLimits { per_window: u32::MAX, ..BroadcastLimits::default() };
    let a = Setup { config: NetConfig { outbox, performance, ..base.config }, broadcasts, ..base }.start();
    let stopped = Raw::greeted_by(&a).await;
    let to = [stopped.identity.peer_id()];
    let (mut number, mut full_in_a_row) = (0_u64, 0);
    while full_in_a_row < 100 {
        number += 1;
        let payload = [&number.to_le_bytes()[..], &[7; 32 << 10]].concat();
        let sent = a.net.broadcast("fill", &payload, Audience::Only(&to));
        full_in_a_row = if sent.is_ok_and(|sent| sent.queued == 1) { 0 } else { full_in_a_row + 1 };
        tokio::task::yield_now().await;
    }
    (a, stopped)
}

#[tokio::test]
async fn a_full_queue_is_an_answer_that_the_caller_chooses() {
    let (a, mut stopped) = with_one_that_does_not_read(Backpressure::default()).await;
    let id = stopped.identity.peer_id();
    let payload = vec![1; 64 << 10];
    let failed = a.net.request(id, "who", &payload, PATIENCE).await;
    assert_eq!(failed, Err(RequestError::NotQueued(NotQueued::Full)));
    let to = [id];
    let broadcast = || Broadcast::new("news", &payload).to(Audience::Only(&to));
    assert_eq!(a.net.broadcast_with(broadcast()).await, Ok(SendReport { queued: 0, full: 1 }));
    let fails = a.net.broadcast_with(broadcast().if_full(IfFull::Fail)).await;
    assert_eq!(fails, Err(BroadcastError::Full(SendReport { queued: 0, full: 1 })));
    let in_vain = a.net.broadcast_with(broadcast().if_full(IfFull::Wait(Duration::from_millis(50)))).await;
    assert_eq!(in_vain, Ok(SendReport { queued: 0, full: 1 }));
    assert!(a.net.traffic().full[Priority::Broadcast as usize] >= 103);
    assert_eq!(a.net.traffic().full[Priority::Request as usize], 1);

    // A waiting sender continues when there is room again.
    let ask = Ask::new("who", &payload).when_full(WhenFull::Wait);
    let reads = async {
        loop {
            let asked = stopped
                .hear(|message| match message {
                    Message::Request { id, kind: "who", .. } => Some(*id),
                    _ => None,
                })
                .await;
            if let Some(id) = asked {
                return stopped
                    .say(Message::Response { id, status: ResponseStatus::Ok, payload: b"at last" })
                    .await;
            }
        }
    };
    let (answer, ()) = tokio::join!(a.net.ask(ask), reads);
    assert_eq!(&answer.unwrap().payload[..], b"at last");
}

#[tokio::test]
async fn when_memory_is_short_only_peers_that_do_not_read_lose_frames() {
    // Two queues of 256 KiB fill more than half of the budget.
    let small =
        Backpressure { queue_budget: 400 << 10, memory_pressure_threshold: 0.5, ..Backpressure::default() };
    let (a, stopped) = with_one_that_does_not_read(small).await;
    let key = a.pool.find(&stopped.identity.peer_id()).unwrap();
    let queued = || a.pool.link(key).unwrap().traffic().kib_queued;
    assert!(a.net.traffic().queued_bytes >= 200 << 10);
    let b = answering(well);
    a.connect(&b).await;
    // Peers that read get broadcasts, bulk ones too, and answers to their requests.
    for number in 0..50_u64 {
        a.clock.later(Duration::from_millis(125));
        let payload = [&number.to_le_bytes()[..], &[3; 16 << 10]].concat();
        let to = [b.id()];
        let sent =
            a.net.broadcast_with(Broadcast::new("bulk", &payload).bulk().to(Audience::Only(&to))).await;
        assert_eq!(sent, Ok(SendReport { queued: 1, full: 0 }), "{:?}", a.net.traffic());
        a.net.request(b.id(), "who", &payload, PATIENCE).await.unwrap();
    }
    // The fair share of each of two is a quarter of the budget.
    assert!(queued() <= 100, "{} KiB", queued());
    assert!(a.net.traffic().shed[Priority::Broadcast as usize] > 0);
    assert!(a.net.traffic().queued_bytes <= 400 << 10);
}

#[tokio::test]
async fn a_request_that_is_too_late_is_not_sent() {
    let (a, mut stopped) = with_one_that_does_not_read(Backpressure::default()).await;
    let id = stopped.identity.peer_id();
    let gone = a.net.request(id, "who", b"in vain", Duration::from_millis(20)).await;
    assert_eq!(gone, Err(RequestError::TimedOut(Duration::from_millis(20))));
    let first = async {
        a.net.request(id, "who", b"in time", PATIENCE).await.unwrap();
    };
    let reads = async {
        loop {
            let asked = stopped
                .hear(|message| match message {
                    Message::Request { id, kind: "who", payload } => Some((*id, payload.to_vec())),
                    _ => None,
                })
                .await;
            if let Some((id, payload)) = asked {
                assert_eq!(payload, b"in time");
                return stopped.say(Message::Response { id, status: ResponseStatus::Ok, payload: b"" }).await;
            }
        }
    };
    tokio::join!(first, reads);
    assert_eq!(a.net.traffic().expired, 1);
}

#[tokio::test]
async fn a_shutdown_ends_what_is_open_with_a_reason() {
    let begun = Arc::new(AtomicU64::new(0));
    let handlers = {
        let begun = Arc::clone(&begun);
        Handlers::new().on_request_limited("work", Capacity { at_once: 2, waiting: 16 }, move |_, _| {
            begun.fetch_add(1, Relaxed);
            std::future::pending()
        })
    };
    let b = Setup { handlers, ..Setup::default() }.start();
    let a = Arc::new(node());
    a.connect(&b).await;
    let (sender, mut ended) = mpsc::unbounded_channel();
    for _ in 0..9 {
        let (a, to, sender) = (Arc::clone(&a), b.id(), sender.clone());
        tokio::spawn(async move { sender.send(a.net.request(to, "work", b"", PATIENCE).await) });
    }
    until("the workers have begun", || begun.load(Relaxed) == 2).await;
    until("all are asked", || a.net.traffic().sent[Priority::Request as usize] >= 9).await;
    // Both ends at once, as nodes of one operator may do.
    let (stopped, _) = tokio::join!(b.net.shutdown(PATIENCE), a.net.shutdown(PATIENCE));
    assert_eq!(stopped.aborted, 0);
    for _ in 0..9 {
        assert_eq!(ended.recv().await.unwrap(), Err(RequestError::Disconnected));
    }
    assert_eq!((a.net.tasks(), b.net.tasks()), (0, 0));
    assert_eq!(a.net.traffic().pending, 0);
}
