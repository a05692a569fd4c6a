//! Live connections on loopback: memory and handshakes, compared with plain TCP. A separate process for each.

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::GROUP;
use crate::Effort;
use crate::alloc::held_by;
use crate::nodes::{BenchNode, Shape, room_for};
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::cpu_micros;

/// The argument with which this program starts itself.
pub const CHILD: &str = "net-child";

/// Time for the first requests and answers of fresh connections to end.
const QUIET: Duration = Duration::from_secs(1);

/// Bytes that one connection sends and receives in the plain variant.
const ECHO: usize = 64;

pub fn run(effort: &Effort, report: &mut Report) {
    for wanted in [1_000, 5_000] {
        if effort.choose(false, wanted > 1_000) {
            continue;
        }
        let count = room_for(wanted, 2);
        if count == 0 {
            eprintln!("net: no descriptors for {wanted} connections");
            continue;
        }
        let (Some(tls), Some(tcp)) = (watch("tls", count), watch("tcp", count)) else {
            eprintln!("net: a child process failed; no figures for {count} connections");
            continue;
        };
        let few = if count < wanted { "the system gives no more descriptors" } else { "" };
        let subject = format!("{} TLS connections", thousands(count));
        let row = |measure, name: &str, unit| {
            let [ours, plain] = [&tls, &tcp].map(|told| told[name].as_f64().unwrap_or(f64::NAN));
            Row::cost(GROUP, measure, subject.as_str(), ours, unit)
                .against("TCP connect + echo", plain)
                .note(few)
        };
        report.push(row("memory per end, resident", "rss_kib", "KiB").reach(Reach::AtMost(16.0)));
        report.push(row("memory per end, allocated", "live_kib", "KiB").reach(Reach::AtMost(16.0)));
        report.push(row("handshake until live, p50", "p50_us", "us"));
        report.push(row("handshake until live, p99", "p99_us", "us"));
        report.push(row("CPU per connection, both ends", "cpu_us", "us"));
    }
}

fn watch(variant: &str, count: usize) -> Option<Value> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program).args([CHILD, variant, &count.to_string()]).output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).ok()
}

/// Makes `count` connections of one kind and prints their cost.
pub fn child(variant: &str, count: &str) -> ExitCode {
    let Ok(count) = count.parse() else { return ExitCode::from(2) };
    room_for(count, 2);
    // One thread: the time includes the work of both ends, and no end waits for another core.
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{}", if variant == "tls" { tls(&runtime, count) } else { tcp(&runtime, count) });
    ExitCode::SUCCESS
}

/// Makes connections one after the other. Reports the time of each, and the memory of all once they are quiet.
fn told(runtime: &Runtime, make: impl Future<Output = Vec<Duration>>) -> Value {
    let (rss, cpu) = (resident(), cpu_micros());
    let (live, (mut took, cpu)) = held_by(|| {
        runtime.block_on(async {
            let took = make.await;
            let cpu = cpu_micros() - cpu;
            sleep(QUIET).await;
            (took, cpu)
        })
    });
    let ends = 2.0 * took.len() as f64;
    let rss = resident().saturating_sub(rss);
    took.sort();
    let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)].as_secs_f64() * 1e6;
    json!({
        "rss_kib": rss as f64 / 1024.0 / ends,
        "live_kib": live as f64 / 1024.0 / ends,
        "p50_us": at(0.50),
        "p99_us": at(0.99),
        "cpu_us": cpu / took.len() as f64,
    })
}

/// Two complete nodes without tickers: listener, dialer, pool, address book, sessions.
fn tls(runtime: &Runtime, count: usize) -> Value {
    let (here, there) = runtime.block_on(async {
        let there = BenchNode::start(&Shape { listens: true, ..Shape::masked(count) });
        let here = BenchNode::start(&Shape::masked(count));
        here.learn(there.port(), count);
        (here, there)
    });
    let port = there.port();
    told(runtime, async {
        let mut took = Vec::with_capacity(count);
        for at in 0..count {
            took.push(here.connect(at, port, || there.live()).await);
        }
        took
    })
}

/// A socket at each end, and an echoing task at one end.
fn tcp(runtime: &Runtime, count: usize) -> Value {
    let listener =
        runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of the system's choice is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let echoed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&echoed);
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let echoed = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut said = [0; ECHO];
                while stream.read_exact(&mut said).await.is_ok() && stream.write_all(&said).await.is_ok() {
                    echoed.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let mut streams = Vec::with_capacity(count);
    told(runtime, async {
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(address).await.expect("somebody listens");
            stream.write_all(&[7; ECHO]).await.expect("it is read");
            stream.read_exact(&mut [0; ECHO]).await.expect("it is echoed");
            took.push(begun.elapsed());
            streams.push(stream);
        }
        took
    })
}

/// Resident bytes of this process.
fn resident() -> usize {
    resident_of("self")
}

/// Resident bytes of the process with this id.
pub fn resident_of(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
