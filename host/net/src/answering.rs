//! Answers requests of peers: built-in ones at once, the application's where its handlers run. Never waits in the
//! session, and ends with it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::{Clock, Coarse};
use groundskeeper_flow::Priority;
use tokio::task::JoinSet;

use super::conn::Conn;
use super::exchange::PeerExchange;
use super::frame_sender::FrameSender;
use super::handlers::{RequestHandler, RequestHandlers};
use super::open_answer::{Caught, OpenAnswer, ReplyTo};
use super::settings::NetConfig;
use super::tasks::Tasks;
use super::wire::Status;
use super::work_queue::WorkQueue;
use crate::NodeState;

/// Between two peer lists to one peer, in seconds: each is a walk over the address book.
const PEERS_EVERY_S: u32 = 10;

/// How a node answers requests, over all connections.
pub(crate) struct Answers {
    kinds: HashMap<String, Arc<AnsweredKind>>,
    /// Of one peer.
    at_once: usize,
    time_limit: Duration,
    sender: Arc<FrameSender>,
    exchange: Arc<PeerExchange>,
    clock: Arc<dyn Clock>,
}

struct AnsweredKind {
    handler: RequestHandler,
    /// Where requests wait for workers, if only some are answered at once.
    queue: Option<WorkQueue<Job>>,
}

/// A request that waits for one of the workers of its kind.
struct Job {
    answer: OpenAnswer,
    payload: Bytes,
}

impl Answers {
    pub(crate) fn new(
        config: &NetConfig,
        state: &NodeState,
        handlers: RequestHandlers,
        sender: &Arc<FrameSender>,
        exchange: &Arc<PeerExchange>,
    ) -> Self {
        let kinds = handlers.into_iter().map(|(name, handler)| {
            let queue = handler.capacity.map(WorkQueue::new);
            (name, Arc::new(AnsweredKind { handler, queue }))
        });
        Self {
            kinds: kinds.collect(),
            at_once: config.answers_at_once,
            time_limit: config.answer_timeout,
            sender: sender.clone(),
            exchange: exchange.clone(),
            clock: state.clock.clone(),
        }
    }

    /// Starts the workers of all kinds that have a queue.
    pub(crate) fn start_workers(&self, tasks: &Tasks) {
        for kind in self.kinds.values() {
            let workers = kind.queue.as_ref().map_or(0, WorkQueue::workers);
            for _ in 0..workers {
                tasks.spawn(work(Arc::clone(kind), tasks.clone(), self.time_limit));
            }
        }
    }
}

async fn work(kind: Arc<AnsweredKind>, tasks: Tasks, time_limit: Duration) {
    let Some(queue) = &kind.queue else { return };
    loop {
        let Job { answer, payload } = tokio::select! {
            biased;
            () = tasks.stopping() => return,
            job = queue.pop() => job,
        };
        if answer.is_in_vain() {
            continue;
        }
        let peer = answer.peer();
        let handling = catch_unwind(AssertUnwindSafe(|| (kind.handler.run)(peer, payload)));
        let Ok(handling) = handling else { continue };
        tokio::select! {
            biased;
            () = tasks.stopping() => return,
            () = answer.by(Caught(handling), time_limit) => {}
        }
    }
}

/// The answers under way at one connection. Dropped, those that run on tasks of their own stop.
#[derive(Default)]
pub(crate) struct ConnAnswers {
    tasks: Option<Box<JoinSet<()>>>,
    told_peers: Option<Coarse>,
    under_way: Arc<AtomicU32>,
}

impl ConnAnswers {
    /// Lets go of tasks that are done.
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
        payload: Bytes,
    ) {
        let reply_to = ReplyTo { sender: &answers.sender, conn, id };
        match kind {
            "ping" => reply_to.respond(Priority::Request, Status::Ok, &payload),
            "peers" => self.tell_peers(answers, &reply_to),
            _ => match answers.kinds.get(kind) {
                None => reply_to.respond(Priority::Request, Status::NotHandled, &[]),
                Some(_) if self.under_way.load(Relaxed) as usize >= answers.at_once => reply_to.refuse(),
                Some(kind) => {
                    let priority = kind.handler.priority;
                    let answer = OpenAnswer::new(&answers.sender, conn, id, priority, &self.under_way);
                    match &kind.queue {
                        Some(queue) => enqueue(queue, answer, payload),
                        None => self.begin(cx, &kind.handler, answer, payload, answers.time_limit),
                    }
                }
            },
        }
    }

    /// Runs the handler's first step here: most answers are there already and need no task.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        handler: &RequestHandler,
        answer: OpenAnswer,
        payload: Bytes,
        time_limit: Duration,
    ) {
        let peer = answer.peer();
        let first = catch_unwind(AssertUnwindSafe(|| {
            let mut handling = (handler.run)(peer, payload);
            match handling.as_mut().poll(cx) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(handling),
            }
        }));
        match first {
            // The answer says so when it is dropped.
            Err(_) => {}
            Ok(Ok(said)) => answer.say(said),
            Ok(Err(handling)) => {
                let tasks = self.tasks.get_or_insert_default();
                tasks.spawn(answer.by(handling, time_limit));
                // So that it is let go of when it is done.
                cx.waker().wake_by_ref();
            }
        }
    }

    fn tell_peers(&mut self, answers: &Answers, reply_to: &ReplyTo<'_>) {
        let now = answers.clock.coarse();
        if self.told_peers.is_some_and(|at| now.seconds_since(at) < PEERS_EVERY_S) {
            return reply_to.refuse();
        }
        self.told_peers = Some(now);
        let peers = answers.exchange.peers_for(&reply_to.conn.peer);
        reply_to.respond(Priority::Request, Status::Ok, &peers);
    }
}

/// Takes a request, or says at once that there is too much to do: the asker can still ask another peer.
fn enqueue(queue: &WorkQueue<Job>, answer: OpenAnswer, payload: Bytes) {
    let under_way = answer.under_way();
    if let Err(job) = queue.push(Job { answer, payload }, under_way) {
        job.answer.refuse();
    }
}
