//! Remembers broadcasts, so that each is forwarded only once, and limits how many this node sends per time window.
//! The window ends by time alone. A broadcast is remembered until it is forgotten, or `held` newer ones replace it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::units::as_span;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Identifies a broadcast: the first 16 bytes of a digest over topic and payload.
pub type BroadcastId = [u8; 16];

/// Limits on one node's broadcasts: the config section `[broadcasts]`. Beyond `held`, the oldest is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BroadcastLimits {
    /// Broadcasts remembered, about 60 bytes each.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub held: usize,
    /// Own broadcasts that the node may send in one window; forwarding does not count.
    pub per_window: u32,
    /// Length of a window. The first own broadcast after its end starts the next one.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub window: Duration,
}

impl BroadcastLimits {
    /// The allowed range of each key.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 3] = [
        ("held", Bound::Count(1, 16_777_216)),
        ("per_window", Bound::Count(1, 1_000_000)),
        ("window", Bound::Time(Span::secs(1), Span::hours(1))),
    ];
}

impl Default for BroadcastLimits {
    fn default() -> Self {
        Self { held: 65_536, per_window: 600, window: Duration::from_secs(60) }
    }
}

/// Figures of the remembered broadcasts and of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastStats {
    /// Broadcasts remembered.
    pub held: u32,
    /// Age of the oldest in seconds, 0 if none is remembered.
    pub oldest_s: u32,
    /// Sent in the current window.
    pub in_window: u32,
    /// Age of the window in seconds, 0 if none is open.
    pub window_s: u32,
}

#[derive(Default)]
struct SeenBroadcasts {
    seen: HashMap<BroadcastId, CoarseInstant>,
    order: VecDeque<(CoarseInstant, BroadcastId)>,
    window_start: CoarseInstant,
    in_window: u32,
}

/// The broadcasts that this node has seen, and how many it has sent in the current window.
pub struct Broadcasts {
    limits: BroadcastLimits,
    memory: Mutex<SeenBroadcasts>,
}

impl Broadcasts {
    /// Remembers nothing yet.
    pub fn new(limits: BroadcastLimits) -> Self {
        Self { limits, memory: Mutex::default() }
    }

    /// Remembers `id`. True if it is seen for the first time. O(1).
    pub fn first_seen(&self, id: BroadcastId, now: CoarseInstant) -> bool {
        let mut memory = self.memory.lock();
        if memory.seen.contains_key(&id) {
            return false;
        }
        if memory.order.len() >= self.limits.held.max(1)
            && let Some((_, oldest)) = memory.order.pop_front()
        {
            memory.seen.remove(&oldest);
        }
        memory.seen.insert(id, now);
        memory.order.push_back((now, id));
        true
    }

    /// Forgets `id`, as if it had not been seen. O(broadcasts first seen since).
    pub fn forget(&self, id: &BroadcastId) {
        let mut memory = self.memory.lock();
        if memory.seen.remove(id).is_some()
            && let Some(place) = memory.order.iter().rposition(|(_, other)| other == id)
        {
            memory.order.remove(place);
        }
    }

    /// Counts one broadcast in the current window.
    ///
    /// # Errors
    /// The time until the window ends, if it is full.
    pub fn take_place(&self, now: CoarseInstant) -> Result<(), Duration> {
        let mut memory = self.memory.lock();
        let age = now.since(memory.window_start);
        if age >= self.limits.window {
            memory.window_start = now;
            memory.in_window = 0;
        } else if memory.in_window >= self.limits.per_window {
            return Err(self.limits.window - age);
        }
        memory.in_window += 1;
        Ok(())
    }

    /// Number of broadcasts first seen at least `age` ago. O(log held).
    pub fn forgettable(&self, age: Duration, now: CoarseInstant) -> usize {
        self.memory.lock().order.partition_point(|(first_seen, _)| now.since(*first_seen) >= age)
    }

    /// Forgets at most `most` broadcasts first seen at least `age` ago, oldest first. Returns how many. O(forgotten).
    pub fn forget_some(&self, age: Duration, now: CoarseInstant, most: usize) -> usize {
        let mut memory = self.memory.lock();
        let mut forgotten = 0;
        while forgotten < most
            && let Some(&(first_seen, id)) = memory.order.front()
            && now.since(first_seen) >= age
        {
            memory.order.pop_front();
            memory.seen.remove(&id);
            forgotten += 1;
        }
        forgotten
    }

    /// The figures that phases see.
    pub fn totals(&self, now: CoarseInstant) -> BroadcastStats {
        let memory = self.memory.lock();
        let window_open = now.since(memory.window_start) < self.limits.window;
        BroadcastStats {
            held: memory.order.len().try_into().unwrap_or(u32::MAX),
            oldest_s: memory.order.front().map_or(0, |(first_seen, _)| now.seconds_since(*first_seen)),
            in_window: if window_open { memory.in_window } else { 0 },
            window_s: if window_open { now.seconds_since(memory.window_start) } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u32) -> CoarseInstant {
        CoarseInstant(seconds * CoarseInstant::PER_SECOND)
    }

    #[test]
    fn a_broadcast_is_new_once_until_it_is_forgotten() {
        let broadcasts = Broadcasts::new(BroadcastLimits::default());
        assert!(broadcasts.first_seen([1; 16], at(0)) && !broadcasts.first_seen([1; 16], at(1)));
        assert!(broadcasts.first_seen([2; 16], at(100)));
        assert_eq!(broadcasts.totals(at(300)).oldest_s, 300);
        assert_eq!(broadcasts.forget_some(Duration::from_secs(300), at(300), usize::MAX), 1);
        assert!(broadcasts.first_seen([1; 16], at(300)) && !broadcasts.first_seen([2; 16], at(300)));
        assert_eq!(broadcasts.totals(at(300)).held, 2);
    }

    #[test]
    fn memory_is_capped_and_the_oldest_makes_room() {
        let broadcasts = Broadcasts::new(BroadcastLimits { held: 3, ..BroadcastLimits::default() });
        (0..10).for_each(|i| assert!(broadcasts.first_seen([i; 16], at(i.into()))));
        assert_eq!(broadcasts.totals(at(10)).held, 3);
        assert!(!broadcasts.first_seen([9; 16], at(10)) && broadcasts.first_seen([0; 16], at(10)));
    }

    #[test]
    fn what_is_forgotten_at_once_makes_no_other_be_forgotten() {
        let broadcasts = Broadcasts::new(BroadcastLimits { held: 2, ..BroadcastLimits::default() });
        assert!(broadcasts.first_seen([100; 16], at(0)));
        for forged in 0..10 {
            assert!(broadcasts.first_seen([forged; 16], at(1)));
            broadcasts.forget(&[forged; 16]);
        }
        assert!(!broadcasts.first_seen([100; 16], at(2)));
        assert_eq!(broadcasts.totals(at(2)).held, 1);
    }

    #[test]
    fn the_window_opens_by_time_alone() {
        let broadcasts = Broadcasts::new(BroadcastLimits { per_window: 2, ..BroadcastLimits::default() });
        assert!(broadcasts.take_place(at(0)).is_ok() && broadcasts.take_place(at(1)).is_ok());
        assert_eq!(broadcasts.take_place(at(20)), Err(Duration::from_secs(40)));
        assert_eq!(broadcasts.totals(at(20)).in_window, 2);
        assert_eq!(broadcasts.totals(at(60)).in_window, 0);
        assert!(broadcasts.take_place(at(60)).is_ok());
    }
}
