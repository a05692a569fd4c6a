//! Reports percentiles of the connections as metrics. Asks for nothing, so it needs only grants to read and to report.

#![forbid(unsafe_code)]

use groundskeeper_sdk::column::{Column, Unit};
use groundskeeper_sdk::prelude::*;

/// Sets one gauge per percentile of idle time, round trip, health and age: `idle_s_p50`, `rtt_us_p99`.
///
/// A mean hides the tail, and the tail hurts a node. Uses the nearest rank, so every value is that of some peer. Skips
/// values that are not known; a column without known values sets nothing. Reads four columns, O(peers) each.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", default, deny_unknown_fields)]
pub struct Stats {
    /// Which percentiles; 1 to 4 of them, each 0 to 100. A run may have 16 metric names, and there are four columns.
    pub percentiles: Vec<u32>,
}

impl Default for Stats {
    fn default() -> Self {
        Stats { percentiles: vec![50, 90, 99] }
    }
}

impl Stats {
    fn report<U: Unit>(&self, view: &View, plan: &mut Plan, name: &str, column: Column<Peer, U>) {
        let mut values = view.column(column).into_owned();
        values.retain(|value| *value != UNKNOWN);
        for percent in &self.percentiles {
            if let Some(value) = percentile(&mut values, *percent) {
                plan.metric_set(&format!("{name}_p{percent}"), value.into());
            }
        }
    }
}

/// The smallest value that at least `percent` of all values do not exceed; the smallest of all for 0. O(n); changes the
/// order of `values`.
fn percentile(values: &mut [u32], percent: u32) -> Option<u32> {
    let rank = (values.len() as u64 * u64::from(percent)).div_ceil(100).max(1) as usize;
    (rank <= values.len()).then(|| *values.select_nth_unstable(rank - 1).1)
}

impl Phase for Stats {
    const SUMMARY: &'static str = "reports percentiles of idle time, round trip, health and age";

    fn check(&self) -> Result<(), String> {
        within("percentiles: how many", self.percentiles.len(), 1..=4)?;
        self.percentiles.iter().try_for_each(|percent| within("percentiles", *percent, 0..=100))
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        self.report(view, plan, "idle_s", peer::IDLE);
        self.report(view, plan, "rtt_us", peer::RTT);
        self.report(view, plan, "health", peer::HEALTH);
        self.report(view, plan, "age_s", peer::AGE);
        Ok(())
    }
}

groundskeeper_sdk::export!(Stats);

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::host::MetricChange;
    use groundskeeper_sdk::testing::world;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_percentile_is_one_gauge() {
        let world = (1..=10u64).fold(world(), |world, n| {
            world.peer(|p| {
                p.with(peer::IDLE, Span::secs(n)).unknown(peer::RTT);
            })
        });
        let parts = world.plan(&Stats { percentiles: vec![0, 50, 99] }).unwrap();
        assert!(parts.asks.is_empty());
        let metrics: Vec<_> = parts.metrics.iter().map(|m| (m.name.as_str(), m.change)).collect();
        let set = |name, value| (name, MetricChange::Set(value));
        assert_eq!(metrics[..3], [set("idle_s_p0", 1.0), set("idle_s_p50", 5.0), set("idle_s_p99", 10.0)]);
        assert_eq!(metrics[3], set("health_p0", 100.0), "nobody's round trip is known");
        assert_eq!(metrics.len(), 9);
    }

    #[test]
    fn a_node_without_peers_reports_nothing() {
        assert!(world().plan(&Stats::default()).unwrap().metrics.is_empty());
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let check = |percentiles| Stats { percentiles }.check().unwrap_err();
        assert_eq!(check(vec![101]), "percentiles = 101 is out of range: 0 to 100");
        assert_eq!(check(vec![]), "percentiles: how many = 0 is out of range: 1 to 4");
        Stats { percentiles: vec![0, 50, 90, 100] }.check().unwrap();
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_nearest_rank(mut values in prop::collection::vec(0u32..50, 1..40), percent in 0u32..=100) {
            let found = percentile(&mut values, percent).unwrap();
            let share = |count: usize| count as f64 / values.len() as f64;
            let needed = f64::from(percent) / 100.0 - 1e-9;
            prop_assert!(share(values.iter().filter(|value| **value <= found).count()) >= needed);
            prop_assert!(share(values.iter().filter(|value| **value < found).count()) < needed.max(1e-9));
        }
    }
}
