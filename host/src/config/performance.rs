//! `[performance]`: queues, breakers, retries and time-outs. Checks what its keys say to each other; ranges stand with the
//! others.

use std::collections::BTreeMap;
use std::time::Duration;

use groundskeeper_sdk::span::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounds::{self, BOUNDS};
use super::bytes::Bytes;
use super::document::Document;

/// The table whose numbers hold for request kinds that have none of their own.
const DEFAULT: &str = "default";

/// Kinds that may have a table of their own.
const MOST_KINDS: usize = 64;

/// Bytes of a request kind's name.
const MOST_NAME: usize = 64;

/// How the node behaves under load.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    /// Always true: there is no other way to run. The key is there for configs that have it.
    pub enable_lock_free: bool,
    pub backpressure: Backpressure,
    pub circuit_breaker: CircuitBreaker,
    pub retry: Retry,
    /// By kind of request; "default" holds for all others.
    pub timeouts: BTreeMap<String, Timeout>,
}

/// What bounds requests and send queues.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Backpressure {
    /// Requests of this node that may be open at once, over all peers.
    pub max_pending: u32,
    /// Requests overtake broadcasts, broadcasts overtake bulk. Off: in the order in which they come.
    pub enable_priority: bool,
    /// The fraction of queue_budget from which on bulk frames are refused and dropped, and soon broadcasts.
    pub memory_pressure_threshold: f64,
    /// Bytes that all send queues together may hold.
    #[schemars(with = "String")]
    pub queue_budget: Bytes,
}

/// When requests to a peer that fails them are stopped, by peer and kind of request.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CircuitBreaker {
    /// Failures that open it: in a row, or within the window if there is an error_rate.
    pub failure_threshold: u32,
    /// How long it is open before one request is tried; doubled each time that fails, up to sixteenfold.
    #[schemars(with = "String")]
    pub timeout: Span,
    /// Tries that must succeed in a row to close it.
    pub success_threshold: u32,
    /// The fraction of requests within the window that must have failed as well. None: failures in a row count.
    pub error_rate: Option<f64>,
    /// How far back requests count for the error_rate.
    #[schemars(with = "String")]
    pub window: Span,
}

/// How often requests that allow it are tried again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// Attempts beyond the first.
    pub max_retries: u32,
    /// The first wait is random up to this, each further one up to twice the last.
    #[schemars(with = "String")]
    pub first_wait: Span,
    /// No wait is longer. At least first_wait.
    #[schemars(with = "String")]
    pub longest_wait: Span,
    /// Retries that each request earns for all: 0.2 allows one for each five requests.
    pub budget: f64,
}

/// How long to wait for an answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeout {
    /// What is waited while nothing is known of how long answers take, and always without enable_adaptive.
    #[schemars(with = "String")]
    pub base_timeout: Span,
    /// No time-out is shorter. Default: base_timeout.
    #[schemars(with = "Option<String>")]
    pub min_timeout: Option<Span>,
    /// No time-out is longer. At least base_timeout.
    #[schemars(with = "String")]
    pub max_timeout: Span,
    /// Follows measured answers: their smoothed time and four times what they vary by.
    pub enable_adaptive: bool,
}

impl Default for Raw {
    fn default() -> Self {
        let usual = Timeout { min_timeout: Some(Span::millis(250)), ..Timeout::default() };
        Self {
            enable_lock_free: true,
            backpressure: Backpressure::default(),
            circuit_breaker: CircuitBreaker::default(),
            retry: Retry::default(),
            timeouts: [(DEFAULT.to_owned(), usual)].into(),
        }
    }
}

impl Default for Backpressure {
    fn default() -> Self {
        Self {
            max_pending: 10_000,
            enable_priority: true,
            memory_pressure_threshold: 0.8,
            queue_budget: Bytes::mib(64),
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            timeout: Span::secs(5),
            success_threshold: 2,
            error_rate: None,
            window: Span::secs(10),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_retries: 2, first_wait: Span::millis(50), longest_wait: Span::secs(2), budget: 0.2 }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self {
            base_timeout: Span::secs(10),
            min_timeout: None,
            max_timeout: Span::secs(30),
            enable_adaptive: true,
        }
    }
}

