//! Unmounting: a checked directory, one component, the id that was compared.
#![forbid(unsafe_code)]

use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId, Unmounted};
use nix::errno::Errno;

use super::directory::Place;
use crate::failure;
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
    // `umount2` takes a name and no id, and the lock binds mounters alone.
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
