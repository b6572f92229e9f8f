//! What is done to one mount, by a process that can be used once: it never leaves the
//! user namespace that it enters.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use super::{WORK, at, hand_over, layout};
use crate::sys::pinned::{self, Pinned};
use crate::sys::{mount, process};

/// The attributes that the kernel locks (`MOUNT_ATTR_*`).
const LOCKABLE: [u64; 4] = [
    libc::MOUNT_ATTR_RDONLY,
    libc::MOUNT_ATTR_NOSUID,
    libc::MOUNT_ATTR_NODEV,
    libc::MOUNT_ATTR_NOEXEC,
];

/// Locks a detached mount and sends what it has become.
pub(super) fn lock(
    namespace: &OwnedFd,
    mount: &OwnedFd,
    answer: &OwnedFd,
    number: u64,
    attributes: u64,
) -> Result<(), Errno> {
    at(mount, layout::BROUGHT)?;
    at(answer, layout::ANSWER)?;
    process::deadline(WORK)?;
    // Its own, so that the mount goes when this process does.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let name = attach(mount.as_fd())?;
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    // The working directory is that of the copy from here on.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let copy = mount::clone_at(name)?;
    at(&copy, layout::NEXT)?;
    check(copy.as_fd(), attributes)?;
    hand_over(answer, &copy, number)
}

/// Attaches it where something of its type is, and says where.
fn attach(mount: BorrowedFd<'_>) -> Result<Pinned, Errno> {
    match mount::attach_at(mount, pinned::DIRECTORY) {
        // One of the two is a directory, and the other is not.
        Err(Errno::EINVAL | Errno::ENOTDIR) => {
            mount::attach_at(mount, pinned::FILE).map(|()| pinned::FILE)
        }
        other => other.map(|()| pinned::DIRECTORY),
    }
}

/// Tries to take each attribute away. The kernel has no call that tells of a lock, so
/// its effect is asked for.
fn check(copy: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    let asked = LOCKABLE.into_iter().filter(|bit| attributes & bit != 0);
    for attribute in asked {
        if mount::change(copy, 0, attribute) != Err(Errno::EPERM) {
            return Err(Errno::EPROTO);
        }
    }
    Ok(())
}
