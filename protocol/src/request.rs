//! What a client asks for.

use std::num::NonZeroU32;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    AbsPath, Batch, FilesystemName, FilesystemOptions, FuseSource, FuseSubtype, ImageType, Layers,
    MountAttributes, MountId, MountOptions, NetworkSource, Passed, Secrets, TmpfsInodes, TmpfsMode,
    TmpfsSize, UpperLayer,
};

/// One request on an open connection; each gets one [`crate::Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Do it.
    Perform(Operation),
    /// Say whether it would be allowed, by which grant, and why not. Touches no
    /// path and changes nothing.
    Explain(Operation),
    /// List the mounts at places that the peer is granted, in the order of their
    /// ids, beginning after this one.
    List {
        /// The last id of the page before; `None` for the first page.
        after: Option<MountId>,
    },
    /// Describe the helper: version, confinement, limits, counters.
    Status,
    /// Say whether the file system that is mounted at a place answers. When it does not,
    /// the connection ends, with [`crate::ErrorCode::TimedOut`]: to be asked on a connection
    /// of its own.
    Probe {
        /// The place.
        target: AbsPath,
        /// How many milliseconds it has for that; the helper allows no more than its own
        /// deadline.
        #[serde(deserialize_with = "at_least_one")]
        timeout_ms: NonZeroU32,
    },
    /// Make all of these mounts, or none.
    Apply(Batch),
}

/// serde's own error for 0 has the words of one for an unknown variant, which
/// ends the connection.
fn at_least_one<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroU32, D::Error> {
    NonZeroU32::new(u32::deserialize(from)?)
        .ok_or_else(|| D::Error::custom("a timeout has at least 1 millisecond"))
}

impl Request {
    /// How many descriptors come with the first byte of its frame.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Perform(Operation::Mount(mount)) => mount.passed.names().len(),
            Self::Perform(Operation::Unmount(unmount)) => usize::from(unmount.passed),
            Self::Perform(Operation::Detach(detach)) => usize::from(detach.idmap),
            Self::Perform(Operation::Remount(_) | Operation::Move(_))
            | Self::Explain(_)
            | Self::List { .. }
            | Self::Status
            | Self::Probe { .. }
            | Self::Apply(_) => 0,
        }
    }
}

/// Something that changes the mount table, or makes a mount for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Mount.
    Mount(Mount),
    /// Unmount.
    Unmount(Unmount),
    /// Change the attributes of a mount.
    Remount(Remount),
    /// Hand over a mount that is attached nowhere.
    Detach(Detach),
    /// Attach a mount elsewhere.
    Move(Move),
}

impl Operation {
    /// The place in the file tree that the operation changes, if it changes any; of a move,
    /// the new one.
    #[must_use]
    pub fn target(&self) -> Option<&AbsPath> {
        match self {
            Self::Mount(mount) => Some(&mount.target),
            Self::Unmount(unmount) => Some(&unmount.target),
            Self::Remount(remount) => Some(&remount.target),
            Self::Detach(_) => None,
            Self::Move(moved) => Some(&moved.to),
        }
    }

    /// The path that a message about the operation names: the target or, where there is
    /// none, what is mounted.
    #[must_use]
    pub fn path(&self) -> &AbsPath {
        match self {
            Self::Mount(mount) => &mount.target,
            Self::Unmount(unmount) => &unmount.target,
            Self::Remount(remount) => &remount.target,
            Self::Detach(detach) => &detach.source,
            Self::Move(moved) => &moved.to,
        }
    }

    /// The kind of mount that it is about, where the request names one.
    #[must_use]
    pub fn kind(&self) -> Option<&Kind> {
        match self {
            Self::Mount(mount) => Some(&mount.kind),
            Self::Unmount(_) | Self::Detach(_) | Self::Move(_) => None,
            Self::Remount(remount) => remount.lift.as_ref().map(|lift| &lift.kind),
        }
    }

    /// The path that is mounted, for kinds that have one; of a move, where the mount comes
    /// from.
    #[must_use]
    pub fn source(&self) -> Option<&AbsPath> {
        match self {
            Self::Detach(detach) => Some(&detach.source),
            Self::Move(moved) => Some(&moved.from),
            _ => self.kind()?.source(),
        }
    }
}

/// A mount to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: Kind,
    /// Where it is attached: an existing directory, or a regular file when a
    /// regular file is bound or a program serves one.
    pub target: AbsPath,
    /// How it is mounted.
    pub options: MountOptions,
    /// How mounts beneath it spread.
    pub propagation: Propagation,
    /// What comes as descriptors, too.
    pub passed: Passed,
    /// It ends with the connection that asks for it, however that ends.
    pub lease: bool,
}

/// Which other places get what is mounted on a mount, and the other way round
/// (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// It gets what is mounted on its source, and gives nothing.
    Slave,
    /// It and its source, and every namespace that shares them, get the same.
    Shared,
}

