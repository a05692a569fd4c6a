//! Two nodes with one key: each notices. A node that restarts does not.

use groundskeeper_flow::{KeyConflict, TrafficReport as _};
use groundskeeper_pool::journal::{ActionKind, Outcome};

use super::harness::{Raw, Setup, TestNode, hello, node, until};
use crate::Identity;
use crate::wire::{Hello, Message};

fn twin(identity: &Identity) -> TestNode {
    Setup { identity: identity.clone(), ..Setup::default() }.start()
}

fn conflict(node: &TestNode) -> Option<KeyConflict> {
    node.net.traffic().key_conflict
}

fn recorded(node: &TestNode) -> Vec<String> {
    let records = node.journal.select(usize::MAX, |record| record.what == ActionKind::KeyConflict);
    records.into_iter().map(|record| record.reason).collect()
}

#[tokio::test]
async fn two_nodes_with_one_key_that_meet_know_it() {
    let identity = Identity::generate();
    let (a, b) = (twin(&identity), twin(&identity));
    let Outcome::Failed(why) = a.dial(b.address(), None).await else { panic!("a connection to its own key") };
    assert!(why.contains("another process with this node's key"), "{why}");
    until("the other one knows it too", || conflict(&b).is_some()).await;
    assert_eq!(conflict(&a).unwrap().last, format!("it proved the key at {}", b.address()));
    assert_eq!((recorded(&a).len(), recorded(&b).len()), (1, 1));
    let entries = a.book.entries();
    let failures = a.book.freeze(&a.pool).failures;
    assert_eq!(failures, [1], "it waits like any address that failed: {entries:?}");
}

#[tokio::test]
async fn a_node_that_meets_itself_has_no_conflict() {
    let a = node();
    assert_eq!(a.dial(a.address(), None).await, Outcome::Failed("it is this node itself".into()));
    until("both ends have ended", || !a.refusals().is_empty()).await;
    assert_eq!((conflict(&a), recorded(&a).len()), (None, 0));
}

#[tokio::test]
async fn two_nodes_with_one_key_and_two_peers_both_notice_and_wait() {
    let identity = Identity::generate();
    let (a, b, peers) = (twin(&identity), twin(&identity), [node(), node()]);
    // As the host does for a node without peers.
    [&a, &b].iter().for_each(|twin| twin.book.cap_waits(Some(std::time::Duration::from_secs(1))));
    for (newcomer, loser) in [(&a, None), (&b, Some(&a)), (&a, Some(&b))] {
        for peer in &peers {
            assert_eq!(newcomer.dial(peer.address(), None).await, Outcome::Applied);
        }
        if let Some(loser) = loser {
            until("it has noticed", || conflict(loser).is_some()).await;
            loser.is_empty_again().await;
            let waits = loser.book.freeze(&loser.pool).wait_s;
            assert!(waits.len() == 2 && waits.iter().all(|wait_s| *wait_s > 1), "{waits:?}");
            let told = conflict(loser).unwrap().last;
            assert!(told.contains("the peer came back: 127.0.0.1:"), "{told}");
        }
    }
    assert_eq!((recorded(&a).len(), recorded(&b).len()), (1, 1));
    assert!(peers.iter().all(|peer| conflict(peer).is_none()));
}

#[tokio::test]
async fn a_restart_is_no_conflict_and_one_peer_alone_is_not_believed_at_once() {
    let (a, peer) = (node(), Identity::generate());
    let mut liar = Raw::greeted_by(&a).await;
    liar.say(Message::Goodbye { code: 7, text: "the peer came back" }).await;
    a.is_empty_again().await;
    for boot_nonce in 1..6 {
        _ = Raw::greeted_with(peer.clone(), Hello { boot_nonce, ..hello() }, &a).await;
    }
    assert_eq!((conflict(&a), recorded(&a).len()), (None, 0));
}
