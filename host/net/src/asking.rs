//! Requests to any peer that can answer, with adaptive time-outs, retries and hedging. Knows no kind by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{Balancer, Priority, RetryBudget, Route};
use tokio::time::{Instant, sleep, timeout_at};

use super::conn::Conn;
use super::kinds::RequestKind;
use super::node::LocalNode;
use super::request_error::{AskError, RequestError};
use super::requests::{Question, Requests, WhenFull, check_kind};
use super::roster::Roster;
use super::traffic::Traffic;

/// Which peers to choose among, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidates<'a> {
    pub(crate) route: Route,
    pub(crate) among: Option<&'a [PeerId]>,
    pub(crate) but: &'a [PeerId],
}

/// A request to any peer that can answer it.
///
/// ```
/// # use groundskeeper_net::{Ask, AskError, Net};
/// # async fn example(net: &Net) -> Result<(), AskError> {
/// let answer = net.ask(Ask::new("block", &7_u64.to_le_bytes()).idempotent()).await?;
/// println!("{} bytes from {}", answer.payload.len(), answer.from);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    question: Question<'a>,
    candidates: Candidates<'a>,
    idempotent: bool,
    hedged: bool,
    within: Option<Duration>,
}

impl<'a> Ask<'a> {
    /// A request that is sent once, to the less loaded one of two random healthy peers.
    pub fn new(kind: &'a str, payload: &'a [u8]) -> Self {
        Self {
            question: Question::new(kind, payload),
            candidates: Candidates::default(),
            idempotent: false,
            hedged: false,
            within: None,
        }
    }

    /// How to choose among the peers that can be asked.
    pub fn route(mut self, route: Route) -> Self {
        self.candidates.route = route;
        self
    }

    /// Asks only these peers.
    pub fn among(mut self, peers: &'a [PeerId]) -> Self {
        self.candidates.among = Some(peers);
        self
    }

    /// Asks none of these peers.
    pub fn but(mut self, peers: &'a [PeerId]) -> Self {
        self.candidates.but = peers;
        self
    }

    /// Declares that two answers do no harm: the request may be tried again with another peer, within the retry budget.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Asks a second peer as well if the first takes longer than 95 % of answers of this kind. The first answer counts.
    /// Takes from the retry budget. Implies [`Ask::idempotent`].
    pub fn hedged(mut self) -> Self {
        self.hedged = true;
        self.idempotent()
    }

    /// Sends it after everything else. For large transfers.
    pub fn bulk(mut self) -> Self {
        self.question.priority = Priority::Bulk;
        self
    }

    /// What to do while the peer's send queue or the byte budget is full. Default: [`WhenFull::Fail`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.question.when_full = when_full;
        self
    }

    /// Time limit for all attempts together, including the waits in between. Default: twice the longest time of one
    /// attempt.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// The largest answer. A larger one is an error and costs the peer health.
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.question.most = bytes;
        self
    }
}

/// An answer and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The peer whose answer counts.
    pub from: PeerId,
    /// What the peer's handler returned; untrusted, at most [`Ask::at_most`] bytes.
    pub payload: Bytes,
    /// Number of peers that were asked, including this one.
    pub asked: u32,
    /// From the call to the answer, including retries and the waits before them.
    pub took: Duration,
}

/// Requests that may go to several peers, one after the other or two at once.
pub(crate) struct RoutedRequests {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) requests: Requests,
    pub(crate) turns: Balancer,
    retries: RetryBudget,
}

impl RoutedRequests {
    pub(crate) fn new(
        node: Arc<LocalNode>,
        roster: Arc<Roster>,
        traffic: Arc<Traffic>,
        turns_seed: u64,
    ) -> Self {
        let requests = Requests::new(node.clone(), traffic.clone());
        let (turns, retries) = (Balancer::new(turns_seed), RetryBudget::default());
        Self { node, roster, traffic, requests, turns, retries }
    }

    /// The peer that would be asked now.
    pub(crate) fn choose(&self, ask: &Ask<'_>) -> Option<PeerId> {
        let kind = self.requests.kinds.of(ask.question.name);
        self.route(&ask.candidates, &kind, &[], |conn| conn.peer)
    }

    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, AskError> {
        let name = ask.question.name;
        check_kind(name).map_err(AskError::Bad)?;
        let kind = &self.requests.kinds.of(name);
        let most = self.traffic.tuning.timeout_of(name);
        let retry_settings = self.traffic.tuning.get().retry;
        let began = Instant::now();
        let end = began + ask.within.unwrap_or(2 * if most.adaptive { most.most } else { most.base });
        let retries = if ask.idempotent { retry_settings.most } else { 0 };
        self.retries.earn(&retry_settings);
        let mut asked = Vec::new();
        let mut last = None;
        for retry in 0..=retries {
            let Some(conn) = self.route(&ask.candidates, kind, &asked, Arc::clone) else { break };
            if retry > 0 {
                if !self.retries.spend() {
                    break;
                }
                self.traffic.counters.retried.fetch_add(1, Relaxed);
                let wait = retry_settings.wait(retry - 1, self.turns.random());
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

    /// One attempt. With hedging, a second one runs beside it when the first takes longer than most.
    async fn one_or_two(
        &self,
        ask: &Ask<'_>,
        kind: &Arc<RequestKind>,
        conn: Arc<Conn>,
        end: Instant,
        asked: &mut Vec<PeerId>,
    ) -> Result<(PeerId, Bytes), RequestError> {
        asked.push(conn.peer);
        let first = self.one(ask, kind, Arc::clone(&conn), end);
        let p95 = if ask.hedged { kind.p95() } else { None };
        let Some(p95) = p95 else { return first.await };
        let mut first = std::pin::pin!(first);
        if let Ok(answer) = tokio::time::timeout(p95, &mut first).await {
            return answer;
        }
        let Some(other) =
            self.route(&ask.candidates, kind, asked, Arc::clone).filter(|_| self.retries.spend())
        else {
            return first.await;
        };
        self.traffic.counters.hedged.fetch_add(1, Relaxed);
        asked.push(other.peer);
        let mut second = std::pin::pin!(self.one(ask, kind, other, end));
        // The first answer counts. If one attempt fails, the other continues.
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
        kind: &Arc<RequestKind>,
        conn: Arc<Conn>,
        end: Instant,
    ) -> Result<(PeerId, Bytes), RequestError> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = self.requests.timeout(&conn, kind).min(left);
        let payload = self.requests.ask_once(&conn, kind, ask.question, timeout).await?;
        Ok((conn.peer, payload))
    }
}
