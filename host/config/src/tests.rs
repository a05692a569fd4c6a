use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

fn shipped() -> String {
    std::fs::read_to_string(folder().join("groundskeeper.toml")).unwrap()
}

/// The example config with its optional keys uncommented.
fn shipped_with_optional_keys() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(inner) if is_key(inner) => format!("{inner}\n"),
        _ => format!("{line}\n"),
    };
    shipped().lines().map(uncomment).collect()
}

fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(table) => table.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            leaves(value, &path, found);
        }),
        None => _ = found.insert(path.to_owned()),
    }
}

fn problems(text: &str) -> Vec<String> {
    Config::parse(text, "x").unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(Config::parse(&shipped(), "groundskeeper.toml"), Ok(Config::default()));
}

/// An empty file means the defaults of each crate.
#[test]
fn sections_default_to_what_their_crates_do() {
    let config = Config::default();
    let least = config.pool.least;
    assert_eq!(config.pool, PoolSettings::default().resolved(false));
    assert_eq!(config.net, NetSettings::default());
    assert_eq!(config.book, BookLimits::default());
    assert_eq!(config.broadcasts, BroadcastLimits::default());
    assert_eq!(config.journal, JournalSettings::default());
    assert_eq!(config.journal.limits(), Default::default());
    assert_eq!(config.performance, Performance::default());
    assert_eq!(config.guests.ceilings(least), groundskeeper_engine::policy::GuestCeilings::default());
    assert_eq!(config.phases, BuiltInPhases::default());
    assert_eq!(config.node, NodeSettings::default());
    assert_eq!(config.admin, AdminSection::default());
    assert_eq!(config.shutdown, ShutdownSettings::default());
}

/// Keys with another name in the file than in the struct are read into their fields, and none is left out.
#[test]
fn every_section_reads_what_it_writes() {
    let written = serde_json::to_value(Config::unresolved()).unwrap();
    let again: Config = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(again).unwrap(), written);
}

#[test]
fn times_that_are_left_out_follow_those_that_are_written() {
    let of = |text| Config::parse(text, "x").unwrap().performance.timeouts;
    let ms = |n| Some(Duration::from_millis(n));
    assert_eq!(of("[performance.timeouts.block]\nbase_timeout = \"2s\"\n")["block"].least, ms(2000));
    assert_eq!(of("[performance.timeouts.default]\nbase_timeout = \"9s\"\n")["default"].least, ms(250));
    assert_eq!(of("[performance.timeouts.default]\nbase_timeout = \"9ms\"\n")["default"].least, ms(9));
}

#[test]
fn the_shipped_file_has_every_key_and_no_other() {
    let file: Value = toml::from_str(&shipped_with_optional_keys()).unwrap();
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    leaves(&file, "", &mut written);
    leaves(&serde_json::to_value(Config::unresolved()).unwrap(), "", &mut known);
    assert_eq!(written, known);
    assert!(Config::parse(&shipped_with_optional_keys(), "x").is_ok());
}

/// The two profiles have the values of the plan that the project started from.
#[test]
fn profiles_are_read_and_say_what_they_say() {
    let profile = |name: &str| {
        let text = std::fs::read_to_string(folder().join(name)).unwrap();
        Config::parse(&text, name).unwrap().performance
    };
    let (much, soon) = (profile("high-throughput.toml"), profile("low-latency.toml"));
    let facts = |of: &Performance| {
        let Performance { backpressure, circuit_breaker, timeouts, .. } = of;
        let raft = timeouts["raft_message"];
        (
            (backpressure.max_pending, backpressure.enable_priority, backpressure.memory_pressure_threshold),
            (circuit_breaker.failures, circuit_breaker.open_for.as_secs(), circuit_breaker.successes),
            (raft.base.as_millis(), raft.least.unwrap().as_millis(), raft.most.as_millis(), raft.adaptive),
        )
    };
    assert_eq!(facts(&much), ((50_000, true, 0.9), (3, 30, 5), (200, 200, 2000, true)));
    assert_eq!(facts(&soon), ((10_000, true, 0.7), (2, 10, 2), (50, 50, 500, true)));
    let usual = Config::default().performance;
    assert_eq!((&much.retry, &much.timeouts["default"]), (&usual.retry, &usual.timeouts["default"]));
}

