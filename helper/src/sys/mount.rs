//! The mount calls (`fsopen(2)`, `open_tree(2)`, `move_mount(2)`,
//! `mount_setattr(2)`, `statmount(2)`, `listmount(2)`, `umount(2)`): no function
//! here takes a path. Locations are descriptors; strings are pinned, or one
//! component in the name buffer.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

use super::pinned::{EMPTY, NAME, Pinned, Slot};
use super::result;

/// What `statx(2)` says of a descriptor or a name, without asking the file
/// system's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// Type and permission bits.
    pub mode: u32,
    /// Hard links; 0 once it was removed.
    pub links: u32,
    /// The owner.
    pub uid: u32,
    /// Unique within the device.
    pub inode: u64,
    /// Major and minor number of the device that it lies on; the major one is zero where
    /// there is none.
    pub device: (u32, u32),
    /// Major and minor number of the device that it is.
    pub is_device: (u32, u32),
    /// The id of the mount that it lies on.
    pub mount: u64,
    /// Whether it is the root of that mount.
    pub is_mount_root: bool,
}

/// What `statmount(2)` or `mountinfo` says of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStatus {
    /// Its unique id; from `mountinfo`, the short one.
    pub id: u64,
    /// The id, of the same kind, of the mount that it is attached to.
    pub parent: u64,
    /// The id that `mountinfo` shows, which is used again after the mount's end.
    pub short_id: u64,
    /// `MOUNT_ATTR_*`
    pub attributes: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, ...
    pub propagation: u64,
    /// The type of the file system.
    pub filesystem: Vec<u8>,
    /// What it shows of the file system.
    pub root: Vec<u8>,
    /// Where it is attached.
    pub point: Vec<u8>,
}

/// Which id of a mount to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The one that no other mount ever has: `STATX_MNT_ID_UNIQUE`, since Linux 6.8.
    Unique,
    /// The one that no other mount has at the same time.
    Short,
}

impl Ids {
    /// The bit in the mask of `statx(2)`.
    fn mask(self) -> u32 {
        match self {
            Self::Unique => 0x4000,
            Self::Short => 0x1000,
        }
    }
}

/// `STATX_ATTR_MOUNT_ROOT`
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
const STATX_FD_FLAGS: i32 = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
const STATX_ASK_FLAGS: i32 =
    libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC | libc::AT_NO_AUTOMOUNT;
const STATX_NAME_FLAGS: i32 =
    libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;

/// Describes an open file.
///
/// # Errors
/// What the kernel reports.
pub fn status(file: BorrowedFd<'_>, ids: Ids) -> Result<FileStatus, Errno> {
    let (id, rest) = (ids.mask(), libc::STATX_BASIC_STATS);
    statx(file.as_raw_fd(), EMPTY.as_ptr(), STATX_FD_FLAGS, rest, id)
}

/// Has the file system's server say something about an open file (`AT_STATX_FORCE_SYNC`
/// in `statx(2)`). It may never answer.
pub(crate) fn ask(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let rest = libc::STATX_BASIC_STATS;
    statx(file.as_raw_fd(), EMPTY.as_ptr(), STATX_ASK_FLAGS, rest, 0).map(drop)
}

/// What a file system that hides its files from other users (`fuse(8)`) lets the
/// kernel tell: the short id of the mount, and whether the file is its root. The
/// rest of the answer is zero.
pub(crate) fn hidden_status(file: BorrowedFd<'_>) -> Result<FileStatus, Errno> {
    statx(file.as_raw_fd(), EMPTY.as_ptr(), STATX_FD_FLAGS, 0, 0)
}

/// The unique id of a mount of such a file system that is attached nowhere, so that no
/// table has it either: `name_to_handle_at(2)` asks no permission, since Linux 6.12.
pub(crate) fn id_of_hidden(root: BorrowedFd<'_>) -> Result<u64, Errno> {
    // A `struct file_handle` with no room for a handle, which is not wanted.
    let mut handle = [0_u32; 2];
    let mut id: u64 = 0;
    let flags = libc::AT_EMPTY_PATH | libc::AT_HANDLE_MNT_ID_UNIQUE;
    // SAFETY: the path is pinned and ends in NUL, and the kernel writes the head of a
    // handle and one id, which is what it is given.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::c_long::from(root.as_raw_fd()),
            EMPTY.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut id,
            libc::c_long::from(flags),
        )
    };
    match result(returned) {
        // There is no room for the handle, but the id is written all the same.
        Ok(_) | Err(Errno::EOVERFLOW) => Ok(id),
        Err(errno) => Err(errno),
    }
}

/// The mount that a name in the working directory leads to, and whether it is
/// its root; a symbolic link is not followed.
pub(crate) fn status_of_name(name: &[u8], ids: Ids) -> Result<FileStatus, Errno> {
    NAME.with(name, |name| {
        statx(libc::AT_FDCWD, name, STATX_NAME_FLAGS, 0, ids.mask())
    })
}

/// As [`hidden_status`], of a name in the working directory.
pub(crate) fn hidden_status_of_name(name: &[u8]) -> Result<FileStatus, Errno> {
    NAME.with(name, |name| {
        statx(libc::AT_FDCWD, name, STATX_NAME_FLAGS, 0, 0)
    })
}

