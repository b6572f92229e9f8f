//! The command line.

mod kinds;
mod operation;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use mountwarden_protocol::escape::SafePath;
use mountwarden_protocol::{MountId, TmpfsInodes, TmpfsMode, TmpfsSize};

pub(super) use self::kinds::Served;
use self::kinds::{Imaged, Layered, Networked, Permissions, Usual};
use super::{batch, exit, volume};
use crate::Error;

/// Mounts and unmounts what the administrator's policy grants to this user.
#[derive(Debug, Parser)]
#[command(name = "mountwarden", version, after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The helper's socket [default: /run/mountwarden/mountwarden.sock].
    #[arg(long, global = true, value_name = "PATH", display_order = 101)]
    pub(super) socket: Option<PathBuf>,

    /// Print JSON: the result on standard output, an error on standard error.
    #[arg(long, global = true, display_order = 102)]
    pub(super) json: bool,

    /// Give up after this long, all told; fractions are allowed [default: 60; for
    /// a probe, 5, which is what the file system has to answer]. For a volume: no step
    /// takes longer.
    #[arg(long, global = true, value_name = "SECONDS", display_order = 103, value_parser = timeout)]
    pub(super) timeout: Option<Duration>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    Change(Change),

    /// Make all mounts that a file lists, or none: see the format below.
    #[command(after_long_help = batch::FORMAT)]
    Apply {
        /// The file, in TOML or JSON; - for standard input.
        file: PathBuf,

        /// Only say of each whether the policy allows it.
        #[arg(long)]
        explain: bool,
    },

    /// List the mounts at places that are granted to this user.
    List,

    /// Say whether the policy allows an operation, by which grant, and why not.
    Explain {
        #[command(subcommand)]
        operation: Change,
    },

    /// Say whether the file system that is mounted at a place answers.
    Probe {
        /// Where it is mounted; an absolute path without '.' or '..'.
        target: OsString,
    },

    /// Keep mounts for services that use them: see the format below.
    #[command(subcommand, after_help = volume::FORMAT)]
    Volume(volume::Command),

    /// Describe the helper: version, confinement, limits, counters.
    Status,
}

#[derive(Debug, Subcommand)]
pub(super) enum Change {
    /// Show a directory or a file at a second place, or mount a file system.
    Mount {
        #[command(subcommand)]
        kind: Kind,
    },

    /// End the topmost mount at a place.
    #[command(alias = "umount")]
    Unmount {
        /// Where it is mounted; an absolute path without '.' or '..'.
        target: OsString,

        /// Take it out of the tree now, and end it when nothing uses it any more.
        #[arg(long)]
        lazy: bool,

        /// Only if the topmost mount has this id.
        #[arg(long, value_name = "N", value_parser = mount_id)]
        id: Option<MountId>,

        /// Open the mount's root here and pass the descriptor, for a place that the
        /// helper's user cannot reach.
        #[arg(long, requires = "lazy")]
        pass: bool,
    },

    /// Change the flags of the topmost mount at a place.
    #[command(group(ArgGroup::new("change").args(CHANGES).required(true).multiple(true)))]
    Remount {
        /// Where it is mounted; an absolute path without '.' or '..'.
        target: OsString,

        #[command(flatten)]
        gains: Gains,

        #[command(flatten)]
        losses: Losses,

        #[command(flatten)]
        shown: Shown,

        /// The type of the file system on the device.
        #[arg(long = "type", value_name = "TYPE", requires = "device")]
        filesystem: Option<String>,

        /// Only if the topmost mount has this id.
        #[arg(long, value_name = "N", value_parser = mount_id)]
        id: Option<MountId>,
    },

    /// Attach the topmost mount at a place elsewhere, in one step.
    Move {
        /// Where it is mounted; an absolute path without '.' or '..'.
        from: OsString,

        /// Where it is to be: it exists and is of the same type.
        to: OsString,

        /// Only if the topmost mount has this id.
        #[arg(long, value_name = "N", value_parser = mount_id)]
        id: Option<MountId>,
    },

    /// Show a directory or a file in this command's own mount namespace, and nowhere else.
    Attach(Attached),
}

