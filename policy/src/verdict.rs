//! What the policy says of one operation.

use mountwarden_protocol::{AbsPath, MountAttributes, MountId, TmpfsInodes, TmpfsMode, TmpfsSize};

use crate::Denial;

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
}

impl<'p> Permit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        match self {
            Self::Mount(permit) => permit.grant,
            Self::Unmount(permit) => permit.grant,
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
    /// Whether the mount ends with the peer's connection. That takes no grant: it
    /// only ever means less.
    pub lease: bool,
}

impl<'p> MountPermit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        self.grant
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
}

impl<'p> UnmountPermit<'p> {
    /// The name of the grant that allows it.
    #[must_use]
    pub fn grant(&self) -> &'p str {
        self.grant
    }
}
