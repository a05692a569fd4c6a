//! Memory for what is being received: peers with unfinished frames cannot take all of it, and honest ones get through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_flow::{Backpressure, Performance, TrafficReport, UNCOUNTED};
use groundskeeper_pool::journal::Cause;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::harness::{MAX_FRAME, PATIENCE, Raw, Setup, TestNode, alone, node, until};
use crate::wire::Message;
use crate::{Handlers, NetConfig};

const KIB: usize = 1 << 10;

fn with_budget(queue_budget: usize, handlers: Handlers) -> TestNode {
    let base = Setup::default();
    let backpressure = Backpressure { queue_budget, ..Backpressure::default() };
    let performance = Performance { backpressure, ..Performance::default() };
    Setup { config: NetConfig { performance, ..base.config }, handlers, ..base }.start()
}

/// A request frame of the largest size.
fn largest() -> Bytes {
    let request = |payload: &[u8]| Message::Request { id: 1, kind: "store", payload }.encode(MAX_FRAME);
    let around = request(&vec![0; 600 * KIB]).unwrap().len() - 600 * KIB;
    let frame = request(&vec![0; 4 + MAX_FRAME - around]).unwrap();
    assert_eq!(frame.len(), 4 + MAX_FRAME);
    frame
}

/// Sends `bytes`, as far as the node reads them, and keeps the connection open until the task is dropped.
async fn sends_and_stays(mut raw: Raw, bytes: Bytes) {
    use tokio::io::AsyncWriteExt;
    // Fails if the node ends the connection, as it may.
    let sent = raw.stream.write_all(&bytes).await.is_ok() && raw.stream.flush().await.is_ok();
    if sent {
        std::future::pending::<()>().await;
    }
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
}

#[tokio::test]
async fn fifty_peers_without_their_last_byte_hold_no_more_than_the_budget() {
    const PEERS: usize = 50;
    const BUDGET: usize = 4 << 20;
    // Its memory is measured.
    if !alone("tests::receiving::fifty_peers_without_their_last_byte_hold_no_more_than_the_budget") {
        return;
    }
    let a = with_budget(BUDGET, Handlers::new());
    let answer = Bytes::from(vec![9; 900 * KIB]);
    let handlers = Handlers::new().on_request("large", {
        let answer = answer.clone();
        move |_, _| std::future::ready(Ok(answer.clone()))
    });
    let b = Setup { handlers, ..Setup::default() }.start();
    a.connect(&b).await;
    let mut raws = Vec::new();
    for _ in 0..PEERS {
        raws.push(Raw::greeted_by(&a).await);
    }
    let before = resident();
    let all_but_one = largest().slice(..3 + MAX_FRAME);
    let mut peers = JoinSet::new();
    for raw in raws {
        peers.spawn(sends_and_stays(raw, all_but_one.clone()));
    }
    let receiving = || {
        let now = a.net.traffic();
        assert!(now.receiving_bytes <= now.receiving_budget_bytes, "{now:?}");
        now
    };
    // Each of them takes what it can get: those that got nothing wait.
    until("the budget is used up", || {
        receiving().receiving_pauses >= 40 && receiving().receiving_bytes as usize > BUDGET - 256 * KIB
    })
    .await;
    let grown = resident() - before;
    // The budget, a read's worth for each frame, TLS buffers at both ends of all connections, and the frame to send.
    let expected = BUDGET + PEERS * 8 * UNCOUNTED + MAX_FRAME;
    assert!(grown <= expected && expected < PEERS * MAX_FRAME / 2, "{grown} bytes more than before");

    // Small requests are answered in both directions, whatever waits.
    for _ in 0..20 {
        assert_eq!(a.net.request(b.id(), "ping", b"small", PATIENCE).await.unwrap(), "small");
        assert_eq!(b.net.request(a.id(), "ping", b"small", PATIENCE).await.unwrap(), "small");
        receiving();
    }
    assert_eq!(receiving().receiving_given_up, 0, "this took no connection away");
    // A large answer gets through. Those that hold the room for longest lose it.
    let large = a.net.request(b.id(), "large", b"", PATIENCE);
    tokio::pin!(large);
    let got = loop {
        tokio::select! {
            got = &mut large => break got.unwrap(),
            () = tokio::task::yield_now() => {
                receiving();
            }
        }
    };
    assert_eq!(got, answer);
    assert!(a.pool.find(&b.id()).is_some(), "the honest peer stays");
    let given_up = a
        .ends()
        .into_iter()
        .filter(|(cause, reason)| *cause == Cause::Limits && reason.contains("others waited for that room"));
    assert!(given_up.count() > 0 && receiving().receiving_given_up > 0);

    peers.shutdown().await;
    until("they are gone", || a.pool.live() == 1 && a.pool.closing() == 0).await;
    until("the room is given back", || receiving().receiving_bytes == 0).await;
    assert_eq!(a.net.request(b.id(), "large", b"", PATIENCE).await.unwrap(), answer);
}

