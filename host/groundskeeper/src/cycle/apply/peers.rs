//! Applies asks about connections: disconnect, ban, protect, ping, and change health.

use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::host::{Table, Test};
use groundskeeper_sdk::query;

use super::{AskResult, PlanApplication, in_part};
use crate::cycle::ceilings::{AskRefusal, ConnectionFacts, HealthShare};
use crate::cycle::pings::PingQueue;
use crate::engine::beat::AskOutcome;
use crate::journal::{ActionKind, Cause, NewRecord};
use crate::pool::{DisconnectOutcome, DisconnectTerms, Removal};

const ENDED_ALREADY: &str = "the connection had ended already";
const SPOKE: &str = "the peer spoke since the view was taken";

impl PlanApplication<'_> {
    /// As [`PlanApplication::peer_row`]. Plans are checked when they are made, so an ask never names a row that does not exist.
    fn asked_row(&self, row: u32) -> Result<usize, AskOutcome> {
        self.peer_row(row).ok_or(AskOutcome::Applied)
    }

    /// Health of a row after the earlier plans of this beat.
    fn health_of(&self, row: usize) -> u8 {
        let changed = self.changes.health.get(&(row as u32)).copied();
        changed.unwrap_or_else(|| self.snapshot.rows().words()[row].health())
    }

    fn is_healthy(&self, health: u8) -> bool {
        health > self.world.thresholds.healthy_above
    }

    /// Notes a connection that this plan has ended, or would have ended in shadow mode.
    fn ended(&mut self, row: usize) {
        self.changes.closed.insert(row as u32);
        if self.is_healthy(self.health_of(row))
            && let Some(healthy) = &mut self.outcome.healthy
        {
            *healthy = healthy.saturating_sub(1);
        }
        self.used(|allowance| allowance.disconnected());
        self.outcome.ended_in_shadow += u32::from(self.shadow);
    }

    /// The snapshot's row of a connection that may be touched, or a record that says why not.
    fn touchable(
        &mut self,
        what: ActionKind,
        row: u32,
        reason: &str,
        of_the_silent: bool,
    ) -> Result<usize, AskOutcome> {
        let row = self.asked_row(row)?;
        let about = |this: &Self| this.about(what, row, reason);
        if self.changes.closed.contains(&(row as u32)) {
            return Err(self.void(ENDED_ALREADY, about));
        }
        // Protection does not cover silent connections. A guest is not trusted to know which ones are silent.
        let exempt = of_the_silent && self.allowance.is_none();
        let is_protected =
            self.snapshot.rows().words()[row].protected() || self.changes.protected.contains(&(row as u32));
        if is_protected && !exempt {
            return Err(self.refused("the peer is protected", about));
        }
        if let Some(allowance) = &self.allowance
            && let Err(refusal) = allowance.touchable(self.snapshot.naming(row).map(|naming| naming.id))
        {
            return Err(self.refused(refusal, about));
        }
        Ok(row)
    }

    /// How many connections must be left after this one ends.
    fn may_end(&mut self, row: usize) -> Result<u32, AskRefusal> {
        if self.allowance.is_none() {
            return Ok(0);
        }
        let (standing, is_healthy) = (self.standing(), self.is_healthy(self.health_of(row)));
        self.granted(0, |allowance| allowance.disconnect(is_healthy, standing))
    }

    /// Disconnects the peer for the phase, unless the pool finds that the `terms` are not met.
    fn close(&self, row: usize, cause: Cause, reason: &str, terms: DisconnectTerms) -> DisconnectOutcome {
        let removal =
            Removal { inputs: self.snapshot.inputs(row), ..Removal::new(self.by.clone(), cause, reason) };
        self.world.state.pool.disconnect_on(self.snapshot.rows().key(row), removal, terms)
    }

    pub(super) fn disconnect(&mut self, row: u32, reason: &str, if_silent: bool) -> AskResult {
        let what = ActionKind::Disconnect;
        let row = self.touchable(what, row, reason, if_silent)?;
        let about = |this: &Self| this.about(what, row, reason);
        let keep = self.may_end(row).map_err(|refusal| self.refused(refusal, about))?;
        let unless_seen_since = if_silent.then(|| self.snapshot.silent_since(row));
        let verdict = if self.shadow {
            let (pool, key) = (&self.world.state.pool, self.snapshot.rows().key(row));
            match unless_seen_since {
                _ if !pool.is_live(key) => DisconnectOutcome::Gone,
                Some(view) if pool.seen_since(key, view) => DisconnectOutcome::Spoke,
                _ => DisconnectOutcome::Closed,
            }
        } else {
            self.close(
                row,
                Cause::Phase,
                reason,
                DisconnectTerms { unless_seen_since, keep, ..DisconnectTerms::default() },
            )
        };
        match verdict {
            DisconnectOutcome::Closed if self.shadow => {
                let draft = about(self);
                self.ended(row);
                Ok(self.done(draft, |_| {}))
            }
            DisconnectOutcome::Closed => {
                // The pool has recorded it.
                self.ended(row);
                self.outcome.tally.disconnected += 1;
                Ok(AskOutcome::Applied)
            }
            DisconnectOutcome::Gone => Err(self.void(ENDED_ALREADY, about)),
            DisconnectOutcome::Spoke => Err(self.void(SPOKE, about)),
            DisconnectOutcome::TooFew => Err(self.refused(AskRefusal::TooFew { keep }, about)),
        }
    }

    pub(super) fn ban(&mut self, row: u32, for_s: u32, reason: &str) -> AskResult {
        let what = ActionKind::Ban;
        let row = self.touchable(what, row, reason, false)?;
        let wished = Duration::from_secs(for_s.into());
        let granted = self.granted(wished, |allowance| allowance.ban(wished));
        let granted = granted.and_then(|time| Ok((time, self.may_end(row)?)));
        let (time, keep) =
            granted.map_err(|refusal| self.refused(refusal, |this: &Self| this.about(what, row, reason)))?;
        let draft = self.about(what, row, &held_for(reason, wished, time, "ban"));
        let Some(id) = draft.peer else { return Err(self.void(ENDED_ALREADY, |_| draft)) };
        let terms = DisconnectTerms { keep, ban_for: Some(time), ..DisconnectTerms::default() };
        let verdict = if self.shadow {
            DisconnectOutcome::Closed
        } else {
            self.close(row, Cause::Banned, reason, terms)
        };
        match verdict {
            DisconnectOutcome::TooFew => return Err(self.refused(AskRefusal::TooFew { keep }, |_| draft)),
            DisconnectOutcome::Closed => {
                self.ended(row);
                self.outcome.tally.disconnected += u32::from(!self.shadow);
            }
            // A ban is useful without a connection, too.
            DisconnectOutcome::Gone | DisconnectOutcome::Spoke => self.world.state.pool.ban(id, time),
        }
        self.used(|allowance| allowance.banned(id, time));
        Ok(self.done(draft, |tally| tally.banned += 1))
    }

    pub(super) fn health(&mut self, row: u32, by: i32, reason: &str) -> AskResult {
        let what = ActionKind::Health;
        // Raising health is allowed even for untouchable peers.
        let row = if by < 0 && self.allowance.is_some() {
            self.touchable(what, row, reason, false)?
        } else {
            self.asked_row(row)?
        };
        let mut draft = self.about(what, row, reason);
        let (Some(id), false) = (draft.peer, self.changes.closed.contains(&(row as u32))) else {
            return Err(self.void(ENDED_ALREADY, |_| draft));
        };
        let health = self.health_of(row);
        let standing =
            if self.allowance.is_some() { self.standing() } else { ConnectionFacts { live: 0, healthy: 0 } };
        let all = HealthShare { by, floor: 0 };
        let HealthShare { by, floor } =
            match self.granted(all, |allowance| allowance.health(id, by, health, standing)) {
                Ok(share) => share,
                Err(refusal) => return Err(self.refused(refusal, |_| draft)),
            };
        let key = self.snapshot.rows().key(row);
        let moved = if self.shadow {
            let after = i32::from(health).saturating_add(by).clamp(health.min(floor).into(), 100);
            self.world.state.pool.is_live(key).then_some((health, after as u8))
        } else {
            self.world.state.pool.adjust_health(key, by, floor)
        };
        let Some((before, after)) = moved else { return Err(self.void(ENDED_ALREADY, |_| draft)) };
        draft.inputs.push(("health-before".into(), before.into()));
        draft.inputs.push(("health-after".into(), after.into()));
        self.changes.health.insert(row as u32, after);
        let (was, is) = (self.is_healthy(before), self.is_healthy(after));
        if let Some(healthy) = &mut self.outcome.healthy {
            *healthy = (*healthy + u32::from(is)).saturating_sub(u32::from(was));
        }
        self.used(|allowance| allowance.health_moved(id, before.abs_diff(after).into()));
        Ok(self.done(draft, |tally| tally.health_changed += 1))
    }

    pub(super) fn protect(&mut self, row: u32, for_s: u32, reason: &str) -> AskResult {
        let (what, row) = (ActionKind::Protect, self.asked_row(row)?);
        let (key, live) = (self.snapshot.rows().key(row), self.live());
        let (wished, pool) = (Duration::from_secs(for_s.into()), &self.world.state.pool);
        let is_live = |key| pool.is_live(key);
        let time = self
            .granted(wished, |allowance| allowance.protect(key, wished, live, is_live))
            .map_err(|refusal| self.refused(refusal, |this: &Self| this.about(what, row, reason)))?;
        let draft = self.about(what, row, &held_for(reason, wished, time, "protect"));
        let held = if self.shadow { pool.is_live(key) } else { pool.protect(key, time) };
        if !held {
            let words = "the connection has ended, or as many as can be are protected";
            return Err(self.void(words, |_| draft));
        }
        self.changes.protected.insert(row as u32);
        self.used(|allowance| allowance.protected(key, time));
        Ok(self.done(draft, |tally| tally.protected += 1))
    }

    pub(super) fn ping_matching(&mut self, tests: &[Test]) -> AskResult {
        let mut rows = Vec::new();
        query::matching(self.view, Table::Peers, tests, &mut |row| rows.push(row));
        let words = if tests.is_empty() {
            "everyone".to_owned()
        } else {
            tests.iter().map(Test::to_string).collect::<Vec<_>>().join(", ")
        };
        self.ping(rows, words)
    }

    pub(super) fn ping(&mut self, mut rows: Vec<u32>, reason: String) -> AskResult {
        rows.retain_mut(|row| self.peer_row(*row).map(|found| *row = found as u32).is_some());
        let wished = rows.len();
        if let Some(allowance) = &mut self.allowance {
            let share = allowance.ping(wished);
            rows.truncate(self.shared(wished, share, |this| this.draft(ActionKind::Ping, reason.clone()))?);
        }
        let count = rows.len() as u32;
        let is_partial = rows.len() < wished;
        let draft = NewRecord { count, ..self.draft(ActionKind::Ping, reason) };
        if !self.shadow {
            self.pings.push_back(PingQueue::new(Arc::clone(self.snapshot), rows));
        }
        let ask_outcome = self.done(draft, |tally| tally.pinged += count);
        Ok(in_part(ask_outcome, is_partial, count))
    }
}

/// The reason of a ban or protection, with the granted time.
fn held_for(reason: &str, wished: Duration, granted: Duration, interface: &str) -> String {
    let (wished, granted) = (wished.as_secs(), granted.as_secs());
    if granted < wished {
        format!("{reason} (for {granted} s, cut down from {wished} s by {interface}.max_duration)")
    } else {
        format!("{reason} (for {granted} s)")
    }
}
