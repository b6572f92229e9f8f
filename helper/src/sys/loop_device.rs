//! Loop devices (`loop(4)`).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::mount::owned;
use super::pinned::Pinned;
use super::result;

/// The request that gives a device its file and its flags at once (Linux 5.8); the kernel
/// takes it as 32 bits.
pub(crate) const LOOP_CONFIGURE: u32 = 0x4c0a;

/// `struct loop_config` of `linux/loop.h`, as far as it is not zero.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    kinds: [u32; 3],
    flags: u32,
    /// Two names, a key, and two numbers more.
    names: [u8; 176],
}

// As the kernel has them: no room between the members.
const _: () = assert!(size_of::<Config>() == 304);
const _: () = assert!(std::mem::offset_of!(Info, flags) == 52);

/// The device is not written to, and its file is let go when nothing uses the device any
/// more.
const FLAGS: u32 = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Opens a loop device to read. Where its node is there and it is not, the kernel makes it.
pub(crate) fn open(directory: BorrowedFd<'_>, name: Pinned) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is pinned and ends in NUL; no mode is needed.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::c_long::from(directory.as_raw_fd()),
            name.as_ptr(),
            libc::c_long::from(OPEN),
        )
    })
}

/// How [`open`] opens a device.
pub(crate) const OPEN: libc::c_int = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;

/// Has a device show a file until nothing uses the device any more; `EBUSY` where it shows
/// one already.
pub(crate) fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    let config = Config {
        file: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        // The least, for any image.
        block_size: 0,
        info: Info {
            numbers: [0; 5],
            kinds: [0; 3],
            flags: FLAGS,
            names: [0; 176],
        },
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one `struct loop_config`, which is what it is given.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            libc::c_long::from(device.as_raw_fd()),
            libc::c_ulong::from(LOOP_CONFIGURE),
            &raw const config,
        )
    };
    result(returned).map(drop)
}
