//! The claim of a caller on a compile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A claim on a compile. The compile ends early when every clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct CompileTicket(pub(super) Arc<AtomicBool>);

impl CompileTicket {
    /// Whether to load the phase again: the compile has ended, or there is room for it now.
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Ends the wait. Returns whether it had not ended before.
    pub fn end(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl PartialEq for CompileTicket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CompileTicket {}
