//! Tells a config file that is empty during a save from one that is meant to be empty.

use std::path::Path;
use std::time::Duration;

use groundskeeper_base::read::read_regular_text;

use crate::config::{MOST_CONFIG_BYTES, has_keys};

/// How long a config file must stand without a key before a running node takes it for "all defaults". Programs that write a
/// file in place leave it empty for milliseconds, a copy over a slow network for seconds. `reload` and SIGHUP do not wait.
const STANDS: Duration = Duration::from_secs(10);

/// Since when a config file has had no key.
#[derive(Default, Debug)]
pub(super) struct EmptyConfig {
    since: Option<Duration>,
}

impl EmptyConfig {
    /// Looks at the `config` before it is read: files have come to rest, or none was read since the start. If it has no key
    /// and has not stood long enough, returns how long to wait. `now` is the time since any fixed moment. `is_change`: the file
    /// may have had keys before.
    pub fn hold_back(&mut self, config: Option<&Path>, is_change: bool, now: Duration) -> Option<Duration> {
        let is_empty = config.is_some_and(|config| {
            read_regular_text(config, MOST_CONFIG_BYTES).is_ok_and(|text| !has_keys(&text))
        });
        if !is_empty {
            self.since = None;
            return None;
        }
        if self.since.is_none() && is_change {
            tracing::warn!(
                "the config file has no key; unless `groundskeeper reload` orders it, it takes effect in {STANDS:?}"
            );
        }
        let left = (*self.since.get_or_insert(now) + STANDS).saturating_sub(now);
        if left.is_zero() {
            self.since = None;
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_without_a_key_waits_and_one_with_a_key_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let mut held = EmptyConfig::default();
        let mut hold = |seconds| {
            held.hold_back(Some(&path), true, Duration::from_secs(seconds)).map(|left| left.as_secs())
        };
        for empty in ["", "\n", "# the first block of a long comment\n"] {
            std::fs::write(&path, empty).unwrap();
            assert_eq!([hold(100), hold(104), hold(110)], [Some(10), Some(6), None], "{empty:?}");
            // The save ends in time: nothing was applied in between, and the next one waits from its own beginning.
            assert_eq!([hold(200), hold(209)], [Some(10), Some(1)]);
            std::fs::write(&path, "[node]\n").unwrap();
            assert_eq!(hold(209), None);
        }
        // What cannot be read is a problem of the config and changes nothing.
        std::fs::write(&path, "[node").unwrap();
        assert_eq!(hold(300), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(hold(300), None);
    }
}
