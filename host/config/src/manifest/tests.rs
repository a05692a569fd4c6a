#[cfg(feature = "schema")]
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groundskeeper_engine::policy::*;
use groundskeeper_engine::schedule::Cadence;
use groundskeeper_phases::Reaper;
use groundskeeper_sdk::contract::{INTERFACES, Interface};
use groundskeeper_sdk::span::Span;
use proptest::prelude::*;

#[cfg(feature = "schema")]
use super::super::manifest_schema;
use super::super::{Config, Overrides};
use super::*;

fn config_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

fn example() -> String {
    std::fs::read_to_string(config_folder().join("manifest.toml")).unwrap()
}

fn guest(text: &str) -> GuestManifest {
    let text = format!("name = \"slow-peers\"\nkind = \"wasm\"\n{text}");
    match Manifest::parse(&text, "x.toml").unwrap().body {
        ManifestBody::Guest(guest) => *guest,
        ManifestBody::BuiltIn => panic!("it is a guest"),
    }
}

#[test]
fn grant_keys_are_the_interfaces_that_need_a_grant() {
    let needed: Vec<&str> = INTERFACES.iter().filter(|it| it.needs_grant).map(|it| it.name).collect();
    let unknown =
        Manifest::parse("name = \"a\"\nkind = \"wasm\"\n[grants]\nq = true\n", "x.toml").unwrap_err();
    let known = format!("known here are {}", needed.join(", "));
    assert_eq!(unknown[0].hint, Some(known), "of the contract: each grant by its interface, in its order");
    for one in &needed {
        let alone = guest(&format!("[grants]\ndisconnect = true\n{one} = true\n").replacen(
            if *one == "disconnect" { "disconnect = true\n" } else { "\0" },
            "",
            1,
        ));
        let interface = Interface::from_name(one).unwrap();
        assert!(alone.grants.allows(interface), "{one}");
        assert!(!Grants::default().allows(interface), "{one}");
    }
    let free = Interface::ALL.iter().filter(|interface| !interface.entry().needs_grant);
    assert!(free.clone().count() >= 2 && free.copied().all(|free| Grants::default().allows(free)));
    assert_eq!(Interface::from_name("no-such-interface"), None);
}

#[test]
fn the_line_that_asks_for_a_grant_can_be_written_into_a_manifest() {
    for interface in Interface::ALL.iter().copied() {
        let Some(line) = Grants::line(interface) else {
            assert!(!interface.entry().needs_grant, "{interface}");
            continue;
        };
        // No ban without the right to disconnect.
        let needs = if interface == Interface::Ban { "disconnect = true\n" } else { "" };
        let with_line = guest(&format!("[grants]\n{needs}{line}\n"));
        let with_true = guest(&format!("[grants]\n{needs}{interface} = true\n"));
        assert_eq!(with_line.grants, with_true.grants, "{line}");
    }
}

#[test]
fn the_example_has_every_key_and_true_means_its_numbers() {
    let text = example();
    let written = Manifest::parse(&text, "manifest.toml").unwrap();
    let ManifestBody::Guest(written) = written.body else { panic!("it is a guest") };
    let all = [
        "peers",
        "book",
        "broadcasts",
        "disconnect",
        "health",
        "ping",
        "dial",
        "protect",
        "ban",
        "forget",
        "cadence",
        "memory",
        "metrics",
    ];
    let all: String = all.iter().map(|name| format!("{name} = true\n")).collect();
    let mut usual = guest(&format!("[grants]\n{all}")).grants;
    // The only ceiling with a default that depends on the config.
    assert_eq!(usual.health.take().map(|health| health.floor), Some(None));
    usual.health = Some(HealthGrant { floor: Some(31), ..HealthGrant::default() });
    assert_eq!(written.grants, usual);
    assert_eq!((written.limits, written.on_failure), (Limits::default(), OnFailure::default()));
    assert_eq!(written.settings, r#"{"keep":8,"rtt_over":"800ms"}"#);
}

#[cfg(feature = "schema")]
#[test]
fn the_example_has_every_key_of_the_schema() {
    let (mut keys, mut known) = (BTreeSet::new(), BTreeSet::new());
    leaves(&toml::from_str(&example()).unwrap(), "", &mut keys);
    keys.retain(|key| !key.starts_with("settings."));
    schema_leaves(&manifest_schema(), "", &mut known);
    known.remove("settings");
    assert_eq!(keys, known);
}

#[test]
fn the_example_names_every_range() {
    let (mut section, mut comment, mut told) = (String::new(), String::new(), 0);
    for line in example().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            continue;
        } else if let Some((key, _)) = line.split_once(" = ") {
            let key = format!("{section}{key}");
            if let Some((_, bound)) = BOUNDS.iter().find(|(name, _)| *name == key) {
                assert!(comment.contains(&format!("Range: {bound}")), "{key}: {bound} is not in {comment:?}");
                told += 1;
            }
        }
        comment.clear();
    }
    assert_eq!(told, BOUNDS.len());
}

