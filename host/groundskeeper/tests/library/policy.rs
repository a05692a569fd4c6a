//! What happens to guests that fail, that take too long, that are off or rejected; and when each may run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::support::guests::*;
use crate::support::*;
use groundskeeper::clock::TokioClock;
use groundskeeper::cycle::BeatReport;
use groundskeeper::engine::Executor;
use groundskeeper::engine::policy::{Grants, MemoryGrant, Mode, OnFailure};
use groundskeeper::engine::schedule::{Schedule, WakeOn};
use groundskeeper::journal::{ActionKind, Initiator, Outcome};
use groundskeeper::node::Options;
use groundskeeper::registry::{PhaseSpec, PhaseState, PhaseStatus, RejectedPhase};
use groundskeeper_sdk::phase::Failure;

fn status(rig: &Rig, name: &str) -> PhaseStatus {
    rig.phases().iter().find(|phase| &*phase.name == name).unwrap().clone()
}

async fn resume(rig: &Rig, name: &str) -> Result<PhaseState, String> {
    let name = name.to_owned();
    rig.handle.with_cycle(move |cycle| cycle.resume(&name)).await.unwrap()
}

/// Fails as long as the switch is on.
fn failing(name: &str, switch: &Arc<AtomicBool>, failure: fn() -> Failure) -> PhaseSpec {
    let switch = Arc::clone(switch);
    guest(name, Grants::default(), move |_, _, _| if switch.load(Relaxed) { Err(failure()) } else { Ok(()) })
}

