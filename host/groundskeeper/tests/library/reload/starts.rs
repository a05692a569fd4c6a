//! A node that never gets through its first ticks: it starts with less and less of the folder, and says so.

use std::fs;

use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{ScanKind, StartFrom};

use super::folder::Room;

/// A start that counts itself, as a node's does.
fn start(room: Room) -> (Room, StartFrom) {
    let from = StartFrom::after(room.process.folder.note_start());
    (room.start_anew(from), from)
}

/// "alpha" has had two good generations, "beta" one.
fn room() -> Room {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("phases.d")).unwrap();
    let mut room = Room::on(home);
    room.put("alpha", 1, "good", "");
    room.put("beta", 1, "good", "");
    room.rest();
    room.beats(4, "alpha");
    room.put("alpha", 2, "good", "");
    room.rest();
    room.beats(4, "alpha");
    assert_eq!(room.phase("alpha").state, PhaseState::Active);
    room.process.folder.note_far();
    room
}

#[test]
fn starts_that_do_not_come_far_take_less_of_the_folder() {
    let mut room = room();
    let count = room.memory("alpha").1;
    for n in 0..3 {
        let from;
        (room, from) = start(room);
        assert_eq!((from, room.runs("alpha")), (StartFrom::Folder, Some(2)), "start {n}");
    }
    for n in 3..6 {
        let from;
        (room, from) = start(room);
        assert_eq!(from, StartFrom::Former, "start {n}");
        assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(1), Some(1)), "start {n}");
        // With what it had kept when the newer one came, and the reason where it is looked for.
        assert_eq!(room.memory("alpha"), (1, 4), "start {n}, of {count}");
        let candidate = room.phase("alpha").candidate.expect("it is shown");
        assert!(
            candidate.why.contains("did not get through its first ticks"),
            "start {n}: {}",
            candidate.why
        );
    }
    for n in 6..8 {
        let from;
        (room, from) = start(room);
        assert_eq!(from, StartFrom::Nothing, "start {n}");
        for name in ["alpha", "beta"] {
            assert_eq!(room.runs(name), None, "start {n}");
            let phase = room.phase(name);
            assert_eq!(phase.state, PhaseState::Rejected, "start {n}");
            let why = phase.last_error.expect("it is shown");
            assert!(why.contains("the last starts failed early") && why.contains("reload"), "{why}");
        }
    }
    // No look brings them back by itself: not the next one, and not that which reads everything.
    room.rest();
    room.process.step(ScanKind::Thorough);
    room.beats(2, "alpha");
    assert_eq!((room.runs("alpha"), room.runs("beta")), (None, None));
    // An order does: each runs what was good last.
    room.process.step(ScanKind::Ordered);
    assert_eq!((room.runs("alpha"), room.runs("beta")), (Some(1), Some(1)), "{:?}", room.process.phases());
    assert_eq!(room.memory("alpha"), (1, 4));
    room.beats(2, "alpha");
    room.process.folder.note_far();
    // And a start that came far is the end of it.
    let (mut room, from) = start(room);
    assert_eq!((from, room.runs("alpha")), (StartFrom::Folder, Some(1)));
    room.put("alpha", 3, "good", "");
    room.rest();
    assert_eq!(room.runs("alpha"), Some(3));
}

#[test]
fn other_bytes_run_whatever_happened_before() {
    let mut room = room();
    for _ in 0..7 {
        room = start(room).0;
    }
    assert_eq!((room.runs("alpha"), room.runs("beta")), (None, None));
    room.put("beta", 2, "good", "");
    room.rest();
    assert_eq!((room.runs("alpha"), room.runs("beta")), (None, Some(2)));
}

#[test]
fn a_stop_in_good_order_is_no_crash() {
    let mut room = room();
    for n in 0..10 {
        let from;
        (room, from) = start(room);
        assert_eq!(from, StartFrom::Folder, "start {n}");
        room.process.folder.note_far();
    }
    // A count that cannot be kept counts nothing, and a damaged one begins anew.
    fs::write(room.home.path().join("data/starts.gk"), b"damaged").unwrap();
    let (room, from) = start(room);
    assert_eq!((from, room.runs("alpha")), (StartFrom::Folder, Some(2)));
}
