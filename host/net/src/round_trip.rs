//! Which measurement of a connection's round trip counts: the transport's own, pings, or answers. Sends nothing.

use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_pool::pool::Slot;

/// Time between two readings of the transport's estimate: one system call for each busy connection in five seconds.
const BETWEEN_READINGS: Duration = Duration::from_secs(5);

/// A ping counts this long, before the transport's estimate counts again. A ping includes the time until the peer's
/// program answers, which the transport does not see, but only quiet peers are pinged. Two ticks.
const PING_COUNTS: Duration = Duration::from_secs(60);

/// The round trips of one connection.
pub(crate) struct RoundTrip {
    /// The transport's estimate is read at this time or later.
    next_reading: CoarseInstant,
    /// A ping counts until this time.
    ping_until: Option<CoarseInstant>,
    /// When the host's own first request was sent, until it is answered.
    asked: Option<Duration>,
}

impl RoundTrip {
    /// For a connection that goes live at `now`, when the host sends its first request. `rtt` is the transport's estimate.
    pub(crate) fn begin(rtt: Option<Duration>, slot: &Slot, now: Duration) -> Self {
        if let Some(rtt) = rtt {
            slot.set_rtt(rtt);
        }
        let next_reading = CoarseInstant::from_duration(now).after(BETWEEN_READINGS);
        Self { next_reading, ping_until: None, asked: Some(now) }
    }

    /// Reads the transport's estimate, if the last reading is old and no ping counts.
    #[inline]
    pub(crate) fn sample(
        &mut self,
        read: impl FnOnce() -> Option<Duration>,
        slot: &Slot,
        now: CoarseInstant,
    ) {
        if now < self.next_reading {
            return;
        }
        self.next_reading = now.after(BETWEEN_READINGS);
        if self.ping_until.is_some_and(|until| now < until) {
            return;
        }
        if let Some(rtt) = read() {
            self.ping_until = None;
            slot.set_rtt(rtt);
        }
    }

    /// A ping was answered after `rtt`.
    pub(crate) fn ponged(&mut self, rtt: Duration, slot: &Slot, now: CoarseInstant) {
        // The transport's estimate is of another kind: a mean of both would be neither.
        if self.ping_until.is_none() {
            slot.set_rtt(rtt);
        }
        slot.pong(rtt);
        self.ping_until = Some(now.after(PING_COUNTS));
    }

    /// The host's own request was answered at once, which tells the round trip if nothing better does.
    pub(crate) fn answered(&mut self, slot: &Slot, now: Duration) {
        if let Some(asked) = self.asked.take() {
            slot.answered_within(now.saturating_sub(asked));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use groundskeeper_base::clock::{Clock as _, TokioClock};
    use groundskeeper_base::peer::PeerId;
    use groundskeeper_pool::pool::{Direction, Goodbye, Link, PeerFacts};
    use groundskeeper_pool::{NodeLimits, NodeState};

    use super::*;

    struct Quiet;

    impl Link for Quiet {
        fn ping(&self) {}

        fn close(&self, _why: &Goodbye) {}
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_counts_for_two_ticks_and_the_transport_before_and_after_it() {
        let clock = TokioClock::starting_at(Duration::from_secs(1_000_000));
        let limits = NodeLimits::for_connections(4);
        let state = NodeState::new(PeerId::from_bytes([1; 32]), limits, Arc::clone(&clock) as _, None);
        let address = SocketAddr::from(([127, 0, 0, 1], 7420));
        let facts = PeerFacts { id: PeerId::from_bytes([2; 32]), address, direction: Direction::Inbound };
        let slot = state.pool.attach(facts, Arc::new(Quiet)).unwrap();
        let shown = || Duration::from_micros(state.pool.freeze_rtt(&state.pool.freeze())[0].into());

        let mut trip = RoundTrip::begin(Some(ms(20)), &slot, clock.mono());
        assert_eq!(shown(), ms(20));
        // The estimate is not read with every frame.
        trip.sample(|| unreachable!("it was read just now"), &slot, clock.coarse());
        tokio::time::advance(BETWEEN_READINGS).await;
        trip.sample(|| Some(ms(30)), &slot, clock.coarse());
        assert_eq!(shown(), ms(30));
        // The peer's program is busy: the transport does not see that.
        trip.ponged(ms(800), &slot, clock.coarse());
        assert_eq!(shown(), ms(800));
        tokio::time::advance(PING_COUNTS / 2).await;
        trip.sample(|| Some(ms(30)), &slot, clock.coarse());
        assert_eq!(shown(), ms(800));
        // It answers a request faster than that.
        slot.answered_within(ms(50));
        assert_eq!(shown(), ms(50));
        tokio::time::advance(PING_COUNTS).await;
        trip.sample(|| Some(ms(30)), &slot, clock.coarse());
        assert_eq!(shown(), ms(30));
        // An answer that took longer says nothing new.
        slot.answered_within(ms(500));
        assert_eq!(shown(), ms(30));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_estimate_the_first_answer_is_the_round_trip() {
        let clock = TokioClock::starting_at(Duration::from_secs(1_000_000));
        let limits = NodeLimits::for_connections(4);
        let state = NodeState::new(PeerId::from_bytes([1; 32]), limits, Arc::clone(&clock) as _, None);
        let address = SocketAddr::from(([127, 0, 0, 1], 7420));
        let facts = PeerFacts { id: PeerId::from_bytes([2; 32]), address, direction: Direction::Inbound };
        let slot = state.pool.attach(facts, Arc::new(Quiet)).unwrap();

        let mut trip = RoundTrip::begin(None, &slot, clock.mono());
        assert_eq!(state.pool.freeze_rtt(&state.pool.freeze()), [u32::MAX]);
        tokio::time::advance(ms(40)).await;
        trip.answered(&slot, clock.mono());
        assert_eq!(state.pool.freeze_rtt(&state.pool.freeze()), [40_000]);
        tokio::time::advance(ms(400)).await;
        // Only the first: later ones may have waited for their turn.
        trip.answered(&slot, clock.mono());
        assert_eq!(state.pool.freeze_rtt(&state.pool.freeze()), [40_000]);
    }
}
