//! The audit log: one JSON object a line on standard error, written by the
//! privileged half from what the kernel attests.
//!
//! The names of the fields do not change. A line has fewer than `PIPE_BUF`
//! bytes (`pipe(7)`), so that lines of different mounters never mix; a value too
//! long for that ends in `...`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mountwarden_protocol::{ErrorReply, Kind, Mount, Operation, Outcome, Reply};
use nix::errno::Errno;

use crate::peer::AttestedPeer;

/// The most bytes that one value takes, escapes included: two paths, a grant and
/// a message stay within a line.
const MAX_VALUE: usize = 900;

/// Who decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    /// The privileged half, from its own judgement.
    Mounter,
    /// The unprivileged half; its word for why a request ended there.
    Session,
}

/// One decision.
pub(crate) struct Record<'a> {
    pub(crate) peer: &'a AttestedPeer,
    pub(crate) by: By,
    /// `None` for bytes that are no request.
    pub(crate) operation: Option<&'a Operation>,
    pub(crate) grant: Option<&'a str>,
    pub(crate) outcome: Result<&'a Reply, &'a ErrorReply>,
    pub(crate) took: Duration,
}

impl Record<'_> {
    /// Writes the line.
    pub(crate) fn write(&self) -> Result<(), Errno> {
        write_line(&self.line())
    }

    fn line(&self) -> String {
        let mut line = Line::new();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        line.number("time_ms", now.as_millis());
        line.text("event", event(self.operation).as_bytes());
        line.text(
            "by",
            if matches!(self.by, By::Mounter) {
                b"mounter"
            } else {
                b"session"
            },
        );
        line.number("uid", self.peer.identity().uid);
        line.number("gid", self.peer.identity().gid);
        line.number("pid", self.peer.pid());
        if let Some(operation) = self.operation {
            line.text("target", operation.target().as_bytes());
            if let Some(source) = operation.source() {
                line.text("source", source.as_bytes());
            }
        }
        if let Some(grant) = self.grant {
            line.text("grant", grant.as_bytes());
        }
        match self.outcome {
            Ok(Reply::Error(error)) | Err(error) => failure(&mut line, error),
            Ok(reply) => success(&mut line, reply),
        }
        line.number("took_us", self.took.as_micros());
        line.finish()
    }
}

fn event(operation: Option<&Operation>) -> &'static str {
    match operation {
        Some(Operation::Mount(Mount {
            kind: Kind::Bind { .. },
            ..
        })) => "mount-bind",
        Some(Operation::Mount(Mount {
            kind: Kind::Tmpfs { .. },
            ..
        })) => "mount-tmpfs",
        Some(Operation::Unmount(_)) => "unmount",
        None => "protocol",
    }
}

fn success(line: &mut Line, reply: &Reply) {
    match reply {
        Reply::Mounted(mounted) => {
            let result = match mounted.outcome {
                Outcome::Mounted => "mounted",
                Outcome::AlreadyMounted => "already-mounted",
            };
            line.text("result", result.as_bytes());
            line.number("id", u64::from(mounted.mount.id));
            line.text(
                "flags",
                mounted.mount.attributes.names().join(",").as_bytes(),
            );
        }
        Reply::Unmounted(unmounted) => {
            line.text("result", b"unmounted");
            line.number("id", u64::from(unmounted.id));
        }
        _ => line.text("result", b"done"),
    }
}

fn failure(line: &mut Line, error: &ErrorReply) {
    let denied = error.code == mountwarden_protocol::ErrorCode::Denied;
    line.text("result", if denied { b"denied" } else { b"error" });
    line.text("code", error.code.name().as_bytes());
    if let Some(reason) = error.reason {
        line.text("reason", reason.name().as_bytes());
    }
    if let Some(errno) = error.errno {
        line.number("errno", errno);
    }
    line.text("message", error.message.as_bytes());
}

/// Writes a line about the helper itself.
pub(crate) fn log(role: &str, message: &str) -> Result<(), Errno> {
    let mut line = Line::new();
    line.text("event", b"helper");
    line.text("role", role.as_bytes());
    line.text("message", message.as_bytes());
    write_line(&line.finish())
}

fn write_line(line: &str) -> Result<(), Errno> {
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(std::io::stderr(), rest) {
            Ok(0) => return Err(Errno::EIO),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A JSON object that is being written.
struct Line(String);

impl Line {
    fn new() -> Self {
        Self(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn number(&mut self, key: &str, number: impl std::fmt::Display) {
        self.key(key);
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{number}");
    }

    /// Whatever the bytes are, the value is one line of printable ASCII. A byte
    /// that is not UTF-8 stands as `\\xNN` in the decoded value.
    fn text(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.0.push('"');
        let end = self.0.len().saturating_add(MAX_VALUE);
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

    fn finish(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Line;

    fn value(bytes: &[u8]) -> (String, serde_json::Value) {
        let mut line = Line::new();
        line.text("a", bytes);
        line.number("n", 7);
        line.text("b", bytes);
        line.text("c", bytes);
        line.text("d", bytes);
        let text = line.finish();
        let parsed = serde_json::from_str(&text).expect(&text);
        (text, parsed)
    }

    proptest! {
        /// Attack 33: whatever the bytes, one line that any JSON parser reads, and
        /// that a pipe takes as one (`PIPE_BUF` is 4096 on Linux).
        #[test]
        fn attack_33_any_bytes_are_one_line(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let (text, parsed) = value(&bytes);
            prop_assert!(text.len() <= 4096 - 300, "{}", text.len());
            prop_assert_eq!(text.bytes().last(), Some(b'\n'));
            prop_assert!(text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(&parsed["n"], 7);
            prop_assert_eq!(&parsed["a"], &parsed["d"]);
        }

        #[test]
        fn short_text_is_kept(text in "\\PC{0,60}|[\\x00-\\x1f\"\\\\/]{0,60}") {
            let (_, parsed) = value(text.as_bytes());
            prop_assert_eq!(&parsed["a"], &text);
        }
    }

    #[test]
    fn long_values_say_that_they_were_cut() {
        for byte in [b'x', b'\n', 0xff] {
            let (text, parsed) = value(&[byte; 5000]);
            assert!(text.len() < 4096 - 300, "{}", text.len());
            assert!(
                parsed["a"]
                    .as_str()
                    .is_some_and(|text| text.ends_with("..."))
            );
        }
        let (_, parsed) = value(b"not \xff utf-8");
        assert_eq!(parsed["a"], "not \\xff utf-8");
    }
}
