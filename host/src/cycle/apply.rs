//! The only place where an ask becomes an effect. Each leaves a record, applied or not. Never waits for the network.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::host::{Ask, Table, Test};
use groundskeeper_sdk::query;
use serde::Serialize;

use super::World;
use super::frame::Frame;
use super::recording::fate;
use super::view::{Overlay, PhaseView};
use crate::journal::{Asker, Cause, Draft, Outcome, What};
use crate::pool::{Removal, Verdict};
use crate::record::Fate;

/// Dials that one urgent beat may start: a node that woke alone must not storm its whole address book.
const DIALS_PER_URGENT_BEAT: u32 = 8;

/// What became of the asks of one or more plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub asked: u32,
    pub void: u32,
    pub refused: u32,
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

/// Pings that were asked for and are still to be handed to the connections.
pub(super) struct Pings {
    frame: Arc<Frame>,
    rows: Vec<u32>,
    next: usize,
}

/// Hands out at most `most` waiting pings; true if more wait.
pub(super) fn send_pings(world: &World, waiting: &mut VecDeque<Pings>, mut most: usize) -> bool {
    while let Some(batch) = waiting.front_mut() {
        let end = batch.rows.len().min(batch.next + most);
        most -= end - batch.next;
        let rows = batch.rows[batch.next..end].iter().map(|&row| row as usize);
        world.pool.for_links(batch.frame.rows(), rows, |_, link| link.ping());
        batch.next = end;
        if batch.next < batch.rows.len() {
            return true;
        }
        waiting.pop_front();
    }
    false
}

/// Applies one plan, action by action in its order.
pub(super) struct Apply<'a> {
    pub world: &'a World,
    pub by: Asker,
    pub frame: &'a Arc<Frame>,
    pub view: &'a PhaseView,
    pub overlay: &'a mut Overlay,
    pub pings: &'a mut VecDeque<Pings>,
    /// Dials started in this beat so far, if the beat is an urgent one.
    pub urgent_dials: Option<&'a mut u32>,
    pub tally: Tally,
    /// The phase wants to run again after so many ticks.
    pub again_in: Option<u32>,
    /// What became of each ask.
    pub fates: Vec<Fate>,
}

