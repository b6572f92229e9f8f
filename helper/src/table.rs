//! Questions to the kernel's mount table, which is all the state there is.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use mountwarden_protocol::{
    AbsPath, DeviceNumber, MountAttributes, MountId, MountInfo, Propagation,
};
use nix::errno::Errno;

use crate::files;
use crate::mountinfo::Mountinfo;
use crate::sys::mount::{self, FileStatus, Ids, LSMT_ROOT, MountStatus};
use crate::sys::proc;

/// Our attributes and the kernel's bits (`MOUNT_ATTR_*` in `mount_setattr(2)`).
const ATTRIBUTES: [(MountAttributes, u64); 5] = [
    (MountAttributes::READ_ONLY, 0x1),
    (MountAttributes::NO_SUID, 0x2),
    (MountAttributes::NO_DEV, 0x4),
    (MountAttributes::NO_EXEC, 0x8),
    (MountAttributes::NO_SYMFOLLOW, 0x20_0000),
];

/// The kernel's bits of some attributes.
pub(crate) fn kernel_bits(attributes: MountAttributes) -> u64 {
    ATTRIBUTES
        .into_iter()
        .filter(|&(ours, _)| attributes.contains(ours))
        .fold(0, |bits, (_, kernel)| bits | kernel)
}

/// The attributes that a mount has.
pub(crate) fn attributes(mount: &MountStatus) -> MountAttributes {
    ATTRIBUTES
        .into_iter()
        .filter(|&(_, kernel)| mount.attributes & kernel != 0)
        .fold(MountAttributes::empty(), |all, (ours, _)| all | ours)
}

/// Whether files on the mount show other owners than they have
/// (`MOUNT_ATTR_IDMAP` in `mount_setattr(2)`).
pub(crate) fn is_idmapped(mount: &MountStatus) -> bool {
    mount.attributes & 0x10_0000 != 0
}

/// Whether other namespaces share the mount, so that what is mounted on it
/// appears in them too (`mount_namespaces(7)`).
pub(crate) fn is_shared(mount: &MountStatus) -> bool {
    mount.propagation & libc::MS_SHARED != 0
}

/// How mounts beneath a mount spread. What is shared and a slave at once is shared.
pub(crate) fn propagation(mount: &MountStatus) -> Propagation {
    if is_shared(mount) {
        Propagation::Shared
    } else if mount.propagation & libc::MS_SLAVE != 0 {
        Propagation::Slave
    } else {
        Propagation::Private
    }
}

/// The kernel's bit of a propagation.
pub(crate) fn propagation_bit(propagation: Propagation) -> u64 {
    match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    }
}

/// The mount as clients see it; `None` where its paths are not [`AbsPath`]s,
/// such as those of a mount that this process's root does not reach.
pub(crate) fn info(mount: &MountStatus) -> Option<MountInfo> {
    Some(MountInfo {
        id: MountId::try_from(mount.id).ok()?,
        target: AbsPath::from_bytes(&mount.point).ok()?,
        filesystem: String::from_utf8_lossy(&mount.filesystem).into_owned(),
        root: AbsPath::from_bytes(&mount.root).ok()?,
        attributes: attributes(mount),
        device: DeviceNumber {
            major: mount.device.0,
            minor: mount.device.1,
        },
    })
}

/// How many mounts this process has looked at, one after another.
static WALKED: AtomicU64 = AtomicU64::new(0);

/// Counts one more of them.
pub(crate) fn walked() {
    WALKED.fetch_add(1, Ordering::Relaxed);
}

/// How many requests the walks since the last call count as: a hundred mounts
/// take the kernel about as long as a request.
pub(crate) fn take_weight() -> u32 {
    u32::try_from(WALKED.swap(0, Ordering::Relaxed) / 100).unwrap_or(u32::MAX)
}

/// Which answers this kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `statmount(2)` and `listmount(2)`, since Linux 6.8.
    Calls,
    /// `/proc/self/mountinfo`, with ids that are used again after a mount's end.
    Mountinfo,
}

