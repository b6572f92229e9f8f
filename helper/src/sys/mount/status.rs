//! What the kernel says of files and mounts (`statx(2)`, `statmount(2)`, `listmount(2)`).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

use crate::sys::pinned::{EMPTY, NAME};
use crate::sys::result;

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
    /// Major and minor number of its file system.
    pub device: (u32, u32),
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
    let half =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(*buffer.get(at..)?.first_chunk()?)) };
    let text = |at: usize| -> Option<Vec<u8>> {
        let start = STATMOUNT_FIXED.checked_add(usize::try_from(half(at)?).ok()?)?;
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
        short_id: half(56)?.into(),
        attributes: word(64)?,
        propagation: word(72)?,
        filesystem: text(36)?,
        root: text(104)?,
        point: text(108)?,
        device: (half(16)?, half(20)?),
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
