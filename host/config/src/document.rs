//! A TOML text with line numbers, read key by key. Continues after a mistake. Other modules check the values.
//!
//! The text may be anything of a megabyte, so time and output are bounded: the first problems are listed, the others are
//! counted.

use groundskeeper_base::problem::{Problem, meant};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

/// One config file while it is read. Collects mistakes in `problems`.
pub(super) struct Document<'i> {
    pub name: &'i str,
    text: &'i str,
    root: Spanned<DeValue<'i>>,
    /// Parts of it are not TOML, so keys may be in a different table than their author meant.
    torn: bool,
    pub problems: Vec<Problem>,
    /// Problems beyond [`MOST_PROBLEMS`].
    unlisted: usize,
}

/// Problems of one file that are listed. An author mends no more before the next check.
pub const MOST_PROBLEMS: usize = 100;

/// Keys of one table that serde reads, each of them with a whole section around it. No section has more than 64.
const MOST_KEYS: usize = 1000;

/// Bytes of a key, a message or a hint that are shown. The longest hint of our own has about 400.
const MOST_SHOWN: usize = 1000;

/// Replaces serde's "expected u32" and the like.
const WHOLE: &str = "expected a whole number from 0";

type SpannedKey<'i> = Spanned<DeString<'i>>;

impl<'i> Document<'i> {
    /// Keeps every part of `text` that is TOML, and reports the rest as problems.
    pub fn parse(text: &'i str, name: &'i str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let root = Spanned::new(root.span(), DeValue::Table(root.into_inner()));
        let mut document =
            Self { name, text, root, torn: !errors.is_empty(), problems: Vec::new(), unlisted: 0 };
        for error in errors {
            let place = error.span().map(|span| span.start);
            let message = format!("not TOML: {}", error.message().trim());
            document.report(place, None, message, None);
        }
        document
    }

    /// Reads the table `section` ("" is the whole file) except the keys in `elsewhere`. Keys that are missing or wrong
    /// get `T`'s defaults. `T` and the structs in it must have serde's `default` and `deny_unknown_fields`.
    pub fn read<T: DeserializeOwned>(&mut self, section: &str, elsewhere: &[String]) -> T {
        let table = self.table(section);
        let table = self.readable::<T>(section, &[], table, elsewhere);
        alone(&[], of_table(table)).unwrap_or_else(|error| {
            self.report_serde(section, &error, 0);
            alone(&[], of_table(DeTable::new())).expect("a section without keys is its defaults")
        })
    }

    /// The keys of `table` that can be read. `section` is the table's name and `above` is its path in a `T`. Tries each
    /// key alone, to report every wrong key and not only the first.
    fn readable<T: DeserializeOwned>(
        &mut self,
        section: &str,
        above: &[SpannedKey<'i>],
        table: DeTable<'i>,
        elsewhere: &[String],
    ) -> DeTable<'i> {
        let mut good = DeTable::new();
        let (keys, mut tried) = (table.len(), 0);
        // From the first unknown key on: serde need not be asked about each of them.
        let mut known: Option<Vec<String>> = None;
        for (key, mut value) in table {
            let path = [above, std::slice::from_ref(&key)].concat();
            let name = key.get_ref();
            let full = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            if elsewhere.contains(&full) {
                continue;
            }
            if let Some(known) = known.as_ref().filter(|known| !known.iter().any(|one| one == name)) {
                self.report_unknown(full, &key, known);
                continue;
            }
            tried += 1;
            if tried > MOST_KEYS {
                let message = format!("{keys} keys in one table; at most {MOST_KEYS} are read");
                self.report(Some(key.span().start), Some(section.to_owned()), message, None);
                break;
            }
            if alone::<T>(&path, of_table(DeTable::new())).is_ok() {
                // Serde could also read a struct from an array.
                if let Some(inner) = self.expect_table(&full, &value) {
                    *value.get_mut() = DeValue::Table(self.readable::<T>(&full, &path, inner, elsewhere));
                    good.insert(key, value);
                }
                continue;
            }
            match alone::<T>(&path, value.clone()) {
                Ok(_) => _ = good.insert(key, value),
                Err(error) if error.span() == Some(key.span()) => {
                    // The key itself may contain anything.
                    let names = error.message().rsplit_once(", expected ").map_or("", |(_, names)| names);
                    let names = quoted_all(names).map(str::to_owned).collect();
                    self.report_unknown(full, &key, known.insert(names));
                }
                Err(error) => {
                    for error in wrong_elements::<T>(&path, &value).unwrap_or_else(|| vec![error]) {
                        self.report_serde(&full, &error, value.span().start);
                    }
                }
            }
        }
        good
    }

