//! A peer that stops reading costs the others not one millisecond.

use groundskeeper_sim::{Kind, deliveries};

#[test]
fn one_stopped_peer_among_many_delays_nobody() {
    for seed in 0..2 {
        let (with, full) = deliveries(seed, Kind::Stopped);
        assert!(full > 50, "its queue at the sender was full {full} times");
        assert_eq!(with.len(), 8 * 200, "eight hosts get two hundred broadcasts");
        let (reading, none_full) = deliveries(seed, Kind::Reads);
        assert_eq!((none_full, with == reading), (0, true), "seed {seed}: it matters whether it reads");
        let (absent, _) = deliveries(seed, Kind::Absent);
        assert!(with == absent, "seed {seed}: it matters whether it is there");
    }
}
