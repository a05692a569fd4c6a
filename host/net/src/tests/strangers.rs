//! Peers that do not belong here: each is refused with its reason, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::journal::{ActionKind, Cause, Outcome};
use groundskeeper_pool::pool::PoolLimits;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::harness::{
    NETWORK, PATIENCE, Raw, Setup, TestNode, alone, closes, descriptors, hello, node, until,
};
use crate::tls::AnyRawKey;
use crate::wire::{Hello, Message, PROTOCOL_MAJOR};
use crate::{HandshakeError, Identity, NetConfig};

fn impatient() -> TestNode {
    let base = Setup::default();
    let config = NetConfig { handshake_timeout: Duration::from_millis(150), ..base.config };
    Setup { config, ..base }.start()
}

async fn refused_with(node: &TestNode, words: &str) {
    until(words, || node.refusals().iter().any(|why| why.contains(words))).await;
    node.is_empty_again().await;
    assert_eq!(node.pool.removals(), 0);
}

fn failed(outcome: &Outcome) -> &str {
    let Outcome::Failed(why) = outcome else { panic!("it did not fail: {outcome}") };
    why
}

#[tokio::test]
async fn garbage_instead_of_tls() {
    let a = node();
    let mut tcp = TcpStream::connect(a.address()).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: you\r\n\r\n").await.unwrap();
    closes(&mut tcp).await;
    refused_with(&a, "does not speak the protocol").await;
}

/// A client without a key.
fn without_key() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let any_key = AnyRawKey::new(&provider);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(any_key)
        .with_no_client_auth();
    client.alpn_protocols = vec![format!("gk/{PROTOCOL_MAJOR}/{NETWORK}").into_bytes()];
    TlsConnector::from(Arc::new(client))
}

#[tokio::test]
async fn somebody_without_a_key() {
    let a = node();
    let tcp = TcpStream::connect(a.address()).await.unwrap();
    let connector = without_key();
    // In TLS 1.3 the client finishes before the server refuses it.
    if let Ok(mut stream) = connector.connect("a".try_into().unwrap(), tcp).await {
        closes(&mut stream).await;
    }
    refused_with(&a, "it showed no ed25519 key").await;
}

#[tokio::test]
async fn a_node_with_another_key_than_expected() {
    let (a, b) = (node(), node());
    let expected = Identity::generate().peer_id();
    let outcome = a.dial(b.address(), Some(expected)).await;
    assert_eq!(failed(&outcome), format!("another key than expected answered: {}", b.id()));
    a.is_empty_again().await;
    refused_with(&b, "it turned us away: another key than expected").await;
}

#[tokio::test]
async fn a_node_of_another_network() {
    let (a, base) = (node(), Setup::default());
    let config = NetConfig { network: "elsewhere".into(), ..base.config };
    let b = Setup { config, ..base }.start();
    assert_eq!(failed(&a.dial(b.address(), None).await), "it belongs to another network");
    a.is_empty_again().await;
    refused_with(&b, "it belongs to another network").await;
}

#[tokio::test]
async fn ourselves() {
    let a = node();
    let outcome = a.dial(a.address(), None).await;
    assert_eq!(failed(&outcome), "it is this node itself");
    assert!(a.book.is_empty(), "our own address is forgotten");
    refused_with(&a, "it is this node itself").await;
}

#[tokio::test]
async fn a_version_of_the_future() {
    let a = node();
    let mut raw = Raw::to(&a).await;
    raw.say(Message::Hello(Hello { least_version: 7, greatest_version: 9, ..hello() })).await;
    let (code, words) = raw.hear_goodbye().await;
    assert_eq!((code, words.as_str()), (4, "it speaks versions 7 to 9, this node 1 to 1"));
    closes(&mut raw.stream).await;
    refused_with(&a, "versions 7 to 9").await;
}

