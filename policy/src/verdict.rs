//! What the policy says of one operation.

use mountwarden_protocol::{
    AbsPath, FilesystemName, FilesystemOptions, FuseSource, FuseSubtype, ImageType, Layers,
    MountAttributes, MountId, NetworkSource, Passed, Propagation, Secrets, TmpfsInodes, TmpfsMode,
    TmpfsSize, UpperLayer,
};

use crate::{Denial, LoopDevices, PermittedIdmap};

/// The policy's answer.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'p> {
    /// It may be done, in just this form.
    Allowed(Permit<'p>),
    /// It may not.
    Denied(Denial),
}

impl<'p> Verdict<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> Option<&'p str> {
        match self {
            Self::Allowed(permit) => Some(permit.grant()),
            Self::Denied(_) => None,
        }
    }
}

/// An allowed operation.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit<'p> {
    /// A mount.
    Mount(MountPermit<'p>),
    /// An unmount.
    Unmount(UnmountPermit<'p>),
    /// A change of a mount's attributes.
    Remount(RemountPermit<'p>),
    /// A mount that is handed over.
    Detach(DetachPermit<'p>),
    /// A mount that is attached elsewhere.
    Move(MovePermit<'p>),
}

impl<'p> Permit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        match self {
            Self::Mount(permit) => permit.grant,
            Self::Unmount(permit) => permit.grant,
            Self::Remount(permit) => permit.grant,
            Self::Detach(permit) => permit.grant,
            Self::Move(permit) => permit.grant,
        }
    }
}

/// Everything that the mounter needs: it builds the mount from this and never
/// from the request, so that no restriction is forgotten.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPermit<'p> {
    /// The name of the grant that allows it.
    pub grant: &'p str,
    /// Where the mount is attached.
    pub target: AbsPath,
    /// What is mounted.
    pub kind: PermittedKind,
    /// The attributes it has: those that were asked for and those that are forced.
    pub attributes: MountAttributes,
    /// Whether the target may lie on a mount that other namespaces share.
    pub shared_target: bool,
    /// How mounts beneath it spread.
    pub propagation: Propagation,
    /// What comes as descriptors.
    pub passed: Passed,
    /// Who must own the directory or file that the mount covers.
    pub target_owner: Option<u32>,
    /// Whether the mount ends with the peer's connection. That takes no grant: it
    /// only ever means less.
    pub lease: bool,
    /// What the user namespace may map that comes as a descriptor.
    pub idmap: Option<PermittedIdmap>,
}

impl<'p> MountPermit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        self.grant
    }

    /// The directory or file of a bind; for other kinds, the target.
    #[must_use]
    pub fn bound(&self) -> &AbsPath {
        match &self.kind {
            PermittedKind::Bind { source, .. } => source,
            _ => &self.target,
        }
    }
}

/// What is mounted, with every value decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermittedKind {
    /// A directory or a regular file that is seen at a second place.
    Bind {
        /// The directory or file.
        source: AbsPath,
        /// With the mounts beneath it.
        recursive: bool,
        /// Who must own the directory or file.
        owner: Option<u32>,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// The most it holds, in bytes.
        size: TmpfsSize,
        /// The most files it holds.
        inodes: TmpfsInodes,
        /// The mode of its root directory.
        mode: TmpfsMode,
        /// Who owns its root directory: the peer.
        uid: u32,
        /// The group of its root directory: the peer's.
        gid: u32,
    },
    /// A file system on a block device.
    Block {
        /// The device, or a symbolic link to it.
        device: AbsPath,
        /// The type of the file system.
        filesystem: FilesystemName,
        /// Its own options, each of which is granted. Where the attributes have
        /// [`MountAttributes::READ_ONLY`], the device is not written either.
        options: FilesystemOptions,
    },
    /// A file system that a program of the peer serves.
    Fuse(PermittedFuse),
    /// Directories that are seen as one.
    Overlay(PermittedOverlay),
    /// A file system in a regular file. The attributes have
    /// [`MountAttributes::READ_ONLY`].
    Image {
        /// The file.
        file: AbsPath,
        /// The type of the file system in it.
        filesystem: ImageType,
        /// Of which it may take one, where the kernel does not read it from the file.
        loop_devices: Option<LoopDevices>,
    },
    /// A file system of a server, or of the machine below.
    Network {
        /// What is mounted, in the words of its type.
        source: NetworkSource,
        /// The type of the file system.
        filesystem: FilesystemName,
        /// Its own options, each of which is granted. Where the attributes have
        /// [`MountAttributes::READ_ONLY`], the server is not written to either.
        options: FilesystemOptions,
        /// More of them, with values that are shown to nobody.
        secrets: Secrets,
    },
}

