//! Peers that do not read, read slowly, or send too much: they harm themselves, not the others.

use std::time::{Duration, Instant};

use bytes::Bytes;
use groundskeeper_flow::OutboxLimits;
use groundskeeper_pool::journal::{Cause, Initiator};
use groundskeeper_pool::pool::Removal;
use tokio::sync::mpsc;

use super::harness::{PATIENCE, Raw, Setup, node, until};
use crate::wire::Message;
use crate::{Audience, BroadcastVerdict, Handlers, NetConfig};

#[tokio::test]
async fn a_stopped_reader_delays_no_other_peer_and_is_still_read() {
    let (sender, mut heard) = mpsc::unbounded_channel();
    let handlers = Handlers::new().on_broadcast("up", move |from, payload: &Bytes| {
        sender.send((*from, payload.clone())).unwrap();
        BroadcastVerdict::Keep
    });
    let base = Setup::default();
    let outbox = OutboxLimits { data_bytes: 256 << 10, ..OutboxLimits::default() };
    let broadcasts =
        groundskeeper_pool::broadcasts::BroadcastLimits { per_window: u32::MAX, ..Default::default() };
    let config = NetConfig { outbox, ..base.config };
    let a = Setup { config, broadcasts, handlers, ..base }.start();
    let b = node();
    a.connect(&b).await;
    let mut stopped = Raw::greeted_by(&a).await;
    let stopped_id = stopped.identity.peer_id();

    // Fill the socket, then the queue, of the peer that does not read.
    let payload = |count: u64| [&count.to_le_bytes()[..], &[7; 32 << 10]].concat();
    let (mut count, mut full_in_a_row) = (0_u64, 0);
    while full_in_a_row < 100 {
        count += 1;
        let sent = a.net.broadcast("down", &payload(count), Audience::Only(&[stopped_id])).unwrap();
        full_in_a_row = if sent.full == 1 { full_in_a_row + 1 } else { 0 };
        tokio::task::yield_now().await;
    }
    let key = a.pool.find(&stopped_id).unwrap();
    let queued = a.pool.link(key).unwrap().traffic().kib_queued;
    assert!((190..=224).contains(&queued), "{queued} KiB are queued");

    // The node still reads from it, and the others still hear from the node.
    stopped.say(Message::Broadcast { topic: "up", payload: b"still speaking" }).await;
    let (from, said) = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    assert_eq!((from, &said[..]), (stopped_id, &b"still speaking"[..]));
    let sent = a.net.broadcast("down", &payload(0), Audience::All).unwrap();
    assert_eq!((sent.queued, sent.full), (1, 1));
    assert_eq!(a.net.request(b.id(), "ping", b"quick", PATIENCE).await.unwrap(), "quick");

    // A flood of pings with unread answers uses no more memory.
    for nonce in 0..1000 {
        stopped.say(Message::Ping { nonce }).await;
    }
    stopped.say(Message::Broadcast { topic: "up", payload: b"after the pings" }).await;
    tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    assert!(a.pool.link(key).unwrap().traffic().kib_queued <= queued + 2);

    // The node can disconnect it, although it does not read the goodbye.
    let begun = Instant::now();
    a.pool.disconnect(key, Removal::new(Initiator::Host, Cause::Limits, "it does not read"), None);
    until("it is gone", || a.pool.closing() == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(a.pool.live(), 1);
}

#[tokio::test]
async fn unanswered_pings_are_counted_until_a_sign_of_life() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    let key = a.pool.find(&raw.identity.peer_id()).unwrap();
    let link = a.pool.link(key).unwrap();
    let lost = || a.pool.freeze().words()[0].pings_lost();
    for expected in 0..3 {
        a.clock.later(Duration::from_secs(1));
        link.ping();
        until("the ping is sent", || lost() == expected).await;
        let mut pinged = false;
        while !pinged {
            pinged = raw.hear(|message| matches!(message, Message::Ping { .. })).await;
        }
    }
    assert_eq!(lost(), 2);
    a.clock.later(Duration::from_secs(1));
    raw.say(Message::Ping { nonce: 1 }).await;
    while !raw.hear(|message| matches!(message, Message::Pong { nonce: 1 })).await {}
    link.ping();
    until("the count is back", || lost() == 0).await;
}

#[tokio::test]
async fn reads_from_one_peer_are_limited() {
    let base = Setup::default();
    let config = NetConfig { bytes_per_second_per_peer: 64 << 10, ..base.config };
    let a = Setup { config, ..base }.start();
    let mut raw = Raw::greeted_by(&a).await;
    let begun = Instant::now();
    // Three seconds' worth, of which one passes at once.
    for _ in 0..6 {
        raw.say(Message::Broadcast { topic: "t", payload: &[0; 32 << 10] }).await;
    }
    raw.say(Message::Ping { nonce: 5 }).await;
    while !raw.hear(|message| matches!(message, Message::Pong { nonce: 5 })).await {}
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1500), "read in {took:?}");
    assert_eq!(a.pool.live(), 1);
}
