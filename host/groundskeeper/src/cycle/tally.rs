//! Counts the outcomes of plans.

use serde::Serialize;

/// The outcomes of the asks of one or more plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Asks in the plans, whatever their outcome.
    pub asked: u32,
    /// Asks that events had overtaken.
    pub void: u32,
    /// Asks that were not allowed or not possible. One granted in part also counts as done below.
    pub refused: u32,
    /// Would have been applied outside shadow mode. Counted in no other field but `asked`.
    pub shadow: u32,
    /// Connections ended, by a ban or without one.
    pub disconnected: u32,
    /// Bans applied, also of peers that had left by then.
    pub banned: u32,
    /// Changes of health applied.
    pub health_changed: u32,
    /// Peers, not asks.
    pub pinged: u32,
    /// Dials started, without probes.
    pub dialed: u32,
    /// Probes started.
    pub probed: u32,
    /// Protections applied, renewals included.
    pub protected: u32,
    /// Broadcasts, not asks.
    pub broadcasts_forgotten: u32,
    /// Addresses, not asks.
    pub addresses_forgotten: u32,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.asked += other.asked;
        self.void += other.void;
        self.refused += other.refused;
        self.shadow += other.shadow;
        self.disconnected += other.disconnected;
        self.banned += other.banned;
        self.health_changed += other.health_changed;
        self.pinged += other.pinged;
        self.dialed += other.dialed;
        self.probed += other.probed;
        self.protected += other.protected;
        self.broadcasts_forgotten += other.broadcasts_forgotten;
        self.addresses_forgotten += other.addresses_forgotten;
    }
}
