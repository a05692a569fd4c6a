//! What an application does with requests and broadcasts, by name. Fixed when the network starts; runs nothing itself.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::wire::MAX_NAME;
use crate::peer::PeerId;

/// What to do with a broadcast that was seen for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Good: pass it on to all other peers.
    Relay,
    /// Keep it to ourselves.
    Keep,
    /// The sender should have known better: keep it, and take health from the sender's connection.
    Punish,
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;
type RequestHandler = Box<dyn Fn(PeerId, Bytes) -> Answering + Send + Sync>;
type BroadcastHandler = Box<dyn Fn(&PeerId, &Bytes) -> Verdict + Send + Sync>;

/// The handlers of one node, by request kind and by topic.
#[derive(Default)]
pub struct Handlers {
    requests: HashMap<String, Arc<RequestHandler>>,
    broadcasts: HashMap<String, Arc<BroadcastHandler>>,
}

/// Request kinds that the host answers itself.
pub const BUILT_IN: [&str; 2] = ["ping", "peers"];

impl Handlers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers requests of `kind`. `handler` is called on the connection's task and must return its future at once; the
    /// future runs on a task of its own and is dropped when the connection ends.
    ///
    /// # Panics
    /// If `kind` is empty, longer than 64 bytes, the host's own, or handled already: a mistake in the program.
    pub fn on_request<F, A>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(PeerId, Bytes) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        assert!(!BUILT_IN.contains(&kind), "request kind {kind:?} is answered by the host");
        let handler: RequestHandler = Box::new(move |peer, payload| Box::pin(handler(peer, payload)));
        insert(&mut self.requests, kind, handler);
        self
    }

    /// Takes broadcasts on `topic`, each once. `handler` runs on the connection's task: it must not block.
    ///
    /// # Panics
    /// If `topic` is empty, longer than 64 bytes, or handled already: a mistake in the program.
    pub fn on_broadcast<F>(mut self, topic: &str, handler: F) -> Self
    where
        F: Fn(&PeerId, &Bytes) -> Verdict + Send + Sync + 'static,
    {
        let handler: BroadcastHandler = Box::new(handler);
        insert(&mut self.broadcasts, topic, handler);
        self
    }

    pub(crate) fn request(&self, kind: &str) -> Option<&Arc<RequestHandler>> {
        self.requests.get(kind)
    }

    pub(crate) fn broadcast(&self, topic: &str) -> Option<&Arc<BroadcastHandler>> {
        self.broadcasts.get(topic)
    }
}

fn insert<H>(handlers: &mut HashMap<String, Arc<H>>, name: &str, handler: H) {
    assert!((1..=MAX_NAME).contains(&name.len()), "name {name:?} must have 1 to {MAX_NAME} bytes");
    let before = handlers.insert(name.to_owned(), Arc::new(handler));
    assert!(before.is_none(), "{name:?} has a handler already");
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("requests", &self.requests.keys())
            .field("broadcasts", &self.broadcasts.keys())
            .finish()
    }
}
