//! Answers requests of peers: built-in kinds at once, others by the application's handlers. Never waits in the session,
//! and ends with it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_flow::{Priority, RequestQueue};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::conn::Conn;
use super::exchange::peers_for;
use super::handlers::RequestHandler;
use super::node::LocalNode;
use super::open_answer::{HandlerRun, OpenAnswer};
use super::receiving::ReceivedPayload;
use super::traffic::Traffic;
use super::wire::ResponseStatus;

/// Seconds between two peer lists to one peer: each list is a walk over the address book.
const PEERS_EVERY_S: u32 = 10;

/// How a node answers requests, over all connections.
pub(crate) struct Answers {
    node: Arc<LocalNode>,
    traffic: Arc<Traffic>,
    kinds: HashMap<String, Arc<AnsweredKind>>,
}

struct AnsweredKind {
    handler: RequestHandler,
    /// Where requests wait for workers, if the kind has a capacity.
    queue: Option<WorkQueue>,
}

struct WorkQueue {
    jobs: RequestQueue<QueuedRequest>,
    at_once: usize,
}

/// A request that waits for one of the workers of its kind.
struct QueuedRequest {
    answer: OpenAnswer,
    payload: Bytes,
    since: Instant,
}

impl Answers {
    /// Starts the workers of all kinds that have a queue.
    pub(crate) fn start(
        node: Arc<LocalNode>,
        traffic: Arc<Traffic>,
        handlers: HashMap<String, RequestHandler>,
    ) -> Self {
        let kinds = handlers.into_iter().map(|(name, handler)| {
            let queue = handler.capacity.map(|capacity| WorkQueue {
                jobs: RequestQueue::new(capacity.waiting),
                at_once: capacity.at_once.max(1),
            });
            (name, Arc::new(AnsweredKind { handler, queue }))
        });
        let answers = Self { node, traffic, kinds: kinds.collect() };
        for kind in answers.kinds.values() {
            for _ in 0..kind.queue.as_ref().map_or(0, |queue| queue.at_once) {
                answers.node.tasks.spawn(work(Arc::clone(kind), Arc::clone(&answers.node)));
            }
        }
        answers
    }
}

async fn work(kind: Arc<AnsweredKind>, node: Arc<LocalNode>) {
    let Some(queue) = &kind.queue else { return };
    loop {
        let QueuedRequest { answer, payload, since } = tokio::select! {
            biased;
            () = node.tasks.stop.cancelled() => return,
            job = queue.jobs.pop() => job,
        };
        if answer.is_in_vain() {
            continue;
        }
        answer.waited(since.elapsed(), node.state.clock.mono());
        let handling = HandlerRun::begin(&kind.handler, answer.peer(), payload);
        tokio::select! {
            biased;
            () = node.tasks.stop.cancelled() => return,
            () = answer.by(handling, node.config.answer_timeout) => {}
        }
    }
}

/// The answers in progress at one connection. When dropped, those on separate tasks stop.
#[derive(Default)]
pub(crate) struct ConnAnswers {
    tasks: Option<Box<JoinSet<()>>>,
    told_peers: Option<CoarseInstant>,
    under_way: Arc<AtomicU32>,
}

impl ConnAnswers {
    /// Removes tasks that are done.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) {
        if let Some(tasks) = &mut self.tasks {
            while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
            if tasks.is_empty() {
                self.tasks = None;
            }
        }
    }

    pub(crate) fn serve(
        &mut self,
        cx: &mut Context<'_>,
        answers: &Answers,
        conn: &Arc<Conn>,
        id: u64,
        kind: &str,
        ReceivedPayload { bytes: payload, charge }: ReceivedPayload,
    ) {
        let Answers { node, traffic, kinds } = answers;
        match kind {
            "ping" => return traffic.respond(conn, id, Priority::Request, ResponseStatus::Ok, &payload),
            "peers" => return self.tell_peers(node, traffic, conn, id),
            _ => {}
        }
        let Some(kind) = kinds.get(kind) else {
            return traffic.respond(conn, id, Priority::Request, ResponseStatus::NotHandled, &[]);
        };
        if self.under_way.load(Relaxed) as usize >= node.config.answers_at_once {
            return traffic.refuse(conn, id);
        }
        let answer = OpenAnswer::new(traffic, conn, id, kind.handler.priority, &self.under_way, charge);
        if let Some(queue) = &kind.queue {
            return enqueue(queue, answer, payload);
        }
        // The handler's first step runs here: most have their answer then and need no task.
        let mut handling = HandlerRun::begin(&kind.handler, conn.peer, payload);
        match Pin::new(&mut handling).poll(cx) {
            Poll::Ready(said) => answer.say(said),
            Poll::Pending => {
                let tasks = self.tasks.get_or_insert_default();
                tasks.spawn(answer.by(handling, node.config.answer_timeout));
                // So that `poll_done` waits for the new task.
                cx.waker().wake_by_ref();
            }
        }
    }

    fn tell_peers(&mut self, node: &LocalNode, traffic: &Traffic, conn: &Conn, id: u64) {
        let now = node.state.clock.coarse();
        if self.told_peers.is_some_and(|at| now.seconds_since(at) < PEERS_EVERY_S) {
            return traffic.refuse(conn, id);
        }
        self.told_peers = Some(now);
        traffic.respond(conn, id, Priority::Request, ResponseStatus::Ok, &peers_for(node, &conn.peer));
    }
}

/// Queues a request, or answers "busy" at once, so that the asker can ask another peer. One peer gets at most half of
/// the places.
fn enqueue(queue: &WorkQueue, answer: OpenAnswer, payload: Bytes) {
    let share = (queue.jobs.capacity() + queue.at_once).div_ceil(2);
    if answer.under_way() > share {
        return answer.refuse();
    }
    if let Err(job) = queue.jobs.push(QueuedRequest { answer, payload, since: Instant::now() }) {
        job.answer.refuse();
    }
}