#[cfg(feature = "schema")]
fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(table) => table.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            leaves(value, &path, found);
        }),
        None => _ = found.insert(path.to_owned()),
    }
}

#[cfg(feature = "schema")]
fn schema_leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let table = schema.get("properties").or_else(|| schema.get("anyOf")?.get(1)?.get("properties"));
    match table.and_then(Value::as_object) {
        Some(table) => table.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            schema_leaves(value, &path, found);
        }),
        None => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn each_invalid_manifest_gives_its_messages() {
    let folder = config_folder().join("invalid-manifests");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 25);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        let found: Vec<String> =
            Manifest::parse(&text, &name).unwrap_err().iter().map(ToString::to_string).collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let moved = found.len().abs_diff(expected.len());
            assert!(moved == 0 || expected.is_empty(), "{name}: {found:#?}");
            let heads = "# expect:\n".repeat(if expected.is_empty() { found.len() } else { 0 });
            let found = Manifest::parse(&format!("{heads}{text}"), &name).unwrap_err();
            let heads = found.iter().map(|message| format!("# expect: {message}"));
            let lines = text.lines().skip(expected.len()).map(str::to_owned);
            std::fs::write(&path, heads.chain(lines).map(|line| line + "\n").collect::<String>()).unwrap();
            continue;
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_is_the_one_in_the_repository() {
    let golden = config_folder().join("manifest.schema.json");
    let now = format!("{:#}\n", manifest_schema());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &now).unwrap();
    }
    let stored = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        stored == now,
        "config/manifest.schema.json is old: run this test with UPDATE_GOLDEN=1 and look at the diff"
    );
}

#[test]
fn grants_are_true_false_or_a_table() {
    let found = guest(
        "[grants]\npeers = true\nbook = false\ndisconnect = { max_per_tick = 1 }\nping = true\nban = false\n\
         [grants.protect]\nmax_duration = \"10m\"\n",
    );
    let expected = Grants {
        peers: true,
        disconnect: Some(DisconnectGrant { max_per_tick: 1, ..DisconnectGrant::default() }),
        ping: Some(PingGrant::default()),
        protect: Some(ProtectGrant { max_duration: Duration::from_secs(600), ..ProtectGrant::default() }),
        ..Grants::default()
    };
    assert_eq!(found.grants, expected);
}

#[test]
fn what_is_left_out_has_its_default() {
    let manifest = Manifest::parse("name = \"a\"\nkind = \"wasm\"\n", "x.toml").unwrap();
    assert_eq!((manifest.mode, &manifest.schedule), (Mode::Enforce, &Schedule::every(1)));
    let ManifestBody::Guest(guest) = manifest.body else { panic!("it is a guest") };
    let expected = GuestManifest {
        runtime: Runtime::Wasm,
        module: "a.wasm".into(),
        sha256: None,
        instance: Instance::Fresh,
        grants: Grants::default(),
        limits: Limits::default(),
        on_failure: OnFailure::default(),
        settings: "{}".to_owned(),
    };
    assert_eq!(*guest, expected);
}

