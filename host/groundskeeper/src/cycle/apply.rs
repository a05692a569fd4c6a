//! The only place where an ask becomes an effect. Each leaves a record, applied or not. Never waits for the network.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::host::{Ask, Table, Test};
use groundskeeper_sdk::query;
use serde::Serialize;

use super::World;
use super::ceilings::{Allowance, HealthShare, Refusal, Share, Standing};
use super::pings::Pings;
use super::snapshot::TickSnapshot;
use crate::engine::beat::Fate;
use crate::engine::{Changes, PhaseView};
use crate::journal::{Asker, Cause, Draft, Outcome, What};
use crate::pool::{Removal, Terms, Verdict};

/// Dials that one urgent beat may start: a node that woke alone must not storm its whole address book.
const DIALS_PER_URGENT_BEAT: u32 = 8;

/// Asks of one run that came to nothing and are told one by one; the rest is told by their number. A plan of 4,096 of
/// them at each tick would push everything else out of the journal.
const FUTILE_TOLD: u32 = 64;

const ENDED_ALREADY: &str = "the connection had ended already";
const SPOKE: &str = "the peer spoke since the view was taken";

/// What became of the asks of one or more plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    pub asked: u32,
    pub void: u32,
    pub refused: u32,
    /// Would have been applied if the phase were not in shadow mode; counted nowhere else.
    pub shadow: u32,
    pub disconnected: u32,
    pub banned: u32,
    pub health_changed: u32,
    /// Peers, not actions.
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

/// What became of one ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskOutcome {
    /// With what it adds to the tally.
    Applied(Tally),
    /// Overtaken by events.
    Void,
    Refused,
    /// Would have been applied if the phase were not in shadow mode.
    Shadow,
    /// The allowance sufficed for a part, which was applied. The rest was refused.
    Partial {
        done: Tally,
        granted: u32,
    },
    /// Would have been granted in part if the phase were not in shadow mode.
    PartialShadow,
}

/// An ask while it is applied; the error is how it ended early.
type Applying = Result<AskOutcome, AskOutcome>;

impl AskOutcome {
    fn is_refused(self) -> bool {
        matches!(self, Self::Refused | Self::Partial { .. } | Self::PartialShadow)
    }

    /// The same ask, of which only this was granted.
    fn in_part(self, granted: u32) -> Self {
        match self {
            Self::Applied(done) => Self::Partial { done, granted },
            Self::Shadow => Self::PartialShadow,
            other => other,
        }
    }
}

impl From<AskOutcome> for Fate {
    fn from(outcome: AskOutcome) -> Self {
        match outcome {
            AskOutcome::Applied(_) => Self::Applied,
            AskOutcome::Void => Self::Void,
            AskOutcome::Refused => Self::Refused,
            AskOutcome::Shadow | AskOutcome::PartialShadow => Self::Shadow,
            AskOutcome::Partial { granted, .. } => Self::Partial { granted },
        }
    }
}

impl Tally {
    fn note(&mut self, outcome: AskOutcome) {
        self.asked += 1;
        self.refused += u32::from(outcome.is_refused());
        match outcome {
            AskOutcome::Applied(done) | AskOutcome::Partial { done, .. } => *self += done,
            AskOutcome::Void => self.void += 1,
            AskOutcome::Shadow | AskOutcome::PartialShadow => self.shadow += 1,
            AskOutcome::Refused => {}
        }
    }
}

/// Applies one plan, action by action in its order.
pub(super) struct Apply<'a> {
    pub world: &'a World,
    pub by: Asker,
    pub snapshot: &'a Arc<TickSnapshot>,
    pub view: &'a PhaseView<TickSnapshot>,
    /// What the plans of this beat have changed. In shadow mode a copy, which nobody else sees.
    pub changes: &'a mut Changes,
    pub pings: &'a mut VecDeque<Pings>,
    /// Dials started in this beat so far, if the beat is an urgent one.
    pub urgent_dials: Option<&'a mut u32>,
    /// What the phase may still do, if it is a guest.
    pub allowance: Option<Allowance<'a>>,
    /// Asks are told and not done.
    pub shadow: bool,
    pub outcome: Applied,
}

