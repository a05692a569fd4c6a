//! Nodes over an application's transport: pipes in memory, with ids that are claimed and believed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{NewcomerRefusal, TrafficReport as _};
use groundskeeper_pool::journal::{Cause, Outcome};
use groundskeeper_pool::pool::PoolLimits;
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::harness::{PATIENCE, Setup, TestNode, until};
use crate::transport::is_shortage;
use crate::{
    Audience, BoxFuture, BroadcastVerdict, Handlers, HandshakeError, Listener, NetConfig, ProvenStream,
    Transport, UnprovenStream,
};

type Arrivals = mpsc::UnboundedSender<(DuplexStream, SocketAddr)>;

/// All pipes of a test.
#[derive(Default)]
struct Pipes(Mutex<HashMap<SocketAddr, Arrivals>>);

/// One node's access to the pipes.
struct Ours {
    pipes: Arc<Pipes>,
    id: PeerId,
    manners: Manners,
    proofs: Arc<AtomicU32>,
}

/// What it does when it must prove its identity.
#[derive(Clone, Copy)]
enum Manners {
    Proper,
    Mute,
    OfAnotherNetwork,
    HangsUp,
}

struct Door(tokio::sync::Mutex<mpsc::UnboundedReceiver<(DuplexStream, SocketAddr)>>, SocketAddr, Ours);

impl Ours {
    fn prove(&self, mut stream: DuplexStream) -> UnprovenStream {
        let (id, manners, proofs) = (self.id, self.manners, Arc::clone(&self.proofs));
        Box::pin(async move {
            proofs.fetch_add(1, Relaxed);
            match manners {
                Manners::Proper => {}
                Manners::Mute => std::future::pending().await,
                Manners::OfAnotherNetwork => return Err(HandshakeError::OtherNetwork),
                Manners::HangsUp => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
            stream.write_all(id.as_bytes()).await?;
            let mut theirs = [0; 32];
            stream.read_exact(&mut theirs).await?;
            Ok(ProvenStream::new(stream, PeerId::from_bytes(theirs)))
        })
    }

    fn another(&self) -> Self {
        Self { pipes: Arc::clone(&self.pipes), proofs: Arc::clone(&self.proofs), ..*self }
    }
}

impl Transport for Ours {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>> {
        Box::pin(async move {
            if address.port() == 1 {
                return Err(io::Error::other("the pipe is blocked"));
            }
            let (near, far) = tokio::io::duplex(4096);
            let listens = self.pipes.0.lock().get(&address).cloned();
            let listens = listens.ok_or(io::ErrorKind::ConnectionRefused)?;
            listens
                .send((far, "10.0.0.9:9".parse().unwrap()))
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(self.prove(near))
        })
    }

    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (arrivals, arriving) = mpsc::unbounded_channel();
            if self.pipes.0.lock().insert(address, arrivals).is_some() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Ok(Box::new(Door(arriving.into(), address, self.another())) as Box<dyn Listener>)
        })
    }
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>> {
        Box::pin(async move {
            let Some((stream, from)) = self.0.lock().await.recv().await else { std::future::pending().await };
            Ok((self.2.prove(stream), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7000))
}

async fn node_at(pipes: &Arc<Pipes>, host: u8, manners: Manners, setup: Setup) -> (TestNode, Arc<AtomicU32>) {
    let proofs = Arc::new(AtomicU32::new(0));
    let id = setup.identity.peer_id();
    let ours = Ours { pipes: Arc::clone(pipes), id, manners, proofs: Arc::clone(&proofs) };
    let config = NetConfig { listen: vec![at(host)], ..setup.config };
    (Setup { config, ..setup }.start_over(Arc::new(ours)).await, proofs)
}

fn failed(outcome: &Outcome) -> &str {
    let Outcome::Failed(why) = outcome else { panic!("it did not fail: {outcome}") };
    why
}

#[tokio::test]
async fn nodes_meet_talk_and_part_over_pipes() {
    let pipes = Arc::default();
    let heard = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&heard);
    let handlers = Handlers::new()
        .on_request("double", |_, payload| async move { Ok(Bytes::from(payload.repeat(2))) })
        .on_broadcast("news", move |_, _| {
            counter.fetch_add(1, Relaxed);
            BroadcastVerdict::Keep
        });
    let (a, _) = node_at(&pipes, 1, Manners::Proper, Setup::default()).await;
    let (b, _) = node_at(&pipes, 2, Manners::Proper, Setup { handlers, ..Setup::default() }).await;
    assert_eq!(b.net.local_addrs(), [at(2)]);
    a.connect(&b).await;
    let answer = a.net.request(b.id(), "double", b"ab", PATIENCE).await.unwrap();
    assert_eq!(&answer[..], b"abab");
    a.net.broadcast("news", b"1", Audience::All).unwrap();
    until("the broadcast is there", || heard.load(Relaxed) == 1).await;
    let stopped = a.net.shutdown(PATIENCE).await;
    assert_eq!((stopped.goodbyes, stopped.aborted), (1, 0));
    b.is_empty_again().await;
    assert_eq!(b.ends()[0].0, Cause::RemoteGoodbye);
}

#[tokio::test]
async fn a_peer_over_a_limit_is_refused_before_its_proof() {
    let pipes = Arc::default();
    let pool = PoolLimits { inbound: 0, ..PoolLimits::only_capacity(8) };
    let (a, _) = node_at(&pipes, 1, Manners::Proper, Setup::default()).await;
    let (b, proofs) = node_at(&pipes, 2, Manners::Proper, Setup { pool, ..Setup::default() }).await;
    assert_eq!(failed(&a.dial(at(2), None).await), "handshake failed: it hung up during the handshake");
    until("the limit is told", || b.refusals().iter().any(|why| why.contains("at their limit of 0"))).await;
    assert_eq!(proofs.load(Relaxed), 0);
}

#[tokio::test]
async fn a_proof_that_does_not_come_ends_with_the_handshakes_deadline() {
    let pipes = Arc::default();
    let setup = Setup::default();
    let config = NetConfig { handshake_timeout: Duration::from_millis(50), ..setup.config };
    let (a, _) = node_at(&pipes, 1, Manners::Proper, Setup { config, ..setup }).await;
    let (b, proofs) = node_at(&pipes, 2, Manners::Mute, Setup::default()).await;
    assert_eq!(failed(&a.dial(at(2), None).await), "no answer in time");
    assert_eq!(proofs.load(Relaxed), 1);
    drop(b);
    a.is_empty_again().await;
}

#[tokio::test]
async fn failures_keep_their_kind() {
    let pipes = Arc::default();
    let (a, _) = node_at(&pipes, 1, Manners::Proper, Setup::default()).await;
    let (b, _) = node_at(&pipes, 2, Manners::OfAnotherNetwork, Setup::default()).await;
    let (c, _) = node_at(&pipes, 3, Manners::HangsUp, Setup::default()).await;
    let blocked = SocketAddr::from(([10, 0, 0, 4], 1));
    assert_eq!(failed(&a.dial(blocked, None).await), "unreachable: the pipe is blocked");
    assert_eq!(failed(&a.dial(at(5), None).await), "nothing listens there");
    assert_eq!(failed(&b.dial(at(1), None).await), "it belongs to another network");
    assert_eq!(failed(&c.dial(at(1), None).await), "handshake failed: it hung up during the handshake");
    let rooms = Setup { identity: a.identity.clone(), ..Setup::default() };
    let ours =
        Ours { pipes: Arc::clone(&pipes), id: a.id(), manners: Manners::Proper, proofs: Arc::default() };
    let taken = rooms.try_over(Arc::new(ours), at(1)).await.unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    assert!(taken.to_string().starts_with("cannot listen on 10.0.0.1:7000"), "{taken}");
    for node in [a, b, c] {
        node.is_empty_again().await;
    }
}

/// The pipes of a process that may have no descriptor to spare.
struct Short {
    pipes: Ours,
    is_short: Arc<AtomicBool>,
    accepts: Arc<AtomicU32>,
}

struct ShortDoor {
    door: Box<dyn Listener>,
    is_short: Arc<AtomicBool>,
    accepts: Arc<AtomicU32>,
}

impl Transport for Short {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>> {
        self.pipes.connect(address)
    }

    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let door = self.pipes.bind(address).await?;
            let (is_short, accepts) = (Arc::clone(&self.is_short), Arc::clone(&self.accepts));
            Ok(Box::new(ShortDoor { door, is_short, accepts }) as Box<dyn Listener>)
        })
    }
}

