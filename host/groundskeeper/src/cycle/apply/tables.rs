//! Applies asks about the other tables: dial addresses, forget addresses and broadcasts.

use std::time::Duration;

use groundskeeper_pool::NodeState;
use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::host::Table;

use super::{AskResult, PlanApplication, in_part};
use crate::book::{AgedAddresses, LAST_GOOD};
use crate::cycle::tally::Tally;
use crate::engine::beat::AskOutcome;
use crate::journal::{ActionKind, NewRecord};

/// Dials that one urgent beat may start: a node that wakes up without peers must not dial its whole address book at once.
const DIALS_PER_URGENT_BEAT: u32 = 8;

const DIALLED_ALREADY: &str = "it is being dialled already";

impl PlanApplication<'_> {
    pub(super) fn dial(&mut self, row: u32, probe: bool, reason: String) -> AskResult {
        let what = if probe { ActionKind::Probe } else { ActionKind::Dial };
        let Some(row) = self.view.snapshot_row(Table::Book, row) else {
            return Err(self.refused("no such row in the address book", |this| this.draft(what, reason)));
        };
        let book = &self.world.state.book;
        let address = self.snapshot.book().addresses[row];
        let draft = NewRecord {
            address: Some(address),
            inputs: self.snapshot.book_inputs(row),
            ..self.draft(what, reason.clone())
        };
        let Some(dialer) = &self.world.dialer else {
            return Err(self.refused("this node has no dialer", |_| draft));
        };
        if self.changes.dialed.contains(&(row as u32)) {
            return Err(self.void(DIALLED_ALREADY, |_| draft));
        }
        let wait_s = self.snapshot.book().wait_s[row];
        let connections = self.live() + book.dialing() + self.outcome.dialed_in_shadow;
        if let Err(refusal) = self.granted((), |allowance| allowance.dial(probe, wait_s, connections)) {
            return Err(self.refused(refusal, |_| draft));
        }
        if let Some(dials) = self.urgent_dials.as_deref_mut() {
            if *dials >= DIALS_PER_URGENT_BEAT {
                let words = format!("an urgent beat starts at most {DIALS_PER_URGENT_BEAT} dials");
                return Err(self.refused(words, |_| draft));
            }
            *dials += u32::from(!self.shadow);
        }
        if self.shadow {
            self.dialed(row);
            self.outcome.dialed_in_shadow += u32::from(!probe);
            return Ok(self.done(draft, |_| {}));
        }
        let Some((order, ticket)) = book.begin(address, probe, self.by.clone(), reason, draft.inputs) else {
            return Err(self.void(DIALLED_ALREADY, |this| this.draft(what, "")));
        };
        self.dialed(row);
        // The book has recorded it.
        dialer.dial(order, ticket);
        self.outcome.tally.probed += u32::from(probe);
        self.outcome.tally.dialed += u32::from(!probe);
        Ok(AskOutcome::Applied)
    }

    fn dialed(&mut self, row: usize) {
        self.changes.dialed.insert(row as u32);
        self.used(|allowance| allowance.dialed());
    }

    pub(super) fn forget_broadcasts(&mut self, older_than_s: u32) -> AskResult {
        let state = &self.world.state;
        let (age, now) = (Duration::from_secs(older_than_s.into()), state.clock.coarse());
        self.forget(ForgetAsk {
            draft: self.draft(ActionKind::ForgetBroadcasts, format!("older than {older_than_s} s")),
            held: &|| state.broadcasts.totals(now).held as usize,
            forgettable: &|| state.broadcasts.forgettable(age, now),
            forget: &|most| state.broadcasts.forget_some(age, now, most),
            count: |tally| &mut tally.broadcasts_forgotten,
        })
    }

    /// The book keeps the addresses of connected peers, bootstrap nodes and the last good ones from every phase.
    pub(super) fn forget_addresses(&mut self, not_heard_for_s: u32) -> AskResult {
        let NodeState { book, pool, .. } = &self.world.state;
        let age = Duration::from_secs(not_heard_for_s.into());
        let draft = self.draft(ActionKind::ForgetAddresses, format!("not heard of for {not_heard_for_s} s"));
        let AgedAddresses { forgettable, kept } = book.aged(pool, age);
        let inputs = if kept > 0 { vec![("kept".into(), kept as u32)] } else { Vec::new() };
        let draft = NewRecord { inputs, ..draft };
        let may_ask = self.granted((), |allowance| allowance.granted(Interface::Forget)).is_ok();
        if may_ask && forgettable == 0 && kept > 0 {
            let words =
                format!("every address of that age is among the last {LAST_GOOD} good ones, which stay");
            return Err(self.refused(words, |_| draft));
        }
        self.forget(ForgetAsk {
            draft,
            held: &|| book.len(),
            forgettable: &|| forgettable,
            forget: &|most| book.forget_some(pool, age, most),
            count: |tally| &mut tally.addresses_forgotten,
        })
    }

    fn forget(&mut self, ask: ForgetAsk<'_>) -> AskResult {
        let (mut most, mut is_partial) = (usize::MAX, false);
        if let Some(allowance) = &mut self.allowance {
            let wished = (ask.forgettable)();
            let share = allowance.forget(wished, (ask.held)());
            most = self.shared(wished, share, |_| ask.draft.clone())?;
            is_partial = most < wished;
        }
        let forgotten = if self.shadow { most.min((ask.forgettable)()) } else { (ask.forget)(most) };
        let count = forgotten as u32;
        self.used(|allowance| allowance.forgot(count));
        let ask_outcome = self.done(NewRecord { count, ..ask.draft }, |tally| *(ask.count)(tally) += count);
        Ok(in_part(ask_outcome, is_partial, count))
    }
}

/// An ask to forget old entries of a table.
struct ForgetAsk<'t> {
    draft: NewRecord,
    /// Number of entries in the table.
    held: &'t dyn Fn() -> usize,
    /// Number of entries that are old enough.
    forgettable: &'t dyn Fn() -> usize,
    /// Forgets at most this many of them. Returns how many it forgot.
    forget: &'t dyn Fn(usize) -> usize,
    count: fn(&mut Tally) -> &mut u32,
}
