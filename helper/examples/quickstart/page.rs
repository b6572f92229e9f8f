//! What a person reads.

use std::fmt::Display;
use std::io::{IsTerminal, Stdout, Write};

use crate::failure::{Context, Failure};

/// The longest line that is made here, indentation included.
const WIDTH: usize = 96;

/// What the further lines of a long one begin with.
const INDENT: &str = "      ";

/// Standard output. Writing may fail (a pager that was closed), and must then
/// end the quickstart in order: a panic would leave the helper behind.
pub(crate) struct Page {
    output: Stdout,
    colour: bool,
}

impl Page {
    pub(crate) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let output = std::io::stdout();
        Self {
            colour: output.is_terminal() && !unwanted,
            output,
        }
    }

    /// The heading of a part.
    pub(crate) fn title(&self, text: &str) -> Result<(), Failure> {
        let text = self.styled("1", text);
        self.write(&format!("\n{text}\n"))
    }

    /// A line, or lines.
    pub(crate) fn text(&self, text: impl Display) -> Result<(), Failure> {
        let mut indented = String::new();
        for line in text.to_string().lines() {
            let margin = if line.is_empty() { "" } else { "  " };
            indented.push_str(margin);
            indented.push_str(line);
            indented.push('\n');
        }
        self.write(&indented)
    }

    /// A name and what it stands for.
    pub(crate) fn item(&self, name: &str, value: impl Display) -> Result<(), Failure> {
        self.write(&format!("  {name:<12}{value}\n"))
    }

    /// A step that behaved as it must, and what was seen.
    pub(crate) fn done(&self, step: &str, seen: impl Display) -> Result<(), Failure> {
        let ok = self.styled("32", "ok");
        self.write(&format!("  {ok}  {step:<46}  {seen}\n"))
    }

    /// A long line, broken after a space or a comma.
    pub(crate) fn wrapped(&self, line: &str) -> Result<(), Failure> {
        let mut text = String::from("  ");
        let mut column = text.len();
        for word in line.split_inclusive([' ', ',']) {
            if column > INDENT.len() && column.saturating_add(word.len()) > WIDTH {
                text.truncate(text.trim_end().len());
                text.push('\n');
                text.push_str(INDENT);
                column = INDENT.len();
            }
            text.push_str(word);
            column = column.saturating_add(word.len());
        }
        self.write(&format!("{text}\n"))
    }

    /// The last line.
    pub(crate) fn end(&self, text: &str) -> Result<(), Failure> {
        let text = self.styled("1;32", text);
        self.write(&format!("\n{text}\n"))
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let mut output = &self.output;
        output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
            .or_fail("write to standard output")
    }
}
