//! Text from elsewhere on its way to a terminal or a log: file names, reasons, names of software.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes control characters and those that change the direction of writing, which could rewrite the screen or forge a
/// line. Other text stays as it is, so escaping twice changes nothing more.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, "")
}

/// As [`printable`], for text of several lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, "\n")
}

/// As [`printable`], for a line with colours: its escape sequences stay.
pub fn printable_coloured(text: &str) -> Cow<'_, str> {
    escaped(text, "\x1b")
}

/// As [`printable_lines`], for JSON: these characters occur in its strings only, where `\uXXXX` means the same.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(|c| rewrites_screen(c) && c != '\n') {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if rewrites_screen(c) && c != '\n' {
            // Writing to a string does not fail.
            _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

fn escaped<'a>(text: &'a str, kept: &str) -> Cow<'a, str> {
    let is_raw = |c: char| rewrites_screen(c) && !kept.contains(c);
    if !text.chars().any(is_raw) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_raw(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn rewrites_screen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_rewrites_the_screen() {
        assert_eq!(printable("ok \u{e9} \u{202e}x\r\x1b"), "ok \u{e9} \\u{202e}x\\r\\u{1b}");
        assert_eq!(printable("a\nb"), "a\\nb");
        assert_eq!(printable_lines("a\nb\u{9b}2J"), "a\nb\\u{9b}2J");
        let once = printable("\x1b]0;x\x07").into_owned();
        assert_eq!(printable(&once), once);
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "file": "a\u{9b}2J\u{202e}\u{7f}\n\x1b" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = printable_json(&text);
        assert!(!shown.chars().any(|c| rewrites_screen(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
