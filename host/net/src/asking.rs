//! Requests to any peer that can answer: waits as long as answers of that kind take, and tries again, or twice at once,
//! where that is allowed. Knows no kind by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{Priority, RetryBudget, Route, Turns};
use tokio::time::{Instant, sleep, timeout_at};

use super::conn::Conn;
use super::kinds::RequestKind;
use super::node::Node;
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

/// A request to whoever can answer it.
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
    /// Asks one of two healthy peers drawn at random, the one with fewer open requests, once.
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

    /// Only these.
    pub fn among(mut self, peers: &'a [PeerId]) -> Self {
        self.candidates.among = Some(peers);
        self
    }

    /// None of these.
    pub fn but(mut self, peers: &'a [PeerId]) -> Self {
        self.candidates.but = peers;
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
        self.question.priority = Priority::Bulk;
        self
    }

    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.question.when_full = when_full;
        self
    }

    /// For all attempts together, waits in between included. Without it: twice as long as one attempt may take.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// An answer of more bytes is none, and costs the peer health.
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.question.most = bytes;
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

/// Requests that may go to several peers, one after the other or two at once.
pub(crate) struct RoutedRequests {
    pub(crate) node: Arc<Node>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) requests: Requests,
    pub(crate) turns: Turns,
    retries: RetryBudget,
}

impl RoutedRequests {
    pub(crate) fn new(node: Arc<Node>, roster: Arc<Roster>, traffic: Arc<Traffic>, turns_seed: u64) -> Self {
        let requests = Requests::new(node.clone(), traffic.clone());
        let (turns, retries) = (Turns::new(turns_seed), RetryBudget::default());
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

    /// One attempt, and with hedging a second one beside it when the first takes longer than most.
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
