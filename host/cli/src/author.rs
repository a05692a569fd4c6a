//! The commands for authors of phases: their output. The work is done in `author`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use groundskeeper::base::read::open_regular;
use groundskeeper::config::{Overrides, is_manifest};
use groundskeeper::engine::Compiler;
use groundskeeper::engine::wasm::{LoadError, Sizes};
use groundskeeper::record::{Event, Fixture, Recording};
use groundskeeper_author::{
    self as author, BuildOutput, DryRun, Inspection, InstalledFiles, Lang, LoadPreview, TrialReport,
};
use serde::Serialize;

use super::output::{ClosedOutput, complain, print, with_sources};
use super::{
    BadConfig, BuildArgs, InstallArgs, NewArgs, NoFolder, NodeArgs, TestArgs, TryArgs, answer, ask, exit,
    load_config, without_manifests,
};
use super::{check, code};

pub(super) fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let sdk = args.sdk.clone().or_else(author::sdk_nearby);
    let folder = author::create(Path::new("."), &args.name, args.lang, sdk.as_deref())?;
    let folder = folder.strip_prefix(".").unwrap_or(&folder).display();
    let what = match args.lang {
        Lang::Rust => "a phase with a test, a manifest and a view to try it on",
        Lang::C => "a phase in C, a manifest and a view to try it on",
    };
    print(&format!("{folder}: {what}\nnext: cd {folder} && groundskeeper build && groundskeeper test\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct BuiltJson<'a> {
    #[serde(serialize_with = "groundskeeper::base::paths::lossy")]
    file: &'a Path,
    sha256: String,
    sizes: Option<Sizes>,
}

pub(super) fn build(args: &BuildArgs, json: bool) -> anyhow::Result<ExitCode> {
    let out = args.out.as_deref();
    let BuildOutput { file, digest, sizes } = if args.native {
        author::build_native(&args.folder, out, &mut note)?
    } else {
        author::build(&args.folder, out, &mut note)?
    };
    let built = BuiltJson { file: &file, sha256: digest.to_string(), sizes };
    answer(&built, exit::DONE, json, |BuiltJson { file, sha256, sizes }| {
        let kib = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1000.0);
        let sizes = sizes.map(|Sizes { whole, code, data, names, .. }| {
            let [whole, code, data, names] = [whole, code, data, names].map(kib);
            format!("  {whole}: code {code}, data {data}, names {names}\n")
        });
        format!("{}\n  sha256 {sha256}\n{}", file.display(), sizes.unwrap_or_default())
    })
}

/// Prints progress to standard error.
pub(super) fn note(text: &str) {
    complain(&format!("groundskeeper: {text}"));
}

pub(super) fn dry_run(args: &TryArgs, compiler: &Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let mut fixture = if let Some(file) = &args.from.view {
        author::read_fixture(file)?
    } else if let Some(recording) = &args.from.recording {
        recorded(recording)?
    } else {
        ask::view(&args.node)?
    };
    let NodeArgs { config, data_dir, .. } = &args.node;
    let wasm = code::engine(compiler, config.as_deref(), data_dir.as_deref())?;
    let phase = author::load(&args.module, allows_native(config.as_deref())?, &wasm)?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        let run = DryRun::of(&*phase, fixture.tick, fixture.view());
        fixture.memory = run.memory.clone().or(fixture.memory);
        fixture.tick.number = fixture.tick.number.saturating_add(1);
        runs.push(run);
    }
    let code = exit::done_if(runs.iter().all(|run| run.ok));
    answer(&runs, code, json, |runs| {
        let shown = |(at, run): (usize, &DryRun)| {
            let number = if runs.len() > 1 { format!(", run {}", at + 1) } else { String::new() };
            format!("{}{number}: nothing was applied\n{}", args.module.display(), run.shown())
        };
        runs.iter().enumerate().map(shown).collect()
    })
}

