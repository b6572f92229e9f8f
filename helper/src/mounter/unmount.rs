//! Unmounting: a checked directory, one component, the id that was compared.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::UnmountPermit;
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId, Unmounted};
use nix::errno::Errno;

use super::directory::{Place, id_of};
use super::location::{in_slot, refuse};
use super::mount::not_covered;
use crate::failure;
use crate::sys::mount::{self, FileStatus, MountStatus};
use crate::sys::pinned::Slot;
use crate::table::Table;

/// Ends the topmost mount at a place, where `wanted` says so only that one.
pub(super) fn unmount(
    table: &Table,
    place: &Place<'_>,
    wanted: Option<MountId>,
    lazy: bool,
) -> Result<Unmounted, ErrorReply> {
    let path = place.path();
    let id = place.mounted(wanted)?;
    match place.unmount(lazy)? {
        // Not the root of a mount any more, or one that is locked (`umount(2)`).
        Err(Errno::EINVAL) if place.look()?.mount != u64::from(id) => {
            let message = format!("the mount at {path} ended while the request ran");
            return Err(ErrorReply::new(ErrorCode::Changed, message).at(path));
        }
        ended => ended.map_err(|errno| refused(path, id, errno))?,
    }
    gone(table, id, path)
}

/// Ends the mount whose root was passed. Its place has no name here, and whoever
/// holds a descriptor in a mount keeps it busy: so it is ended by its descriptor, and
/// lazily. Nothing is asked of the file system, which may be dead or hung.
pub(super) fn unmount_passed(
    table: &Table,
    permit: &UnmountPermit<'_>,
    root: OwnedFd,
) -> Result<Unmounted, ErrorReply> {
    let path = &permit.target;
    if !permit.lazy {
        let why = "can only be unmounted lazily by a descriptor, which itself keeps a mount in use";
        return Err(refuse(ErrorCode::Unsupported, path, why));
    }
    let failed = |errno| failure::kernel("cannot examine the mount at", path, errno);
    let root = in_slot(root, Slot::Target).map_err(failed)?;
    let status = table.status(root.as_fd()).map_err(failed)?;
    let (id, mount) = mount_of(table, &status, path, permit.id)?;
    // The kernel would go on to what lies on it (`umount2` follows mounts).
    not_covered(table, mount.id, path)?;
    mount::detach_slot(Slot::Target).map_err(|errno| refused(path, id, errno))?;
    gone(table, id, path)
}

/// The mount whose root came as a descriptor, which must be attached at `path`.
pub(super) fn mount_of(
    table: &Table,
    root: &FileStatus,
    path: &AbsPath,
    wanted: Option<MountId>,
) -> Result<(MountId, MountStatus), ErrorReply> {
    let id = id_of(root, path, wanted)?;
    let mount = table
        .status_of_mount(root.mount)
        .map_err(|errno| match errno {
            Errno::ENOENT => refuse(
                ErrorCode::NotMounted,
                path,
                "is not where that mount lies: it is not in the helper's mount \
                 namespace",
            ),
            other => failure::kernel("cannot examine the mount at", path, other),
        })?;
    if mount.point != path.as_bytes() {
        let why = "is not where that mount lies";
        return Err(refuse(ErrorCode::Changed, path, why));
    }
    Ok((id, mount))
}

/// Looks whether it was that mount which ended: `umount2` takes no id, and the lock
/// binds mounters alone.
fn gone(table: &Table, id: MountId, path: &AbsPath) -> Result<Unmounted, ErrorReply> {
    if table.is_left(id.into(), path) {
        let message = format!(
            "somebody else's mount was placed on the mount {id} at {path} while the request ran, \
             and was ended in its stead: mount that again"
        );
        return Err(ErrorReply::new(ErrorCode::Failed, message)
            .at(path)
            .mount(id));
    }
    Ok(Unmounted {
        id,
        target: path.clone(),
    })
}

fn refused(path: &AbsPath, id: MountId, errno: Errno) -> ErrorReply {
    let message = match errno {
        Errno::EBUSY => format!(
            "the mount at {path} is in use: a process has a file or directory of it open, or \
             something is mounted beneath it"
        ),
        Errno::EINVAL => format!(
            "the kernel does not let the helper end the mount at {path}: it came with the mount \
             namespace and is locked there"
        ),
        _ => return failure::kernel("cannot unmount", path, errno).mount(id),
    };
    let code = if errno == Errno::EBUSY {
        ErrorCode::Busy
    } else {
        ErrorCode::Failed
    };
    ErrorReply::new(code, message)
        .at(path)
        .errno(failure::number(errno))
        .mount(id)
}
