//! What is known of a user namespace by its descriptor (`ioctl_nsfs(2)`), and, from
//! inside, what it maps.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use super::mount::owned;
use super::pinned::Pinned;
use super::result;

/// The requests; the kernel takes them as 32 bits.
pub(crate) const NS_GET_PARENT: u32 = 0xb702;
/// See [`NS_GET_PARENT`].
pub(crate) const NS_GET_NSTYPE: u32 = 0xb703;
/// See [`NS_GET_PARENT`].
pub(crate) const NS_GET_OWNER_UID: u32 = 0xb704;

/// The type of a namespace: `CLONE_NEWUSER`, ...
pub(crate) fn kind(namespace: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: this request takes no argument.
    let returned = unsafe { ask(namespace, NS_GET_NSTYPE, ptr::null_mut()) };
    i32::try_from(result(returned)?).map_err(|_| Errno::EPROTO)
}

/// Who made a user namespace, as this process's own names them.
pub(crate) fn owner(namespace: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one `uid_t`, which is what it is given.
    let returned = unsafe { ask(namespace, NS_GET_OWNER_UID, &raw mut uid) };
    result(returned).map(|_| uid)
}

/// The user namespace in which a user namespace was made; `EPERM` where that is neither
/// this process's own nor beneath it.
pub(crate) fn parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: this request takes no argument and makes a descriptor.
    owned(unsafe { ask(namespace, NS_GET_PARENT, ptr::null_mut()) })
}

/// # Safety
/// `argument` is what the request takes.
unsafe fn ask(namespace: BorrowedFd<'_>, request: u32, argument: *mut libc::uid_t) -> libc::c_long {
    // SAFETY: the caller keeps to what the request takes.
    unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            libc::c_long::from(namespace.as_raw_fd()),
            libc::c_ulong::from(request),
            argument,
        )
    }
}

/// Opens a map of the user namespace that this process is in.
pub(crate) fn open_map(proc: BorrowedFd<'_>, path: Pinned) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is pinned and ends in NUL; no mode is needed.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::c_long::from(proc.as_raw_fd()),
            path.as_ptr(),
            libc::c_long::from(libc::O_RDONLY | libc::O_CLOEXEC),
        )
    })
}
