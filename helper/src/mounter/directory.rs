//! The directory above a target, and the target's name in it.
//!
//! A name is the only thing that a mounter ever looks up, one component in a
//! directory that was checked: what is mounted at a place, now, can be asked in
//! no other way.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId};
use nix::errno::Errno;
use nix::unistd::fchdir;

use super::location::{Location, Purpose};
use super::mount::{not_covered, still_there};
use crate::failure;
use crate::sys::mount::{self, FileStatus};
use crate::sys::pinned::Slot;
use crate::table::Table;

/// A target as a name in a checked directory.
pub(super) struct Place<'a> {
    directory: Location,
    name: &'a [u8],
    path: &'a AbsPath,
    table: &'a Table,
    home: BorrowedFd<'a>,
}

impl<'a> Place<'a> {
    /// Checks the directory above `path`. `home` is this process's own
    /// `/proc/self/fd`, its working directory at all other times.
    pub(super) fn check(
        table: &'a Table,
        home: BorrowedFd<'a>,
        file: OwnedFd,
        path: &'a AbsPath,
    ) -> Result<Self, ErrorReply> {
        let Some((directory, name)) = path.split() else {
            return Err(failure::kernel(
                "there is no directory above",
                path,
                Errno::EINVAL,
            ));
        };
        let directory = Location::check(
            table,
            home,
            Slot::Directory,
            file,
            &directory,
            Purpose::Use { passed: false },
        )?;
        Ok(Self {
            directory,
            name,
            path,
            table,
            home,
        })
    }

    /// The directory above the name.
    pub(super) fn directory(&self) -> &Location {
        &self.directory
    }

    pub(super) fn path(&self) -> &AbsPath {
        self.path
    }

    /// What the name leads to now. Nothing here asks the file system that is
    /// mounted there: it may be dead or hung.
    pub(super) fn look(&self) -> Result<FileStatus, ErrorReply> {
        self.inside(|name| self.table.status_of_name(name))?
            .map_err(|errno| failure::kernel("cannot look at", self.path, errno))
    }

    /// The topmost mount at the name, which must be the one that was named, if any.
    pub(super) fn mounted(&self, wanted: Option<MountId>) -> Result<MountId, ErrorReply> {
        id_of(&self.look()?, self.path, wanted)
    }

    /// Unmounts what is attached at the name.
    pub(super) fn unmount(&self, lazy: bool) -> Result<Result<(), Errno>, ErrorReply> {
        self.inside(|name| mount::unmount_name(name, lazy))
    }

    /// Works in the directory and leaves it again: a working directory would
    /// keep its mount busy.
    fn inside<T>(&self, work: impl FnOnce(&[u8]) -> T) -> Result<T, ErrorReply> {
        let failed = |errno| failure::kernel("cannot enter the directory of", self.path, errno);
        fchdir(self.directory.as_fd()).map_err(failed)?;
        let result = work(self.name);
        fchdir(self.home).map_err(failed)?;
        Ok(result)
    }
}

/// Where a mount is to go.
pub(super) enum Spot<'a> {
    Named(Box<Place<'a>>),
    /// Of a passed target nobody here can look up the name. What came for the directory
    /// keeps its slot, and is nothing else.
    Passed {
        _slot: OwnedFd,
    },
}

impl Spot<'_> {
    /// Fails when the target is not what lies at its path any more.
    pub(super) fn check(&self, table: &Table, target: &Location) -> Result<(), ErrorReply> {
        match self {
            Self::Named(place) => still_there(place, target),
            Self::Passed { .. } => not_covered(table, target.mount.id, &target.path),
        }
    }
}

/// The id of the mount that `root` is the root of, which must be the one that was
/// named, if any.
pub(super) fn id_of(
    root: &FileStatus,
    path: &AbsPath,
    wanted: Option<MountId>,
) -> Result<MountId, ErrorReply> {
    let (true, Ok(id)) = (root.is_mount_root, MountId::try_from(root.mount)) else {
        let message = format!("nothing is mounted at {path}");
        return Err(ErrorReply::new(ErrorCode::NotMounted, message).at(path));
    };
    match wanted {
        Some(wanted) if wanted != id => {
            let message =
                format!("the mount at {path} has the id {id}, not {wanted}; it was left alone");
            Err(ErrorReply::new(ErrorCode::IdMismatch, message)
                .at(path)
                .mount(id))
        }
        _ => Ok(id),
    }
}
