//! The application's handlers of requests and broadcasts, by name. Fixed when the network starts; runs nothing itself.

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
pub enum BroadcastVerdict {
    /// Good: pass it on to all other peers.
    Relay,
    /// Do not pass it on.
    Keep,
    /// Do not pass it on, and take health from the sender's connection.
    Punish,
}

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;
pub(crate) type MessageHandler = Box<dyn Fn(&PeerId, &Bytes) + Send + Sync>;
pub(crate) type BroadcastHandler = Box<dyn Fn(&PeerId, &Bytes) -> BroadcastVerdict + Send + Sync>;

/// The handler of one kind of request.
pub(crate) struct RequestHandler {
    pub(crate) run: Box<dyn Fn(PeerId, Bytes) -> HandlerFuture + Send + Sync>,
    /// Priority of its answers.
    pub(crate) priority: Priority,
    /// Set if only a limited number is answered at once.
    pub(crate) capacity: Option<Capacity>,
}

/// How much of one kind of request a node takes on, over all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Requests that are worked on at once. At least 1.
    pub at_once: usize,
    /// Requests that wait for their turn; further ones are answered with "busy" at once. At least 1. Twice `at_once`
    /// keeps the workers busy; more only makes answers late.
    pub waiting: usize,
}

/// The handlers of one node, by request kind, by topic and by kind of message.
#[derive(Default)]
pub struct Handlers {
    pub(crate) requests: HashMap<String, RequestHandler>,
    pub(crate) broadcasts: HashMap<String, BroadcastHandler>,
    pub(crate) messages: HashMap<String, MessageHandler>,
}

/// Request kinds that the host answers itself.
const BUILT_IN: [&str; 2] = ["ping", "peers"];

impl Handlers {
    /// No handlers: the node answers only `ping` and `peers`, and ignores broadcasts and messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers requests of `kind`. The connection's task calls `handler` and polls its future first: neither may block
    /// or compute for long before the first wait. A future that has to wait continues on a separate task, and is
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

    /// Answers requests of `kind` on `capacity.at_once` tasks, over all connections. `capacity.waiting` more may wait.
    /// Further ones are answered with "busy", so that the peer can ask another node. An overloaded node keeps working
    /// at its full rate, with bounded memory.
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

    /// Sends answers to `kind` after everything else. For large transfers.
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

    /// Handles broadcasts on `topic`, each once. `handler` runs on the connection's task: it must not block. Its time counts:
    /// of a peer whose broadcasts and messages take more than a tenth of each second, the rest is dropped.
    ///
    /// # Panics
    /// If `topic` is empty, longer than 64 bytes, or handled already: a mistake in the program.
    pub fn on_broadcast<F>(mut self, topic: &str, handler: F) -> Self
    where
        F: Fn(&PeerId, &Bytes) -> BroadcastVerdict + Send + Sync + 'static,
    {
        let handler: BroadcastHandler = Box::new(handler);
        insert(&mut self.broadcasts, topic, handler);
        self
    }

    /// Handles one-way messages of `kind` that peers send with [`Net::send`](super::Net::send), in the order of each sender.
    /// `handler` runs as one of broadcasts does.
    ///
    /// # Panics
    /// If `kind` is empty, longer than 64 bytes, or handled already: a mistake in the program.
    pub fn on_message<F>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(&PeerId, &Bytes) + Send + Sync + 'static,
    {
        let handler: MessageHandler = Box::new(handler);
        insert(&mut self.messages, kind, handler);
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
            .field("messages", &self.messages.keys())
            .finish()
    }
}
