//! The settings of a network when it starts, with their defaults. Reads no files.

use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_base::bootstrap::Bootstrap;
use groundskeeper_flow::{NetSettings, OutboxLimits, Performance, USUAL_NETWORK};
use groundskeeper_pool::settings::PoolSettings;

/// The settings of one node's network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Nodes of other networks are refused in the TLS handshake. 1 to [`MAX_NETWORK`] bytes.
    ///
    /// [`MAX_NETWORK`]: groundskeeper_flow::MAX_NETWORK
    pub network: String,
    /// Addresses to accept connections on; port 0 lets the system choose. Empty: only dial.
    pub listen: Vec<SocketAddr>,
    /// Addresses that peers should use, if not those of `listen`. At most 8 are sent.
    pub advertise: Vec<SocketAddr>,
    /// Name and version of the node's software, as peers see it. At most 64 bytes.
    pub agent: String,
    /// Nodes to dial first, to join the network.
    pub bootstrap: Vec<Bootstrap>,
    /// Time limit for opening a TCP connection.
    pub connect_timeout: Duration,
    /// Time limit for TLS and both hellos together.
    pub handshake_timeout: Duration,
    /// Time limit for one of our handlers to answer a request.
    pub answer_timeout: Duration,
    /// Requests of one peer that are worked on at once; further ones are answered with "busy".
    pub answers_at_once: usize,
    /// Outgoing connection attempts in flight.
    pub dials_at_once: usize,
    /// The largest frame that is accepted or sent, in bytes after its length.
    pub max_frame: usize,
    /// Bounds of the send queue of each connection.
    pub outbox: OutboxLimits,
    /// Limits, breakers, retries and time-outs at the start; [`Net::tune`](super::Net::tune) changes them.
    pub performance: Performance,
    /// Peers with this much health or less are not asked by [`Net::ask`](super::Net::ask).
    pub healthy_above: u8,
    /// Bytes per second that are read from one peer on average; bursts of one second's worth pass. The rest waits at
    /// the sender.
    pub bytes_per_second_per_peer: u64,
    /// Broadcasts and one-way messages that are taken from one peer per second on average; bursts of one second's worth pass.
    /// The rest is dropped and counted, and a peer that sends far more is ended.
    pub broadcasts_per_second_per_peer: u32,
    /// For simulations: the source of boot nonce, ping nonces and random choices. None: no peer can guess them.
    pub seed: Option<u64>,
}

impl Default for NetConfig {
    /// The defaults of the config, but without listening: the node only dials.
    fn default() -> Self {
        Self { listen: Vec::new(), ..Self::of(NetSettings::default()) }
    }
}

impl NetConfig {
    /// The settings of the config's `[net]`, with defaults for the rest.
    pub fn of(net: NetSettings) -> Self {
        Self {
            network: USUAL_NETWORK.into(),
            listen: net.listen,
            advertise: net.advertise,
            agent: concat!("groundskeeper/", env!("CARGO_PKG_VERSION")).into(),
            bootstrap: net.bootstrap,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: net.handshake_timeout,
            answer_timeout: net.request_timeout,
            answers_at_once: 64,
            dials_at_once: 32,
            max_frame: net.max_frame,
            outbox: OutboxLimits { data_bytes: net.queue_bytes, ..OutboxLimits::default() },
            performance: Performance::default(),
            healthy_above: PoolSettings::default().healthy_above(),
            bytes_per_second_per_peer: net.bytes_per_second_per_peer,
            broadcasts_per_second_per_peer: net.broadcasts_per_second_per_peer,
            seed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuning::Tuning;
    use groundskeeper_flow::MAX_NETWORK;

    /// What an empty config file means, as numbers; only the addresses to listen on differ.
    #[test]
    fn defaults_are_those_of_the_config() {
        let (usual, net) = (NetConfig::default(), NetSettings::default());
        assert_eq!(usual.bytes_per_second_per_peer, net.bytes_per_second_per_peer);
        assert_eq!(usual.bytes_per_second_per_peer, 4 << 20);
        assert_eq!(usual.broadcasts_per_second_per_peer, net.broadcasts_per_second_per_peer);
        assert_eq!((usual.outbox, usual.outbox.data_bytes), (OutboxLimits::default(), net.queue_bytes));
        assert_eq!(usual.outbox.data_bytes, 4 << 20);
        assert_eq!((usual.max_frame, net.max_frame), (1 << 20, 1 << 20));
        assert_eq!(usual.handshake_timeout, net.handshake_timeout);
        assert_eq!(usual.answer_timeout, net.request_timeout);
        assert_eq!((usual.advertise, usual.bootstrap.len()), (net.advertise, net.bootstrap.len()));
        assert_eq!((usual.listen.len(), net.listen.len()), (0, 1));
        assert_eq!((usual.network.as_str(), MAX_NETWORK), (USUAL_NETWORK, 32));
        let performance = Performance::default().resolved();
        assert_eq!(performance, Performance::default());
        assert_eq!((&usual.performance, usual.healthy_above), (&performance, 30));
        let tuning = Tuning::new(usual.performance, 30);
        assert_eq!(tuning.timeout_of("any"), performance.timeouts[Performance::ALL_KINDS]);
    }
}
