//! The context of a file system that is made (`fsopen(2)`, `fsconfig(2)`, `fsmount(2)`).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use super::owned;
use crate::sys::pinned::Pinned;
use crate::sys::result;

pub(crate) const FSOPEN_CLOEXEC: u32 = 1;
pub(crate) const FSCONFIG_SET_FLAG: u32 = 0;
pub(crate) const FSCONFIG_SET_STRING: u32 = 1;
pub(crate) const FSCONFIG_CMD_CREATE: u32 = 6;
pub(crate) const FSCONFIG_CMD_CREATE_EXCL: u32 = 8;
pub(crate) const FSMOUNT_CLOEXEC: u32 = 1;

/// Opens a context for a file system of that type.
pub(crate) fn open_filesystem(name: Pinned) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is pinned and ends in NUL.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsopen,
            name.as_ptr(),
            libc::c_ulong::from(FSOPEN_CLOEXEC),
        )
    })
}

/// Sets one option of a file system context.
pub(crate) fn set_option(context: BorrowedFd<'_>, key: Pinned, value: &CStr) -> Result<(), Errno> {
    set_string(context, key, value.as_ptr())
}

/// Sets one option whose value is pinned as its key is.
pub(crate) fn set_pinned(context: BorrowedFd<'_>, key: Pinned, value: Pinned) -> Result<(), Errno> {
    set_string(context, key, value.as_ptr())
}

fn set_string(
    context: BorrowedFd<'_>,
    key: Pinned,
    value: *const libc::c_char,
) -> Result<(), Errno> {
    // SAFETY: key and value end in NUL and live through the call.
    unsafe { configure(context, FSCONFIG_SET_STRING, key.as_ptr(), value) }
}

/// Sets one option that stands for itself.
pub(crate) fn set_flag(context: BorrowedFd<'_>, key: Pinned) -> Result<(), Errno> {
    // SAFETY: the key is pinned and ends in NUL; this command takes no value.
    unsafe { configure(context, FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null()) }
}

/// Makes the file system that a context describes, or shows one that is mounted.
pub(crate) fn create_filesystem(context: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this command takes no key and no value.
    unsafe { configure(context, FSCONFIG_CMD_CREATE, ptr::null(), ptr::null()) }
}

/// Makes the file system that a context describes, which must be a new one. Before
/// Linux 6.6 there is no such call, and it is `EOPNOTSUPP`.
pub(crate) fn create_new_filesystem(context: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this command takes no key and no value.
    unsafe { configure(context, FSCONFIG_CMD_CREATE_EXCL, ptr::null(), ptr::null()) }
}

/// `fsconfig(2)`
///
/// # Safety
/// Key and value are what the command takes: null, or ended by NUL.
unsafe fn configure(
    context: BorrowedFd<'_>,
    command: u32,
    key: *const libc::c_char,
    value: *const libc::c_char,
) -> Result<(), Errno> {
    // SAFETY: the caller keeps to what the command takes; the kernel copies both.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            libc::c_long::from(context.as_raw_fd()),
            libc::c_ulong::from(command),
            key,
            value,
            libc::c_long::from(0),
        )
    };
    result(returned).map(drop)
}

/// What the kernel has to say of a context that failed, its latest complaint last
/// (`fsopen(2)`).
pub(crate) fn complaints(context: BorrowedFd<'_>) -> Vec<Vec<u8>> {
    let mut complaints = Vec::new();
    let mut buffer = [0_u8; 512];
    // The kernel keeps eight.
    while let Ok(length @ 1..) = nix::unistd::read(context, &mut buffer)
        && complaints.len() < 8
    {
        complaints.push(buffer.get(..length).unwrap_or_default().to_vec());
    }
    complaints
}

/// Makes a detached mount of the file system in a context, with its attributes.
pub(crate) fn mount_filesystem(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: only numbers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            libc::c_long::from(context.as_raw_fd()),
            libc::c_ulong::from(FSMOUNT_CLOEXEC),
            attributes,
        )
    })
}
