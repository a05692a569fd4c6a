//! What the pool asks of a connection. The one seam for applications that bring connections of their own.

use crate::journal::Cause;

/// The host's hold on one connection: the owner's task keeps the connection itself.
///
/// Every method is called from the beat or from another connection's task, so none may block, and none may call
/// back into the pool for the same connection other than through its owner.
pub trait Link: Send + Sync + 'static {
    /// Asks the owner to find out whether the peer is there. Any sign of life counts as the answer.
    fn ping(&self);

    /// Asks the owner to say `why` to the peer, and to let go of its slot within 5 s.
    fn close(&self, why: &Goodbye);

    /// The owner did not let go in time: end its task without asking.
    fn abort(&self) {}

    /// What has gone over the connection so far.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// What the peer says it runs, at most 64 bytes. Untrusted.
    fn agent(&self) -> &str {
        ""
    }

    /// A number that the peer draws when it starts: another one from the same peer means that it came back.
    fn boot_nonce(&self) -> u64 {
        0
    }
}

/// Why this node ends a connection, as the peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    pub cause: Cause,
    /// At most 200 bytes.
    pub text: String,
}

/// Bytes over one connection, in units of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub kib_in: u32,
    pub kib_out: u32,
    /// Waiting to be sent.
    pub kib_queued: u32,
}
