//! `check`: lists every problem of a config, of the manifests in the drop-in folder and of their modules, for people
//! and for programs.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use groundskeeper::config::{Config, Manifest, ManifestBody, ManifestFile, Overrides, Problem, read_drop_in};
use groundskeeper::engine::Compiler;
use groundskeeper::node::compare;
use groundskeeper_author::{LoadPreview, load_folder};
use serde::Serialize;

use super::show::{printable, table};
use super::{answer, code, exit, problems_found};

#[derive(Serialize)]
struct CheckReport {
    ok: bool,
    problems: Vec<Problem>,
    /// The phases of the drop-in folder. Empty while the config has problems: it decides what is loaded.
    phases: Vec<LoadPreview>,
    /// Keys in the file that a running node reads only at its next start.
    at_start: Vec<String>,
}

pub(super) fn check(
    file: Option<&Path>,
    overrides: &Overrides,
    compiler: &Compiler,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut name = file.map_or("the built-in defaults".to_owned(), |file| file.display().to_string());
    let mut checked =
        CheckReport { ok: true, problems: Vec::new(), phases: Vec::new(), at_start: Vec::new() };
    let dir = match Config::load_with(file, overrides) {
        Ok(config) => {
            if let Some(dir) = config.guests.dir.as_deref().filter(|dir| dir.is_dir()) {
                let wasm = code::engine(compiler, file, None)?;
                checked.phases = load_folder(dir, config.guests.allow_native, &wasm)?;
            }
            if let Ok(defaults) = Config::load_with(None, overrides) {
                checked.at_start = compare(&defaults, &config).restart;
            }
            config.guests.dir
        }
        // A wrong config does not say where the manifests are; a flag may.
        Err(problems) => {
            checked.problems = problems;
            overrides.phases.clone()
        }
    };
    if let Some(dir) = dir.filter(|dir| dir.is_dir()) {
        write!(name, " with the phases of {}", dir.display())?;
        for manifest in read_drop_in(&dir) {
            // Problems of built-in phases were found with the config.
            let found = manifest.manifest.err().filter(|_| !manifest.is_built_in);
            checked.problems.extend(found.unwrap_or_default());
        }
    }
    // Problems of a manifest are already listed with their lines.
    let told = |loading: &LoadPreview| {
        checked.problems.iter().any(|problem| Path::new(&problem.file) == loading.file)
    };
    let untold = checked.phases.iter().filter(|loading| !told(loading)).filter_map(|loading| {
        Some(Problem::of(loading.file.display().to_string(), loading.problem.as_ref()?))
    });
    let untold: Vec<Problem> = untold.collect();
    checked.problems.extend(untold);
    checked.ok = checked.problems.is_empty();
    tell(&checked, &name, json)
}

/// Reports that `file` is no phase, or cannot be read.
pub(super) fn refused(file: &Path, why: String, json: bool) -> anyhow::Result<ExitCode> {
    let problems = vec![Problem::of(file.display().to_string(), why)];
    let checked = CheckReport { ok: false, problems, phases: Vec::new(), at_start: Vec::new() };
    tell(&checked, &file.display().to_string(), json)
}

/// Reports on a manifest that is wrong or needs no module. None: it names a module, which the caller must inspect.
pub(super) fn manifest(file: &Path, json: bool) -> anyhow::Result<Option<ExitCode>> {
    let problems = match ManifestFile::read(file.to_owned()).manifest {
        Ok(Manifest { body: ManifestBody::Guest(_), .. }) => return Ok(None),
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    };
    let checked = CheckReport { ok: problems.is_empty(), problems, phases: Vec::new(), at_start: Vec::new() };
    tell(&checked, &file.display().to_string(), json).map(Some)
}

fn tell(checked: &CheckReport, name: &str, json: bool) -> anyhow::Result<ExitCode> {
    answer(checked, if checked.ok { exit::DONE } else { exit::CONFIG }, json, |checked| shown(checked, name))
}

fn shown(checked: &CheckReport, name: &str) -> String {
    let mut text: String = checked.problems.iter().map(|problem| format!("{problem}\n")).collect();
    if !checked.phases.is_empty() {
        text += &table(&["PHASE", "KIND", "SHA256", "STATE"], checked.phases.iter().map(row));
    }
    if !checked.at_start.is_empty() {
        let keys = checked.at_start.join(", ");
        text += &format!("a running node applies these keys at its next start, the others at once: {keys}\n");
    }
    let found = if checked.ok { "no problems".to_owned() } else { problems_found(&checked.problems) };
    text + &format!("{}: {found}\n", printable(name))
}

fn row(phase: &LoadPreview) -> Vec<String> {
    /// Enough digits to tell modules of one folder apart.
    const DIGITS: usize = 12;
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let digest = phase.sha256.as_deref().map_or("", |digest| &digest[..DIGITS]);
    let state = if phase.problem.is_none() { "loads" } else { "NOT loaded" };
    vec![phase.name.clone(), or_dash(&phase.kind), or_dash(digest), state.to_owned()]
}
