//! A target that already holds a mount: the one that was asked for, or another.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use mountwarden_policy::{MountPermit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, MountId, Mounted, Outcome};
use nix::errno::Errno;
use nix::sys::statfs::fstatfs;

use super::location::Location;
use super::mount::described;
use crate::failure;
use crate::table::{self, Table};

/// Answers a request for a target that is the root of a mount: already
/// mounted when that is just what was asked for, busy otherwise.
pub(super) fn same(
    table: &Table,
    permit: &MountPermit<'_>,
    source: Option<&Location>,
    target: &Location,
) -> Result<Mounted, ErrorReply> {
    let difference = match (&permit.kind, source) {
        (PermittedKind::Bind { recursive, .. }, Some(source)) => {
            bind(table, permit, *recursive, source, target)
        }
        _ => tmpfs(permit, target),
    };
    let difference = difference
        .map_err(|errno| failure::kernel("cannot examine the mount at", &target.path, errno))?;
    match difference {
        None if permit.lease => Err(busy(
            target,
            "a lease ends what it made, and this was there before",
        )),
        None => described(&target.mount, Outcome::AlreadyMounted, &target.path),
        Some(why) => Err(busy(target, why)),
    }
}

/// How the mount at the target differs from a bind of `source`.
fn bind(
    table: &Table,
    permit: &MountPermit<'_>,
    recursive: bool,
    source: &Location,
    target: &Location,
) -> Result<Option<&'static str>, Errno> {
    if !source.status.is_same_file(&target.status) {
        return Ok(Some("it shows another directory or file"));
    }
    // A clone starts with the attributes of the mount that the source lies on.
    let expected = permit.attributes | table::attributes(&source.mount);
    if table::attributes(&target.mount) != expected {
        return Ok(Some("it has other attributes"));
    }
    if recursive && !beneath(table, source)?.is_subset(&beneath(table, target)?) {
        return Ok(Some("it lacks mounts that lie beneath the source"));
    }
    Ok(None)
}

/// The places of the mounts beneath a location, relative to it.
fn beneath(table: &Table, location: &Location) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let mut places = BTreeSet::new();
    table.walk(location.mount.id, 0, |mount| {
        let place = AbsPath::from_bytes(&mount.point).ok();
        if place.is_some_and(|place| place.is_beneath(&location.path)) {
            let rest = mount
                .point
                .strip_prefix(location.path.as_bytes())
                .unwrap_or_default();
            places.insert(rest.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    Ok(places)
}

/// How the mount at the target differs from the tmpfs that `permit` describes.
/// The mode is the owner's to change, so it does not count.
fn tmpfs(permit: &MountPermit<'_>, target: &Location) -> Result<Option<&'static str>, Errno> {
    let PermittedKind::Tmpfs {
        size, inodes, uid, ..
    } = permit.kind
    else {
        return Ok(Some("it is of another kind"));
    };
    if target.mount.filesystem != b"tmpfs" || target.mount.root != b"/" {
        return Ok(Some("it is not a tmpfs"));
    }
    if table::attributes(&target.mount) != permit.attributes {
        return Ok(Some("it has other attributes"));
    }
    if target.status.uid != uid {
        return Ok(Some("its owner is somebody else"));
    }
    let statistics = fstatfs(target.as_fd())?;
    let block = u64::try_from(statistics.block_size()).map_err(|_| Errno::ERANGE)?;
    // The kernel rounds a size up to whole blocks (`tmpfs(5)`).
    let blocks = size.get().div_ceil(block.max(1));
    if statistics.blocks() != blocks || statistics.files() != inodes.get() {
        return Ok(Some("its limits differ"));
    }
    Ok(None)
}

fn busy(target: &Location, why: &str) -> ErrorReply {
    let path = &target.path;
    let error = ErrorReply::new(
        ErrorCode::Busy,
        format!(
            "{path} holds a different mount: {why}; unmount it first, or choose another target"
        ),
    )
    .at(path);
    match MountId::try_from(target.mount.id) {
        Ok(id) => error.mount(id),
        Err(_) => error,
    }
}