    /// The table `value` at `key`. Reports a problem if it is not a table.
    fn expect_table(&mut self, key: &str, value: &Spanned<DeValue<'i>>) -> Option<DeTable<'i>> {
        let table = value.get_ref().as_table().cloned();
        if table.is_none() {
            let message = format!("expected a table, found {}", value.get_ref().type_str());
            let hint = format!("write [{key}] and its keys below it");
            self.report(Some(value.span().start), Some(key.to_owned()), message, Some(hint));
        }
        table
    }

    /// The table at `key`, empty if there is none.
    fn table(&mut self, key: &str) -> DeTable<'i> {
        let value = self.value(key).cloned();
        value.and_then(|value| self.expect_table(key, &value)).unwrap_or_default()
    }

    /// The value at `key`, a dotted path.
    pub fn value(&self, key: &str) -> Option<&Spanned<DeValue<'i>>> {
        let mut names = key.split_terminator('.');
        names.try_fold(&self.root, |value, name| value.get_ref().as_table()?.get(name))
    }

    /// Replaces the value at `key`, if there is one.
    pub fn replace(&mut self, key: &str, value: DeValue<'i>) {
        let mut names = key.split_terminator('.');
        let place = names.try_fold(&mut self.root, |value, name| match value.get_mut() {
            DeValue::Table(table) => table.get_mut(name),
            _ => None,
        });
        if let Some(place) = place {
            *place.get_mut() = value;
        }
    }

    /// Whether there is anything besides blanks and comments.
    pub fn has_keys(&self) -> bool {
        self.torn || self.root.get_ref().as_table().is_some_and(|table| !table.is_empty())
    }

    /// Whether parts of the text are not TOML.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// The string at `key`, if there is one.
    pub fn text_at(&self, key: &str) -> Option<&str> {
        self.value(key)?.get_ref().as_str()
    }

    /// The table at `key` as JSON; empty if there is none. Reports values that JSON cannot represent.
    pub fn json(&mut self, key: &str) -> serde_json::Map<String, serde_json::Value> {
        let mut table = serde_json::Map::new();
        for (name, value) in self.table(key) {
            match json(&value) {
                Ok(json) => _ = table.insert(name.into_inner().into_owned(), json),
                Err((place, what)) => {
                    let message = format!("{what} cannot be passed to a phase: settings are JSON");
                    self.report(Some(place), Some(format!("{key}.{}", name.get_ref())), message, None);
                }
            }
        }
        table
    }

    /// All problems, sorted by line and column.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by_key(|problem| (problem.line.unwrap_or(u32::MAX), problem.column));
        if self.unlisted > 0 {
            problems.push(Problem::of(self.name, format!("and {} more problems", self.unlisted)));
        }
        problems
    }

    /// Reports a mistake in the value of `key`. It has no line if the file has no such key.
    pub fn report_at(&mut self, key: &str, message: String, hint: Option<String>) {
        let place = self.value(key).map(|value| value.span().start);
        self.report(place, Some(key.to_owned()), message, hint);
    }

    fn report_unknown(&mut self, full: String, key: &SpannedKey<'_>, known: &[String]) {
        if self.torn {
            return;
        }
        if self.is_full() {
            self.unlisted += 1;
            return;
        }
        let known = || known.iter().map(String::as_str);
        let hint = match meant(key.get_ref(), known()) {
            Some(one) => format!("did you mean \"{one}\"?"),
            None => format!("known here are {}", known().collect::<Vec<_>>().join(", ")),
        };
        self.report(Some(key.span().start), Some(full), "unknown key".into(), Some(hint));
    }

    fn report_serde(&mut self, key: &str, error: &toml::de::Error, otherwise: usize) {
        let place = error.span().map_or(otherwise, |span| span.start);
        let (message, hint) = match error.message() {
            "invalid socket address syntax" => {
                let written = error.span().and_then(|span| self.text.get(span)).unwrap_or_default();
                let hint = "write an IP address and a port, like \"127.0.0.1:7420\" or \"[::]:7420\"";
                (format!("{written} is not a socket address"), Some(hint.to_owned()))
            }
            text => match text.split_once(", expected one of ") {
                Some((what, known)) => match meant(quoted(what), quoted_all(known)) {
                    Some(one) => (what.to_owned(), Some(format!("did you mean \"{one}\"?"))),
                    None => (what.to_owned(), Some(format!("known are {}", known.replace('`', "\"")))),
                },
                None => (text.replace("expected u32", WHOLE).replace("expected usize", WHOLE), None),
            },
        };
        self.report(Some(place), Some(key.to_owned()), message.replace('`', "\""), hint);
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= MOST_PROBLEMS
    }

    fn report(&mut self, place: Option<usize>, key: Option<String>, message: String, hint: Option<String>) {
        if self.is_full() {
            self.unlisted += 1;
            return;
        }
        let (key, message, hint) = (key.map(shortened), shortened(message), hint.map(shortened));
        let (line, column) = place.map(|at| line_and_column(self.text, at)).unzip();
        self.problems.push(Problem { file: self.name.to_owned(), line, column, key, message, hint });
    }
}

