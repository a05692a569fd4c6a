//! The open pings of one connection, and what each pong means. Sends no ping and keeps no timer.

use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;

/// Which ping a pong answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PongOutcome {
    /// The last one; the round trip took this long.
    Fresh(Duration),
    /// An earlier one.
    Late,
    Again,
    NeverAsked,
}

/// Nonces count up from a random number, so three numbers describe all pings of a connection.
pub(crate) struct Pings {
    base: u64,
    sent: u64,
    /// The last ping that was answered, counted like `sent`.
    answered: u64,
    sent_at: Duration,
    sent_coarse: CoarseInstant,
    lost: u8,
}

impl Pings {
    /// `base` must be a number that the peer cannot guess.
    pub(crate) fn new(base: u64) -> Self {
        Self { base, sent: 0, answered: 0, sent_at: Duration::ZERO, sent_coarse: CoarseInstant(0), lost: 0 }
    }

    /// The nonce of the next ping, and how many in a row are lost before it. Any data from the peer since the last ping
    /// counts as its answer.
    pub(crate) fn next(
        &mut self,
        now: Duration,
        coarse: CoarseInstant,
        last_seen: CoarseInstant,
    ) -> (u64, u8) {
        let open = self.sent > self.answered && last_seen <= self.sent_coarse;
        self.lost = if open { self.lost.saturating_add(1) } else { 0 };
        self.sent += 1;
        self.sent_at = now;
        self.sent_coarse = coarse;
        (self.base.wrapping_add(self.sent), self.lost)
    }

    pub(crate) fn answered(&mut self, nonce: u64, now: Duration) -> PongOutcome {
        let which = nonce.wrapping_sub(self.base);
        if which == 0 || which > self.sent {
            return PongOutcome::NeverAsked;
        }
        if which <= self.answered {
            return PongOutcome::Again;
        }
        self.answered = which;
        self.lost = 0;
        if which == self.sent {
            PongOutcome::Fresh(now.saturating_sub(self.sent_at))
        } else {
            PongOutcome::Late
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let ms = Duration::from_millis;
        let mut pings = Pings::new(u64::MAX);
        let (first, _) = pings.next(ms(0), CoarseInstant(10), CoarseInstant(10));
        let (second, lost) = pings.next(ms(100), CoarseInstant(11), CoarseInstant(10));
        assert_eq!(lost, 1);
        assert_eq!(pings.answered(first, ms(110)), PongOutcome::Late);
        assert_eq!(pings.answered(second, ms(130)), PongOutcome::Fresh(ms(30)));
        assert_eq!(pings.answered(second, ms(131)), PongOutcome::Again);
        assert_eq!(pings.answered(second.wrapping_add(1), ms(131)), PongOutcome::NeverAsked);
        assert_eq!(pings.answered(first.wrapping_sub(1), ms(131)), PongOutcome::NeverAsked);
    }

    #[test]
    fn a_sign_of_life_counts_as_the_answer() {
        let mut pings = Pings::new(u64::MAX);
        for at in 0..3 {
            assert_eq!(pings.next(Duration::ZERO, CoarseInstant(at), CoarseInstant(0)).1, at as u8);
        }
        assert_eq!(pings.next(Duration::ZERO, CoarseInstant(9), CoarseInstant(3)).1, 0);
    }
}
