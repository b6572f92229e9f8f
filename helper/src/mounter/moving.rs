//! Moving: the mount whose root came with the order, from one granted place to another.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mountwarden_policy::MovePermit;
use mountwarden_protocol::{AbsPath, DenyReason, ErrorCode, ErrorReply, MountId, MountInfo};
use nix::errno::Errno;

use super::directory::Spot;
use super::location::{Location, Purpose, in_slot, refuse};
use super::lock::TargetLock;
use super::mount::{placed, roll_back};
use super::origin::Unchecked;
use super::unmount::mount_of;
use super::{Ended, Worker};
use crate::failure;
use crate::order::{Order, OrderReply};
use crate::sys::mount::{self, FileStatus, MountStatus};
use crate::sys::pinned::Slot;
use crate::sys::process;
use crate::table;

/// How long a session may take to open a place again.
const REOPENING: Duration = Duration::from_secs(5);

impl Worker<'_> {
    pub(super) fn relocate(
        &self,
        permit: &MovePermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<MountInfo, ErrorReply>, Ended> {
        // The third keeps the root in its slot.
        let Ok([above, target, _source, root]) = <[OwnedFd; 4]>::try_from(files) else {
            return Err(Ended::Violation(
                "a move takes a directory, a target, and the root of a mount twice",
            ));
        };
        Ok(self.locked_move(permit, above, target, root))
    }

    fn locked_move(
        &self,
        permit: &MovePermit<'_>,
        above: OwnedFd,
        target: OwnedFd,
        root: OwnedFd,
    ) -> Result<MountInfo, ErrorReply> {
        let (table, MovePermit { from, to, .. }) = (&self.descriptors.table, permit);
        let failed = |errno| failure::kernel("cannot move the mount at", from, errno);
        let root = in_slot(root, Slot::Mount).map_err(failed)?;
        let _lock = self
            .named(&root, from, true)
            .and_then(|from| Ok([from, self.named(&above, to, false)?]))
            .and_then(|places| TargetLock::take(self.descriptors.lock.as_fd(), &places))
            .map_err(failed)?;
        let status = table.status(root.as_fd()).map_err(failed)?;
        let (id, was) = mount_of(table, &status, from, permit.id)?;
        self.check_mount(permit, id, &was)?;
        let spot = Spot::Named(Box::new(self.place(above, to)?));
        let (target, _) = self.locations(&spot, to, target, Unchecked::Nothing)?;
        check_target(permit, &status, &target)?;
        // As for a mount that is attached: what was moved is looked at.
        process::deadline(Duration::ZERO).map_err(failed)?;
        mount::attach(root.as_fd(), target.as_fd()).map_err(|errno| refused(permit, id, errno))?;
        let moved = placed(table, was.id, &target).and_then(|now| {
            self.check_alone(&was, from)?;
            if now.propagation != was.propagation {
                return Err(shared(to));
            }
            table::info(&now).ok_or_else(|| failed(Errno::EPROTO))
        });
        moved.map_err(|unfit| {
            // What comes next takes its number; that of the directory stays taken.
            drop(target);
            self.move_back(unfit, &root, &was, from)
        })
    }

    /// Whether this mount may leave its place at all.
    fn check_mount(
        &self,
        permit: &MovePermit<'_>,
        id: MountId,
        mount: &MountStatus,
    ) -> Result<(), ErrorReply> {
        let (table, from) = (&self.descriptors.table, &permit.from);
        let failed = |errno| failure::kernel("cannot examine the mount at", from, errno);
        let lacking = permit.attributes.difference(table::attributes(mount));
        if !lacking.is_empty() {
            let message = format!(
                "moving the mount at {from} is refused: it lacks {}, which every mount of your \
                 grant '{}' has",
                lacking.names().join(" and "),
                permit.grant
            );
            return Err(ErrorReply {
                reason: Some(DenyReason::AttributeForced),
                ..ErrorReply::new(ErrorCode::Denied, message)
                    .at(from)
                    .mount(id)
            });
        }
        if self.lessee.is_held(mount.id) {
            let why = "holds a mount that is leased, or of a batch that is not finished: the \
                       helper keeps its place for its end, so it cannot be moved";
            return Err(refuse(ErrorCode::Busy, from, why).mount(id));
        }
        if table::is_shared(&table.status_of_mount(mount.parent).map_err(failed)?) {
            return Err(shared(from));
        }
        self.check_alone(mount, from)
    }

    /// Whether no other mount lies on this one, or beneath it: those would come along.
    fn check_alone(&self, mount: &MountStatus, from: &AbsPath) -> Result<(), ErrorReply> {
        let mut beneath = None;
        let walked = self.descriptors.table.walk(mount.id, 0, |other| {
            if other.id == mount.id {
                return ControlFlow::Continue(());
            }
            beneath = MountId::try_from(other.id).ok();
            ControlFlow::Break(())
        });
        walked.map_err(|errno| failure::kernel("cannot look for mounts on", from, errno))?;
        let Some(other) = beneath else { return Ok(()) };
        let why = "holds a mount with another on it or beneath it, which would leave its place too: \
                   unmount that first";
        Err(refuse(ErrorCode::Busy, from, why).mount(other))
    }

    /// Moves back what is not where it was to go. What it covered before can be opened again,
    /// by the session; if that gives no such place, the mount ends, so as not to stay where
    /// nobody is granted it.
    fn move_back(
        &self,
        unfit: ErrorReply,
        root: &OwnedFd,
        was: &MountStatus,
        from: &AbsPath,
    ) -> ErrorReply {
        let table = &self.descriptors.table;
        let back = self.uncovered(from).and_then(|place| {
            mount::attach(root.as_fd(), place.as_fd())
                .map_err(|errno| failure::kernel("cannot attach it at", from, errno))?;
            placed(table, was.id, &place)
        });
        let Err(why) = back else { return unfit };
        let message = format!(
            "{}; and the mount was ended, because it could not be moved back: {}",
            unfit.message, why.message
        );
        roll_back(ErrorReply::new(ErrorCode::Failed, message).at(from), from)
    }

    /// A place that a mount has just left.
    fn uncovered(&self, path: &AbsPath) -> Result<Location, ErrorReply> {
        let unavailable = || {
            let why = "was not opened again";
            refuse(ErrorCode::Unavailable, path, why)
        };
        let order = &self.descriptors.order;
        let asked = OrderReply::Uncovered(path.clone());
        let answered = order.send(&asked, &[]).and_then(|()| order.wait(REOPENING));
        let (true, Ok((Order::MoveBack, files))) = (answered.unwrap_or(false), order.receive())
        else {
            return Err(unavailable());
        };
        let [file] = <[OwnedFd; 1]>::try_from(files).map_err(|_| unavailable())?;
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        let purpose = Purpose::Use { passed: false };
        let place = Location::check(table, own, Slot::Target, file, path, purpose)?;
        if place.status.is_mount_root {
            return Err(refuse(ErrorCode::Busy, path, "holds another mount by now"));
        }
        Ok(place)
    }
}

