//! `check`: every problem of a config, for people and for programs.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{exit, print, print_json};
use crate::config::{Config, Overrides, Problem};

#[derive(Serialize)]
struct Checked {
    ok: bool,
    problems: Vec<Problem>,
}

pub(super) fn check(file: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let problems = Config::load_with(file, &Overrides::default()).err().unwrap_or_default();
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
