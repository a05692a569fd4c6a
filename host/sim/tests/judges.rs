//! The judges find what must not be: without this, a simulation in which nothing is wrong says little.

use groundskeeper_sim::{Sabotage, run_sabotaged};

fn is_found(sabotage: Sabotage, all: &[&str]) {
    let found = run_sabotaged(1, sabotage).complaints;
    for words in all {
        assert!(found.iter().any(|complaint| complaint.contains(words)), "{words:?} is not told: {found:#?}");
    }
}

#[test]
fn a_slot_that_nobody_owns_is_found() {
    is_found(Sabotage::SlotLeaked, &["slots are taken", "after the shutdown 0 tasks are left"]);
}

#[test]
fn a_host_that_is_alone_and_a_mesh_in_two_pieces_are_found() {
    is_found(Sabotage::CutOff, &["host 9 is alone", "the mesh has not healed"]);
}

#[test]
fn an_address_that_was_saved_and_is_gone_after_a_restart_is_found() {
    is_found(Sabotage::DiskEmptied, &["was saved, and a restart has lost it"]);
}

#[test]
fn a_panic_in_a_task_is_found() {
    is_found(Sabotage::Panic, &["something panicked"]);
}