/// What is handed over, and where this command attaches it.
#[derive(Debug, Args)]
pub(super) struct Attached {
    /// What to show; an absolute path without '.' or '..', in the helper's namespace.
    source: OsString,

    /// Where, in the mount namespace of this command, which must be its user's own: it
    /// exists and is of the same type.
    target: PathBuf,

    /// Nothing can be written through the mount.
    #[arg(long)]
    read_only: bool,

    /// With the mounts beneath the source, where the grant allows it.
    #[arg(long)]
    recursive: bool,

    /// No program may be executed from the mount.
    #[arg(long)]
    noexec: bool,

    #[command(flatten)]
    mapped: Mapped,

    #[command(flatten)]
    with: Permissions,
}

/// Whom the files of a bind belong to.
#[derive(Debug, Args)]
pub(super) struct Mapped {
    /// Show files as owned by whom this user namespace maps their owners to, such as
    /// /proc/PID/ns/user; opened here, and passed.
    #[arg(long, value_name = "PATH")]
    idmap: Option<PathBuf>,
}

/// A remount has one of these at least.
const CHANGES: [&str; 10] = [
    "read_only",
    "noexec",
    "nosymfollow",
    "nosuid",
    "nodev",
    "read_write",
    "exec",
    "symfollow",
    "suid",
    "dev",
];

#[derive(Debug, Subcommand)]
pub(super) enum Kind {
    /// Show a directory or a regular file at a second place.
    Bind {
        /// What to show; an absolute path without '.' or '..'.
        source: OsString,

        /// Where: it exists and is of the same type.
        target: OsString,

        /// Nothing can be written through the mount.
        #[arg(long)]
        read_only: bool,

        /// With the mounts beneath the source, where the grant allows it.
        #[arg(long)]
        recursive: bool,

        /// What is mounted on the source appears on the mount; not the other way.
        #[arg(long)]
        slave: bool,

        /// What is mounted on the mount appears on its source, and the other way.
        #[arg(long, conflicts_with = "slave")]
        shared: bool,

        /// Open the source here and pass the descriptor, as --pass-target does.
        #[arg(long)]
        pass_source: bool,

        #[command(flatten)]
        mapped: Mapped,

        #[command(flatten)]
        usual: Usual,
    },

    /// Mount an empty file system in memory.
    Tmpfs {
        /// Where: an existing directory, as an absolute path without '.' or '..'.
        target: OsString,

        /// The most it may hold: bytes, or with K, M, G or T [default: what the
        /// grant allows].
        #[arg(long, value_name = "SIZE")]
        size: Option<TmpfsSize>,

        /// The most files and directories it may hold [default: what the grant
        /// allows].
        #[arg(long, value_name = "N", value_parser = inodes)]
        inodes: Option<TmpfsInodes>,

        /// The mode of its root directory, in octal [default: 0700].
        #[arg(long, value_name = "MODE", value_parser = mode)]
        mode: Option<TmpfsMode>,

        /// What is mounted on the mount appears in later mount namespaces too.
        #[arg(long)]
        shared: bool,

        #[command(flatten)]
        usual: Usual,
    },

    /// Mount the file system on a block device.
    Block {
        /// The device, or a symbolic link to it; an absolute path without '.' or '..'.
        device: OsString,

        /// Where: an existing directory.
        target: OsString,

        /// The type of the file system, as /proc/filesystems has it.
        #[arg(long = "type", value_name = "TYPE")]
        filesystem: String,

        /// An option of the file system, where the grant allows it; may be given again.
        #[arg(long = "option", value_name = "KEY[=VALUE]")]
        own: Vec<String>,

        /// Nothing can be written, neither through the mount nor to the device.
        #[arg(long)]
        read_only: bool,

        /// What is mounted on the mount appears in later mount namespaces too.
        #[arg(long)]
        shared: bool,

        #[command(flatten)]
        usual: Usual,
    },

    /// Mount a file system that a program serves, and become that program.
    Fuse(Served),

    /// Show several directories as one; read-only without an upper layer.
    Overlay(Layered),

    /// Mount the file system in a regular file, which is only read.
    Image(Imaged),

    /// Mount a file system of a server, or of the machine below.
    Network(Networked),
}