/// Reads a view from `FILE@TICK`, or from the first beat of `FILE`.
fn recorded(written: &OsStr) -> anyhow::Result<Fixture> {
    let bytes = written.as_bytes();
    let (file, tick) = match bytes.iter().rposition(|byte| *byte == b'@') {
        Some(at) if !Path::new(written).exists() => {
            let tick = String::from_utf8_lossy(&bytes[at + 1..]);
            let wrong = || format!("{tick:?} in {written:?} is no tick; write FILE@120");
            (OsStr::from_bytes(&bytes[..at]), Some(tick.parse().ok().with_context(wrong)?))
        }
        _ => (written, None),
    };
    let file = Path::new(file);
    let recording = Recording::open(file)?;
    let beat = match tick {
        Some(tick) => recording.beat(tick)?,
        None => {
            let first = recording.events().find_map(|event| match event {
                Event::Beat(beat) => Some(beat),
                _ => None,
            });
            *first.with_context(|| format!("{} has no beat that can be read", file.display()))?
        }
    };
    Ok(Fixture::of_beat(&beat))
}

pub(super) fn test(args: &TestArgs, compiler: &Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let wasm = code::engine(compiler, None, None)?;
    let trial = author::trial(&args.folder, args.seed, &wasm, &mut note)?;
    answer(&trial, exit::done_if(trial.different.is_empty()), json, |trial| compared(trial, args.seed))
}

fn compared(trial: &TrialReport, seed: u64) -> String {
    let TrialReport { module, fixtures, random_views, with_asks, asks, fuel, native, different, failed } =
        trial;
    let module = module.display();
    let mut text: String = different.iter().take(3).map(|one| format!("{one}\n")).collect();
    text.extend(failed.iter().take(3).map(|one| format!("without a plan: {one}\n")));
    let against =
        if *native { "natively and as a component" } else { "twice as a component, with no native side" };
    let plans = match different.len() {
        0 => "identical plans".to_owned(),
        count => format!("{count} DIFFERENT PLANS"),
    };
    text += &format!(
        "{module}: {fixtures} views from files, {random_views} made from seed {seed}: {against}, {plans}\n  \
         {with_asks} with asks, {asks} asks in all; {} runs without a plan\n",
        failed.len()
    );
    if *asks == 0 {
        text += "  WARNING: 0 asks: nothing was compared; add a view to views/ in which the phase asks for something, or look \
                 whether its settings are in the units of the columns (rtt-us: microseconds, idle-s: seconds)\n";
    }
    text + &format!("  fuel of a run: least {}, median {}, most {}\n", fuel[0], fuel[1], fuel[2])
}

/// Whether a file is a phase and not a config: a module by its first bytes or extension, a manifest by its keys.
pub(super) fn is_phase(file: &Path) -> bool {
    /// Enough for the head of a module, and for the whole of a manifest.
    const MOST: u64 = 1 << 20;
    let named = file.extension().is_some_and(|end| end == "wasm" || end == "so");
    let Ok((opened, _)) = open_regular(file, OpenOptions::new().read(true)) else { return named };
    let mut bytes = Vec::new();
    let is_read = opened.take(MOST).read_to_end(&mut bytes).is_ok();
    named
        || bytes.starts_with(b"\0asm")
        || bytes.starts_with(b"\x7fELF")
        || is_read && std::str::from_utf8(&bytes).is_ok_and(is_manifest)
}

/// Whether the operator trusts native phases.
fn allows_native(config: Option<&Path>) -> anyhow::Result<bool> {
    let overrides = Overrides { without_manifests: true, ..Overrides::default() };
    Ok(config.is_some() && load_config(config, &overrides)?.guests.allow_native)
}

/// A phase that cannot be read or is no phase is a problem too, and not a failure of the command.
pub(super) fn check(
    file: &Path,
    config: Option<&Path>,
    compiler: &Compiler,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match inspected(file, config, compiler, json) {
        Err(error) if error.is::<ClosedOutput>() || error.is::<BadConfig>() => Err(error),
        Err(error) if error.downcast_ref().is_some_and(LoadError::is_machines) => Err(error),
        Err(error) => check::refused(file, with_sources(&error), json),
        ended => ended,
    }
}

fn inspected(
    file: &Path,
    config: Option<&Path>,
    compiler: &Compiler,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let code_of = |ok| if ok { exit::DONE } else { exit::CONFIG };
    if let Some(native) = author::load_native(file, allows_native(config)?)? {
        return answer(&native, code_of(native.problem.is_none()), json, loading);
    }
    if file.extension().is_some_and(|end| end == "toml")
        && let Some(ended) = check::manifest(file, json)?
    {
        return Ok(ended);
    }
    let wasm = code::engine(compiler, config, None)?;
    let inspection = author::inspect(file, &wasm)?;
    answer(&inspection, code_of(inspection.problems.is_empty()), json, shown)
}

