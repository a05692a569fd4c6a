//! `check words`: a type name has one meaning, and comments and documents avoid phrases that are hard to read.
//! [`tree`] reads the files, [`Report`] judges and prints. Exceptions are in [`homonyms`], phrases in [`phrases`].

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, ensure};

mod homonyms;
mod phrases;
mod pieces;
mod prose;
mod source;
mod tree;

use crate::workspace::root;
use homonyms::{Exception, Homonym};
use phrases::{Found, Phrase};
use tree::{Passage, Tree};

/// Phrases from the list per thousand words. More than zero, because now and then one of them is right.
const MOST_PER_THOUSAND: usize = 1;

/// Reads the tree of this workspace and judges it.
///
/// # Errors
/// If a file cannot be read, or the tree breaks a rule. Every place is printed before that.
pub fn check() -> Result<()> {
    let tree = Tree::read(&root())?;
    let report = Report::new(&tree, &homonyms::EXCEPTIONS, &phrases::LIST);
    print!("{report}");
    ensure!(report.is_clean(), "words: names or prose break a rule; the places are above");
    Ok(())
}

/// What the lint has to say about a tree.
struct Report<'a> {
    types: usize,
    homonyms: Vec<Homonym<'a>>,
    /// Exceptions that are no longer needed, each with what is missing.
    outdated: Vec<String>,
    prose: [Prose<'a>; 2],
}

/// The phrases in one kind of prose.
struct Prose<'a> {
    kind: &'static str,
    words: usize,
    found: Vec<(&'a str, Found)>,
}

impl<'a> Report<'a> {
    fn new(tree: &'a Tree, exceptions: &[Exception], list: &[Phrase]) -> Self {
        Self {
            types: tree.definitions.len(),
            homonyms: homonyms::find(&tree.definitions, exceptions),
            outdated: homonyms::outdated(&tree.definitions, exceptions),
            prose: [Prose::new("comments", &tree.comments, list), Prose::new("docs", &tree.docs, list)],
        }
    }

    fn is_clean(&self) -> bool {
        self.homonyms.is_empty() && self.outdated.is_empty() && !self.prose.iter().any(Prose::is_over)
    }
}

impl<'a> Prose<'a> {
    fn new(kind: &'static str, passages: &'a [Passage], list: &[Phrase]) -> Self {
        let words = passages.iter().map(|passage| prose::words(&passage.tokens)).sum();
        let mut found = Vec::new();
        for Passage { file, tokens } in passages {
            found.extend(phrases::find(tokens, list).into_iter().map(|one| (file.as_str(), one)));
        }
        Self { kind, words, found }
    }

    fn is_over(&self) -> bool {
        self.found.len() * 1000 > self.words * MOST_PER_THOUSAND
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "types: {}; names with several meanings: {}", self.types, self.homonyms.len())?;
        for homonym in &self.homonyms {
            writeln!(f, "  {homonym}")?;
        }
        for outdated in &self.outdated {
            writeln!(f, "  outdated exception: {outdated}")?;
        }
        self.prose.iter().try_for_each(|prose| write!(f, "{prose}"))
    }
}

impl Display for Prose<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { kind, words, found } = self;
        let tenths = found.len() * 10_000 / words.max(&1);
        writeln!(
            f,
            "{kind}: {words} words; phrases to avoid: {}, {}.{} per 1,000, at most {MOST_PER_THOUSAND}",
            found.len(),
            tenths / 10,
            tenths % 10
        )?;
        for (file, Found { line, text, instead }) in found {
            writeln!(f, "  {file}:{line}: \"{text}\": {instead}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Exception =
        Exception { name: "Tick", files: &["host/a/src/lib.rs", "sdk/src/lib.rs"], reason: "a mirror" };
    const LIST: [Phrase; 2] = [Phrase::new("anew", "again"), Phrase::new("is|are told", "gets")];

    /// Rust files, documents, the exceptions that stand; lines of the report, or none if it is clean.
    #[test]
    fn each_rule_is_broken_by_what_breaks_it_and_by_nothing_else() {
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a [Exception], &'a [&'a str]);
        let (a, b, sdk) = ("host/a/src/lib.rs", "host/b/src/lib.rs", "sdk/src/lib.rs");
        let rows: &[Row<'_>] = &[
            (&[(a, "struct One;"), (b, "struct Two;")], "Plain.", &[], &[]),
            // A planted homonym.
            (
                &[(a, "struct One;"), (b, "\nenum One {}")],
                "",
                &[],
                &["One: host/a/src/lib.rs:1, host/b/src/lib.rs:2"],
            ),
            // An exception that holds, one that holds for two of three, and two that are outdated.
            (&[(a, "struct Tick;"), (sdk, "struct Tick;")], "", &[TICK], &[]),
            (
                &[(a, "struct Tick;"), (b, "type Tick = u8;"), (sdk, "struct Tick;")],
                "",
                &[TICK],
                &[
                    "Tick: host/a/src/lib.rs:1, host/b/src/lib.rs:1, sdk/src/lib.rs:1 (allowed in all but host/b/src/lib.rs: a mirror)",
                ],
            ),
            (
                &[(a, "struct Tick;")],
                "",
                &[TICK],
                &[
                    "outdated exception: Tick: fewer than two definitions in host/a/src/lib.rs, sdk/src/lib.rs",
                ],
            ),
            (
                &[(a, "struct Tick;\nmod x {\n    struct Tick;\n}")],
                "",
                &[TICK],
                &["outdated exception: Tick: sdk/src/lib.rs does not define it"],
            ),
            // A planted phrase in a comment, and one in a document.
            (&[(a, "\n// It starts anew.")], "", &[], &["host/a/src/lib.rs:2: \"anew\": again"]),
            (&[], "One line.\nA node is\ntold.", &[], &["README.md:2: \"is told\": gets"]),
            // In code the same words do not count.
            (&[(a, "// It calls `anew`.\nlet x = \"// anew\";")], "`anew`\n\n```\nanew\n```\n", &[], &[]),
            // Nor in tests, inside the file or in files of their own.
            (
                &[
                    (a, "struct One;\n#[cfg(test)]\nmod tests {\n    // anew\n    struct One;\n}"),
                    (b, "#[cfg(test)]\nmod tests;"),
                    ("host/b/src/tests.rs", "// anew\nstruct One;"),
                    ("host/b/src/tests/more.rs", "// anew\nstruct One;"),
                ],
                "",
                &[],
                &[],
            ),
            // Nor what a program has written.
            (
                &[(a, "// Generated by x. DO NOT EDIT!\n// anew\nstruct One;"), (b, "struct One;")],
                "",
                &[],
                &[],
            ),
        ];
        for (sources, document, exceptions, expected) in rows {
            let tree = Tree::new(sources.iter().copied(), [("README.md", *document)]);
            let report = Report::new(&tree, exceptions, &LIST);
            let shown = report.to_string();
            let lines: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert_eq!(lines, *expected, "{sources:?} {document}");
            assert_eq!(report.is_clean(), expected.is_empty(), "{sources:?} {document}");
        }
    }

    /// Words of a document with one phrase in it; whether that is too much.
    #[test]
    fn one_phrase_in_a_thousand_words_may_be() {
        for (words, is_over) in [(999, true), (1000, false)] {
            let document = format!("anew{}", " word".repeat(words - 1));
            let tree = Tree::new([], [("README.md", document.as_str())]);
            let report = Report::new(&tree, &[], &LIST);
            assert_eq!((report.prose[1].words, report.is_clean()), (words, !is_over));
            assert!(report.to_string().contains("README.md:1"), "{words}");
        }
    }
}
