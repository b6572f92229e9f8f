//! Mounting: built detached, restricted while detached, attached last, looked
//! at again.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mountwarden_policy::{MountPermit, PermittedKind};
use mountwarden_protocol::{AbsPath, DenyReason, ErrorCode, ErrorReply, MountId, Mounted, Outcome};
use nix::errno::Errno;

use super::directory::Place;
use super::location::{Location, in_slot};
use crate::failure;
use crate::leases::Lease;
use crate::sys::mount::{self, MountStatus};
use crate::sys::pinned::Slot;
use crate::sys::{pinned, process};
use crate::table::{self, Table};

/// Mounts what `permit` says at `target`, which holds no mount. `lease` sees to its end
/// before anybody can reach it.
pub(super) fn mount<'a>(
    table: &Table,
    permit: &MountPermit<'_>,
    source: Option<&Location>,
    target: &Location,
    lease: impl FnOnce(&OwnedFd) -> Result<Option<Lease<'a>>, ErrorReply>,
) -> Result<Mounted, ErrorReply> {
    if table::is_shared(&target.mount) && !permit.shared_target {
        return Err(shared_target(target, permit.grant));
    }
    let directory = source.is_none_or(|source| source.status.is_directory());
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
    let made = build(permit, source, &target.path)?;
    let lease = lease(&made)?;
    // From here on the deadline must not end this process: what is attached is
    // looked at, however long the attach waited for the target's lock.
    process::deadline(Duration::ZERO)
        .map_err(|errno| failure::kernel("cannot attach a mount at", &target.path, errno))?;
    mount::attach(made.as_fd(), target.as_fd())
        .map_err(|errno| failure::kernel("cannot attach a mount at", &target.path, errno))?;
    match verify(table, permit, &made, target) {
        Ok(mounted) => {
            if let Some(lease) = lease {
                lease.keep();
            }
            Ok(mounted)
        }
        Err(error) => Err(roll_back(error, &target.path)),
    }
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

/// Makes the mount, detached: nobody else can reach it, and it has every
/// attribute before anybody can.
fn build(
    permit: &MountPermit<'_>,
    source: Option<&Location>,
    target: &AbsPath,
) -> Result<OwnedFd, ErrorReply> {
    let attributes = table::kernel_bits(permit.attributes);
    let failed = |what: &'static str| move |errno| failure::kernel(what, target, errno);
    let (made, recursive) = match (&permit.kind, source) {
        (PermittedKind::Bind { recursive, .. }, Some(source)) => {
            let clone = mount::clone_tree(source.as_fd(), *recursive).map_err(|errno| {
                failure::kernel("cannot make a detached copy of", &source.path, errno)
            })?;
            (clone, *recursive)
        }
        (PermittedKind::Tmpfs { .. }, _) => (
            tmpfs(permit, attributes).map_err(failed("cannot make the tmpfs for"))?,
            false,
        ),
        (PermittedKind::Bind { .. }, None) => return Err(failed("no source for")(Errno::EINVAL)),
    };
    let made = in_slot(made, Slot::Mount).map_err(failed("cannot keep the mount for"))?;
    mount::restrict(made.as_fd(), attributes, recursive)
        .map_err(failed("cannot restrict the mount for"))?;
    Ok(made)
}

/// A detached tmpfs, every value set by a call of its own.
fn tmpfs(permit: &MountPermit<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    let PermittedKind::Tmpfs {
        size,
        inodes,
        mode,
        uid,
        gid,
    } = permit.kind
    else {
        return Err(Errno::EINVAL);
    };
    let context = mount::open_tmpfs()?;
    let [source, size_key, inodes_key, mode_key, uid_key, gid_key] = pinned::TMPFS_KEYS;
    mount::set_source(context.as_fd(), source)?;
    for (key, value) in [
        (size_key, size.get().to_string()),
        (inodes_key, inodes.get().to_string()),
        (mode_key, format!("{:o}", mode.bits())),
        (uid_key, uid.to_string()),
        (gid_key, gid.to_string()),
    ] {
        let value = CString::new(value).map_err(|_| Errno::EINVAL)?;
        mount::set_option(context.as_fd(), key, &value)?;
    }
    mount::create_filesystem(context.as_fd())?;
    mount::mount_filesystem(context.as_fd(), attributes)
}

/// Looks at what was attached: it lies where it was granted, on the mount that
/// was checked, with its attributes, and nowhere else.
fn verify(
    table: &Table,
    permit: &MountPermit<'_>,
    made: &OwnedFd,
    target: &Location,
) -> Result<Mounted, ErrorReply> {
    let path = &target.path;
    let failed = |errno| failure::kernel("cannot examine what was attached at", path, errno);
    let id = table.status(made.as_fd()).map_err(failed)?.mount;
    let mut status = table.status_of_mount(id).map_err(|errno| match errno {
        Errno::ENOENT => ErrorReply::new(
            ErrorCode::Changed,
            format!("the mount at {path} was ended again while the request ran"),
        )
        .at(path),
        other => failed(other),
    })?;
    if status.parent != target.mount.id {
        return Err(ErrorReply::new(
            ErrorCode::Changed,
            format!("another mount was placed at {path} while the request ran"),
        )
        .at(path));
    }
    if status.point != path.as_bytes() {
        return Err(ErrorReply::new(
            ErrorCode::Changed,
            format!("{path}, or a directory above it, was renamed while the request ran"),
        )
        .at(path));
    }
    if table::is_shared(&status) {
        if !permit.shared_target {
            return Err(shared_target(target, permit.grant));
        }
        // The kernel shares what is attached to a shared mount; what is mounted
        // on ours is nobody else's.
        mount::restrict(made.as_fd(), 0, true).map_err(failed)?;
        status = table.status_of_mount(id).map_err(failed)?;
    }
    if !table::attributes(&status).contains(permit.attributes) || table::is_shared(&status) {
        return Err(ErrorReply::new(
            ErrorCode::Failed,
            format!("the kernel did not give the mount at {path} the attributes that it must have"),
        )
        .at(path));
    }
    described(&status, Outcome::Mounted, path)
}

/// Takes back what was attached: that mount, by its descriptor, and no other.
fn roll_back(mut error: ErrorReply, path: &AbsPath) -> ErrorReply {
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

/// The mount as the client is told of it.
pub(super) fn described(
    status: &MountStatus,
    outcome: Outcome,
    path: &AbsPath,
) -> Result<Mounted, ErrorReply> {
    match table::info(status) {
        Some(mount) => Ok(Mounted { outcome, mount }),
        None => Err(failure::kernel(
            "cannot describe the mount at",
            path,
            Errno::EPROTO,
        )),
    }
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
