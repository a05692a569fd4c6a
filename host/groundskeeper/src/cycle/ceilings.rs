//! What guests have done and may still do: per tick, per hour and at the same time, each alone and all together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::contract::Interface;

use crate::engine::policy::{Grants, GuestCeilings};
use crate::peer::PeerId;
use crate::pool::ConnKey;

mod used;

pub(super) use used::Excess;
use used::UsedAllowance;
pub use used::UsedCeilings;

/// A guest may change the health of this many peers within an hour. About 100 bytes each.
const HEALTH_PEERS: usize = 16_384;

/// With more histories than this, those with no entry left are removed.
const HISTORIES: usize = 64;

/// What all guests of a node have done. Keyed by name, so that a reload does not reset it.
#[derive(Default)]
pub(super) struct Ledger {
    /// Up-time when the monotonic clock of this process was zero. Times below are up-time.
    up_before: Duration,
    all: UsedAllowance,
    /// A copy of `all` for the run of a guest in shadow mode.
    scratch: UsedAllowance,
    /// By name and whether it was in shadow mode.
    each: BTreeMap<(Arc<str>, bool), UsedAllowance>,
}

impl Ledger {
    /// What the guest `name` may still do at `tick`. In shadow mode it uses up only its own share.
    pub(super) fn allowance<'a>(
        &'a mut self,
        name: &Arc<str>,
        shadow: bool,
        tick: u32,
        mono: Duration,
        rules: Rules<'a>,
    ) -> Allowance<'a> {
        let now = self.up_before + mono;
        if self.each.len() > HISTORIES {
            self.each.retain(|_, used| {
                used.begin(tick, now);
                !used.is_empty()
            });
        }
        self.all.begin(tick, now);
        let own = self.each.entry((Arc::clone(name), shadow)).or_default();
        own.begin(tick, now);
        let all = if shadow {
            self.scratch = self.all.clone();
            &mut self.scratch
        } else {
            &mut self.all
        };
        Allowance { rules, own, all, now }
    }

    /// What guests have used, without those in shadow mode.
    pub(super) fn kept(&self, mono: Duration) -> UsedCeilings {
        let each = self.each.iter().filter(|((_, shadow), used)| !shadow && !used.is_empty());
        UsedCeilings {
            up_s: (self.up_before + mono).as_secs(),
            all: (&self.all).into(),
            each: each.map(|((name, _), used)| (name.to_string(), used.into())).collect(),
        }
    }

    /// Continues with what an earlier process kept.
    pub(super) fn restore(&mut self, used: &UsedCeilings, mono: Duration) {
        let now = used.up();
        self.up_before = now.saturating_sub(mono);
        self.all = used.all.used_by(now);
        for (name, used) in &used.each {
            self.each.insert((name.as_str().into(), false), used.used_by(now));
        }
    }

    /// What the guest `name` has in force beyond its new grants, and must end. What another guest holds as well stays.
    pub(super) fn lower(&mut self, name: &Arc<str>, grants: &Grants) -> Excess {
        let Some(own) = self.each.get_mut(&(Arc::clone(name), false)) else { return Excess::default() };
        let protected = grants.protect.map_or(0, |grant| grant.max_active);
        let mut excess = own.lower(protected, grants.ban.map_or(0, |grant| grant.max_active));
        let others =
            self.each.iter().filter(|((other, shadow), _)| !shadow && other != name).map(|(_, used)| used);
        excess.protected.retain(|key| !others.clone().any(|used| used.protected.contains_key(&key.conn)));
        excess.bans.retain(|id| !others.clone().any(|used| used.bans.contains_key(id)));
        self.all.forget(&excess);
        excess
    }

    /// The same for all guests together.
    pub(super) fn lower_all(&mut self, node: &GuestCeilings) -> Excess {
        let excess = self.all.lower(node.protected, node.bans);
        self.each.iter_mut().filter(|((_, shadow), _)| !shadow).for_each(|(_, used)| used.forget(&excess));
        excess
    }
}

/// For the fuzz target.
#[cfg(feature = "dropin")]
impl UsedCeilings {
    /// What a node that starts with these amounts would save after `up`.
    pub(crate) fn after(&self, up: Duration) -> Self {
        let mut ledger = Ledger::default();
        ledger.restore(self, Duration::ZERO);
        let now = ledger.up_before + up;
        ledger.all.begin(1, now);
        ledger.each.values_mut().for_each(|used| used.begin(1, now));
        ledger.kept(up)
    }

    /// Whether nothing but bans is in force. Those may last for longer than an hour.
    pub(crate) fn has_only_bans(&self) -> bool {
        let mut all = self.each.values().chain([&self.all]);
        all.all(used::UsedByGuest::is_only_bans)
    }
}

