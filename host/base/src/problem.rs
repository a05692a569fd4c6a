//! What is wrong with a config, said so that it can be put right. Finds nothing itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One mistake: where it is, what it is, and the way out.
///
/// Prints itself on one line as `file:line: key: message; hint`, the form that editors jump to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The file as it was named, or the flag that carried the value.
    pub file: String,
    /// From 1; none for a flag, or when the mistake is not at one place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// From 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// Dotted path of the key, like `node.interval`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake of a whole file, or of a flag.
    pub fn of(file: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, message) = (file.into(), message.into());
        Self { file, line: None, column: None, key: None, message, hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The one of `known` that `wrong` was plausibly meant to be.
#[doc(hidden)]
pub fn meant<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this a suggestion misleads more often than it helps (Jaro-Winkler similarity, 0 to 1).
    const ALIKE: f64 = 0.8;
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|one| (strsim::jaro_winkler(&wrong, &one.replace('-', "_")), one))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, one)| one)
}

/// A hint for a phase name that does not exist: the name that was plausibly meant, or all `known` ones.
#[doc(hidden)]
pub fn unknown_name_hint(name: &str, known: &[&str]) -> String {
    match meant(name, known.iter().copied()) {
        Some(one) => format!("did you mean \"{one}\"?"),
        None => format!("known are {}", known.join(", ")),
    }
}
