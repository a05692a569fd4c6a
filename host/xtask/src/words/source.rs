//! What the lint needs of one Rust file: the types it defines, its comments, the modules that are only for tests.

use super::pieces::{Piece, pieces};
use super::prose::{Token, tokens};

#[derive(Default, PartialEq, Eq, Debug)]
pub struct Source<'a> {
    /// Types with their lines: those of the file's modules, not those inside of functions, impls and traits.
    pub types: Vec<(&'a str, usize)>,
    /// Comments, one for each block of lines.
    pub comments: Vec<Vec<Token>>,
    /// Modules for tests that are in files of their own.
    pub test_modules: Vec<&'a str>,
}

type Code<'a> = [(usize, Piece<'a>)];

impl<'a> Source<'a> {
    /// Empty for a file that a program has written.
    pub fn new(text: &'a str) -> Self {
        let mut source = Self::default();
        if text.lines().next().is_some_and(|first| first.contains("DO NOT EDIT")) {
            return source;
        }
        let pieces = pieces(text);
        let code: Vec<_> =
            pieces.iter().copied().filter(|(_, one)| !matches!(one, Piece::Comment(_))).collect();
        let test_lines = source.items(&code);
        source.comments = comments(&pieces, &test_lines);
        source
    }

    /// Reads the items; returns the first and the last line of each module for tests.
    fn items(&mut self, code: &Code<'a>) -> Vec<(usize, usize)> {
        use Piece::{Mark, Word};
        let mut test_lines = Vec::new();
        let mut is_for_tests = false;
        let mut rest = code;
        while let Some(&(line, _)) = rest.first() {
            let mut keeps_attributes = false;
            let length = match rest {
                [(_, Mark('#')), (_, Mark('[')), ..] => {
                    let length = 1 + group(&rest[1..], '[', ']');
                    is_for_tests |= asks_for_tests(&rest[..length]);
                    keeps_attributes = true;
                    length
                }
                [(_, Word("pub")), (_, Mark('(')), ..] => {
                    keeps_attributes = true;
                    1 + group(&rest[1..], '(', ')')
                }
                [(_, Word("pub")), ..] => {
                    keeps_attributes = true;
                    1
                }
                [(_, Word("mod")), (_, Word(name)), (_, Mark(';')), ..] if is_for_tests => {
                    self.test_modules.push(*name);
                    3
                }
                [(_, Word("mod")), (_, Word(_)), (_, Mark('{')), ..] if is_for_tests => {
                    let length = 2 + group(&rest[2..], '{', '}');
                    test_lines.push((line, rest[length - 1].0));
                    length
                }
                // What is inside of these is read like the file itself.
                [(_, Word("mod")), (_, Word(_)), (_, Mark('{')), ..]
                | [(_, Word(_)), (_, Mark('!')), (_, Mark('{')), ..] => 3,
                [(_, Word("struct" | "enum" | "trait" | "type" | "union")), (_, Word(name)), ..] => {
                    self.types.push((*name, line));
                    2
                }
                [(_, Mark('{')), ..] => group(rest, '{', '}'),
                _ => 1,
            };
            is_for_tests &= keeps_attributes;
            rest = &rest[length..];
        }
        test_lines
    }
}

/// How many pieces there are from the opening mark that `code` starts with to its closing one.
fn group(code: &Code<'_>, open: char, close: char) -> usize {
    let mut depth = 0;
    for (at, (_, piece)) in code.iter().enumerate() {
        if *piece == Piece::Mark(open) {
            depth += 1;
        } else if *piece == Piece::Mark(close) {
            depth -= 1;
            if depth == 0 {
                return at + 1;
            }
        }
    }
    code.len()
}

/// Whether an attribute keeps its item out of the product.
fn asks_for_tests(attribute: &Code<'_>) -> bool {
    let mut is_condition = false;
    let mut names_tests = false;
    for (_, piece) in attribute {
        match piece {
            Piece::Word("cfg") => is_condition = true,
            Piece::Word("test" | "doctest") => names_tests = true,
            // The item is built without tests too.
            Piece::Word("any" | "not") => return false,
            _ => {}
        }
    }
    is_condition && names_tests
}