/// What came of one plan.
#[derive(Default)]
pub(super) struct Applied {
    pub tally: Tally,
    /// The phase wants to run again after so many ticks.
    pub again_in: Option<u32>,
    /// What became of each ask.
    pub fates: Vec<Fate>,
    /// Refused asks by grant.
    pub refused: BTreeMap<Interface, u32>,
    /// Connections with enough health, counted when first needed.
    healthy: Option<u32>,
    /// Connections that a plan in shadow mode would have ended.
    ended_in_shadow: u32,
    dialed_in_shadow: u32,
    futile: u32,
    futile_untold: BTreeMap<Interface, u32>,
    /// Of the ask that is being applied.
    interface: Option<Interface>,
}

impl Apply<'_> {
    pub(super) fn plan(&mut self, asks: Vec<Ask>) {
        for ask in asks {
            let interface = ask.interface();
            self.outcome.interface = Some(interface);
            let outcome = self.one(ask);
            self.outcome.tally.note(outcome);
            if outcome.is_refused() {
                *self.outcome.refused.entry(interface).or_default() += 1;
            }
            self.outcome.fates.push(outcome.into());
        }
        let mut untold: Vec<_> = std::mem::take(&mut self.outcome.futile_untold).into_iter().collect();
        untold.sort_by_key(|(interface, _)| interface.name());
        for (interface, count) in untold {
            let words = format!("came to nothing as well, like the {FUTILE_TOLD} asks told one by one");
            let outcome = Outcome::Refused(words);
            self.record(Draft { outcome, count, ..self.draft(what_of(interface), "") });
        }
    }

    fn one(&mut self, ask: Ask) -> AskOutcome {
        let applied = match ask {
            Ask::Disconnect { peer, reason } => self.disconnect(peer, reason, false),
            Ask::DisconnectIfSilent { peer, reason } => self.disconnect(peer, reason, true),
            Ask::Ban { peer, for_s, reason } => self.ban(peer, for_s, &reason),
            Ask::Health { peer, by, reason } => self.health(peer, by, &reason),
            Ask::Protect { peer, for_s, reason } => self.protect(peer, for_s, &reason),
            Ask::Ping { peers } => {
                let rows = peers.into_iter().filter_map(|row| self.peer_row(row)).map(|row| row as u32);
                let rows = rows.collect();
                Ok(self.ping(rows, String::new()))
            }
            Ask::PingMatching { tests } => Ok(self.ping_matching(&tests)),
            Ask::Dial { address, reason } => Ok(self.dial(address, false, reason)),
            Ask::Probe { address } => Ok(self.dial(address, true, String::new())),
            Ask::ForgetBroadcasts { older_than_s } => self.forget_broadcasts(older_than_s),
            Ask::ForgetAddresses { not_heard_for_s } => self.forget_addresses(not_heard_for_s),
            Ask::AgainIn { ticks } => Ok(self.again_in(ticks)),
            unserved => {
                let words = format!("this host does not know how to {}", unserved.kind());
                let draft = self.draft(What::PhaseFailed, unserved.reason());
                Err(self.not_applied(draft, Outcome::Refused(words)))
            }
        };
        applied.unwrap_or_else(|not_applied| not_applied)
    }

    /// As [`Apply::peer_row`]. Plans are checked when they are made: no ask names a row of the peers that is not there.
    fn asked_row(&self, row: u32) -> Result<usize, AskOutcome> {
        self.peer_row(row).ok_or(AskOutcome::Applied(Tally::default()))
    }

    /// The snapshot's row for a row of the phase's view.
    fn peer_row(&self, row: u32) -> Option<usize> {
        self.view.snapshot_row(Table::Peers, row)
    }

    fn draft(&self, what: What, reason: impl Into<String>) -> Draft {
        Draft::new(self.by.clone(), what, reason)
    }

    fn record(&self, draft: Draft) {
        self.world.state.journal.record(draft);
    }

    /// A record about one peer of the view.
    fn about(&self, what: What, row: usize, reason: &str) -> Draft {
        let naming = self.snapshot.naming(row);
        Draft {
            conn: Some(self.snapshot.rows().key(row).conn),
            peer: naming.as_ref().map(|naming| naming.id),
            address: naming.as_ref().map(|naming| naming.address),
            inputs: self.snapshot.inputs(row),
            ..self.draft(what, reason)
        }
    }

    fn not_applied(&mut self, draft: Draft, outcome: Outcome) -> AskOutcome {
        let is_void = matches!(outcome, Outcome::Void(_));
        if self.is_told() {
            self.record(Draft { outcome, ..draft });
        }
        if is_void { AskOutcome::Void } else { AskOutcome::Refused }
    }

    /// Counts an ask that came to nothing. Whether it is to be told by itself.
    fn is_told(&mut self) -> bool {
        let Applied { futile, futile_untold, interface, .. } = &mut self.outcome;
        *futile += 1;
        let told = *futile <= FUTILE_TOLD;
        if let (false, Some(interface)) = (told, *interface) {
            *futile_untold.entry(interface).or_default() += 1;
        }
        told
    }

    fn void(&mut self, what: What, row: usize, reason: &str, words: &str) -> AskOutcome {
        if self.is_told() {
            let outcome = Outcome::Void(words.to_owned());
            self.record(Draft { outcome, ..self.about(what, row, reason) });
        }
        AskOutcome::Void
    }

    fn refused(&mut self, what: What, row: usize, reason: &str, words: String) -> AskOutcome {
        if self.is_told() {
            let outcome = Outcome::Refused(words);
            self.record(Draft { outcome, ..self.about(what, row, reason) });
        }
        AskOutcome::Refused
    }

    /// Tells an ask that shadow mode keeps from being done.
    fn in_shadow(&mut self, draft: Draft) -> AskOutcome {
        self.record(Draft { outcome: Outcome::Shadow, ..draft });
        AskOutcome::Shadow
    }

    /// Tells an ask that was done.
    fn applied(&self, draft: Draft, done: Tally) -> AskOutcome {
        self.record(draft);
        AskOutcome::Applied(done)
    }

    /// Connections now, as this plan leaves them so far.
    fn live(&self) -> u32 {
        self.world.state.pool.live().saturating_sub(self.outcome.ended_in_shadow)
    }

    /// The same, with those that are healthy. O(slots) once in a plan.
    fn standing(&mut self) -> Standing {
        let World { state, thresholds, stale_after, .. } = self.world;
        let count = || state.pool.stats(thresholds.healthy_above, *stale_after).healthy;
        let healthy = *self.outcome.healthy.get_or_insert_with(count);
        Standing { live: self.live(), healthy }
    }

    /// Health of a row, as the plans of this beat leave it so far.
    fn health_of(&self, row: usize) -> u8 {
        let changed = self.changes.health.get(&(row as u32)).copied();
        changed.unwrap_or_else(|| self.snapshot.rows().words()[row].health())
    }

    fn is_healthy(&self, health: u8) -> bool {
        health > self.world.thresholds.healthy_above
    }

    /// A connection that this plan has ended, or would have.
    fn ended(&mut self, row: usize) {
        self.changes.closed.insert(row as u32);
        if self.is_healthy(self.health_of(row))
            && let Some(healthy) = &mut self.outcome.healthy
        {
            *healthy = healthy.saturating_sub(1);
        }
        if let Some(allowance) = &mut self.allowance {
            allowance.disconnected();
        }
        self.outcome.ended_in_shadow += u32::from(self.shadow);
    }

    /// The snapshot's row of a connection that is still to be touched, or a record that says why it is not.
    fn touchable(
        &mut self,
        what: What,
        row: u32,
        reason: &str,
        of_the_silent: bool,
    ) -> Result<usize, AskOutcome> {
        let row = self.asked_row(row)?;
        if self.changes.closed.contains(&(row as u32)) {
            return Err(self.void(what, row, reason, ENDED_ALREADY));
        }
        // The dead are not connections: protection keeps the living. A guest is not believed to know which they are.
        let exempt = of_the_silent && self.allowance.is_none();
        let is_protected =
            self.snapshot.rows().words()[row].protected() || self.changes.protected.contains(&(row as u32));
        if is_protected && !exempt {
            return Err(self.refused(what, row, reason, "the peer is protected".to_owned()));
        }
        if let Some(allowance) = &self.allowance
            && let Err(refusal) = allowance.touchable(self.snapshot.naming(row).map(|naming| naming.id))
        {
            return Err(self.refused(what, row, reason, refusal.to_string()));
        }
        Ok(row)
    }

    /// How many connections an ask for the end of this one has to leave.
    fn may_end(&mut self, row: usize) -> Result<u32, Refusal> {
        if self.allowance.is_none() {
            return Ok(0);
        }
        let (standing, is_healthy) = (self.standing(), self.is_healthy(self.health_of(row)));
        self.allowance.as_mut().map_or(Ok(0), |allowance| allowance.disconnect(is_healthy, standing))
    }

    fn disconnect(&mut self, row: u32, reason: String, if_silent: bool) -> Applying {
        let what = What::Disconnect;
        let row = self.touchable(what, row, &reason, if_silent)?;
        let keep = self.may_end(row);
        let keep = keep.map_err(|refusal| self.refused(what, row, &reason, refusal.to_string()))?;
        let key = self.snapshot.rows().key(row);
        let unless_seen_since = if_silent.then(|| self.snapshot.silent_since(row));
        if self.shadow {
            let pool = &self.world.state.pool;
            if !pool.is_live(key) {
                return Err(self.void(what, row, &reason, ENDED_ALREADY));
            }
            if unless_seen_since.is_some_and(|view| pool.seen_since(key, view)) {
                return Err(self.void(what, row, &reason, SPOKE));
            }
            let draft = self.about(what, row, &reason);
            self.ended(row);
            return Ok(self.in_shadow(draft));
        }
        let removal = Removal {
            inputs: self.snapshot.inputs(row),
            ..Removal::new(self.by.clone(), Cause::Phase, reason.clone())
        };
        let terms = Terms { unless_seen_since, keep, ..Terms::default() };
        match self.world.state.pool.disconnect_on(key, removal, terms) {
            Verdict::Closed => {
                self.ended(row);
                Ok(AskOutcome::Applied(Tally { disconnected: 1, ..Tally::default() }))
            }
            Verdict::Gone => Err(self.void(what, row, &reason, ENDED_ALREADY)),
            Verdict::Spoke => Err(self.void(what, row, &reason, SPOKE)),
            Verdict::TooFew => {
                Err(self.refused(what, row, &reason, format!("{keep} connections have to be left")))
            }
        }
    }

    fn ban(&mut self, row: u32, for_s: u32, reason: &str) -> Applying {
        let what = What::Ban;
        let row = self.touchable(what, row, reason, false)?;
        let wished = Duration::from_secs(for_s.into());
        let granted = match &mut self.allowance {
            Some(allowance) => allowance.ban(wished),
            None => Ok(wished),
        };
        let granted = granted.and_then(|time| Ok((time, self.may_end(row)?)));
        let (time, keep) = granted.map_err(|refusal| self.refused(what, row, reason, refusal.to_string()))?;
        let draft = self.about(what, row, &held_for(reason, wished, time, "ban"));
        let Some(id) = draft.peer else {
            return Err(self.not_applied(draft, Outcome::Void(ENDED_ALREADY.into())));
        };
        if self.shadow {
            self.ended(row);
            self.banned(id, time);
            return Ok(self.in_shadow(draft));
        }
        let removal = Removal {
            inputs: self.snapshot.inputs(row),
            ..Removal::new(self.by.clone(), Cause::Banned, reason)
        };
        let terms = Terms { keep, ban_for: Some(time), ..Terms::default() };
        let verdict = self.world.state.pool.disconnect_on(self.snapshot.rows().key(row), removal, terms);
        let disconnected = u32::from(verdict == Verdict::Closed);
        match verdict {
            Verdict::TooFew => {
                let words = format!("{keep} connections have to be left");
                return Err(self.not_applied(draft, Outcome::Refused(words)));
            }
            Verdict::Closed => self.ended(row),
            // The ban is worth as much without a connection.
            Verdict::Gone | Verdict::Spoke => self.world.state.pool.ban(id, time),
        }
        self.banned(id, time);
        Ok(self.applied(draft, Tally { banned: 1, disconnected, ..Tally::default() }))
    }

    fn banned(&mut self, id: crate::peer::PeerId, time: Duration) {
        if let Some(allowance) = &mut self.allowance {
            allowance.banned(id, time);
        }
    }

    fn health(&mut self, row: u32, by: i32, reason: &str) -> Applying {
        let what = What::Health;
        // Raising health is allowed even for untouchable peers.
        let row = if by < 0 && self.allowance.is_some() {
            self.touchable(what, row, reason, false)?
        } else {
            self.asked_row(row)?
        };
        let mut draft = self.about(what, row, reason);
        let (Some(id), false) = (draft.peer, self.changes.closed.contains(&(row as u32))) else {
            return Err(self.not_applied(draft, Outcome::Void(ENDED_ALREADY.into())));
        };
        let health = self.health_of(row);
        let standing =
            if self.allowance.is_some() { self.standing() } else { Standing { live: 0, healthy: 0 } };
        let granted = self
            .allowance
            .as_mut()
            .map_or(Ok(HealthShare { by, floor: 0 }), |allowance| allowance.health(id, by, health, standing));
        let HealthShare { by, floor } = match granted {
            Ok(share) => share,
            Err(refusal) => return Err(self.not_applied(draft, Outcome::Refused(refusal.to_string()))),
        };
        let key = self.snapshot.rows().key(row);
        let moved = if self.shadow {
            let after = i32::from(health).saturating_add(by).clamp(health.min(floor).into(), 100);
            self.world.state.pool.is_live(key).then_some((health, after as u8))
        } else {
            self.world.state.pool.adjust_health_above(key, by, floor)
        };
        let Some((before, after)) = moved else {
            return Err(self.not_applied(draft, Outcome::Void(ENDED_ALREADY.into())));
        };
        draft.inputs.push(("health-before".into(), before.into()));
        draft.inputs.push(("health-after".into(), after.into()));
        self.changes.health.insert(row as u32, after);
        let (was, is) = (self.is_healthy(before), self.is_healthy(after));
        if let Some(healthy) = &mut self.outcome.healthy {
            *healthy = (*healthy + u32::from(is)).saturating_sub(u32::from(was));
        }
        if let Some(allowance) = &mut self.allowance {
            allowance.health_moved(id, before.abs_diff(after).into());
        }
        if self.shadow {
            return Ok(self.in_shadow(draft));
        }
        Ok(self.applied(draft, Tally { health_changed: 1, ..Tally::default() }))
    }

    fn protect(&mut self, row: u32, for_s: u32, reason: &str) -> Applying {
        let row = self.asked_row(row)?;
        let (key, wished, live) =
            (self.snapshot.rows().key(row), Duration::from_secs(for_s.into()), self.live());
        let pool = &self.world.state.pool;
        let granted = match &mut self.allowance {
            Some(allowance) => allowance.protect(key, wished, live, |key| pool.is_live(key)),
            None => Ok(wished),
        };
        let time =
            granted.map_err(|refusal| self.refused(What::Protect, row, reason, refusal.to_string()))?;
        let draft = self.about(What::Protect, row, &held_for(reason, wished, time, "protect"));
        let held = if self.shadow { pool.is_live(key) } else { pool.protect(key, time) };
        if !held {
            let words = "the connection has ended, or as many as can be are protected";
            return Err(self.not_applied(draft, Outcome::Void(words.into())));
        }
        self.changes.protected.insert(row as u32);
        if let Some(allowance) = &mut self.allowance {
            allowance.protected(key, time);
        }
        if self.shadow {
            return Ok(self.in_shadow(draft));
        }
        Ok(self.applied(draft, Tally { protected: 1, ..Tally::default() }))
    }

    fn ping_matching(&mut self, tests: &[Test]) -> AskOutcome {
        let mut rows = Vec::new();
        query::matching(self.view, Table::Peers, tests, &mut |row| {
            rows.extend(self.peer_row(row).map(|row| row as u32));
        });
        let words = if tests.is_empty() {
            "everyone".to_owned()
        } else {
            tests.iter().map(Test::to_string).collect::<Vec<_>>().join(", ")
        };
        self.ping(rows, words)
    }

    fn ping(&mut self, mut rows: Vec<u32>, reason: String) -> AskOutcome {
        let wished = rows.len();
        let mut is_partial = false;
        if let Some(allowance) = &mut self.allowance {
            let Share { granted, refusal } = allowance.ping(wished);
            rows.truncate(granted);
            if let Some(refusal) = refusal {
                let draft =
                    Draft { count: (wished - granted) as u32, ..self.draft(What::Ping, reason.clone()) };
                let refused = self.not_applied(draft, Outcome::Refused(refusal.to_string()));
                if granted == 0 {
                    return refused;
                }
                is_partial = true;
            }
        }
        let count = rows.len() as u32;
        let draft = Draft { count, ..self.draft(What::Ping, reason) };
        let outcome = if self.shadow {
            self.in_shadow(draft)
        } else {
            self.pings.push_back(Pings::new(Arc::clone(self.snapshot), rows));
            self.applied(draft, Tally { pinged: count, ..Tally::default() })
        };
        if is_partial { outcome.in_part(count) } else { outcome }
    }

    fn dial(&mut self, row: u32, probe: bool, reason: String) -> AskOutcome {
        let what = if probe { What::Probe } else { What::Dial };
        let Some(row) = self.view.snapshot_row(Table::Book, row) else {
            let draft = self.draft(what, reason);
            return self.not_applied(draft, Outcome::Refused("no such row in the address book".into()));
        };
        let address = self.snapshot.book().addresses[row];
        let draft = Draft {
            address: Some(address),
            inputs: self.snapshot.book_inputs(row),
            ..self.draft(what, reason.clone())
        };
        let Some(dialer) = &self.world.dialer else {
            return self.not_applied(draft, Outcome::Refused("this node has no dialer".into()));
        };
        if self.changes.dialed.contains(&(row as u32)) {
            return self.not_applied(draft, Outcome::Void("it is being dialled already".into()));
        }
        let wait_s = self.snapshot.book().wait_s[row];
        let connections = self.live() + self.world.state.book.dialing() + self.outcome.dialed_in_shadow;
        if let Some(allowance) = &mut self.allowance
            && let Err(refusal) = allowance.dial(probe, wait_s, connections)
        {
            return self.not_applied(draft, Outcome::Refused(refusal.to_string()));
        }
        if let Some(dials) = self.urgent_dials.as_deref_mut() {
            if *dials >= DIALS_PER_URGENT_BEAT {
                let words = format!("an urgent beat starts at most {DIALS_PER_URGENT_BEAT} dials");
                return self.not_applied(draft, Outcome::Refused(words));
            }
            *dials += u32::from(!self.shadow);
        }
        if self.shadow {
            self.dialed(row);
            self.outcome.dialed_in_shadow += u32::from(!probe);
            return self.in_shadow(draft);
        }
        let Some((order, ticket)) =
            self.world.state.book.begin(address, probe, self.by.clone(), reason, draft.inputs)
        else {
            let draft = Draft { inputs: Vec::new(), ..self.draft(what, String::new()) };
            return self.not_applied(draft, Outcome::Void("it is being dialled already".into()));
        };
        self.dialed(row);
        dialer.dial(order, ticket);
        let (probed, dialed) = (u32::from(probe), u32::from(!probe));
        AskOutcome::Applied(Tally { dialed, probed, ..Tally::default() })
    }

    fn dialed(&mut self, row: usize) {
        self.changes.dialed.insert(row as u32);
        if let Some(allowance) = &mut self.allowance {
            allowance.dialed();
        }
    }

    fn forget_broadcasts(&mut self, older_than_s: u32) -> Applying {
        let broadcasts = &self.world.state.broadcasts;
        let (age, now) = (Duration::from_secs(older_than_s.into()), self.world.state.clock.coarse());
        let words = format!("older than {older_than_s} s");
        let held = || (broadcasts.forgettable(age, now), broadcasts.totals(now).held as usize);
        let share = self.may_forget(What::ForgetBroadcasts, &words, held)?;
        let forgotten = if self.shadow {
            share.most.min(broadcasts.forgettable(age, now))
        } else {
            broadcasts.forget_some(age, now, share.most)
        };
        let count = forgotten as u32;
        let done = Tally { broadcasts_forgotten: count, ..Tally::default() };
        Ok(self.forgot(What::ForgetBroadcasts, words, count, done, share))
    }

    fn forget_addresses(&mut self, not_heard_for_s: u32) -> Applying {
        let book = &self.world.state.book;
        let age = Duration::from_secs(not_heard_for_s.into());
        let words = format!("not heard of for {not_heard_for_s} s");
        let held = || (book.forgettable(age), book.len());
        let share = self.may_forget(What::ForgetAddresses, &words, held)?;
        let forgotten = if self.shadow {
            share.most.min(book.forgettable(age))
        } else {
            book.forget_some(age, share.most)
        };
        let count = forgotten as u32;
        let done = Tally { addresses_forgotten: count, ..Tally::default() };
        Ok(self.forgot(What::ForgetAddresses, words, count, done, share))
    }

    /// How many entries may go: `table` tells how many would, of how many. Refused if none may.
    fn may_forget(
        &mut self,
        what: What,
        reason: &str,
        table: impl FnOnce() -> (usize, usize),
    ) -> Result<ForgetShare, AskOutcome> {
        let Some(allowance) = &mut self.allowance else {
            return Ok(ForgetShare { most: usize::MAX, is_partial: false });
        };
        let (wished, held) = table();
        let Share { granted, refusal } = allowance.forget(wished, held);
        let Some(refusal) = refusal else { return Ok(ForgetShare { most: granted, is_partial: false }) };
        let draft = Draft { count: (wished - granted) as u32, ..self.draft(what, reason) };
        let refused = self.not_applied(draft, Outcome::Refused(refusal.to_string()));
        if granted > 0 { Ok(ForgetShare { most: granted, is_partial: true }) } else { Err(refused) }
    }

    fn forgot(
        &mut self,
        what: What,
        reason: String,
        count: u32,
        done: Tally,
        share: ForgetShare,
    ) -> AskOutcome {
        if let Some(allowance) = &mut self.allowance {
            allowance.forgot(count);
        }
        let draft = Draft { count, ..self.draft(what, reason) };
        let outcome = if self.shadow { self.in_shadow(draft) } else { self.applied(draft, done) };
        if share.is_partial { outcome.in_part(count) } else { outcome }
    }

    fn again_in(&mut self, ticks: u32) -> AskOutcome {
        let draft = self.draft(What::AgainIn, format!("in {ticks} ticks"));
        if let Some(allowance) = &self.allowance
            && let Err(refusal) = allowance.granted(Interface::Cadence)
        {
            return self.not_applied(draft, Outcome::Refused(refusal.to_string()));
        }
        // Even in shadow mode: when a phase runs is its own affair, and what it would do is to be seen.
        self.outcome.again_in = Some(ticks);
        if self.shadow {
            return self.in_shadow(draft);
        }
        self.applied(draft, Tally::default())
    }
}

