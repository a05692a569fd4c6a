//! Signs of life for systemd's watchdog, as long as the ticker works. Independent of the interval: a tick may be an hour
//! apart from the next, and a stuck ticker is noticed within the watchdog's time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::clock::Clock;
use groundskeeper::node::Node;
use groundskeeper::ticker::TickerHandle;
use tokio::time::{sleep, timeout};

use super::notify;

/// Looks at the ticker of one node.
struct Watchdog {
    /// Half the time in which the watchdog expects a sign, as sd_watchdog_enabled(3) recommends.
    period: Duration,
    ticker: TickerHandle,
    clock: Arc<dyn Clock>,
    /// Monotonic time at which the node started.
    started: Duration,
}

/// Sends a sign of life per period while the ticker of `node` works. Waits for ever if systemd expects none.
pub(super) async fn feed(node: &Node) -> Infallible {
    let Some(expected) = notify::watchdog() else { return std::future::pending().await };
    let watchdog = Watchdog::new(node, expected / 2);
    loop {
        match watchdog.look().await {
            Ok(()) => {
                notify::alive();
                sleep(watchdog.period).await;
            }
            Err(why) => tracing::error!(why, "systemd's watchdog gets no sign of life and may end this node"),
        }
    }
}

impl Watchdog {
    fn new(node: &Node, period: Duration) -> Self {
        let (ticker, clock) = (node.maintenance().handle().clone(), Arc::clone(&node.state().clock));
        let started = clock.mono();
        Self { period, ticker, clock, started }
    }

    /// Whether the ticker answers within a period, and no tick is overdue. If not, the reason, after a period.
    async fn look(&self) -> Result<(), String> {
        // Between two beats the ticker answers at once.
        match timeout(self.period, self.ticker.with_cycle(|_| ())).await {
            Err(_) => return Err(format!("the ticker has not answered for {:?}", self.period)),
            Ok(None) => {
                sleep(self.period).await;
                return Err("the ticker has ended".to_owned());
            }
            Ok(Some(())) => {}
        }
        match self.ticker.stats().overdue(self.started, self.clock.mono()) {
            None => Ok(()),
            Some(ago) => {
                sleep(self.period).await;
                Err(format!("no tick has ended for {} s", ago.as_secs()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use groundskeeper::config::{Config, Overrides};
    use groundskeeper::data::DataFolder;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stuck_ticker_gives_no_sign_of_life_however_long_its_interval() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("node.toml");
        let config = "[node]\ninterval = \"20m\"\n[net]\nlisten = [\"127.0.0.1:0\"]\n\
                      [phases.reaper.settings]\nstale_after = \"1h\"\n";
        std::fs::write(&file, config).unwrap();
        let config = Config::load_with(Some(&file), &Overrides::default()).unwrap();
        let data = DataFolder::open(&home.path().join("data")).unwrap();
        let node = Node::builder().config(config).data_folder(data).start().await.unwrap();
        let patient = Watchdog::new(&node, Duration::from_secs(60));
        assert_eq!(patient.look().await, Ok(()));
        let (release, released) = channel::<()>();
        let (stuck_tx, stuck) = tokio::sync::oneshot::channel();
        let ticker = node.maintenance().handle().clone();
        let command = tokio::spawn(async move {
            let wait = move |_: &mut _| {
                _ = stuck_tx.send(());
                released.recv()
            };
            ticker.with_cycle(wait).await
        });
        stuck.await.unwrap();
        let hasty = Watchdog::new(&node, Duration::from_millis(50));
        for _ in 0..3 {
            let why = hasty.look().await.unwrap_err();
            assert!(why.starts_with("the ticker has not answered"), "{why}");
        }
        drop(release);
        command.await.unwrap();
        assert_eq!(patient.look().await, Ok(()), "it works again");
        node.shutdown(Duration::from_secs(10)).await;
    }
}