/// The rules that hold for one guest.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub grants: &'a Grants,
    pub node: &'a GuestCeilings,
    /// A connection is healthy above this.
    pub healthy_above: u8,
    /// The operator's ceiling for connections.
    pub most: u32,
}

/// What one run of one guest may still do. Each check returns the granted amount or an [`AskRefusal`]; afterwards the caller
/// reports what it did.
pub(super) struct Allowance<'a> {
    rules: Rules<'a>,
    own: &'a mut UsedAllowance,
    all: &'a mut UsedAllowance,
    now: Duration,
}

/// The counts that a connection is checked against.
#[derive(Clone, Copy)]
pub(super) struct ConnectionFacts {
    pub live: u32,
    pub healthy: u32,
}

/// The reason why a guest may not do what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum AskRefusal {
    #[error("{0} is not granted; add `{0} = true` below [grants] in its manifest")]
    NotGranted(Interface),
    /// A ceiling of the guest's own grants.
    #[error("{ceiling} = {limit} is used up")]
    UsedUp { ceiling: &'static str, limit: u32 },
    /// A ceiling of all guests together.
    #[error("guests.{ceiling} = {limit} is used up by all guests together")]
    UsedUpByAll { ceiling: &'static str, limit: u32 },
    #[error("guests.untouchable names this peer")]
    Untouchable,
    #[error("disconnect.min_connections_left = {least}: {live} are live")]
    ConnectionsLeft { least: u32, live: u32 },
    #[error("guests.floor = {floor}: {live} connections are live")]
    FloorLive { floor: u32, live: u32 },
    #[error("guests.floor = {floor}: {healthy} connections are healthy")]
    FloorHealthy { floor: u32, healthy: u32 },
    /// Found by the pool at the moment of the disconnect.
    #[error("{keep} connections have to be left")]
    TooFew { keep: u32 },
    #[error("the health of {HEALTH_PEERS} other peers was moved within the hour")]
    HealthOfOthers,
    #[error("health.floor = {floor}: it is {health}")]
    HealthFloor { floor: u8, health: u8 },
    #[error("guests protect half of the {live} live connections already")]
    HalfProtected { live: u32 },
    #[error("the address waits for another {wait_s} s after its failures")]
    BackOff { wait_s: u32 },
    #[error("pool.most = {most}: {connections} are live or being dialled")]
    PoolFull { most: u32, connections: u32 },
    #[error("forget.min_left = {min_left}: the table holds {held}")]
    TableFloor { min_left: u32, held: usize },
}

/// How far the health of a peer may be changed, and its lower limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HealthShare {
    pub by: i32,
    pub floor: u8,
}

/// How many of the asked are granted, and the reason if not all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GrantedShare {
    pub granted: usize,
    pub refusal: Option<AskRefusal>,
}

/// An error if a guest has used up its own `limit`.
fn below(ceiling: &'static str, limit: u32, used: impl TryInto<u32>) -> Result<(), AskRefusal> {
    let used = used.try_into().unwrap_or(u32::MAX);
    if used < limit { Ok(()) } else { Err(AskRefusal::UsedUp { ceiling, limit }) }
}

/// The same for all guests together.
fn below_for_all(ceiling: &'static str, limit: u32, used: impl TryInto<u32>) -> Result<(), AskRefusal> {
    below(ceiling, limit, used).map_err(|_| AskRefusal::UsedUpByAll { ceiling, limit })
}

