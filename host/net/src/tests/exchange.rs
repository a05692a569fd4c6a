//! Addresses from peers: good ones spread, bad ones change nothing.

use std::net::SocketAddr;

use groundskeeper_pool::book::{AddressSource, BookLimits, LearnOutcome};
use groundskeeper_pool::journal::Cause;

use super::harness::{PATIENCE, Raw, Setup, TestNode, hello, node, until};
use crate::Identity;
use crate::wire::{Hello, MAX_PEERS_TOLD, Message, ResponseStatus, ToldAddress, encode_peers};

#[tokio::test]
async fn a_new_node_learns_the_peers_of_its_first_peer() {
    let (a, b, c) = (node(), node(), node());
    a.connect(&c).await;
    b.connect(&a).await;
    until("b knows c", || b.book.entries().iter().any(|entry| entry.address == c.address())).await;
    // A node that accepted a connection knows where that peer listens.
    until("a knows b", || a.book.entries().iter().any(|entry| entry.address == b.address())).await;
    assert!(b.book.entries().iter().all(|entry| entry.address != b.address()), "nobody learns itself");
}

#[tokio::test]
async fn a_peer_is_believed_about_its_port_but_not_about_its_host() {
    let a = node();
    let listen = vec!["203.0.113.9:7000".parse().unwrap()];
    let _raw = Raw::greeted_with(Identity::generate(), Hello { listen, ..hello() }, &a).await;
    let known: Vec<SocketAddr> = a.book.entries().iter().map(|entry| entry.address).collect();
    assert_eq!(known, ["127.0.0.1:7000".parse().unwrap()]);
    let silent = node();
    let _raw = Raw::greeted_by(&silent).await;
    assert!(silent.book.is_empty(), "who does not listen is not in the book");
}

/// Connects as a peer and answers the node's request for peers with `payload`.
async fn tells(a: &TestNode, payload: &[u8]) -> Raw {
    let mut raw = Raw::greeted_by(a).await;
    let id = raw
        .hear(|message| match message {
            Message::Request { id, kind: "peers", payload: b"" } => *id,
            other => panic!("a question for peers was expected, not {other:?}"),
        })
        .await;
    raw.say(Message::Response { id, status: ResponseStatus::Ok, payload }).await;
    raw
}

fn addresses(count: u16, port: u16) -> Vec<ToldAddress> {
    (0..count).map(|i| (SocketAddr::from(([1, 1, (i >> 8) as u8, i as u8], port)), None)).collect()
}

#[tokio::test]
async fn lists_that_break_the_rules_end_the_connection_and_teach_nothing() {
    let a = node();
    let too_long = encode_peers(&addresses(MAX_PEERS_TOLD as u16 + 1, 7000));
    for payload in [&too_long[..], b"garbage", &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
        let mut raw = tells(&a, payload).await;
        assert_eq!(raw.hear_goodbye().await.0, 4);
        drop(raw);
        a.is_empty_again().await;
    }
    assert_eq!(a.journal.disconnects_by(Cause::ProtocolError), 3);
    assert!(a.book.is_empty());
}

#[tokio::test]
async fn addresses_that_must_not_be_dialed_are_skipped() {
    let a = Setup { book: BookLimits { per_source_group: 20, ..BookLimits::default() }, ..Setup::default() }
        .start();
    let poison: Vec<ToldAddress> =
        ["1.1.1.1:0", "10.0.0.1:7000", "127.0.0.1:22", "224.0.0.1:7000", "[::1]:7000", "0.0.0.0:1"]
            .into_iter()
            .map(|text| (text.parse().unwrap(), None))
            .collect();
    let mut raw = tells(&a, &encode_peers(&poison)).await;
    raw.say(Message::Request { id: 1, kind: "ping", payload: b"" }).await;
    while !raw.hear(|m| matches!(m, Message::Response { id: 1, .. })).await {}
    assert!(a.book.is_empty());
    // All lying peers of one network group together fill no more than the group's share.
    for third in 0..4 {
        let mut raw = tells(&a, &encode_peers(&addresses(30, 7000 + third))).await;
        raw.say(Message::Request { id: 1, kind: "ping", payload: b"" }).await;
        while !raw.hear(|m| matches!(m, Message::Response { id: 1, .. })).await {}
    }
    assert_eq!(a.book.len(), 20);
    assert_eq!(a.journal.disconnects_by(Cause::ProtocolError), 0);
}

#[tokio::test]
async fn a_peer_list_is_sent_once_per_interval() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    let mut statuses = Vec::new();
    for id in 0..2 {
        raw.say(Message::Request { id, kind: "peers", payload: b"" }).await;
    }
    while statuses.len() < 2 {
        statuses.extend(
            raw.hear(|message| match message {
                Message::Response { status, .. } => Some(*status),
                _ => None,
            })
            .await,
        );
    }
    assert_eq!(statuses, [ResponseStatus::Ok, ResponseStatus::Busy]);
}

#[tokio::test]
async fn bootstrap_names_are_resolved_at_each_use() {
    let base = Setup::default();
    let id = Identity::generate().peer_id();
    let bootstrap = ["localhost:7000", &format!("{id}@127.0.0.1:7001"), "0.0.0.0:7000"]
        .into_iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let config = crate::NetConfig { bootstrap, ..base.config };
    let a = Setup { config, ..base }.start();
    for _ in 0..2 {
        let resolved = tokio::time::timeout(PATIENCE, a.net.resolve_bootstrap()).await.unwrap();
        assert!(resolved.addresses.contains(&"127.0.0.1:7001".parse().unwrap()));
        assert!(resolved.addresses.iter().any(|address| address.port() == 7000));
        let (entry, why) = &resolved.failed[0];
        assert_eq!((entry.to_string().as_str(), why.contains("not the address")), ("0.0.0.0:7000", true));
    }
    let (order, _ticket) = a
        .book
        .begin(
            "127.0.0.1:7001".parse().unwrap(),
            false,
            groundskeeper_pool::journal::Initiator::Host,
            "test",
            Vec::new(),
        )
        .unwrap();
    assert_eq!(order.expect, Some(id));
    let told = a.book.learn("127.0.0.1:7001".parse().unwrap(), None, AddressSource::Itself);
    assert_eq!(told, LearnOutcome::Known);
}
