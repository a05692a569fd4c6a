//! Requests to whoever can answer: chooses among healthy peers, waits as long as answers of that kind take, and tries
//! again, or twice at once, where that is allowed. Knows no kind by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::Net;
use super::conn::Conn;
use super::kinds::Kind;
use super::node::Node;
use super::request_error::{MAX_PENDING, RequestError};
use super::requests::{Question, WhenFull, check_kind};
use crate::flow::{Priority, Route};
use crate::peer::PeerId;

/// A request to whoever can answer it.
///
/// ```
/// # use groundskeeper::net::{Ask, Net};
/// # async fn example(net: &Net) -> Result<(), groundskeeper::net::AskError> {
/// let answer = net.ask(Ask::new("block", &7_u64.to_le_bytes()).idempotent()).await?;
/// println!("{} bytes from {}", answer.payload.len(), answer.from);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    kind: &'a str,
    payload: &'a [u8],
    route: Route,
    among: Option<&'a [PeerId]>,
    but: &'a [PeerId],
    priority: Priority,
    when_full: WhenFull,
    idempotent: bool,
    hedged: bool,
    within: Option<Duration>,
    most: usize,
}

impl<'a> Ask<'a> {
    /// Asks one of two healthy peers drawn at random, the one with fewer open requests, once.
    pub fn new(kind: &'a str, payload: &'a [u8]) -> Self {
        Self {
            kind,
            payload,
            route: Route::default(),
            among: None,
            but: &[],
            priority: Priority::Request,
            when_full: WhenFull::Fail,
            idempotent: false,
            hedged: false,
            within: None,
            most: usize::MAX,
        }
    }

    /// How to choose among the peers that can be asked.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Only these.
    pub fn among(mut self, peers: &'a [PeerId]) -> Self {
        self.among = Some(peers);
        self
    }

    /// None of these.
    pub fn but(mut self, peers: &'a [PeerId]) -> Self {
        self.but = peers;
        self
    }

    /// Answering it twice does no harm: it may be tried again with another peer, within the retry budget.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// If no answer has come when 95 of 100 answers of this kind would have, another peer is asked as well, and the first
    /// answer counts. Takes from the retry budget. Implies [`Ask::idempotent`].
    pub fn hedged(mut self) -> Self {
        self.hedged = true;
        self.idempotent()
    }

    /// It can wait for everything else: for large transfers.
    pub fn bulk(mut self) -> Self {
        self.priority = Priority::Bulk;
        self
    }

    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// For all attempts together, waits in between included. Without it: twice as long as one attempt may take.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// An answer of more bytes is none, and costs the peer health.
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }
}

/// An answer and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub from: PeerId,
    pub payload: Bytes,
    /// Peers that were asked, this one included.
    pub asked: u32,
    pub took: Duration,
}

/// Why nobody has answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    #[error(
        "no peer can be asked: {live} live, {unhealthy} of them unhealthy, {open} with an open breaker or too much to do"
    )]
    NobodyToAsk { live: usize, unhealthy: usize, open: usize },
    #[error("no answer after {asked} attempts; the last one: {last}")]
    NoAnswer { asked: u32, last: RequestError },
    #[error(transparent)]
    Bad(RequestError),
}

/// Who was asked already.
type Asked = Vec<PeerId>;

impl Node {
    /// Whether `conn` may be asked, apart from who is meant.
    fn can_ask(&self, conn: &Conn, kind: &Kind, healthy_above: u8) -> bool {
        self.rooms.pool.health(conn.key).is_some_and(|health| health > healthy_above)
            && conn.standing.would_admit(kind, || self.rooms.clock.mono())
            && (conn.in_flight.load(Relaxed) as usize) < MAX_PENDING
    }

    /// The next peer to ask.
    fn route(&self, ask: &Ask<'_>, kind: &Kind, asked: &[PeerId]) -> Option<Arc<Conn>> {
        self.choose(ask, kind, asked, Arc::clone)
    }

    /// What `take` makes of the connection to ask next.
    fn choose<R>(
        &self,
        ask: &Ask<'_>,
        kind: &Kind,
        asked: &[PeerId],
        take: impl FnOnce(&Arc<Conn>) -> R,
    ) -> Option<R> {
        let healthy_above = self.traffic.healthy_above.load(Relaxed);
        let listed = self.roster.listed();
        let conns = &listed.conns[..];
        let usable = |at: usize| {
            let conn = &conns[at];
            self.can_ask(conn, kind, healthy_above)
                && !asked.contains(&conn.peer)
                && !ask.but.contains(&conn.peer)
                && ask.among.is_none_or(|among| among.contains(&conn.peer))
        };
        let cost = |at: usize| match ask.route {
            // Who has not answered a ping yet comes last.
            Route::LowestRtt => self.rooms.pool.age_and_rtt(conns[at].key).map_or(u32::MAX, |(_, rtt)| rtt),
            Route::RoundRobin | Route::LeastLoaded => conns[at].in_flight.load(Relaxed),
        };
        let at = self.traffic.turns.choose(ask.route, conns.len(), usable, cost)?;
        Some(take(&conns[at]))
    }

