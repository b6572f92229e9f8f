//! Unmounting: a checked directory, one component, the id that was compared.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use mountwarden_policy::UnmountPermit;
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId, Unmounted};
use nix::errno::Errno;
use nix::unistd::fchdir;

use super::location::Location;
use crate::failure;
use crate::sys::mount;

/// Ends the topmost mount at the target, whose directory is `parent`.
///
/// Nothing here asks the mounted file system: it may be dead or hung.
pub(super) fn unmount(
    permit: &UnmountPermit<'_>,
    parent: &Location,
    name: &[u8],
    home: BorrowedFd<'_>,
) -> Result<Unmounted, ErrorReply> {
    let path = &permit.target;
    let failed = |errno| failure::kernel("cannot enter the directory of", path, errno);
    fchdir(parent.as_fd()).map_err(failed)?;
    let result = unmount_name(permit, name);
    // A working directory would keep its mount busy.
    fchdir(home).map_err(failed)?;
    result
}

fn unmount_name(permit: &UnmountPermit<'_>, name: &[u8]) -> Result<Unmounted, ErrorReply> {
    let path = &permit.target;
    let status = mount::status_of_name(name)
        .map_err(|errno| failure::kernel("cannot look at", path, errno))?;
    let (true, Ok(id)) = (status.is_mount_root, MountId::try_from(status.mount)) else {
        return Err(ErrorReply::new(
            ErrorCode::NotMounted,
            format!("nothing is mounted at {path}"),
        )
        .at(path));
    };
    if let Some(wanted) = permit.id
        && wanted != id
    {
        return Err(ErrorReply::new(
            ErrorCode::IdMismatch,
            format!("the mount at {path} has the id {id}, not {wanted}; it was left alone"),
        )
        .at(path)
        .mount(id));
    }
    mount::unmount_name(name, permit.lazy).map_err(|errno| refused(path, id, errno))?;
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
