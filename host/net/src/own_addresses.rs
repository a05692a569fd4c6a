//! Where this node listens, and where it tells peers to find it.

use std::net::SocketAddr;

use super::wire::MAX_LISTEN;

pub(crate) struct OwnAddresses {
    /// With the ports that the system chose.
    bound: Vec<SocketAddr>,
    advertise: Vec<SocketAddr>,
}

impl OwnAddresses {
    pub(crate) fn new(bound: Vec<SocketAddr>, advertise: Vec<SocketAddr>) -> Self {
        Self { bound, advertise }
    }

    pub(crate) fn bound(&self) -> &[SocketAddr] {
        &self.bound
    }

    /// Addresses from the settings, not from the listeners.
    pub(crate) fn advertised(&self) -> &[SocketAddr] {
        &self.advertise
    }

    /// Addresses for a hello.
    pub(crate) fn told(&self) -> &[SocketAddr] {
        let all = if self.advertise.is_empty() { &self.bound } else { &self.advertise };
        &all[..all.len().min(MAX_LISTEN)]
    }
}
