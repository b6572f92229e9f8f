//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use mountwarden_protocol::escape::SafePath;
use mountwarden_protocol::{
    MountAttributes, MountId, Operation, TmpfsInodes, TmpfsMode, TmpfsSize,
};

use super::exit;
use crate::{Bind, Block, Error, Fuse, Remount, Tmpfs, Unmount};

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
    /// a probe, 5, which is what the file system has to answer].
    #[arg(long, global = true, value_name = "SECONDS", display_order = 103, value_parser = timeout)]
    pub(super) timeout: Option<Duration>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    Change(Change),

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

        /// Only if the topmost mount has this id.
        #[arg(long, value_name = "N", value_parser = mount_id)]
        id: Option<MountId>,
    },
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

        #[command(flatten)]
        without: Restrictions,

        #[command(flatten)]
        with: Permissions,
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
        without: Restrictions,

        #[command(flatten)]
        with: Permissions,
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

        #[command(flatten)]
        without: Restrictions,

        #[command(flatten)]
        with: Permissions,
    },

    /// Mount a file system that a program serves, and become that program.
    Fuse(Served),
}

/// A file system that a program serves, and the program.
#[derive(Debug, Args)]
pub(super) struct Served {
    /// Where: an existing directory or regular file.
    target: OsString,

    /// What the mount table calls the type, after 'fuse.'.
    #[arg(long, value_name = "NAME")]
    subtype: String,

    /// What the mount table shows as the source [default: the subtype].
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Other users may use it too, where the grant allows it.
    #[arg(long)]
    allow_other: bool,

    /// The kernel checks permissions.
    #[arg(long)]
    default_permissions: bool,

    /// The most bytes that one read asks the program for.
    #[arg(long, value_name = "BYTES")]
    max_read: Option<u32>,

    /// Nothing can be written through the mount.
    #[arg(long)]
    read_only: bool,

    #[command(flatten)]
    without: Restrictions,

    #[command(flatten)]
    with: Permissions,

    /// The program that becomes of this one and serves the file system, with its
    /// arguments; {fd} in one stands for the number of the connection, as in
    /// /dev/fd/{fd}, which libfuse takes for a place. Not with --lease, which takes
    /// a command that stays.
    #[arg(last = true, value_name = "PROGRAM", conflicts_with = "lease")]
    pub(super) program: Vec<OsString>,
}

impl Served {
    /// The file system that the words describe.
    pub(super) fn fuse(&self) -> Result<Fuse, Error> {
        let fuse = Fuse::new(&self.subtype, trimmed(&self.target)).map_err(advise)?;
        let fuse = match &self.source {
            Some(source) => fuse.source(source)?,
            None => fuse,
        };
        let fuse = when(self.allow_other, fuse, Fuse::allow_other);
        let fuse = when(self.default_permissions, fuse, Fuse::default_permissions);
        let fuse = given(self.max_read, fuse, Fuse::max_read);
        let fuse = when(self.read_only, fuse, Fuse::read_only);
        let fuse = when(self.without.lease, fuse, Fuse::leased);
        let fuse = when(self.without.noexec, fuse, Fuse::no_exec);
        let fuse = when(self.without.nosymfollow, fuse, Fuse::no_symfollow);
        let fuse = when(self.with.suid, fuse, Fuse::suid);
        Ok(when(self.with.dev, fuse, Fuse::dev))
    }
}

#[derive(Debug, Args)]
pub(super) struct Restrictions {
    /// Hold the mount until this command is interrupted, and end it then: however
    /// the command ends, the mount does.
    #[arg(long)]
    lease: bool,

    /// No program may be executed from the mount.
    #[arg(long)]
    noexec: bool,

    /// Symbolic links on the mount are not followed.
    #[arg(long)]
    nosymfollow: bool,
}

#[derive(Debug, Args)]
pub(super) struct Permissions {
    /// Honour set-user-id bits, where the grant allows it.
    #[arg(long)]
    suid: bool,

    /// Honour device nodes, where the grant allows it.
    #[arg(long)]
    dev: bool,
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
    /// It can be written to. This and what follows takes --source or --tmpfs, and
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
}

impl Gains {
    fn attributes(&self) -> MountAttributes {
        attributes([
            (self.read_only, MountAttributes::READ_ONLY),
            (self.noexec, MountAttributes::NO_EXEC),
            (self.nosymfollow, MountAttributes::NO_SYMFOLLOW),
            (self.nosuid, MountAttributes::NO_SUID),
            (self.nodev, MountAttributes::NO_DEV),
        ])
    }
}

