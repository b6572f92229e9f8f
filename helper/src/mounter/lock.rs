//! One piece of work at a time on one place, over all mounters.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::sys::mount::FileStatus;

/// The lock of one place: a name in a directory, whatever path leads to that
/// directory. A path would not do: who renames a directory could have two
/// mounters at work on one place under two names. The kernel gives it back when the process ends,
/// however it ends (`F_SETLKW` in `fcntl_locking(2)`).
///
/// The directory above a passed target is not known. So each mounter also locks the
/// name together with the mount that the place lies on: shared where the directory
/// is known, alone where it is not.
pub(super) struct TargetLock<'a> {
    file: BorrowedFd<'a>,
    places: Vec<libc::off_t>,
}

impl<'a> TargetLock<'a> {
    /// Waits for the lock; the request's deadline bounds the wait.
    pub(super) fn take(
        file: BorrowedFd<'a>,
        mount: u64,
        directory: Option<&FileStatus>,
        name: &[u8],
    ) -> Result<Self, Errno> {
        let kind = match directory {
            Some(_) => libc::F_RDLCK,
            None => libc::F_WRLCK,
        };
        let mut lock = Self {
            file,
            places: Vec::new(),
        };
        lock.add(kind, offset((mount, name))?)?;
        if let Some(at) = directory {
            lock.add(libc::F_WRLCK, offset((at.device, at.inode, name))?)?;
        }
        Ok(lock)
    }

    fn add(&mut self, kind: libc::c_int, place: libc::off_t) -> Result<(), Errno> {
        set(self.file, kind, place)?;
        self.places.push(place);
        Ok(())
    }
}

fn offset(place: impl Hash) -> Result<libc::off_t, Errno> {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    libc::off_t::try_from(hasher.finish() >> 2).map_err(|_| Errno::EOVERFLOW)
}

impl Drop for TargetLock<'_> {
    fn drop(&mut self) {
        // Giving back a lock that is held cannot fail; and the process's end
        // gives it back in any case.
        for &place in &self.places {
            let _ = set(self.file, libc::F_UNLCK, place);
        }
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
