//! The verbs for authors of phases: what they print. What they do is in `author`.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use groundskeeper::config::{Config, Overrides, is_manifest};
use groundskeeper::record::{Event, Fixture, Recording};
use groundskeeper_author::{self as author, Built, DryRun, Inspection, Installed, Loading, Trial};
use serde::Serialize;

use super::check;
use super::{
    BuildArgs, InstallArgs, NewArgs, TestArgs, TryArgs, ask, exit, print, print_json, refuse_config,
    usual_data_dir,
};

pub(super) fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let sdk = args.sdk.clone().or_else(author::sdk_nearby);
    let folder = author::create(Path::new("."), &args.name, args.lang.into(), sdk.as_deref())?;
    let folder = folder.strip_prefix(".").unwrap_or(&folder).display();
    let what = match args.lang {
        super::Lang::Rust => "a phase with a test, a manifest and a view to try it on",
        super::Lang::C => "a phase in C, a manifest and a view to try it on",
    };
    print(&format!("{folder}: {what}\nnext: cd {folder} && groundskeeper build && groundskeeper test\n"))
}

#[derive(Serialize)]
struct BuiltJson<'a> {
    file: &'a Path,
    sha256: String,
    sizes: Option<groundskeeper::engine::wasm::Sizes>,
}

pub(super) fn build(args: &BuildArgs, json: bool) -> anyhow::Result<ExitCode> {
    let out = args.out.as_deref();
    let built = if args.native {
        author::build_native(&args.folder, out, &mut note)?
    } else {
        author::build(&args.folder, out, &mut note)?
    };
    let Built { file, digest, sizes } = &built;
    if json {
        return print_json(&BuiltJson { file, sha256: digest.to_string(), sizes: *sizes });
    }
    let mut text = format!("{}\n  sha256 {digest}\n", file.display());
    if let Some(sizes) = sizes {
        let kib = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1000.0);
        writeln!(
            text,
            "  {}: code {}, data {}, names {}",
            kib(sizes.whole),
            kib(sizes.code),
            kib(sizes.data),
            kib(sizes.names)
        )?;
    }
    print(&text)
}

/// What is being done, on standard error.
#[expect(clippy::print_stderr, reason = "a build takes a while and says what it does")]
pub(super) fn note(text: &str) {
    eprintln!("groundskeeper: {text}");
}

pub(super) fn dry_run(args: &TryArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut fixture = if let Some(file) = &args.from.view {
        author::read_fixture(file)?
    } else if let Some(recording) = &args.from.recording {
        recorded(recording)?
    } else {
        match ask::view(&args.node)? {
            Ok(fixture) => fixture,
            Err(code) => return Ok(code),
        }
    };
    let allow_native = match allows_native(args.node.config.as_deref()) {
        Ok(allowed) => allowed,
        Err(code) => return Ok(code),
    };
    let phase = author::load(&args.module, allow_native)?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        let run = DryRun::of(&*phase, fixture.tick, fixture.view());
        fixture.memory = run.memory.clone().or(fixture.memory);
        fixture.tick.number = fixture.tick.number.saturating_add(1);
        runs.push(run);
    }
    let code = if runs.iter().all(|run| run.ok) { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) };
    if json {
        print_json(&runs)?;
        return Ok(code);
    }
    let mut text = String::new();
    for (at, run) in runs.iter().enumerate() {
        let number = if runs.len() > 1 { format!(", run {}", at + 1) } else { String::new() };
        write!(text, "{}{number}: nothing was applied\n{}", args.module.display(), run.shown())?;
    }
    print(&text)?;
    Ok(code)
}

/// `FILE@TICK`, or `FILE` for its first beat.
fn recorded(written: &str) -> anyhow::Result<Fixture> {
    let (file, tick) = match written.rsplit_once('@') {
        Some((file, tick)) if !Path::new(written).exists() => {
            let tick = tick
                .parse()
                .map_err(|_| anyhow::anyhow!("{tick:?} in {written:?} is no tick; write FILE@120"))?;
            (file, Some(tick))
        }
        _ => (written, None),
    };
    let recording = Recording::open(Path::new(file))?;
    let beat = match tick {
        Some(tick) => recording.beat(tick)?,
        None => {
            let first = recording.events().find_map(|event| match event {
                Event::Beat(beat) => Some(beat),
                _ => None,
            });
            *first.ok_or_else(|| anyhow::anyhow!("{file} has no beat that can be read"))?
        }
    };
    Ok(Fixture::of_beat(&beat))
}

pub(super) fn test(args: &TestArgs, json: bool) -> anyhow::Result<ExitCode> {
    let trial = author::trial(&args.folder, args.seed, &mut note)?;
    let code = if trial.different.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) };
    if json {
        print_json(&trial)?;
        return Ok(code);
    }
    let Trial { module, fixtures, random_views, with_asks, asks, fuel, native, different, failed } = &trial;
    let mut text = String::new();
    for one in different.iter().take(3) {
        writeln!(text, "{one}")?;
    }
    for one in failed.iter().take(3) {
        writeln!(text, "without a plan: {one}")?;
    }
    let against =
        if *native { "natively and as a component" } else { "twice as a component, with no native side" };
    writeln!(
        text,
        "{}: {fixtures} views from files, {random_views} made from seed {}: {against}, {}",
        module.display(),
        args.seed,
        match different.len() {
            0 => "identical plans".to_owned(),
            count => format!("{count} DIFFERENT PLANS"),
        }
    )?;
    writeln!(text, "  {with_asks} with asks, {asks} asks in all; {} runs without a plan", failed.len())?;
    if *asks == 0 {
        text += "  WARNING: 0 asks: nothing was compared; add a view to views/ in which the phase asks for something, or look \
                 whether its settings are in the units of the columns (rtt-us: microseconds, idle-s: seconds)\n";
    }
    writeln!(text, "  fuel of a run: least {}, median {}, most {}", fuel[0], fuel[1], fuel[2])?;
    print(&text)?;
    Ok(code)
}

