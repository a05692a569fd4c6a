//! Notices a peer that reads nothing: its connection takes no more of what this node sends. Ends no connection itself.

use std::time::Duration;

/// A peer that takes nothing for this long does not read. A path that loses packets for a minute is given up by the
/// reaper, because then nothing arrives from the peer either.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// How writing to one connection goes on.
#[derive(Default)]
pub(crate) struct WriteProgress {
    blocked_since: Option<Duration>,
}

impl WriteProgress {
    /// The connection takes no more at `now`, and something waits for it.
    pub(crate) fn blocked(&mut self, now: Duration) {
        self.blocked_since.get_or_insert(now);
    }

    /// The connection took something, or nothing waits for it.
    pub(crate) fn moved(&mut self) {
        self.blocked_since = None;
    }

    /// Whether the connection has taken nothing for [`WRITE_DEADLINE`]. Reads the clock only if it takes no more now.
    pub(crate) fn is_stuck(&self, now: impl FnOnce() -> Duration) -> bool {
        self.blocked_since.is_some_and(|since| now().saturating_sub(since) >= WRITE_DEADLINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_without_any_progress_is_stuck() {
        let at = Duration::from_secs;
        let mut progress = WriteProgress::default();
        assert!(!progress.is_stuck(|| at(1_000)));
        progress.blocked(at(10));
        progress.blocked(at(60));
        assert!(!progress.is_stuck(|| at(69)) && progress.is_stuck(|| at(70)));
        progress.moved();
        assert!(!progress.is_stuck(|| at(1_000)));
        progress.blocked(at(1_000));
        assert!(!progress.is_stuck(|| at(1_059)) && progress.is_stuck(|| at(1_060)));
    }
}