#[tokio::test]
async fn honest_frames_that_wait_for_each_other_all_arrive() {
    const PEERS: usize = 12;
    let stored = Arc::new(AtomicUsize::new(0));
    let handlers = Handlers::new().on_request("store", {
        let stored = Arc::clone(&stored);
        move |_, payload: Bytes| {
            stored.fetch_add(payload.len(), Relaxed);
            std::future::ready(Ok(Bytes::new()))
        }
    });
    let a = with_budget(2 * MAX_FRAME, handlers);
    let frame = largest();
    let (first, rest) = (frame.slice(..600 * KIB), frame.slice(600 * KIB..));
    let more = Arc::new(Semaphore::new(0));
    let mut peers = JoinSet::new();
    for _ in 0..PEERS {
        let (mut raw, more) = (Raw::greeted_by(&a).await, Arc::clone(&more));
        let (first, rest) = (first.clone(), rest.clone());
        peers.spawn(async move {
            raw.send(&first).await;
            _ = more.acquire().await.unwrap();
            raw.send(&rest).await;
            while !raw.hear(|message| matches!(message, Message::Response { id: 1, .. })).await {}
        });
    }
    // Each holds a part, and none can have its whole.
    until("they wait for each other", || a.net.traffic().receiving_pauses >= PEERS as u64 - 2).await;
    more.add_permits(PEERS);
    while let Some(ended) = peers.join_next().await {
        ended.unwrap();
    }
    assert!(stored.load(Relaxed) > PEERS * 1000 * KIB);
    assert_eq!(a.net.traffic().receiving_given_up, 0);
    a.is_empty_again().await;
    assert_eq!(a.net.traffic().receiving_bytes, 0);
}

#[tokio::test]
async fn a_frame_counts_until_its_request_is_answered_or_its_caller_has_the_answer() {
    let gate = Arc::new(Semaphore::new(0));
    let handlers = Handlers::new().on_request("store", {
        let gate = Arc::clone(&gate);
        move |_, payload: Bytes| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(payload)
            }
        }
    });
    let a = with_budget(2 * MAX_FRAME, handlers);
    let b = node();
    a.connect(&b).await;
    let payload = vec![5; 100 * KIB];
    let request = b.net.request(a.id(), "store", &payload, PATIENCE);
    let counted = async {
        until("it is handled", || a.net.traffic().receiving_bytes >= 100 * KIB as u64).await;
        gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(request, counted);
    let answer = answer.unwrap();
    assert_eq!(answer, payload);
    until("it is answered", || a.net.traffic().receiving_bytes == 0).await;
    // The caller keeps the bytes as long as it likes.
    assert_eq!(b.net.traffic().receiving_bytes, 0);
    drop(answer);
    // A handler that is cut off gives back as well.
    let cut_off = b.net.request(a.id(), "store", &payload, PATIENCE);
    let ends = async {
        until("it is handled", || a.net.traffic().receiving_bytes >= 100 * KIB as u64).await;
        b.net.shutdown(PATIENCE).await;
    };
    assert!(tokio::join!(cut_off, ends).0.is_err());
    until("it is cut off", || a.net.traffic().receiving_bytes == 0).await;
}

