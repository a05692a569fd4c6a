//! The current state of the network between hosts: which links pass packets, which hosts read, which connections are
//! broken. Set between two steps of the simulation and read by the transports. Moves no bytes and keeps no time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use parking_lot::Mutex;

/// A set of hosts as bits: host 0 is the lowest.
pub(crate) type Mask = u32;

pub(crate) fn bit(host: usize) -> Mask {
    1 << host
}

/// The address of a host. Each host is alone in its network group.
pub(crate) fn ip_of(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, host as u8 + 1, 0, 1))
}

fn host_at(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(ip) = ip else { return None };
    (ip.octets()[1] as usize).checked_sub(1)
}

/// The state of all links and hosts.
pub(crate) struct Weather {
    hosts: usize,
    /// By sender: the hosts that its packets do not reach now, because they are dropped or held.
    unheard: Vec<AtomicU32>,
    /// Hosts that do not read from their sockets.
    deaf: AtomicU32,
    /// By pair: connections made before this number of breaks are broken.
    breaks: Vec<AtomicU32>,
    /// Readers that wait until their host reads again.
    waiting: Mutex<Vec<(usize, Waker)>>,
}

impl Weather {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            hosts,
            unheard: (0..hosts).map(|_| AtomicU32::new(0)).collect(),
            deaf: AtomicU32::new(0),
            breaks: (0..hosts * hosts).map(|_| AtomicU32::new(0)).collect(),
            waiting: Mutex::default(),
        }
    }

    /// The host that `ip` belongs to.
    pub(crate) fn host_at(&self, ip: IpAddr) -> Option<usize> {
        host_at(ip).filter(|host| *host < self.hosts)
    }

    pub(crate) fn set_unheard(&self, sender: usize, by: Mask) {
        self.unheard[sender].store(by, Relaxed);
    }

    /// Whether a packet and its answer get through.
    pub(crate) fn passes(&self, a: usize, b: usize) -> bool {
        self.unheard[a].load(Relaxed) & bit(b) == 0 && self.unheard[b].load(Relaxed) & bit(a) == 0
    }

    pub(crate) fn set_deaf(&self, deaf: Mask) {
        self.deaf.store(deaf, Relaxed);
        let mut waiting = self.waiting.lock();
        // Wakes in the order of waiting, so that a repeated run wakes them in the same order.
        for (_, waker) in waiting.extract_if(.., |(host, _)| deaf & bit(*host) == 0) {
            waker.wake();
        }
    }

    /// Whether `host` does not read now. If so, `waker` is called when it reads again.
    pub(crate) fn holds_back(&self, host: usize, waker: &Waker) -> bool {
        let deaf = self.deaf.load(Relaxed) & bit(host) != 0;
        if deaf {
            self.waiting.lock().push((host, waker.clone()));
        }
        deaf
    }

    pub(crate) fn breaks(&self, a: usize, b: usize) -> u32 {
        self.breaks[a.min(b) * self.hosts + a.max(b)].load(Relaxed)
    }

    /// Breaks every connection between the two hosts. Each end notices at its next read or write.
    pub(crate) fn break_between(&self, a: usize, b: usize) {
        self.breaks[a.min(b) * self.hosts + a.max(b)].fetch_add(1, Relaxed);
    }
}
