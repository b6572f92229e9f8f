//! Where a result goes, and what becomes of it when nobody reads.

use std::io::{self, Write};

use clap::error::ErrorKind as UsageKind;

use super::exit::Exit;
use super::{Answer, json, text};
use crate::Error;

/// Prints what a command found out or did.
pub(super) fn answer(answer: &Answer, as_json: bool) -> Exit {
    let written = if as_json {
        line(io::stdout(), &json::answer(answer))
    } else {
        let mut out = anstream::AutoStream::auto(io::stdout().lock());
        out.write_all(text::answer(answer).as_bytes())
            .and_then(|()| out.flush())
    };
    match written {
        Ok(()) => answer.exit(),
        // Who closed it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => answer.exit(),
        Err(error) => {
            complain(&format!(
                "it was done, but the result cannot be printed: {error}"
            ));
            Exit::Failed
        }
    }
}

/// Prints why a command failed.
pub(super) fn error(error: &Error, as_json: bool) -> Exit {
    if as_json {
        say(&json::error(error));
    } else {
        complain(&error.to_string());
        if let Some(said) = error.program_said().filter(|said| !said.is_empty()) {
            // There is nowhere left to report that standard error is closed.
            let _ = writeln!(io::stderr(), "the program said: {said}");
        }
    }
    Exit::of(error.kind())
}

/// Prints what is wrong with the command line, or the help that it asks for.
pub(super) fn usage(error: &clap::Error, as_json: bool) -> Exit {
    if matches!(
        error.kind(),
        UsageKind::DisplayHelp | UsageKind::DisplayVersion
    ) {
        // Who closed standard output does not want it.
        let _ = error.print();
        return Exit::Done;
    }
    if as_json {
        say(&json::usage(error));
    } else {
        // There is nowhere left to report that standard error is closed.
        let _ = error.print();
    }
    Exit::Usage
}

fn complain(message: &str) {
    let style = anstyle::Style::new()
        .bold()
        .fg_color(Some(anstyle::AnsiColor::Red.into()));
    let mut err = anstream::AutoStream::auto(io::stderr().lock());
    // There is nowhere left to report that standard error is closed.
    let _ = writeln!(err, "{style}error:{style:#} {message}");
}

fn say(text: &str) {
    // There is nowhere left to report that standard error is closed.
    let _ = line(io::stderr(), text);
}

fn line(mut out: impl Write, text: &str) -> io::Result<()> {
    out.write_all(format!("{text}\n").as_bytes())?;
    out.flush()
}
