//! Why a text is not a policy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The longest message in characters: a message quotes its input, and the input
/// may be one string of a megabyte.
const MAX_MESSAGE: usize = 1000;

/// A policy that is refused, with the place of the first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}:{line}:{column}: {message}", one_line(&.file.to_string_lossy()))]
pub struct PolicyError {
    /// The file, as the caller named it.
    pub file: PathBuf,
    /// The line; the first is 1.
    pub line: usize,
    /// The character of the line; the first is 1.
    pub column: usize,
    /// What was refused, why, and what to write instead: one line.
    pub message: String,
}

/// Something wrong at a byte of the text; becomes a [`PolicyError`] where the
/// text and its file's name are at hand.
#[derive(Debug)]
pub(crate) struct Fault {
    offset: usize,
    message: String,
}

impl Fault {
    pub(crate) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
        }
    }

    pub(crate) fn locate(self, file: &Path, text: &str) -> PolicyError {
        let before = (0..=self.offset.min(text.len()))
            .rev()
            .find_map(|end| text.get(..end))
            .unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let line = before.matches('\n').count();
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        PolicyError {
            file: file.to_owned(),
            line: line.saturating_add(1),
            column: column.saturating_add(1),
            message: one_line(&self.message),
        }
    }
}

/// `text` with its control characters escaped, cut where it gets too long.
fn one_line(text: &str) -> String {
    let shown: String = text.chars().take(MAX_MESSAGE).collect();
    let mut line = escaped(&shown);
    if text.chars().nth(MAX_MESSAGE).is_some() {
        line.push_str("...");
    }
    line
}

/// `text` with its control characters escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Quotes a string of the policy for a message.
pub(crate) fn quoted(text: &str) -> String {
    const MAX: usize = 64;
    let shown: String = text.chars().take(MAX).collect();
    let mut quoted = String::new();
    // Debug escapes what could break a line. Writing to a String cannot fail.
    let _ = write!(quoted, "{shown:?}");
    if text.chars().nth(MAX).is_some() {
        quoted.push_str("...");
    }
    quoted
}
