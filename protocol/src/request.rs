//! What a client asks for.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{AbsPath, MountId, MountOptions, TmpfsInodes, TmpfsMode, TmpfsSize};

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
        timeout_ms: NonZeroU32,
    },
}

/// Something that changes the mount table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Mount.
    Mount(Mount),
    /// Unmount.
    Unmount(Unmount),
}

impl Operation {
    /// The place in the file tree that the operation changes.
    #[must_use]
    pub fn target(&self) -> &AbsPath {
        match self {
            Self::Mount(mount) => &mount.target,
            Self::Unmount(unmount) => &unmount.target,
        }
    }

    /// The path that is mounted, for kinds that have one.
    #[must_use]
    pub fn source(&self) -> Option<&AbsPath> {
        match self {
            Self::Mount(Mount {
                kind: Kind::Bind { source, .. },
                ..
            }) => Some(source),
            Self::Mount(Mount {
                kind: Kind::Tmpfs { .. },
                ..
            })
            | Self::Unmount(_) => None,
        }
    }
}

/// A mount to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: Kind,
    /// Where it is attached: an existing directory, or a regular file when a
    /// regular file is bound.
    pub target: AbsPath,
    /// How it is mounted.
    pub options: MountOptions,
    /// It ends with the connection that asks for it, however that ends.
    pub lease: bool,
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
}
