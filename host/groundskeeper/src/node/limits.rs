//! Converts sections of the config to the settings of state and network. Chooses no number.

use super::NodeLimits;
use crate::book::BookLimits;
use crate::config::Config;
use crate::net::NetConfig;

pub(super) fn node_limits(config: &Config) -> NodeLimits {
    let Config { pool, book, broadcasts, journal, net, .. } = config;
    NodeLimits {
        pool: pool.limits(net.allow_private),
        book: BookLimits { allow_private: net.allow_private, ..*book },
        broadcasts: *broadcasts,
        journal: journal.limits(),
    }
}

pub(super) fn net_config(config: &Config, agent: Option<String>) -> NetConfig {
    let usual = NetConfig::of(config.net.clone());
    NetConfig {
        network: config.node.network.clone(),
        agent: agent.unwrap_or_else(|| usual.agent.clone()),
        performance: config.performance.clone(),
        healthy_above: config.pool.healthy_above(),
        ..usual
    }
}
