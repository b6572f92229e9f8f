//! One piece of work at a time on one place, over all mounters.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
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

/// A place, as a lock knows it.
pub(super) struct Named<'a> {
    /// What it lies on.
    pub(super) mount: u64,
    /// The directory above it, where that is known.
    pub(super) directory: Option<FileStatus>,
    pub(super) name: &'a [u8],
}

impl<'a> TargetLock<'a> {
    /// Waits for the locks of some places; the request's deadline bounds the wait. Every
    /// mounter takes them in one order, those of mounts first: so no two wait for each other.
    pub(super) fn take(file: BorrowedFd<'a>, places: &[Named<'_>]) -> Result<Self, Errno> {
        let mut wanted = BTreeMap::new();
        for Named {
            mount,
            directory,
            name,
        } in places
        {
            let alone = wanted
                .entry((false, offset((mount, name))?))
                .or_insert(false);
            *alone |= directory.is_none();
            if let Some(at) = directory {
                wanted.insert((true, offset((at.device, at.inode, name))?), true);
            }
        }
        let mut lock = Self {
            file,
            places: Vec::new(),
        };
        for ((_, place), alone) in wanted {
            let kind = if alone { libc::F_WRLCK } else { libc::F_RDLCK };
            lock.add(kind, place)?;
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
