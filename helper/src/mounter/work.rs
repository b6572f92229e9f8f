//! The work of a mounter: each piece under the lock of its place, by descriptors that
//! have been checked.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::{MountPermit, RemountPermit, UnmountPermit};
use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, MountInfo, Passed, Unmounted,
};
use nix::errno::Errno;

use super::directory::{Place, Spot};
use super::files::Files;
use super::idmap::{Mapping, take_namespace};
use super::location::{Location, Purpose, refuse};
use super::lock::{Named, TargetLock};
use super::mount::{self, Attached};
use super::origin::{Origin, Unchecked};
use super::{Ended, Handed, Made, Worker, existing, remount, unmount};
use crate::failure;
use crate::leases::{Lease, NoLease, Term};
use crate::sys::pinned::Slot;
use crate::table::Source;

impl Worker<'_> {
    pub(super) fn mount(
        &self,
        permit: &MountPermit<'_>,
        in_batch: bool,
        mut files: Vec<OwnedFd>,
    ) -> Result<Result<Made, ErrorReply>, Ended> {
        let namespace = take_namespace(&mut files, permit.idmap.as_ref())?;
        let files = Files::of(Some(&permit.kind), &permit.target, permit.passed, files)?;
        let term = match (permit.lease, in_batch) {
            (true, _) => Some(Term::Connection),
            (false, true) => Some(Term::Batch),
            (false, false) => None,
        };
        let (idmap, path) = (permit.idmap.as_ref(), permit.bound());
        let mapping = self.mapping(namespace, idmap, path, permit.grant);
        Ok(mapping.and_then(|mapping| self.locked_mount(permit, term, files, mapping)))
    }

    fn locked_mount(
        &self,
        permit: &MountPermit<'_>,
        term: Option<Term>,
        files: Files<'_>,
        mapping: Option<Mapping>,
    ) -> Result<Made, ErrorReply> {
        let Files {
            directory,
            target,
            origin,
        } = files;
        let (table, path) = (&self.descriptors.table, &permit.target);
        let passed = permit.passed.contains(Passed::TARGET);
        let _lock = self.lock(if passed { &target } else { &directory }, path, passed)?;
        let spot = if passed {
            Spot::Passed { _slot: directory }
        } else {
            Spot::Named(Box::new(self.place(directory, path)?))
        };
        let (target, mut origin) = self.locations(&spot, path, target, origin)?;
        if target.status.is_mount_root {
            if self.lessee.is_of_batch(target.mount.id) {
                return Err(existing::unfinished(&target));
            }
            let mounted = existing::same(table, permit, &origin, &target)?;
            return Ok(Made {
                mounted,
                handed: None,
                maps: None,
            });
        }
        target.check_owner(permit.target_owner, DenyReason::TargetNotOwned)?;
        let lease = term.map(|term| self.hold(path, &spot, term)).transpose()?;
        if !matches!(origin, Origin::Location(_) | Origin::Nothing) {
            // The context takes its number.
            drop(spot);
        }
        let reserved = self.reserve(&target)?;
        let namespace = mapping.as_ref().map(|mapping| mapping.namespace.as_fd());
        let Attached { mounted, mount } = mount::mount(
            &self.descriptors,
            permit,
            &mut origin,
            &target,
            namespace,
            lease,
        )?;
        reserved.keep();
        let handed = match origin {
            Origin::Connection(descriptor, _) => Some(Handed {
                descriptor,
                attached: Some((mounted.mount.id, mount)),
            }),
            _ => None,
        };
        Ok(Made {
            mounted,
            handed,
            maps: mapping.map(|mapping| mapping.maps),
        })
    }

    /// Has the warden hold where the mount will be, which may end before it is asked to.
    fn hold(&self, path: &AbsPath, spot: &Spot<'_>, term: Term) -> Result<Lease<'_>, ErrorReply> {
        let Spot::Named(place) = spot else {
            let why = "cannot be leased by a descriptor: its end needs the directory above it";
            return Err(refuse(ErrorCode::Unsupported, path, why));
        };
        if self.context.source == Source::Mountinfo {
            let message = format!(
                "a mount at {path} cannot be leased or part of a batch here: this kernel's mounts \
                 have no unique ids (Linux 6.8), and another mount could be ended in its stead"
            );
            return Err(ErrorReply::new(ErrorCode::Unsupported, message).at(path));
        }
        place.directory().check_shareable()?;
        let lease = self.lessee.take(place.directory().as_fd(), term);
        lease.map_err(|refused| match refused {
            NoLease::Kernel(errno) => failure::kernel("cannot lease", path, errno),
            refused => ErrorReply::new(ErrorCode::LimitReached, refused.to_string()).at(path),
        })
    }

    pub(super) fn unmount(
        &self,
        permit: &UnmountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<Unmounted, ErrorReply>, Ended> {
        let mut files = files.into_iter();
        let unmounted = match (permit.passed, files.next(), files.next(), files.next()) {
            (false, Some(directory), None, None) => self.locked_unmount(permit, directory),
            (true, Some(_), Some(root), None) => self.locked_unmount_of(permit, root),
            (false, ..) => return Err(Ended::Violation("an unmount takes one descriptor")),
            (true, ..) => {
                return Err(Ended::Violation("a passed unmount takes its target twice"));
            }
        };
        if let Ok(unmounted) = &unmounted {
            self.lessee.give_back(unmounted.id.into());
        }
        Ok(unmounted)
    }

    fn locked_unmount(
        &self,
        permit: &UnmountPermit<'_>,
        directory: OwnedFd,
    ) -> Result<Unmounted, ErrorReply> {
        let _lock = self.lock(&directory, &permit.target, false)?;
        let place = self.place(directory, &permit.target)?;
        let unmounted = unmount::unmount(&self.descriptors.table, &place, permit.id, permit.lazy)?;
        self.context.mounts.release();
        Ok(unmounted)
    }

    fn locked_unmount_of(
        &self,
        permit: &UnmountPermit<'_>,
        root: OwnedFd,
    ) -> Result<Unmounted, ErrorReply> {
        let _lock = self.lock(&root, &permit.target, true)?;
        let unmounted = unmount::unmount_passed(&self.descriptors.table, permit, root)?;
        self.context.mounts.release();
        Ok(unmounted)
    }

    pub(super) fn remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<MountInfo, ErrorReply>, Ended> {
        let kind = permit.lift.as_ref().map(|lift| &lift.kind);
        let files = Files::of(kind, &permit.target, Passed::empty(), files)?;
        Ok(self.locked_remount(permit, files))
    }

    fn locked_remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Files<'_>,
    ) -> Result<MountInfo, ErrorReply> {
        let path = &permit.target;
        let _lock = self.lock(&files.directory, path, false)?;
        let place = self.place(files.directory, path)?;
        let id = place.mounted(permit.id)?;
        let spot = Spot::Named(Box::new(place));
        let (target, origin) = self.locations(&spot, path, files.target, files.origin)?;
        let table = &self.descriptors.table;
        remount::remount(table, permit, id, &origin, &target)
    }

    pub(super) fn place<'a>(
        &'a self,
        directory: OwnedFd,
        path: &'a AbsPath,
    ) -> Result<Place<'a>, ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        Place::check(table, own, directory, path)
    }

    /// The target, which is what lies at its path, and what is mounted there.
    pub(super) fn locations(
        &self,
        spot: &Spot<'_>,
        path: &AbsPath,
        target: OwnedFd,
        origin: Unchecked<'_>,
    ) -> Result<(Location, Origin), ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        let passed = matches!(spot, Spot::Passed { .. });
        let purpose = Purpose::UseOrCompare { passed };
        let target = Location::check(table, own, Slot::Target, target, path, purpose)?;
        let origin = origin.check(table, own)?;
        spot.check(table, &target)?;
        Ok((target, origin))
    }

    /// Waits until no other mounter works at the place. All else is looked at
    /// afterwards: the wait may be long.
    ///
    /// `file` is the directory above the target or, where it was `passed`, the target.
    fn lock(
        &self,
        file: &OwnedFd,
        target: &AbsPath,
        passed: bool,
    ) -> Result<TargetLock<'_>, ErrorReply> {
        self.named(file, target, passed)
            .and_then(|place| TargetLock::take(self.descriptors.lock.as_fd(), &[place]))
            .map_err(|errno| failure::kernel("cannot lock", target, errno))
    }

    /// The place, as its lock knows it.
    pub(super) fn named<'p>(
        &self,
        file: &OwnedFd,
        target: &'p AbsPath,
        passed: bool,
    ) -> Result<Named<'p>, Errno> {
        let table = &self.descriptors.table;
        let status = table.status(file.as_fd())?;
        let root = (passed && status.is_mount_root)
            .then(|| table.status_of_mount(status.mount).ok())
            .flatten();
        Ok(Named {
            mount: root.map_or(status.mount, |mount| mount.parent),
            directory: (!passed).then_some(status),
            name: target.split().map_or(&[][..], |(_, name)| name),
        })
    }
}
