//! The audit log: one JSON object a line on standard error, written by the
//! privileged half from what the kernel attests. The other half has no way to it.
//!
//! The names of the fields do not change. A line has fewer than `PIPE_BUF`
//! bytes (`pipe(7)`), so that lines of different mounters never mix; a value too
//! long for that ends in `...`.
#![forbid(unsafe_code)]

mod line;

use std::fmt::Display;
use std::time::Duration;

use mountwarden_policy::IdMaps;
use mountwarden_protocol::{
    AbsPath, ErrorCode, ErrorReply, FuseSource, Kind, Mount, Operation, Outcome, Propagation,
    Reply, Role, Unmount,
};
use nix::errno::Errno;
use nix::unistd::{Pid, getpid};

use self::line::Line;
use crate::peer::AttestedPeer;
use crate::reports::MAX_MESSAGE;

/// Who decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    /// The privileged half, from its own judgement.
    Mounter,
    /// The privileged half, which gave a connection no mounter.
    Warden,
    /// The unprivileged half; its word for why a request ended there.
    Session,
    /// The unprivileged half; its word for why a connection was refused.
    Gate,
}

/// What was decided on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    Operation(&'a Operation),
    /// One mount of a batch, by its number.
    Entry(&'a Operation, u32),
    /// The end of a mount that was held, and why.
    Held(&'a Unmount, &'static str),
    /// The question whether the file system at a place answers.
    Probe(&'a AbsPath),
    /// Bytes that are no request.
    Protocol,
    Connection,
}

/// One decision.
pub(crate) struct Record<'a> {
    /// `None` where the kernel does not say who it is.
    pub(crate) peer: Option<&'a AttestedPeer>,
    pub(crate) by: By,
    pub(crate) subject: Subject<'a>,
    pub(crate) grant: Option<&'a str>,
    pub(crate) outcome: Result<&'a Reply, &'a ErrorReply>,
    /// What a mount maps that was made ID-mapped.
    pub(crate) maps: Option<&'a IdMaps>,
    /// `None` where nothing was done.
    pub(crate) took: Option<Duration>,
}

impl Record<'_> {
    /// Writes the line.
    pub(crate) fn write(&self) -> Result<(), Errno> {
        write_all(self.line().as_bytes())
    }

    fn line(&self) -> String {
        let mut line = about(self.subject.event(), self.by, self.peer);
        match self.subject {
            Subject::Operation(operation) => asked(&mut line, operation),
            Subject::Entry(operation, number) => {
                line.number("entry", number);
                asked(&mut line, operation);
            }
            Subject::Held(unmount, why) => {
                line.text("target", unmount.target.as_bytes());
                line.name("why", why);
            }
            Subject::Probe(target) => line.text("target", target.as_bytes()),
            Subject::Protocol | Subject::Connection => {}
        }
        if let Some(grant) = self.grant {
            line.text("grant", grant.as_bytes());
        }
        match self.outcome {
            Ok(Reply::Error(error)) | Err(error) => failure(&mut line, error),
            Ok(reply) => success(&mut line, reply),
        }
        if let Some(IdMaps { uids, gids }) = self.maps {
            let users = uids.iter().map(|range| format!("users {range}"));
            let groups = gids.iter().map(|range| format!("groups {range}"));
            let ranges: Vec<String> = users.chain(groups).collect();
            line.texts("idmap", ranges.iter().map(String::as_bytes));
        }
        if let Some(took) = self.took {
            line.number("took_us", took.as_micros());
        }
        line.finish()
    }
}

/// The beginning of a line about a peer.
fn about(event: &str, by: By, peer: Option<&AttestedPeer>) -> Line {
    let mut line = Line::of_now();
    line.name("event", event);
    line.name("by", by.name());
    if let Some(peer) = peer {
        line.number("uid", peer.identity().uid);
        line.number("gid", peer.identity().gid);
        line.number("pid", peer.pid());
    }
    line
}

/// Writes down what became of the mounts that a batch made: kept, or taken back but for
/// these.
pub(crate) fn batch(peer: &AttestedPeer, made: usize, left: Option<usize>) -> Result<(), Errno> {
    let mut line = about("batch", By::Mounter, Some(peer));
    line.number("made", made);
    match left {
        None => line.name("result", "kept"),
        Some(left) => {
            line.name("result", "taken-back");
            line.number("left", left);
        }
    }
    write_all(line.finish().as_bytes())
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Mounter => "mounter",
            Self::Warden => "warden",
            Self::Session => "session",
            Self::Gate => "gate",
        }
    }
}