#[test]
fn the_shipped_file_names_every_range() {
    let (mut section, mut comment) = (String::new(), String::new());
    let mut told = BTreeSet::new();
    let bounds = bounds::all();
    for line in shipped_with_optional_keys().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
        } else if let Some((key, _)) = line.split_once(" = ") {
            let key = format!("{section}.{key}");
            if let Some((_, bound)) = bounds.iter().find(|(name, _)| *name == key) {
                assert!(comment.contains(&format!("Range: {bound}")), "{key}: {bound} is not in {comment:?}");
                told.insert(key);
            }
            comment.clear();
        }
    }
    assert_eq!(told.len(), bounds.len());
}

#[test]
fn each_invalid_file_gives_its_message() {
    let mut files: Vec<_> =
        std::fs::read_dir(folder().join("invalid")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        let found: Vec<String> =
            Config::parse(&text, &name).unwrap_err().iter().map(ToString::to_string).collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() && found.len() == expected.len() {
            let lines = text.lines().skip(expected.len()).map(str::to_owned);
            let heads = found.iter().map(|message| format!("# expect: {message}"));
            std::fs::write(&path, heads.chain(lines).map(|line| line + "\n").collect::<String>()).unwrap();
            continue;
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn five_mistakes_are_five_problems() {
    let name = folder().join("invalid/five-mistakes.toml");
    let found = Config::load(&name).unwrap_err();
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|problem| problem.line.is_some() && problem.column.is_some()));
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_is_the_one_in_the_repository() {
    let golden = folder().join("schema.json");
    let now = format!("{:#}\n", schema());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &now).unwrap();
    }
    let stored = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        stored == now,
        "config/schema.json is old: run this test with UPDATE_GOLDEN=1 and look at the diff"
    );
}

#[test]
fn every_list_element_and_every_setting_is_told() {
    let text = "[net]\nlisten = [\"a\", \"[::]:1\", \"b\"]\n[phases.reaper.settings]\nmax_per_run = 0\nstale_after = \"1d1s\"\n";
    let found = problems(text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found
            .iter()
            .all(|line| line.starts_with("x:2: ") || line.starts_with("x:4: ") || line.starts_with("x:5: "))
    );
}

#[test]
fn flags_go_over_the_file_and_are_checked_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(&path, "[node]\ninterval = \"10s\"\n").unwrap();
    let with = |interval| {
        Config::load_with(Some(&path), &Overrides { interval: Some(interval), ..Overrides::default() })
    };
    assert_eq!(with(Span::secs(1)).unwrap().node.interval, Duration::from_secs(1));
    let found = with(Span::hours(2)).unwrap_err();
    assert_eq!(found[0].to_string(), "--interval: 2h is out of range: 100ms to 1h");
    assert!(Config::load(&folder.path().join("none")).unwrap_err()[0].message.contains("cannot be read"));
}

#[test]
fn private_networks_are_one_group() {
    let of = |text| Config::parse(text, "x").unwrap().pool.max_per_group.unwrap();
    assert_eq!((of(""), of("[net]\nallow_private = true\n")), (64, 1024));
    assert_eq!(of("[pool]\nmax_connections = 10\n"), 10);
}

#[test]
fn adaptive_cadences_choose_by_connections() {
    let cadence = &Config::default().phases.reconnect.schedule.cadence;
    assert_eq!([0, 4, 5, 7, 8, 9999].map(|n| cadence.every_n_ticks(n)), [1, 1, 2, 2, 4, 4]);
}

