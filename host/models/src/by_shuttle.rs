//! Many orders by chance. Cheaper than all of them, so it also finds what takes longer.

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
    pub(super) use shuttle::future::block_on;
    pub(super) use shuttle::sync::Arc;
    pub(super) use shuttle::sync::atomic::{AtomicU32, Ordering};
    pub(super) use shuttle::thread;

    /// Orders that are tried of each model. A failure prints the schedule that `shuttle::replay` runs again.
    const ORDERS: usize = 4000;

    pub(super) fn model(run: impl Fn() + Send + Sync + 'static) {
        shuttle::check_random(run, ORDERS);
    }

    pub(super) use model as bounded_model;
}

#[path = "sync.rs"]
mod sync;

mod checker {
    pub(super) use shuttle::sync::Mutex;
    pub(super) use shuttle::sync::MutexGuard;
    pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};
}