impl<'a> Subject<'a> {
    /// Of an operation, which may be a mount of a batch.
    pub(crate) fn of(operation: &'a Operation, entry: Option<u32>) -> Self {
        match entry {
            None => Self::Operation(operation),
            Some(number) => Self::Entry(operation, number),
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Operation(operation) | Self::Entry(operation, _) => match operation {
                Operation::Mount(mount) => match mount.kind {
                    Kind::Bind { .. } => "mount-bind",
                    Kind::Tmpfs { .. } => "mount-tmpfs",
                    Kind::Block { .. } => "mount-block",
                    Kind::Fuse { .. } => "mount-fuse",
                    Kind::Overlay { .. } => "mount-overlay",
                    Kind::Image { .. } => "mount-image",
                    Kind::Network { .. } => "mount-network",
                },
                Operation::Unmount(_) => "unmount",
                Operation::Remount(_) => "remount",
                Operation::Detach(_) => "detach-bind",
                Operation::Move(_) => "move",
            },
            Self::Held(..) => "lease-end",
            Self::Probe(_) => "probe",
            Self::Protocol => "protocol",
            Self::Connection => "connection",
        }
    }
}

/// What the client asked for, whatever became of it.
fn asked(line: &mut Line, operation: &Operation) {
    if let Some(target) = operation.target() {
        line.text("target", target.as_bytes());
    }
    match operation {
        Operation::Mount(mount) => asked_mount(line, mount),
        Operation::Unmount(unmount) => {
            line.truth("lazy", unmount.lazy);
            if let Some(id) = unmount.id {
                line.number("only_id", id);
            }
            if unmount.passed {
                passed(line, &["target"]);
            }
        }
        Operation::Remount(remount) => {
            line.name("set", &remount.set.names().join(","));
            if let Some(lift) = &remount.lift {
                line.name("lift", &lift.attributes.names().join(","));
            }
            if let Some(source) = operation.source() {
                line.text("source", source.as_bytes());
            }
            if let Some(id) = remount.id {
                line.number("only_id", id);
            }
        }
        Operation::Detach(detach) => {
            line.text("source", detach.source.as_bytes());
            line.truth("recursive", detach.recursive);
            line.name("options", &detach.options.names().join(","));
            if detach.idmap {
                passed(line, &["idmap"]);
            }
        }
        Operation::Move(moved) => {
            line.text("source", moved.from.as_bytes());
            if let Some(id) = moved.id {
                line.number("only_id", id);
            }
        }
    }
}

fn asked_mount(line: &mut Line, mount: &Mount) {
    match &mount.kind {
        Kind::Block {
            device,
            filesystem,
            options,
        } => {
            line.text("source", device.as_bytes());
            line.name("type", filesystem.as_str());
            line.name("type_options", &joined(options.iter()));
        }
        Kind::Network {
            source,
            filesystem,
            options,
            secrets,
        } => {
            line.name("source", source.as_str());
            line.name("type", filesystem.as_str());
            line.name("type_options", &joined(options.iter()));
            line.name("secrets", &joined(secrets.keys()));
        }
        Kind::Fuse {
            subtype,
            source,
            allow_other,
            default_permissions,
            max_read,
        } => {
            match source {
                FuseSource::Subtype => line.name("type", &format!("fuse.{subtype}")),
                FuseSource::Named(name) => {
                    line.name("type", &format!("fuse.{subtype}"));
                    line.text("source", name.as_str().as_bytes());
                }
                FuseSource::Device { device, block_size } => {
                    line.name("type", &format!("fuseblk.{subtype}"));
                    line.text("source", device.as_bytes());
                    if let Some(size) = block_size {
                        line.number("block_size", size.bytes());
                    }
                }
            }
            line.truth("allow_other", *allow_other);
            line.truth("default_permissions", *default_permissions);
            if let Some(bytes) = max_read {
                line.number("max_read", *bytes);
            }
        }
        Kind::Image { file, filesystem } => {
            line.text("source", file.as_bytes());
            line.name("type", filesystem.name());
        }
        Kind::Overlay { lower, upper } => {
            let written = upper.iter().flat_map(|layer| [&layer.upper, &layer.work]);
            let layers = written.chain(lower.iter());
            line.texts("layers", layers.map(AbsPath::as_bytes));
            line.truth("upper", upper.is_some());
        }
        Kind::Bind { source, recursive } => {
            line.text("source", source.as_bytes());
            line.truth("recursive", *recursive);
        }
        Kind::Tmpfs { size, inodes, mode } => {
            if let Some(size) = size {
                line.number("size", size.get());
            }
            if let Some(inodes) = inodes {
                line.number("inodes", inodes.get());
            }
            if let Some(mode) = mode {
                line.name("mode", &format!("{:04o}", mode.bits()));
            }
        }
    }
    line.name("options", &mount.options.names().join(","));
    if mount.propagation != Propagation::Private {
        line.name("propagation", mount.propagation.name());
    }
    passed(line, &mount.passed.names());
    if mount.lease {
        line.truth("lease", true);
    }
}

fn joined(items: impl Iterator<Item: Display>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.join(",")
}

/// What came as descriptors.
fn passed(line: &mut Line, locations: &[&str]) {
    if !locations.is_empty() {
        line.name("passed", &locations.join(","));
    }
}

