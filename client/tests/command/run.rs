//! Runs the command.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use mountwarden_client::protocol::{Reply, Request};
use serde_json::Value;

use crate::support::{Fake, Script, answering};

/// How the command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The one JSON value on standard output, where nothing else was printed.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stderr, "");
        value(&self.stdout)
    }

    /// The one JSON value on standard error, where nothing else was printed.
    pub(crate) fn json_error(&self) -> Value {
        assert_eq!(self.stdout, "");
        value(&self.stderr)
    }
}

fn value(line: &str) -> Value {
    assert!(line.ends_with('\n'), "{line:?}");
    assert_eq!(line.lines().count(), 1, "{line:?}");
    serde_json::from_str(line).unwrap()
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The command with nothing of this process's environment that it looks at.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mountwarden"));
    command
        .env_remove("MOUNTWARDEN_SOCKET")
        .env_remove("CLICOLOR_FORCE")
        .env("COLUMNS", "100");
    command
}

/// Runs the command against a helper at `socket`.
pub(crate) fn at(socket: &Path, words: &[impl AsRef<OsStr>]) -> Ended {
    command()
        .arg("--socket")
        .arg(socket)
        .args(words)
        .output()
        .unwrap()
        .into()
}

/// Runs the command against scripts and gives what it asked for on each connection.
pub(crate) fn scripted(
    scripts: Vec<Script>,
    words: &[impl AsRef<OsStr>],
) -> (Ended, Vec<Vec<Request>>) {
    let fake = Fake::new(scripts);
    let ended = at(fake.path(), words);
    (ended, fake.finish())
}

/// Runs the command against one reply, which it also gets when it asks again.
pub(crate) fn answered(reply: &Reply, words: &[impl AsRef<OsStr>]) -> Ended {
    let script = || answering(std::slice::from_ref(reply));
    scripted(vec![script(), script()], words).0
}
