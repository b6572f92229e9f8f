//! One line of the log, as it is written.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most bytes that one value takes, escapes included: two paths, a grant and
/// a message stay within a line.
const MAX_VALUE: usize = 860;

/// A JSON object that is being written.
pub(super) struct Line(String);

impl Line {
    pub(super) fn new() -> Self {
        Self(String::from("{"))
    }

    pub(super) fn of_now() -> Self {
        let mut line = Self::new();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        line.number("time_ms", now.as_millis());
        line
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    pub(super) fn number(&mut self, key: &str, number: impl std::fmt::Display) {
        self.key(key);
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{number}");
    }

    pub(super) fn truth(&mut self, key: &str, value: bool) {
        self.key(key);
        self.0.push_str(if value { "true" } else { "false" });
    }

    /// One of our own words.
    pub(super) fn name(&mut self, key: &str, name: &str) {
        self.text(key, name.as_bytes());
    }

    /// Whatever the bytes are, the value is one line of printable ASCII. A byte
    /// that is not UTF-8 stands as `\\xNN` in the decoded value.
    pub(super) fn text(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.value(bytes, self.0.len().saturating_add(MAX_VALUE));
    }

    /// As many values as fit into the room of one.
    pub(super) fn texts<'v>(&mut self, key: &str, values: impl Iterator<Item = &'v [u8]>) {
        self.key(key);
        self.0.push('[');
        let end = self.0.len().saturating_add(MAX_VALUE);
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            self.value(value, end);
            if self.0.len() > end {
                break;
            }
        }
        self.0.push(']');
    }

    fn value(&mut self, bytes: &[u8], end: usize) {
        self.0.push('"');
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if self.0.len() > end {
                    break;
                }
                self.character(character);
            }
            if self.0.len() > end {
                self.0.push_str("...");
                break;
            }
            for byte in chunk.invalid() {
                let _ = write!(self.0, "\\\\x{byte:02x}");
            }
        }
        self.0.push('"');
    }

    fn character(&mut self, character: char) {
        match character {
            '"' => self.0.push_str("\\\""),
            '\\' => self.0.push_str("\\\\"),
            ' '..='~' => self.0.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(self.0, "\\u{unit:04x}");
                }
            }
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}
