//! What reads a config and what starts a node agree: whatever is accepted starts, and is applied to a running node.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::config::{Config, Overrides, Problem};
use groundskeeper::journal::Initiator;
use groundskeeper::node::{ConfigSource, Node};
use groundskeeper_sdk::span::Span;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::runtime::Runtime;

/// Values at the edges of their ranges, beyond them, and such that contradict other keys.
const KEYS: [(&str, &str, &[&str]); 44] = [
    ("node", "network", &["\"a\"", "\"main-net\"", "\"\"", "\"Main\"", "\"a\\\"b\""]),
    ("node", "interval", &["\"100ms\"", "\"44s\"", "\"90s\"", "\"2m\"", "\"1h\"", "\"2h\"", "\"1ms\""]),
    ("pool", "max_connections", &["1", "4", "8", "1000", "0"]),
    ("pool", "max_inbound", &["0", "4", "1000", "1001"]),
    ("pool", "max_outbound", &["1", "8", "0"]),
    ("pool", "max_per_group", &["1", "64", "1024"]),
    ("pool", "least", &["0", "5", "9", "1000"]),
    ("pool", "most", &["1", "5", "8", "900"]),
    ("pool", "healthy_above", &["0", "99", "100"]),
    ("net", "max_frame", &["\"4 KiB\"", "\"4 MiB\"", "\"5 MiB\"", "\"1 KiB\""]),
    ("net", "queue_bytes", &["\"64 KiB\"", "\"1 MiB\"", "\"1 GiB\""]),
    ("net", "handshake_timeout", &["\"500ms\"", "\"1m\"", "\"2m\""]),
    ("net", "allow_private", &["true", "false"]),
    ("net", "advertise", &["[\"192.0.2.1:1\"]", "[\"0.0.0.0:1\"]", "[\"[ff02::1]:1\"]"]),
    ("net", "bootstrap", &["[\"127.0.0.1:1\"]", "[\"[::1]:1\"]", "[\"x\"]"]),
    ("book", "capacity", &["16", "300", "15"]),
    ("book", "per_source_group", &["1", "256", "4097"]),
    ("book", "backoff_first", &["\"100ms\"", "\"1h\"", "\"2h\""]),
    ("book", "backoff_most", &["\"1s\"", "\"7d\""]),
    ("broadcasts", "held", &["1", "16777216", "0"]),
    ("broadcasts", "window", &["\"1s\"", "\"1h\""]),
    ("journal", "notable", &["16", "15"]),
    ("journal", "file", &["\"journal.jsonl\""]),
    ("shutdown", "deadline", &["\"1s\"", "\"5m\"", "\"0s\""]),
    ("guests", "disconnects_per_tick", &["0", "40", "41", "4096"]),
    ("guests", "disconnects_per_hour", &["0", "4", "4096"]),
    ("guests", "floor", &["0", "1000"]),
    ("guests", "require", &["\"digest\"", "\"signature\""]),
    ("guests", "public_key", &["\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"", "\"x\""]),
    ("performance.retry", "first_wait", &["\"1ms\"", "\"1m\""]),
    ("performance.timeouts.default", "base_timeout", &["\"1ms\"", "\"31s\"", "\"5m\""]),
    ("performance.timeouts.block", "min_timeout", &["\"1ms\"", "\"11s\""]),
    ("phases.reaper", "enabled", &["false"]),
    ("phases.reaper.schedule", "every_n_ticks", &["2", "3", "1051200", "0", "[{ every_n_ticks = 4 }]"]),
    ("phases.reaper.schedule", "after", &["[\"reconnect\"]", "[\"reaper\"]", "[\"reeper\"]"]),
    ("phases.reaper.schedule", "before", &["[\"exchange-cleanup\"]", "[\"reconnect\"]"]),
    ("phases.reaper.settings", "stale_after", &["\"30s\"", "\"90s\"", "\"5m\"", "\"1d\"", "\"20s\""]),
    ("phases.reaper.settings", "ping_after", &["\"1s\"", "\"90s\"", "\"1h\""]),
    ("phases.reconnect.schedule", "after", &["[\"exchange-cleanup\"]", "[\"reaper\"]"]),
    ("phases.reconnect.schedule", "before", &["[\"reaper\"]"]),
    ("phases.reconnect.settings", "target", &["1", "5", "8", "2000", "0"]),
    ("phases.broadcast-cleanup.schedule", "before", &["[\"reaper\"]", "[\"exchange-cleanup\"]"]),
    ("phases.exchange-cleanup.schedule", "offset", &["119", "120", "1051200"]),
    ("phases.exchange-cleanup.settings", "forget_after", &["\"1s\"", "\"365d\"", "\"366d\""]),
];

