//! Notices a peer that reads nothing: it acknowledges no more of what this node sends. Ends no connection itself.

use std::time::Duration;

/// A peer that takes nothing for this long does not read. A path that loses packets for a minute is given up by the
/// reaper, because then nothing arrives from the peer either.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// Time between two looks at the acknowledged bytes of a connection that takes no more. A quarter of the deadline, so a
/// peer is ended at most that much late.
const BETWEEN_LOOKS: Duration = Duration::from_secs(15);

/// How writing to one connection goes on.
#[derive(Default)]
pub(crate) struct WriteProgress {
    stall: Option<Stall>,
    /// Since when the queue waits for the connection to take the frames before it.
    queue_held: Option<Duration>,
}

/// Something waits for the connection.
struct Stall {
    /// When the peer last took something, as far as this node knows.
    moved: Duration,
    looked: Duration,
    /// Bytes that the peer had acknowledged then, if the transport knows.
    acked: Option<u64>,
}

impl WriteProgress {
    /// The connection takes no more at `now`, and something waits for it. `acked` reads the acknowledged bytes; it is called
    /// once for each stall.
    pub(crate) fn blocked(&mut self, now: Duration, acked: impl FnOnce() -> Option<u64>) {
        self.stall.get_or_insert_with(|| Stall { moved: now, looked: now, acked: acked() });
    }

    /// The queue waits too.
    pub(crate) fn hold_queue(&mut self, now: Duration) {
        self.queue_held.get_or_insert(now);
    }

    /// The queue's frames have their turn. Returns since when the queue has waited, if it has.
    pub(crate) fn release_queue(&mut self) -> Option<Duration> {
        self.queue_held.take()
    }

    /// The connection took something. Where acknowledgements are known only they count: encryption takes some bytes for
    /// a socket that takes none.
    pub(crate) fn moved(&mut self, now: impl FnOnce() -> Duration) {
        if let Some(stall) = self.stall.as_mut().filter(|stall| stall.acked.is_none()) {
            stall.moved = now();
        }
    }

    /// Nothing waits for the connection.
    pub(crate) fn finished(&mut self) {
        self.stall = None;
    }

    /// Whether the peer has taken nothing for [`WRITE_DEADLINE`]. Reads the clock only if something waits, and
    /// `acked` every 15 s at most.
    ///
    /// A socket with a large buffer is writable only after a third of it was acknowledged, which takes a slow link longer
    /// than the deadline. So acknowledged bytes are progress too.
    pub(crate) fn is_stuck(
        &mut self,
        now: impl FnOnce() -> Duration,
        acked: impl FnOnce() -> Option<u64>,
    ) -> bool {
        let Some(stall) = &mut self.stall else { return false };
        let now = now();
        if now.saturating_sub(stall.looked) >= BETWEEN_LOOKS {
            stall.looked = now;
            let acked = acked();
            if acked > stall.acked {
                stall.acked = acked;
                stall.moved = now;
            }
        }
        now.saturating_sub(stall.moved) >= WRITE_DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_a_write_without_any_progress_is_stuck() {
        let mut progress = WriteProgress::default();
        let stuck = |progress: &mut WriteProgress, now| progress.is_stuck(|| at(now), || None);
        assert!(!stuck(&mut progress, 1_000));
        progress.blocked(at(10), || None);
        progress.blocked(at(60), || None);
        assert!(!stuck(&mut progress, 69) && stuck(&mut progress, 70));
        progress.moved(|| at(70));
        assert!(!stuck(&mut progress, 129) && stuck(&mut progress, 130));
        progress.finished();
        assert!(!stuck(&mut progress, 1_000));
        progress.blocked(at(1_000), || None);
        assert!(!stuck(&mut progress, 1_059) && stuck(&mut progress, 1_060));
    }

    #[test]
    fn acknowledged_bytes_are_progress_and_bytes_that_only_encryption_took_are_not() {
        let mut progress = WriteProgress::default();
        progress.blocked(at(0), || Some(1_000));
        for minute in 1..10 {
            assert!(!progress.is_stuck(|| at(59 * minute), || Some(1_000 + minute)));
        }
        let last = 59 * 9;
        progress.moved(|| at(last + 30));
        assert!(!progress.is_stuck(|| at(last + 59), || Some(1_009)));
        assert!(progress.is_stuck(|| at(last + 60), || unreachable!("it looked a second ago")));
    }
}