/// The comments outside of `left_out`, lines first to last. Lines of one kind that follow each other are one comment.
fn comments(pieces: &Code<'_>, left_out: &[(usize, usize)]) -> Vec<Vec<Token>> {
    let mut blocks: Vec<(&str, Vec<(usize, &str)>)> = Vec::new();
    let mut is_after_comment = false;
    for (line, piece) in pieces {
        let Piece::Comment(text) = piece else {
            is_after_comment = false;
            continue;
        };
        if left_out.iter().any(|(first, last)| (first..=last).contains(&line)) {
            continue;
        }
        let marker =
            ["///", "//!", "//", "/*"].into_iter().find(|one| text.starts_with(one)).unwrap_or_default();
        let lines = (*line..).zip(text[marker.len()..].trim_end_matches("*/").lines());
        match blocks.last_mut() {
            Some((before, block))
                if is_after_comment
                    && *before == marker
                    && block.last().is_some_and(|last| last.0 + 1 == *line) =>
            {
                block.extend(lines);
            }
            _ => blocks.push((marker, lines.collect())),
        }
        is_after_comment = true;
    }
    blocks.into_iter().map(|(_, lines)| tokens(lines)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::prose::{TokenKind, words};
    use super::*;

    /// A file; the types it defines, the modules for tests it declares, the words in each of its comments.
    #[test]
    fn types_of_modules_and_comments_outside_of_tests_are_read() {
        type Row<'a> = (&'a str, &'a [(&'a str, usize)], &'a [&'a str], &'a [usize]);
        let rows: &[Row<'_>] = &[
            (
                "pub struct A<T>(T);\nenum B {}\npub(crate) trait C {\n    type Not;\n}\ntype D = u8;\nunion E {}",
                &[("A", 1), ("B", 2), ("C", 3), ("D", 6), ("E", 7)],
                &[],
                &[],
            ),
            (
                "impl X for A {\n    type Not = u8;\n}\nfn f() {\n    struct Not;\n}\nstruct A;",
                &[("A", 7)],
                &[],
                &[],
            ),
            (
                "macro_rules! m {\n    () => { struct Not; };\n}\nm! {\n    struct A;\n}",
                &[("A", 5)],
                &[],
                &[],
            ),
            ("pub mod x {\n    pub struct A;\n    mod y { enum B {} }\n}", &[("A", 2), ("B", 3)], &[], &[]),
            (
                "#[cfg(test)]\nmod tests {\n    // a b\n    struct Not;\n}\n// c\nstruct A;",
                &[("A", 7)],
                &[],
                &[1],
            ),
            (
                "#[cfg(all(test, feature = \"x\"))]\n#[expect(dead_code)]\npub(crate) mod tests;\nmod a;",
                &[],
                &["tests"],
                &[],
            ),
            ("#[cfg(test)]\nuse x::y;\nmod a {\n    struct A;\n}", &[("A", 4)], &[], &[]),
            ("#[cfg(not(test))]\nmod a {\n    struct A;\n}", &[("A", 3)], &[], &[]),
            ("#[cfg(any(test, unix))]\nmod a;", &[], &[], &[]),
            (
                "//! a\n//! b\n\n// c\n/// d\n/// e `f g`\nx // h\ny // i\n/* j\nk */",
                &[],
                &[],
                &[2, 1, 3, 1, 1, 2],
            ),
            ("/// a\n/// ```\n/// b\n/// ```\n/// c", &[], &[], &[2]),
            ("// Generated by x. DO NOT EDIT!\nstruct Not;", &[], &[], &[]),
        ];
        for (text, types, test_modules, comments) in rows {
            let source = Source::new(text);
            assert_eq!(source.types, *types, "{text}");
            assert_eq!(source.test_modules, *test_modules, "{text}");
            let read: Vec<usize> = source.comments.iter().map(|tokens| words(tokens)).collect();
            assert_eq!(read, *comments, "{text}");
        }
    }

    #[test]
    fn a_comment_is_read_across_its_lines_with_their_numbers() {
        let source = Source::new("\n/// It hangs\n/// on that.\n");
        let lines: Vec<usize> = source.comments[0]
            .iter()
            .filter(|token| token.kind != TokenKind::Stop)
            .map(|token| token.line)
            .collect();
        assert_eq!((source.comments.len(), lines), (1, vec![2, 2, 3, 3]));
    }
}