fn success(line: &mut Line, reply: &Reply) {
    match reply {
        Reply::Mounted(mounted) => {
            let result = match mounted.outcome {
                Outcome::Mounted => "mounted",
                Outcome::AlreadyMounted => "already-mounted",
            };
            line.name("result", result);
            line.number("id", mounted.mount.id);
            line.name("flags", &mounted.mount.attributes.names().join(","));
        }
        Reply::Unmounted(unmounted) => {
            line.name("result", "unmounted");
            line.number("id", unmounted.id);
        }
        Reply::Remounted(mount) => {
            line.name("result", "remounted");
            line.number("id", mount.id);
            line.name("flags", &mount.attributes.names().join(","));
        }
        Reply::Moved(mount) => {
            line.name("result", "moved");
            line.number("id", mount.id);
            line.name("flags", &mount.attributes.names().join(","));
        }
        Reply::Detached(detached) => {
            line.name("result", "detached");
            line.number("id", detached.id);
            line.name("flags", &detached.attributes.names().join(","));
        }
        _ => line.name("result", "done"),
    }
}

fn failure(line: &mut Line, error: &ErrorReply) {
    let denied = error.code == ErrorCode::Denied;
    line.name("result", if denied { "denied" } else { "error" });
    line.name("code", error.code.name());
    if let Some(reason) = error.reason {
        line.name("reason", reason.name());
    }
    if let Some(errno) = error.errno {
        line.number("errno", errno);
    }
    if let Some(id) = error.mount {
        line.number("found_id", id);
    }
    line.text("message", error.message.as_bytes());
}

/// Has a line about the helper itself written. The unprivileged half sends the warden
/// the message alone, which is what its standard error is for.
pub(crate) fn log(role: Role, message: &str) -> Result<(), Errno> {
    let message = message.as_bytes();
    match role {
        Role::Gate | Role::Session => write_all(message.get(..MAX_MESSAGE).unwrap_or(message)),
        Role::Warden | Role::Mounter | Role::Locker => log_of(role, getpid(), message),
    }
}

/// Writes a line about the helper itself, for the process that has something to say.
pub(crate) fn log_of(role: Role, pid: Pid, message: &[u8]) -> Result<(), Errno> {
    let mut line = Line::of_now();
    line.name("event", "helper");
    line.name("role", &role.to_string());
    line.number("pid", pid);
    line.text("message", message);
    write_all(line.finish().as_bytes())
}

fn write_all(mut rest: &[u8]) -> Result<(), Errno> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mountwarden_protocol::{
        AbsPath, DenyReason, ErrorCode, ErrorReply, Kind, Mount, MountId, MountOptions, Operation,
        Passed, Propagation, UpperLayer,
    };
    use proptest::prelude::*;

    use super::{By, Line, Record, Subject};

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

    /// The longest line that there can be, but for who the peer is: three numbers
    /// of ten digits and their names.
    #[test]
    fn attack_33_the_longest_line_fits_a_pipe() {
        let path = |last: u8| {
            let path = [b"/".to_vec(), vec![0xff; 254], vec![last]].concat();
            AbsPath::from_bytes(&path.repeat(15)).expect("a path")
        };
        let bind = Kind::Bind {
            source: path(1),
            recursive: false,
        };
        let layers = AbsPath::new("/\u{7f}".repeat(60)).expect("a path");
        let overlay = Kind::Overlay {
            lower: vec![layers; 16].try_into().expect("layers"),
            upper: Some(UpperLayer {
                upper: path(1),
                work: path(1),
            }),
        };
        let text = longest(bind, path(2));
        assert!(text.len() <= 4096 - 60, "{}", text.len());
        let text = longest(overlay, path(2));
        assert!(text.len() <= 4096 - 60, "{}", text.len());
    }

    fn longest(kind: Kind, target: AbsPath) -> String {
        let mount = Mount {
            kind,
            target,
            options: MountOptions::all(),
            propagation: Propagation::Shared,
            passed: Passed::all(),
            lease: true,
        };
        let id = MountId::try_from(u64::MAX).expect("an id");
        let mut error = ErrorReply::new(ErrorCode::UnsupportedVersion, "\u{1f600}".repeat(600));
        error.reason = Some(DenyReason::InodesAboveMaximum);
        let error = error.errno(i32::MIN).mount(id);
        let record = Record {
            peer: None,
            by: By::Mounter,
            subject: Subject::Entry(&Operation::Mount(mount), u32::MAX),
            grant: Some(&"\n".repeat(500)),
            outcome: Err(&error),
            maps: None,
            took: Some(Duration::MAX),
        };
        let text = record.line();
        let parsed: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(parsed["result"], "error");
        text
    }

    #[test]
    fn a_list_has_the_room_of_one_value() {
        let values = |count: usize, length: usize| {
            let value = "x".repeat(length);
            let mut line = Line::new();
            line.texts("a", std::iter::repeat_n(value.as_bytes(), count));
            let parsed: serde_json::Value = serde_json::from_str(&line.finish()).expect("JSON");
            parsed["a"].as_array().expect("a list").clone()
        };
        assert!(values(0, 1).is_empty());
        let all = values(8, 100);
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|value| *value == "x".repeat(100)), "{all:?}");
        let some = values(16, 100);
        assert_eq!(some.len(), 9);
        let last = some.last().and_then(serde_json::Value::as_str);
        assert!(last.is_some_and(|last| last.ends_with("...")), "{some:?}");
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
