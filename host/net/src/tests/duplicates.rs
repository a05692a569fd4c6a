//! Two connections between the same two nodes: whichever race they run, both ends keep the same one.

use std::time::Duration;

use groundskeeper_pool::journal::{Cause, Initiator, Outcome};
use groundskeeper_pool::pool::{DisconnectOutcome, Removal};

use super::harness::{PATIENCE, Raw, Setup, TestNode, closes, hello, node, until};
use crate::wire::{FEATURE_ALONE, Hello};
use crate::{Identity, NetConfig};

/// Rounds of each race. Two workers on loopback meet all interleavings within the first dozens.
const ROUNDS: usize = 60;

fn settled(node: &TestNode) -> bool {
    let stats = node.pool.stats(0, Duration::MAX);
    node.book.dialing() == 0 && (stats.total, stats.handshaking, stats.closing) == (1, 0, 0)
}

/// One connection is left, the same at both ends. It works, and then ends.
async fn one_is_left(a: &TestNode, b: &TestNode, round: usize) {
    until(&format!("round {round} has settled"), || settled(a) && settled(b)).await;
    let (ab, ba) = tokio::join!(
        a.net.request(b.id(), "ping", b"ab", PATIENCE),
        b.net.request(a.id(), "ping", b"ba", PATIENCE),
    );
    assert_eq!((ab.unwrap(), ba.unwrap()), ("ab".into(), "ba".into()), "round {round}");
    let key = a.pool.find(&b.id()).unwrap();
    let removal = Removal::new(Initiator::Application, Cause::Phase, "the round is over");
    assert_eq!(a.pool.disconnect(key, removal, None), DisconnectOutcome::Closed);
    a.is_empty_again().await;
    b.is_empty_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_from_both_sides_leave_one() {
    let (a, b) = (node(), node());
    for round in 0..ROUNDS {
        a.order(b.address(), None, false);
        b.order(a.address(), None, false);
        one_is_left(&a, &b, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dials_from_one_side_leave_one() {
    let base = Setup::default();
    let listen = vec!["127.0.0.1:0".parse().unwrap(); 2];
    let b = Setup { config: NetConfig { listen, ..base.config }, ..base }.start();
    let a = node();
    for round in 0..ROUNDS {
        for address in b.net.local_addrs() {
            a.order(address, None, false);
        }
        one_is_left(&a, &b, round).await;
    }
}

#[tokio::test]
async fn a_second_dial_gets_a_goodbye_as_a_duplicate() {
    let base = Setup::default();
    let listen = vec!["127.0.0.1:0".parse().unwrap(); 2];
    let b = Setup { config: NetConfig { listen, ..base.config }, ..base }.start();
    let a = node();
    a.connect(&b).await;
    let outcome = a.dial(b.net.local_addrs()[1], None).await;
    assert_eq!(outcome, Outcome::Failed("connected to this peer already".into()));
    assert_eq!((a.pool.live(), b.pool.live(), a.pool.removals()), (1, 1, 0));
    let failures = a.book.entries().iter().map(|entry| entry.failures).max();
    assert_eq!(failures, Some(0), "a duplicate is no failure of the address");
}

#[tokio::test]
async fn a_node_that_came_back_replaces_its_ghost() {
    let (b, identity) = (node(), Identity::generate());
    let mut ghost = Raw::greeted_with(identity.clone(), hello(), &b).await;
    let _new = Raw::greeted_with(identity, Hello { boot_nonce: 8, ..hello() }, &b).await;
    let (code, text) = ghost.hear_goodbye().await;
    assert_eq!(code, 7);
    // Both addresses: the other process has proven the same key.
    let old = ghost.stream.get_ref().0.local_addr().unwrap();
    assert!(
        text.starts_with("the peer came back: 127.0.0.1:") && text.ends_with(&format!(" replaces {old}")),
        "{text}"
    );
    closes(&mut ghost.stream).await;
    assert_eq!(b.ends(), [(Cause::Replaced, text)]);
    assert_eq!(b.pool.live(), 1);
}

#[tokio::test]
async fn a_peer_that_lost_its_connection_is_believed_once_the_old_one_is_old() {
    let (b, identity) = (node(), Identity::generate());
    let alone = Hello { features: FEATURE_ALONE, ..hello() };
    let mut ghost = Raw::greeted_with(identity.clone(), alone.clone(), &b).await;
    // The second dial comes at once, so it may race with the first: the first one stays.
    let mut second = Raw::known_as(identity.clone(), &b).await;
    second.say(crate::wire::Message::Hello(alone.clone())).await;
    assert_eq!(second.hear_goodbye().await.0, 7);
    assert_eq!(b.pool.removals(), 0);
    b.clock.later(Duration::from_secs(60));
    let _third = Raw::greeted_with(identity, alone, &b).await;
    assert_eq!(ghost.hear_goodbye().await.0, 7);
    assert_eq!(b.ends(), [(Cause::Replaced, "the peer has lost this connection and came again".into())]);
}
