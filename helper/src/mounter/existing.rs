//! A target that already holds a mount: the one that was asked for, or another.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use mountwarden_policy::{MountPermit, PermittedKind};
use mountwarden_protocol::{
    AbsPath, ErrorCode, ErrorReply, FilesystemName, MountAttributes, MountId, Mounted, Outcome,
};
use nix::errno::Errno;
use nix::sys::statfs::fstatfs;

use super::device::Device;
use super::filesystem;
use super::location::Location;
use super::mount::described;
use super::origin::Origin;
use crate::failure;
use crate::table::{self, Table};

/// Answers a request for a target that is the root of a mount: already
/// mounted when that is just what was asked for, busy otherwise.
pub(super) fn same(
    table: &Table,
    permit: &MountPermit<'_>,
    origin: &Origin,
    target: &Location,
) -> Result<Mounted, ErrorReply> {
    let difference = match shows(table, &permit.kind, origin, target)? {
        None if table::attributes(&target.mount) != permit.attributes | inherited(origin) => {
            Some("it has other attributes")
        }
        None if table::propagation(&target.mount) != permit.propagation => {
            Some("it has another propagation")
        }
        None if permit.idmap.is_some() => {
            Some("the kernel does not tell whether it maps ids as it should")
        }
        // A clone starts with the map of the mount that the source lies on.
        None if table::is_idmapped(&target.mount) != is_of_idmapped(origin) => {
            Some("it is ID-mapped")
        }
        None => limits(&permit.kind, target)
            .map_err(|errno| failure::kernel("cannot examine the mount at", &target.path, errno))?,
        other => other,
    };
    match difference {
        None if !permit.lease => described(&target.mount, Outcome::AlreadyMounted, &target.path),
        difference => Err(busy(
            target,
            difference.unwrap_or("a lease ends what it made, and this was there before"),
            "unmount it first, or choose another target",
        )),
    }
}

fn is_of_idmapped(origin: &Origin) -> bool {
    let location = origin.location();
    location.is_some_and(|source| table::is_idmapped(&source.mount))
}

/// A clone starts with the attributes of the mount that the source lies on.
pub(super) fn inherited(origin: &Origin) -> MountAttributes {
    origin
        .location()
        .map_or(MountAttributes::empty(), |source| {
            table::attributes(&source.mount)
        })
}

/// How what the mount at the target shows differs from this kind.
pub(super) fn shows(
    table: &Table,
    kind: &PermittedKind,
    origin: &Origin,
    target: &Location,
) -> Result<Option<&'static str>, ErrorReply> {
    match (kind, origin) {
        (PermittedKind::Bind { recursive, .. }, Origin::Location(source)) => {
            bind(table, *recursive, source, target).map_err(|errno| {
                failure::kernel("cannot examine the mount at", &target.path, errno)
            })
        }
        (PermittedKind::Tmpfs { uid, .. }, _) => Ok(tmpfs(*uid, target)),
        (PermittedKind::Block { filesystem, .. }, Origin::Device(device)) => {
            Ok(block(filesystem, device, target))
        }
        (PermittedKind::Overlay(_), _) if target.mount.filesystem == b"overlay" => {
            Ok(Some("the kernel does not tell which layers an overlay has"))
        }
        (PermittedKind::Image { filesystem, .. }, _)
            if target.mount.filesystem == filesystem.name().as_bytes() =>
        {
            Ok(Some("the kernel does not tell which file an image is"))
        }
        (PermittedKind::Fuse(_), _) => Ok(Some("a FUSE file system is served once")),
        (PermittedKind::Network { .. }, _) => network(table, kind, target),
        _ => Ok(Some("it is of another kind")),
    }
}

fn bind(
    table: &Table,
    recursive: bool,
    source: &Location,
    target: &Location,
) -> Result<Option<&'static str>, Errno> {
    if !source.status.is_same_file(&target.status) {
        return Ok(Some("it shows another directory or file"));
    }
    if recursive && !beneath(table, source)?.is_subset(&beneath(table, target)?) {
        return Ok(Some("it lacks mounts that lie beneath the source"));
    }
    Ok(None)
}

fn tmpfs(owner: u32, target: &Location) -> Option<&'static str> {
    if target.mount.filesystem != b"tmpfs" || target.mount.root != b"/" {
        return Some("it is not a tmpfs");
    }
    (target.status.uid != owner).then_some("its owner is somebody else")
}

/// The options of a file system do not count: it has one set of them, wherever it is
/// mounted.
fn block(filesystem: &FilesystemName, device: &Device, target: &Location) -> Option<&'static str> {
    if target.mount.filesystem != filesystem.as_str().as_bytes() || target.mount.root != b"/" {
        return Some("it is of another type, or shows a part");
    }
    if target.status.device.0 == 0 {
        return Some("its type does not tell which device it is on");
    }
    (target.status.device != device.number).then_some("it is of another device")
}

/// The kernel gives the same file system again for the same source and options, where its
/// type shares one at all; so it is made once more, and compared.
fn network(
    table: &Table,
    kind: &PermittedKind,
    target: &Location,
) -> Result<Option<&'static str>, ErrorReply> {
    let attributes = table::attributes(&target.mount);
    let made = filesystem::network(kind, &target.path, attributes)?;
    let status = table.status(made.as_fd()).map_err(|errno| {
        failure::kernel("cannot examine what was made for", &target.path, errno)
    })?;
    Ok((!status.is_same_file(&target.status))
        .then_some("it is another file system, or has other options"))
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

/// How the limits of the tmpfs at the target differ from these. The mode is the
/// owner's to change, so it does not count.
fn limits(kind: &PermittedKind, target: &Location) -> Result<Option<&'static str>, Errno> {
    let PermittedKind::Tmpfs { size, inodes, .. } = kind else {
        return Ok(None);
    };
    let statistics = fstatfs(target.as_fd())?;
    let block = u64::try_from(statistics.block_size()).map_err(|_| Errno::ERANGE)?;
    // The kernel rounds a size up to whole blocks (`tmpfs(5)`).
    let blocks = size.get().div_ceil(block.max(1));
    if statistics.blocks() != blocks || statistics.files() != inodes.get() {
        return Ok(Some("its limits differ"));
    }
    Ok(None)
}

/// What may yet be taken back is not there already.
pub(super) fn unfinished(target: &Location) -> ErrorReply {
    taken(target, "a mount of a batch that is not finished: try again")
}

pub(super) fn busy(target: &Location, why: &str, advice: &str) -> ErrorReply {
    taken(target, &format!("a different mount: {why}; {advice}"))
}

fn taken(target: &Location, what: &str) -> ErrorReply {
    let path = &target.path;
    let message = format!("{path} holds {what}");
    let error = ErrorReply::new(ErrorCode::Busy, message).at(path);
    match MountId::try_from(target.mount.id) {
        Ok(id) => error.mount(id),
        Err(_) => error,
    }
}
