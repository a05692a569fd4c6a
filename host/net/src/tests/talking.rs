//! Two and three nodes that work well together: pings, requests, broadcasts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::broadcasts::BroadcastLimits;
use groundskeeper_pool::journal::{Cause, Outcome};
use tokio::sync::{Notify, mpsc};

use groundskeeper_flow::TrafficReport;

use super::harness::{PATIENCE, Raw, Setup, TestNode, node, until};
use crate::wire::{Message, ResponseStatus, cause_of};
use crate::{
    Audience, BroadcastError, BroadcastVerdict, Handlers, NetConfig, RequestError, SendError, SendReport,
};

#[tokio::test]
async fn two_nodes_connect_ping_and_say_goodbye() {
    let (a, b) = (node(), node());
    a.connect(&b).await;
    let key = a.pool.find(&b.id()).unwrap();
    a.pool.link(key).unwrap().ping();
    until("the ping is answered", || a.pool.freeze_rtt(&a.pool.freeze()) != [u32::MAX]).await;
    let link = a.pool.link(key).unwrap();
    assert!(link.agent().starts_with("groundskeeper/"));
    let stopped = a.net.shutdown(PATIENCE).await;
    assert_eq!((stopped.goodbyes, stopped.aborted), (1, 0));
    assert_eq!(a.journal.disconnects_by(Cause::Shutdown), 1);
    b.is_empty_again().await;
    assert_eq!(b.ends(), [(Cause::RemoteGoodbye, "shutdown: this node shuts down".to_owned())]);
}

#[tokio::test]
async fn requests_are_answered_or_refused_with_a_reason() {
    let handlers = Handlers::new()
        .on_request(
            "double",
            |_, payload: Bytes| async move { Ok([&payload[..], &payload[..]].concat().into()) },
        )
        .on_request("fail", |_, _| async { Err("no such block".to_owned()) })
        .on_request("panic", |_, _| async { panic!("a handler's mistake") })
        .on_request("huge", |_, _| async { Ok(vec![0; 2 << 20].into()) })
        .on_request("never", |_, _| std::future::pending());
    let (a, b) = (node(), Setup { handlers, ..Setup::default() }.start());
    let to = b.id();
    let ask = |kind: &'static str, payload: &'static [u8]| a.net.request(to, kind, payload, PATIENCE);
    assert_eq!(ask("ping", b"x").await, Err(RequestError::NotConnected(to)));
    a.connect(&b).await;
    assert_eq!(ask("ping", b"echo").await.unwrap(), "echo");
    assert_eq!(ask("double", b"ab").await.unwrap(), "abab");
    assert_eq!(ask("fail", b"").await, Err(RequestError::Failed("no such block".into())));
    assert_eq!(ask("nobody", b"").await, Err(RequestError::NotHandled));
    let Err(RequestError::Failed(words)) = ask("panic", b"").await else { panic!("it did not fail") };
    assert_eq!(words, "the handler ended without an answer");
    let Err(RequestError::Failed(words)) = ask("huge", b"").await else { panic!("it did not fail") };
    assert!(words.contains("over the cap"), "{words}");
    let late = a.net.request(to, "never", b"", Duration::from_millis(20)).await;
    assert_eq!(late, Err(RequestError::TimedOut(Duration::from_millis(20))));
    assert!(matches!(ask("ping", &[0; 1 << 20]).await, Err(RequestError::TooLarge(_))));
    let key = a.pool.find(&to).unwrap();
    assert_eq!(a.net.roster.find(key).unwrap().pending.len(), 0);
    // The connection has survived all of it.
    assert_eq!((a.pool.removals(), b.pool.removals()), (0, 0));
}

