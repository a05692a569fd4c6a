//! How many files and sockets the process may have open, and how a node shares them out. Opens nothing.
//!
//! A node that uses its last descriptor for a peer can neither save its state nor say that anything is wrong. So peers get
//! what is left after three other uses:
//!
//! ```text
//!   limit = peers + local API + state files + what a node has open anyway
//! ```

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a node has open that is neither a peer nor a client: standard streams, the runtime's poll and signals, listeners,
/// lock, log, journal, recording, file events. It is 19 for `groundskeeper run`; the rest is for libraries.
const BASE: u32 = 32;

/// For saving state, reading the drop-in folder and looking up names: each opens a few files at a time and closes them.
const FILES: u32 = 16;

/// Most and least for clients of the local API: see the shares of the admin socket.
const LOCAL_API: (u32, u32) = (32, 256);

/// "Unlimited" as a number: what Linux allows one process by default (`fs.nr_open`).
const UNLIMITED: u64 = 1 << 20;

/// How many descriptors the process may have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorLimit(u32);

/// The soft limit now (RLIMIT_NOFILE). One system call, so that a limit that was changed from outside is noticed.
pub fn limit() -> DescriptorLimit {
    DescriptorLimit::of(getrlimit(Resource::Nofile).current)
}

/// Raises the soft limit to the hard one. For programs, at their start: a library leaves the process as it is.
///
/// A process that uses `select` with descriptors above 1,023 must not call it; nothing here does.
///
/// # Errors
/// If the system refuses; the limit is as before.
pub fn raise_limit() -> io::Result<DescriptorLimit> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(UNLIMITED, |most| most.min(UNLIMITED));
    if current.is_some_and(|now| now < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(limit())
}

impl DescriptorLimit {
    fn of(current: Option<u64>) -> Self {
        let limit = current.unwrap_or(UNLIMITED).min(UNLIMITED);
        Self(u32::try_from(limit).unwrap_or(u32::MAX))
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// A part of it, for one of `nodes` in the same process.
    #[must_use]
    pub fn shared_by(self, nodes: u32) -> Self {
        Self(self.0 / nodes.max(1))
    }

    /// For clients of the local API: an eighth, within bounds.
    pub fn for_local_api(self) -> u32 {
        (self.0 / 8).clamp(LOCAL_API.0, LOCAL_API.1)
    }

    /// For state files and the local API. Peers never get these.
    pub fn reserve(self) -> u32 {
        FILES + self.for_local_api()
    }

    /// For peers: at least 1, so that a node under an impossible limit still says what is wrong.
    pub fn for_peers(self) -> u32 {
        self.0.saturating_sub(BASE + self.reserve()).max(1)
    }

    /// Whether a peer's descriptor of this number is one of the reserve.
    ///
    /// The system gives out the lowest free number. So all lower ones are in use, also those that other parts of the
    /// process opened, and none has to be counted.
    pub fn is_reserved(self, descriptor: u32) -> bool {
        descriptor >= self.0.saturating_sub(self.reserve())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: u64) -> DescriptorLimit {
        DescriptorLimit::of(Some(limit))
    }

    #[test]
    fn peers_leave_enough_for_files_and_the_local_api() {
        for limit in [64, 128, 256, 1024, 4096, 20_000, UNLIMITED] {
            let limit = of(limit);
            assert!(limit.for_peers() == 1 || limit.for_peers() + limit.reserve() + BASE == limit.get());
            assert!(limit.for_peers() < limit.get());
        }
        assert_eq!((of(128).for_peers(), of(1024).for_peers(), of(20_000).for_peers()), (48, 848, 19_696));
        assert_eq!(DescriptorLimit::of(None).get(), 1 << 20);
        assert_eq!(of(1024).shared_by(8).get(), 128);
    }

    #[test]
    fn the_last_numbers_are_the_reserve() {
        let limit = of(128);
        assert!(!limit.is_reserved(79) && limit.is_reserved(80) && limit.is_reserved(127));
        assert!(of(8).is_reserved(0), "a limit below the reserve has nothing for peers");
    }

    #[test]
    fn the_limit_is_that_of_this_process() {
        let now = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED).min(UNLIMITED);
        assert_eq!(u64::from(limit().get()), now);
    }
}
