//! The mount calls: what changes mounts here (`open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`,
//! `umount(2)`), what makes file systems in [`context`], what is asked in [`status`](mod@status). No function takes
//! a path. Locations are descriptors; strings are pinned, or one component in the name buffer.

mod context;
mod status;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

pub(crate) use self::context::{
    FSCONFIG_CMD_CREATE, FSCONFIG_CMD_CREATE_EXCL, FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC, FSOPEN_CLOEXEC, complaints, create_filesystem, create_new_filesystem,
    mount_filesystem, open_filesystem, set_flag, set_option, set_pinned,
};
pub use self::status::{FileStatus, Ids, MountStatus, status, status_of_mount};
pub(crate) use self::status::{
    LSMT_ROOT, SYS_LISTMOUNT, SYS_STATMOUNT, ask, hidden_status, hidden_status_of_name,
    id_of_hidden, list, status_of_name,
};
use super::pinned::{EMPTY, NAME, Pinned, Slot};
use super::result;

const OPEN_TREE: u32 = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | EMPTY_PATH;
const OPEN_TREE_RECURSIVE: u32 = OPEN_TREE | RECURSIVE;
const OPEN_TREE_AT: u32 = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | RECURSIVE;
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.unsigned_abs();
const RECURSIVE: u32 = libc::AT_RECURSIVE.unsigned_abs();
const MOVE_MOUNT: u32 = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
const UMOUNT: i32 = libc::UMOUNT_NOFOLLOW;
const UMOUNT_LAZY: i32 = libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH;
const UMOUNT_SLOT: i32 = libc::MNT_DETACH;

/// Takes the descriptor that a system call has just returned.
pub(super) fn owned(returned: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = RawFd::try_from(result(returned)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Clones the mount that `file` lies on, rooted at `file`, detached.
///
/// # Errors
/// What the kernel reports.
pub fn clone_tree(file: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let flags = if recursive {
        OPEN_TREE_RECURSIVE
    } else {
        OPEN_TREE
    };
    // SAFETY: the path is pinned and ends in NUL; the rest are numbers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            libc::c_long::from(file.as_raw_fd()),
            EMPTY.as_ptr(),
            libc::c_ulong::from(flags),
        )
    })
}

/// Clones the tree of mounts at a name in the working directory, detached.
pub(crate) fn clone_at(name: Pinned) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is pinned and ends in NUL; the rest are numbers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            libc::c_long::from(libc::AT_FDCWD),
            name.as_ptr(),
            libc::c_ulong::from(OPEN_TREE_AT),
        )
    })
}

/// `struct mount_attr` (`mount_setattr(2)`).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// The size of `struct mount_attr`, which the filter fixes.
const MOUNT_ATTR_SIZE: u64 = 32;
const _: () = assert!(size_of::<MountAttr>() == 32);

/// Adds attributes to a mount, with those beneath it where `recursive`, and
/// sets their propagation (`MS_PRIVATE`, ...). It takes no attribute away.
///
/// # Errors
/// What the kernel reports.
pub fn restrict(
    mount: BorrowedFd<'_>,
    attributes: u64,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    restrict_mapped(mount, attributes, propagation, recursive, None)
}

/// The same and, in the same call, has its files belong to whom a user namespace maps
/// their owners to, where there is one (`MOUNT_ATTR_IDMAP`).
///
/// # Errors
/// What the kernel reports.
pub fn restrict_mapped(
    mount: BorrowedFd<'_>,
    attributes: u64,
    propagation: u64,
    recursive: bool,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags = if recursive {
        EMPTY_PATH | RECURSIVE
    } else {
        EMPTY_PATH
    };
    let number = namespace.map(|namespace| u64::from(namespace.as_raw_fd().unsigned_abs()));
    let restriction = MountAttr {
        set: attributes | number.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        clear: 0,
        propagation,
        userns_fd: number.unwrap_or_default(),
    };
    set_attributes(mount, flags, &restriction)
}

