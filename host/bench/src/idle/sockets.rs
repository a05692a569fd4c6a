//! The same node with TLS sockets. The other ends are in separate processes, so that only one end is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper::config::Config;
use groundskeeper::node::{Maintenance, Options, builtins};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{PEERS, used_in};
use crate::nodes::{BenchNode, Far, Shape, room_for};

/// Our node with sockets. `stopped` of the peers do not run: their sockets stay open and take what fits.
pub async fn connected(time: Duration, stopped: usize) -> Value {
    room_for(PEERS, 1);
    let node = BenchNode::start(&Shape { listens: true, ..Shape::masked(PEERS) });
    let port = node.port();
    let mut far = Vec::new();
    for count in [PEERS - stopped, stopped] {
        if count > 0 {
            let started = spawn_blocking(move || Far::start(port, count)).await;
            let started = started.expect("nothing in it panics").expect("this program starts itself");
            if count == stopped {
                kill(Pid::from_raw(started.id() as i32), Signal::SIGSTOP).expect("it is our child");
            }
            far.push(started);
        }
    }
    assert_eq!(node.live(), PEERS);
    let pings = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pings);
    let options = Options {
        dialer: Some(node.net.dialer()),
        after_tick: Some(Box::new(move |_, report| {
            _ = counted.fetch_add(report.tally.pinged.into(), Relaxed)
        })),
        ..Options::default()
    };
    let phases = builtins(&Config::default().phases);
    let maintenance = Maintenance::start(&node.state, phases, options).expect("the built-ins are valid");
    let told = used_in(time, move || pings.load(Relaxed)).await;
    assert_eq!(node.live(), PEERS, "nobody is silent for long enough");
    maintenance.stop().await;
    told
}