#[tokio::test]
async fn the_seventeenth_request_at_once_is_busy_and_the_end_of_a_connection_ends_all() {
    let dropped = Arc::new(Notify::new());
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let told = Arc::clone(&dropped);
    let handlers = Handlers::new().on_request("never", move |_, _| {
        let told = Told(Arc::clone(&told));
        async move {
            let _told = told;
            std::future::pending().await
        }
    });
    let base = Setup::default();
    let config = NetConfig { answers_at_once: 16, ..base.config };
    let b = Setup { config, handlers, ..base }.start();
    let a = Arc::new(node());
    a.connect(&b).await;
    let to = b.id();
    let (sender, mut ended) = mpsc::unbounded_channel();
    for _ in 0..17 {
        let (a, sender) = (Arc::clone(&a), sender.clone());
        tokio::spawn(async move { sender.send(a.net.request(to, "never", b"", PATIENCE).await) });
    }
    assert_eq!(ended.recv().await.unwrap(), Err(RequestError::Busy));
    b.net.shutdown(PATIENCE).await;
    for _ in 0..16 {
        assert_eq!(ended.recv().await.unwrap(), Err(RequestError::Disconnected));
    }
    tokio::time::timeout(PATIENCE, dropped.notified()).await.expect("handlers end with their connection");
    a.is_empty_again().await;
}

#[tokio::test]
async fn answers_that_are_late_are_ignored_and_made_up_ones_end_the_connection() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    // The node's own request for peers is number 0; answer it twice.
    for _ in 0..2 {
        raw.say(Message::Response { id: 0, status: ResponseStatus::Busy, payload: b"" }).await;
    }
    raw.say(Message::Request { id: 5, kind: "ping", payload: b"still here" }).await;
    let mut answered = false;
    while !answered {
        answered = raw.hear(|m| matches!(m, Message::Response { id: 5, payload: b"still here", .. })).await;
    }
    raw.say(Message::Response { id: 99, status: ResponseStatus::Ok, payload: b"" }).await;
    let (code, words) = raw.hear_goodbye().await;
    assert_eq!((code, words.as_str()), (4, "an answer to a request that was never made"));
    a.is_empty_again().await;
    assert_eq!(a.journal.disconnects_by(Cause::ProtocolError), 1);
}

fn topic_node(
    verdict: BroadcastVerdict,
) -> (super::harness::TestNode, mpsc::UnboundedReceiver<(PeerId, Bytes)>) {
    let (sender, received) = mpsc::unbounded_channel();
    let handlers = Handlers::new().on_broadcast("news", move |from, payload| {
        sender.send((*from, payload.clone())).unwrap();
        verdict
    });
    (Setup { handlers, ..Setup::default() }.start(), received)
}

#[tokio::test]
async fn a_broadcast_crosses_a_triangle_once() {
    let (a, mut at_a) = topic_node(BroadcastVerdict::Relay);
    let (b, mut at_b) = topic_node(BroadcastVerdict::Relay);
    let (c, mut at_c) = topic_node(BroadcastVerdict::Relay);
    a.connect(&b).await;
    b.connect(&c).await;
    c.connect(&a).await;
    let sent = a.net.broadcast("news", b"hello", Audience::Only(&[b.id()])).unwrap();
    assert_eq!(sent, SendReport { queued: 1, full: 0 });
    assert_eq!(at_b.recv().await.unwrap(), (a.id(), "hello".into()));
    assert_eq!(at_c.recv().await.unwrap(), (b.id(), "hello".into()));
    // Answers come in order, so what c sent to a earlier has arrived, and it was not new there.
    c.net.request(a.id(), "ping", b"", PATIENCE).await.unwrap();
    assert!(at_a.try_recv().is_err() && at_b.try_recv().is_err());
    let sent = a.net.broadcast("news", b"more", Audience::AllBut(&[b.id()])).unwrap();
    assert_eq!(sent.queued, 1);
    assert_eq!(at_c.recv().await.unwrap(), (a.id(), "more".into()));
    assert_eq!(at_b.recv().await.unwrap(), (c.id(), "more".into()));
    assert_eq!(a.net.broadcast("news", b"last", Audience::All).unwrap().queued, 2);
}

