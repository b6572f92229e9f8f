//! The files of `/proc` that a process opens about itself (`openat(2)`). Their
//! paths are pinned.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::mount::owned;
use super::pinned::{PROC_SELF_FD, PROC_SELF_MOUNTINFO, Pinned};

/// Flags of the open of `/proc/self/fd`.
const OPEN_PROC: i32 = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;

/// Opens this process's own `/proc/self/fd`.
pub(crate) fn open_own_descriptors() -> Result<OwnedFd, Errno> {
    open_own(PROC_SELF_FD, OPEN_PROC)
}

/// Flags of the open of the mount table, where there is no call to ask.
const OPEN_MOUNTINFO: i32 = libc::O_RDONLY | libc::O_CLOEXEC;

/// Opens the mount table of this process's namespace.
pub(crate) fn open_own_mountinfo() -> Result<OwnedFd, Errno> {
    open_own(PROC_SELF_MOUNTINFO, OPEN_MOUNTINFO)
}

fn open_own(path: Pinned, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is pinned and ends in NUL; no mode is needed.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::c_long::from(libc::AT_FDCWD),
            path.as_ptr(),
            libc::c_long::from(flags),
        )
    })
}
