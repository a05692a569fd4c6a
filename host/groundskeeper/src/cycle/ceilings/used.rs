//! What guests have used of ceilings, by tick and by hour, and the part of it that outlives the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::PeerId;
use crate::pool::ConnKey;

/// Peers for which a guest's changes of health outlive the process; the newest ones. About 40 bytes each on disk.
const HEALTH_KEPT: usize = 1024;

const HOUR_S: u64 = 3600;

/// Up-time that a file may claim: 136 years. Sums with it cannot overflow.
const MOST_UP_S: u64 = u32::MAX as u64;

/// The amount done in the last hour, by minutes. An amount expires up to a minute late and never early, so a limit holds
/// for every period of an hour. Keeps at most 62 minutes.
#[derive(Clone, Default, Debug)]
pub(super) struct HourlyCount(pub(super) VecDeque<(u64, u32)>);

impl HourlyCount {
    pub(super) fn expire(&mut self, now: Duration) {
        let over = |minute: u64| now.as_secs() >= (minute + 1) * 60 + HOUR_S;
        while self.0.front().is_some_and(|(minute, _)| over(*minute)) {
            self.0.pop_front();
        }
    }

    pub(super) fn sum(&mut self, now: Duration) -> u32 {
        self.expire(now);
        self.0.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    pub(super) fn add(&mut self, now: Duration, n: u32) {
        let minute = now.as_secs() / 60;
        match self.0.back_mut() {
            Some((last, sum)) if *last == minute => *sum = sum.saturating_add(n),
            _ => self.0.push_back((minute, n)),
        }
    }
}

/// The amounts used under one set of ceilings.
#[derive(Clone, Default, Debug)]
pub(super) struct UsedAllowance {
    pub(super) tick: u32,
    pub(super) disconnects: u32,
    pub(super) pings: u32,
    pub(super) dials: u32,
    pub(super) forgotten: u32,
    pub(super) disconnects_of_hour: HourlyCount,
    /// Points by peer.
    pub(super) health: BTreeMap<PeerId, HourlyCount>,
    /// When each ban ends, in monotonic time.
    pub(super) bans: BTreeMap<PeerId, Duration>,
    pub(super) protected: BTreeMap<u32, (ConnKey, Duration)>,
}

impl UsedAllowance {
    pub(super) fn begin(&mut self, tick: u32, now: Duration) {
        if self.tick != tick {
            self.tick = tick;
            self.disconnects = 0;
            self.pings = 0;
            self.dials = 0;
            self.forgotten = 0;
        }
        self.disconnects_of_hour.expire(now);
        self.health.retain(|_, hour| hour.sum(now) > 0);
        self.bans.retain(|_, until| *until > now);
        self.protected.retain(|_, (_, until)| *until > now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.disconnects_of_hour.0.is_empty()
            && self.health.is_empty()
            && self.bans.is_empty()
            && self.protected.is_empty()
    }
}

/// What guests have used of the ceilings that span more than a tick, for the next process. Protections are not here: they
/// end with their connections.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct UsedCeilings {
    /// Up-time of the node over all its processes, in seconds: the clock of everything below.
    pub(super) up_s: u64,
    /// All guests together.
    pub(super) all: UsedByGuest,
    /// Each guest, by name.
    pub(super) each: BTreeMap<String, UsedByGuest>,
}

impl UsedCeilings {
    /// Disconnects, points of health and bans of each guest.
    pub(in crate::cycle) fn amounts(&self) -> Vec<(&str, u64)> {
        let sum = |used: &UsedByGuest| {
            let disconnects = used.disconnects.iter().map(|(_, n)| u64::from(*n));
            let points = used.health.iter().map(|(_, _, n)| u64::from(*n));
            disconnects.chain(points).sum::<u64>() + used.bans.len() as u64
        };
        self.each.iter().map(|(name, used)| (name.as_str(), sum(used))).collect()
    }

