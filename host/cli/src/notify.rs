//! Notifications to systemd, if it started the node. Does nothing elsewhere.

use std::time::Duration;

use sd_notify::NotifyState;

/// The node has started, or has reloaded its config: units that wait for this one may start.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A tick has ended. Sends one line for `systemctl status`.
pub fn tick_ended(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// A sign of life for the watchdog. Only [`super::watchdog`] sends it, so that systemd restarts a node with a stuck
/// ticker.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// A reload of the config begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "systemd could not be told"),
    }
}

/// Shutdown has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// How often the watchdog expects a sign of life, if it is on.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Marks the child process of the test, which has NOTIFY_SOCKET set.
    const CHILD: &str = "GROUNDSKEEPER_TEST_NOTIFY";

    #[test]
    fn systemd_hears_ready_watchdog_and_stopping() {
        if std::env::var_os(CHILD).is_some() {
            ready("started");
            tick_ended("tick 2");
            alive();
            stopping();
            assert_eq!(watchdog(), Some(Duration::from_secs(3)));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (_, module) = module_path!().split_once("::").expect("a crate's name is in front");
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::systemd_hears_ready_watchdog_and_stopping")])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "3000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let heard = || {
            let mut bytes = [0; 200];
            let length = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        assert_eq!(heard(), "READY=1\nSTATUS=started\n");
        assert_eq!(heard(), "STATUS=tick 2\n");
        assert_eq!(heard(), "WATCHDOG=1\n");
        assert_eq!(heard(), "STOPPING=1\n");
    }
}
