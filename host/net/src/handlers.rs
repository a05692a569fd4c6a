//! What an application does with requests and broadcasts, by name. Fixed when the network starts; runs nothing itself.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Priority;

use super::wire::MAX_NAME;

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

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;
pub(crate) type BroadcastHandler = Box<dyn Fn(&PeerId, &Bytes) -> Verdict + Send + Sync>;

/// What answers one kind of request.
pub(crate) struct RequestHandler {
    pub(crate) run: Box<dyn Fn(PeerId, Bytes) -> HandlerFuture + Send + Sync>,
    /// Of its answers.
    pub(crate) priority: Priority,
    /// If only some are answered at once.
    pub(crate) capacity: Option<Capacity>,
}

/// How much of one kind of request a node takes on, over all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Requests that are worked on at once. At least 1.
    pub at_once: usize,
    /// Requests that wait for their turn; further ones are told at once that the node is busy. At least 1. Twice what is
    /// worked on keeps the workers busy; more only makes answers late.
    pub waiting: usize,
}

/// The handlers of one node, by request kind and by topic.
#[derive(Default)]
pub struct Handlers {
    pub(crate) requests: HashMap<String, RequestHandler>,
    pub(crate) broadcasts: HashMap<String, BroadcastHandler>,
}

/// Request kinds that the host answers itself.
const BUILT_IN: [&str; 2] = ["ping", "peers"];

impl Handlers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers requests of `kind`. `handler` is called on the connection's task, and its future begins there: neither may
    /// block or compute for long before the first wait. A future that has to wait goes on on a task of its own, and is
    /// dropped when the connection ends.
    ///
    /// # Panics
    /// If `kind` is empty, longer than 64 bytes, the host's own, or handled already: a mistake in the program.
    pub fn on_request<F, A>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(PeerId, Bytes) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        assert!(!BUILT_IN.contains(&kind), "request kind {kind:?} is answered by the host");
        let run = Box::new(move |peer, payload| -> HandlerFuture { Box::pin(handler(peer, payload)) });
        insert(&mut self.requests, kind, RequestHandler { run, priority: Priority::Request, capacity: None });
        self
    }

    /// Answers requests of `kind`, so many at once over all connections, each on one of `capacity.at_once` tasks. A few more
    /// wait; who comes on top is told "busy" and can ask somebody else. So a node that is asked for more than it can do
    /// does what it can, and memory stays flat.
    ///
    /// # Panics
    /// As [`Handlers::on_request`].
    pub fn on_request_limited<F, A>(self, kind: &str, capacity: Capacity, handler: F) -> Self
    where
        F: Fn(PeerId, Bytes) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        let mut handlers = self.on_request(kind, handler);
        handlers.of_kind(kind).capacity = Some(capacity);
        handlers
    }

    /// Answers to `kind` wait behind everything else: for large transfers.
    ///
    /// # Panics
    /// If `kind` has no handler yet.
    pub fn answers_in_bulk(mut self, kind: &str) -> Self {
        self.of_kind(kind).priority = Priority::Bulk;
        self
    }

    fn of_kind(&mut self, kind: &str) -> &mut RequestHandler {
        let handler = self.requests.get_mut(kind);
        handler.unwrap_or_else(|| panic!("request kind {kind:?} has no handler yet"))
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
}

fn insert<H>(handlers: &mut HashMap<String, H>, name: &str, handler: H) {
    assert!((1..=MAX_NAME).contains(&name.len()), "name {name:?} must have 1 to {MAX_NAME} bytes");
    let before = handlers.insert(name.to_owned(), handler);
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
