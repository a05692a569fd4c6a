//! Log lines of one run of a guest, within the limits of its manifest. Adds one line if lines were dropped.

use groundskeeper_sdk::host::{Level, LogLine, clean};

use crate::policy::Limits;

/// Lines for the operator. The manifest limits their number and their length.
pub(super) struct GuestLog {
    lines: Vec<LogLine>,
    most_lines: usize,
    most_bytes: usize,
    dropped: u64,
}

impl GuestLog {
    pub fn new(limits: &Limits) -> Self {
        Self {
            lines: Vec::new(),
            most_lines: limits.log_lines as usize,
            most_bytes: limits.log_line_bytes as usize,
            dropped: 0,
        }
    }

    pub fn write(&mut self, level: Level, text: &str) {
        if self.lines.len() >= self.most_lines {
            self.dropped += 1;
            return;
        }
        let text = cut(text, self.most_bytes);
        self.lines.push(LogLine { level, text: clean(text).into_owned() });
    }

    /// Takes the lines so far, and adds one that says how many were dropped.
    pub fn take(&mut self) -> Vec<LogLine> {
        let mut lines = std::mem::take(&mut self.lines);
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let text = format!("{dropped} more lines were dropped: [limits] log_lines = {}", self.most_lines);
            lines.push(LogLine { level: Level::Warn, text });
        }
        lines
    }

    /// The latest line.
    #[cfg(feature = "wasm")]
    pub fn last(&self) -> Option<&LogLine> {
        self.lines.last()
    }
}

/// The start of `text`: at most `bytes` bytes, whole characters only.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