fn transient() -> Failure {
    Failure::transient("no luck")
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_fails_pauses_longer_and_longer_and_is_quarantined() {
    let broken = Arc::new(AtomicBool::new(true));
    let rules = OnFailure { trip_after: 2, pause: 2, quarantine_after: 3 };
    let specs =
        vec![failing_by(failing("bad", &broken, transient), rules), closure("own", 1, |_, _, _| Ok(()))];
    let mut rig = rig(specs, no_rules());
    rig.peer(1);
    let mut reports = rig.ticks(2).await;
    assert_eq!((status(&rig, "bad").state, status(&rig, "bad").pause_left), (PhaseState::Tripped, 2));
    reports.extend(rig.ticks(18).await);
    // Twice, a pause of two, once, a pause of four, once: the third time it would open it is quarantined.
    assert_eq!(ran_in(&reports, "bad"), [1, 2, 5, 10]);
    assert_eq!(ran_in(&reports, "own").len(), 20, "nobody else is held up");
    let bad = status(&rig, "bad");
    assert_eq!((bad.state, bad.next_due_tick, bad.failures_in_row), (PhaseState::Quarantined, None, 4));
    assert_eq!(bad.last_error.as_deref(), Some("no luck"));
    let told = rig.journal.select(9, |record| record.what == ActionKind::Quarantine);
    assert_eq!((told.len(), told[0].phase.as_deref()), (1, Some("bad")));
    assert_eq!(told[0].outcome, Outcome::Failed("no luck".into()));

    assert_eq!(resume(&rig, "bad").await, Ok(PhaseState::Quarantined));
    assert_eq!(status(&rig, "bad").state, PhaseState::Active, "at once, not only after the next beat");
    broken.store(false, Relaxed);
    assert_eq!(ran_in(&rig.ticks(3).await, "bad"), [21, 22, 23]);
    let told = rig.journal.select(9, |record| record.what == ActionKind::Resume);
    assert_eq!((told.len(), &told[0].by), (1, &Initiator::OPERATOR));
    assert_eq!(told[0].reason, "bad was quarantined");
    assert!(resume(&rig, "baad").await.unwrap_err().contains("the phases are own, bad"));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_work_is_quarantined_at_once_and_stays_so_until_its_bytes_change() {
    let broken = Arc::new(AtomicBool::new(true));
    let spec = |digest| {
        let spec = failing("bad", &broken, || Failure::Permanent("wrong settings".to_owned()));
        PhaseSpec { digest: Some(digest), ..spec }
    };
    let mut first = rig(vec![spec([1; 32])], no_rules());
    first.peer(1);
    assert_eq!(ran_in(&first.ticks(5).await, "bad"), [1]);
    let clock = Arc::clone(&first.clock);
    let kept = first.stop().await;
    assert_eq!(kept.phases["bad"].quarantine.as_ref().unwrap().why, "wrong settings");

    let options = || Options { executor: Executor::Inline, ..Options::default() };
    let mut same = Rig::with(Arc::clone(&clock), vec![spec([1; 32])], INTERVAL, &kept, options());
    assert_eq!(status(&same, "bad").state, PhaseState::Quarantined, "across a restart");
    assert!(ran_in(&same.ticks(3).await, "bad").is_empty());
    let mut other = Rig::with(clock, vec![spec([2; 32])], INTERVAL, &kept, options());
    broken.store(false, Relaxed);
    assert_eq!(ran_in(&other.ticks(3).await, "bad").len(), 3, "other bytes are another chance");
}

#[tokio::test(start_paused = true)]
async fn the_hosts_own_are_never_quarantined() {
    let own = closure("own", 1, |_, _, _| Err(Failure::Permanent("never".to_owned())));
    let mut rig = rig(vec![own], no_rules());
    rig.peer(1);
    assert_eq!(ran_in(&rig.ticks(40).await, "own"), [1, 2, 3, 5, 8, 13, 22, 39]);
    assert_eq!(status(&rig, "own").state, PhaseState::Tripped);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_or_tripped_guest_does_not_run_between_ticks_either() {
    let broken = Arc::new(AtomicBool::new(true));
    let mut spec = failing_by(
        failing("bad", &broken, transient),
        OnFailure { trip_after: 1, pause: 100, quarantine_after: 2 },
    );
    spec.schedule = Schedule { wake_on: vec![WakeOn::Isolated], ..Schedule::every(1) };
    let mut rig = rig(vec![spec], no_rules());
    let mut runs = 0;
    for _beat in 0..40 {
        runs += rig.beat().await.runs.len();
    }
    assert_eq!((runs, status(&rig, "bad").state), (1, PhaseState::Tripped));
}

/// Guests that use up time by a stopwatch that only they move, `a` to `d`, behind one of the host's own that does too.
fn slow_guests(costs: [u64; 5]) -> (Vec<PhaseSpec>, Options) {
    let time = Arc::new(AtomicU64::new(0));
    let cost = |ms: u64| {
        let time = Arc::clone(&time);
        move || _ = time.fetch_add(ms, Relaxed)
    };
    let [own, guests @ ..] = costs;
    let spend = cost(own);
    let mut specs = vec![closure("own", 1, move |_, _, _| {
        spend();
        Ok(())
    })];
    for (name, ms) in ["a", "b", "c", "d"].into_iter().zip(guests) {
        let spend = cost(ms);
        specs.push(guest(name, Grants::default(), move |_, _, _| {
            spend();
            Ok(())
        }));
    }
    let options = Options {
        stopwatch: Some(Box::new(move || Duration::from_millis(time.load(Relaxed)))),
        ..Options::default()
    };
    (specs, options)
}

fn names(report: &BeatReport) -> String {
    report.runs.iter().map(|run| &*run.name).collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn guests_share_a_beats_budget_by_what_they_used_lately() {
    for (costs, expected) in [
        // Two seconds are enough for all.
        ([10; 5], vec!["own a b c d"; 5]),
        // Begun below the budget is begun; then the others have to wait, and go first.
        ([0, 1500, 1500, 1500, 1500], vec!["own a b", "own c d", "own a b", "own c d", "own a b"]),
        ([0, 9000, 9000, 9000, 9000], vec!["own a", "own b", "own c", "own d", "own a"]),
        // One that takes everything does not keep the others from their turn.
        ([0, 9000, 10, 10, 10], vec!["own a", "own b c d a", "own b c d a", "own b c d a", "own b c d a"]),
        // The host's own run whatever they take.
        ([3000, 1, 1, 1, 1], vec!["own"; 5]),
    ] {
        let (specs, options) = slow_guests(costs);
        let mut rig = rig_with(specs, options);
        rig.peer(1);
        let reports = rig.ticks(5).await;
        assert_eq!(reports.iter().map(|report| names(report)).collect::<Vec<_>>(), expected, "{costs:?}");
        let put_off: usize = reports.iter().map(|report| report.put_off.len()).sum();
        let counted: u64 = rig.phases().iter().map(|phase| phase.put_off).sum();
        assert_eq!(
            (put_off, counted),
            (reports.iter().map(|report| 5 - report.runs.len()).sum(), put_off as u64)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_short_interval_the_budget_is_a_third_of_it() {
    let (specs, options) = slow_guests([0, 150, 150, 150, 150]);
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let options = Options { executor: Executor::Inline, ..options };
    let mut rig = Rig::with(clock, specs, Duration::from_millis(900), &Kept::default(), options);
    rig.peer(1);
    let reports = rig.ticks(2).await;
    assert_eq!([names(&reports[0]), names(&reports[1])], ["own a b", "own c d"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_off_or_rejected_is_shown_and_does_not_run() {
    let mut off = guest("off", Grants::default(), |_, _, _| Ok(()));
    off.policy.mode = Mode::Off;
    let mut lost = guest("lost", Grants::default(), |_, _, _| Ok(()));
    lost.schedule.after = vec!["of".to_owned()];
    let mut behind = guest("behind", Grants::default(), |_, _, _| Ok(()));
    behind.schedule.after = ["off", "torn", "lost"].map(str::to_owned).into();
    let torn = RejectedPhase {
        name: "torn".to_owned(),
        kind: "wasm".to_owned(),
        file: Some("phases.d/torn.toml".into()),
        problem: "phases.d/torn.toml:3: not TOML".to_owned(),
        ..RejectedPhase::default()
    };
    let options = Options { rejected: vec![torn], ..Options::default() };
    let mut rig = rig_with(vec![off, lost, behind], options);
    rig.peer(1);
    let reports = rig.ticks(2).await;
    assert_eq!(names(&reports[1]), "behind");
    let phases = rig.phases();
    let shown: Vec<_> = phases.iter().map(|phase| (&*phase.name, phase.state)).collect();
    assert_eq!(
        shown,
        [
            ("off", PhaseState::Off),
            ("behind", PhaseState::Active),
            ("torn", PhaseState::Rejected),
            ("lost", PhaseState::Rejected),
        ]
    );
    assert!(phases[3].last_error.as_ref().unwrap().contains("did you mean \"off\"?"));
    let told = rig.journal.select(9, |record| record.what == ActionKind::Reload);
    let rejected: Vec<_> = told.iter().filter_map(|record| record.phase.as_deref()).collect();
    assert_eq!(rejected, ["torn", "lost"]);
    assert_eq!(told[0].outcome, Outcome::Refused("phases.d/torn.toml:3: not TOML".into()));
    assert!(resume(&rig, "torn").await.unwrap_err().contains("torn.toml:3: not TOML"));
}

#[tokio::test(start_paused = true)]
async fn before_and_run_on_start() {
    let mut early = guest("z-early", Grants::default(), |_, _, _| Ok(()));
    early.schedule =
        Schedule { before: vec!["reconnect".to_owned()], run_on_start: true, ..Schedule::every(50) };
    let mut phases = builtins();
    phases.push(early);
    let mut rig = rig(phases, no_rules());
    rig.peer(1);
    let reports = rig.ticks(60).await;
    assert!(names(&reports[0]).starts_with("reaper z-early reconnect"), "{}", names(&reports[0]));
    assert_eq!(ran_in(&reports, "z-early"), [1, 51]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_puts_memory_and_quarantine_back() {
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let grants = Grants { memory: Some(MemoryGrant::default()), ..Grants::default() };
    let spec = guest("counter", grants, move |tick, _, plan| {
        plan.store(groundskeeper_sdk::memory::Saved { version: 1, bytes: vec![tick.number as u8] });
        if switch.load(Relaxed) { Err(Failure::Permanent("broken".to_owned())) } else { Ok(()) }
    });
    let mut rig = rig(vec![spec], no_rules());
    rig.peer(1);
    rig.ticks(2).await;
    let before = rig.handle.with_cycle(|cycle| cycle.snapshot("counter")).await.unwrap().unwrap();
    assert_eq!(before.memory.as_ref().unwrap().bytes, [2]);
    rig.tick().await;
    broken.store(true, Relaxed);
    rig.tick().await;
    let now = rig.handle.with_cycle(|cycle| cycle.snapshot("counter")).await.unwrap().unwrap();
    assert_eq!(
        (now.memory.unwrap().bytes, now.quarantine.is_some()),
        (vec![3], true),
        "a failed run stores nothing"
    );
    broken.store(false, Relaxed);
    let back = before.clone();
    assert_eq!(rig.handle.with_cycle(move |cycle| cycle.restore("counter", back)).await, Some(true));
    let now = rig.handle.with_cycle(|cycle| cycle.snapshot("counter")).await.unwrap();
    assert_eq!(now, Some(before));
    assert_eq!(ran_in(&rig.ticks(1).await, "counter").len(), 1);
}