const BUILT_IN: [&str; 4] = ["reaper", "reconnect", "broadcast-cleanup", "exchange-cleanup"];

/// A config, the built-in phases that have a manifest in place of their section, and a flag.
#[derive(Clone, Debug)]
struct Written {
    values: Vec<Option<usize>>,
    with_manifest: [bool; BUILT_IN.len()],
    interval: Option<Span>,
}

fn written(share: f64) -> impl Strategy<Value = Written> {
    let value = prop::option::weighted(share, any::<prop::sample::Index>());
    let values = prop::collection::vec(value, KEYS.len()).prop_map(|chosen| {
        let of = chosen.into_iter().zip(KEYS);
        of.map(|(index, (_, _, values))| index.map(|index| index.index(values.len()))).collect()
    });
    let interval = prop::option::weighted(0.2, prop::sample::select(vec![Span::secs(2), Span::secs(100)]));
    let parts = (values, any::<[bool; BUILT_IN.len()]>(), interval);
    parts.prop_map(|(values, with_manifest, interval)| Written { values, with_manifest, interval })
}

impl Written {
    /// Writes the files into `folder` and reads them as `check` and `run` do.
    fn read(&self, folder: &Path) -> Result<Config, Vec<Problem>> {
        let phases = folder.join("phases.d");
        std::fs::create_dir_all(&phases).unwrap();
        let mut config = String::new();
        let mut manifests = BUILT_IN.map(|name| format!("name = \"{name}\"\nkind = \"built-in\"\n"));
        let mut last = "";
        for ((section, key, values), value) in KEYS.iter().zip(&self.values) {
            let Some(value) = value else { continue };
            let at = BUILT_IN.iter().position(|name| section.split('.').nth(1) == Some(name));
            let (text, section, key, value) = match at.filter(|at| self.with_manifest[*at]) {
                None => (&mut config, *section, *key, values[*value]),
                Some(at) if *key == "enabled" => (&mut manifests[at], "", "mode", "\"off\""),
                Some(at) => {
                    let inner = section.rsplit('.').next().unwrap();
                    (&mut manifests[at], inner, *key, values[*value])
                }
            };
            if section.is_empty() {
                text.insert_str(0, &format!("{key} = {value}\n"));
                continue;
            }
            if *KEYS.iter().find(|(_, other, _)| *other == key).map_or(&"", |(of, ..)| of) != last
                || !text.contains(&format!("[{section}]\n"))
            {
                writeln!(text, "[{section}]").unwrap();
            }
            last = section;
            writeln!(text, "{key} = {value}").unwrap();
        }
        // Ports of this machine are not part of the question.
        let config = match config.split_once("[net]\n") {
            Some((before, after)) => format!("{before}[net]\nlisten = []\n{after}"),
            None => format!("{config}[net]\nlisten = []\n"),
        };
        for (at, name) in BUILT_IN.iter().enumerate() {
            let path = phases.join(name).with_extension("toml");
            if self.with_manifest[at] {
                std::fs::write(path, &manifests[at]).unwrap();
            } else {
                _ = std::fs::remove_file(path);
            }
        }
        let file = folder.join("node.toml");
        std::fs::write(&file, config).unwrap();
        let overrides = Overrides { interval: self.interval, phases: Some(phases), ..Overrides::default() };
        Config::load_with(Some(&file), &overrides)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// The start checks a config once more, because applications change configs in code.
    #[test]
    fn what_is_read_without_a_problem_passes_the_check_of_the_start(written in written(0.08)) {
        let folder = tempfile::tempdir().unwrap();
        match written.read(folder.path()) {
            Ok(config) => prop_assert_eq!(config.check("the application"), Ok(())),
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_without_a_problem_starts_and_is_taken_by_a_running_node(
        first in written(0.05),
        second in written(0.05),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (Ok(first), Ok(second)) = (first.read(folder.path()), second.read(folder.path())) else {
            return Err(TestCaseError::reject("not both are accepted"));
        };
        let runtime = Runtime::new().unwrap();
        runtime.block_on(start_and_change(folder.path(), first, second))?;
        runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

async fn start_and_change(folder: &Path, first: Config, second: Config) -> Result<(), TestCaseError> {
    let next = Arc::new(Mutex::new(first.clone()));
    let read = Arc::clone(&next);
    let source = ConfigSource {
        file: None,
        read: Box::new(move || Ok(read.lock().clone())),
        applied: Box::new(|_| ()),
    };
    let builder = Node::builder().config(first).data_dir(folder.join("data")).config_source(source);
    let node = builder.start().await.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let reconfigurer = Arc::clone(node.reconfigurer().expect("it has a source"));
    // The same config changes nothing.
    let same = reconfigurer.reconfigure(Initiator::Host, "a test").await;
    prop_assert!(same.changed.is_empty() && same.problems.is_empty(), "{:?}", same);
    *next.lock() = second;
    let report = reconfigurer.reconfigure(Initiator::Host, "a test").await;
    prop_assert_eq!(report.problems, Vec::<String>::new());
    let again = reconfigurer.reconfigure(Initiator::Host, "a test").await;
    prop_assert!(again.changed.is_empty() && again.problems.is_empty(), "{:?}", again);
    let steps = node.shutdown(Duration::from_secs(10)).await;
    prop_assert!(steps.iter().all(|step| step.trouble.is_none()), "{:?}", steps);
    Ok(())
}

/// Three missed pings of an interval of 90 s: the reaper's limit was compared with that of another config.
#[tokio::test]
async fn a_long_interval_with_a_reaper_to_match_starts() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "[node]\ninterval = \"10m\"\n[net]\nlisten = []\n[phases.reaper.settings]\nstale_after = \"1h\"\n";
    let config = Config::parse(text, "node.toml").unwrap();
    let node = Node::builder().config(config).data_dir(folder.path()).start().await.unwrap();
    node.shutdown(Duration::from_secs(10)).await;
}

/// Limits that wait for a start came into force with the next change of another key.
#[tokio::test]
async fn a_limit_that_waits_for_a_start_is_not_in_force_after_another_change() {
    let folder = tempfile::tempdir().unwrap();
    let parse =
        |pool: &str| Config::parse(&format!("[net]\nlisten = []\n[pool]\n{pool}"), "node.toml").unwrap();
    let first = parse("max_connections = 16\nmax_per_group = 4\n");
    let next = Arc::new(Mutex::new(first.clone()));
    let read = Arc::clone(&next);
    let source = ConfigSource {
        file: None,
        read: Box::new(move || Ok(read.lock().clone())),
        applied: Box::new(|_| ()),
    };
    let builder = Node::builder().config(first).data_dir(folder.path()).config_source(source);
    let node = builder.start().await.unwrap();
    let reconfigurer = Arc::clone(node.reconfigurer().expect("it has a source"));
    let limits = || {
        let limits = node.state().pool.limits();
        (limits.capacity, limits.inbound, limits.outbound)
    };
    let in_force = limits();

    // The node also looks by itself, so a report may find the change made.
    for (pool, expected) in [
        ("", in_force),
        ("healthy_above = 42", in_force),
        // A limit of its own changes at once.
        ("healthy_above = 42\nmax_outbound = 9", (in_force.0, in_force.1, 9)),
        ("healthy_above = 42", in_force),
    ] {
        *next.lock() = parse(&format!("max_connections = 64\nmax_per_group = 4\n{pool}"));
        let report = reconfigurer.reconfigure(Initiator::Host, "a test").await;
        assert_eq!(report.restart, ["pool.max_connections"]);
        assert!(!report.changed.iter().any(|key| key == "pool.max_inbound"), "{report:?}");
        assert_eq!(limits(), expected, "{pool}");
    }
    node.shutdown(Duration::from_secs(10)).await;
}
