use groundskeeper_phases::Reaper;
use groundskeeper_sdk::host::{Metric, MetricChange, Saved};

use super::*;
use crate::clock::SystemClock;

fn spec(name: &str, after: &[&str]) -> PhaseSpec {
    let after = after.iter().map(|name| (*name).to_owned()).collect();
    let schedule = Schedule { after, ..Schedule::every(1) };
    PhaseSpec::built_in(name, "built-in", "1", Arc::new(Reaper::default()), schedule)
}

fn guest(name: &str, after: &[&str], before: &[&str]) -> PhaseSpec {
    let mut spec = spec(name, after);
    spec.schedule.before = before.iter().map(|name| (*name).to_owned()).collect();
    spec.policy.trust = Trust::Guest;
    spec.kind = "wasm";
    spec.digest = Some([1; 32]);
    spec
}

fn before() -> PriorState {
    PriorState { interval: Duration::from_secs(60), unix_now: 1_000_000, ..PriorState::default() }
}

fn registry(specs: Vec<PhaseSpec>) -> Result<Registry, BadPhases> {
    Registry::new(specs, Vec::new(), |_| 0, &before())
}

/// Names in their order, and what was rejected.
fn names(specs: Vec<PhaseSpec>) -> Result<(Vec<String>, Vec<String>), BadPhases> {
    let registry = registry(specs)?;
    let names = registry.phases.iter().map(|phase| phase.name.to_string()).collect();
    let rejected = registry.rejected.iter().map(|one| format!("{}: {}", one.name, one.problem)).collect();
    Ok((names, rejected))
}

#[test]
fn order_is_as_given_but_for_after() {
    let order = |specs| names(specs).unwrap().0;
    assert_eq!(order(vec![spec("a", &["c"]), spec("b", &[]), spec("c", &[])]), ["b", "c", "a"]);
    assert_eq!(order(vec![spec("a", &[]), spec("b", &["a"])]), ["a", "b"]);
    assert!(matches!(names(vec![spec("a", &["b"]), spec("b", &["a"])]), Err(BadPhases::Circle(_))));
    assert!(matches!(names(vec![spec("a", &["x"])]), Err(BadPhases::NoSuchPhase { .. })));
    assert!(matches!(names(vec![spec("a", &[]), spec("a", &[])]), Err(BadPhases::SameName(_))));
}

#[test]
fn guests_come_behind_the_hosts_own_by_name_unless_they_say_otherwise() {
    let own =
        || vec![guest("z", &[], &[]), spec("reaper", &[]), spec("reconnect", &[]), spec("cleanup", &[])];
    let order = |more: Vec<PhaseSpec>| names(own().into_iter().chain(more).collect()).unwrap().0.join(" ");
    assert_eq!(order(vec![guest("b", &[], &[]), guest("a", &[], &[])]), "reaper reconnect cleanup a b z");
    assert_eq!(order(vec![guest("a", &["z"], &[])]), "reaper reconnect cleanup z a");
    assert_eq!(order(vec![guest("a", &[], &["reconnect"])]), "reaper a reconnect cleanup z");
    assert_eq!(order(vec![guest("y", &["z"], &["reconnect"])]), "reaper z y reconnect cleanup");
    // `before` moves a whole chain forward.
    assert_eq!(
        order(vec![guest("a", &[], &["b"]), guest("b", &[], &["reconnect"])]),
        "reaper a b reconnect cleanup z"
    );
}

#[test]
fn a_bad_guest_harms_no_other_phase() {
    let (order, rejected) = names(vec![
        spec("reaper", &[]),
        guest("good", &["bad"], &[]),
        guest("bad", &["reeper"], &[]),
        guest("reaper", &[], &[]),
        guest("self", &["self"], &[]),
    ])
    .unwrap();
    assert_eq!(order, ["reaper", "good"]);
    assert_eq!(
        rejected,
        [
            "reaper: two phases are called \"reaper\"; give one of them another name",
            "bad: phase \"bad\" waits for \"reeper\", which is not there; did you mean \"reaper\"?",
            "self: phases wait for each other: self after self; take one `after` or `before` away",
        ]
    );
}

