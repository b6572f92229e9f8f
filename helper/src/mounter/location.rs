//! What a mounter checks of a descriptor before it acts on it.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mountwarden_protocol::{AbsPath, DenyReason, ErrorCode, ErrorReply};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::failure;
use crate::sys::mount::{self, FileStatus, MountStatus};
use crate::sys::pinned::Slot;
use crate::table::Table;

/// A descriptor that is what the request's path names, at this moment.
pub(super) struct Location {
    file: OwnedFd,
    pub(super) path: AbsPath,
    pub(super) status: FileStatus,
    pub(super) mount: MountStatus,
}

/// What a location is for, and whether a client opened it instead of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Something is done with it.
    Use { passed: bool },
    /// It may also be the unopened root of a mount, to compare.
    UseOrCompare { passed: bool },
}

impl Purpose {
    fn is_passed(self) -> bool {
        let (Self::Use { passed } | Self::UseOrCompare { passed }) = self;
        passed
    }
}

impl Location {
    /// Checks that `file`, which another process opened, is the directory or
    /// regular file at `path` in this mount namespace.
    ///
    /// The kernel's path of a descriptor is believed only after its mount was
    /// found in our own namespace: in a detached or foreign mount it reads as
    /// whatever path an attacker likes. It must equal the path that was judged;
    /// being merely beneath a granted root is not enough.
    pub(super) fn check(
        table: &Table,
        own: BorrowedFd<'_>,
        slot: Slot,
        file: OwnedFd,
        path: &AbsPath,
        purpose: Purpose,
    ) -> Result<Self, ErrorReply> {
        let failed = |what: &'static str| move |errno| failure::kernel(what, path, errno);
        let slotted = in_slot(file, slot).map_err(failed("cannot take"))?;
        let flags = fcntl(&slotted, FcntlArg::F_GETFL).map_err(failed("cannot examine"))?;
        let status = table
            .status(slotted.as_fd())
            .map_err(failed("cannot examine"))?;
        let flags = OFlag::from_bits_retain(flags);
        let unopened = flags.contains(OFlag::O_PATH);
        usable(purpose, flags, &status).map_err(|(code, why)| refuse(code, path, why))?;
        let mount = table
            .status_of_mount(status.mount)
            .map_err(|errno| match errno {
                Errno::ENOENT => refuse(
                    ErrorCode::Changed,
                    path,
                    "lies on a mount that is not in the helper's mount namespace",
                ),
                other => failure::kernel("cannot examine the mount of", path, other),
            })?;
        if status.links == 0 && !unopened {
            return Err(refuse(
                ErrorCode::Changed,
                path,
                "was removed while the request ran",
            ));
        }
        // A client can open there what no path leads to, of any process that it may trace.
        if purpose.is_passed() && mount.filesystem == b"proc" {
            return Err(refuse(
                ErrorCode::WrongType,
                path,
                "lies on a proc file system",
            ));
        }
        let actual = mount::path_of_slot(own, slot).map_err(failed("cannot find the path of"))?;
        if actual != path.as_bytes() {
            return Err(refuse(
                ErrorCode::Changed,
                path,
                "was renamed or replaced while the request ran",
            ));
        }
        // The kernel writes the path of a removed file so (`proc_pid_exe(5)`), and one
        // that has another name somewhere has links left.
        if !status.is_directory() && actual.ends_with(b" (deleted)") {
            return Err(refuse(
                ErrorCode::Unsupported,
                path,
                "cannot be told from a file that was removed: give it a name that does not end so",
            ));
        }
        Ok(Self {
            file: slotted,
            path: path.clone(),
            status,
            mount,
        })
    }

    /// Fails where a role that serves all clients must not hold it. Whoever lets go of a
    /// FUSE file system last that is on a device waits for its program, and not even SIGKILL
    /// ends that wait (`fuse_send_destroy` in the kernel's `fs/fuse/inode.c`).
    pub(super) fn check_shareable(&self) -> Result<(), ErrorReply> {
        if !is_fuseblk(&self.mount) {
            return Ok(());
        }
        let why = "lies on a fuseblk file system, whose program could hold up the helper: no lease, \
                   batch, overlay, detached mount or loop device is made of it";
        Err(refuse(ErrorCode::Unsupported, &self.path, why))
    }

