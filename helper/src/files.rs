//! Files that the helper reads before it is confined, and whether they can be
//! trusted.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::geteuid;
use thiserror::Error;

use crate::peer::Overflow;

/// Why a file or directory is not read or used.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("{}: {errno}", path.display())]
    Kernel { path: PathBuf, errno: Errno },
    #[error("{}: {error}", path.display())]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} must be an absolute path without '.', '..' or '//'", .0.display())]
    NotAbsolute(PathBuf),
    #[error("{} is not a {wanted}", path.display())]
    WrongType { path: PathBuf, wanted: &'static str },
    #[error(
        "{} can be changed by others (mode {mode:o}): it must not be writable by group or others{sticky}",
        path.display()
    )]
    Writable {
        path: PathBuf,
        mode: u32,
        sticky: &'static str,
    },
    #[error("{} belongs to uid {owner}: it must belong to root or to the user who starts the helper", path.display())]
    Owner { path: PathBuf, owner: u32 },
}

/// Decides whether nobody but root and the user who starts the helper can
/// change what a path leads to.
pub(crate) struct Trust {
    pub(crate) overflow: Option<Overflow>,
}

impl Trust {
    /// Opens the directory at an absolute path, each component trusted: owned by
    /// root or by the starting user, and not writable by others. A directory
    /// above the last one may be writable when its sticky bit keeps others from
    /// renaming what is not theirs.
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, FileError> {
        let kernel = |at: &Path| {
            let path = at.to_owned();
            move |errno| FileError::Kernel { path, errno }
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut at = PathBuf::from("/");
        let mut directory =
            openat(nix::fcntl::AT_FDCWD, "/", flags, Mode::empty()).map_err(kernel(&at))?;
        let names = components(path)?;
        for (index, name) in names.iter().enumerate() {
            at.push(name);
            directory = openat(&directory, *name, flags, Mode::empty()).map_err(kernel(&at))?;
            let status = fstat(&directory).map_err(kernel(&at))?;
            let last = index.checked_add(1) == Some(names.len());
            self.check(&at, &status, !last)?;
        }
        Ok(directory)
    }

    /// Reads a file whose directories and itself are trusted, up to `limit` bytes.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<String, FileError> {
        let kernel = |errno| FileError::Kernel {
            path: path.to_owned(),
            errno,
        };
        let not_absolute = || FileError::NotAbsolute(path.to_owned());
        components(path)?;
        let directory = self.directory(path.parent().ok_or_else(not_absolute)?)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let name = path.file_name().ok_or_else(not_absolute)?;
        let file = openat(&directory, name, flags, Mode::empty()).map_err(kernel)?;
        let status = fstat(&file).map_err(kernel)?;
        if status.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(FileError::WrongType {
                path: path.to_owned(),
                wanted: "regular file",
            });
        }
        self.check(path, &status, false)?;
        let mut text = String::new();
        File::from(file)
            .take(limit)
            .read_to_string(&mut text)
            .map_err(|error| FileError::Io {
                path: path.to_owned(),
                error,
            })?;
        Ok(text)
    }

    fn check(
        &self,
        path: &Path,
        status: &FileStat,
        sticky_suffices: bool,
    ) -> Result<(), FileError> {
        let owner = status.st_uid;
        // Inside a user namespace root has no name; who may write still counts.
        let unmapped = self.overflow.is_some_and(|overflow| overflow.uid == owner);
        if owner != 0 && owner != geteuid().as_raw() && !unmapped {
            return Err(FileError::Owner {
                path: path.to_owned(),
                owner,
            });
        }
        let mode = status.st_mode & 0o7777;
        let sticky = mode & libc::S_ISVTX != 0;
        if mode & 0o022 != 0 && !(sticky && sticky_suffices) {
            let sticky = if sticky_suffices {
                " unless it is sticky"
            } else {
                ""
            };
            return Err(FileError::Writable {
                path: path.to_owned(),
                mode,
                sticky,
            });
        }
        Ok(())
    }
}

/// The names of an absolute path in its only spelling.
fn components(path: &Path) -> Result<Vec<&std::ffi::OsStr>, FileError> {
    mountwarden_protocol::AbsPath::new(path)
        .map_err(|_| FileError::NotAbsolute(path.to_owned()))?;
    Ok(path.iter().skip(1).collect())
}

/// Reads a small file of `/proc`, before confinement.
pub(crate) fn read_proc(path: &Path) -> Result<String, FileError> {
    let kernel = |errno| FileError::Kernel {
        path: path.to_owned(),
        errno,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).map_err(kernel)?;
    let statistics = nix::sys::statfs::fstatfs(file.as_fd()).map_err(kernel)?;
    if statistics.filesystem_type() != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(FileError::WrongType {
            path: path.to_owned(),
            wanted: "file of procfs",
        });
    }
    let mut text = String::new();
    File::from(file)
        .read_to_string(&mut text)
        .map_err(|error| FileError::Io {
            path: path.to_owned(),
            error,
        })?;
    Ok(text)
}

/// Opens the root directory, to ask about it.
pub(crate) fn open_root() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(nix::fcntl::AT_FDCWD, "/", flags, Mode::empty())
}
