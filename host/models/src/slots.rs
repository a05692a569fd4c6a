//! The slot's state word: what must hold whatever the order. Each model runs two or three threads over one word.

use super::check::{Arc, AtomicU32, Ordering::Relaxed, model, thread};
use super::tag::{State, Tag, TagValue};

/// The connection whose end is contested, and the one that takes its slot afterwards.
const OLD: u32 = 7;
const NEW: u32 = 8;

const HEALTH: u8 = 60;

fn live(conn: u32) -> Tag {
    let tag = Tag::new(TagValue::handshaking(conn, true, HEALTH));
    assert!(tag.go_live(conn));
    tag
}

#[test]
fn of_two_closers_exactly_one_wins() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let closers = [0, 1].map(|_| {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.close(OLD))
        });
        let ends = closers.map(|closer| closer.join().unwrap());
        assert_eq!(ends.iter().flatten().count(), 1);
        assert!(
            ends.iter().flatten().all(|word| word.is_live() && word.conn() == OLD && word.health() == HEALTH)
        );
        assert_eq!((tag.load().state(), tag.load().conn()), (State::Closing, OLD));
    });
}

#[test]
fn a_stale_closer_never_closes_the_next_tenant() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let stale = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.close(OLD))
        };
        // The owner: its connection ends, it frees the slot, another connection moves in.
        let by_owner = tag.close(OLD);
        tag.set(TagValue::vacant(u32::MAX));
        tag.set(TagValue::handshaking(NEW, false, HEALTH));
        assert!(tag.go_live(NEW));
        let by_stale = stale.join().unwrap();
        assert!(by_owner.is_some() != by_stale.is_some(), "one of them closed the old connection");
        assert_eq!((tag.load().state(), tag.load().conn()), (State::Live, NEW));
    });
}

#[test]
fn stale_helpers_leave_the_next_tenant_as_it_is() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let stale = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || {
                tag.adjust_health(OLD, -50, 0);
                tag.set_protected(OLD, true);
            })
        };
        tag.close(OLD);
        tag.set(TagValue::handshaking(NEW, false, HEALTH));
        assert!(tag.go_live(NEW));
        stale.join().unwrap();
        let word = tag.load();
        assert_eq!(
            (word.conn(), word.health(), word.protected(), word.is_live()),
            (NEW, HEALTH, false, true)
        );
    });
}

#[test]
fn health_moves_before_the_end_or_not_at_all() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let judge = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.adjust_health(OLD, -20, 0))
        };
        let closed = tag.close(OLD).expect("nobody else closes it");
        let moved = judge.join().unwrap();
        match moved {
            Some((before, after)) => {
                assert_eq!((before, after, closed.health()), (HEALTH, HEALTH - 20, HEALTH - 20));
            }
            None => assert_eq!(closed.health(), HEALTH),
        }
        assert_eq!(tag.load().health(), closed.health());
    });
}

#[test]
fn no_change_of_one_fact_loses_a_change_of_another() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let owner = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.set_pings_lost(OLD, 2))
        };
        let judge = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.adjust_health(OLD, -5, 0))
        };
        assert!(tag.set_protected(OLD, true));
        owner.join().unwrap();
        judge.join().unwrap();
        let word = tag.load();
        assert_eq!((word.pings_lost(), word.health(), word.protected()), (2, HEALTH - 5, true));
        assert!(word.is_live() && word.inbound() && word.conn() == OLD);
    });
}

#[test]
fn two_judges_of_health_both_count() {
    model(|| {
        let tag = Arc::new(live(OLD));
        let other = {
            let tag = Arc::clone(&tag);
            thread::spawn(move || tag.adjust_health(OLD, -20, 0))
        };
        tag.adjust_health(OLD, -30, 0);
        other.join().unwrap();
        assert_eq!(tag.load().health(), HEALTH - 50);
    });
}

#[test]
fn who_sees_live_sees_the_columns_written_before() {
    model(|| {
        let tag = Arc::new(Tag::new(TagValue::handshaking(OLD, true, HEALTH)));
        let last_seen = Arc::new(AtomicU32::new(0));
        let reader = {
            let (tag, last_seen) = (Arc::clone(&tag), Arc::clone(&last_seen));
            thread::spawn(move || {
                if tag.load().is_live() {
                    assert_eq!(last_seen.load(Relaxed), 42);
                }
            })
        };
        last_seen.store(42, Relaxed);
        assert!(tag.go_live(OLD));
        reader.join().unwrap();
    });
}
