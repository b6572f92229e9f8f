//! Remounting: the mount whose id was compared, through a descriptor of its root.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use mountwarden_policy::{PermittedLift, RemountPermit};
use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, MountAttributes, MountId, MountInfo,
};
use nix::errno::Errno;

use super::existing;
use super::location::Location;
use super::origin::Origin;
use crate::failure;
use crate::sys::mount;
use crate::table::{self, Table};

/// Changes the attributes of the mount whose root `target` is.
pub(super) fn remount(
    table: &Table,
    permit: &RemountPermit<'_>,
    id: MountId,
    origin: &Origin,
    target: &Location,
) -> Result<MountInfo, ErrorReply> {
    let path = &target.path;
    let mut clear = MountAttributes::empty();
    if let Some(lift) = &permit.lift {
        check_lift(table, lift, origin, target)?;
        clear = lift.attributes.difference(permit.set);
    }
    let (set, lifted) = (table::kernel_bits(permit.set), table::kernel_bits(clear));
    mount::change(target.as_fd(), set, lifted).map_err(|errno| refused(path, id, errno))?;
    let status = table
        .status_of_mount(target.status.mount)
        .map_err(|errno| match errno {
            Errno::ENOENT => ended(path),
            other => failure::kernel("cannot examine the mount at", path, other),
        })?;
    let has = table::attributes(&status);
    match table::info(&status) {
        Some(mount) if has.contains(permit.set) && !has.intersects(clear) => Ok(mount),
        _ => Err(ErrorReply::new(
            ErrorCode::Failed,
            format!("the mount at {path} has not got the attributes that were asked for"),
        )
        .at(path)
        .mount(id)),
    }
}

/// Lifts nothing that somebody else put there: the mount must be one that the peer
/// could end, and make again without these attributes.
fn check_lift(
    table: &Table,
    lift: &PermittedLift,
    origin: &Origin,
    target: &Location,
) -> Result<(), ErrorReply> {
    let difference = match existing::shows(table, &lift.kind, origin, target)? {
        // Through it the peer may be the owner of what others own.
        None if table::is_idmapped(&target.mount) => Some("it maps owners"),
        other => other,
    };
    if let Some(why) = difference {
        return Err(existing::busy(target, why, "nothing was lifted from it"));
    }
    let kept = existing::inherited(origin) & lift.attributes;
    if kept.is_empty() {
        return Ok(());
    }
    let path = &target.path;
    Err(ErrorReply {
        reason: Some(DenyReason::AttributeForced),
        ..ErrorReply::new(
            ErrorCode::Denied,
            format!(
                "lifting {} at {path} is refused: the mount that the source lies on has that too",
                kept.names().join(" and ")
            ),
        )
        .at(path)
    })
}

fn ended(path: &AbsPath) -> ErrorReply {
    let message = format!("the mount at {path} ended while the request ran");
    ErrorReply::new(ErrorCode::Changed, message).at(path)
}

fn refused(path: &AbsPath, id: MountId, errno: Errno) -> ErrorReply {
    let (code, message) = match errno {
        Errno::EBUSY => (
            ErrorCode::Busy,
            format!("the mount at {path} is in use: a process has a file of it open for writing"),
        ),
        // It is locked (`mount_namespaces(7)`).
        Errno::EPERM => (
            ErrorCode::Failed,
            format!(
                "the kernel does not let the helper lift that from the mount at {path}: it came \
                 with the mount namespace and is locked there"
            ),
        ),
        // It is in no namespace any more (`mount_setattr(2)`).
        Errno::EINVAL => return ended(path),
        _ => return failure::kernel("cannot remount", path, errno).mount(id),
    };
    ErrorReply::new(code, message)
        .at(path)
        .errno(failure::number(errno))
        .mount(id)
}