impl Apply<'_> {
    pub(super) fn plan(&mut self, asks: Vec<Ask>) {
        for ask in asks {
            self.tally.asked += 1;
            let before = self.tally;
            self.one(ask);
            self.fates.push(fate(&before, &self.tally));
        }
    }

    fn one(&mut self, ask: Ask) {
        match ask {
            Ask::Disconnect { peer, reason } => self.disconnect(peer, reason, false),
            Ask::DisconnectIfSilent { peer, reason } => self.disconnect(peer, reason, true),
            Ask::Ban { peer, for_s, reason } => self.ban(peer, for_s, reason),
            Ask::Health { peer, by, reason } => self.health(peer, by, reason),
            Ask::Protect { peer, for_s, reason } => self.protect(peer, for_s, reason),
            Ask::Ping { peers } => {
                let rows = peers.into_iter().filter_map(|row| self.view.peer_row(row)).map(|row| row as u32);
                let rows = rows.collect();
                self.ping(rows, String::new());
            }
            Ask::PingMatching { tests } => self.ping_matching(&tests),
            Ask::Dial { address, reason } => self.dial(address, false, reason),
            Ask::Probe { address } => self.dial(address, true, String::new()),
            Ask::ForgetBroadcasts { older_than_s } => {
                let age = Duration::from_secs(older_than_s.into());
                let forgotten = self.world.broadcasts.forget(age, self.world.clock.coarse()) as u32;
                self.tally.broadcasts_forgotten += forgotten;
                self.counted(What::ForgetBroadcasts, format!("older than {older_than_s} s"), forgotten);
            }
            Ask::ForgetAddresses { not_heard_for_s } => {
                let forgotten = self.world.book.forget(Duration::from_secs(not_heard_for_s.into())) as u32;
                self.tally.addresses_forgotten += forgotten;
                self.counted(
                    What::ForgetAddresses,
                    format!("not heard of for {not_heard_for_s} s"),
                    forgotten,
                );
            }
            Ask::AgainIn { ticks } => {
                self.again_in = Some(ticks);
                self.counted(What::AgainIn, format!("in {ticks} ticks"), 1);
            }
            unserved => {
                self.tally.refused += 1;
                let words = format!("this host does not know how to {}", unserved.kind());
                let mut draft = self.draft(What::PhaseFailed, unserved.reason());
                draft.outcome = Outcome::Refused(words);
                self.world.journal.record(draft);
            }
        }
    }

    fn draft(&self, what: What, reason: impl Into<String>) -> Draft {
        Draft::new(self.by.clone(), what, reason)
    }

    fn counted(&self, what: What, reason: String, count: u32) {
        self.world.journal.record(Draft { count, ..self.draft(what, reason) });
    }

    /// A record about one peer of the view.
    fn about(&self, what: What, row: usize, reason: &str) -> Draft {
        let naming = self.frame.naming(row);
        Draft {
            conn: Some(self.frame.rows().key(row).conn),
            peer: naming.as_ref().map(|naming| naming.id),
            address: naming.as_ref().map(|naming| naming.address),
            inputs: self.frame.inputs(row),
            ..self.draft(what, reason)
        }
    }

    fn not_applied(&mut self, draft: Draft, outcome: Outcome) {
        match outcome {
            Outcome::Void(_) => self.tally.void += 1,
            _ => self.tally.refused += 1,
        }
        self.world.journal.record(Draft { outcome, ..draft });
    }

    /// The frame's row of a connection that phases may still end.
    fn removable(&mut self, what: What, row: u32, reason: &str, of_the_silent: bool) -> Option<usize> {
        let row = self.view.peer_row(row)?;
        // The dead are not connections: protection keeps the living.
        if self.frame.rows().words()[row].protected() && !of_the_silent {
            let draft = self.about(what, row, reason);
            self.not_applied(draft, Outcome::Refused("the peer is protected".into()));
            return None;
        }
        Some(row)
    }

    fn disconnect(&mut self, row: u32, reason: String, if_silent: bool) {
        let Some(row) = self.removable(What::Disconnect, row, &reason, if_silent) else { return };
        let unless = if_silent.then(|| self.frame.silent_since(row));
        let removal = Removal {
            inputs: self.frame.inputs(row),
            ..Removal::new(self.by.clone(), Cause::Phase, reason.clone())
        };
        match self.world.pool.disconnect(self.frame.rows().key(row), removal, unless) {
            Verdict::Closed => {
                self.overlay.closed.insert(row as u32);
                self.tally.disconnected += 1;
            }
            Verdict::Gone => {
                let draft = self.about(What::Disconnect, row, &reason);
                self.not_applied(draft, Outcome::Void("the connection had ended already".into()));
            }
            Verdict::Spoke => {
                let draft = self.about(What::Disconnect, row, &reason);
                self.not_applied(draft, Outcome::Void("the peer spoke since the view was taken".into()));
            }
        }
    }

    fn ban(&mut self, row: u32, for_s: u32, reason: String) {
        let Some(row) = self.removable(What::Ban, row, &reason, false) else { return };
        let draft = self.about(What::Ban, row, &reason);
        let Some(id) = draft.peer else {
            return self.not_applied(draft, Outcome::Void("the connection had ended already".into()));
        };
        self.world.pool.ban(id, Duration::from_secs(for_s.into()));
        self.world.journal.record(Draft { reason: format!("{reason} (for {for_s} s)"), ..draft });
        self.tally.banned += 1;
        let removal = Removal {
            inputs: self.frame.inputs(row),
            ..Removal::new(self.by.clone(), Cause::Banned, reason)
        };
        if self.world.pool.disconnect(self.frame.rows().key(row), removal, None) == Verdict::Closed {
            self.overlay.closed.insert(row as u32);
            self.tally.disconnected += 1;
        }
    }

    fn health(&mut self, row: u32, by: i32, reason: String) {
        let Some(row) = self.view.peer_row(row) else { return };
        let mut draft = self.about(What::Health, row, &reason);
        let Some((before, after)) = self.world.pool.adjust_health(self.frame.rows().key(row), by) else {
            return self.not_applied(draft, Outcome::Void("the connection had ended already".into()));
        };
        draft.inputs.push(("health-before".into(), before.into()));
        draft.inputs.push(("health-after".into(), after.into()));
        self.overlay.health.insert(row as u32, after);
        self.tally.health_changed += 1;
        self.world.journal.record(draft);
    }

    fn protect(&mut self, row: u32, for_s: u32, reason: String) {
        let Some(row) = self.view.peer_row(row) else { return };
        let draft = self.about(What::Protect, row, &format!("{reason} (for {for_s} s)"));
        if !self.world.pool.protect(self.frame.rows().key(row), Duration::from_secs(for_s.into())) {
            let words = "the connection has ended, or as many as can be are protected";
            return self.not_applied(draft, Outcome::Void(words.into()));
        }
        self.overlay.protected.insert(row as u32);
        self.tally.protected += 1;
        self.world.journal.record(draft);
    }

    fn ping_matching(&mut self, tests: &[Test]) {
        let mut rows = Vec::new();
        query::matching(self.view, Table::Peers, tests, &mut |row| {
            rows.extend(self.view.peer_row(row).map(|row| row as u32));
        });
        let words = if tests.is_empty() {
            "everyone".to_owned()
        } else {
            tests.iter().map(Test::to_string).collect::<Vec<_>>().join(", ")
        };
        self.ping(rows, words);
    }

    fn ping(&mut self, rows: Vec<u32>, reason: String) {
        let count = rows.len() as u32;
        self.tally.pinged += count;
        self.counted(What::Ping, reason, count);
        self.pings.push_back(Pings { frame: Arc::clone(self.frame), rows, next: 0 });
    }

    fn dial(&mut self, row: u32, probe: bool, reason: String) {
        let what = if probe { What::Probe } else { What::Dial };
        let Some(row) = self.view.book_row(row) else {
            let draft = self.draft(what, reason);
            return self.not_applied(draft, Outcome::Refused("no such row in the address book".into()));
        };
        let address = self.frame.book().addresses[row];
        let draft = Draft {
            address: Some(address),
            inputs: self.frame.book_inputs(row),
            ..self.draft(what, reason.clone())
        };
        let Some(dialer) = &self.world.dialer else {
            return self.not_applied(draft, Outcome::Refused("this node has no dialer".into()));
        };
        if let Some(dials) = self.urgent_dials.as_deref_mut() {
            if *dials >= DIALS_PER_URGENT_BEAT {
                let words = format!("an urgent beat starts at most {DIALS_PER_URGENT_BEAT} dials");
                return self.not_applied(draft, Outcome::Refused(words));
            }
            *dials += 1;
        }
        let Some((order, ticket)) =
            self.world.book.begin(address, probe, self.by.clone(), reason, draft.inputs)
        else {
            let draft = Draft { inputs: Vec::new(), ..self.draft(what, String::new()) };
            return self.not_applied(draft, Outcome::Void("it is being dialled already".into()));
        };
        self.overlay.dialed.insert(row as u32);
        if probe {
            self.tally.probed += 1;
        } else {
            self.tally.dialed += 1;
        }
        dialer.dial(order, ticket);
    }
}
