//! Broadcasts by topic: to all peers, some, or all except some. Each is passed on once, serialised once, and its bytes
//! are shared by all queues. Knows no topic by itself.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{NotQueued, Pressure, Priority};
use groundskeeper_pool::NodeState;
use groundskeeper_pool::broadcasts::BroadcastId;
use ring::digest::{Context, SHA256};

use super::conn::Conn;
use super::conn_health;
use super::handlers::{BroadcastHandler, BroadcastVerdict};
use super::node::LocalNode;
use super::roster::Roster;
use super::traffic::Traffic;
use super::wire::{MAX_NAME, Message, TooLarge};

/// The peers that get a broadcast.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    /// Every live connection.
    All,
    /// Those of these peers that are connected; the others are not counted.
    Only(&'a [PeerId]),
    /// Every live connection except those to these peers.
    AllBut(&'a [PeerId]),
}

/// The result of a broadcast: how many connections queued it, and how many had a full queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendReport {
    /// Connections that queued it, including those that had room only after a wait.
    pub queued: u32,
    /// Connections that had no room for it, not even after a wait.
    pub full: u32,
}

/// Why a broadcast was not sent.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    #[error("too many broadcasts at once; try again in {retry_in:?}")]
    RateLimited { retry_in: Duration },
    #[error("a topic has 1 to 64 bytes")]
    BadTopic,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error(transparent)]
    Pressure(#[from] Pressure),
    /// All others have it.
    #[error("{} connections had no room for it in their queues", .0.full)]
    Full(SendReport),
}

/// A broadcast with its audience, its priority and what to do about full queues.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<'a> {
    topic: &'a str,
    payload: &'a [u8],
    audience: Audience<'a>,
    priority: Priority,
    if_full: IfFull,
}

/// What to do for peers with a full send queue. They are counted in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IfFull {
    /// The peer does not get it.
    #[default]
    Drop,
    /// The peer does not get it, and the caller gets an error.
    Fail,
    /// Waits for room, at most this long; then the peer does not get it.
    Wait(Duration),
}

impl<'a> Broadcast<'a> {
    /// To all connections that have room in their queues.
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self { topic, payload, audience: Audience::All, priority: Priority::Broadcast, if_full: IfFull::Drop }
    }

    /// The peers that get it. Default: [`Audience::All`].
    pub fn to(mut self, audience: Audience<'a>) -> Self {
        self.audience = audience;
        self
    }

    /// Sends it after everything else.
    pub fn bulk(mut self) -> Self {
        self.priority = Priority::Bulk;
        self
    }

    /// What to do for peers with a full send queue. Default: [`IfFull::Drop`].
    pub fn if_full(mut self, if_full: IfFull) -> Self {
        self.if_full = if_full;
        self
    }
}

/// The first 16 bytes of SHA-256 over topic and payload. The topic's length keeps "ab" + "c" and "a" + "bc" apart.
fn id_of(topic: &str, payload: &[u8]) -> BroadcastId {
    let mut context = Context::new(&SHA256);
    context.update(&[u8::try_from(topic.len()).expect("a topic has at most 64 bytes")]);
    context.update(topic.as_bytes());
    context.update(payload);
    let digest = context.finish();
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// The result of a broadcast so far, and the connections that had no room for it.
struct FanOut {
    frame: Bytes,
    sent: SendReport,
    full: Vec<Arc<Conn>>,
}

impl FanOut {
    fn push(&mut self, traffic: &Traffic, conn: &Arc<Conn>, priority: Priority) {
        match traffic.queue(conn, priority, self.frame.clone().into()) {
            Ok(()) => self.sent.queued += 1,
            Err(NotQueued::Full) => {
                self.sent.full += 1;
                self.full.push(Arc::clone(conn));
            }
            // The connection has ended meanwhile.
            Err(NotQueued::Ended) => {}
        }
    }
}

/// Sends the broadcasts of this node, and delivers and passes on those of others.
pub(crate) struct Broadcaster {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) handlers: HashMap<String, BroadcastHandler>,
}

impl Broadcaster {
    /// Queues a broadcast for all of its audience. Waits for nothing.
    pub(crate) fn send(&self, broadcast: &Broadcast<'_>) -> Result<SendReport, BroadcastError> {
        self.queue_all(broadcast).map(|out| out.sent)
    }

