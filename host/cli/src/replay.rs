//! `replay`: runs a recording again, or tries another phase on it. Prints only; the comparison is elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use groundskeeper::base::read::read_regular;
use groundskeeper::config::{Config, ManifestBody, Overrides, read_manifests};
use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::wasm::{Code, Guest, GuestSetup, MOST_BYTES, Wasm, sha256};
use groundskeeper::engine::{Compiler, PhaseProgram};
use groundskeeper::node::builtins;
use groundskeeper::record::{
    self, ActionCount, DroppedConnection, Fixture, RecordedBeat, Recording, RecordingExtent, Report, RunInfo,
    WhatIfPhase, WhatIfReport,
};
use groundskeeper_author::InspectedModule;

use super::output::print_json;
use super::show::{age, printable, table};
use super::{ReplayArgs, answer, code, exit, load_config, usual_data_dir};

/// Maximum number of peers listed on a terminal; `--json` lists all.
const LISTED: usize = 20;

pub(super) fn replay(args: &ReplayArgs, compiler: &Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let recording = Recording::open(&args.file)?;
    if let Some(tick) = args.dump {
        let beat = recording.beat(tick)?;
        print_json(&fixture(&beat, args.seen_by.as_deref())?.to_json())?;
        return Ok(ExitCode::SUCCESS);
    }
    let wasm = code::engine(compiler, args.config.as_deref(), None)?;
    let Some(phase) = &args.phase else {
        let modules = Modules::of(args, wasm)?;
        let report = record::replay(&recording, &|info| record::builtin(info).or_else(|| modules.find(info)));
        return answer(&report, exit::done_if(report.different() == 0), json, again);
    };
    let candidate = candidate(phase, args.config.as_deref(), &wasm)?;
    answer(&record::what_if(&recording, &candidate, args.within), exit::DONE, json, what_if)
}

/// Components that may have run as recorded phases, by digest.
struct Modules {
    wasm: Wasm,
    codes: RefCell<BTreeMap<[u8; 32], Option<Arc<Code>>>>,
    files: BTreeMap<[u8; 32], (PathBuf, Limits)>,
}

impl Modules {
    /// The components of the drop-in folder; none if there is no such folder.
    fn of(args: &ReplayArgs, wasm: Wasm) -> anyhow::Result<Self> {
        let overrides = Overrides {
            phases: args.phases.clone(),
            usual_data_dir: usual_data_dir(),
            ..Overrides::default()
        };
        let folder = match &args.phases {
            Some(folder) => Some(folder.clone()),
            None => Config::load_with(args.config.as_deref(), &overrides)
                .ok()
                .and_then(|config| config.guests.dir),
        };
        let files = folder.iter().flat_map(|folder| read_manifests(folder)).filter_map(|file| {
            let module = file.module()?;
            let ManifestBody::Guest(guest) = file.manifest.ok()?.body else { return None };
            let bytes = read_regular(&module, MOST_BYTES as u64).ok()?;
            Some((sha256(&bytes).0, (module, guest.limits)))
        });
        Ok(Self { wasm, codes: RefCell::default(), files: files.collect() })
    }

    /// The component that ran as `info`, with its settings of that time.
    fn find(&self, info: &RunInfo) -> Option<Arc<dyn PhaseProgram>> {
        let digest = info.digest?;
        let (file, limits) = self.files.get(&digest)?;
        let load = || self.wasm.load(&read_regular(file, MOST_BYTES as u64).ok()?).ok();
        let code = self.codes.borrow_mut().entry(digest).or_insert_with(load).clone()?;
        let setup = GuestSetup {
            settings: info.settings.clone()?,
            limits: *limits,
            // Missing grants show in the recorded asks; linking needs every grant.
            grants: Grants::everything(),
            instance: Instance::Fresh,
        };
        Some(Arc::new(Guest::new(&self.wasm, code, setup).ok()?))
    }
}

/// The phase to try: a component set up by its manifest, or a built-in set up by the config.
fn candidate(name: &OsStr, config: Option<&Path>, wasm: &Wasm) -> anyhow::Result<WhatIfPhase> {
    let file = Path::new(name);
    if file.is_file() {
        let subject = InspectedModule::load(file, wasm)?;
        let (name, schedule) = subject.named(file);
        return Ok(WhatIfPhase { name, body: Arc::new(subject.guest()?), schedule });
    }
    let config = load_config(config, &Overrides::default())?;
    let specs = builtins(&config.phases);
    let known: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    let found = specs.into_iter().find(|spec| *spec.name == *name);
    let candidate =
        found.map(|spec| WhatIfPhase { name: spec.name, body: spec.body, schedule: spec.schedule });
    candidate.with_context(|| format!("there is no phase {name:?}; there are {}", known.join(", ")))
}

fn fixture(beat: &RecordedBeat, phase: Option<&str>) -> anyhow::Result<Fixture> {
    let Some(phase) = phase else { return Ok(Fixture::of_beat(beat)) };
    let Some(run) = beat.runs.iter().find(|run| run.phase.name == phase) else {
        let ran: Vec<&str> = beat.runs.iter().map(|run| run.phase.name.as_str()).collect();
        bail!("{phase:?} did not run in {}; there ran {}", beat.moment.called(), ran.join(", "));
    };
    Ok(Fixture::of_run(beat, run))
}

fn when(unix_s: u32) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s.into())).to_string()
}

fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn extent(extent: &RecordingExtent) -> String {
    let RecordingExtent {
        recording, beats, urgent, first_tick, last_tick, first_unix_s, last_unix_s, ..
    } = extent;
    let RecordingExtent { sessions, gaps, damage, torn_bytes, .. } = extent;
    let mut text = format!("{recording}: {}", counted(*beats, "beat"));
    if *urgent > 0 {
        text += &format!(", {urgent} of them urgent");
    }
    if *beats > 0 {
        let long = age(last_unix_s.saturating_sub(*first_unix_s).into());
        text += &format!("; tick {first_tick} to {last_tick}, {long} from {}", when(*first_unix_s));
    }
    if *sessions > 1 {
        text += &format!(", {sessions} processes");
    }
    text.push('\n');
    for gap in gaps {
        let beats = counted(gap.beats.into(), "beat");
        text +=
            &format!("  {beats} left out, tick {} to {}: the disk was slow\n", gap.first_tick, gap.last_tick);
    }
    for one in damage {
        let records = counted(one.records.into(), "record");
        text += &format!("  {records} cannot be read from byte {} on: {}\n", one.at, one.why);
    }
    if *torn_bytes > 0 {
        text +=
            &format!("  the last {} are of a record that was not finished\n", counted(*torn_bytes, "byte"));
    }
    text
}

fn again(report: &Report) -> String {
    let mut text = extent(&report.extent) + "\n";
    let head = ["PHASE", "VERSION", "KIND", "RUNS", "IDENTICAL", "DIFFERENT", "SKIPPED"];
    let rows = report.phases.iter().map(|phase| {
        let words = [&phase.name, &phase.version, &phase.kind].map(|word| printable(word));
        let numbers = [phase.runs, phase.identical, phase.different, phase.skipped];
        words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    });
    text += &table(&head, rows);
    for phase in &report.phases {
        if let Some(why) = &phase.why {
            text += &format!("{}: skipped, for {}\n", printable(&phase.name), printable(why));
        }
    }
    for one in &report.differences {
        let urgent = if one.urgent > 0 { format!(" urgent {}", one.urgent) } else { String::new() };
        text += &format!("\ntick {}{urgent}, {}  {}\n", one.tick, when(one.unix_s), printable(&one.phase));
        one.lines.iter().for_each(|line| text += &format!("  {}\n", printable(line)));
    }
    let (different, told) = (report.different(), report.differences.len() as u64);
    text.push('\n');
    text += &match different {
        0 if report.phases.iter().all(|phase| phase.identical == 0) => "nothing was run again\n".to_owned(),
        0 => "every run that was repeated was the same, bit for bit\n".to_owned(),
        _ if different > told => {
            format!("{} different; the first {told} are shown\n", counted(different, "run"))
        }
        _ => format!("{} different\n", counted(different, "run")),
    };
    text
}

fn what_if(report: &WhatIfReport) -> String {
    let mut text = extent(&report.extent);
    let name = printable(&report.phase);
    let place = if report.in_place_of_its_namesake {
        "in the place of the recorded one"
    } else {
        "behind the recorded ones"
    };
    text += &format!("{name} would have run {}, {place}", counted(report.runs, "time"));
    text += &match &report.first_failure {
        None => "\n".to_owned(),
        Some(first) => {
            let (how, words) = (first.how, printable(&first.text));
            format!(
                " and failed {}, first at tick {}: {how}: {words}\n",
                counted(report.failed, "time"),
                first.tick
            )
        }
    };
    let head = ["ACTION", "IT WOULD ASK", "RECORDED ASKED", "OF THAT APPLIED"];
    let rows = report.actions.iter().map(|ActionCount { action, would_ask, did_ask, did_apply }| {
        let numbers = [would_ask, did_ask, did_apply].map(|number| number.to_string());
        [(*action).to_owned()].into_iter().chain(numbers).collect()
    });
    text += &format!("\n{}", table(&head, rows));

    let agreement = report.agreement;
    text += &format!(
        "\nit would have dropped {}; the recorded phases dropped {} of them within {} ticks, {} later, {} never\n",
        counted(report.would_drop.len() as u64, "connection"),
        agreement.soon,
        agreement.within_ticks,
        agreement.later,
        agreement.never
    );
    text += &dropped(&report.would_drop, true);
    let did = counted(report.did_drop.len() as u64, "connection");
    text += &format!("\nthe recorded phases dropped {did}\n");
    text += &dropped(&report.did_drop, false);
    text
}

fn dropped(all: &[DroppedConnection], would: bool) -> String {
    if all.is_empty() {
        return String::new();
    }
    let (third, last) = if would { ("TIMES", "DROPPED AT") } else { ("BY", "") };
    let head = ["PEER", "ADDRESS", third, "TICK", "REASON", last];
    let rows = all.iter().take(LISTED).map(|one| {
        let third = if would { one.times.to_string() } else { printable(&one.by) };
        let at = one.dropped_at_tick.map_or("never".to_owned(), |tick| tick.to_string());
        let last = if would { at } else { String::new() };
        let id: String = one.id.chars().take(10).collect();
        let address = printable(&one.address);
        vec![printable(&id), address, third, one.first_tick.to_string(), printable(&one.reason), last]
    });
    let mut text = table(&head, rows);
    if all.len() > LISTED {
        text += &format!("... and {} more with --json\n", all.len() - LISTED);
    }
    text
}