    /// The same of what is mounted beneath it.
    pub(super) fn check_shareable_beneath(&self, table: &Table) -> Result<(), ErrorReply> {
        let mut found = false;
        let look = |mount: &MountStatus| {
            let point = AbsPath::from_bytes(&mount.point).ok();
            // Where its path is no text, it could be anywhere.
            let is_beneath = point.is_none_or(|point| point.is_beneath(&self.path));
            if is_beneath && is_fuseblk(mount) {
                found = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        table.walk(self.mount.id, 0, look).map_err(|errno| {
            failure::kernel("cannot look for mounts beneath", &self.path, errno)
        })?;
        if !found {
            return Ok(());
        }
        let why = "has a fuseblk file system beneath it, whose program could hold up the helper: ask \
                   without what is beneath";
        Err(refuse(ErrorCode::Unsupported, &self.path, why))
    }

    /// Fails where the grant asks for an owner and it is somebody else.
    pub(super) fn check_owner(
        &self,
        owner: Option<u32>,
        reason: DenyReason,
    ) -> Result<(), ErrorReply> {
        if owner.is_none_or(|owner| owner == self.status.uid) {
            return Ok(());
        }
        let why = "belongs to somebody else, and the grant asks that it be your own";
        let mut error = refuse(ErrorCode::Denied, &self.path, why);
        error.reason = Some(reason);
        Err(error)
    }
}

fn is_fuseblk(mount: &MountStatus) -> bool {
    mount.filesystem.starts_with(b"fuseblk")
}

/// Fails where a descriptor did not arrive in its slot. It always does, because the
/// kernel gives out the lowest free number; the filter lets a mounter act on
/// slots alone, and move nothing into them.
pub(super) fn in_slot(file: OwnedFd, slot: Slot) -> Result<OwnedFd, Errno> {
    if file.as_raw_fd() == slot.number() {
        Ok(file)
    } else {
        Err(Errno::EBADF)
    }
}

/// Whether a file may stand for a location at all.
///
/// What a mount attached at a target shows may be private, dead or hung, so its
/// root comes unopened (`O_PATH`, which Landlock does not check). It is only
/// ever compared: nothing is bound from it or attached to it.
fn usable(
    purpose: Purpose,
    flags: OFlag,
    status: &FileStatus,
) -> Result<(), (ErrorCode, &'static str)> {
    if let Purpose::UseOrCompare { passed } = purpose
        && flags.contains(OFlag::O_PATH)
    {
        return match (status.is_mount_root, passed) {
            (true, _) => Ok(()),
            (false, true) => Err((ErrorCode::WrongType, "was not opened for reading")),
            (false, false) => Err((ErrorCode::Changed, "holds no mount any more")),
        };
    }
    if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE != OFlag::O_RDONLY {
        return Err((ErrorCode::WrongType, "was not opened for reading"));
    }
    if !status.is_directory() && !status.is_regular_file() {
        return Err((
            ErrorCode::WrongType,
            "is neither a directory nor a regular file",
        ));
    }
    Ok(())
}

impl AsFd for Location {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FileStatus {
    pub(super) fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    pub(super) fn is_regular_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether both are the same file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

pub(super) fn refuse(code: ErrorCode, path: &AbsPath, why: &str) -> ErrorReply {
    ErrorReply::new(code, format!("{path} {why}")).at(path)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::errno::Errno;

    use super::{Slot, in_slot};
    use crate::sys::socket::place;

    #[test]
    fn what_is_not_in_its_slot_is_refused() {
        let first = [
            Slot::Directory,
            Slot::Target,
            Slot::Source,
            Slot::Mount,
            Slot::Connection,
        ];
        for slot in first.into_iter().chain(Slot::layers().map(Slot::Layer)) {
            let [elsewhere] = place([std::io::stderr().as_fd()], [200]).expect("a descriptor");
            assert_eq!(in_slot(elsewhere, slot).err(), Some(Errno::EBADF));
        }
    }
}
