//! The only place that turns an ask into an effect. Records each ask, applied or not. Never waits for the network.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::Arc;

use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::host::{Ask, Table};

use super::BeatContext;
use super::ceilings::{Allowance, AskRefusal, ConnectionFacts, GrantedShare};
use super::pings::PingQueue;
use super::snapshot::TickSnapshot;
use super::tally::Tally;
use crate::engine::beat::AskOutcome;
use crate::engine::{Changes, PhaseView};
use crate::journal::{ActionKind, Initiator, NewRecord, Outcome};

mod peers;
mod tables;

/// Failed asks of one run that are recorded one by one; the rest are recorded as a count. A plan with 4,096 of them at
/// each tick would push everything else out of the journal.
const FUTILE_RECORDED: u32 = 64;

/// The outcome of an ask. The error is an outcome that ends it early.
type AskResult = Result<AskOutcome, AskOutcome>;

/// Applies one plan, ask by ask in its order.
pub(super) struct PlanApplication<'a> {
    pub world: &'a BeatContext,
    pub by: Initiator,
    pub snapshot: &'a Arc<TickSnapshot>,
    pub view: &'a PhaseView<TickSnapshot>,
    /// What the plans of this beat have changed. A private copy in shadow mode.
    pub changes: &'a mut Changes,
    pub pings: &'a mut VecDeque<PingQueue>,
    /// Dials started in this beat so far, if the beat is an urgent one.
    pub urgent_dials: Option<&'a mut u32>,
    /// What the phase may still do, if it is a guest.
    pub allowance: Option<Allowance<'a>>,
    /// Asks are recorded but not done.
    pub shadow: bool,
    pub outcome: PlanResult,
}

/// The outcome of one plan.
#[derive(Default)]
pub(super) struct PlanResult {
    pub tally: Tally,
    /// The phase wants to run again after this many ticks.
    pub again_in: Option<u32>,
    /// The outcome of each ask.
    pub ask_outcomes: Vec<AskOutcome>,
    /// Refused asks by grant.
    pub refused: BTreeMap<Interface, u32>,
    /// Connections with enough health, counted when first needed.
    healthy: Option<u32>,
    /// Connections that a plan in shadow mode would have ended.
    ended_in_shadow: u32,
    dialed_in_shadow: u32,
    futile: u32,
    futile_counted: BTreeMap<Interface, u32>,
    /// Interface of the ask that is being applied.
    interface: Option<Interface>,
}