impl Propagation {
    /// The name as `mount(8)` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Slave => "slave",
            Self::Shared => "shared",
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory or a regular file that is seen at a second place.
    Bind {
        /// The directory or file.
        source: AbsPath,
        /// With the mounts beneath it.
        recursive: bool,
    },
    /// An empty file system in memory, owned by the peer.
    Tmpfs {
        /// The most it holds, in bytes; `None` for what the grant allows.
        size: Option<TmpfsSize>,
        /// The most files it holds; `None` for what the grant allows.
        inodes: Option<TmpfsInodes>,
        /// The mode of its root directory; `None` for [`TmpfsMode::OWNER_ONLY`].
        mode: Option<TmpfsMode>,
    },
    /// A file system on a block device. Where [`MountOptions::READ_ONLY`] is asked for,
    /// the device is not written either.
    Block {
        /// The device, or a symbolic link to it.
        device: AbsPath,
        /// The type of the file system.
        filesystem: FilesystemName,
        /// Its own options.
        options: FilesystemOptions,
    },
    /// A file system that a program serves. The reply to a mount brings one
    /// descriptor: the connected `/dev/fuse` on which the program answers.
    Fuse {
        /// What the mount table calls the type, after `fuse.`.
        subtype: FuseSubtype,
        /// What it is made from, or what the mount table shows instead.
        source: FuseSource,
        /// Other users may use it too (`allow_other` in `mount.fuse3(8)`).
        allow_other: bool,
        /// The kernel checks permissions (`default_permissions`).
        default_permissions: bool,
        /// The most bytes of one read; `None` for what the kernel takes.
        max_read: Option<u32>,
    },
    /// Directories that are seen as one. Without an upper layer it is read-only.
    Overlay {
        /// What is only read.
        lower: Layers,
        /// What is written.
        upper: Option<UpperLayer>,
    },
    /// A file system in a regular file, which is only read.
    Image {
        /// The file.
        file: AbsPath,
        /// The type of the file system in it.
        filesystem: ImageType,
    },
    /// A file system of a server, or of the machine below. Where
    /// [`MountOptions::READ_ONLY`] is asked for, its server is not written to either.
    Network {
        /// What is mounted, in the words of its type: `server:/export`, `//server/share`,
        /// a tag.
        source: NetworkSource,
        /// The type of the file system.
        filesystem: FilesystemName,
        /// Its own options.
        options: FilesystemOptions,
        /// More of them, such as a password.
        secrets: Secrets,
    },
}

impl Kind {
    /// The path that is mounted, for kinds that have a single one.
    #[must_use]
    pub fn source(&self) -> Option<&AbsPath> {
        match self {
            Self::Bind { source, .. } => Some(source),
            Self::Block { device, .. }
            | Self::Fuse {
                source: FuseSource::Device { device, .. },
                ..
            } => Some(device),
            Self::Image { file, .. } => Some(file),
            Self::Tmpfs { .. }
            | Self::Fuse { .. }
            | Self::Overlay { .. }
            | Self::Network { .. } => None,
        }
    }

    /// The kind's name, as the policy and the command line have it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Tmpfs { .. } => "tmpfs",
            Self::Block { .. } => "block",
            Self::Fuse { .. } => "fuse",
            Self::Overlay { .. } => "overlay",
            Self::Image { .. } => "image",
            Self::Network { .. } => "network",
        }
    }
}

/// A mount to be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmount {
    /// Where it is attached.
    pub target: AbsPath,
    /// Take it out of the tree now and end it when nothing uses it any more
    /// (`MNT_DETACH` in `umount2(2)`).
    pub lazy: bool,
    /// Only if the topmost mount at the target has this id.
    pub id: Option<MountId>,
    /// The mount's root comes as a descriptor, too; only for a lazy unmount.
    pub passed: bool,
}

/// Attributes to be changed of a mount that is there, and of no mount beneath it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remount {
    /// Where it is attached.
    pub target: AbsPath,
    /// What it gets.
    pub set: MountAttributes,
    /// What it loses.
    pub lift: Option<Lift>,
    /// Only if the topmost mount at the target has this id.
    pub id: Option<MountId>,
}

/// Attributes that a mount is to lose. What is in [`Remount::set`] too, it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lift {
    /// Which.
    pub attributes: MountAttributes,
    /// What the mount is. Nothing is lifted from one that is something else, or
    /// that the peer may not make without these attributes.
    pub kind: Kind,
}

/// A bind of a directory or a regular file that is attached nowhere. The reply brings one
/// descriptor: its root, for the peer's own mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detach {
    /// The directory or file.
    pub source: AbsPath,
    /// With the mounts beneath it.
    pub recursive: bool,
    /// How it is mounted.
    pub options: MountOptions,
    /// A user namespace comes as a descriptor, as [`Passed::ID_MAP`] says.
    pub idmap: bool,
}

/// A mount to be attached elsewhere, in one step, with its id and all that it has. None may
/// lie beneath it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where it is attached.
    pub from: AbsPath,
    /// Where it is to be attached: an existing directory, or a regular file for the mount
    /// of a file.
    pub to: AbsPath,
    /// Only if the topmost mount at `from` has this id.
    pub id: Option<MountId>,
}