#[test]
fn settings_come_as_json() {
    let found = guest("[settings]\na = 0x10\nb = [1.5, true]\nc = { when = 2026-01-02 }\nd = \"x\"\n");
    assert_eq!(found.settings, r#"{"a":16,"b":[1.5,true],"c":{"when":"2026-01-02"},"d":"x"}"#);
}

#[test]
fn a_digest_is_32_bytes() {
    let found = guest(&format!("sha256 = \"{}\"\n", "Ab".repeat(32)));
    assert_eq!(found.sha256, Some([0xab; 32]));
}

const REAPER: &str = "name = \"reaper\"\nkind = \"built-in\"\n";

#[test]
fn a_built_in_keeps_its_usual_schedule_and_has_typed_settings() {
    let text = "name = \"reconnect\"\nkind = \"built-in\"\nmode = \"shadow\"\n[settings]\ntarget = 12\n";
    let manifest = Manifest::parse(text, "reconnect.toml").unwrap();
    assert!(matches!(manifest.schedule.cadence, Cadence::Adaptive(_)));
    assert_eq!(manifest.schedule.wake_on.len(), 1);
    assert_eq!((manifest.kind(), manifest.mode), ("built-in", Mode::Shadow));
    let config = Folder::of(&[("reconnect.toml", text)]).load("").unwrap();
    assert_eq!((config.phases.reconnect.settings.target, manifest.body), (12, ManifestBody::BuiltIn));
}

/// A folder of manifests, and beside it a config that names the folder.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.dir()).unwrap();
        for (name, text) in files {
            std::fs::write(folder.dir().join(name), text).unwrap();
        }
        folder
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("phases.d")
    }

    fn load(&self, config: &str) -> Result<Config, Vec<String>> {
        let path = self.0.path().join("node.toml");
        std::fs::write(&path, format!("{config}\n[guests]\ndir = \"phases.d\"\n")).unwrap();
        Config::load(&path).map_err(|problems| self.told(problems))
    }

    fn told(&self, problems: Vec<Problem>) -> Vec<String> {
        let here = format!("{}/", self.0.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&here, "")).collect()
    }

    fn read(&self) -> Vec<(String, Result<String, Vec<String>>)> {
        let named = |file: ManifestFile| {
            let path = file.path.file_name().unwrap().to_string_lossy().into_owned();
            (path, file.manifest.map(|manifest| manifest.name).map_err(|problems| self.told(problems)))
        };
        read_manifests(&self.dir()).into_iter().map(named).collect()
    }
}

#[test]
fn a_file_of_its_own_takes_the_place_of_a_built_ins_section() {
    let own = format!("{REAPER}[schedule]\nevery_n_ticks = 2\n[settings]\nstale_after = \"5m\"\n");
    let folder = Folder::of(&[
        ("reaper.toml", &own),
        ("cleanup.toml", "name = \"exchange-cleanup\"\nkind = \"built-in\"\nmode = \"off\"\n"),
    ]);
    let config = folder.load("").unwrap();
    let usual = Config::default().phases;
    assert_eq!(config.phases.reaper.schedule, Schedule::every(2));
    assert_eq!(config.phases.reaper.settings, Reaper { stale_after: Span::mins(5), ..Reaper::default() });
    assert_eq!(
        config.phases.exchange_cleanup,
        groundskeeper_engine::BuiltInPhase { mode: Mode::Off, ..usual.exchange_cleanup }
    );
    assert_eq!((&config.phases.reconnect, &config.guests.dir), (&usual.reconnect, &Some(folder.dir())));
    assert_eq!(config.stale_after(), Duration::from_secs(300));
}

#[test]
fn both_ways_at_once_name_both_files() {
    let folder = Folder::of(&[("reaper.toml", REAPER)]);
    let found = folder.load("[phases.reaper]\nenabled = true").unwrap_err();
    assert_eq!(
        found,
        [
            "node.toml:1: phases.reaper: this phase is configured by phases.d/reaper.toml too; remove one of them"
        ]
    );
}

#[test]
fn what_contradicts_the_config_is_told_where_it_is_written() {
    let stale = format!("{REAPER}[schedule]\nevery_n_ticks = 4\n");
    let found = Folder::of(&[("reaper.toml", &stale)]).load("").unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("phases.d/reaper.toml:4: schedule.every_n_ticks: stale_after = 90s"),
        "{found:?}"
    );

    let few = "name = \"reconnect\"\nkind = \"built-in\"\n[settings]\ntarget = 2\n";
    let found = Folder::of(&[("reconnect.toml", few)]).load("").unwrap_err();
    assert!(found[0].starts_with("phases.d/reconnect.toml:4: settings.target: "), "{found:?}");

    let circle = format!("{REAPER}[schedule]\nbefore = [\"reconnect\"]\n");
    let folder = Folder::of(&[("reaper.toml", &circle)]);
    let found = folder.load("[phases.reconnect.schedule]\nbefore = [\"reaper\"]").unwrap_err();
    assert_eq!(
        found,
        [
            "node.toml:2: phases.reconnect.schedule.before: reconnect would have to run before itself",
            "phases.d/reaper.toml:4: schedule.before: reaper would have to run before itself",
        ]
    );
}