#[test]
fn bootstrap_nodes_print_as_they_are_written() {
    let id = groundskeeper_base::peer::PeerId::from_bytes([7; 32]);
    for text in ["seed.example:7420", "[2001:db8::1]:7420", "10.0.0.1:1"] {
        assert_eq!(text.parse::<Bootstrap>().unwrap().to_string(), text);
        let with_id = format!("{id}@{text}");
        assert_eq!(with_id.parse::<Bootstrap>().unwrap().to_string(), with_id);
    }
    for text in ["", "host", "host:0", "host:70000", "::1:7420", "x@host:1", ":1", "[::1:7", "a b:1"] {
        assert!(text.parse::<Bootstrap>().is_err(), "{text:?}");
    }
}

/// The first problems are listed with their suggestions; finding the others takes no time worth mentioning.
#[test]
fn problems_without_end_are_counted_and_the_first_are_listed() {
    let unknown: String = (0..60_000).map(|n| format!("max_connection{n} = 1\n")).collect();
    let torn: String = (0..100_000).map(|n| format!("= {n}\n")).collect();
    let wrong = format!("[net]\nlisten = [{}]\n", "\"x\",".repeat(20_000));
    let kinds: String = (0..20_000).map(|n| format!("[performance.timeouts.k{n}]\nx = 1\n")).collect();
    for (text, least) in [
        (format!("[pool]\n{unknown}"), 60_000),
        (unknown, 60_000),
        (torn, 10_000),
        (wrong, 100),
        (kinds, 1000),
    ] {
        let found = problems(&text);
        let (last, listed) = found.split_last().unwrap();
        assert!(listed.len() <= 100, "{}", listed.len());
        let more = last.strip_prefix("x: and ").and_then(|more| more.strip_suffix(" more problems"));
        let more: usize = more.map_or(1, |more| more.parse().unwrap());
        assert!(listed.len() + more >= least, "{last}");
        assert!(found.iter().map(String::len).sum::<usize>() < 200_000);
    }
    let found =
        problems(&format!("[pool]\n{}", (0..200).map(|n| format!("leest{n:03} = 1\n")).collect::<String>()));
    assert_eq!(found[0], "x:2: pool.leest000: unknown key; did you mean \"least\"?");
    assert_eq!(found[100], "x: and 100 more problems");
}

#[test]
fn a_long_key_or_value_is_shown_by_its_beginning() {
    let long = "k".repeat(500_000);
    for text in [
        format!("{long} = 1\n"),
        format!("[node]\nnetwork = \"{long}\"\n"),
        format!("[net]\nbootstrap = [\"{long}\"]\n"),
        format!("[log]\nlevel = \"{long}\"\n"),
        format!("[\"{long}\"]\na = 1\n"),
        format!("a{} = 1", ".a".repeat(200_000)),
        format!("a = {}", "[".repeat(500_000)),
        format!("a = {}", "{ b = ".repeat(80_000)),
    ] {
        let found = problems(&text);
        assert!(found.iter().all(|problem| problem.len() < 5_000), "{}", &found[0][..200]);
    }
}

#[test]
fn what_is_no_regular_file_or_too_large_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.toml");
    std::fs::File::create(&large).unwrap().set_len(4 << 30).unwrap();
    let of = |path: &Path| Config::load(path).unwrap_err()[0].message.clone();
    assert_eq!(of(&large), "cannot be read: it is too large: 4 GiB, and at most 1 MiB are read");
    assert_eq!(of(folder.path()), "cannot be read: it is a folder, not a regular file");
    assert_eq!(of(Path::new("/dev/zero")), "cannot be read: it is a device, not a regular file");
    let manifest = ManifestFile::read(large).manifest.unwrap_err();
    assert_eq!(manifest[0].message, "cannot be read: it is too large: 4 GiB, and at most 1 MiB are read");
}

proptest! {
    /// No text causes a panic, and every refusal has a reason.
    #[test]
    fn any_text_is_read_or_refused(at in 0usize..6000, junk in "\\PC{0,12}", cut in any::<bool>()) {
        let mut text = shipped();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        text.insert_str(at, &junk);
        if cut {
            text.truncate(at + junk.len());
        }
        if let Err(problems) = Config::parse(&text, "x") {
            prop_assert!(!problems.is_empty());
        }
    }
}
