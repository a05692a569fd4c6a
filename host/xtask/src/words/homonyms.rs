//! Type names with several meanings, and the few that may have several definitions.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// Where a type is defined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    pub name: String,
    pub file: String,
    pub line: usize,
}

/// A name whose definitions in `files` are one meaning.
pub struct Exception {
    pub name: &'static str,
    pub files: &'static [&'static str],
    pub reason: &'static str,
}

const fn mirror(name: &'static str, files: &'static [&'static str]) -> Exception {
    Exception { name, files, reason: "the contract's record in the sdk, and as it crosses into WebAssembly" }
}

const fn twins(name: &'static str, files: &'static [&'static str]) -> Exception {
    Exception {
        name,
        files,
        reason: "a phase is built as WebAssembly or natively, with one of them each time",
    }
}

const SHAPES: &str = "host/engine/src/wasm/shapes.rs";

pub const EXCEPTIONS: [Exception; 15] = [
    mirror("BroadcastTotals", &[SHAPES, "sdk/src/view.rs"]),
    mirror("Failure", &[SHAPES, "sdk/src/phase.rs"]),
    mirror("Level", &[SHAPES, "sdk/src/plan.rs"]),
    mirror("Name", &[SHAPES, "sdk/src/view.rs"]),
    // In guests these two are types of the bindings.
    mirror("Order", &[SHAPES, "sdk/src/query.rs", "sdk/src/guest.rs"]),
    mirror("Test", &[SHAPES, "sdk/src/query.rs", "sdk/src/guest.rs"]),
    mirror("Query", &[SHAPES, "sdk/src/query.rs"]),
    mirror("Saved", &[SHAPES, "sdk/src/memory.rs"]),
    mirror("Tick", &[SHAPES, "sdk/src/phase.rs"]),
    mirror("Totals", &[SHAPES, "sdk/src/view.rs"]),
    twins("Asks", &["sdk/src/guest/asks.rs", "sdk/src/native/asks.rs"]),
    twins("Reads", &["sdk/src/guest/reads.rs", "sdk/src/native/reads.rs"]),
    twins("Source", &["sdk/src/guest/reads.rs", "sdk/src/native.rs"]),
    Exception {
        name: "Watcher",
        files: &["host/groundskeeper/src/reload/watch.rs"],
        reason: "with the feature `watch` or without",
    },
    Exception {
        name: "Unit",
        files: &["sdk/src/column.rs"],
        reason: "the public trait, and its sealed one that other crates cannot implement",
    },
];

impl Exception {
    fn covers(&self, definition: &Definition) -> bool {
        definition.name == self.name && self.files.contains(&definition.file.as_str())
    }
}

/// A name with several meanings.
pub struct Homonym<'a> {
    definitions: Vec<&'a Definition>,
    /// What an exception says about some of the definitions, and the others.
    partly: Option<(&'static str, Vec<&'a Definition>)>,
}

/// The names in `definitions` that have several meanings, by name.
pub fn find<'a>(definitions: &'a [Definition], exceptions: &[Exception]) -> Vec<Homonym<'a>> {
    let mut by_name: BTreeMap<&str, Vec<&Definition>> = BTreeMap::new();
    for definition in definitions {
        by_name.entry(&definition.name).or_default().push(definition);
    }
    by_name.into_values().filter_map(|definitions| homonym(definitions, exceptions)).collect()
}

/// Judges the definitions of one name.
fn homonym<'a>(definitions: Vec<&'a Definition>, exceptions: &[Exception]) -> Option<Homonym<'a>> {
    let exception = exceptions.iter().find(|one| definitions.iter().any(|definition| one.covers(definition)));
    let Some(exception) = exception else {
        return (definitions.len() > 1).then_some(Homonym { definitions, partly: None });
    };
    let others: Vec<_> = definitions.iter().copied().filter(|one| !exception.covers(one)).collect();
    (!others.is_empty()).then_some(Homonym { definitions, partly: Some((exception.reason, others)) })
}

/// The exceptions with fewer than two definitions, or with a file that has none; each with what is missing.
pub fn outdated(definitions: &[Definition], exceptions: &[Exception]) -> Vec<String> {
    exceptions.iter().filter_map(|exception| missing(definitions, exception)).collect()
}

fn missing(definitions: &[Definition], exception: &Exception) -> Option<String> {
    let Exception { name, files, .. } = exception;
    let covered: Vec<_> = definitions.iter().filter(|definition| exception.covers(definition)).collect();
    if covered.len() < 2 {
        return Some(format!("{name}: fewer than two definitions in {}", files.join(", ")));
    }
    let idle = files.iter().find(|file| !covered.iter().any(|one| one.file == **file))?;
    Some(format!("{name}: {idle} does not define it"))
}

impl Display for Homonym<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let places: Vec<_> =
            self.definitions.iter().map(|one| format!("{}:{}", one.file, one.line)).collect();
        write!(f, "{}: {}", self.definitions[0].name, places.join(", "))?;
        let Some((reason, others)) = &self.partly else { return Ok(()) };
        let files: Vec<_> = others.iter().map(|one| one.file.as_str()).collect();
        write!(f, " (allowed in all but {}: {reason})", files.join(", "))
    }
}