#[tokio::test]
async fn topics_without_a_handler_are_not_passed_on_and_bad_ones_cost_health() {
    let (a, (b, _at_b), (c, mut at_c)) =
        (node(), topic_node(BroadcastVerdict::Punish), topic_node(BroadcastVerdict::Keep));
    a.connect(&b).await;
    b.connect(&c).await;
    a.net.broadcast("gossip", b"nobody asked", Audience::All).unwrap();
    a.net.broadcast("news", b"wrong", Audience::All).unwrap();
    until("health is taken", || b.pool.freeze().words().iter().any(|word| word.health() == 75)).await;
    b.net.request(c.id(), "ping", b"", PATIENCE).await.unwrap();
    assert!(at_c.try_recv().is_err());
}

#[tokio::test]
async fn a_handler_that_panics_keeps_the_connection() {
    let handlers = Handlers::new().on_broadcast("news", |_, _| panic!("a handler's mistake"));
    let (a, b) = (node(), Setup { handlers, ..Setup::default() }.start());
    a.connect(&b).await;
    a.net.broadcast("news", b"boo", Audience::All).unwrap();
    a.net.request(b.id(), "ping", b"", PATIENCE).await.unwrap();
    assert_eq!(b.pool.live(), 1);
}

#[tokio::test]
async fn the_window_and_the_caps_limit_sending() {
    let limits = BroadcastLimits { per_window: 1, ..BroadcastLimits::default() };
    let a = Setup { broadcasts: limits, ..Setup::default() }.start();
    assert!(matches!(a.net.broadcast("", b"", Audience::All), Err(BroadcastError::BadTopic)));
    let huge = vec![0; 1 << 20];
    assert!(matches!(a.net.broadcast("t", &huge, Audience::All), Err(BroadcastError::TooLarge(_))));
    assert_eq!(a.net.broadcast("t", b"1", Audience::All), Ok(SendReport::default()));
    let limited = a.net.broadcast("t", b"2", Audience::All);
    assert!(matches!(limited, Err(BroadcastError::RateLimited { .. })));
}

#[tokio::test]
async fn a_probe_finds_a_node_alive_and_leaves_no_connection() {
    let (a, b) = (node(), node());
    a.order(b.address(), None, true);
    until("the probe has ended", || a.journal.select(9, |r| r.outcome == Outcome::Applied).len() == 1).await;
    a.is_empty_again().await;
    b.is_empty_again().await;
    assert_eq!((a.pool.removals(), b.pool.removals()), (0, 0));
    assert_eq!(a.book.freeze(&a.pool).failures, [0]);
}

/// A node that tells what messages of kind "hint" it gets.
fn message_node() -> (TestNode, mpsc::UnboundedReceiver<Bytes>) {
    let (sender, received) = mpsc::unbounded_channel();
    let handlers = Handlers::new()
        .on_message("hint", move |_, payload| sender.send(payload.clone()).unwrap())
        .on_message("panic", |_, _| panic!("a handler's mistake"));
    (Setup { handlers, ..Setup::default() }.start(), received)
}

#[tokio::test]
async fn one_way_messages_arrive_in_order_and_equal_ones_more_than_once() {
    let (a, (b, mut at_b)) = (node(), message_node());
    assert_eq!(a.net.send(b.id(), "hint", b"0"), Err(SendError::NotConnected(b.id())));
    a.connect(&b).await;
    for kind in ["", &"k".repeat(65)] {
        assert_eq!(a.net.send(b.id(), kind, b"0"), Err(SendError::BadKind(kind.to_owned())));
    }
    assert!(matches!(a.net.send(b.id(), "hint", &[0; 1 << 20]), Err(SendError::TooLarge(_))));
    let sent: Vec<Bytes> = (0..500_u32).map(|n| Bytes::copy_from_slice(&(n / 2).to_le_bytes())).collect();
    a.net.send(b.id(), "panic", b"").unwrap();
    a.net.send(b.id(), "nobody", b"").unwrap();
    sent.iter().for_each(|payload| a.net.send(b.id(), "hint", payload).unwrap());
    for payload in &sent {
        assert_eq!(at_b.recv().await.unwrap(), *payload);
    }
    assert_eq!((a.pool.live(), b.pool.live(), b.net.traffic().deliveries_dropped), (1, 1, [0, 0]));
}

