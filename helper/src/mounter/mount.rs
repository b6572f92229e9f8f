//! Mounting: built detached, restricted while detached, attached last, looked
//! at again.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mountwarden_policy::{MountPermit, PermittedKind};
use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, MountAttributes, MountId, Mounted, Outcome,
    Propagation,
};
use nix::errno::Errno;

use super::directory::Place;
use super::filesystem;
use super::idmap;
use super::location::{Location, in_slot};
use super::origin::Origin;
use super::setup::Descriptors;
use crate::failure;
use crate::leases::Lease;
use crate::sys::mount::{self, MountStatus};
use crate::sys::pinned::Slot;
use crate::sys::process;
use crate::table::{self, Table};

/// Mounts what `permit` says at `target`, which holds no mount. `lease` gets its id
/// before anybody can reach it.
pub(super) fn mount(
    descriptors: &Descriptors,
    permit: &MountPermit<'_>,
    origin: &mut Origin,
    target: &Location,
    namespace: Option<BorrowedFd<'_>>,
    mut lease: Option<Lease<'_>>,
) -> Result<Attached, ErrorReply> {
    let table = &descriptors.table;
    if table::is_shared(&target.mount) && !permit.shared_target {
        return Err(shared_target(target, permit.grant));
    }
    let directory = match origin {
        Origin::Location(source) => source.status.is_directory(),
        Origin::Nothing | Origin::Device(_) | Origin::Layers(_) | Origin::Image(_) => true,
        // The root is what the target is.
        Origin::Connection(..) => target.status.is_directory(),
    };
    if target.status.is_directory() != directory {
        let wanted = if directory {
            "a directory"
        } else {
            "a regular file"
        };
        return Err(ErrorReply::new(
            ErrorCode::WrongType,
            format!(
                "{} is not {wanted}, as what is mounted there is",
                target.path
            ),
        )
        .at(&target.path));
    }
    let master = origin.location().map_or(Propagation::Private, |source| {
        table::propagation(&source.mount)
    });
    if permit.propagation == Propagation::Slave && master == Propagation::Private {
        return Err(no_master(&target.path));
    }
    let attributes = permit.attributes | origin.attributes_of_layers();
    let made = build(descriptors, permit, attributes, origin, target, namespace)?;
    if let Some(lease) = &mut lease {
        id_of_detached(table, origin, &made)
            .and_then(|id| lease.name(id))
            .map_err(|errno| failure::kernel("cannot lease", &target.path, errno))?;
    }
    // From here on the deadline must not end this process: what is attached is
    // looked at, however long the attach waited for the target's lock.
    process::deadline(Duration::ZERO)
        .map_err(|errno| failure::kernel("cannot attach a mount at", &target.path, errno))?;
    mount::attach(made.as_fd(), target.as_fd())
        .map_err(|errno| failure::kernel("cannot attach a mount at", &target.path, errno))?;
    match verify(table, permit, attributes, &made, target) {
        Ok(mounted) => {
            if let Some(lease) = lease {
                lease.keep();
            }
            Ok(Attached {
                mounted,
                mount: made,
            })
        }
        Err(error) => Err(roll_back(error, &target.path)),
    }
}

fn id_of_detached(table: &Table, origin: &Origin, made: &OwnedFd) -> Result<u64, Errno> {
    match origin {
        Origin::Connection(..) => match mount::id_of_hidden(made.as_fd()) {
            // A kernel that is too old.
            Err(Errno::EINVAL) => Err(Errno::EOPNOTSUPP),
            other => other,
        },
        _ => Ok(table.status(made.as_fd())?.mount),
    }
}

/// A mount that was made, attached and looked at.
pub(super) struct Attached {
    pub(super) mounted: Mounted,
    /// Its root, in the slot from which it can be taken back.
    pub(super) mount: OwnedFd,
}

/// Fails when the target's name leads elsewhere by now: most often another
/// connection mounted there after the target was opened. Attaching would put a
/// second mount on top.
pub(super) fn still_there(place: &Place<'_>, target: &Location) -> Result<(), ErrorReply> {
    let now = place.look()?;
    let then = (target.status.mount, target.status.is_mount_root);
    if (now.mount, now.is_mount_root) == then {
        return Ok(());
    }
    let path = &target.path;
    let message = format!("what is mounted at {path} changed while the request ran");
    Err(ErrorReply::new(ErrorCode::Changed, message).at(path))
}