#[test]
fn a_broken_file_of_a_built_in_is_a_problem_of_the_config_and_a_guests_is_not() {
    let broken =
        [("reaper.toml", "mode = shadow\n"), ("other.toml", "name = \"other\"\nkind = \"wasm\"\nx = 1\n")];
    let found = Folder::of(&broken).load("").unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("phases.d/reaper.toml:1: not TOML"), "{found:?}");
    let folder = Folder::of(&broken[1..]);
    assert!(folder.load("").is_ok());
    let (_, refused) = &folder.read()[0];
    assert_eq!(refused.as_ref().unwrap_err().len(), 1);
}

#[test]
fn of_two_files_with_one_name_the_one_that_is_called_so_stays() {
    let text = "kind = \"wasm\"\nname = \"b\"\n";
    let found = Folder::of(&[("a.toml", text), ("b.toml", text), ("c.toml", text)]).read();
    let expected = |file: &str| {
        let problem = format!(
            "phases.d/{file}:2: name: the name \"b\" is taken by phases.d/b.toml; give one of them another name"
        );
        (file.to_owned(), Err(vec![problem]))
    };
    assert_eq!(found, [expected("a.toml"), ("b.toml".to_owned(), Ok("b".to_owned())), expected("c.toml")]);
    let found = Folder::of(&[("x.toml", text), ("y.toml", text)]).read();
    assert!(found[0].1.is_ok() && found[1].1.is_err());
}

#[test]
fn a_module_without_a_manifest_is_told_which_to_write() {
    let folder = Folder::of(&[
        ("a.toml", "name = \"a\"\nkind = \"wasm\"\nmodule = \"./other.wasm\"\n"),
        ("other.wasm", ""),
        ("Slow_Peers.wasm", ""),
        ("topology.so", ""),
        (".draft.wasm", ""),
        ("notes.txt", ""),
        // Cannot be read, but is clearly for this module.
        ("torn.toml", "name = torn\n"),
        ("torn.wasm", ""),
    ]);
    let found = folder.read();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Slow_Peers.wasm", "a.toml", "topology.so", "torn.toml"]);
    for (file, name) in [(0, "slow-peers"), (2, "topology")] {
        let problem = &found[file].1.as_ref().unwrap_err()[0];
        assert!(problem.contains(&format!("write {name}.toml beside it")), "{problem}");
        let (_, draft) = problem.split_once("a start:\n").unwrap();
        let draft = draft.replace("what `sha256sum topology.so` says", &"0".repeat(64));
        let manifest = Manifest::parse(&draft, "draft.toml").unwrap();
        assert_eq!(
            (manifest.name.as_str(), manifest.mode),
            (name, Mode::Shadow),
            "the draft is a whole manifest"
        );
    }
}

#[test]
fn a_folder_that_is_named_must_be_there_and_the_usual_one_need_not() {
    let home = tempfile::tempdir().unwrap();
    let usual = Overrides { usual_data_dir: Some(home.path().to_owned()), ..Overrides::default() };
    assert_eq!(Config::load_with(None, &usual).unwrap().guests.dir, Some(home.path().join("phases.d")));
    let named = Overrides { phases: Some(home.path().join("none")), ..usual };
    let found = Config::load_with(None, &named).unwrap_err();
    assert!(found[0].to_string().starts_with("--phases: there is no folder"), "{found:?}");
    let config = home.path().join("node.toml");
    std::fs::write(&config, "[guests]\ndir = \"none\"\n").unwrap();
    let found = Config::load(&config).unwrap_err();
    assert!(found[0].to_string().contains("node.toml:2: guests.dir: there is no folder"), "{found:?}");
}

proptest! {
    /// No text causes a panic, and every refusal has a reason.
    #[test]
    fn any_text_is_read_or_refused(at in 0_usize..6000, junk in "\\PC{0,12}", cut in any::<bool>()) {
        let mut text = example();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        text.insert_str(at, &junk);
        if cut {
            text.truncate(at + junk.len());
        }
        if let Err(problems) = Manifest::parse(&text, "x") {
            prop_assert!(!problems.is_empty());
        }
    }
}
