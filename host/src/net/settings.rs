//! What the network is told when it starts: settings with their defaults and bounds. Reads no files.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::frame::FrameCaps;
use super::tuning::Tuning;
use crate::book::Book;
use crate::clock::Clock;
use crate::config::Bootstrap;
use crate::flow::{Broadcasts, OutboxLimits};
use crate::journal::Journal;
use crate::pool::Pool;

/// The longest network name: ALPN has room for 255 bytes.
pub const MAX_NETWORK: usize = 64;

/// The settings of one node's network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Nodes of other networks are refused in the TLS handshake. 1 to 64 bytes.
    pub network: String,
    /// Where to accept connections; port 0 lets the system choose. Empty: only dial.
    pub listen: Vec<SocketAddr>,
    /// Where peers should find this node, if not where it listens. At most 8 are told.
    pub advertise: Vec<SocketAddr>,
    /// What the node says it runs, at most 64 bytes.
    pub agent: String,
    pub bootstrap: Vec<Bootstrap>,
    /// For a TCP connection to be there.
    pub connect_timeout: Duration,
    /// For TLS and hello together, both ways.
    pub handshake_timeout: Duration,
    /// For one of our handlers to answer a request.
    pub answer_timeout: Duration,
    /// Requests of one peer that are worked on at once; further ones are answered with "busy".
    pub answers_at_once: usize,
    /// Outgoing attempts in flight.
    pub dials_at_once: usize,
    pub frame_caps: FrameCaps,
    pub outbox: OutboxLimits,
    pub tuning: Tuning,
    /// What is read from one peer on average; bursts of a second's worth pass. The rest waits in the sender.
    pub bytes_per_second_per_peer: u64,
    /// Boot nonce, ping nonces and choices by chance follow from it, for simulations; none: nobody can guess them.
    pub seed: Option<u64>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            network: "groundskeeper".into(),
            listen: Vec::new(),
            advertise: Vec::new(),
            agent: concat!("groundskeeper/", env!("CARGO_PKG_VERSION")).into(),
            bootstrap: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            answers_at_once: 64,
            dials_at_once: 32,
            frame_caps: FrameCaps::default(),
            outbox: OutboxLimits::default(),
            tuning: Tuning::default(),
            bytes_per_second_per_peer: 16 << 20,
            seed: None,
        }
    }
}

/// The rooms of the host that the network works for.
#[derive(Clone)]
pub struct Rooms {
    pub pool: Arc<Pool>,
    pub book: Arc<Book>,
    pub broadcasts: Arc<Broadcasts>,
    pub journal: Arc<Journal>,
    pub clock: Arc<dyn Clock>,
}