/// Whether a file is a phase and no config: a module, by how it begins or is called, or a manifest, by its keys.
pub(super) fn is_phase(file: &Path) -> bool {
    let named = file.extension().is_some_and(|end| end == "wasm" || end == "so");
    let Ok(bytes) = std::fs::read(file) else { return named };
    named
        || bytes.starts_with(b"\0asm")
        || bytes.starts_with(b"\x7fELF")
        || std::str::from_utf8(&bytes).is_ok_and(is_manifest)
}

/// Whether the operator trusts native phases; the exit code if the config that is to say it has problems.
fn allows_native(config: Option<&Path>) -> Result<bool, ExitCode> {
    let overrides = Overrides { without_manifests: true, ..Overrides::default() };
    let Some(config) = config else { return Ok(false) };
    match Config::load_with(Some(config), &overrides) {
        Ok(config) => Ok(config.guests.allow_native),
        Err(problems) => Err(refuse_config(&problems)),
    }
}

pub(super) fn check(file: &Path, config: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let allow_native = match allows_native(config) {
        Ok(allowed) => allowed,
        Err(code) => return Ok(code),
    };
    let code = |ok| if ok { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) };
    if let Some(native) = author::load_native(file, allow_native)? {
        if json {
            print_json(&native)?
        } else {
            print(&loading(&native)?)?
        };
        return Ok(code(native.problem.is_none()));
    }
    if file.extension().is_some_and(|end| end == "toml")
        && let Some(ended) = check::manifest(file, json)?
    {
        return Ok(ended);
    }
    let inspection = author::inspect(file)?;
    if json {
        print_json(&inspection)?
    } else {
        print(&shown(&inspection)?)?
    };
    Ok(code(inspection.problems.is_empty()))
}

/// A native phase.
fn loading(phase: &Loading) -> Result<String, std::fmt::Error> {
    let Loading { file, name, kind, summary, version, sha256, problem } = phase;
    let mut text = format!("{}: {}\n", file.display(), summary.as_ref().unwrap_or(name));
    writeln!(text, "  kind      {kind}: no sandbox, all the rights of the node")?;
    for (head, said) in [("version", version), ("sha256", sha256)] {
        if let Some(said) = said {
            writeln!(text, "  {head:8}  {said}")?;
        }
    }
    match problem {
        Some(problem) => writeln!(text, "  problem   {problem}")?,
        None => writeln!(text, "  no problems")?,
    }
    Ok(text)
}

fn shown(inspection: &Inspection) -> Result<String, std::fmt::Error> {
    let Inspection { file, sha256, sizes, summary, version, toolkit, contract, manifest, .. } = inspection;
    let mut text = format!("{}: {summary}\n", file.display());
    writeln!(text, "  version   {version}, built with {toolkit}, for {contract}")?;
    writeln!(text, "  sha256    {sha256}")?;
    writeln!(
        text,
        "  bytes     {}: code {}, data {}, names {}",
        sizes.whole, sizes.code, sizes.data, sizes.names
    )?;
    match manifest {
        Some(manifest) => writeln!(text, "  manifest  {}", manifest.display())?,
        None => writeln!(text, "  manifest  none beside it; `groundskeeper install` writes one")?,
    }
    let limits = &inspection.limits;
    writeln!(
        text,
        "  limits    fuel {}, {} KiB of memory, {} ms",
        limits.fuel,
        limits.memory >> 10,
        limits.wall.as_millis()
    )?;
    for import in &inspection.imports {
        let word = match import.granted {
            Some(true) => "granted",
            Some(false) => "NOT granted",
            None => "wanted",
        };
        writeln!(text, "  imports   {:12} {word}", import.interface)?;
    }
    for stub in &inspection.stubs {
        writeln!(text, "  imports   {stub}: there, and does nothing")?;
    }
    for problem in &inspection.problems {
        writeln!(text, "  problem   {problem}")?;
    }
    if inspection.problems.is_empty() {
        writeln!(text, "  no problems")?;
    }
    Ok(text)
}

pub(super) fn install(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let folder = match &args.phases {
        Some(folder) => folder.clone(),
        None => {
            let overrides = Overrides {
                data_dir: args.data_dir.clone(),
                usual_data_dir: usual_data_dir(),
                // A file there that is wrong may be what this is to put right.
                without_manifests: true,
                ..Overrides::default()
            };
            match Config::load_with(args.config.as_deref(), &overrides) {
                Ok(config) => config.guests.dir.ok_or_else(|| {
                    anyhow::anyhow!(
                        "no folder to put it: neither XDG_STATE_HOME nor HOME is set; name one with --phases"
                    )
                })?,
                Err(problems) => return Ok(refuse_config(&problems)),
            }
        }
    };
    let Installed { module, manifest, replaced, made_up, misses } = author::install(&args.module, &folder)?;
    let mut text = format!("{}\n{}\n", module.display(), manifest.display());
    if made_up {
        text += "  made up, in shadow mode: read it, then set mode = \"enforce\"\n";
    }
    if let Some(misses) = misses {
        writeln!(text, "  it will not be loaded before its manifest has what it misses: {misses}")?;
    }
    text += if replaced {
        "  in the place of an earlier one; restart the node to run it\n"
    } else {
        "  runs when the node starts next\n"
    };
    print(&text)
}