impl Source {
    /// Tries the calls, and the table itself where they are missing.
    pub(crate) fn of_kernel() -> Result<Self, Errno> {
        let root = files::open_root()?;
        let known = |table: &Table| {
            let status = table.status(root.as_fd())?;
            table.status_of_mount(status.mount).map(drop)
        };
        match known(&Table::Calls) {
            Ok(()) => Ok(Self::Calls),
            Err(Errno::ENOSYS) => {
                let file = proc::open_own_mountinfo()?;
                known(&Table::Mountinfo(Mountinfo::new(file)))?;
                Ok(Self::Mountinfo)
            }
            Err(errno) => Err(errno),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Calls => "statmount",
            Self::Mountinfo => {
                "mountinfo, for want of statmount (Linux 6.8): slower, with ids that are used again"
            }
        })
    }
}

/// The mount table of this process's namespace. Ids are unique ones, or short ones
/// throughout where the kernel has no others.
pub(crate) enum Table {
    /// As in [`Source`].
    Calls,
    /// As in [`Source`].
    Mountinfo(Mountinfo),
}

impl Table {
    /// Describes an open file; of one that its file system hides from other users,
    /// only its mount and whether it is the root.
    pub(crate) fn status(&self, file: BorrowedFd<'_>) -> Result<FileStatus, Errno> {
        match mount::status(file, self.ids()) {
            Err(Errno::EACCES) => self.hidden(mount::hidden_status(file)?),
            other => other,
        }
    }

    /// The mount that a name in the working directory leads to, and whether it is
    /// its root.
    pub(crate) fn status_of_name(&self, name: &[u8]) -> Result<FileStatus, Errno> {
        match mount::status_of_name(name, self.ids()) {
            Err(Errno::EACCES) => self.hidden(mount::hidden_status_of_name(name)?),
            other => other,
        }
    }

    /// Describes a mount of this namespace; ENOENT for any other.
    pub(crate) fn status_of_mount(&self, id: u64) -> Result<MountStatus, Errno> {
        match self {
            Self::Calls => mount::status_of_mount(id),
            Self::Mountinfo(file) => file.status_of_mount(id),
        }
    }

    /// Whether the mount that had this id at `path` is there still. A short id may be
    /// another mount's by now, at another place.
    pub(crate) fn is_left(&self, id: u64, path: &AbsPath) -> bool {
        self.status_of_mount(id)
            .is_ok_and(|mount| self.ids() == Ids::Unique || mount.point == path.as_bytes())
    }

    /// Visits the mounts beneath the mount `parent` whose ids come after `after`,
    /// in their order, until `visit` breaks off.
    pub(crate) fn walk(
        &self,
        parent: u64,
        after: u64,
        visit: impl FnMut(&MountStatus) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        match self {
            Self::Calls => walk_calls(parent, after, visit),
            Self::Mountinfo(file) => file.walk(parent, after, visit),
        }
    }

    fn ids(&self) -> Ids {
        match self {
            Self::Calls => Ids::Unique,
            Self::Mountinfo(_) => Ids::Short,
        }
    }

    /// Replaces the short id, which no two mounts have at the same time, by the one
    /// that the table uses: found in the whole of it, which only hidden mounts cost.
    fn hidden(&self, mut status: FileStatus) -> Result<FileStatus, Errno> {
        let mut found = None;
        self.walk(LSMT_ROOT, 0, |mount| {
            if mount.short_id == status.mount {
                found = Some(mount.id);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        status.mount = found.ok_or(Errno::ENOENT)?;
        Ok(status)
    }
}

fn walk_calls(
    parent: u64,
    mut after: u64,
    mut visit: impl FnMut(&MountStatus) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let mut ids = [0; 256];
    loop {
        let count = mount::list(parent, after, &mut ids)?;
        let page = ids.get(..count).unwrap_or_default();
        let Some(&last) = page.last() else {
            return Ok(());
        };
        for &id in page {
            walked();
            match mount::status_of_mount(id) {
                Ok(status) => {
                    if visit(&status).is_break() {
                        return Ok(());
                    }
                }
                // It went away since the ids were read; or its path is longer than
                // any request could name, which whoever renames a directory can
                // bring about, and which must not spoil the list of others.
                Err(Errno::ENOENT | Errno::EOVERFLOW) => {}
                Err(errno) => return Err(errno),
            }
        }
        after = last;
    }
}
