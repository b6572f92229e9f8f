//! Mounts that are handed over, for a mount namespace of the caller's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mountwarden_protocol::{AbsPath, Detach as Request, Detached, MountOptions, Operation};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::Error;
use crate::operation::{checked, common_flags};

/// A directory or a regular file that is to be attached in a mount namespace of the
/// caller's own, and nowhere else; see [`Client::detach`](crate::Client::detach).
///
/// Unless more is asked for: writable, without the mounts beneath the source, `nosuid`
/// and `nodev`.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// let images = mountwarden_client::Detach::new("/srv/images")?.read_only();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::detach is given it"]
pub struct Detach {
    source: AbsPath,
    recursive: bool,
    options: MountOptions,
}

impl Detach {
    /// `source` for another mount namespace.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new).
    pub fn new(source: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            source: checked("source", source.as_ref())?,
            recursive: false,
            options: MountOptions::empty(),
        })
    }

    /// Nothing can be written through the mount (`ro`).
    pub fn read_only(mut self) -> Self {
        self.options.insert(MountOptions::READ_ONLY);
        self
    }

    /// With the mounts beneath the source, each of which stays where it is. Denied unless
    /// the grant allows it.
    pub fn recursive(mut self) -> Self {
        self.recursive = true;
        self
    }

    common_flags!(options);
}

impl From<Detach> for Request {
    fn from(detach: Detach) -> Self {
        Self {
            source: detach.source,
            recursive: detach.recursive,
            options: detach.options,
            idmap: false,
        }
    }
}

impl From<Detach> for Operation {
    fn from(detach: Detach) -> Self {
        Self::Detach(detach.into())
    }
}

/// A mount that was handed over and is attached nowhere. It ends with the last copy of
/// its descriptor, or where it is attached.
#[derive(Debug)]
#[non_exhaustive]
pub struct DetachedMount {
    /// What the helper says of it.
    pub detached: Detached,
    /// Its root. Files can be opened beneath it, attached or not (`openat(2)`).
    pub mount: OwnedFd,
}

impl DetachedMount {
    /// Attaches it at `target`, in the mount namespace of this process: an existing
    /// directory, or a regular file where one is bound. That takes `CAP_SYS_ADMIN` in the
    /// user namespace to which the mount namespace belongs, as one has after
    /// `unshare --user --map-root-user --mount`.
    ///
    /// Where the target lies on a shared mount, as most do, the mount becomes shared.
    ///
    /// # Errors
    /// [`Failed`](crate::ErrorKind::Failed), with what the kernel reports as
    /// [`errno`](Error::errno).
    pub fn attach(self, target: impl AsRef<Path>) -> Result<(), Error> {
        let target = target.as_ref();
        let root = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.mount, "", CWD, target, root)
            .map_err(|errno| Error::cannot_attach(target, errno.into()))
    }
}

impl AsFd for DetachedMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}