/// Fails when another mount covers `path`, or a directory above it, on the mount `on`:
/// what was passed was opened before, and no path leads there now. Attaching to it
/// could put a second mount on top, and a copy of it show what was hidden.
pub(super) fn not_covered(table: &Table, on: u64, path: &AbsPath) -> Result<(), ErrorReply> {
    let mut cover = None;
    table
        .walk(on, 0, |mount| {
            let point = AbsPath::from_bytes(&mount.point).ok();
            let covers = point.is_some_and(|point| *path == point || path.is_beneath(&point));
            if mount.parent == on && covers {
                cover = MountId::try_from(mount.id).ok();
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .map_err(|errno| failure::kernel("cannot look for mounts on", path, errno))?;
    let Some(cover) = cover else { return Ok(()) };
    let message = format!("a mount covers what was passed for {path}: open that path anew");
    Err(ErrorReply::new(ErrorCode::Busy, message)
        .at(path)
        .mount(cover))
}

/// Makes the mount, detached: nobody else can reach it, and it has every
/// attribute before anybody can.
fn build(
    descriptors: &Descriptors,
    permit: &MountPermit<'_>,
    attributes: MountAttributes,
    origin: &mut Origin,
    target: &Location,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, ErrorReply> {
    let (table, locking) = (&descriptors.table, descriptors.locking.as_ref());
    let path = &target.path;
    let failed = |what: &'static str| move |errno| failure::kernel(what, path, errno);
    let (made, recursive) = match (&permit.kind, origin) {
        (PermittedKind::Bind { recursive, .. }, Origin::Location(source)) => {
            let clone = mount::clone_tree(source.as_fd(), *recursive).map_err(|errno| {
                failure::kernel("cannot make a detached copy of", &source.path, errno)
            })?;
            (clone, *recursive)
        }
        (PermittedKind::Tmpfs { .. }, Origin::Nothing) => {
            let made = filesystem::tmpfs(&permit.kind, attributes)
                .map_err(failed("cannot make the tmpfs for"))?;
            (made, false)
        }
        (
            PermittedKind::Block {
                device: name,
                filesystem,
                options,
            },
            Origin::Device(device),
        ) => {
            let made = filesystem::block(table, device, name, filesystem, options, attributes)?;
            (made, false)
        }
        (PermittedKind::Fuse(fuse), Origin::Connection(_, device)) => {
            let root_mode = target.status.mode;
            let made = filesystem::fuse(fuse, device.as_ref(), root_mode, path, attributes)?;
            (made, false)
        }
        (PermittedKind::Overlay(overlay), Origin::Layers(layers)) => {
            let made = filesystem::overlay(overlay, layers, path, attributes)?;
            (made, false)
        }
        (
            PermittedKind::Image {
                filesystem,
                loop_devices,
                ..
            },
            Origin::Image(image),
        ) => {
            let device = loop_devices.zip(locking);
            let made = filesystem::image(table, image, *filesystem, device, attributes)?;
            (made, false)
        }
        (PermittedKind::Network { .. }, Origin::Nothing) => {
            (filesystem::network(&permit.kind, path, attributes)?, false)
        }
        _ => return Err(failed("no origin for")(Errno::EINVAL)),
    };
    let made = in_slot(made, Slot::Mount).map_err(failed("cannot keep the mount for"))?;
    let propagation = table::propagation_bit(permit.propagation);
    let restrictions = table::kernel_bits(attributes);
    mount::restrict_mapped(
        made.as_fd(),
        restrictions,
        propagation,
        recursive,
        namespace,
    )
    .map_err(|errno| match namespace {
        None => failed("cannot restrict the mount for")(errno),
        Some(_) => idmap::failed(permit.bound(), errno),
    })?;
    Ok(made)
}

/// Looks at what was attached: it is [`placed`], with its attributes, and nowhere else.
fn verify(
    table: &Table,
    permit: &MountPermit<'_>,
    attributes: MountAttributes,
    made: &OwnedFd,
    target: &Location,
) -> Result<Mounted, ErrorReply> {
    let path = &target.path;
    let failed = |errno| failure::kernel("cannot examine what was attached at", path, errno);
    let id = table.status(made.as_fd()).map_err(failed)?.mount;
    let mut status = placed(table, id, target)?;
    // The kernel shares what is attached to a shared mount. Of what is to be shared
    // anyway, only the target tells.
    let spread = match permit.propagation {
        Propagation::Shared => &table.status_of_mount(status.parent).map_err(failed)?,
        Propagation::Private | Propagation::Slave => &status,
    };
    if table::is_shared(spread) && !permit.shared_target {
        return Err(shared_target(target, permit.grant));
    }
    if table::propagation(&status) != permit.propagation {
        let propagation = table::propagation_bit(permit.propagation);
        mount::restrict(made.as_fd(), 0, propagation, true).map_err(failed)?;
        status = table.status_of_mount(id).map_err(failed)?;
    }
    let spreads_as_asked = table::propagation(&status) == permit.propagation;
    let maps_as_asked = permit.idmap.is_none() || table::is_idmapped(&status);
    if !(table::attributes(&status).contains(attributes) && spreads_as_asked && maps_as_asked) {
        return Err(ErrorReply::new(
            ErrorCode::Failed,
            format!("the kernel did not give the mount at {path} the attributes that it must have"),
        )
        .at(path));
    }
    described(&status, Outcome::Mounted, path)
}

/// The mount, which lies where it was granted, on the mount that was checked.
pub(super) fn placed(table: &Table, id: u64, target: &Location) -> Result<MountStatus, ErrorReply> {
    let path = &target.path;
    let status = table.status_of_mount(id).map_err(|errno| match errno {
        Errno::ENOENT => ErrorReply::new(
            ErrorCode::Changed,
            format!("the mount at {path} was ended again while the request ran"),
        )
        .at(path),
        other => failure::kernel("cannot examine what was attached at", path, other),
    })?;
    if status.parent != target.mount.id {
        return Err(ErrorReply::new(
            ErrorCode::Changed,
            format!("another mount was placed at {path} while the request ran"),
        )
        .at(path));
    }
    if status.point != path.as_bytes() {
        return Err(renamed(path));
    }
    Ok(status)
}

/// Takes back what was attached: that mount, by its descriptor, and no other.
pub(super) fn roll_back(mut error: ErrorReply, path: &AbsPath) -> ErrorReply {
    // EINVAL: it is attached nowhere (`umount(2)`), because what it was attached to
    // was itself unmounted.
    if let Err(errno) = mount::detach_slot(Slot::Mount)
        && errno != Errno::EINVAL
    {
        error.code = ErrorCode::Failed;
        error.message = format!(
            "{}; and the mount could not be taken back ({}): look at {path}",
            error.message,
            errno.desc()
        );
    }
    error
}

fn renamed(path: &AbsPath) -> ErrorReply {
    let message = format!("{path}, or a directory above it, was renamed while the request ran");
    ErrorReply::new(ErrorCode::Changed, message).at(path)
}

/// The mount as the client is told of it: at the path that it asked for, if it was there
/// when it was looked at.
pub(super) fn described(
    status: &MountStatus,
    outcome: Outcome,
    path: &AbsPath,
) -> Result<Mounted, ErrorReply> {
    match table::info(status) {
        Some(mount) if mount.target != *path => Err(renamed(path)),
        Some(mount) => Ok(Mounted { outcome, mount }),
        None => Err(failure::kernel(
            "cannot describe the mount at",
            path,
            Errno::EPROTO,
        )),
    }
}

/// A slave without a master is private (`mount_namespaces(7)`).
fn no_master(path: &AbsPath) -> ErrorReply {
    ErrorReply::new(
        ErrorCode::Unsupported,
        format!(
            "a slave at {path} would get nothing: only a bind of a source on a mount that is shared, \
             or a slave itself, can be one; ask for a private mount"
        ),
    )
    .at(path)
}

fn shared_target(target: &Location, grant: &str) -> ErrorReply {
    let path = &target.path;
    let error = ErrorReply {
        reason: Some(DenyReason::SharedTarget),
        ..ErrorReply::new(
            ErrorCode::Denied,
            format!(
                "{path} lies on a mount that is shared with other mount namespaces, where this \
                 mount would appear too: make it private, or set `shared_target = true` in the \
                 grant \"{grant}\""
            ),
        )
    };
    match MountId::try_from(target.mount.id) {
        Ok(id) => error.at(path).mount(id),
        Err(_) => error.at(path),
    }
}
