//! Counts the outcomes of plans.

use serde::Serialize;

/// The outcomes of the asks of one or more plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    pub asked: u32,
    pub void: u32,
    pub refused: u32,
    /// Would have been applied outside shadow mode. Counted in no other field.
    pub shadow: u32,
    pub disconnected: u32,
    pub banned: u32,
    pub health_changed: u32,
    /// Peers, not asks.
    pub pinged: u32,
    pub dialed: u32,
    pub probed: u32,
    pub protected: u32,
    pub broadcasts_forgotten: u32,
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
