//! One piece of work at a time on one place, over all mounters.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::sys::mount::FileStatus;

/// The lock of one place: a name in a directory, whatever path leads to that
/// directory. A path would not do: who renames a directory could have two
/// mounters at work on one place under two names. The kernel gives it back when the process ends,
/// however it ends (`F_SETLKW` in `fcntl_locking(2)`).
pub(super) struct TargetLock<'a> {
    file: BorrowedFd<'a>,
    place: libc::off_t,
}

impl<'a> TargetLock<'a> {
    /// Waits for the lock; the request's deadline bounds the wait.
    pub(super) fn take(
        file: BorrowedFd<'a>,
        directory: &FileStatus,
        name: &[u8],
    ) -> Result<Self, Errno> {
        let mut hasher = DefaultHasher::new();
        (directory.device, directory.inode, name).hash(&mut hasher);
        let place = libc::off_t::try_from(hasher.finish() >> 2).map_err(|_| Errno::EOVERFLOW)?;
        set(file.as_fd(), libc::F_WRLCK, place)?;
        Ok(Self { file, place })
    }
}

impl Drop for TargetLock<'_> {
    fn drop(&mut self) {
        // Giving back a lock that is held cannot fail; and the process's end
        // gives it back in any case.
        let _ = set(self.file, libc::F_UNLCK, self.place);
    }
}

fn set(file: BorrowedFd<'_>, kind: libc::c_int, place: libc::off_t) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| Errno::EINVAL)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?,
        l_start: place,
        l_len: 1,
        l_pid: 0,
    };
    loop {
        match fcntl(file, FcntlArg::F_SETLKW(&lock)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
