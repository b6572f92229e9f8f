//! The end of a mount that is leased, or of a batch, by a mounter that does nothing else.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::Limits;
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId, Reply, Unmount, Unmounted};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::directory::Place;
use super::lock::{Named, TargetLock};
use super::setup::{confine_with, enter_own_descriptors};
use super::{Ended, layout, unmount};
use crate::audit::{By, Record, Subject};
use crate::confine::Filter;
use crate::failure;
use crate::leases::Held;
use crate::sys::pinned::Slot;
use crate::sys::{self, process};
use crate::table::Table;

/// Ends the mount that `lease` holds, where it still is, and writes that down.
pub(crate) fn end_lease(
    lease: &Held,
    lock: &OwnedFd,
    filter: &Filter,
    parent: Pid,
    limits: &Limits,
) -> Result<(), Ended> {
    let numbers = [layout::LOCK, Slot::Directory.number()];
    let [lock, above] = sys::socket::place([lock.as_fd(), lease.above.as_fd()], numbers)?;
    let own = enter_own_descriptors()?;
    let [lock_number, above_number] = numbers;
    let _confined = confine_with(&[layout::PROC, lock_number, above_number], filter, parent)?;
    process::deadline(limits.request_timeout)?;
    let Some(target) = place_of(lease.id)? else {
        return Ok(());
    };
    let ended = end(&own, &lock, above, &target, lease.id);
    if ended.is_err() && place_of(lease.id)?.is_none() {
        // Its owner ended it meanwhile.
        return Ok(());
    }
    let subject = Unmount {
        target,
        lazy: true,
        id: Some(lease.id),
        passed: false,
    };
    let (reply, result) = match ended {
        Ok(unmounted) => (Reply::Unmounted(unmounted), Ok(())),
        // Renamed meanwhile: another look may find it.
        Err(error) if error.code == ErrorCode::Changed => (Reply::Error(error), Err(Ended::Lease)),
        Err(error) => (Reply::Error(error), Ok(())),
    };
    let why = if lease.of_batch {
        "its batch was taken back"
    } else {
        "the lease's connection ended"
    };
    let record = Record {
        peer: Some(&lease.peer),
        by: By::Mounter,
        subject: Subject::Held(&subject, why),
        grant: None,
        outcome: Ok(&reply),
        maps: None,
        took: None,
    };
    record.write().map_err(Ended::Audit)?;
    result
}

/// Where the mount is attached now: a directory above it may have another name by now.
fn place_of(id: MountId) -> Result<Option<AbsPath>, Errno> {
    match Table::Calls.status_of_mount(id.into()) {
        Err(Errno::ENOENT) => Ok(None),
        other => AbsPath::from_bytes(&other?.point)
            .map(Some)
            .map_err(|_| Errno::EINVAL),
    }
}

/// Ends it as an unmount by its id does, whatever still uses it.
fn end(
    own: &OwnedFd,
    lock: &OwnedFd,
    above: OwnedFd,
    target: &AbsPath,
    id: MountId,
) -> Result<Unmounted, ErrorReply> {
    let table = Table::Calls;
    let name = target.split().map_or(&[][..], |(_, name)| name);
    let status = table.status(above.as_fd());
    let _lock = status
        .and_then(|above| {
            let place = Named {
                mount: above.mount,
                directory: Some(above),
                name,
            };
            TargetLock::take(lock.as_fd(), &[place])
        })
        .map_err(|errno| failure::kernel("cannot lock", target, errno))?;
    let place = Place::check(&table, own.as_fd(), above, target)?;
    unmount::unmount(&table, &place, Some(id), true)
}
