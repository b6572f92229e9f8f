//! What `--json` prints. README.md describes the shapes; every key of a shape is always
//! there.

use std::io;
use std::path::Path;

use clap::error::ErrorKind as UsageKind;
use mountwarden_protocol::escape::steers;
use mountwarden_protocol::{
    Counters, Explanation, LandlockReport, Limits, MountAttributes, MountInfo, Mounted, Outcome,
    RoleReport, Status,
};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Answer, status, text};
use crate::volume::ProgramEnd;
use crate::{BatchFailure, Error, Health, Probe};

fn mount(mounted: &Mounted) -> String {
    print(&Changed {
        result: outcome(mounted.outcome),
        mount: Mount::of(&mounted.mount),
    })
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Mounted => "mounted",
        Outcome::AlreadyMounted => "already-mounted",
    }
}

/// A result.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Mounted(mounted) => mount(mounted),
        Answer::Unmounted(unmounted) => print(&Unmounted {
            result: "unmounted",
            id: unmounted.id.into(),
            target: path(unmounted.target.as_path()),
        }),
        Answer::Remounted(mount) => print(&Changed {
            result: "remounted",
            mount: Mount::of(mount),
        }),
        Answer::Moved(mount) => print(&Changed {
            result: "moved",
            mount: Mount::of(mount),
        }),
        Answer::List(mounts) => print(&mounts.iter().map(Mount::of).collect::<Vec<_>>()),
        Answer::Explained { explanation, .. } => print(&Explained::of(explanation)),
        Answer::ExplainedAll(all) => {
            let each = all
                .iter()
                .map(|(_, explanation)| Explained::of(explanation));
            print(&each.collect::<Vec<_>>())
        }
        Answer::Applied(mounts) => print(&Applied {
            result: "applied",
            mounts: mounts.iter().map(Entry::of).collect(),
        }),
        Answer::Volume(report) => print(report),
        Answer::Status(status) => print(&Helper::of(status)),
        Answer::Probed(probe) => print(&Probed::of(probe)),
        Answer::Attached { detached, place } => print(&Attached {
            result: "attached",
            id: detached.id.into(),
            target: path(place),
            flags: detached.attributes.names(),
        }),
    }
}

/// An error of the library or of the helper.
pub(super) fn error(error: &Error) -> String {
    print(&Wrapped {
        error: Failure::of(error),
    })
}

/// A command line that is not understood.
pub(super) fn usage(error: &clap::Error) -> String {
    let message = if error.kind() == UsageKind::DisplayHelpOnMissingArgumentOrSubcommand {
        "a command is missing; --help lists them".to_owned()
    } else {
        // Usage and tips follow after an empty line.
        let rendered = error.render().to_string();
        let lines: Vec<&str> = rendered
            .lines()
            .map(str::trim)
            .take_while(|line| !line.is_empty())
            .collect();
        let message = lines.join(" ");
        message
            .strip_prefix("error: ")
            .unwrap_or(&message)
            .to_owned()
    };
    print(&Wrapped {
        error: Failure {
            code: "usage".to_owned(),
            reason: None,
            message,
            errno: None,
            path: None,
            mount: None,
            program: None,
            batch: None,
        },
    })
}

#[derive(Serialize)]
struct Changed<'a> {
    result: &'static str,
    #[serde(flatten)]
    mount: Mount<'a>,
}

#[derive(Serialize)]
struct Attached {
    result: &'static str,
    id: u64,
    target: String,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct Mount<'a> {
    id: u64,
    target: String,
    filesystem: &'a str,
    root: String,
    flags: Vec<&'static str>,
    device: String,
}

impl<'a> Mount<'a> {
    fn of(mount: &'a MountInfo) -> Self {
        Self {
            id: mount.id.into(),
            target: path(mount.target.as_path()),
            filesystem: &mount.filesystem,
            root: path(mount.root.as_path()),
            flags: MountAttributes::names(mount.attributes),
            device: mount.device.to_string(),
        }
    }
}

#[derive(Serialize)]
struct Unmounted {
    result: &'static str,
    id: u64,
    target: String,
}

#[derive(Serialize)]
struct Probed {
    result: &'static str,
    id: Option<u64>,
    target: String,
    errno: Option<i32>,
    waited_ms: Option<u128>,
}

impl Probed {
    fn of(probe: &Probe) -> Self {
        let (errno, waited_ms) = match probe.health {
            Health::Stale { errno } => (Some(errno), None),
            Health::Hung { waited } => (None, Some(waited.as_millis())),
            Health::Alive | Health::Private | Health::Absent => (None, None),
        };
        Self {
            result: probe.health.name(),
            id: probe.id.map(u64::from),
            target: path(probe.target.as_path()),
            errno,
            waited_ms,
        }
    }
}

#[derive(Serialize)]
struct Applied {
    result: &'static str,
    mounts: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    result: &'static str,
    id: u64,
    target: String,
    flags: Vec<&'static str>,
}

