//! `check`: every problem of a config and of the manifests in the drop-in folder, for people and for programs.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{exit, print, print_json, usual_data_dir};
use crate::config::{Config, Overrides, Problem, read_manifests};

#[derive(Serialize)]
struct Checked {
    ok: bool,
    problems: Vec<Problem>,
}

pub(super) fn check(file: Option<&Path>, phases: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { phases, usual_data_dir: usual_data_dir(), ..Overrides::default() };
    let (mut problems, dir) = match Config::load_with(file, &overrides) {
        Ok(config) => (Vec::new(), config.guests.dir),
        // Where the manifests are is not known as long as the config is wrong, unless a flag says it.
        Err(problems) => (problems, overrides.phases),
    };
    for manifest in dir.iter().flat_map(|dir| read_manifests(dir)) {
        // Those of built-in phases were read with the config.
        problems.extend(manifest.manifest.err().filter(|_| !manifest.is_built_in).unwrap_or_default());
    }
    let code = if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) };
    if json {
        print_json(&Checked { ok: problems.is_empty(), problems })?;
        return Ok(code);
    }
    let mut text = String::new();
    for problem in &problems {
        writeln!(text, "{problem}")?;
    }
    let name = file.map_or("the built-in defaults".to_owned(), |file| file.display().to_string());
    match problems.len() {
        0 => writeln!(text, "{name}: no problems")?,
        1 => writeln!(text, "{name}: 1 problem")?,
        count => writeln!(text, "{name}: {count} problems")?,
    }
    print(&text)?;
    Ok(code)
}
