//! What the words for a kind of mount hold.

use std::ffi::OsString;

use clap::Args;

/// A file system that a program serves, and the program.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the line")]
pub(in crate::cli) struct Served {
    /// Where: an existing directory or regular file.
    pub(super) target: OsString,

    /// What the mount table calls the type, after 'fuse.'.
    #[arg(long, value_name = "NAME")]
    pub(super) subtype: String,

    /// What the mount table shows as the source [default: the subtype].
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,

    /// The block device that the file system is on, which the program opens by itself; an
    /// absolute path without '.' or '..'.
    #[arg(long, value_name = "DEVICE", conflicts_with = "source")]
    pub(super) device: Option<OsString>,

    /// The size of its blocks [default: 512].
    #[arg(long, value_name = "BYTES", requires = "device")]
    pub(super) block_size: Option<u32>,

    /// Other users may use it too, where the grant allows it.
    #[arg(long)]
    pub(super) allow_other: bool,

    /// The kernel checks permissions.
    #[arg(long)]
    pub(super) default_permissions: bool,

    /// The most bytes that one read asks the program for.
    #[arg(long, value_name = "BYTES")]
    pub(super) max_read: Option<u32>,

    /// Nothing can be written through the mount.
    #[arg(long)]
    pub(super) read_only: bool,

    /// What is mounted on the mount appears in later mount namespaces too.
    #[arg(long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) usual: Usual,

    /// The program that becomes of this one and serves the file system, with its
    /// arguments; {fd} in one stands for the number of the connection, as in
    /// /dev/fd/{fd}, which libfuse takes for a place. Not with --lease, which takes
    /// a command that stays.
    #[arg(last = true, value_name = "PROGRAM", conflicts_with = "lease")]
    pub(in crate::cli) program: Vec<OsString>,
}

/// A network file system.
#[derive(Debug, Args)]
pub(in crate::cli) struct Networked {
    /// What, in the words of its type: an export with its server, a share, or a tag.
    pub(super) source: String,

    /// Where: an existing directory.
    pub(super) target: OsString,

    /// The type of the file system: nfs4, cifs, 9p, virtiofs and the like.
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) filesystem: String,

    /// An option of the file system, where the grant allows it; may be given again.
    /// No name is resolved: NFS takes its server's address as addr=, CIFS as ip=.
    #[arg(long = "option", value_name = "KEY[=VALUE]")]
    pub(super) own: Vec<String>,

    /// An option whose value is the first line of a file, such as
    /// password=/run/keys/images: the words of a command are for all to see. May be
    /// given again.
    #[arg(long = "secret-file", value_name = "KEY=FILE")]
    pub(super) secrets: Vec<String>,

    /// Nothing can be written, neither through the mount nor to the server.
    #[arg(long)]
    pub(super) read_only: bool,

    /// What is mounted on the mount appears in later mount namespaces too.
    #[arg(long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) usual: Usual,
}

/// A file system in a regular file.
#[derive(Debug, Args)]
pub(in crate::cli) struct Imaged {
    /// The file; an absolute path without '.' or '..'.
    pub(super) file: OsString,

    /// Where: an existing directory.
    pub(super) target: OsString,

    /// The type of the file system: erofs or squashfs.
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) filesystem: String,

    /// What is mounted on the mount appears in later mount namespaces too.
    #[arg(long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) usual: Usual,
}

/// Directories that are seen as one.
#[derive(Debug, Args)]
pub(in crate::cli) struct Layered {
    /// Where: an existing directory.
    pub(super) target: OsString,

    /// A directory that is only read; given again, one beneath those before it.
    #[arg(long, value_name = "DIR", required = true)]
    pub(super) lower: Vec<OsString>,

    /// A directory that is written, where the grant allows it and the kernel can.
    #[arg(long, value_name = "DIR", requires = "work")]
    pub(super) upper: Option<OsString>,

    /// What the kernel needs to write: a directory on the same file system.
    #[arg(long, value_name = "DIR", requires = "upper")]
    pub(super) work: Option<OsString>,

    /// Nothing can be written through the mount.
    #[arg(long)]
    pub(super) read_only: bool,

    /// What is mounted on the mount appears in later mount namespaces too.
    #[arg(long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) usual: Usual,
}

/// What can be said of every mount.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the line")]
pub(in crate::cli) struct Usual {
    /// Open the target here and pass the descriptor, for a directory that the helper's
    /// user cannot reach, where the grant allows it.
    #[arg(long)]
    pub(super) pass_target: bool,

    /// Hold the mount until this command is interrupted, and end it then: however
    /// the command ends, the mount does.
    #[arg(long)]
    pub(super) lease: bool,

    /// No program may be executed from the mount.
    #[arg(long)]
    pub(super) noexec: bool,

    /// Symbolic links on the mount are not followed.
    #[arg(long)]
    pub(super) nosymfollow: bool,

    #[command(flatten)]
    pub(super) with: Permissions,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Permissions {
    /// Honour set-user-id bits, where the grant allows it.
    #[arg(long)]
    pub(super) suid: bool,

    /// Honour device nodes, where the grant allows it.
    #[arg(long)]
    pub(super) dev: bool,
}
