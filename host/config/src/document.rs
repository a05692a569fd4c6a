//! A TOML text with its places, read section by section. Goes on after a mistake; decides nothing about values.

use groundskeeper_base::problem::{Problem, meant};
use serde::Deserializer;
use serde::de::{DeserializeOwned, Error as _, Visitor, value::MapDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One config file while it is read. Mistakes gather in `problems`.
pub(super) struct Document<'i> {
    name: &'i str,
    text: &'i str,
    root: DeTable<'i>,
    /// Not all of it is TOML, so keys may have ended up in another table than their author meant.
    torn: bool,
    pub problems: Vec<Problem>,
}

/// What serde calls by the width of a number.
const WHOLE: &str = "expected a whole number from 0";

type Item<'i> = (String, Spanned<DeValue<'i>>);

impl<'i> Document<'i> {
    /// Keeps whatever can be made out of `text`; what cannot is a problem.
    pub fn parse(text: &'i str, name: &'i str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document =
            Self { name, text, root: root.into_inner(), torn: !errors.is_empty(), problems: Vec::new() };
        for error in errors {
            let place = error.span().map(|span| span.start);
            let message = format!("not TOML: {}", error.message().trim());
            document.report(place, None, message, None);
        }
        document
    }

    /// Reads the table at `path`, where absent keys take `T`'s defaults. `T` must be a struct with serde's `default`.
    ///
    /// Every key is tried by itself first, so that each wrong one is told, not only the first. `elsewhere` names keys
    /// that are tables with a reading of their own.
    pub fn section<T: DeserializeOwned>(&mut self, path: &[&str], elsewhere: &[&str]) -> T {
        let known = fields_of::<T>();
        let mut good: Vec<Item<'i>> = Vec::new();
        for (key, place, value) in self.items(path) {
            let full = dotted(path, &key);
            if !known.contains(&key.as_str()) {
                if !self.torn {
                    let hint = unknown_key_hint(&key, known);
                    self.report(Some(place), Some(full), "unknown key".into(), Some(hint));
                }
            } else if !elsewhere.contains(&key.as_str()) {
                match wrong_values::<T>(&key, &value) {
                    errors if errors.is_empty() => good.push((key, value)),
                    errors => errors.iter().for_each(|error| {
                        self.report_serde(&full, error, value.span().start);
                    }),
                }
            }
        }
        read(good).unwrap_or_else(|error| {
            self.report_serde(&path.join("."), &error, 0);
            read(Vec::new()).expect("a section without keys is its defaults")
        })
    }

    /// Where the value of `key` stands, if the file has it: line and column from 1.
    pub fn place(&self, key: &str) -> Option<(u32, u32)> {
        let mut path: Vec<&str> = key.split('.').collect();
        let last = path.pop()?;
        let (_, value) = self.table(&path)?.iter().find(|(name, _)| name.get_ref() == last)?;
        Some(line_and_column(self.text, value.span().start))
    }

    /// Whether parts of the text are not TOML.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// The names of the keys of the table at `path`.
    pub fn names(&self, path: &[&str]) -> Vec<String> {
        let table = self.table(path);
        table.into_iter().flatten().map(|(key, _)| key.get_ref().clone().into_owned()).collect()
    }