/// The report on a native phase.
fn loading(phase: &LoadPreview) -> String {
    let LoadPreview { file, name, kind, summary, version, sha256, problem } = phase;
    let mut text = format!("{}: {}\n", file.display(), summary.as_ref().unwrap_or(name));
    text += &line("kind", &format!("{kind}: no sandbox, all the rights of the node"));
    for (head, said) in [("version", version), ("sha256", sha256)] {
        text.extend(said.iter().map(|said| line(head, said)));
    }
    text + &problem.as_ref().map_or("  no problems\n".to_owned(), |problem| line("problem", problem))
}

fn shown(inspection: &Inspection) -> String {
    let Inspection { file, sha256, sizes, summary, version, toolkit, contract, manifest, .. } = inspection;
    let Sizes { whole, code, data, names, .. } = sizes;
    let manifest = manifest.as_ref().map(|manifest| manifest.display().to_string());
    let limits = &inspection.limits;
    let (fuel, kib, ms) = (limits.fuel, limits.memory >> 10, limits.wall.as_millis());
    let mut text = format!("{}: {summary}\n", file.display());
    text += &line("version", &format!("{version}, built with {toolkit}, for {contract}"));
    text += &line("sha256", sha256);
    text += &line("bytes", &format!("{whole}: code {code}, data {data}, names {names}"));
    text += &line(
        "manifest",
        manifest.as_deref().unwrap_or("none beside it; `groundskeeper install` writes one"),
    );
    text += &line("limits", &format!("fuel {fuel}, {kib} KiB of memory, {ms} ms"));
    for import in &inspection.imports {
        let word = match import.granted {
            Some(true) => "granted",
            Some(false) => "NOT granted",
            None => "wanted",
        };
        text += &line("imports", &format!("{:12} {word}", import.interface));
    }
    let stubs = inspection.stubs.iter();
    text.extend(stubs.map(|stub| line("imports", &format!("{stub}: there, and does nothing"))));
    text.extend(inspection.problems.iter().map(|problem| line("problem", problem)));
    if inspection.problems.is_empty() {
        text += "  no problems\n";
    }
    text
}

fn line(head: &str, words: &str) -> String {
    format!("  {head:8}  {words}\n")
}

pub(super) fn install(args: &InstallArgs, compiler: &Compiler) -> anyhow::Result<ExitCode> {
    let folder = match &args.phases {
        Some(folder) => folder.clone(),
        None => {
            // A wrong manifest in that folder may be the one that this command replaces.
            let overrides = without_manifests(args.data_dir.clone());
            load_config(args.config.as_deref(), &overrides)?.guests.dir.ok_or(NoFolder("--phases"))?
        }
    };
    let wasm = code::engine(compiler, args.config.as_deref(), args.data_dir.as_deref())?;
    let InstalledFiles { module, manifest, replaced, made_up, misses } =
        author::install(&args.module, &folder, &wasm)?;
    let mut text = format!("{}\n{}\n", module.display(), manifest.display());
    if made_up {
        text += "  manifest generated, in shadow mode: read it, then set mode = \"enforce\"\n";
    }
    if let Some(misses) = misses {
        text += &format!("  a node does not load it until its manifest is complete: {misses}\n");
    }
    let is_native = module.extension().is_some_and(|end| end == "so");
    let node = NodeArgs { data_dir: args.data_dir.clone(), socket: None, config: args.config.clone() };
    text += &match ask::drop_in(&node) {
        None => "  no node runs; the next one that starts with this folder runs it\n".to_owned(),
        Some(followed) if !followed.as_deref().is_some_and(|path| is_same_folder(path, &folder)) => {
            let path = followed.as_deref().unwrap_or("no folder");
            format!(
                "  the running node does not run it: it follows {path}; start it with --phases to change that\n"
            )
        }
        Some(_) if replaced && is_native => {
            "  replaces an earlier one; restart the node to run it\n".to_owned()
        }
        Some(_) if replaced => "  replaces an earlier one; the running node tries it now\n".to_owned(),
        Some(_) => "  the running node loads it now\n".to_owned(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn is_same_folder(one: &str, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(Path::new(one)).is_some_and(|one| Some(one) == real(other))
}