#[tokio::test]
async fn something_else_than_a_hello() {
    let ping = Message::Ping { nonce: 1 }.encode(super::harness::MAX_FRAME).unwrap();
    for (first, words) in [
        (ping.to_vec(), "sent a ping instead of a hello"),
        (vec![0xff; 64], "kind 255, which this version does not know"),
        (vec![0xff, 0xff, 0xff, 0xff, 0], "a hello of 4294967295 bytes, over the cap of 512"),
        (vec![0, 0, 16, 0, 6], "a response of 1048576 bytes, over the cap of 0"),
        (vec![3, 0, 0, 0, 0, 1, 1], "a hello that cannot be read"),
    ] {
        let a = node();
        let mut raw = Raw::to(&a).await;
        raw.send(&first).await;
        assert_eq!(raw.hear_goodbye().await.0, 4);
        closes(&mut raw.stream).await;
        refused_with(&a, words).await;
    }
}

#[tokio::test]
async fn hellos_that_lie_about_their_lists() {
    let a = node();
    let mut raw = Raw::to(&a).await;
    let listen = vec!["10.0.0.1:1".parse().unwrap(); 9];
    raw.say(Message::Hello(Hello { listen, ..hello() })).await;
    raw.hear_goodbye().await;
    refused_with(&a, "a hello that cannot be read").await;
}

#[tokio::test]
async fn handshakes_that_stop_halfway_end_by_their_deadline() {
    let a = impatient();
    let mut silent = TcpStream::connect(a.address()).await.unwrap();
    let mut half = TcpStream::connect(a.address()).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let mut mute = Raw::to(&a).await;
    closes(&mut silent).await;
    closes(&mut half).await;
    closes(&mut mute.stream).await;
    refused_with(&a, "the handshake was not done within 150ms").await;
    a.net.shutdown(PATIENCE).await;
    assert_eq!(a.refused(), 3, "each is in a record");
}

#[tokio::test]
async fn a_node_that_does_not_answer_our_dial() {
    let a = impatient();
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(failed(&a.dial(deaf.local_addr().unwrap(), None).await), "no answer in time");
    let nobody = deaf.local_addr().unwrap();
    // Before the port is free: the system could give this port again.
    let b = node();
    drop(deaf);
    assert_eq!(failed(&b.dial(nobody, None).await), "nothing listens there");
    a.is_empty_again().await;
    b.is_empty_again().await;
}

/// Breaks the rules with `bytes` after a proper hello.
async fn breaks_off(bytes: &[u8], words: &str) {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    raw.send(bytes).await;
    let (code, told) = raw.hear_goodbye().await;
    assert_eq!(code, 4);
    assert!(told.contains(words), "{told}");
    closes(&mut raw.stream).await;
    a.is_empty_again().await;
    assert_eq!(a.ends(), [(Cause::ProtocolError, told)]);
}

#[tokio::test]
async fn frames_that_break_the_rules() {
    breaks_off(&[0xff, 0xff, 0xff, 0x7f, 4], "a broadcast of 2147483647 bytes, over the cap of 1048576")
        .await;
    breaks_off(&[12, 0, 0, 0, 1], "a ping of 12 bytes, over the cap of 11").await;
    breaks_off(&[0, 0, 0, 0, 1], "no room for its kind").await;
    breaks_off(b"\x05\0\0\0\xeegarbage", "kind 238").await;
    breaks_off(&[3, 0, 0, 0, 4, 9, 9], "a broadcast that cannot be read").await;
    breaks_off(&[3, 0, 0, 0, 1, 5, 5], "a ping with 1 bytes too many").await;
    breaks_off(&[2, 0, 0, 0, 2, 5], "an answer to a ping that was never sent").await;
    let again = Message::Hello(hello()).encode(super::harness::MAX_FRAME).unwrap();
    breaks_off(&again, "a second hello").await;
}

#[tokio::test]
async fn a_frame_that_ends_in_the_middle() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    raw.send(&[0, 1, 0, 0, 4, 1, 2, 3]).await;
    raw.stream.shutdown().await.unwrap();
    a.is_empty_again().await;
    assert_eq!(a.ends(), [(Cause::RemoteClosed, "closed in the middle of a frame".to_owned())]);
}

