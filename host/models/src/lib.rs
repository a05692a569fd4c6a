//! What threads do to the host's shared state, in every order (loom) and in many random ones (shuttle). Holds no code of
//! its own: `tag`, `outbox` and `queue` are the host's files.
//!
//! Those files take their atomics, locks and wake-ups from `super::sync`, so here they are the checkers', and need no flag.
//! The ring under the request queue is crossbeam's, which checks it itself; a locked one stands for it.

#![cfg(test)]
#![expect(
    clippy::duplicate_mod,
    reason = "one source, two checkers: each has its own atomics and locks under it"
)]

mod by_loom;
mod by_shuttle;
