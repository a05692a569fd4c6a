//! Counts the clients of the local API that were turned away, and says so in the log in sums. Turns no client away itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::share::Party;

/// Log lines about one reason are at least this far apart, so that who floods a listener does not flood the log.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// A listener of the local API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    Socket,
    Telemetry,
}

impl Door {
    pub(crate) const ALL: [Self; 2] = [Self::Socket, Self::Telemetry];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Telemetry => "telemetry",
        }
    }
}

/// Why a client got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turned {
    /// All places of its share are taken, or it lost its place to a newcomer.
    Busy,
    /// Its request did not arrive in time, or it did not read its answer.
    Slow,
    /// The system has no descriptor or no memory for another connection.
    Shortage,
}

impl Turned {
    pub(crate) const ALL: [Self; 3] = [Self::Busy, Self::Slow, Self::Shortage];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Slow => "slow",
            Self::Shortage => "shortage",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct RefusalLine {
    last: Option<Instant>,
    /// Clients that no line has counted yet.
    since: u64,
}

/// The clients of both listeners that were turned away since the start.
#[derive(Debug, Default)]
pub struct ApiRefusals {
    counts: [[AtomicU64; Turned::ALL.len()]; Door::ALL.len()],
    lines: Mutex<[[RefusalLine; Turned::ALL.len()]; Door::ALL.len()]>,
}

impl ApiRefusals {
    pub(crate) fn count(&self, door: Door, why: Turned) -> u64 {
        self.counts[door as usize][why as usize].load(Relaxed)
    }

    pub(super) fn note(&self, door: Door, why: Turned, who: Option<Party>) {
        self.counts[door as usize][why as usize].fetch_add(1, Relaxed);
        let Some(clients) = self.due_line(door, why) else { return };
        let last = who.map(|who| who.to_string());
        tracing::warn!(
            listener = door.as_str(),
            reason = why.as_str(),
            clients,
            last,
            "turned clients of the local API away"
        );
    }

    /// How many clients the log line counts that is due now. `None` if there was one lately.
    fn due_line(&self, door: Door, why: Turned) -> Option<u64> {
        let now = Instant::now();
        let line = &mut self.lines.lock()[door as usize][why as usize];
        line.since += 1;
        if line.last.is_some_and(|last| now.duration_since(last) < LINE_EVERY) {
            return None;
        }
        line.last = Some(now);
        Some(std::mem::take(&mut line.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_makes_one_line_a_minute_and_every_client_counts() {
        let refusals = ApiRefusals::default();
        let lines =
            |n: u32| (0..n).filter_map(|_| refusals.due_line(Door::Socket, Turned::Busy)).collect::<Vec<_>>();
        assert_eq!(lines(10_000), [1]);
        assert_eq!(refusals.due_line(Door::Telemetry, Turned::Busy), Some(1), "each listener has its own");
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(lines(10_000), [10_000]);
        refusals.note(Door::Socket, Turned::Busy, None);
        assert_eq!(refusals.count(Door::Socket, Turned::Busy), 1);
    }
}
