//! A node that gets four times as many requests as it can serve: how many it answers, how long its answers take, and how
//! much memory it holds. The node runs in a separate process; this process sends the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use groundskeeper::net::{Capacity, Handlers, RequestError};
use groundskeeper::peer::PeerId;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::GROUP;
use super::live::resident_of;
use crate::Effort;
use crate::nodes::{BenchNode, Shape};
use crate::report::{Reach, Report, Row};

/// The argument with which this program starts itself.
pub const CHILD: &str = "overload-child";

const KIND: &str = "work";

/// Requests that the node serves at once, and requests that wait.
const CAPACITY: Capacity = Capacity { at_once: 8, waiting: 16 };

/// Time of each request; the runtime's timer counts whole milliseconds.
const WORK: Duration = Duration::from_millis(1);

/// Requests in flight while capacity is measured: some always wait for a free worker.
const CLOSED: usize = 12;

/// The load, as a multiple of the node's capacity.
const TIMES: f64 = 4.0;

const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two requests without load.
const EVERY: Duration = Duration::from_millis(20);

pub fn run(effort: &Effort, report: &mut Report) {
    let time = Duration::from_secs(effort.choose(60, 5));
    let Some((child, port)) = Overloaded::start() else {
        eprintln!("net: a child process failed; no figures for overload");
        return;
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let asker = Arc::new(runtime.block_on(Asker::connected(port)));
    let calm = Duration::from_secs(effort.choose(10, 2));
    let capacity = runtime.block_on(asker.clone().closed(calm));
    let alone = runtime.block_on(asker.paced(calm / 2));
    let (offered, held) = runtime.block_on(async {
        let held = tokio::spawn(held(child.id(), time));
        let offered = asker.clone().open(capacity * TIMES, time).await;
        (offered, held.await.expect("it only waits"))
    });
    let seconds = time.as_secs();
    let subject = format!("offered {TIMES} times its capacity for {seconds} s");
    let row = |measure, value, unit| Row::rate(GROUP, measure, subject.as_str(), value, unit);
    report.push(
        row("answered under overload", offered.answered, "1/s")
            .against("capacity, 12 in flight", capacity)
            .reach(Reach::Times(0.9))
            .note(offered.words()),
    );
    let [quarter, end] = held.map(|bytes| bytes as f64 / 1024.0);
    let cost = |measure, value, unit| Row::cost(GROUP, measure, subject.as_str(), value, unit);
    report.push(
        cost("memory of the node at the end", end, "KiB").against("after a quarter of the time", quarter),
    );
    report.push(
        cost("its answers, p99", at(&offered.times, 0.99), "ms")
            .against("without load", at(&alone, 0.99))
            .reach(Reach::AtMost(100.0))
            .note(format!(
                "{} answers, p50 {:.3} ms, longest {:.3} ms; \"busy\" after p99 {:.3} ms",
                offered.times.len(),
                at(&offered.times, 0.5),
                at(&offered.times, 1.0),
                at(&offered.busy_times, 0.99)
            )),
    );
}

/// The value at `part` of sorted times, in milliseconds.
fn at(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

/// The overloaded node. Ends with its handle.
struct Overloaded(Child);

impl Overloaded {
    fn start() -> Option<(Self, u16)> {
        let mut child = Command::new(std::env::current_exe().ok()?)
            .args([CHILD, "serve", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let told = child.stdout.take().and_then(|out| BufReader::new(out).lines().next());
        let child = Self(child);
        Some((child, told?.ok()?.parse().ok()?))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Overloaded {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The program of [`Overloaded`]: prints its address, and works until its standard input ends.
pub fn child(_: &str, _: &str) -> ExitCode {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let node = runtime.block_on(async {
        let work = |_, _| async {
            sleep(WORK).await;
            Ok(Bytes::new())
        };
        let handlers = Handlers::new().on_request_limited(KIND, CAPACITY, work);
        BenchNode::answering(&Shape { listens: true, ..Shape::of(4) }, handlers)
    });
    println!("{}", node.port());
    _ = std::io::stdout().flush();
    _ = std::io::stdin().read(&mut [0]);
    drop(node);
    ExitCode::SUCCESS
}

/// Resident bytes after a quarter of `time`, and shortly before its end.
async fn held(process: u32, time: Duration) -> [usize; 2] {
    let process = process.to_string();
    sleep(time / 4).await;
    let quarter = resident_of(&process);
    sleep(time * 7 / 10).await;
    [quarter, resident_of(&process)]
}

/// The requester, over one connection.
struct Asker {
    node: BenchNode,
    peer: PeerId,
}

/// Requests per second, by their end.
#[derive(Default)]
struct Offered {
    offered: f64,
    answered: f64,
    busy: f64,
    not_sent: f64,
    other: f64,
    /// The first of these errors.
    example: Option<RequestError>,
    /// Sorted times of answers, in milliseconds.
    times: Vec<f64>,
    /// The same of "busy".
    busy_times: Vec<f64>,
}

impl Offered {
    fn words(&self) -> String {
        let Self { offered, busy, not_sent, other, example, .. } = self;
        let example = example.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
        format!(
            "{offered:.0}/s offered, {busy:.0}/s told busy, {not_sent:.0}/s not sent, {other:.1}/s other{example}"
        )
    }
}

#[derive(Default)]
struct Ends {
    answered: AtomicU64,
    busy: AtomicU64,
    not_sent: AtomicU64,
    other: AtomicU64,
    example: OnceLock<RequestError>,
}

impl Asker {
    async fn connected(port: u16) -> Self {
        let node = BenchNode::start(&Shape::of(4));
        node.learn(port, 1);
        // It is live at the other end before it is live here.
        node.connect(0, port, || node.live()).await;
        let (_, naming) = node.state.pool.peers().swap_remove(0);
        Self { node, peer: naming.id }
    }

    async fn ask(&self) -> Result<Bytes, RequestError> {
        self.node.net.request(self.peer, KIND, &[], PATIENCE).await
    }

    /// Answers per second while enough tasks keep the node busy. Each task asks again when it gets an answer.
    async fn closed(self: Arc<Self>, time: Duration) -> f64 {
        let begun = Instant::now();
        let mut askers = JoinSet::new();
        for _ in 0..CLOSED {
            let asker = Arc::clone(&self);
            askers.spawn(async move {
                let mut answered = 0_u64;
                while begun.elapsed() < time {
                    answered += u64::from(asker.ask().await.is_ok());
                }
                answered
            });
        }
        askers.join_all().await.into_iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64()
    }

    /// Sends `rate` requests per second, whatever their results.
    async fn open(self: Arc<Self>, rate: f64, time: Duration) -> Offered {
        let ends = Arc::new(Ends::default());
        let begun = Instant::now();
        let mut offered = 0_u64;
        let (mut times, mut busy_times) = (Vec::new(), Vec::new());
        let mut asking = JoinSet::new();
        while begun.elapsed() < time {
            sleep(Duration::from_millis(1)).await;
            let due = (begun.elapsed().as_secs_f64() * rate) as u64;
            while offered < due {
                offered += 1;
                let (asker, ends) = (Arc::clone(&self), Arc::clone(&ends));
                asking.spawn(async move {
                    let sent = Instant::now();
                    let end = match asker.ask().await {
                        Ok(_) => &ends.answered,
                        Err(RequestError::Busy) => &ends.busy,
                        Err(RequestError::TooManyPending | RequestError::NotQueued(_)) => &ends.not_sent,
                        Err(other) => {
                            _ = ends.example.set(other);
                            &ends.other
                        }
                    };
                    end.fetch_add(1, Relaxed);
                    (std::ptr::eq(end, &ends.answered), std::ptr::eq(end, &ends.busy), millis_since(sent))
                });
            }
            while let Some(Ok((is_answer, is_busy, took))) = asking.try_join_next() {
                if is_answer {
                    times.push(took);
                } else if is_busy {
                    busy_times.push(took);
                }
            }
        }
        times.sort_by(f64::total_cmp);
        busy_times.sort_by(f64::total_cmp);
        let seconds = begun.elapsed().as_secs_f64();
        let count = |end: &AtomicU64| end.load(Relaxed) as f64 / seconds;
        Offered {
            offered: offered as f64 / seconds,
            answered: count(&ends.answered),
            busy: count(&ends.busy),
            not_sent: count(&ends.not_sent),
            other: count(&ends.other),
            example: ends.example.get().cloned(),
            times,
            busy_times,
        }
    }

    /// Sorted times of answers in milliseconds, of requests that are sent one by one, without other load.
    async fn paced(&self, time: Duration) -> Vec<f64> {
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < time {
            let sent = Instant::now();
            if self.ask().await.is_ok() {
                times.push(millis_since(sent));
            }
            sleep(EVERY.saturating_sub(sent.elapsed())).await;
        }
        times.sort_by(f64::total_cmp);
        times
    }
}

fn millis_since(sent: Instant) -> f64 {
    sent.elapsed().as_secs_f64() * 1000.0
}