/// A value as JSON, with times as text. The error is the place of the value and what it is.
fn json(value: &Spanned<DeValue<'_>>) -> Result<serde_json::Value, (usize, String)> {
    use serde_json::Value;
    let wrong = |what: String| (value.span().start, what);
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(is) => Value::Bool(*is),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            Value::from(number.map_err(|_| wrong("a number of more than 64 bits".to_owned()))?)
        }
        DeValue::Float(number) => {
            let finite = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
            Value::Number(finite.ok_or_else(|| wrong(number.as_str().to_owned()))?)
        }
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(values) => Value::Array(values.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value)?)));
            Value::Object(pairs.collect::<Result<_, (usize, String)>>()?)
        }
    })
}

fn quoted(text: &str) -> &str {
    quoted_all(text).next().unwrap_or_default()
}

/// The parts of serde's messages between backquotes.
fn quoted_all(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Line and column, both counted from 1. Columns count characters.
fn line_and_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line as u32, before[line_start..].chars().count() as u32 + 1)
}

/// The beginning of a long text: keys and values may be as long as the file.
fn shortened(mut text: String) -> String {
    if text.len() > MOST_SHOWN {
        text.truncate(text.floor_char_boundary(MOST_SHOWN));
        text.push_str("...");
    }
    text
}

fn of_table(table: DeTable<'_>) -> Spanned<DeValue<'_>> {
    Spanned::new(0..0, DeValue::Table(table))
}

/// Reads a `T` from a document that contains only `value`, at `path`.
fn alone<'i, T: DeserializeOwned>(
    path: &[SpannedKey<'i>],
    value: Spanned<DeValue<'i>>,
) -> Result<T, toml::de::Error> {
    let around = |inner, key: &SpannedKey<'i>| of_table([(key.clone(), inner)].into_iter().collect());
    T::deserialize(ValueDeserializer::from(path.iter().rev().fold(value, around)))
}

/// The error of each wrong element. None if `value` is not a list, or if each element alone is valid.
fn wrong_elements<T: DeserializeOwned>(
    path: &[SpannedKey<'_>],
    value: &Spanned<DeValue<'_>>,
) -> Option<Vec<toml::de::Error>> {
    let wrong = |element: &Spanned<DeValue<'_>>| {
        let list = DeValue::Array([element.clone()].into_iter().collect());
        alone::<T>(path, Spanned::new(element.span(), list)).err()
    };
    let wrong: Vec<_> = value.get_ref().as_array()?.iter().filter_map(wrong).take(MOST_PROBLEMS).collect();
    (!wrong.is_empty()).then_some(wrong)
}