impl Listener for ShortDoor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>> {
        Box::pin(async move {
            self.accepts.fetch_add(1, Relaxed);
            if self.is_short.load(Relaxed) { Err(Errno::MFILE.into()) } else { self.door.accept().await }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.door.local_addr()
    }
}

#[tokio::test(start_paused = true)]
async fn a_shortage_of_descriptors_slows_accepting_down_and_keeps_the_listener() {
    let pipes = Arc::default();
    let (is_short, accepts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let setup = Setup::default();
    let ours = Ours {
        pipes: Arc::clone(&pipes),
        id: setup.identity.peer_id(),
        manners: Manners::Proper,
        proofs: Arc::default(),
    };
    let short = Short { pipes: ours, is_short: Arc::clone(&is_short), accepts: Arc::clone(&accepts) };
    let config = NetConfig { listen: vec![at(2)], ..setup.config };
    let b = Setup { config, ..setup }.start_over(Arc::new(short)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let tried = accepts.load(Relaxed);
    assert!((100..140).contains(&tried), "once a second: {tried}");
    let refused = b.net.traffic().newcomers_refused[NewcomerRefusal::Shortage as usize];
    assert_eq!(refused, u64::from(tried));
    let records = b.refusals();
    assert!(!records.is_empty() && records.len() < 20, "recorded in sums: {records:?}");
    assert!(records[0].contains("no room for another connection"), "{records:?}");
    is_short.store(false, Relaxed);
    // Longer than its last wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (a, _) = node_at(&pipes, 1, Manners::Proper, Setup::default()).await;
    a.connect(&b).await;
}

#[test]
fn only_a_lack_of_descriptors_or_memory_is_a_shortage() {
    for code in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert!(is_shortage(&code.into()), "{code}");
    }
    for code in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::CONNABORTED, Errno::NETUNREACH] {
        assert!(!is_shortage(&code.into()), "{code}");
    }
}