#[test]
fn circles_are_named_and_only_their_guests_go() {
    let (order, rejected) = names(vec![
        spec("reaper", &[]),
        spec("reconnect", &[]),
        guest("a", &["b"], &[]),
        guest("b", &["c"], &[]),
        guest("c", &["b"], &[]),
        guest("d", &["c"], &[]),
        guest("squeezed", &["reconnect"], &["reaper"]),
        guest("loop", &["reaper"], &["reaper"]),
    ])
    .unwrap();
    assert_eq!(order, ["reaper", "reconnect", "a", "d"], "who waits for a circle is not part of it");
    let of = |name: &str| rejected.iter().find(|one| one.starts_with(&format!("{name}: "))).unwrap();
    assert!(of("b").contains("b after c after b") && of("c").contains("b after c after b"), "{rejected:?}");
    assert!(of("loop").contains("reaper after loop after reaper"), "{rejected:?}");
    assert!(of("squeezed").contains("reaper after squeezed after reconnect after reaper"), "{rejected:?}");
}

#[test]
fn waiting_for_an_absent_phase_has_no_effect() {
    let gone = RejectedPhase { name: "gone".into(), problem: "no".into(), ..RejectedPhase::default() };
    let specs = vec![guest("a", &["gone", "exchange-cleanup"], &[])];
    let registry = Registry::new(specs, vec![gone], |_| 0, &before()).unwrap();
    assert_eq!((registry.phases.len(), registry.rejected.len()), (1, 1));
    let status = registry.status(0);
    assert_eq!((status[1].state, status[1].last_error.as_deref()), (PhaseState::Rejected, Some("no")));
}

#[test]
fn a_phase_that_never_ran_keeps_its_place_across_restarts() {
    let hourly = || vec![PhaseSpec { schedule: Schedule::every(60), ..spec("hourly", &[]) }];
    let new = |last_runs: &LastRuns| {
        let before = PriorState { last_runs: last_runs.clone(), ..before() };
        Registry::new(hourly(), Vec::new(), |_| 59, &before).unwrap()
    };
    let first = new(&LastRuns::default());
    assert_eq!(first.phases[0].timing.next_due(60), 60);
    // The clock of this machine is decades ahead of that of the next process: the node was off for no time.
    let kept = first.last_runs(50, &*SystemClock::new(), Duration::from_secs(60));
    let second = new(&kept);
    assert_eq!(second.phases[0].timing.next_due(60), 10);
    assert_eq!((second.phases[0].last_run, second.phases[0].last_accepted), (None, None), "it never ran");
}

#[test]
fn run_on_start_is_the_first_tick_whenever_it_ran_last() {
    let schedule = Schedule { run_on_start: true, ..Schedule::every(60) };
    let phases = [("hourly".to_owned(), LastRun::accepted(0))].into();
    let last_runs = LastRuns { taken_unix_s: 999_990, phases };
    let spec = PhaseSpec { schedule, ..spec("hourly", &[]) };
    let registry =
        Registry::new(vec![spec], Vec::new(), |_| 30, &PriorState { last_runs, ..before() }).unwrap();
    let mut timing = registry.phases[0].timing;
    assert!(timing.is_due(1, 60));
    timing.ran(1, None);
    assert_eq!(timing.next_due(60), 61);
}

