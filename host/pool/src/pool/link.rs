//! The interface of a connection to the pool. Applications that open connections themselves implement it.

use crate::journal::Cause;

/// The host's handle on one connection. The connection itself belongs to its owner's task.
///
/// The beat and the tasks of other connections call these methods. A method must not block, and must not call
/// back into the pool for the same connection except through its owner. `agent` and `boot_nonce` are called under the
/// pool's lock, and a link may be dropped under it: neither they nor its `Drop` may call the pool.
pub trait Link: Send + Sync + 'static {
    /// Asks the owner to check that the peer is alive. Any sign of life counts as the answer.
    fn ping(&self);

    /// Asks the owner to send `why` to the peer, and to release its slot within 5 s.
    fn close(&self, why: &Goodbye);

    /// Ends the owner's task, because it did not release its slot in time.
    fn abort(&self) {}

    /// Traffic of the connection so far.
    fn traffic(&self) -> LinkTraffic {
        LinkTraffic::default()
    }

    /// Software name that the peer claims, at most 64 bytes. Untrusted.
    fn agent(&self) -> &str {
        ""
    }

    /// A random number that the peer draws when it starts. Another number means that the peer has restarted.
    fn boot_nonce(&self) -> u64 {
        0
    }
}

/// Why this node ends a connection; sent to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The cause in this node's journal.
    pub cause: Cause,
    /// At most 200 bytes.
    pub text: String,
}

/// Traffic of one connection, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Received from the peer.
    pub kib_in: u32,
    /// Sent to the peer.
    pub kib_out: u32,
    /// Waiting to be sent.
    pub kib_queued: u32,
}