/// Asks for what is in `mask`, and for what is in `id`, without which there is no
/// answer.
fn statx(
    directory: RawFd,
    path: *const libc::c_char,
    flags: i32,
    mask: u32,
    id: u32,
) -> Result<FileStatus, Errno> {
    // SAFETY: `statx` is plain numbers, for which zero is valid.
    let mut buffer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL (pinned, or the name buffer), and the kernel
    // writes one `statx`, which is what it is given.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::c_long::from(directory),
            path,
            libc::c_long::from(flags),
            libc::c_ulong::from(mask | id),
            &raw mut buffer,
        )
    };
    result(returned)?;
    if buffer.stx_mask & id != id {
        return Err(Errno::ENOSYS);
    }
    Ok(FileStatus {
        mode: u32::from(buffer.stx_mode),
        links: buffer.stx_nlink,
        uid: buffer.stx_uid,
        inode: buffer.stx_ino,
        device: (buffer.stx_dev_major, buffer.stx_dev_minor),
        is_device: (buffer.stx_rdev_major, buffer.stx_rdev_minor),
        mount: buffer.stx_mnt_id,
        is_mount_root: buffer.stx_attributes & STATX_ATTR_MOUNT_ROOT != 0,
    })
}

/// `struct mnt_id_req` in its first version.
#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    id: u64,
    param: u64,
}

/// The fixed part of `struct statmount`; strings follow it.
const STATMOUNT_FIXED: usize = 512;
/// Room for the fixed part, two paths of the greatest length, and the name of a
/// type.
const STATMOUNT_ROOM: usize = STATMOUNT_FIXED + 2 * 4096 + 256;
/// `STATMOUNT_SB_BASIC | MNT_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE`
const STATMOUNT_MASK: u64 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20;
/// libc has no name for it yet; the number is the same on every architecture.
pub(crate) const SYS_STATMOUNT: libc::c_long = 457;
/// libc has no name for it yet; the number is the same on every architecture.
pub(crate) const SYS_LISTMOUNT: libc::c_long = 458;
/// "Every mount of this namespace", in the place of an id.
pub(crate) const LSMT_ROOT: u64 = u64::MAX;

/// Describes a mount of this process's mount namespace; ENOENT for any other.
///
/// # Errors
/// What the kernel reports.
pub fn status_of_mount(id: u64) -> Result<MountStatus, Errno> {
    let mut buffer = [0_u8; STATMOUNT_ROOM];
    let request = MountIdRequest {
        size: 24,
        spare: 0,
        id,
        param: STATMOUNT_MASK,
    };
    // SAFETY: the kernel reads the request, whose `size` is its true size, and
    // writes at most `STATMOUNT_ROOM` bytes, which the buffer has.
    let returned = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            buffer.as_mut_ptr(),
            STATMOUNT_ROOM,
            libc::c_ulong::from(0_u32),
        )
    };
    result(returned)?;
    parse_statmount(&buffer).ok_or(Errno::EPROTO)
}

/// Reads the fields of `struct statmount` (`include/uapi/linux/mount.h`).
fn parse_statmount(buffer: &[u8]) -> Option<MountStatus> {
    let word =
        |at: usize| -> Option<u64> { Some(u64::from_ne_bytes(*buffer.get(at..)?.first_chunk()?)) };
    let text = |at: usize| -> Option<Vec<u8>> {
        let offset = u32::from_ne_bytes(*buffer.get(at..)?.first_chunk()?);
        let start = STATMOUNT_FIXED.checked_add(usize::try_from(offset).ok()?)?;
        Some(
            CStr::from_bytes_until_nul(buffer.get(start..)?)
                .ok()?
                .to_bytes()
                .to_vec(),
        )
    };
    let mask = word(8)?;
    if mask & STATMOUNT_MASK != STATMOUNT_MASK {
        return None;
    }
    Some(MountStatus {
        id: word(40)?,
        parent: word(48)?,
        short_id: u32::from_ne_bytes(*buffer.get(56..)?.first_chunk()?).into(),
        attributes: word(64)?,
        propagation: word(72)?,
        filesystem: text(36)?,
        root: text(104)?,
        point: text(108)?,
    })
}

/// The ids of the mounts beneath `parent` ([`LSMT_ROOT`] for all) that come
/// after the id `after`, in their order; as many as `ids` has room for.
pub(crate) fn list(parent: u64, after: u64, ids: &mut [u64]) -> Result<usize, Errno> {
    let request = MountIdRequest {
        size: 24,
        spare: 0,
        id: parent,
        param: after,
    };
    // SAFETY: the kernel reads the request, whose `size` is its true size, and
    // writes at most as many ids as the slice has.
    let returned = unsafe {
        libc::syscall(
            SYS_LISTMOUNT,
            &raw const request,
            ids.as_mut_ptr(),
            ids.len(),
            libc::c_ulong::from(0_u32),
        )
    };
    usize::try_from(result(returned)?).map_err(|_| Errno::EPROTO)
}

const OPEN_TREE: u32 = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | EMPTY_PATH;
const OPEN_TREE_RECURSIVE: u32 = OPEN_TREE | RECURSIVE;
const OPEN_TREE_AT: u32 = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | RECURSIVE;
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.unsigned_abs();
const RECURSIVE: u32 = libc::AT_RECURSIVE.unsigned_abs();
const MOVE_MOUNT: u32 = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
pub(crate) const FSOPEN_CLOEXEC: u32 = 1;
pub(crate) const FSCONFIG_SET_FLAG: u32 = 0;
pub(crate) const FSCONFIG_SET_STRING: u32 = 1;
pub(crate) const FSCONFIG_CMD_CREATE: u32 = 6;
pub(crate) const FSCONFIG_CMD_CREATE_EXCL: u32 = 8;
pub(crate) const FSMOUNT_CLOEXEC: u32 = 1;
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