impl Losses {
    fn attributes(&self) -> MountAttributes {
        attributes([
            (self.read_write, MountAttributes::READ_ONLY),
            (self.exec, MountAttributes::NO_EXEC),
            (self.symfollow, MountAttributes::NO_SYMFOLLOW),
            (self.suid, MountAttributes::NO_SUID),
            (self.dev, MountAttributes::NO_DEV),
        ])
    }
}

fn attributes(asked: [(bool, MountAttributes); 5]) -> MountAttributes {
    asked
        .into_iter()
        .filter_map(|(asked, attribute)| asked.then_some(attribute))
        .collect()
}

impl Change {
    /// The operation that the words describe.
    pub(super) fn into_operation(self) -> Result<Operation, Error> {
        Ok(match self {
            Self::Mount { kind } => match kind {
                Kind::Bind {
                    source,
                    target,
                    read_only,
                    recursive,
                    slave,
                    shared,
                    without,
                    with,
                } => {
                    let bind = Bind::new(trimmed(&source), trimmed(&target)).map_err(advise)?;
                    let bind = when(read_only, bind, Bind::read_only);
                    let bind = when(recursive, bind, Bind::recursive);
                    let bind = when(slave, bind, Bind::slave);
                    let bind = when(shared, bind, Bind::shared);
                    let bind = when(without.lease, bind, Bind::leased);
                    let bind = when(without.noexec, bind, Bind::no_exec);
                    let bind = when(without.nosymfollow, bind, Bind::no_symfollow);
                    let bind = when(with.suid, bind, Bind::suid);
                    when(with.dev, bind, Bind::dev).into()
                }
                Kind::Tmpfs {
                    target,
                    size,
                    inodes,
                    mode,
                    shared,
                    without,
                    with,
                } => {
                    let tmpfs = Tmpfs::new(trimmed(&target)).map_err(advise)?;
                    let tmpfs = given(size, tmpfs, Tmpfs::size);
                    let tmpfs = given(inodes, tmpfs, Tmpfs::inodes);
                    let tmpfs = given(mode, tmpfs, Tmpfs::mode);
                    let tmpfs = when(shared, tmpfs, Tmpfs::shared);
                    let tmpfs = when(without.lease, tmpfs, Tmpfs::leased);
                    let tmpfs = when(without.noexec, tmpfs, Tmpfs::no_exec);
                    let tmpfs = when(without.nosymfollow, tmpfs, Tmpfs::no_symfollow);
                    let tmpfs = when(with.suid, tmpfs, Tmpfs::suid);
                    when(with.dev, tmpfs, Tmpfs::dev).into()
                }
                Kind::Block {
                    device,
                    target,
                    filesystem,
                    own,
                    read_only,
                    without,
                    with,
                } => {
                    let (device, target) = (trimmed(&device), trimmed(&target));
                    let mut block = Block::new(device, &filesystem, target).map_err(advise)?;
                    for option in own {
                        let (key, value) = match option.split_once('=') {
                            Some((key, value)) => (key, Some(value)),
                            None => (option.as_str(), None),
                        };
                        block = block.option(key, value)?;
                    }
                    let block = when(read_only, block, Block::read_only);
                    let block = when(without.lease, block, Block::leased);
                    let block = when(without.noexec, block, Block::no_exec);
                    let block = when(without.nosymfollow, block, Block::no_symfollow);
                    let block = when(with.suid, block, Block::suid);
                    when(with.dev, block, Block::dev).into()
                }
                Kind::Fuse(served) => served.fuse()?.into(),
            },
            Self::Unmount { target, lazy, id } => {
                let unmount = Unmount::new(trimmed(&target)).map_err(advise)?;
                let unmount = when(lazy, unmount, Unmount::lazy);
                given(id, unmount, Unmount::id).into()
            }
            Self::Remount {
                target,
                gains,
                losses,
                shown,
                id,
            } => {
                let remount = Remount::new(trimmed(&target)).map_err(advise)?;
                let remount = given(id, remount.set(gains.attributes()), Remount::id);
                let losses = losses.attributes();
                match shown.source {
                    Some(source) => remount
                        .lift_from_bind(losses, trimmed(&source))
                        .map_err(advise)?,
                    None => when(shown.tmpfs, remount, |remount| {
                        remount.lift_from_tmpfs(losses)
                    }),
                }
                .into()
            }
        })
    }
}

/// Whether the words ask for JSON, for words that clap refused.
pub(super) fn ask_for_json(words: &[OsString]) -> bool {
    words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json")
}

fn when<T>(asked: bool, builder: T, option: impl FnOnce(T) -> T) -> T {
    if asked { option(builder) } else { builder }
}

fn given<T, V>(value: Option<V>, builder: T, option: impl FnOnce(T, V) -> T) -> T {
    match value {
        Some(value) => option(builder, value),
        None => builder,
    }
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

fn mode(text: &str) -> Result<TmpfsMode, String> {
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