    /// Like [`Broadcaster::send`], and then handles full queues as the broadcast says.
    pub(crate) async fn send_with(&self, broadcast: Broadcast<'_>) -> Result<SendReport, BroadcastError> {
        let FanOut { frame, mut sent, full } = self.queue_all(&broadcast)?;
        match broadcast.if_full {
            IfFull::Drop => Ok(sent),
            IfFull::Fail if sent.full > 0 => Err(BroadcastError::Full(sent)),
            IfFull::Fail => Ok(sent),
            IfFull::Wait(time) => {
                let end = tokio::time::Instant::now() + time;
                // One after the other: all have the same deadline, and free room does not go away by itself.
                for conn in full {
                    let got_it = self.traffic.queue_by(&conn, broadcast.priority, &frame, end).await;
                    sent.full -= u32::from(got_it != Err(NotQueued::Full));
                    sent.queued += u32::from(got_it.is_ok());
                }
                Ok(sent)
            }
        }
    }

    fn queue_all(&self, broadcast: &Broadcast<'_>) -> Result<FanOut, BroadcastError> {
        let &Broadcast { topic, payload, audience, priority, .. } = broadcast;
        if topic.is_empty() || topic.len() > MAX_NAME {
            return Err(BroadcastError::BadTopic);
        }
        let frame = self.traffic.encode(&Message::Broadcast { topic, payload })?;
        let frame = self.traffic.charge(priority, frame)?;
        let NodeState { broadcasts, clock, .. } = &self.node.state;
        let now = clock.coarse();
        broadcasts.take_place(now).map_err(|retry_in| BroadcastError::RateLimited { retry_in })?;
        broadcasts.first_seen(id_of(topic, payload), now);
        Ok(self.fan_out(frame, audience, priority))
    }

    fn fan_out(&self, frame: Bytes, audience: Audience<'_>, priority: Priority) -> FanOut {
        let mut out = FanOut { frame, sent: SendReport::default(), full: Vec::new() };
        let Self { node, roster, traffic, .. } = self;
        let but: &[PeerId] = match audience {
            Audience::All => &[],
            Audience::AllBut(peers) => peers,
            Audience::Only(peers) => {
                for conn in peers.iter().filter_map(|peer| roster.find_peer(&node.state.pool, peer)) {
                    out.push(traffic, &conn, priority);
                }
                return out;
            }
        };
        roster.for_each(|conn| {
            if !but.contains(&conn.peer) {
                out.push(traffic, conn, priority);
            }
        });
        out
    }

    /// Delivers and passes on what `from` sent, the first time it is seen. Ignores topics without a handler. Returns the time
    /// of digest and handler; passing it on is not the sender's cost.
    pub(crate) fn take(&self, from: &Conn, topic: &str, payload: Bytes) -> Duration {
        let Some(handler) = self.handlers.get(topic) else { return Duration::ZERO };
        let NodeState { broadcasts, clock, .. } = &self.node.state;
        let began = clock.mono();
        let id = id_of(topic, &payload);
        if !broadcasts.first_seen(id, clock.coarse()) {
            return clock.mono().saturating_sub(began);
        }
        // A panic in the handler must not end the connection: the peer did nothing wrong.
        let verdict = catch_unwind(AssertUnwindSafe(|| handler(&from.peer, &payload)))
            .unwrap_or(BroadcastVerdict::Keep);
        let took = clock.mono().saturating_sub(began);
        match verdict {
            BroadcastVerdict::Keep => {}
            BroadcastVerdict::Punish => {
                // Forged broadcasts must not push good ones out of the memory.
                broadcasts.forget(&id);
                conn_health::bad_broadcast(&self.node.state, from, topic);
            }
            BroadcastVerdict::Relay => {
                // It came in under the cap, so it goes out under it.
                if let Ok(frame) = self.traffic.encode(&Message::Broadcast { topic, payload: &payload })
                    && let Ok(frame) = self.traffic.charge(Priority::Broadcast, frame)
                {
                    self.fan_out(frame, Audience::AllBut(&[from.peer]), Priority::Broadcast);
                }
            }
        }
        took
    }
}
