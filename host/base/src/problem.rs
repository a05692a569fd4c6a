//! One mistake in a config or a manifest, with its place and a hint. Other modules find the mistakes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::{printable, printable_lines};

/// One mistake: where it is, what is wrong, and how to fix it.
///
/// Printed as `file:line: key: message; hint`, a form in which editors can jump to the line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The file, by the name that the caller gave it, or the flag that set the value.
    pub file: String,
    /// Counted from 1; none for a flag, or if the mistake is not in one place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Counted from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// Dotted path of the key, like `node.interval`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// What is wrong, without the place and the fix.
    pub message: String,
    /// How to fix it, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake in a whole file, or in a flag.
    pub fn of(file: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, message) = (file.into(), message.into());
        Self { file, line: None, column: None, key: None, message, hint: None }
    }

    /// Sets the text that says how to fix it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of files, keys and values may contain anything.
        f.write_str(&printable(&self.file))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {}", printable(key))?;
        }
        write!(f, ": {}", printable_lines(&self.message))?;
        match &self.hint {
            // A hint may contain a whole manifest to copy.
            Some(hint) => write!(f, "; {}", printable_lines(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The name in `known` that is most similar to `wrong`; none if no name is similar.
#[doc(hidden)]
pub fn meant<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this similarity (Jaro-Winkler, 0 to 1) a suggestion misleads more often than it helps.
    const ALIKE: f64 = 0.8;
    /// No name is longer than 64 bytes, and comparing takes the product of the lengths.
    const LONGEST: usize = 100;
    /// Names that are compared. A folder may hold thousands of phases.
    const MOST_NAMES: usize = 1000;
    if wrong.len() > LONGEST {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .take(MOST_NAMES)
        .map(|one| (strsim::jaro_winkler(&wrong, &one.replace('-', "_")), one))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, one)| one)
}

/// A hint for a phase name that does not exist: a similar name, or all `known` names.
#[doc(hidden)]
pub fn unknown_name_hint(name: &str, known: &[&str]) -> String {
    /// Names that are listed: a line of text.
    const LISTED: usize = 20;
    match meant(name, known.iter().copied()) {
        Some(one) => format!("did you mean \"{one}\"?"),
        None if known.len() > LISTED => {
            format!("known are {} and {} more", known[..LISTED].join(", "), known.len() - LISTED)
        }
        None => format!("known are {}", known.join(", ")),
    }
}