/// Whether this mount may come to lie there.
fn check_target(
    permit: &MovePermit<'_>,
    root: &FileStatus,
    target: &Location,
) -> Result<(), ErrorReply> {
    let path = &target.path;
    if target.status.is_mount_root {
        let why = "holds a mount already: unmount that first, or choose another target";
        let error = refuse(ErrorCode::Busy, path, why);
        return Err(match MountId::try_from(target.mount.id) {
            Ok(id) => error.mount(id),
            Err(_) => error,
        });
    }
    target.check_owner(permit.target_owner, DenyReason::TargetNotOwned)?;
    if table::is_shared(&target.mount) {
        return Err(shared(path));
    }
    if target.mount.id == root.mount {
        let why = "lies on the mount that is to be moved there";
        return Err(refuse(ErrorCode::InvalidRequest, path, why));
    }
    // Of the root of a file system that hides its files, nothing is known.
    if root.mode != 0 && root.is_directory() != target.status.is_directory() {
        let why = "is not of the type, directory or regular file, of what is mounted";
        return Err(refuse(ErrorCode::WrongType, path, why));
    }
    Ok(())
}

/// The kernel moves nothing from a shared mount (`move_mount(2)`), and would share what is
/// moved to one.
fn shared(path: &AbsPath) -> ErrorReply {
    let why = "lies on a mount that is shared with other mount namespaces, from and to which \
               nothing is moved: unmount it, and mount it at the other place";
    refuse(ErrorCode::Unsupported, path, why)
}

fn refused(permit: &MovePermit<'_>, id: MountId, errno: Errno) -> ErrorReply {
    let MovePermit { from, to, .. } = permit;
    let error = match errno {
        Errno::EINVAL => {
            let message = format!(
                "the kernel does not let the helper move the mount at {from} to {to}: it came with \
                 the mount namespace and is locked there, or only one of the two is a directory"
            );
            ErrorReply::new(ErrorCode::Failed, message)
                .at(from)
                .errno(failure::number(errno))
        }
        _ => failure::kernel("cannot move a mount to", to, errno),
    };
    error.mount(id)
}
