//! The config's `[performance]` as the network takes it. Chooses no number by itself.

use crate::config::{Config, Performance, TimeoutConfig};
use crate::flow::{BreakerSettings, RetrySettings, TimeoutSettings};
use crate::net::Tuning;

/// The config's numbers for traffic.
pub(super) fn tuning(config: &Config) -> Tuning {
    let Performance { backpressure, circuit_breaker, retry, timeouts } = &config.performance;
    let timeout = |of: &TimeoutConfig| TimeoutSettings {
        base: of.base,
        least: of.least,
        most: of.most,
        adaptive: of.adaptive,
    };
    Tuning {
        budget: usize::try_from(backpressure.queue_budget).unwrap_or(usize::MAX),
        pressure: backpressure.memory_pressure_threshold,
        max_pending: backpressure.max_pending as usize,
        priorities: backpressure.enable_priority,
        healthy_above: config.pool.healthy_above,
        breaker: BreakerSettings {
            failures: circuit_breaker.failure_threshold,
            error_rate: circuit_breaker.error_rate,
            window: circuit_breaker.window,
            open_for: circuit_breaker.timeout,
            successes: circuit_breaker.success_threshold,
        },
        retry: RetrySettings {
            most: retry.max_retries,
            first_wait: retry.first_wait,
            longest_wait: retry.longest_wait,
            budget: retry.budget,
        },
        timeout: timeout(&timeouts.usual),
        timeouts: timeouts.by_kind.iter().map(|(kind, of)| (kind.clone(), timeout(of))).collect(),
    }
}
