//! Keeps a phase that fails from running at every turn. Counts due runs and nothing else.

/// A circuit breaker counted in due runs: after three failures in a row it lets 1, 2, 4 ... due runs pass, then tries
/// once. Built-ins have nothing harder than this.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    pause: u32,
    skip: u32,
}

/// Failures in a row that open a breaker.
pub const BREAKER_FAILURES: u32 = 3;
/// No pause is longer: a built-in that works again is back within this many due runs.
const BREAKER_MAX_PAUSE: u32 = 32;

impl Breaker {
    /// Whether a due run may happen. Counts the run as let pass if not.
    pub fn admit(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self) {
        self.failures += 1;
        if self.failures >= BREAKER_FAILURES {
            self.pause = (self.pause * 2).clamp(1, BREAKER_MAX_PAUSE);
            self.skip = self.pause;
        }
    }

    pub fn failures_in_row(&self) -> u32 {
        self.failures
    }

    pub fn is_open(&self) -> bool {
        self.skip > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_at_three_and_doubles_its_pause() {
        let mut breaker = Breaker::default();
        let mut ran = Vec::new();
        for due in 0..40 {
            if breaker.admit() {
                ran.push(due);
                breaker.failed();
            }
        }
        assert_eq!(ran, [0, 1, 2, 4, 7, 12, 21, 38]);
        breaker.succeeded();
        assert!(breaker.admit() && !breaker.is_open() && breaker.failures_in_row() == 0);
    }
}