/// How the node behaves under load.
#[derive(Clone, PartialEq, Debug)]
pub struct Performance {
    pub backpressure: BackpressureConfig,
    pub circuit_breaker: BreakerConfig,
    pub retry: RetryConfig,
    pub timeouts: TimeoutsConfig,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BackpressureConfig {
    pub max_pending: u32,
    pub enable_priority: bool,
    /// 0.1 to 1.
    pub memory_pressure_threshold: f64,
    /// Bytes.
    pub queue_budget: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeoutsConfig {
    /// For request kinds that have none of their own.
    pub usual: TimeoutConfig,
    pub by_kind: BTreeMap<String, TimeoutConfig>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BreakerConfig {
    pub failure_threshold: u32,
    pub timeout: Duration,
    pub success_threshold: u32,
    /// 0.01 to 1.
    pub error_rate: Option<f64>,
    pub window: Duration,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryConfig {
    pub max_retries: u32,
    pub first_wait: Duration,
    /// At least `first_wait`.
    pub longest_wait: Duration,
    /// 0 to 1.
    pub budget: f64,
}

/// `least <= base <= most`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutConfig {
    pub base: Duration,
    pub least: Duration,
    pub most: Duration,
    pub adaptive: bool,
}

/// Reads the section as it is written.
pub(super) fn read(from: &mut Document<'_>) -> Raw {
    let parts = ["backpressure", "circuit_breaker", "retry", "timeouts"];
    let Raw { enable_lock_free, mut timeouts, .. } = from.section(&["performance"], &parts);
    let path = ["performance", "timeouts"];
    for kind in from.names(&path) {
        let timeout = from.section::<Timeout>(&["performance", "timeouts", &kind], &[]);
        timeouts.insert(kind, timeout);
    }
    Raw {
        enable_lock_free,
        backpressure: from.section(&["performance", "backpressure"], &[]),
        circuit_breaker: from.section(&["performance", "circuit_breaker"], &[]),
        retry: from.section(&["performance", "retry"], &[]),
        timeouts,
    }
}

/// What is wrong with the section beyond ranges: key and message.
pub(super) fn problems(raw: &Raw) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !raw.enable_lock_free {
        let words = "there is no other way to run: marking peers, choosing whom to ask and counting take no lock; leave the key out";
        found.push(("performance.enable_lock_free".to_owned(), words.to_owned()));
    }
    let Retry { first_wait, longest_wait, .. } = raw.retry;
    if first_wait > longest_wait {
        let words = format!("first_wait = {first_wait} is above longest_wait = {longest_wait}");
        found.push(("performance.retry.first_wait".to_owned(), words));
    }
    if raw.timeouts.len() > MOST_KINDS {
        let words = format!("{} kinds have time-outs of their own; {MOST_KINDS} may", raw.timeouts.len());
        found.push(("performance.timeouts".to_owned(), words));
    }
    for (kind, timeout) in &raw.timeouts {
        let at = |key: &str| format!("performance.timeouts.{kind}.{key}");
        let Timeout { base_timeout, min_timeout, max_timeout, .. } = timeout;
        if kind.is_empty() || kind.len() > MOST_NAME {
            let words = format!("request kind {kind:?} is not 1 to {MOST_NAME} bytes long");
            found.push((format!("performance.timeouts.{kind}"), words));
        }
        if base_timeout > max_timeout {
            let words = format!("base_timeout = {base_timeout} is above max_timeout = {max_timeout}");
            found.push((at("base_timeout"), words));
        }
        if let Some(least) = min_timeout.filter(|least| least > base_timeout) {
            let words = format!("min_timeout = {least} is above base_timeout = {base_timeout}");
            found.push((at("min_timeout"), words));
        }
        if kind != DEFAULT {
            // The ranges are those of the table that all others stand in for.
            let as_default = serde_json::json!({ "performance": { "timeouts": { DEFAULT: timeout } } });
            for (key, value, bound) in bounds::outside(&BOUNDS, &as_default) {
                let key = key.rsplit('.').next().unwrap_or(key);
                found.push((at(key), format!("{value} is out of range: {bound}")));
            }
        }
    }
    found
}

pub(super) fn resolve(raw: Raw) -> Performance {
    let Raw { backpressure, circuit_breaker, retry, mut timeouts, .. } = raw;
    let usual = timeouts.remove(DEFAULT).unwrap_or_default();
    let floor = Span::millis(250).min(usual.base_timeout);
    let usual = Timeout { min_timeout: usual.min_timeout.or(Some(floor)), ..usual };
    let resolved = |timeout: Timeout| TimeoutConfig {
        base: timeout.base_timeout.into(),
        least: timeout.min_timeout.unwrap_or(timeout.base_timeout).into(),
        most: timeout.max_timeout.into(),
        adaptive: timeout.enable_adaptive,
    };
    Performance {
        backpressure: BackpressureConfig {
            max_pending: backpressure.max_pending,
            enable_priority: backpressure.enable_priority,
            memory_pressure_threshold: backpressure.memory_pressure_threshold,
            queue_budget: backpressure.queue_budget.0,
        },
        circuit_breaker: BreakerConfig {
            failure_threshold: circuit_breaker.failure_threshold,
            timeout: circuit_breaker.timeout.into(),
            success_threshold: circuit_breaker.success_threshold,
            error_rate: circuit_breaker.error_rate,
            window: circuit_breaker.window.into(),
        },
        retry: RetryConfig {
            max_retries: retry.max_retries,
            first_wait: retry.first_wait.into(),
            longest_wait: retry.longest_wait.into(),
            budget: retry.budget,
        },
        timeouts: TimeoutsConfig {
            usual: resolved(usual),
            by_kind: timeouts.into_iter().map(|(kind, timeout)| (kind, resolved(timeout))).collect(),
        },
    }
}
