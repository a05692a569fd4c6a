//! Every order of two or three threads; of those over queues, every order with few interruptions.

#[allow(dead_code, reason = "the models need a part of what the host uses")]
#[path = "../../flow/src/outbox.rs"]
mod outbox;
#[allow(dead_code, reason = "the models need a part of what the host uses")]
#[path = "../../flow/src/queue.rs"]
mod queue;
#[path = "queues.rs"]
mod queues;
#[path = "slots.rs"]
mod slots;
#[allow(dead_code, reason = "the models need a part of what the host uses")]
#[path = "../../pool/src/pool/tag.rs"]
mod tag;

mod check {
    pub(super) use loom::future::block_on;
    pub(super) use loom::model;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
    pub(super) use loom::thread;

    /// Times that a thread may be interrupted in one order. Bugs that need more are rare (Musuvathi and Qadeer 2007), and
    /// with locks and wake-ups among the steps all orders are too many.
    const PREEMPTIONS: usize = 3;

    pub(super) fn bounded_model(run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(run);
    }
}

#[path = "sync.rs"]
mod sync;

mod checker {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::MutexGuard;
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}