impl Allowance<'_> {
    /// Whether asks of `interface` are granted at all.
    pub(super) fn granted(&self, interface: Interface) -> Result<(), AskRefusal> {
        if self.rules.grants.allows(interface) { Ok(()) } else { Err(AskRefusal::NotGranted(interface)) }
    }

    /// Whether guests may touch this peer; the operator can forbid it.
    pub(super) fn touchable(&self, id: Option<PeerId>) -> Result<(), AskRefusal> {
        match id {
            Some(id) if self.rules.node.untouchable.contains(&id) => Err(AskRefusal::Untouchable),
            _ => Ok(()),
        }
    }

    /// Whether a connection may be ended. Returns how many must be left after it.
    pub(super) fn disconnect(
        &mut self,
        is_healthy: bool,
        standing: ConnectionFacts,
    ) -> Result<u32, AskRefusal> {
        let Rules { grants, node, .. } = self.rules;
        let grant = grants.disconnect.ok_or(AskRefusal::NotGranted(Interface::Disconnect))?;
        let ConnectionFacts { live, healthy } = standing;
        let (own, all) = (&mut *self.own, &mut *self.all);
        let (own_in_hour, all_in_hour) =
            (own.disconnects_of_hour.sum(self.now), all.disconnects_of_hour.sum(self.now));
        below("disconnect.max_per_tick", grant.max_per_tick, own.disconnects)?;
        below("disconnect.max_per_hour", grant.max_per_hour, own_in_hour)?;
        below_for_all("disconnects_per_tick", node.disconnects_per_tick, all.disconnects)?;
        below_for_all("disconnects_per_hour", node.disconnects_per_hour, all_in_hour)?;
        if live <= grant.min_connections_left {
            return Err(AskRefusal::ConnectionsLeft { least: grant.min_connections_left, live });
        }
        if live <= node.floor {
            return Err(AskRefusal::FloorLive { floor: node.floor, live });
        }
        if is_healthy && healthy <= node.floor {
            return Err(AskRefusal::FloorHealthy { floor: node.floor, healthy });
        }
        Ok(grant.min_connections_left.max(node.floor))
    }

    pub(super) fn disconnected(&mut self) {
        let now = self.now;
        for used in [&mut *self.own, &mut *self.all] {
            used.disconnects += 1;
            used.disconnects_of_hour.add(now, 1);
        }
    }

    /// How long a peer may be banned, at most `wished`.
    pub(super) fn ban(&mut self, wished: Duration) -> Result<Duration, AskRefusal> {
        let grant = self.rules.grants.ban.ok_or(AskRefusal::NotGranted(Interface::Ban))?;
        below("ban.max_active", grant.max_active, self.own.bans.len())?;
        below_for_all("bans", self.rules.node.bans, self.all.bans.len())?;
        Ok(wished.min(grant.max_duration))
    }

    pub(super) fn banned(&mut self, id: PeerId, time: Duration) {
        let until = self.now.saturating_add(time);
        for used in [&mut *self.own, &mut *self.all] {
            used.bans.insert(id, until);
        }
    }

    /// How far a peer's health may be changed, at most `by`, and its lower limit.
    pub(super) fn health(
        &mut self,
        id: PeerId,
        by: i32,
        health: u8,
        standing: ConnectionFacts,
    ) -> Result<HealthShare, AskRefusal> {
        let Rules { grants, node, healthy_above, .. } = self.rules;
        let grant = grants.health.ok_or(AskRefusal::NotGranted(Interface::Health))?;
        let most = grant.max_delta_per_peer_per_hour;
        let peers = self.own.health.len();
        let moved = self.own.health.get_mut(&id).map(|hour| hour.sum(self.now));
        if moved.is_none() && peers >= HEALTH_PEERS {
            return Err(AskRefusal::HealthOfOthers);
        }
        let moved = moved.unwrap_or(0);
        below("health.max_delta_per_peer_per_hour", most, moved)?;
        let left = i32::try_from(most - moved).unwrap_or(i32::MAX);
        let by = by.clamp(-left, left);
        let floor = grant.floor.unwrap_or(u32::from(healthy_above) + 1).min(100) as u8;
        if by < 0 && health <= floor {
            return Err(AskRefusal::HealthFloor { floor, health });
        }
        let after = i32::from(health).saturating_add(by).max(floor.into());
        let falls_ill = health > healthy_above && after <= healthy_above.into();
        if falls_ill && standing.healthy <= node.floor {
            return Err(AskRefusal::FloorHealthy { floor: node.floor, healthy: standing.healthy });
        }
        Ok(HealthShare { by, floor })
    }

    pub(super) fn health_moved(&mut self, id: PeerId, points: u32) {
        if points > 0 {
            self.own.health.entry(id).or_default().add(self.now, points);
        }
    }

    /// How long a connection may be protected, at most `wished`, while `live` are connected.
    pub(super) fn protect(
        &mut self,
        key: ConnKey,
        wished: Duration,
        live: u32,
        is_live: impl Fn(ConnKey) -> bool,
    ) -> Result<Duration, AskRefusal> {
        let grant = self.rules.grants.protect.ok_or(AskRefusal::NotGranted(Interface::Protect))?;
        for used in [&mut *self.own, &mut *self.all] {
            used.protected.retain(|_, (key, _)| is_live(*key));
        }
        let others = |used: &UsedAllowance| used.protected.keys().filter(|conn| **conn != key.conn).count();
        below("protect.max_active", grant.max_active, others(self.own))?;
        let held = others(self.all);
        below_for_all("protected", self.rules.node.protected, held)?;
        if held >= live as usize / 2 {
            return Err(AskRefusal::HalfProtected { live });
        }
        Ok(wished.min(grant.max_duration))
    }

    pub(super) fn protected(&mut self, key: ConnKey, time: Duration) {
        let until = self.now.saturating_add(time);
        for used in [&mut *self.own, &mut *self.all] {
            let held = used.protected.entry(key.conn).or_insert((key, until));
            held.1 = held.1.max(until);
        }
    }

    /// How many of `wished` peers may be pinged.
    pub(super) fn ping(&mut self, wished: usize) -> GrantedShare {
        let Some(grant) = self.rules.grants.ping else {
            return GrantedShare { granted: 0, refusal: Some(AskRefusal::NotGranted(Interface::Ping)) };
        };
        let left = grant.max_per_tick.saturating_sub(self.own.pings) as usize;
        let granted = wished.min(left);
        self.own.pings += granted as u32;
        let (ceiling, limit) = ("ping.max_per_tick", grant.max_per_tick);
        let refusal = (granted < wished).then_some(AskRefusal::UsedUp { ceiling, limit });
        GrantedShare { granted, refusal }
    }

    /// Whether an address that still waits `wait_s` may be dialled. `connections` are live or being dialled.
    pub(super) fn dial(&mut self, probe: bool, wait_s: u32, connections: u32) -> Result<(), AskRefusal> {
        let grant = self.rules.grants.dial.ok_or(AskRefusal::NotGranted(Interface::Dial))?;
        below("dial.max_per_tick", grant.max_per_tick, self.own.dials)?;
        if wait_s > 0 {
            return Err(AskRefusal::BackOff { wait_s });
        }
        if !probe && connections >= self.rules.most {
            return Err(AskRefusal::PoolFull { most: self.rules.most, connections });
        }
        Ok(())
    }

    pub(super) fn dialed(&mut self) {
        self.own.dials += 1;
    }

    /// How many of `wished` entries may be forgotten, in a table that holds `held`.
    pub(super) fn forget(&mut self, wished: usize, held: usize) -> GrantedShare {
        let Some(grant) = self.rules.grants.forget else {
            return GrantedShare { granted: 0, refusal: Some(AskRefusal::NotGranted(Interface::Forget)) };
        };
        let left = grant.max_per_tick.saturating_sub(self.own.forgotten) as usize;
        let spare = held.saturating_sub(grant.min_left as usize);
        let granted = wished.min(left).min(spare);
        let refusal = if granted == wished {
            None
        } else if spare < left {
            Some(AskRefusal::TableFloor { min_left: grant.min_left, held })
        } else {
            Some(AskRefusal::UsedUp { ceiling: "forget.max_per_tick", limit: grant.max_per_tick })
        };
        GrantedShare { granted, refusal }
    }

    pub(super) fn forgot(&mut self, entries: u32) {
        self.own.forgotten = self.own.forgotten.saturating_add(entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    #[test]
    fn a_restart_gives_a_guest_nothing_back_and_takes_nothing_from_it() {
        let node = GuestCeilings::default();
        let grants = Grants::default();
        let rules = Rules { grants: &grants, node: &node, healthy_above: 30, most: 64 };
        let (name, start) = ("greedy".into(), Duration::from_secs(5000));
        let mut ledger = Ledger::default();
        let mut allowance = ledger.allowance(&name, false, 1, start, rules);
        (0..3).for_each(|_| allowance.disconnected());
        allowance.banned(peer(1), Duration::from_secs(600));
        allowance.health_moved(peer(2), 40);
        ledger.allowance(&name, true, 1, start, rules).disconnected();

        let kept = ledger.kept(start + Duration::from_secs(100));
        assert_eq!(kept.each.len(), 1, "shadow mode uses up nothing");
        let mut next = Ledger::default();
        next.restore(&kept, Duration::ZERO);
        // As if 100 s had passed when the next process started.
        for (mono_s, disconnects, bans, health) in
            [(0, 3, 1, 40), (499, 3, 1, 40), (501, 3, 0, 40), (3499, 3, 0, 40), (3700, 0, 0, 0)]
        {
            let now = Duration::from_secs(mono_s);
            let allowance = next.allowance(&name, false, 1, now, rules);
            let (own, all, now) = (allowance.own, allowance.all, allowance.now);
            let moved = own.health.get_mut(&peer(2)).map_or(0, |hour| hour.sum(now));
            assert_eq!(own.disconnects_of_hour.sum(now), disconnects, "at {mono_s} s");
            assert_eq!(all.disconnects_of_hour.sum(now), disconnects, "at {mono_s} s");
            assert_eq!((own.bans.len(), all.bans.len(), moved), (bans, bans, health), "at {mono_s} s");
        }
    }
}
