//! How connections end, and that each side records its own reason.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use groundskeeper_base::clock::Clock as _;
use groundskeeper_pool::journal::{Cause, Initiator};
use groundskeeper_pool::pool::{Direction, Link, PeerFacts, Removal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::harness::{MAX_FRAME, PATIENCE, Raw, TestNode, closes, hello, node, until};
use crate::wire::Message;
use crate::write_progress::WRITE_DEADLINE;
use crate::{Audience, Identity};

#[tokio::test]
async fn a_remote_goodbye_is_recorded_with_its_text() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    raw.say(Message::Goodbye { code: 0, text: "too\nidle" }).await;
    closes(&mut raw.stream).await;
    a.is_empty_again().await;
    assert_eq!(a.ends(), [(Cause::RemoteGoodbye, "phase: too idle".to_owned())]);
    let mut raw = Raw::greeted_by(&a).await;
    raw.say(Message::Goodbye { code: 200, text: "a later version's reason" }).await;
    a.is_empty_again().await;
    assert_eq!(a.ends()[1], (Cause::RemoteGoodbye, "code 200: a later version's reason".to_owned()));
}

/// Sends its peer, which does not read, more than both sockets hold.
async fn fill(a: &TestNode) {
    let mut number = 0_u64;
    while a.pool.freeze_traffic(&a.pool.freeze()).first().map_or(0, |traffic| traffic.kib_queued) < 256 {
        number += 1;
        assert!(number < 100_000, "its socket takes everything");
        // A full queue drops it.
        _ = a.net.broadcast("news", &[&number.to_le_bytes()[..], &[7; 32 * 1024]].concat(), Audience::All);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_peer_that_sends_and_never_reads_does_not_keep_its_place() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    fill(&a).await;
    reads_nothing(&a, &mut raw).await;
}

/// Time passes while the peer only sends: it is ended.
async fn reads_nothing(a: &TestNode, raw: &mut Raw) {
    // What its system took after the node's last look counts once.
    for _ in 0..2 {
        minute_passes(a, raw).await;
    }
    a.is_empty_again().await;
    let ends = a.ends();
    assert_eq!(ends[0].0, Cause::WriteFailure);
    assert!(ends[0].1.starts_with("write deadline: it took nothing"), "{ends:?}");
}

/// After the deadline the peer sends something, and the node has seen it, if the peer is not ended already.
async fn minute_passes(a: &TestNode, raw: &mut Raw) {
    let Some(key) = a.pool.find(&raw.identity.peer_id()) else { return };
    let before = a.clock.coarse();
    a.clock.later(WRITE_DEADLINE);
    raw.say(Message::Ping { nonce: 0 }).await;
    until("it is seen", || a.pool.seen(key).is_none_or(|seen| seen > before)).await;
    // The deadline is looked at after that, in the same poll.
    tokio::task::yield_now().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_reads_slowly_keeps_its_place_until_it_reads_nothing() {
    /// Enough that the receiving system opens its window again, and less than makes the node's socket writable.
    const SLOW: usize = 256 * 1024;
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    // A fixed size: otherwise the receiving system makes room for everything once the peer reads.
    rustix::net::sockopt::set_socket_recv_buffer_size(raw.stream.get_ref().0, SLOW / 2).unwrap();
    fill(&a).await;
    let mut bytes = vec![0; 1 << 14];
    for minute in 0..3 {
        let arrived = |raw: &Raw| rustix::io::ioctl_fionread(raw.stream.get_ref().0).unwrap() as usize;
        let (before, mut read) = (arrived(&raw), 0);
        while read < SLOW {
            let got = tokio::time::timeout(PATIENCE, raw.stream.read(&mut bytes)).await;
            read += got.expect("there is more").unwrap();
        }
        until("more has arrived", || arrived(&raw) + read > before + SLOW / 4).await;
        minute_passes(&a, &mut raw).await;
        assert_eq!((a.pool.live(), a.ends()), (1, vec![]), "after {minute} minutes");
    }
    fill(&a).await;
    reads_nothing(&a, &mut raw).await;
}

#[tokio::test]
async fn a_peer_that_reads_again_after_the_deadline_keeps_its_place() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    fill(&a).await;
    a.clock.later(WRITE_DEADLINE);
    // Its socket has room again, and that is what wakes the session.
    let waits =
        || a.pool.freeze_traffic(&a.pool.freeze()).first().map_or(0, |traffic| traffic.kib_queued) > 0;
    let mut bytes = vec![0; 1 << 16];
    while waits() {
        let read = tokio::time::timeout(PATIENCE, raw.stream.read(&mut bytes)).await;
        assert!(read.unwrap().unwrap() > 0, "{:?}", a.ends());
    }
    assert_eq!((a.pool.live(), a.ends()), (1, vec![]));
}

#[tokio::test]
async fn a_remote_close_is_recorded_apart_from_a_goodbye() {
    let a = node();
    let mut raw = Raw::greeted_by(&a).await;
    raw.stream.shutdown().await.unwrap();
    a.is_empty_again().await;
    // The request for peers is not read yet: closing now resets the connection, as when a process is killed.
    drop(Raw::greeted_by(&a).await);
    a.is_empty_again().await;
    let ends = a.ends();
    assert_eq!(ends[0], (Cause::RemoteClosed, "closed".to_owned()));
    assert_eq!(ends[1].0, Cause::RemoteClosed);
    assert!(["reset", "closed without a goodbye"].contains(&&*ends[1].1), "{ends:?}");
}

#[tokio::test]
async fn the_peer_gets_the_reason_when_a_phase_disconnects_it() {
    let (a, b) = (node(), node());
    a.connect(&b).await;
    let key = a.pool.find(&b.id()).unwrap();
    let by = Initiator::Phase { name: "reaper".into(), version: "1".into() };
    a.pool.disconnect(key, Removal::new(by, Cause::Phase, "silent for 301 s"), None);
    a.is_empty_again().await;
    b.is_empty_again().await;
    assert_eq!(a.ends(), [(Cause::Phase, "silent for 301 s".to_owned())]);
    assert_eq!(b.ends(), [(Cause::RemoteGoodbye, "phase: silent for 301 s".to_owned())]);
}

#[tokio::test]
async fn shutdown_is_bounded_though_a_peer_does_not_listen() {
    let (a, b) = (node(), node());
    a.connect(&b).await;
    let raw = Raw::greeted_by(&a).await;
    let stopped = a.net.shutdown(PATIENCE).await;
    assert_eq!((stopped.goodbyes, stopped.aborted), (2, 0));
    assert_eq!((a.pool.removals(), a.journal.disconnects()), (2, 2));
    assert_eq!((a.pool.live(), a.pool.closing()), (0, 0));
    b.is_empty_again().await;
    drop(raw);
}

#[tokio::test]
async fn at_the_deadline_of_a_shutdown_the_rest_is_aborted() {
    let a = node();
    let _deaf = Raw::greeted_by(&a).await;
    let stopped = a.net.shutdown(Duration::from_millis(1)).await;
    assert_eq!((stopped.goodbyes, stopped.aborted), (1, 1));
    assert_eq!((a.pool.removals(), a.journal.disconnects()), (1, 1));
    assert_eq!((a.pool.live(), a.pool.closing()), (0, 0));
}

#[tokio::test]
async fn a_dropped_network_lets_go_of_everything() {
    let (a, b) = (node(), node());
    a.connect(&b).await;
    let TestNode { net, pool, journal, .. } = a;
    drop(net);
    b.is_empty_again().await;
    assert_eq!(b.ends().remove(0).0, Cause::RemoteClosed);
    until("its own pool is empty", || pool.live() + pool.closing() == 0).await;
    assert_eq!((pool.removals(), journal.disconnects()), (1, 1));
}

#[tokio::test]
async fn an_aborted_task_gives_its_slot_back() {
    let a = node();
    let raw = Raw::greeted_by(&a).await;
    let key = a.pool.find(&raw.identity.peer_id()).unwrap();
    a.net.roster.find(key).unwrap().abort();
    a.is_empty_again().await;
    assert_eq!(a.journal.disconnects_by(Cause::OwnerDropped), 1);
}

/// A stream with a writing side that breaks on command.
struct Breaking {
    stream: DuplexStream,
    writes_left: u32,
}

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.writes_left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "cable pulled")));
        }
        self.writes_left -= 1;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn adopted(a: &TestNode, writes_left: u32) -> DuplexStream {
    let (stream, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(&Message::Hello(hello()).encode(MAX_FRAME).unwrap()).await.unwrap();
    let id = Identity::generate().peer_id();
    let address = "127.0.0.1:9".parse().unwrap();
    let facts = PeerFacts { id, address, direction: Direction::Inbound };
    a.net.adopt(Breaking { stream, writes_left }, facts).await.unwrap();
    theirs
}

#[tokio::test]
async fn a_write_failure_is_recorded_unless_the_peer_gave_a_reason() {
    let a = node();
    let _theirs = adopted(&a, 0).await;
    a.is_empty_again().await;
    assert_eq!(a.ends(), [(Cause::WriteFailure, "while writing: cable pulled".to_owned())]);

    let mut theirs = adopted(&a, 0).await;
    theirs.write_all(&Message::Goodbye { code: 8, text: "off" }.encode(MAX_FRAME).unwrap()).await.unwrap();
    a.is_empty_again().await;
    assert_eq!(a.ends()[1], (Cause::RemoteGoodbye, "shutdown: off".to_owned()));
}

#[tokio::test]
async fn two_nodes_over_a_plain_transport() {
    let (a, b) = (node(), node());
    let (ours, theirs) = tokio::io::duplex(4096);
    let facts = |id, direction| PeerFacts { id, address: "127.0.0.1:9".parse().unwrap(), direction };
    let (inbound, outbound) = tokio::join!(
        a.net.adopt(ours, facts(b.id(), Direction::Inbound)),
        b.net.adopt(theirs, facts(a.id(), Direction::Outbound)),
    );
    inbound.unwrap();
    outbound.unwrap();
    assert_eq!(a.net.request(b.id(), "ping", b"plain", PATIENCE).await.unwrap(), "plain");
}
