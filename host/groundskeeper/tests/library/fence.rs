//! A panic and an endless loop in native phases, in a process of their own: the heart goes on and shutdown ends.
//!
//! The parent runs this same binary as the child, so nothing that hangs can take the test with it.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use groundskeeper::clock::SystemClock;
use groundskeeper::cycle::BeatReport;
use groundskeeper::engine::{PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper::node::{Maintenance, NodeLimits, NodeState, Options};
use groundskeeper::peer::PeerId;
use groundskeeper::registry::{PhaseState, PhaseStatus};
use groundskeeper_sdk::host::Plan;
use parking_lot::{Condvar, Mutex};
use tokio::sync::broadcast::Receiver;

use crate::support::alone::name;
use crate::support::closure;

const CHILD: &str = "GK_FENCE_CHILD";
const TICKS: usize = 8;

/// Runs a few ticks with phases that misbehave and prints one line per tick, then how every phase stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other half of a_panic_and_an_endless_loop_leave_the_rest_running"]
async fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // What the test harness has begun to say ends here.
    println!();
    let clock = SystemClock::new();
    let state = NodeState::new(PeerId::from_bytes([1; 32]), NodeLimits::for_connections(8), clock, None);
    let phases = vec![
        closure("loops", 1, |_, _, _| {
            loop {
                std::hint::spin_loop();
            }
        }),
        closure("panics", 1, |_, _, _| panic!("on purpose")),
        closure("works", 1, |_, _, _| Ok(())),
    ];
    let options = Options { interval: Duration::from_millis(300), ..Options::default() };
    let running = Maintenance::start(&state, phases, options).expect("good phases");
    let mut reports = running.handle().reports();
    let mut ticks = 0;
    while ticks < TICKS {
        let report = reports.recv().await.expect("the ticker runs");
        if report.urgent == 0 {
            ticks += 1;
            let results: Vec<String> =
                report.runs.iter().map(|run| format!("{}={}", run.name, run.result)).collect();
            println!("tick {}", results.join(" "));
        }
    }
    println!("phases {}", serde_json::to_string(&**running.statuses().read()).expect("plain data"));
    let begun = Instant::now();
    assert!(running.stop().await.is_some());
    println!("stopped {}", begun.elapsed().as_millis());
}

#[test]
fn a_panic_and_an_endless_loop_leave_the_rest_running() {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", &name(module_path!(), "child"), "--ignored", "--nocapture"])
        .env(CHILD, "1")
        // Reading symbols for a backtrace takes a second on a busy machine, which is a run limit here.
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
    let (send, lines_read) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| _ = send.send(line)));
    let (mut ticks, mut phases, mut stopped) = (Vec::new(), Vec::<PhaseStatus>::new(), false);
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Ok(line) = lines_read.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(runs) = line.strip_prefix("tick ") {
            ticks.push(runs.to_owned());
        } else if line.starts_with("stopped ") {
            stopped = true;
        } else if let Some(statuses) = line.strip_prefix("phases ") {
            phases = serde_json::from_str(statuses).expect("phase statuses");
        }
    }
    if child.try_wait().expect("our child").is_none() && !stopped {
        child.kill().expect("our child");
        panic!("the child hangs; ticks so far: {ticks:?}");
    }
    let status = child.wait().expect("our child");
    assert!(status.success() && stopped, "{status}, ticks: {ticks:?}");
    assert_eq!(ticks.len(), TICKS);
    assert_eq!(ticks[0], "loops=overran panics=panicked works=ok");
    assert!(ticks[1..].iter().all(|runs| !runs.contains("loops") && runs.contains("works=ok")), "{ticks:?}");
    let state = |name: &str| phases.iter().find(|phase| &*phase.name == name).expect("registered").clone();
    assert_eq!(state("loops").state, PhaseState::Stuck);
    assert!(state("loops").last_error.is_some_and(|why| why.contains("did not come back")));
    assert!(
        state("panics").failures >= 3
            && state("panics").last_error.is_some_and(|why| why.contains("on purpose"))
    );
    assert_eq!((state("works").runs, state("works").failures), (TICKS as u64, 0));
}

/// Waits until it is let go.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    moved: Condvar,
    entered: AtomicU32,
}

impl Gate {
    fn pass(&self) {
        self.entered.fetch_add(1, Relaxed);
        self.moved.wait_while_for(&mut self.is_open.lock(), |is_open| !*is_open, Duration::from_secs(120));
    }

    fn open(&self) {
        *self.is_open.lock() = true;
        self.moved.notify_all();
    }
}

/// What a sandboxed guest is to the executor: it comes back by itself.
struct Bounded;

impl PhaseProgram for Bounded {
    fn summary(&self) -> &str {
        "comes back"
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, _: &PhaseCall) -> RunResult {
        RunOutcome::Planned(Plan::new().into_parts()).into()
    }

    fn always_returns(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_two_native_phases_that_do_not_return_no_third_one_is_called() {
    let gates: [Arc<Gate>; 3] = Default::default();
    let state =
        NodeState::new(PeerId::from_bytes([1; 32]), NodeLimits::for_connections(8), SystemClock::new(), None);
    let mut phases: Vec<_> = ["first", "second", "third"]
        .into_iter()
        .zip(gates.clone())
        .map(|(name, gate)| {
            closure(name, 1, move |_, _, _| {
                gate.pass();
                Ok(())
            })
        })
        .collect();
    phases.push(closure("bounded", 1, |_, _, _| Ok(())));
    phases[3].body = Arc::new(Bounded);
    let options = Options { interval: Duration::from_millis(300), ..Options::default() };
    let running = Maintenance::start(&state, phases, options).expect("good phases");
    let mut reports = running.handle().reports();
    let tick = async |reports: &mut Receiver<Arc<BeatReport>>| loop {
        let report = reports.recv().await.expect("the ticker runs");
        if report.urgent == 0 {
            break report
                .runs
                .iter()
                .map(|run| (run.name.to_string(), run.result))
                .collect::<BTreeMap<_, _>>();
        }
    };
    let first = tick(&mut reports).await;
    assert_eq!((first["first"], first["second"]), ("overran", "overran"));
    assert_eq!((first["third"], first["bounded"]), ("shortage", "ok"));
    assert_eq!((running.statuses().stuck(), gates[2].entered.load(Relaxed)), (2, 0));
    let third = running.statuses().read()[2].clone();
    assert_eq!((third.failures, third.skipped, third.state), (0, 1, PhaseState::Active), "{third:?}");

    gates.iter().for_each(|gate| gate.open());
    let mut results = tick(&mut reports).await;
    while results.get("third") != Some(&"ok") {
        results = tick(&mut reports).await;
    }
    while running.statuses().stuck() > 0 {
        tick(&mut reports).await;
    }
    assert!(running.stop().await.is_some());
}
