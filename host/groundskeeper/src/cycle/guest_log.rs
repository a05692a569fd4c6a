//! The log budget that all guests share in one tick. Counts bytes; writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a line costs besides its text: time, level, name of the phase.
const LINE_BYTES: u64 = 80;

/// Half of the budget is reserved in equal parts. The other half is for guests that need more, in equal parts among as many
/// guests as needed more in the tick before.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    tick: Option<u32>,
    /// Of the half that is not reserved.
    left: u64,
    used: BTreeMap<Arc<str>, u64>,
    /// Lines dropped in this tick, by guest.
    dropped: BTreeMap<Arc<str>, u64>,
    /// Guests that needed more than there was in the tick before.
    hungry_before: u64,
    /// Lines dropped since the last call of `take_dropped`.
    unreported: u64,
}

impl LogBudget {
    /// Begins a beat of `tick`. Urgent beats share the budget of the tick before them.
    pub fn begin(&mut self, tick: u32, budget: u64) {
        if self.tick != Some(tick) {
            let hungry_before = self.dropped.len() as u64;
            *self = Self { tick: Some(tick), left: budget / 2, hungry_before, ..Self::default() };
        }
    }

    /// Whether the guest may write a line of `bytes` in this tick. Counts it either way.
    pub fn takes(&mut self, guest: &Arc<str>, bytes: usize, guests: usize, budget: u64) -> bool {
        let cost = bytes as u64 + LINE_BYTES;
        let reserved = budget / 2 / (guests as u64).max(1);
        let extra = budget / 2 / self.hungry_before.max(1);
        let used = self.used.entry(Arc::clone(guest)).or_default();
        let from_extra = (*used + cost).saturating_sub(reserved).min(cost);
        if *used + cost <= reserved + extra && from_extra <= self.left {
            *used += cost;
            self.left -= from_extra;
            return true;
        }
        *self.dropped.entry(Arc::clone(guest)).or_default() += 1;
        self.unreported += 1;
        false
    }

    /// Lines dropped since the last call, and the guests that lost lines in this tick.
    pub fn take_dropped(&mut self) -> (u64, usize) {
        (std::mem::take(&mut self.unreported), self.dropped.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: u64 = 64 << 10;

    /// Bytes of each guest that go through in a tick, if each writes `lines` of `bytes`.
    fn tick(budget: &mut LogBudget, tick: u32, wanted: &[(u32, usize)]) -> Vec<u64> {
        budget.begin(tick, BUDGET);
        let through = |(guest, (lines, bytes)): (usize, &(u32, usize))| {
            let name: Arc<str> = format!("guest-{guest}").into();
            let written = (0..*lines).filter(|_| budget.takes(&name, *bytes, wanted.len(), BUDGET)).count();
            (written * (*bytes + LINE_BYTES as usize)) as u64
        };
        wanted.iter().enumerate().map(through).collect()
    }

    #[test]
    fn fifty_guests_at_their_limits_share_one_budget() {
        let mut budget = LogBudget::default();
        for n in 1..5 {
            let written = tick(&mut budget, n, &[(20, 500); 50]);
            assert!(written.iter().sum::<u64>() <= BUDGET);
            assert!(written.iter().all(|bytes| *bytes > 0), "each has a part of its own: {written:?}");
            let (dropped, guests) = budget.take_dropped();
            assert_eq!(dropped, 1000 - written.iter().sum::<u64>() / 580);
            assert!(guests >= 48, "{guests}");
            if n > 1 {
                assert_eq!(written.iter().min(), written.iter().max(), "tick {n}: all have equal shares");
            }
        }
    }

    #[test]
    fn one_guest_among_quiet_ones_has_half_of_the_budget() {
        let mut budget = LogBudget::default();
        let mut wanted = vec![(1, 40); 50];
        wanted[49] = (100, 500);
        let written = tick(&mut budget, 1, &wanted);
        assert!(written[49] > BUDGET / 2 - 600, "{written:?}");
        assert!(written[..49].iter().all(|bytes| *bytes == 120), "{written:?}");
    }

    #[test]
    fn an_urgent_beat_has_no_budget_of_its_own() {
        let mut budget = LogBudget::default();
        let sum = (0..20).map(|_| tick(&mut budget, 7, &[(20, 500); 10]).iter().sum::<u64>()).sum::<u64>();
        assert!(sum <= BUDGET, "{sum}");
    }

    proptest! {
        #[test]
        fn the_budget_holds(ticks in proptest::collection::vec(
            proptest::collection::vec((0_u32..200, 0_usize..2048), 1..60), 1..6,
        )) {
            let mut budget = LogBudget::default();
            for (n, wanted) in ticks.iter().enumerate() {
                let written = tick(&mut budget, n as u32 + 1, wanted);
                prop_assert!(written.iter().sum::<u64>() <= BUDGET);
            }
        }
    }
}
