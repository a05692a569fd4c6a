//! Connections that open and close many times: nothing of the closed ones is left.

use groundskeeper_pool::journal::{Cause, Initiator, JournalLimits};
use groundskeeper_pool::pool::{DisconnectOutcome, Removal};

use super::harness::{Setup, TestNode, alone, descriptors, until};

/// Rounds, unless the environment sets another number. What exists after a fifth of them must still exist at the end.
const ROUNDS: usize = 10_000;

/// The allowed difference of a test node's memory, in KiB, between a fifth of the rounds and all of them: the pages of
/// the allocator vary by this much without any growth. One leaked session a round would be 80,000 KiB.
const SLACK_KIB: usize = 1536;

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn connecting_and_disconnecting_leaves_nothing_behind() {
    if alone("tests::rounds::connecting_and_disconnecting_leaves_nothing_behind") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(rounds());
    }
}

async fn rounds() {
    let rounds = std::env::var("GROUNDSKEEPER_ROUNDS").map_or(ROUNDS, |count| count.parse().unwrap());
    // Rings that fill up early, so that they do not look like growth.
    let journal = JournalLimits { notable: 64, chatter: 64 };
    let node = || Setup { journal, ..Setup::default() }.start();
    let (a, b) = (node(), node());
    let mut early = None;
    for round in 1..=rounds {
        a.connect(&b).await;
        let (ending, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        end(ending, other).await;
        if round == rounds / 5 {
            early = Some((descriptors(), resident_kib(), (a.net.tasks(), b.net.tasks())));
        }
    }
    let (descriptors_early, kib_early, tasks_early) = early.unwrap();
    until("descriptors are as before", || descriptors() == descriptors_early).await;
    until("tasks are as before", || (a.net.tasks(), b.net.tasks()) == tasks_early).await;
    let kib = resident_kib();
    println!("{kib_early} KiB after {} rounds, {kib} KiB after {rounds}", rounds / 5);
    assert!(kib <= kib_early + SLACK_KIB, "{kib_early} KiB early, {kib} KiB at the end");
    assert_eq!((a.pool.removals(), b.pool.removals()), (rounds as u64, rounds as u64));
}

async fn end(ending: &TestNode, other: &TestNode) {
    let key = ending.pool.find(&other.id()).unwrap();
    let removal = Removal::new(Initiator::Application, Cause::Phase, "the round is over");
    assert_eq!(ending.pool.disconnect(key, removal, None), DisconnectOutcome::Closed);
    ending.is_empty_again().await;
    other.is_empty_again().await;
}
