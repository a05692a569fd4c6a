//! Which peer a request goes to: one that is healthy, not busy, and whose breaker is closed. Sends nothing.

use std::sync::Arc;

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{Route, Turns};
use groundskeeper_pool::pool::Pool;

use super::conn::Conn;
use super::kinds::RequestKind;
use super::request_error::MAX_PENDING;
use super::roster::Roster;
use super::tuning::CurrentTuning;
use crate::NodeState;

/// Which peers to choose among, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidates<'a> {
    pub(crate) route: Route,
    pub(crate) among: Option<&'a [PeerId]>,
    pub(crate) but: &'a [PeerId],
}

/// Why no peer can be asked: numbers of connections.
pub(crate) struct Unusable {
    pub(crate) live: usize,
    pub(crate) unhealthy: usize,
    /// With an open breaker, or too much to do.
    pub(crate) open: usize,
}

pub(crate) struct PeerChoice {
    roster: Arc<Roster>,
    pool: Arc<Pool>,
    tuning: Arc<CurrentTuning>,
    clock: Arc<dyn Clock>,
    turns: Turns,
}

impl PeerChoice {
    pub(crate) fn new(
        state: &NodeState,
        tuning: &Arc<CurrentTuning>,
        roster: &Arc<Roster>,
        seed: u64,
    ) -> Self {
        let NodeState { pool, clock, .. } = state.clone();
        Self { roster: roster.clone(), pool, tuning: tuning.clone(), clock, turns: Turns::new(seed) }
    }

    /// The next connection to ask, as `take` makes of it; none of the peers in `asked`.
    pub(crate) fn choose<R>(
        &self,
        candidates: &Candidates<'_>,
        kind: &RequestKind,
        asked: &[PeerId],
        take: impl FnOnce(&Arc<Conn>) -> R,
    ) -> Option<R> {
        let &Candidates { route, among, but } = candidates;
        let healthy_above = self.tuning.healthy_above();
        let listed = self.roster.listed();
        let conns = &listed.conns[..];
        let usable = |at: usize| {
            let conn = &conns[at];
            self.can_ask(conn, kind, healthy_above)
                && !asked.contains(&conn.peer)
                && !but.contains(&conn.peer)
                && among.is_none_or(|among| among.contains(&conn.peer))
        };
        let cost = |at: usize| match route {
            // A peer that has not answered a ping yet comes last.
            Route::LowestRtt => self.pool.age_and_rtt(conns[at].key).map_or(u32::MAX, |(_, rtt)| rtt),
            Route::RoundRobin | Route::LeastLoaded => conns[at].open_requests(),
        };
        let at = self.turns.choose(route, conns.len(), usable, cost)?;
        Some(take(&conns[at]))
    }

    /// Whether `conn` may be asked, apart from who is meant.
    fn can_ask(&self, conn: &Conn, kind: &RequestKind, healthy_above: u8) -> bool {
        self.pool.health(conn.key).is_some_and(|health| health > healthy_above)
            && conn.record.would_admit(kind, || self.clock.mono())
            && (conn.open_requests() as usize) < MAX_PENDING
    }

    pub(crate) fn unusable(&self, kind: &RequestKind) -> Unusable {
        let healthy_above = self.tuning.healthy_above();
        let listed = self.roster.listed();
        let health = |conn: &Arc<Conn>| self.pool.health(conn.key);
        let live = listed.conns.iter().filter(|conn| health(conn).is_some()).count();
        let unhealthy =
            listed.conns.iter().filter(|conn| health(conn).is_some_and(|h| h <= healthy_above)).count();
        let askable = listed.conns.iter().filter(|conn| self.can_ask(conn, kind, healthy_above)).count();
        Unusable { live, unhealthy, open: live.saturating_sub(unhealthy + askable) }
    }

    /// Any number, by chance.
    pub(crate) fn random(&self) -> u64 {
        self.turns.random()
    }
}