    /// What kind of value stands at `path`, in TOML's words.
    pub fn kind_of(&self, path: &[&str]) -> Option<&'static str> {
        let (last, above) = path.split_last()?;
        Some(self.table(above)?.get(*last)?.get_ref().type_str())
    }

    /// The string at `path`, if one stands there.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        let (last, above) = path.split_last()?;
        self.table(above)?.get(*last)?.get_ref().as_str()
    }

    /// The truth value at `path`, if one stands there.
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        let (last, above) = path.split_last()?;
        self.table(above)?.get(*last)?.get_ref().as_bool()
    }

    /// The table at `path` as JSON, empty if there is none. What JSON cannot say is a problem.
    pub fn json(&mut self, path: &[&str]) -> serde_json::Map<String, serde_json::Value> {
        let items = self.items(path);
        let mut table = serde_json::Map::new();
        for (key, _, value) in items {
            match json(&value) {
                Ok(json) => _ = table.insert(key, json),
                Err((place, what)) => {
                    let message =
                        format!("{what} cannot be told to a phase, which gets its settings as JSON");
                    self.report(Some(place), Some(dotted(path, &key)), message, None);
                }
            }
        }
        table
    }

    /// All problems by their place.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by_key(|problem| (problem.line.unwrap_or(u32::MAX), problem.column));
        problems
    }

    /// Tells a mistake in the value of `key`, or of a table if the file has no such key.
    pub fn report_at(&mut self, key: &str, message: String, hint: Option<String>) {
        let mut problem = Problem { key: Some(key.to_owned()), hint, ..Problem::of(self.name, message) };
        if let Some((line, column)) = self.place(key) {
            (problem.line, problem.column) = (Some(line), Some(column));
        }
        self.problems.push(problem);
    }

    fn table(&self, path: &[&str]) -> Option<&DeTable<'i>> {
        path.iter().try_fold(&self.root, |table, name| table.get(*name)?.get_ref().as_table())
    }

    /// Keys of the table at `path` with their places and values. A problem if something else than a table is there.
    fn items(&mut self, path: &[&str]) -> Vec<(String, usize, Spanned<DeValue<'i>>)> {
        if let Some((last, above)) = path.split_last()
            && let Some(value) = self.table(above).and_then(|table| table.get(*last))
            && value.get_ref().as_table().is_none()
        {
            let (place, kind) = (value.span().start, value.get_ref().type_str());
            let hint = format!("write [{}] and its keys below it", path.join("."));
            self.report(
                Some(place),
                Some(path.join(".")),
                format!("expected a table, found {kind}"),
                Some(hint),
            );
        }
        let Some(table) = self.table(path) else { return Vec::new() };
        table
            .iter()
            .map(|(key, value)| (key.get_ref().clone().into_owned(), key.span().start, value.clone()))
            .collect()
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

    fn report(&mut self, place: Option<usize>, key: Option<String>, message: String, hint: Option<String>) {
        let (line, column) = place.map(|at| line_and_column(self.text, at)).unzip();
        self.problems.push(Problem { file: self.name.to_owned(), line, column, key, message, hint });
    }
}

/// A value as JSON, times as text; else where it stands and what it is.
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

fn dotted(path: &[&str], key: &str) -> String {
    path.iter().copied().chain([key]).collect::<Vec<_>>().join(".")
}

fn quoted(text: &str) -> &str {
    quoted_all(text).next().unwrap_or_default()
}

/// The parts of serde's messages that stand between back quotes.
fn quoted_all(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn unknown_key_hint(key: &str, known: &[&str]) -> String {
    match meant(key, known.iter().copied()) {
        Some(one) => format!("did you mean \"{one}\"?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

/// From 1 each; the column in characters.
fn line_and_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line as u32, before[line_start..].chars().count() as u32 + 1)
}

fn read<T: DeserializeOwned>(items: Vec<Item<'_>>) -> Result<T, toml::de::Error> {
    T::deserialize(MapDeserializer::new(items.into_iter()))
}

/// What is wrong with one key's value; with each element by itself if it is a list.
fn wrong_values<T: DeserializeOwned>(key: &str, value: &Spanned<DeValue<'_>>) -> Vec<toml::de::Error> {
    let one = |value: Spanned<DeValue<'_>>| read::<T>(vec![(key.to_owned(), value)]).err();
    let Some(whole) = one(value.clone()) else { return Vec::new() };
    let elements = value.get_ref().as_array().into_iter().flatten();
    let each: Vec<_> = elements
        .filter_map(|element| {
            let list = DeValue::Array([element.clone()].into_iter().collect());
            one(Spanned::new(element.span(), list))
        })
        .collect();
    if each.is_empty() { vec![whole] } else { each }
}

/// The names of a struct's fields as serde knows them, so that they are written down only once.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always an error: the names are all that is asked for.
    _ = T::deserialize(Names(&mut fields));
    fields
}

struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("only structs have field names"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
