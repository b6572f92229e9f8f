//! What went wrong, told once, with what to do about it.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// Why the quickstart, or one of its processes, ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    /// Lines beneath the message: causes, and what to do.
    more: Vec<String>,
    status: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            more: Vec::new(),
            status: 1,
        }
    }

    /// An end that a signal asked for, as shells report it.
    pub(crate) fn interrupted(signal: u8) -> Self {
        Self {
            status: 128_u8.saturating_add(signal),
            ..Self::new("interrupted; the helper has been stopped and nothing is left mounted")
        }
    }

    pub(crate) fn with(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.more.extend(lines);
        self
    }

    /// Prints it and gives the exit status that stands for it.
    pub(crate) fn report(&self) -> ExitCode {
        // In one piece, so that the lines of two processes never mix.
        let mut text = format!("\nquickstart: {}\n", self.message);
        for line in &self.more {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
        // After a hang-up nobody is there to read it, which is no failure.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.status)
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    fn or_fail(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn or_fail(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("cannot {what}: {error}")))
    }
}