impl PlanApplication<'_> {
    pub(super) fn plan(&mut self, asks: Vec<Ask>) {
        for ask in asks {
            self.outcome.tally.asked += 1;
            self.outcome.interface = Some(ask.interface());
            let ask_outcome = self.one(ask).unwrap_or_else(|not_applied| not_applied);
            self.outcome.ask_outcomes.push(ask_outcome);
        }
        let mut counted: Vec<_> = std::mem::take(&mut self.outcome.futile_counted).into_iter().collect();
        counted.sort_by_key(|(interface, _)| interface.name());
        for (interface, count) in counted {
            let words = format!("came to nothing as well, like the {FUTILE_RECORDED} asks told one by one");
            let outcome = Outcome::Refused(words);
            self.record(NewRecord { outcome, count, ..self.draft(what_of(interface), "") });
        }
    }

    fn one(&mut self, ask: Ask) -> AskResult {
        match ask {
            Ask::Disconnect { peer, reason } => self.disconnect(peer, &reason, false),
            Ask::DisconnectIfSilent { peer, reason } => self.disconnect(peer, &reason, true),
            Ask::Ban { peer, for_s, reason } => self.ban(peer, for_s, &reason),
            Ask::Health { peer, by, reason } => self.health(peer, by, &reason),
            Ask::Protect { peer, for_s, reason } => self.protect(peer, for_s, &reason),
            Ask::Ping { peers } => self.ping(peers, String::new()),
            Ask::PingMatching { tests } => self.ping_matching(&tests),
            Ask::Dial { address, reason } => self.dial(address, false, reason),
            Ask::Probe { address } => self.dial(address, true, String::new()),
            Ask::ForgetBroadcasts { older_than_s } => self.forget_broadcasts(older_than_s),
            Ask::ForgetAddresses { not_heard_for_s } => self.forget_addresses(not_heard_for_s),
            Ask::AgainIn { ticks } => self.again_in(ticks),
            unserved => {
                let words = format!("this host does not know how to {}", unserved.kind());
                Err(self.refused(words, |this| this.draft(ActionKind::PhaseFailed, unserved.reason())))
            }
        }
    }

    /// The snapshot's row for a row of the phase's view.
    fn peer_row(&self, row: u32) -> Option<usize> {
        self.view.snapshot_row(Table::Peers, row)
    }

    fn draft(&self, what: ActionKind, reason: impl Into<String>) -> NewRecord {
        NewRecord::new(self.by.clone(), what, reason)
    }

    fn record(&self, draft: NewRecord) {
        self.world.state.journal.record(draft);
    }

    /// A record about one peer of the view.
    fn about(&self, what: ActionKind, row: usize, reason: &str) -> NewRecord {
        let naming = self.snapshot.naming(row);
        NewRecord {
            conn: Some(self.snapshot.rows().key(row).conn),
            peer: naming.as_ref().map(|naming| naming.id),
            address: naming.as_ref().map(|naming| naming.address),
            inputs: self.snapshot.inputs(row),
            ..self.draft(what, reason)
        }
    }

    /// An ask that events have overtaken.
    fn void(&mut self, words: &str, draft: impl FnOnce(&Self) -> NewRecord) -> AskOutcome {
        self.outcome.tally.void += 1;
        self.futile(|this| NewRecord { outcome: Outcome::Void(words.to_owned()), ..draft(this) });
        AskOutcome::Void
    }

    /// An ask that is not allowed or not possible, fully or partly.
    fn refused(&mut self, words: impl Display, draft: impl FnOnce(&Self) -> NewRecord) -> AskOutcome {
        self.outcome.tally.refused += 1;
        if let Some(interface) = self.outcome.interface {
            *self.outcome.refused.entry(interface).or_default() += 1;
        }
        self.futile(|this| NewRecord { outcome: Outcome::Refused(words.to_string()), ..draft(this) });
        AskOutcome::Refused
    }

    /// Records a failed ask: the first ones one by one, the rest as a count.
    fn futile(&mut self, draft: impl FnOnce(&Self) -> NewRecord) {
        let PlanResult { futile, futile_counted, interface, .. } = &mut self.outcome;
        *futile += 1;
        if *futile <= FUTILE_RECORDED {
            self.record(draft(self));
        } else if let Some(interface) = *interface {
            *futile_counted.entry(interface).or_default() += 1;
        }
    }

    /// Records an ask that was done, or that shadow mode prevents. `count` adds it to the tally.
    fn done(&mut self, draft: NewRecord, count: impl FnOnce(&mut Tally)) -> AskOutcome {
        if self.shadow {
            self.outcome.tally.shadow += 1;
            self.record(NewRecord { outcome: Outcome::Shadow, ..draft });
            return AskOutcome::Shadow;
        }
        count(&mut self.outcome.tally);
        self.record(draft);
        AskOutcome::Applied
    }

    /// Checks the allowance of a guest. Host phases have none and get `all`.
    fn granted<R>(
        &mut self,
        all: R,
        ask: impl FnOnce(&mut Allowance<'_>) -> Result<R, AskRefusal>,
    ) -> Result<R, AskRefusal> {
        self.allowance.as_mut().map_or(Ok(all), ask)
    }

    /// Reports to the allowance of a guest what was done.
    fn used(&mut self, note: impl FnOnce(&mut Allowance<'_>)) {
        self.allowance.as_mut().map(note);
    }

    /// How many of `wished` items are granted. The rest is recorded as refused.
    fn shared(
        &mut self,
        wished: usize,
        share: GrantedShare,
        draft: impl FnOnce(&Self) -> NewRecord,
    ) -> Result<usize, AskOutcome> {
        let GrantedShare { granted, refusal } = share;
        let Some(refusal) = refusal else { return Ok(granted) };
        let count = (wished - granted) as u32;
        let refused = self.refused(refusal, |this| NewRecord { count, ..draft(this) });
        if granted > 0 { Ok(granted) } else { Err(refused) }
    }

    /// Live connections now, without those that this plan would have ended in shadow mode.
    fn live(&self) -> u32 {
        self.world.state.pool.live().saturating_sub(self.outcome.ended_in_shadow)
    }

    /// The same, with the healthy ones. O(slots) once per plan.
    fn standing(&mut self) -> ConnectionFacts {
        let BeatContext { state, thresholds, .. } = self.world;
        let count = || state.pool.stats(thresholds.healthy_above, thresholds.stale_after).healthy;
        let healthy = *self.outcome.healthy.get_or_insert_with(count);
        ConnectionFacts { live: self.live(), healthy }
    }

    fn again_in(&mut self, ticks: u32) -> AskResult {
        let draft = self.draft(ActionKind::AgainIn, format!("in {ticks} ticks"));
        if let Err(refusal) = self.granted((), |allowance| allowance.granted(Interface::Cadence)) {
            return Err(self.refused(refusal, |_| draft));
        }
        // Also in shadow mode: this changes nothing but the phase's own cadence, and its next run is of interest.
        self.outcome.again_in = Some(ticks);
        Ok(self.done(draft, |_| {}))
    }
}

/// The outcome of an ask; partial if `is_partial`, with `granted` items.
fn in_part(ask_outcome: AskOutcome, is_partial: bool, granted: u32) -> AskOutcome {
    if is_partial && ask_outcome == AskOutcome::Applied {
        AskOutcome::Partial { granted }
    } else {
        ask_outcome
    }
}

/// The action under which asks of an interface are recorded as a count.
fn what_of(interface: Interface) -> ActionKind {
    match interface {
        Interface::Disconnect => ActionKind::Disconnect,
        Interface::Health => ActionKind::Health,
        Interface::Ping => ActionKind::Ping,
        Interface::Dial => ActionKind::Dial,
        Interface::Protect => ActionKind::Protect,
        Interface::Ban => ActionKind::Ban,
        Interface::Forget => ActionKind::ForgetAddresses,
        Interface::Cadence => ActionKind::AgainIn,
        // No ask uses the other interfaces.
        _ => ActionKind::PhaseFailed,
    }
}
