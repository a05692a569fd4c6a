//! Converts sections of the config to the settings of state and network. Chooses no number.

use super::NodeLimits;
use crate::book::BookLimits;
use crate::config::{Config, PoolSettings};
use crate::descriptors::DescriptorLimit;
use crate::net::NetConfig;

/// `pool` with no more connections than there are descriptors for.
pub(super) fn within_descriptors(pool: &PoolSettings, limit: DescriptorLimit) -> PoolSettings {
    let most = pool.max_connections.min(limit.for_peers());
    PoolSettings {
        max_connections: most,
        max_inbound: pool.max_inbound.map(|inbound| inbound.min(most)),
        max_outbound: pool.max_outbound.map(|outbound| outbound.min(most)),
        most: pool.most.map(|wanted| wanted.min(most)),
        ..*pool
    }
}

/// Says that the limit of open files, and not the config, decides how many connections there are.
pub(super) fn warn_of_few_descriptors(pool: &PoolSettings, limit: DescriptorLimit) {
    let (wanted, connections) = (pool.max_connections, limit.for_peers());
    if wanted > connections {
        let (limit, reserve) = (limit.get(), limit.reserve());
        tracing::warn!(
            wanted,
            connections,
            limit,
            reserve,
            "the limit of open files ({limit}) leaves room for {connections} connections and not for \
             pool.max_connections = {wanted}; raise it (systemd: LimitNOFILE=, shell: ulimit -n) or lower \
             pool.max_connections"
        );
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors;

    #[test]
    fn a_small_limit_of_descriptors_lowers_every_limit_of_the_pool_and_a_large_one_none() {
        let limit = descriptors::limit();
        let wanted = PoolSettings {
            max_connections: limit.for_peers() + 1000,
            max_inbound: Some(limit.for_peers() + 500),
            most: Some(10),
            ..PoolSettings::default()
        };
        let held = within_descriptors(&wanted, limit);
        assert_eq!(held.max_connections, limit.for_peers());
        assert_eq!(
            (held.max_inbound, held.max_outbound, held.most),
            (Some(limit.for_peers()), None, Some(10))
        );
        let small = PoolSettings { max_connections: 1, ..PoolSettings::default() };
        assert_eq!(within_descriptors(&small, limit), small);
    }
}