/// Takes attributes away from a mount and adds others, which win; mounts beneath it
/// and its propagation stay as they are.
///
/// # Errors
/// What the kernel reports.
pub fn change(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), Errno> {
    let change = MountAttr {
        set,
        clear,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount, EMPTY_PATH, &change)
}

fn set_attributes(mount: BorrowedFd<'_>, flags: u32, change: &MountAttr) -> Result<(), Errno> {
    // SAFETY: the path is pinned; the kernel reads one `mount_attr` of the size
    // that it is told.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::c_long::from(mount.as_raw_fd()),
            EMPTY.as_ptr(),
            libc::c_ulong::from(flags),
            ptr::from_ref(change),
            MOUNT_ATTR_SIZE,
        )
    };
    result(returned).map(drop)
}

/// Attaches a detached mount at a target, descriptor to descriptor.
///
/// # Errors
/// What the kernel reports.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are pinned; the rest are numbers.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            libc::c_long::from(mount.as_raw_fd()),
            EMPTY.as_ptr(),
            libc::c_long::from(target.as_raw_fd()),
            EMPTY.as_ptr(),
            libc::c_ulong::from(MOVE_MOUNT),
        )
    };
    result(returned).map(drop)
}

/// Attaches a detached mount at a name in the working directory.
pub(crate) fn attach_at(mount: BorrowedFd<'_>, name: Pinned) -> Result<(), Errno> {
    // SAFETY: both paths are pinned; the rest are numbers.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            libc::c_long::from(mount.as_raw_fd()),
            EMPTY.as_ptr(),
            libc::c_long::from(libc::AT_FDCWD),
            name.as_ptr(),
            libc::c_ulong::from(libc::MOVE_MOUNT_F_EMPTY_PATH),
        )
    };
    result(returned).map(drop)
}

/// Makes the working directory, which is the root of a mount, this process's root, and
/// lets go of the root before it with all that is mounted there (`pivot_root(2)`: with
/// one path for both, the old root comes to lie on the new one).
pub(crate) fn make_root() -> Result<(), Errno> {
    nix::unistd::pivot_root(c".", c".")?;
    umount2(c".".as_ptr(), libc::MNT_DETACH)
}

/// Unmounts what is attached at a name in the working directory.
///
/// # Errors
/// What the kernel reports.
pub fn unmount_name(name: &[u8], lazy: bool) -> Result<(), Errno> {
    let flags = if lazy { UMOUNT_LAZY } else { UMOUNT };
    NAME.with(name, |name| umount2(name, flags))
}

/// Detaches just the mount whose root is open in a slot. The working directory
/// is `/proc/self/fd`, whose link leads to that mount and no other.
pub(crate) fn detach_slot(slot: Slot) -> Result<(), Errno> {
    umount2(slot.link().as_ptr(), UMOUNT_SLOT)
}

fn umount2(path: *const libc::c_char, flags: i32) -> Result<(), Errno> {
    // SAFETY: the path ends in NUL: pinned, or the name buffer.
    let returned = unsafe { libc::syscall(libc::SYS_umount2, path, libc::c_long::from(flags)) };
    result(returned).map(drop)
}

/// The path of the file in a slot, as the kernel sees it from this process's root.
pub(crate) fn path_of_slot(descriptors: BorrowedFd<'_>, slot: Slot) -> Result<Vec<u8>, Errno> {
    read_link(descriptors, slot.link())
}

/// What the symbolic link leads to that a descriptor is.
pub(crate) fn content_of_link(link: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    read_link(link, EMPTY)
}

fn read_link(directory: BorrowedFd<'_>, name: Pinned) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the name is pinned, and the kernel writes at most the size of the
    // buffer.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            libc::c_long::from(directory.as_raw_fd()),
            name.as_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    let length = usize::try_from(result(returned)?).map_err(|_| Errno::EPROTO)?;
    match buffer.get(..length) {
        // A full buffer may be a path cut short.
        Some(path) if length < buffer.len() => Ok(path.to_vec()),
        _ => Err(Errno::ENAMETOOLONG),
    }
}