    /// Up-time of the node when this was kept.
    pub(super) fn up(&self) -> Duration {
        Duration::from_secs(self.up_s.min(MOST_UP_S))
    }
}

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct UsedByGuest {
    /// Minute, and how many.
    disconnects: Vec<(u64, u32)>,
    /// Peer, minute of the last change, and points.
    health: Vec<(PeerId, u64, u32)>,
    /// Peer, and the second at which its ban ends.
    bans: Vec<(PeerId, u64)>,
}

impl From<&UsedAllowance> for UsedByGuest {
    fn from(used: &UsedAllowance) -> Self {
        let sums = used.health.iter().filter_map(|(id, hour)| {
            let (last_minute, _) = hour.0.back()?;
            Some((*id, *last_minute, hour.0.iter().fold(0_u32, |sum, (_, n)| sum.saturating_add(*n))))
        });
        let mut health: Vec<_> = sums.collect();
        health.sort_unstable_by_key(|(id, minute, _)| (Reverse(*minute), *id));
        health.truncate(HEALTH_KEPT);
        Self {
            disconnects: used.disconnects_of_hour.0.iter().copied().collect(),
            health,
            bans: used.bans.iter().map(|(id, until)| (*id, until.as_secs())).collect(),
        }
    }
}

impl UsedByGuest {
    #[cfg(feature = "dropin")]
    pub(super) fn is_only_bans(&self) -> bool {
        self.disconnects.is_empty() && self.health.is_empty()
    }

    /// The amounts at the up-time `now`. What the file dates later counts as used now, so that it expires.
    pub(super) fn used_by(&self, now: Duration) -> UsedAllowance {
        let this_minute = now.as_secs() / 60;
        let count = |minute: u64, n: u32| (minute.min(this_minute), n);
        let disconnects = self.disconnects.iter().map(|(minute, n)| count(*minute, *n));
        let health =
            self.health.iter().map(|(id, minute, n)| (*id, HourlyCount([count(*minute, *n)].into())));
        let bans = self.bans.iter().map(|(id, until_s)| (*id, Duration::from_secs(*until_s)));
        UsedAllowance {
            disconnects_of_hour: HourlyCount(disconnects.collect()),
            health: health.collect(),
            bans: bans.collect(),
            ..UsedAllowance::default()
        }
    }
}

/// What must end because a ceiling was lowered below what is in force.
#[derive(Default, PartialEq, Eq, Debug)]
pub(in crate::cycle) struct Excess {
    pub protected: Vec<ConnKey>,
    pub bans: Vec<PeerId>,
}

impl UsedAllowance {
    /// Removes what is in force above these ceilings. What would last longest goes first.
    pub(super) fn lower(&mut self, protected: u32, bans: u32) -> Excess {
        let protected = above(protected, self.protected.iter().map(|(conn, (_, until))| (*until, *conn)));
        let protected = protected.iter().filter_map(|conn| self.protected.remove(conn)).map(|(key, _)| key);
        let bans = above(bans, self.bans.iter().map(|(id, until)| (*until, *id)));
        bans.iter().for_each(|id| _ = self.bans.remove(id));
        Excess { protected: protected.collect(), bans }
    }

    pub(super) fn forget(&mut self, excess: &Excess) {
        excess.protected.iter().for_each(|key| _ = self.protected.remove(&key.conn));
        excess.bans.iter().for_each(|id| _ = self.bans.remove(id));
    }
}

/// The entries above a ceiling of `most`, by the time at which they would end.
fn above<T: Ord>(most: u32, in_force: impl Iterator<Item = (Duration, T)>) -> Vec<T> {
    let mut in_force: Vec<_> = in_force.collect();
    in_force.sort_unstable();
    in_force.into_iter().skip(most as usize).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the work is spread, no hour exceeds the limit, and after a full idle hour there is room.
        #[test]
        fn a_limit_holds_for_any_hour(steps in proptest::collection::vec((0_u64..900, 1_u32..5), 1..300), limit in 1_u32..20) {
            let (mut hour, mut now, mut done) = (HourlyCount::default(), 0, Vec::new());
            for (pause, wished) in steps {
                now += pause;
                let at = Duration::from_secs(now);
                for _ in 0..wished {
                    if hour.sum(at) < limit {
                        hour.add(at, 1);
                        done.push(now);
                    }
                }
                let last_hour = done.iter().filter(|then| now - **then < HOUR_S).count();
                prop_assert!(last_hour as u32 <= limit);
                prop_assert!(hour.0.len() <= 62);
                let well_over_an_hour = done.iter().filter(|then| now - **then < HOUR_S + 60).count();
                prop_assert!(hour.sum(at) <= well_over_an_hour as u32, "nothing is remembered for longer");
            }
        }
    }
}
