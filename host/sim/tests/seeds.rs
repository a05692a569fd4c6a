//! Two hundred seeds of ten hosts and ten minutes each, and whether a seed does the same twice.

use groundskeeper_sim::{HOSTS, LENGTH, Tell, run, run_all};

/// What one run of all tests goes through; more with `cargo xtask sim --seeds N`.
const SEEDS: u64 = 200;

#[test]
fn two_hundred_seeds_hold_every_invariant() {
    let ended = run_all(0..SEEDS, |_| {});
    assert!(ended.failed.is_empty(), "\n{}", ended.failed.join("\n"));
    // A run in which nothing happens proves nothing.
    let sum = ended.sum;
    let ticks = SEEDS * (HOSTS as u64) * LENGTH.as_secs() / 30;
    assert!(sum.beats > ticks * 8 / 10 && sum.checks > ticks * 20, "{sum:#?}");
    assert!(sum.faults > 5 * SEEDS && sum.processes > HOSTS as u64 * SEEDS + SEEDS, "{sum:#?}");
    assert!(sum.isolations > HOSTS as u64 * SEEDS && sum.disconnects > 50 * SEEDS, "{sum:#?}");
    assert!(sum.delivered > 1000 * SEEDS && sum.queue_full > SEEDS, "{sum:#?}");
    assert!(sum.saved > 50 * SEEDS && sum.unsaved > 5 * SEEDS, "{sum:#?}");
    assert!(sum.answered > 50 * SEEDS && sum.unanswered > SEEDS, "{sum:#?}");
}

#[test]
fn a_seed_does_the_same_twice_and_another_one_does_not() {
    let mut hashes = Vec::new();
    for seed in [0, 1, 2, 3, 27] {
        let once = run(seed, true, Tell::Nothing).hash.unwrap();
        assert_eq!(once, run(seed, true, Tell::Nothing).hash.unwrap(), "seed {seed}");
        hashes.push(once);
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}
