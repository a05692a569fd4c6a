//! Splits prose into words. Leaves out code, in blocks and in spans, and the targets of links.

/// A part of a text, with its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub line: usize,
    pub kind: TokenKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// In lower case.
    Word(String),
    /// A code span: one word to the reader, whatever is in it.
    Code,
    /// A mark or an empty line. No phrase goes across it.
    Stop,
}

/// Words that a reader reads.
pub fn words(tokens: &[Token]) -> usize {
    tokens.iter().filter(|token| token.kind != TokenKind::Stop).count()
}

/// The tokens of numbered lines of Markdown.
pub fn tokens<'a>(lines: impl IntoIterator<Item = (usize, &'a str)>) -> Vec<Token> {
    let mut reader = Reader::default();
    let mut fence = None;
    let mut is_indented_code = false;
    let mut is_after_empty = true;
    for (number, line) in lines {
        let trimmed = line.trim_start();
        let marker = ["```", "~~~"].into_iter().find(|marker| trimmed.starts_with(marker));
        if marker.is_some() && (fence.is_none() || fence == marker) {
            fence = if fence.is_none() { marker } else { None };
            reader.end_paragraph(number);
            continue;
        }
        if fence.is_some() {
            continue;
        }
        if trimmed.is_empty() {
            reader.end_paragraph(number);
            is_after_empty = true;
            continue;
        }
        is_indented_code = line.starts_with("    ") && (is_after_empty || is_indented_code);
        is_after_empty = false;
        if !is_indented_code {
            reader.line(number, line);
        }
    }
    reader.tokens
}

#[derive(Default)]
struct Reader {
    tokens: Vec<Token>,
    word: String,
    /// Backticks that have opened the code span that we are in; 0 outside of one.
    ticks: usize,
}

impl Reader {
    fn line(&mut self, line: usize, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let length = if c == '`' {
                let ticks = rest.len() - rest.trim_start_matches('`').len();
                self.backticks(line, ticks);
                ticks
            } else if self.ticks == 0 && rest.starts_with("](") {
                self.end_word(line);
                rest.find(')').map_or(rest.len(), |end| end + 1)
            } else {
                if self.ticks == 0 {
                    self.character(line, c);
                }
                c.len_utf8()
            };
            rest = &rest[length..];
        }
        self.end_word(line);
    }

    fn character(&mut self, line: usize, c: char) {
        if c.is_alphanumeric() || matches!(c, '\'' | '’' | '-') {
            self.word.extend(c.to_lowercase());
            return;
        }
        self.end_word(line);
        // Marks that emphasise or link a word do not end a part of a sentence.
        if !c.is_whitespace() && !matches!(c, '*' | '_' | '[' | ']') {
            self.push(line, TokenKind::Stop);
        }
    }

    fn backticks(&mut self, line: usize, ticks: usize) {
        self.end_word(line);
        if self.ticks == 0 {
            self.ticks = ticks;
            self.push(line, TokenKind::Code);
        } else if self.ticks == ticks {
            self.ticks = 0;
        }
    }

    fn end_word(&mut self, line: usize) {
        if self.word.is_empty() {
            return;
        }
        let word = self.word.trim_matches(['\'', '’', '-']).replace('’', "'");
        self.word.clear();
        self.push(line, if word.is_empty() { TokenKind::Stop } else { TokenKind::Word(word) });
    }

    fn end_paragraph(&mut self, line: usize) {
        self.ticks = 0;
        self.push(line, TokenKind::Stop);
    }

    fn push(&mut self, line: usize, kind: TokenKind) {
        self.tokens.push(Token { line, kind });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text; its words, with a backtick for code and a stop for each stop.
    #[test]
    fn code_and_targets_of_links_are_left_out() {
        for (text, expected) in [
            ("One's own, two.", "one's own . two ."),
            ("**One** [two](three.md) _four_ [`Five`]", "one two four `"),
            ("a `b c` d ``e ` f`` g `h\ni` j", "a ` d ` g ` j"),
            ("a `b\n\nc d", "a ` . c d"),
            ("a\n```text\nb\n~~~\nc\n```\nd", "a . . d"),
            ("a\n\n    b\n    c\n\nd\n    e", "a . . d e"),
            ("- a\n  - b - c re-read", ". a . b . c re-read"),
            ("| a | b |", ". a . b ."),
            ("Ü it’s", "ü it's"),
        ] {
            let tokens = tokens((1..).zip(text.lines()));
            let shown: Vec<&str> = tokens
                .iter()
                .map(|token| match &token.kind {
                    TokenKind::Word(word) => word,
                    TokenKind::Code => "`",
                    TokenKind::Stop => ".",
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "{text}");
            let read = expected.split(' ').filter(|word| *word != ".").count();
            assert_eq!(words(&tokens), read, "{text}");
        }
    }

    #[test]
    fn a_word_keeps_its_line() {
        let lines: Vec<usize> =
            tokens([(7, "a"), (8, "`b"), (9, "c` d")]).iter().map(|one| one.line).collect();
        assert_eq!(lines, [7, 8, 9]);
    }
}
