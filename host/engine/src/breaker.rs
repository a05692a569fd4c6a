//! A circuit breaker for phases: a phase that keeps failing runs less often. Counts due runs, has no clock.

use crate::policy::OnFailure;

/// The longest pause, in due runs, unless the first pause is longer. A repaired phase runs again within this many.
const BREAKER_MAX_PAUSE: u32 = 32;

/// A circuit breaker that counts due runs. After some failures in a row it skips 1, 2, 4 ... due runs, then allows one
/// trial. A guest's breaker gives up after it has opened some times in a row; a host phase's breaker never does.
#[derive(Debug)]
pub struct PhaseBreaker {
    rules: OnFailure,
    gives_up: bool,
    failures: u32,
    pause: u32,
    skip: u32,
    /// How often it has opened since the last successful run.
    trips: u32,
    has_given_up: bool,
}

impl PhaseBreaker {
    /// For host phases, which never give up.
    pub fn host(rules: OnFailure) -> Self {
        Self { gives_up: false, ..Self::guest(rules) }
    }

    /// For guests. Gives up when it would open for the `quarantine_after`-th time in a row.
    pub fn guest(rules: OnFailure) -> Self {
        Self { rules, gives_up: true, failures: 0, pause: 0, skip: 0, trips: 0, has_given_up: false }
    }

    /// Whether a due run may happen. If not, counts the run as skipped.
    pub fn admit(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        !self.has_given_up
    }

    /// Closes the breaker from any state: after a successful run, or when the operator asks for it.
    pub fn reset(&mut self) {
        *self = Self { gives_up: self.gives_up, ..Self::guest(self.rules) };
    }

    /// Counts a failed run. Opens the breaker after enough failures in a row, or gives up.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.rules.trip_after {
            return;
        }
        self.trips = self.trips.saturating_add(1);
        if self.gives_up && self.trips >= self.rules.quarantine_after {
            return self.give_up();
        }
        let longest = BREAKER_MAX_PAUSE.max(self.rules.pause);
        self.pause = (self.pause.saturating_mul(2)).clamp(self.rules.pause.max(1), longest);
        self.skip = self.pause;
    }

    /// Stops trying a guest that cannot work. Does nothing for host phases.
    pub fn give_up(&mut self) {
        if self.gives_up {
            self.has_given_up = true;
            self.skip = 0;
        }
    }

    /// Failed runs since the last success or reset.
    pub fn failures_in_row(&self) -> u32 {
        self.failures
    }

    /// Due runs that it will still skip.
    pub fn pause_left(&self) -> u32 {
        self.skip
    }

    /// Whether it will skip the next due run. False after it has given up.
    pub fn is_open(&self) -> bool {
        self.skip > 0
    }

    /// If true, only [`PhaseBreaker::reset`] closes it again.
    pub fn has_given_up(&self) -> bool {
        self.has_given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_runs(breaker: &mut PhaseBreaker) -> Vec<u32> {
        let mut ran = Vec::new();
        for due in 0..40 {
            if breaker.admit() {
                ran.push(due);
                breaker.failed();
            }
        }
        ran
    }

    #[test]
    fn a_breaker_of_the_host_opens_at_three_and_doubles_its_pause_for_ever() {
        let mut patient = PhaseBreaker::host(OnFailure { trip_after: 5, pause: 8, quarantine_after: 1 });
        assert_eq!(due_runs(&mut patient), [0, 1, 2, 3, 4, 13, 30]);
        let mut breaker = PhaseBreaker::host(OnFailure::default());
        assert_eq!(due_runs(&mut breaker), [0, 1, 2, 4, 7, 12, 21, 38]);
        breaker.give_up();
        assert!(!breaker.has_given_up());
        breaker.reset();
        assert!(breaker.admit() && !breaker.is_open() && breaker.failures_in_row() == 0);
    }

    #[test]
    fn a_guests_breaker_follows_its_manifest_and_gives_up() {
        for (trip_after, pause, quarantine_after, expected) in
            [(3, 1, 4, &[0, 1, 2, 4, 7, 12][..]), (1, 5, 3, &[0, 6, 17]), (2, 1, 1, &[0, 1]), (1, 1, 1, &[0])]
        {
            let mut breaker = PhaseBreaker::guest(OnFailure { trip_after, pause, quarantine_after });
            assert_eq!(due_runs(&mut breaker), expected);
            assert!(breaker.has_given_up() && !breaker.is_open() && !breaker.admit());
            breaker.reset();
            assert_eq!(due_runs(&mut breaker), expected, "as new after a reset");
        }
    }

    #[test]
    fn one_good_run_in_between_counts_from_the_start() {
        let mut breaker = PhaseBreaker::guest(OnFailure { trip_after: 2, pause: 1, quarantine_after: 2 });
        for _round in 0..10 {
            breaker.failed();
            breaker.failed();
            assert!(breaker.is_open() && !breaker.admit());
            assert!(breaker.admit(), "half open");
            breaker.reset();
        }
        breaker.give_up();
        assert!(breaker.has_given_up());
    }
}
