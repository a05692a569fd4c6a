//! Why a request has no answer, and what that says about the peer; why a one-way message was not sent.

use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{AttemptEnd, CallEnd, NotQueued, Pressure};

use super::wire::TooLarge;

/// Requests that may be open at one peer.
pub(crate) const MAX_PENDING: usize = 256;

/// Why a request has no answer.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("not connected to {0}")]
    NotConnected(PeerId),
    #[error("{MAX_PENDING} requests to this peer are open already")]
    TooManyPending,
    #[error("{0} requests are open already, as many as performance.backpressure.max_pending allows")]
    TooManyInAll(usize),
    #[error("the peer recently failed too many requests of kind {0:?}; its breaker is open")]
    BreakerOpen(Arc<str>),
    #[error("request kind {0:?} is not 1 to 64 bytes long")]
    BadKind(String),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error(transparent)]
    NotQueued(#[from] NotQueued),
    #[error(transparent)]
    Pressure(#[from] Pressure),
    #[error("dropped before it was sent: memory was short")]
    Shed,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection ended before the answer came")]
    Disconnected,
    #[error("the peer does not handle this kind of request")]
    NotHandled,
    #[error("the peer is busy with other requests")]
    Busy,
    /// The peer's handler failed. The text is the peer's and untrusted.
    #[error("the peer failed to answer: {0}")]
    Failed(String),
    #[error("an answer of {got} bytes; at most {most} were asked for")]
    TooMuch { got: usize, most: usize },
}

/// Why no peer has answered.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    #[error(
        "no peer can be asked: {live} live, {unhealthy} of them unhealthy, {open} with an open breaker or too many open requests"
    )]
    NoPeerAvailable { live: usize, unhealthy: usize, open: usize },
    #[error("no answer after {asked} attempts; the last one: {last}")]
    NoAnswer { asked: u32, last: RequestError },
    /// The request cannot be sent to any peer: its kind or size is invalid, or too many requests are open.
    #[error(transparent)]
    Bad(RequestError),
}

/// Why a one-way message was not sent.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("not connected to {0}")]
    NotConnected(PeerId),
    #[error("{peer} runs {agent:?}, which knows no one-way messages; send it a request")]
    NotSupported { peer: PeerId, agent: String },
    #[error("message kind {0:?} is not 1 to 64 bytes long")]
    BadKind(String),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error(transparent)]
    NotQueued(#[from] NotQueued),
    #[error(transparent)]
    Pressure(#[from] Pressure),
}

impl RequestError {
    /// What the error says about the peer, for its breaker.
    pub(crate) fn call_end(&self, patient: bool) -> CallEnd {
        match self.attempt_end() {
            AttemptEnd::Failed => CallEnd::Failed,
            // A peer that had less time than it usually takes is not to blame.
            AttemptEnd::TimedOut if patient => CallEnd::Failed,
            _ => CallEnd::Unknown,
        }
    }

    pub(crate) fn attempt_end(&self) -> AttemptEnd {
        match self {
            Self::NotHandled | Self::Failed(_) | Self::TooMuch { .. } => AttemptEnd::Failed,
            Self::Busy => AttemptEnd::Busy,
            Self::TimedOut(_) => AttemptEnd::TimedOut,
            Self::BreakerOpen(_) => AttemptEnd::Refused,
            _ => AttemptEnd::Lost,
        }
    }
}