#[tokio::test]
async fn a_frame_that_comes_too_slowly_ends_its_connection() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    let id = raw.identity.peer_id();
    raw.send(&largest()[..40 * KIB]).await;
    until("it is counted", || a.net.traffic().receiving_bytes > 0).await;
    a.clock.later(Duration::from_secs(31));
    let link = a.pool.link(a.pool.find(&id).unwrap()).unwrap();
    link.ping();
    let (code, text) = raw.hear_goodbye().await;
    assert_eq!(code, 6);
    assert!(text.contains("came too slowly") && text.contains("in 30 s"), "{text}");
    assert_eq!(a.ends(), [(Cause::Limits, text)]);
    assert_eq!(a.net.traffic().receiving_given_up, 1);
    assert_eq!(a.net.traffic().receiving_bytes, 0, "at once, not after the farewell");
    drop(raw);
    a.is_empty_again().await;
}

/// A node whose budget of one frame is in a handler, and a peer that waits for room. Permits of the gate let handlers end.
async fn with_one_that_waits() -> (TestNode, Arc<Semaphore>, Raw, Raw) {
    let gate = Arc::new(Semaphore::new(0));
    let handlers = Handlers::new().on_request("store", {
        let gate = Arc::clone(&gate);
        move |_, _| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Bytes::new())
            }
        }
    });
    let a = with_budget(MAX_FRAME, handlers);
    let mut holds = Raw::greeted_by(&a).await;
    holds.send(&largest()).await;
    until("it is handled", || a.net.traffic().receiving_bytes as usize > MAX_FRAME - KIB).await;
    let mut waits = Raw::greeted_by(&a).await;
    waits.send(&largest()[..40 * KIB]).await;
    until("it waits", || a.net.traffic().receiving_pauses > 0).await;
    (a, gate, holds, waits)
}

#[tokio::test]
async fn a_peer_that_waits_for_room_is_not_silent() {
    let (a, gate, _holds, mut waits) = with_one_that_waits().await;
    let key = a.pool.find(&waits.identity.peer_id()).unwrap();
    let link = a.pool.link(key).unwrap();
    for _ in 0..4 {
        a.clock.later(Duration::from_secs(10));
        link.ping();
        // The other one says nothing, and nothing is asked of it.
        let silent = || a.pool.stats(0, Duration::from_secs(9)).stale;
        until("only the other one is silent", || silent() == 1).await;
        assert_eq!(a.pool.live(), 2);
    }
    assert_eq!(a.pool.freeze().words().iter().map(|word| word.pings_lost()).max(), Some(0));
    gate.add_permits(2);
    waits.send(&largest()[40 * KIB..]).await;
    while !waits.hear(|message| matches!(message, Message::Response { id: 1, .. })).await {}
    until("all is given back", || a.net.traffic().receiving_bytes == 0).await;
    assert_eq!(a.net.traffic().receiving_given_up, 0);
}

#[tokio::test]
async fn a_wait_for_room_ends_with_its_reason() {
    let (a, _gate, _holds, mut waits) = with_one_that_waits().await;
    let link = a.pool.link(a.pool.find(&waits.identity.peer_id()).unwrap()).unwrap();
    a.clock.later(Duration::from_secs(46));
    link.ping();
    let (code, text) = waits.hear_goodbye().await;
    assert_eq!((code, text.as_str()), (6, "there was no room to receive more from it for 45 s"));
    assert_eq!((a.pool.live(), a.net.traffic().receiving_given_up), (1, 1));
}
