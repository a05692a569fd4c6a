//! A host that packets did not reach is connected again within 5 s, in whatever moment of its dialling they do.

use std::time::Duration;

use groundskeeper_sim::recovery;

/// The fewer it knows, the less often one of its dials is at the right moment.
#[test]
fn a_host_behind_a_black_hole_is_back_within_5_seconds_of_its_end() {
    for others in [1, 2, 3] {
        let took = |moment: u64| {
            let took = recovery(moment, others, Duration::from_millis(moment * 250));
            (took > Duration::from_secs(5)).then(|| format!("{:.2} s: {took:?}", moment as f64 / 4.0))
        };
        let late: Vec<String> = (0..60).filter_map(took).collect();
        assert!(
            late.is_empty(),
            "knowing {others}, too late if it ends after so many more seconds: {late:#?}"
        );
    }
}