    fn nobody(&self, kind: &Kind) -> AskError {
        let healthy_above = self.traffic.healthy_above.load(Relaxed);
        let listed = self.roster.listed();
        let health = |conn: &Arc<Conn>| self.rooms.pool.health(conn.key);
        let live = listed.conns.iter().filter(|conn| health(conn).is_some()).count();
        let unhealthy =
            listed.conns.iter().filter(|conn| health(conn).is_some_and(|h| h <= healthy_above)).count();
        let askable = listed.conns.iter().filter(|conn| self.can_ask(conn, kind, healthy_above)).count();
        AskError::NobodyToAsk { live, unhealthy, open: live.saturating_sub(unhealthy + askable) }
    }

    async fn ask(&self, ask: &Ask<'_>, kind: &Arc<Kind>) -> Result<Answer, AskError> {
        let traffic = &self.traffic;
        let tuning = traffic.tuning.load_full();
        let most = tuning.timeout_of(ask.kind);
        let began = Instant::now();
        let end = began + ask.within.unwrap_or(2 * if most.adaptive { most.most } else { most.base });
        let retries = if ask.idempotent { tuning.retry.most } else { 0 };
        traffic.retries.earn(&tuning.retry);
        let mut asked = Asked::new();
        let mut last = None;
        for retry in 0..=retries {
            let Some(conn) = self.route(ask, kind, &asked) else { break };
            if retry > 0 {
                if !traffic.retries.spend() {
                    break;
                }
                traffic.counts.retried.fetch_add(1, Relaxed);
                let wait = tuning.retry.wait(retry - 1, traffic.turns.random());
                if timeout_at(end, sleep(wait)).await.is_err() {
                    break;
                }
            }
            match self.one_or_two(ask, kind, conn, end, &mut asked).await {
                Ok((from, payload)) => {
                    return Ok(Answer { from, payload, asked: asked.len() as u32, took: began.elapsed() });
                }
                Err(error @ (RequestError::TooLarge(_) | RequestError::TooManyInAll(_))) => {
                    return Err(AskError::Bad(error));
                }
                Err(error) => last = Some(error),
            }
            if Instant::now() >= end {
                break;
            }
        }
        Err(match last {
            Some(last) => AskError::NoAnswer { asked: asked.len() as u32, last },
            None => self.nobody(kind),
        })
    }

    /// One attempt, and with hedging a second one beside it when the first takes longer than most.
    async fn one_or_two(
        &self,
        ask: &Ask<'_>,
        kind: &Arc<Kind>,
        conn: Arc<Conn>,
        end: Instant,
        asked: &mut Asked,
    ) -> Result<(PeerId, Bytes), RequestError> {
        asked.push(conn.peer);
        let first = self.one(ask, kind, Arc::clone(&conn), end);
        let p95 = if ask.hedged { kind.p95() } else { None };
        let Some(p95) = p95 else { return first.await };
        let mut first = std::pin::pin!(first);
        if let Ok(answer) = tokio::time::timeout(p95, &mut first).await {
            return answer;
        }
        let Some(other) = self.route(ask, kind, asked).filter(|_| self.traffic.retries.spend()) else {
            return first.await;
        };
        self.traffic.counts.hedged.fetch_add(1, Relaxed);
        asked.push(other.peer);
        let second = std::pin::pin!(self.one(ask, kind, other, end));
        let mut second = second;
        // The first answer counts; a failure leaves the other one running.
        tokio::select! {
            biased;
            answer = &mut first => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => second.await,
            },
            answer = &mut second => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => first.await,
            },
        }
    }

    async fn one(
        &self,
        ask: &Ask<'_>,
        kind: &Arc<Kind>,
        conn: Arc<Conn>,
        end: Instant,
    ) -> Result<(PeerId, Bytes), RequestError> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = self.timeout(&conn, kind).min(left);
        let question = Question {
            kind,
            name: ask.kind,
            payload: ask.payload,
            priority: ask.priority,
            when_full: ask.when_full,
            most: ask.most,
        };
        self.ask_once(&conn, question, timeout).await.map(|payload| (conn.peer, payload))
    }
}

impl Net {
    /// Asks a healthy peer; a request that is idempotent is tried again with another one if that fails.
    ///
    /// Each attempt waits as long as answers of its kind take from that peer (`performance.timeouts`). Peers whose breaker
    /// is open for the kind are passed over. Choosing takes well under a microsecond with [`Route::RoundRobin`] and
    /// [`Route::LeastLoaded`]; [`Route::LowestRtt`] looks at all connections. Dropping the future takes everything back.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, AskError> {
        check_kind(ask.kind).map_err(AskError::Bad)?;
        let kind = self.node.traffic.kinds.of(ask.kind);
        self.node.ask(&ask, &kind).await
    }

    /// Whom [`Net::ask`] would ask now. For applications that send by themselves, and for measuring.
    pub fn choose(&self, ask: &Ask<'_>) -> Option<PeerId> {
        let kind = self.node.traffic.kinds.of(ask.kind);
        self.node.choose(ask, &kind, &[], |conn| conn.peer)
    }
}