#[derive(Debug, Args)]
#[group(multiple = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the line")]
pub(super) struct Gains {
    /// Nothing can be written through the mount any more.
    #[arg(long, conflicts_with = "read_write")]
    read_only: bool,

    /// No program may be executed from it.
    #[arg(long, conflicts_with = "exec")]
    noexec: bool,

    /// Symbolic links on it are not followed.
    #[arg(long, conflicts_with = "symfollow")]
    nosymfollow: bool,

    /// Set-user-id bits on it do not count.
    #[arg(long, conflicts_with = "suid")]
    nosuid: bool,

    /// Device nodes on it do not count.
    #[arg(long, conflicts_with = "dev")]
    nodev: bool,
}

#[derive(Debug, Args)]
#[group(multiple = true, requires = "Shown")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the line")]
pub(super) struct Losses {
    /// It can be written to. This and what follows takes --source, --tmpfs or --device, and
    /// a grant that does not force the contrary.
    #[arg(long)]
    read_write: bool,

    /// Programs may be executed from it.
    #[arg(long)]
    exec: bool,

    /// Symbolic links on it are followed.
    #[arg(long)]
    symfollow: bool,

    /// Honour set-user-id bits.
    #[arg(long)]
    suid: bool,

    /// Honour device nodes.
    #[arg(long)]
    dev: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Shown {
    /// The mount is a bind of this directory or file.
    #[arg(long, value_name = "PATH")]
    source: Option<OsString>,

    /// The mount is a tmpfs of this user.
    #[arg(long)]
    tmpfs: bool,

    /// The mount is the file system on this device.
    #[arg(long, value_name = "PATH", requires = "filesystem")]
    device: Option<OsString>,
}

/// Whether the words ask for JSON, for words that clap refused.
pub(super) fn ask_for_json(words: &[OsString]) -> bool {
    words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json")
}

/// The path without the slashes that a shell's completion puts at its end.
pub(super) fn trimmed(path: &OsStr) -> &Path {
    let bytes = path.as_bytes();
    let end = bytes
        .iter()
        .rposition(|&byte| byte != b'/')
        .map_or(1, |last| last.saturating_add(1));
    Path::new(OsStr::from_bytes(bytes.get(..end).unwrap_or(bytes)))
}

/// Tells what to write instead of a relative path. Only by its letters: looking
/// at the file system could hang on the very mount that is to be ended.
pub(super) fn advise(error: Error) -> Error {
    let Some(path) = error.path().filter(|path| path.is_relative()) else {
        return error;
    };
    let plain = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    let whole = plain
        .then(|| std::path::absolute(path).ok())
        .flatten()
        .map_or_else(
            || "the path that realpath(1) prints".to_owned(),
            |path| format!("\"{}\"", SafePath(&path)),
        );
    error.advise(&format!("write {whole}"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds above 0, such as 5 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(wrong()),
    }
}

fn mount_id(text: &str) -> Result<MountId, String> {
    let id: u64 = text
        .parse()
        .map_err(|_| "a mount id is a number, as 'mountwarden list' prints it".to_owned())?;
    MountId::try_from(id).map_err(|error| error.to_string())
}

fn inodes(text: &str) -> Result<TmpfsInodes, String> {
    let count: u64 = text
        .parse()
        .map_err(|_| "an inode count is a whole number".to_owned())?;
    TmpfsInodes::try_from(count).map_err(|error| error.to_string())
}

pub(super) fn mode(text: &str) -> Result<TmpfsMode, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    // from_str_radix takes a sign too.
    if digits.is_empty() || !digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err("a mode is an octal number, such as 0750".to_owned());
    }
    let bits = u32::from_str_radix(digits, 8).map_err(|error| error.to_string())?;
    TmpfsMode::try_from(bits).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trailing_slashes_are_forgiven() {
        for (given, kept) in [
            ("/a", "/a"),
            ("/a/", "/a"),
            ("/a//", "/a"),
            ("/", "/"),
            ("//", "/"),
            ("", ""),
            ("/a//b/", "/a//b"),
            ("/a/./", "/a/."),
        ] {
            assert_eq!(trimmed(OsStr::new(given)), Path::new(kept), "{given:?}");
            assert_eq!(trimmed(OsStr::new(given)).as_os_str(), kept, "{given:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