#[tokio::test]
async fn a_peer_of_an_older_version_gets_no_one_way_message_and_stays() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    let refused = a.net.send(raw.identity.peer_id(), "hint", b"0").unwrap_err();
    assert!(refused.to_string().contains("runs \"raw\", which knows no one-way messages"), "{refused}");
    raw.say(Message::Request { id: 5, kind: "ping", payload: b"still here" }).await;
    while !raw.hear(|m| matches!(m, Message::Response { id: 5, payload: b"still here", .. })).await {}
}

#[tokio::test]
async fn a_flood_of_broadcasts_costs_other_peers_nothing_and_ends_the_one_that_floods() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let handlers = Handlers::new().on_broadcast("news", move |from, _| {
        sender.send(*from).unwrap();
        BroadcastVerdict::Keep
    });
    let base = Setup::default();
    let config = NetConfig { broadcasts_per_second_per_peer: 20, ..base.config };
    let b = Setup { config, handlers, ..base }.start();
    let a = node();
    a.connect(&b).await;
    let mut raw = Raw::greeted_by(&b).await;
    let flooder = raw.identity.peer_id();
    for round in 0..100_u32 {
        let frames: Vec<u8> = (0..100_u32)
            .flat_map(|n| {
                let payload = (round * 100 + n).to_le_bytes();
                Message::Broadcast { topic: "news", payload: &payload }.encode(1 << 20).unwrap()
            })
            .collect();
        if raw.try_send(&frames).await.is_err() {
            break;
        }
    }
    let (code, words) = raw.hear_goodbye().await;
    assert_eq!(cause_of(code), Some(Cause::Limits));
    assert_eq!(words, "it sends far more than 20 broadcasts and messages a second");
    until("the flooder is gone", || b.pool.find(&flooder).is_none()).await;
    // As many as it may send: all of them arrive, and its requests are answered.
    for n in 0..20_u64 {
        a.net.broadcast("news", &n.to_le_bytes(), Audience::All).unwrap();
    }
    a.net.request(b.id(), "ping", b"", PATIENCE).await.unwrap();
    let taken: Vec<PeerId> = std::iter::from_fn(|| received.try_recv().ok()).collect();
    assert_eq!(taken.iter().filter(|from| **from == a.id()).count(), 20);
    let [number, time] = b.net.traffic().deliveries_dropped;
    assert!(number > 200 && time == 0, "{number} {time}");
    assert!(taken.len() < 1000, "{}", taken.len());
}

#[tokio::test]
async fn expensive_messages_are_dropped_for_the_peer_that_sends_them_and_for_no_other() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let handlers = Handlers::new().on_message("hint", move |from, payload| {
        if payload.starts_with(b"dear") {
            std::thread::sleep(Duration::from_millis(150));
        }
        sender.send(*from).unwrap();
    });
    let b = Setup { handlers, ..Setup::default() }.start();
    let (a, greedy) = (node(), node());
    a.connect(&b).await;
    greedy.connect(&b).await;
    for _ in 0..50 {
        greedy.net.send(b.id(), "hint", b"dear").unwrap();
    }
    // Answers come in order, so the messages before it were taken or dropped.
    greedy.net.request(b.id(), "ping", b"", PATIENCE).await.unwrap();
    a.net.send(b.id(), "hint", b"cheap").unwrap();
    a.net.request(b.id(), "ping", b"", PATIENCE).await.unwrap();
    let taken: Vec<PeerId> = std::iter::from_fn(|| received.try_recv().ok()).collect();
    assert!(taken.contains(&a.id()));
    assert!(taken.iter().filter(|from| **from == greedy.id()).count() < 40, "{}", taken.len());
    let [number, time] = b.net.traffic().deliveries_dropped;
    assert!(number == 0 && time > 10, "{number} {time}");
    assert_eq!(b.pool.live(), 2);
}
