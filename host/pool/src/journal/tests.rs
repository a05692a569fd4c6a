use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use groundskeeper_base::clock::TokioClock;
use proptest::prelude::*;

use super::*;

fn journal(limits: JournalLimits) -> Arc<Journal> {
    Journal::new(TokioClock::starting_at(Duration::from_secs(1_700_000_000)), limits, None)
}

fn peer(n: u16) -> PeerId {
    let [a, b] = n.to_be_bytes();
    PeerId::from_bytes(std::array::from_fn(|at| if at == 0 { a } else { b }))
}

fn at(network: u8, n: u16) -> Option<SocketAddr> {
    let [a, b] = n.to_be_bytes();
    Some((Ipv4Addr::new(network, 0, a, b), 7420).into())
}

fn disconnect(n: u16) -> NewRecord {
    NewRecord {
        peer: Some(peer(n)),
        address: at(10, n),
        cause: Some(Cause::RemoteClosed),
        ..NewRecord::new(Initiator::Remote, ActionKind::Disconnect, "closed")
    }
}

fn by_phase(name: &str) -> Initiator {
    Initiator::Phase { name: name.into(), version: "1".into() }
}

#[tokio::test(start_paused = true)]
async fn chatter_never_pushes_out_an_explanation() {
    let journal = journal(JournalLimits { notable: 16, chatter: 8 });
    journal.record(disconnect(1));
    for _ in 0..100 {
        journal.record(NewRecord::new(Initiator::Host, ActionKind::Ping, "keep-alive"));
    }
    assert_eq!(journal.explain(&peer(1)).len(), 1);
    assert_eq!(journal.held(), (1, 4));
    assert_eq!(journal.select(2, |_| true).iter().map(|r| r.seq).collect::<Vec<_>>(), [100, 101]);
    let others = journal.rooms().into_iter().find(|room| room.name == "others").unwrap();
    assert_eq!((others.held, others.most, others.overwritten), (4, 4, 96));
}

#[tokio::test(start_paused = true)]
async fn totals_outlive_the_room() {
    let journal = journal(JournalLimits { notable: 8, chatter: 2 });
    (0..10).for_each(|i| _ = journal.record(disconnect(i)));
    assert_eq!((journal.disconnects(), journal.disconnects_by(Cause::RemoteClosed)), (10, 10));
    assert_eq!(journal.held().0, 3);
}

#[test]
fn every_cause_has_its_own_place_and_name() {
    for (place, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(cause as usize, place);
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        assert!(!["other", "unknown"].contains(&cause.as_str()));
    }
}

#[test]
fn every_kind_has_its_own_place_and_name() {
    for (place, kind) in ActionKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    let error = "disconect".parse::<ActionKind>().unwrap_err();
    assert!(error.contains("did you mean \"disconnect\"?"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_greedy_phase_pushes_out_only_its_own_records() {
    let journal = journal(JournalLimits { notable: 64, chatter: 64 });
    for n in 0..5 {
        journal.record(NewRecord::new(by_phase("calm"), ActionKind::PhaseFailed, format!("{n}")));
    }
    for _ in 0..10_000 {
        journal.record(NewRecord::new(by_phase("greedy"), ActionKind::Ping, "again"));
    }
    let calm = journal.select(99, |record| record.about_phase().is_some_and(|name| &**name == "calm"));
    assert_eq!(calm.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn select_stops_at_its_limit_and_merges_the_rooms() {
    let journal = journal(JournalLimits::default());
    for n in 0..50 {
        journal.record(disconnect(n));
        journal.record(NewRecord::new(by_phase("reaper"), ActionKind::Ping, ""));
        journal.record(NewRecord::new(Initiator::Host, ActionKind::Dial, ""));
    }
    let mut seen = 0;
    let found = journal.select(10, |_| {
        seen += 1;
        true
    });
    assert_eq!(seen, 10);
    assert!(found.iter().map(|record| record.seq).eq(141..=150));
    assert!(journal.select_after(148, 9, |_| true).iter().map(|record| record.seq).eq(149..=150));
    assert_eq!(journal.newest(), 150);
}

/// What can arrive in any number, by whose doing.
fn flood(kind: u8, n: u16) -> NewRecord {
    let by = |what, outcome| NewRecord {
        address: at(11, n),
        outcome,
        ..NewRecord::new(Initiator::Host, what, "a flood")
    };
    match kind {
        0 => by(ActionKind::Dial, Outcome::Started),
        1 => by(ActionKind::Probe, Outcome::Failed("no answer in time".into())),
        2 => by(ActionKind::Refused, Outcome::Refused("full".into())),
        3 => by(ActionKind::Connect, Outcome::Applied),
        4 => NewRecord::new(by_phase("reaper"), ActionKind::Ping, "a flood"),
        5 => NewRecord {
            outcome: Outcome::Refused("the floor".into()),
            ..NewRecord::new(by_phase("greedy"), ActionKind::Disconnect, "a flood")
        },
        6 => NewRecord::new(Initiator::Host, ActionKind::Late, "a flood"),
        7 => NewRecord {
            phase: Some("bad".into()),
            ..NewRecord::new(Initiator::Host, ActionKind::Reload, "a flood")
        },
        // A stranger connects with a new key each time, breaks a rule and is thrown out.
        _ => NewRecord {
            peer: Some(peer(n)),
            address: at(12, n % 8),
            cause: Some(Cause::ProtocolError),
            ..NewRecord::new(Initiator::Remote, ActionKind::Disconnect, "a flood")
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Half of the room for disconnects is the honest peers', even against strangers who come and go at eight addresses.
    #[test]
    fn no_flood_pushes_out_the_last_disconnects(
        floods in proptest::collection::vec((0u8..9, 1u16..400), 1..40),
        limit in 64usize..256,
    ) {
        let journal = Journal::new(Arc::new(FixedClock), JournalLimits { notable: limit, chatter: limit }, None);
        let honest = (limit * 3 / 8 / 2) as u16;
        let mut others = 0u16;
        let mut gone = 0u16;
        for (kind, count) in floods {
            for _ in 0..count {
                others = others.wrapping_add(1);
                journal.record(flood(kind, others));
            }
            journal.record(disconnect(gone));
            gone += 1;
        }
        for n in gone.saturating_sub(honest)..gone {
            let told = journal.explain(&peer(n));
            prop_assert!(told.iter().any(|record| record.address == at(10, n)), "{n} of {gone} is not explained");
        }
        let (notable, chatter) = journal.held();
        prop_assert!(notable <= limit && chatter <= limit);
        let numbers: Vec<u64> = journal.select(usize::MAX, |_| true).iter().map(|record| record.seq).collect();
        prop_assert!(numbers.is_sorted());
        prop_assert_eq!(numbers.len(), numbers.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(numbers.len(), notable + chatter);
        let dropped: u64 = journal.rooms().iter().map(|room| room.overwritten).sum();
        prop_assert_eq!(journal.newest(), numbers.len() as u64 + dropped);
    }
}

/// A clock that stands still, for tests without a runtime.
struct FixedClock;

impl Clock for FixedClock {
    fn mono(&self) -> Duration {
        Duration::ZERO
    }

    fn boot(&self) -> Duration {
        Duration::ZERO
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }
}