#[test]
fn a_quarantine_outlives_the_process_until_the_bytes_change() {
    let kept = KeptPhase {
        memory: Some(KeptMemory { version: 1, bytes: vec![1] }),
        quarantine: Some(Quarantine { digest: [1; 32], why: "boom".into() }),
        shadow_memory: None,
    };
    let with = |digest| {
        let before = PriorState { kept: [("a".to_owned(), kept.clone())].into(), ..before() };
        let spec = PhaseSpec { digest, ..guest("a", &[], &[]) };
        Registry::new(vec![spec], Vec::new(), |_| 0, &before).unwrap().phases.remove(0)
    };
    let mut same = with(Some([1; 32]));
    assert_eq!((same.status(0).state, same.last_error.as_deref()), (PhaseState::Quarantined, Some("boom")));
    assert_eq!(same.status(0).next_due_tick, None);
    assert!(!same.breaker.admit());
    same.resume();
    assert!(same.breaker.admit() && same.kept().0.quarantine.is_none());
    let other = with(Some([2; 32]));
    assert_eq!((other.status(0).state, other.memory().unwrap().bytes), (PhaseState::Active, vec![1]));
}

#[test]
fn shadow_mode_has_separate_memory_that_starts_as_a_copy() {
    let kept = KeptPhase { memory: Some(KeptMemory { version: 1, bytes: vec![1] }), ..KeptPhase::default() };
    let before = PriorState { kept: [("a".to_owned(), kept.clone())].into(), ..before() };
    let mut spec = guest("a", &[], &[]);
    spec.policy.mode = Mode::Shadow;
    let mut phase = Registry::new(vec![spec], Vec::new(), |_| 0, &before).unwrap().phases.remove(0);
    assert_eq!(phase.memory().unwrap().bytes, [1]);
    phase.remember(Saved { version: 1, bytes: vec![2] });
    assert_eq!((phase.memory().unwrap().bytes, phase.kept().1), (vec![2], 1));
    assert_eq!(phase.kept().0.memory, kept.memory);
    phase.remember(Saved { version: 1, bytes: vec![2] });
    assert_eq!(phase.kept().1, 1, "what is the same is not written again");
    phase.restore(kept.clone());
    assert_eq!(phase.kept(), (&kept, 2));
}

#[test]
fn a_phase_has_sixteen_numbers_of_its_own_and_no_more() {
    let mut phase = registry(vec![guest("a", &[], &[])]).unwrap().phases.remove(0);
    let add = |n: u32| Metric { name: format!("m{n}"), change: MetricChange::Add(n) };
    phase.count((0..20).map(add).collect());
    phase.count(vec![add(3), Metric { name: "m3".into(), change: MetricChange::Set(0.5) }]);
    let metrics = phase.status(0).metrics;
    assert_eq!(metrics.len(), 16);
    let third = metrics.iter().find(|metric| metric.name == "m3").unwrap();
    assert_eq!((third.added, third.value, third.shadow), (Some(6), Some(0.5), false));
}

#[test]
fn host_phases_that_are_replaced_run_in_the_order_of_a_start() {
    let chain = |first: &str, second: &str| {
        ["a", "b", "c"]
            .map(|name| spec(name, if name == second { std::slice::from_ref(&first) } else { &[] }))
    };
    let others = || [guest("g", &["b"], &[]), spec("own", &[])];
    let pairs = ["a", "b", "c"].map(|first| ["a", "b", "c"].map(move |second| (first, second)));
    let pairs: Vec<_> = pairs.into_iter().flatten().filter(|(first, second)| first != second).collect();
    for old in &pairs {
        for new in &pairs {
            let set = |(first, second): &(&str, &str)| chain(first, second).into_iter().chain(others());
            let mut live = registry(set(old).collect()).unwrap();
            live.put_own(chain(new.0, new.1).to_vec(), 5, 1_000_100).unwrap();
            let order: Vec<String> = live.phases.iter().map(|phase| phase.name.to_string()).collect();
            assert_eq!(order, names(set(new).collect()).unwrap().0, "{old:?} to {new:?}");
        }
    }
    let mut live = registry(chain("a", "b").to_vec()).unwrap();
    let circle = [spec("a", &["c"]), spec("b", &[]), spec("c", &["a"])];
    assert!(live.put_own(circle.to_vec(), 5, 1_000_100).unwrap_err().contains("wait for each other"));
    assert!(live.phases.iter().all(|phase| phase.spec.schedule.after.len() < 2));
}
