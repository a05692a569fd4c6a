//! Chooses the peer for a request: one that is healthy, not busy, and has no open breaker. Sends nothing.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Route;
use groundskeeper_pool::NodeState;

use super::asking::{Candidates, RoutedRequests};
use super::conn::Conn;
use super::kinds::RequestKind;
use super::request_error::{AskError, MAX_PENDING};

impl RoutedRequests {
    /// Chooses the next connection to ask, but none of the peers in `asked`. Returns what `take` makes of it.
    pub(crate) fn route<R>(
        &self,
        candidates: &Candidates<'_>,
        kind: &RequestKind,
        asked: &[PeerId],
        take: impl FnOnce(&Arc<Conn>) -> R,
    ) -> Option<R> {
        let &Candidates { route, among, but } = candidates;
        let Self { node, traffic, roster, .. } = self;
        let healthy_above = traffic.tuning.healthy_above();
        let listed = roster.listed();
        let conns = &listed.conns[..];
        let usable = |at: usize| {
            let conn = &conns[at];
            self.can_ask(conn, kind, healthy_above)
                && !asked.contains(&conn.peer)
                && !but.contains(&conn.peer)
                && among.is_none_or(|among| among.contains(&conn.peer))
        };
        let cost = |at: usize| match route {
            Route::LowestRtt => node.state.pool.rtt_rank(conns[at].key).unwrap_or(u32::MAX),
            Route::RoundRobin | Route::LeastLoaded => conns[at].open_requests(),
        };
        let at = self.turns.choose(route, conns.len(), usable, cost)?;
        Some(take(&conns[at]))
    }

    /// Whether `conn` may be asked at all: its health, breaker and open requests.
    fn can_ask(&self, conn: &Conn, kind: &RequestKind, healthy_above: u8) -> bool {
        let NodeState { pool, clock, .. } = &self.node.state;
        pool.health(conn.key).is_some_and(|health| health > healthy_above)
            && conn.record.would_admit(kind, || clock.mono())
            && (conn.open_requests() as usize) < MAX_PENDING
    }

    /// Why no peer can be asked.
    pub(crate) fn nobody(&self, kind: &RequestKind) -> AskError {
        let Self { node, traffic, roster, .. } = self;
        let healthy_above = traffic.tuning.healthy_above();
        let listed = roster.listed();
        let health = |conn: &Arc<Conn>| node.state.pool.health(conn.key);
        let live = listed.conns.iter().filter(|conn| health(conn).is_some()).count();
        let unhealthy =
            listed.conns.iter().filter(|conn| health(conn).is_some_and(|h| h <= healthy_above)).count();
        let askable = listed.conns.iter().filter(|conn| self.can_ask(conn, kind, healthy_above)).count();
        AskError::NoPeerAvailable { live, unhealthy, open: live.saturating_sub(unhealthy + askable) }
    }
}
