//! Every interleaving of what threads do to a slot's state word. Holds no code of its own: `tag` is the host's file.
//!
//! The host's file takes its atomics from `super::sync`, so here they are loom's and need no flag.

#[cfg(test)]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[cfg(test)]
#[allow(dead_code, reason = "the models need a part of what the host uses")]
#[path = "../../src/pool/tag.rs"]
mod tag;

#[cfg(test)]
mod models;
