//! Notices that another process runs with this node's key. Says so in the log, the journal and the report; ends no
//! connection and dials no peer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::KeyConflict;
use groundskeeper_pool::NodeState;
use groundskeeper_pool::journal::{ActionKind, Initiator, NewRecord};
use parking_lot::Mutex;

use super::wire::printable;

/// Peers that say it within this time count together.
const WINDOW: Duration = Duration::from_secs(600);

/// One peer may be wrong, or lie: two of them are believed.
const PEERS: usize = 2;

/// One peer that says it this often is believed too: a node may have no other peer.
const TIMES: usize = 3;

/// Time between two warnings. Two nodes with one key may go on for days.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(3600);

/// The report names a conflict for this long after its last sign. Backoffs make signs an hour apart.
const REPORTED_FOR: Duration = Duration::from_secs(24 * 3600);

/// The signs of another process with this node's key.
#[derive(Default)]
pub(crate) struct KeyWatch(Mutex<Signs>);

#[derive(Default)]
struct Signs {
    /// Peers that said it lately, fewer than [`TIMES`], and when.
    hearsay: VecDeque<(PeerId, Duration)>,
    believed: u64,
    last: Option<(Duration, String)>,
    warned: Option<Duration>,
}

impl KeyWatch {
    /// `peer` says that another connection with this node's key has replaced this node's own.
    pub(crate) fn taken_over(&self, state: &NodeState, peer: PeerId, text: &str) {
        let now = state.clock.mono();
        let mut signs = self.0.lock();
        signs.hearsay.retain(|(_, at)| now.saturating_sub(*at) < WINDOW);
        signs.hearsay.push_back((peer, now));
        let others = signs.hearsay.iter().any(|(other, _)| *other != peer);
        let peers = if others { PEERS } else { 1 };
        if peers < PEERS && signs.hearsay.len() < TIMES {
            return;
        }
        let count = signs.hearsay.len();
        signs.hearsay.clear();
        let warning = signs.add(count, now, format!("{peer} says: {}", printable(text)));
        drop(signs);
        warning.into_iter().for_each(|last| warn(state, Some(peer), None, last));
    }

    /// A process with another boot nonce has proven this node's key at `address`.
    pub(crate) fn met(&self, state: &NodeState, address: SocketAddr) {
        let words = format!("it proved the key at {address}");
        let warning = self.0.lock().add(1, state.clock.mono(), words);
        warning.into_iter().for_each(|last| warn(state, None, Some(address), last));
    }

    /// What is known of a conflict at `now`.
    pub(crate) fn snapshot(&self, now: Duration) -> Option<KeyConflict> {
        let signs = self.0.lock();
        let (at, last) = signs.last.as_ref()?;
        let ago = now.saturating_sub(*at);
        let conflict = KeyConflict { signs: signs.believed, last_s: ago.as_secs(), last: last.clone() };
        (ago < REPORTED_FOR).then_some(conflict)
    }
}

impl Signs {
    /// Adds `count` signs. Returns the words if a warning is due.
    fn add(&mut self, count: usize, now: Duration, words: String) -> Option<String> {
        self.believed += count as u64;
        let is_due = self.warned.is_none_or(|at| now.saturating_sub(at) >= BETWEEN_WARNINGS);
        if is_due {
            self.warned = Some(now);
        }
        self.last = Some((now, words.clone()));
        is_due.then_some(words)
    }
}

fn warn(state: &NodeState, peer: Option<PeerId>, address: Option<SocketAddr>, last: String) {
    tracing::warn!(
        sign = last,
        "another process runs with this node's key, and each takes the other's peers: stop one of the two, or give it a key \
         of its own"
    );
    let record = NewRecord::new(Initiator::Host, ActionKind::KeyConflict, last);
    state.journal.record(NewRecord { peer, address, ..record });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use groundskeeper_base::clock::{Clock as _, TokioClock};
    use groundskeeper_pool::NodeLimits;

    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn records(state: &NodeState) -> usize {
        state.journal.select(usize::MAX, |record| record.what == ActionKind::KeyConflict).len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_alone_is_believed_only_if_it_says_it_again() {
        let clock = TokioClock::starting_at(Duration::ZERO);
        let state = NodeState::new(id(0), NodeLimits::for_connections(1), Arc::clone(&clock) as _, None);
        let watch = KeyWatch::default();
        for _ in 0..5 {
            watch.taken_over(&state, id(1), "the peer came back");
            watch.taken_over(&state, id(1), "the peer came back");
            tokio::time::advance(WINDOW).await;
        }
        assert_eq!((watch.snapshot(clock.mono()), records(&state)), (None, 0));
        (0..TIMES).for_each(|_| watch.taken_over(&state, id(1), "the peer came back"));
        assert_eq!(watch.snapshot(clock.mono()).unwrap().signs, 3);
        assert_eq!(records(&state), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn two_peers_are_believed_and_the_warning_comes_once_an_hour() {
        let clock = TokioClock::starting_at(Duration::ZERO);
        let state = NodeState::new(id(0), NodeLimits::for_connections(1), Arc::clone(&clock) as _, None);
        let watch = KeyWatch::default();
        for n in 0..100 {
            watch.taken_over(&state, id(n), "the peer came back:\u{1b}[31m there");
        }
        watch.met(&state, "192.0.2.1:7420".parse().unwrap());
        let conflict = watch.snapshot(clock.mono()).unwrap();
        assert_eq!((conflict.signs, records(&state)), (101, 1));
        let first = state.journal.select(1, |record| record.what == ActionKind::KeyConflict).pop().unwrap();
        assert_eq!(first.reason, format!("{} says: the peer came back: [31m there", id(1)));
        tokio::time::advance(BETWEEN_WARNINGS).await;
        watch.met(&state, "192.0.2.1:7420".parse().unwrap());
        assert_eq!(records(&state), 2);
        assert_eq!(watch.snapshot(clock.mono()).unwrap().last, "it proved the key at 192.0.2.1:7420");
        tokio::time::advance(REPORTED_FOR).await;
        assert_eq!(watch.snapshot(clock.mono()), None);
    }
}