#[tokio::test]
async fn garbage_below_tls() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    let (tcp, _) = raw.stream.get_mut();
    tcp.write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
        .await
        .unwrap();
    a.is_empty_again().await;
    let (cause, words) = a.ends().remove(0);
    assert_eq!(cause, Cause::ProtocolError);
    assert!(words.starts_with("broke the encryption"), "{words}");
}

#[tokio::test]
async fn a_banned_peer_gets_a_goodbye() {
    let a = node();
    let mut raw = Raw::to(&a).await;
    a.pool.ban(raw.identity.peer_id(), Duration::from_secs(60));
    raw.say(Message::Hello(hello())).await;
    let (code, words) = raw.hear_goodbye().await;
    assert_eq!(code, 1);
    assert!(words.contains("banned"), "{words}");
    closes(&mut raw.stream).await;
    refused_with(&a, "banned").await;
    let told = a.journal.explain(&raw.identity.peer_id());
    assert!(told.iter().any(|record| record.what == ActionKind::Refused), "{told:?}");
}

#[tokio::test]
async fn a_dial_that_is_turned_away_names_the_peer_behind_the_key() {
    let (a, b) = (node(), node());
    b.pool.ban(a.id(), Duration::from_secs(60));
    assert!(failed(&a.dial(b.address(), None).await).contains("banned"));
    let told = a.journal.explain(&b.id());
    assert!(told.iter().any(|record| matches!(record.outcome, Outcome::Failed(_))), "{told:?}");
}

#[test]
fn a_thousand_handshakes_at_once_meet_the_limit_and_leave_nothing() {
    if alone("tests::strangers::a_thousand_handshakes_at_once_meet_the_limit_and_leave_nothing") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(thousand());
    }
}

async fn thousand() {
    let base = Setup::default();
    let config = NetConfig { handshake_timeout: Duration::from_millis(500), ..base.config };
    let pool = PoolLimits { handshakes: 20, ..PoolLimits::only_capacity(256) };
    let a = Setup { config, pool, ..base }.start();
    let before = descriptors();
    let mut crowd = JoinSet::new();
    for _ in 0..1000 {
        let address = a.address();
        crowd.spawn(async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            closes(&mut tcp).await;
        });
    }
    let mut most = 0;
    while crowd.join_next().await.is_some() {
        most = most.max(a.pool.stats(0, Duration::MAX).handshaking);
    }
    assert!(most <= 20, "{most} handshakes at once");
    a.is_empty_again().await;
    let records = a.journal.select(usize::MAX, |record| record.what == ActionKind::Refused);
    assert!(records.len() <= 4, "{} records for one flood", records.len());
    until("descriptors are given back", || descriptors() == before).await;
    // The node still accepts proper peers.
    let raw = Raw::greeted_by(&a).await;
    drop(raw);
    a.is_empty_again().await;
    until("descriptors are given back", || descriptors() == before).await;
    let stopped = a.net.shutdown(PATIENCE).await;
    assert_eq!(stopped.aborted, 0);
    assert_eq!(a.refused(), 1000, "every refusal is in one of the records");
}

#[test]
fn errors_of_the_handshake_have_their_place_in_the_address_book() {
    use groundskeeper_pool::book::DialFailure;
    let turned_away = |cause| HandshakeError::TurnedAway { cause, text: "words".into() }.into_failure();
    assert_eq!(turned_away(Some(Cause::Replaced)), DialFailure::Duplicate);
    assert_eq!(turned_away(Some(Cause::Banned)), DialFailure::Denied("words".into()));
    assert_eq!(turned_away(None), DialFailure::Handshake("it turned us away: words".into()));
    assert_eq!(HandshakeError::TimedOut(Duration::ZERO).into_failure(), DialFailure::TimedOut);
}
