//! Broadcasts by topic: sent to all, some, or all but some; passed on once. Each is serialised once and its bytes are
//! shared by all queues. Knows no topic by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use super::Net;
use super::conn::Conn;
use super::handlers::Verdict;
use super::node::Node;
use super::wire::{MAX_NAME, Message, TooLarge};
use crate::flow::BroadcastId;
use crate::journal::{Asker, Draft, What};
use crate::peer::PeerId;

/// Health taken for a broadcast that the application finds bad: four of them use up a connection's health.
const PUNISHMENT: i32 = -25;

/// Who is to get a broadcast.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    All,
    Only(&'a [PeerId]),
    AllBut(&'a [PeerId]),
}

/// What became of a broadcast: connections whose queues took it, and those whose queues were full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    pub queued: u32,
    pub full: u32,
}

/// Why a broadcast was not sent to anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    #[error("the window of broadcasts is full for another {retry_in:?}")]
    RateLimited { retry_in: Duration },
    #[error("a topic has 1 to 64 bytes")]
    BadTopic,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// The first 16 bytes of SHA-256 over topic and payload. The topic's length keeps "ab" + "c" and "a" + "bc" apart.
fn id_of(topic: &str, payload: &[u8]) -> BroadcastId {
    let mut context = Context::new(&SHA256);
    context.update(&[topic.len() as u8]);
    context.update(topic.as_bytes());
    context.update(payload);
    let digest = context.finish();
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

impl Net {
    /// Queues `payload` for every connection of `audience`, in microseconds per hundred peers; waits for nobody.
    ///
    /// It takes one place of the broadcast window, and it is remembered, so that it is not delivered here when it
    /// comes back.
    ///
    /// # Errors
    /// [`BroadcastError`]: nobody got it.
    pub fn broadcast(
        &self,
        topic: &str,
        payload: &[u8],
        audience: Audience<'_>,
    ) -> Result<Sent, BroadcastError> {
        let node = &self.node;
        if topic.is_empty() || topic.len() > MAX_NAME {
            return Err(BroadcastError::BadTopic);
        }
        let frame = Message::Broadcast { topic, payload }.encode(&node.config.frame_caps)?;
        let now = node.rooms.clock.coarse();
        node.rooms.broadcasts.take_place(now).map_err(|retry_in| BroadcastError::RateLimited { retry_in })?;
        node.rooms.broadcasts.first_seen(id_of(topic, payload), now);
        Ok(node.fan_out(&frame, audience))
    }
}

impl Sent {
    fn push(&mut self, conn: &Conn, frame: &Bytes) {
        use crate::flow::NotQueued;
        match conn.data(frame.clone()) {
            Ok(()) => self.queued += 1,
            Err(NotQueued::Full) => self.full += 1,
            // It has ended meanwhile: not a connection any more.
            Err(NotQueued::Ended) => {}
        }
    }
}

impl Node {
    fn fan_out(&self, frame: &Bytes, audience: Audience<'_>) -> Sent {
        let mut sent = Sent::default();
        match audience {
            Audience::All => self.roster.for_each(|conn| sent.push(conn, frame)),
            Audience::AllBut(peers) => self.roster.for_each(|conn| {
                if !peers.contains(&conn.peer) {
                    sent.push(conn, frame);
                }
            }),
            Audience::Only(peers) => {
                for peer in peers {
                    if let Some(conn) = self.connection_to(peer) {
                        sent.push(&conn, frame);
                    }
                }
            }
        }
        sent
    }

    /// Delivers and passes on what `from` sent, the first time it is seen. A topic without a handler is not our business.
    pub(crate) fn take_broadcast(&self, from: &Conn, topic: &str, payload: Bytes) {
        let Some(handler) = self.handlers.broadcast(topic) else { return };
        if !self.rooms.broadcasts.first_seen(id_of(topic, &payload), self.rooms.clock.coarse()) {
            return;
        }
        // A handler that panics must not take the connection with it: the peer did nothing wrong.
        let verdict =
            catch_unwind(AssertUnwindSafe(|| handler(&from.peer, &payload))).unwrap_or(Verdict::Keep);
        match verdict {
            Verdict::Keep => {}
            Verdict::Punish => self.punish(from, topic),
            Verdict::Relay => {
                // It came in under the cap, so it goes out under it.
                if let Ok(frame) =
                    (Message::Broadcast { topic, payload: &payload }).encode(&self.config.frame_caps)
                {
                    self.fan_out(&frame, Audience::AllBut(&[from.peer]));
                }
            }
        }
    }

    fn punish(&self, from: &Conn, topic: &str) {
        let Some((before, after)) = self.rooms.pool.adjust_health(from.key, PUNISHMENT) else { return };
        if before != after {
            self.rooms.journal.record(Draft {
                peer: Some(from.peer),
                conn: Some(from.key.conn),
                inputs: vec![("health".into(), before.into()), ("health-after".into(), after.into())],
                ..Draft::new(Asker::Application, What::Health, format!("bad broadcast on {topic:?}"))
            });
        }
    }
}