/// What one ask may forget.
#[derive(Clone, Copy)]
struct ForgetShare {
    most: usize,
    /// It asked for more.
    is_partial: bool,
}

/// The reason of something that lasts, with the time that was granted.
fn held_for(reason: &str, wished: Duration, granted: Duration, interface: &str) -> String {
    let (wished, granted) = (wished.as_secs(), granted.as_secs());
    if granted < wished {
        format!("{reason} (for {granted} s, cut down from {wished} s by {interface}.max_duration)")
    } else {
        format!("{reason} (for {granted} s)")
    }
}

/// What asks of an interface are recorded as when they are told by their number.
fn what_of(interface: Interface) -> What {
    match interface {
        Interface::Disconnect => What::Disconnect,
        Interface::Health => What::Health,
        Interface::Ping => What::Ping,
        Interface::Dial => What::Dial,
        Interface::Protect => What::Protect,
        Interface::Ban => What::Ban,
        Interface::Forget => What::ForgetAddresses,
        Interface::Cadence => What::AgainIn,
        // No ask comes through these.
        Interface::Types
        | Interface::Peers
        | Interface::Book
        | Interface::Broadcasts
        | Interface::Memory
        | Interface::Log
        | Interface::Metrics
        | Interface::Lifecycle => What::PhaseFailed,
    }
}