/// A FUSE file system, with every value decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermittedFuse {
    /// What the mount table calls the type, after `fuse.`.
    pub subtype: FuseSubtype,
    /// What it is made from, or what the mount table shows instead. Where the attributes
    /// have [`MountAttributes::READ_ONLY`], the kernel opens a device only to read.
    pub source: FuseSource,
    /// Other users may use it too.
    pub allow_other: bool,
    /// The kernel checks permissions.
    pub default_permissions: bool,
    /// The most bytes of one read.
    pub max_read: Option<u32>,
    /// The user whose program serves it: the peer.
    pub uid: u32,
    /// That user's group: the peer's.
    pub gid: u32,
}

/// An overlay whose layers are granted. Without an upper one, its attributes have
/// [`MountAttributes::READ_ONLY`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermittedOverlay {
    /// What is only read.
    pub lower: Layers,
    /// What is written.
    pub upper: Option<UpperLayer>,
}

impl PermittedOverlay {
    /// Every directory that it is made from: what is written and what the kernel needs
    /// for that, then what is only read, the topmost first.
    pub fn directories(&self) -> impl Iterator<Item = &AbsPath> {
        let upper = self.upper.iter();
        upper
            .flat_map(|layer| [&layer.upper, &layer.work])
            .chain(self.lower.iter())
    }
}

/// An unmount that may be done.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmountPermit<'p> {
    /// The name of the grant that allows it.
    pub grant: &'p str,
    /// Where the mount is attached.
    pub target: AbsPath,
    /// Detach now, end when nothing uses it any more.
    pub lazy: bool,
    /// Only if the topmost mount at the target has this id.
    pub id: Option<MountId>,
    /// The mount's root comes as a descriptor.
    pub passed: bool,
}

impl<'p> UnmountPermit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        self.grant
    }
}

/// A change of attributes that may be made.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemountPermit<'p> {
    /// The name of the grant that allows it.
    pub grant: &'p str,
    /// Where the mount is attached.
    pub target: AbsPath,
    /// What it gets: what was asked for and what is forced.
    pub set: MountAttributes,
    /// What it loses.
    pub lift: Option<PermittedLift>,
    /// Only if the topmost mount at the target has this id.
    pub id: Option<MountId>,
}

/// Attributes that a mount may lose, if it is what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermittedLift {
    /// Which; none that the grant forces.
    pub attributes: MountAttributes,
    /// What the mount must be.
    pub kind: PermittedKind,
}

/// A bind that may be handed over.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachPermit<'p> {
    /// The name of the grant that allows it.
    pub grant: &'p str,
    /// The directory or file.
    pub source: AbsPath,
    /// With the mounts beneath it.
    pub recursive: bool,
    /// Who must own the directory or file.
    pub owner: Option<u32>,
    /// The attributes it has: those that were asked for and those that are forced.
    pub attributes: MountAttributes,
    /// What the user namespace may map that comes as a descriptor.
    pub idmap: Option<PermittedIdmap>,
}

/// A mount that may be attached elsewhere. Both places lie beneath the grant's target roots.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePermit<'p> {
    /// The name of the grant that allows it.
    pub grant: &'p str,
    /// Where the mount is attached.
    pub from: AbsPath,
    /// Where it is to be attached.
    pub to: AbsPath,
    /// Only if the topmost mount at `from` has this id.
    pub id: Option<MountId>,
    /// The attributes that it must have: those that every mount of the grant has.
    pub attributes: MountAttributes,
    /// Who must own the directory or file that the mount covers.
    pub target_owner: Option<u32>,
}
