//! Splits the text of a Rust file into comments, words and marks. Knows literals, so that `//` in a string is no comment.

/// A piece of a Rust file. White space is none; a string or a character is one mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// With its slashes.
    Comment(&'a str),
    /// A keyword, a name or a number.
    Word(&'a str),
    Mark(char),
}

/// The pieces of `text`, each with the line that it starts on.
pub fn pieces(text: &str) -> Vec<(usize, Piece<'_>)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (piece, after) = rest.split_at(length(rest, first));
        if piece.starts_with("//") || piece.starts_with("/*") {
            pieces.push((line, Piece::Comment(piece)));
        } else if is_of_word(first) && !piece.ends_with(['"', '#']) {
            pieces.push((line, Piece::Word(piece)));
        } else if !first.is_whitespace() {
            pieces.push((line, Piece::Mark(first)));
        }
        line += piece.matches('\n').count();
        rest = after;
    }
    pieces
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of the piece that `rest` starts with.
fn length(rest: &str, first: char) -> usize {
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else if let Some(length) = raw_string(rest) {
        length
    } else if is_of_word(first) {
        rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())
    } else {
        match first {
            '"' => up_to_quote(rest, '"'),
            '\'' if is_character(rest) => up_to_quote(rest, '\''),
            _ => first.len_utf8(),
        }
    }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// `r"..."` and the like, with as many `#` behind as before. None for anything else, `r#type` included.
fn raw_string(rest: &str) -> Option<usize> {
    let body = ["r", "br", "cr"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let from_quote = body.trim_start_matches('#');
    let inner = from_quote.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(body.len() - from_quote.len()));
    let inside = inner.find(&end).map_or(inner.len(), |at| at + end.len());
    Some(rest.len() - inner.len() + inside)
}

/// Up to and with the next `quote` behind the first one that no backslash escapes.
fn up_to_quote(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    rest.len()
}

/// Whether the quote that `rest` starts with begins a character, and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    after.next() == Some('\\') || after.next() == Some('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_told_from_what_only_looks_like_them() {
        use Piece::{Comment, Mark, Word};
        type Row<'a> = (&'a str, &'a [(usize, Piece<'a>)]);
        let rows: &[Row<'_>] = &[
            ("a // b\nc", &[(1, Word("a")), (1, Comment("// b")), (2, Word("c"))]),
            ("/* a /* b */\n*/ c", &[(1, Comment("/* a /* b */\n*/")), (2, Word("c"))]),
            (r#""// \" //" a"#, &[(1, Mark('"')), (1, Word("a"))]),
            (r##"r#"// " //"# a"##, &[(1, Mark('r')), (1, Word("a"))]),
            (r#"r"\" a"#, &[(1, Mark('r')), (1, Word("a"))]),
            (r#"b"//" a"#, &[(1, Word("b")), (1, Mark('"')), (1, Word("a"))]),
            (r#"'"' a '\'' b"#, &[(1, Mark('\'')), (1, Word("a")), (1, Mark('\'')), (1, Word("b"))]),
            ("'a, 'b", &[(1, Mark('\'')), (1, Word("a")), (1, Mark(',')), (1, Mark('\'')), (1, Word("b"))]),
            ("r#type", &[(1, Word("r")), (1, Mark('#')), (1, Word("type"))]),
            ("\"a\nb\" c", &[(1, Mark('"')), (2, Word("c"))]),
            ("\"", &[(1, Mark('"'))]),
        ];
        for (text, expected) in rows {
            assert_eq!(pieces(text), *expected, "{text}");
        }
    }
}