impl Entry {
    fn of(mount: &crate::Applied) -> Self {
        Self {
            result: outcome(mount.outcome),
            id: mount.id.into(),
            target: path(mount.target.as_path()),
            flags: mount.attributes.names(),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Explained<'a> {
    Allowed(Allowed<'a>),
    Denied(Denied),
}

impl<'a> Explained<'a> {
    fn of(explanation: &'a Explanation) -> Self {
        match explanation {
            Explanation::Allowed {
                grant,
                attributes,
                tmpfs,
            } => Self::Allowed(Allowed {
                result: "allowed",
                grant,
                flags: attributes.names(),
                tmpfs: tmpfs.map(|limits| Tmpfs {
                    size: limits.size,
                    inodes: limits.inodes,
                    mode: text::mode(limits.mode),
                }),
            }),
            Explanation::Denied(reply) => Self::Denied(Denied {
                result: "denied",
                failure: Failure::of(&reply.clone().into()),
            }),
        }
    }
}

#[derive(Serialize)]
struct Allowed<'a> {
    result: &'static str,
    grant: &'a str,
    flags: Vec<&'static str>,
    tmpfs: Option<Tmpfs>,
}

#[derive(Serialize)]
struct Tmpfs {
    size: u64,
    inodes: u64,
    mode: String,
}

#[derive(Serialize)]
struct Denied {
    result: &'static str,
    #[serde(flatten)]
    failure: Failure,
}

#[derive(Serialize)]
struct Wrapped {
    error: Failure,
}

#[derive(Serialize)]
struct Failure {
    code: String,
    reason: Option<String>,
    message: String,
    errno: Option<i32>,
    path: Option<String>,
    mount: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<Program>,
    #[serde(flatten)]
    batch: Option<NotApplied>,
}

/// The program of a volume, which mounted nothing.
#[derive(Serialize)]
struct Program {
    exited: Option<i32>,
    signal: Option<i32>,
    said: String,
}

impl Program {
    fn of(end: ProgramEnd, said: Option<&str>) -> Self {
        let (exited, signal) = match end {
            ProgramEnd::Exited(status) => (Some(status), None),
            ProgramEnd::Killed(signal) => (None, Some(signal)),
        };
        Self {
            exited,
            signal,
            said: said.unwrap_or_default().to_owned(),
        }
    }
}

/// What is there only of a batch.
#[derive(Serialize)]
struct NotApplied {
    entry: usize,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct Left {
    id: u64,
    target: String,
}

impl NotApplied {
    fn of(failure: &BatchFailure) -> Self {
        let left = |left: &crate::Left| Left {
            id: left.id.into(),
            target: path(left.target.as_path()),
        };
        Self {
            entry: failure.entry,
            left: failure.left.iter().map(left).collect(),
        }
    }
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            code: error.reply().map_or_else(
                || error.kind().name().to_owned(),
                |reply| reply.code.to_string(),
            ),
            reason: error.reason().map(|reason| reason.to_string()),
            message: error.to_string(),
            errno: error.errno(),
            path: error.path().map(path),
            mount: error.mount().map(u64::from),
            program: error
                .program_end()
                .map(|end| Program::of(end, error.program_said())),
            batch: error.batch().map(NotApplied::of),
        }
    }
}

#[derive(Serialize)]
struct Helper<'a> {
    version: &'a str,
    protocol: u32,
    uid: u32,
    uptime_seconds: u64,
    roles: Vec<Role>,
    limits: Limits,
    counters: Counters,
}

impl<'a> Helper<'a> {
    fn of(status: &'a Status) -> Self {
        Self {
            version: &status.version,
            protocol: status.protocol,
            uid: status.uid,
            uptime_seconds: status.uptime_seconds,
            roles: status.roles.iter().map(Role::of).collect(),
            limits: status.limits,
            counters: status.counters,
        }
    }
}

#[derive(Serialize)]
struct Role {
    #[serde(rename = "role")]
    name: String,
    uid: u32,
    capabilities: Vec<String>,
    bounding: Vec<String>,
    landlock: LandlockReport,
    system_calls: u32,
}

impl Role {
    fn of(report: &RoleReport) -> Self {
        Self {
            name: report.role.to_string(),
            uid: report.uid,
            capabilities: status::capabilities(report.capabilities),
            bounding: status::capabilities(report.bounding),
            landlock: report.landlock,
            system_calls: report.system_calls,
        }
    }
}

/// A path as text that can be turned back into its bytes: a backslash and each
/// byte that is not UTF-8 is written `\xNN`, everything else stands for itself.
pub(super) fn path(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;

    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\x5c"));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// One line of JSON.
fn print(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, ForTerminals);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        // Every value here has text keys and is written to memory.
        Err(error) => {
            serde_json::json!({ "error": { "code": "failed", "message": error.to_string() } })
                .to_string()
        }
    }
}

/// Compact JSON that also escapes what steers a terminal and what JSON itself
/// would let through, such as U+009B. Parsed, it is the same text.
struct ForTerminals;

impl Formatter for ForTerminals {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for piece in fragment.split_inclusive(steers) {
            match piece.chars().next_back().filter(|&last| steers(last)) {
                None => writer.write_all(piece.as_bytes())?,
                Some(last) => {
                    writer.write_all(piece.trim_end_matches(last).as_bytes())?;
                    for unit in last.encode_utf16(&mut units) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_path_can_be_read_back() {
        let bytes = b"/a\\x41\xff\xfe/\xc3\xa9\n";
        assert_eq!(
            path(Path::new(OsStr::from_bytes(bytes))),
            "/a\\x5cx41\\xff\\xfe/é\n"
        );
    }

    #[test]
    fn nothing_steers_a_terminal_and_the_text_is_the_same() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\u{202e}é\u{1b}\n\"";
        let line = print(&text);
        assert!(!line.chars().any(steers), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
