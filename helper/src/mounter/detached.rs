//! Mounts that are handed over: made as every bind is, and then attached nowhere here.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::{DetachPermit, IdMaps};
use mountwarden_protocol::{DenyReason, Detached, ErrorReply, MountId};
use nix::errno::Errno;

use super::idmap::{self, Mapping, take_namespace};
use super::location::{Location, Purpose, in_slot};
use super::{Ended, Handed, Worker};
use crate::failure;
use crate::sys::mount;
use crate::sys::pinned::Slot;
use crate::table;

/// A mount, what the client gets with it, and what it maps.
type Made = (Detached, Handed, Option<IdMaps>);

impl Worker<'_> {
    pub(super) fn detach(
        &self,
        permit: &DetachPermit<'_>,
        mut files: Vec<OwnedFd>,
    ) -> Result<Result<Made, ErrorReply>, Ended> {
        let namespace = take_namespace(&mut files, permit.idmap.as_ref())?;
        // The first two keep the source in its slot.
        let Ok([_above, _target, source]) = <[OwnedFd; 3]>::try_from(files) else {
            return Err(Ended::Violation(
                "a detached mount takes its source three times",
            ));
        };
        let idmap = permit.idmap.as_ref();
        let mapping = self.mapping(namespace, idmap, &permit.source, permit.grant);
        Ok(mapping.and_then(|mapping| self.detached(permit, source, mapping)))
    }

    fn detached(
        &self,
        permit: &DetachPermit<'_>,
        source: OwnedFd,
        mapping: Option<Mapping>,
    ) -> Result<Made, ErrorReply> {
        let (path, recursive) = (&permit.source, permit.recursive);
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        let purpose = Purpose::Use { passed: false };
        let source = Location::check(table, own, Slot::Source, source, path, purpose)?;
        source.check_owner(permit.owner, DenyReason::SourceNotOwned)?;
        source.check_shareable()?;
        if recursive {
            source.check_shareable_beneath(table)?;
        }
        let failed = |what: &'static str| move |errno| failure::kernel(what, path, errno);
        let made = mount::clone_tree(source.as_fd(), recursive)
            .and_then(|made| in_slot(made, Slot::Mount))
            .map_err(failed("cannot make a detached copy of"))?;
        let restrictions = table::kernel_bits(permit.attributes);
        let namespace = mapping.as_ref().map(|mapping| mapping.namespace.as_fd());
        mount::restrict_mapped(
            made.as_fd(),
            restrictions,
            libc::MS_PRIVATE,
            recursive,
            namespace,
        )
        .map_err(|errno| match namespace {
            None => failed("cannot restrict the mount of")(errno),
            Some(_) => idmap::failed(path, errno),
        })?;
        let locking = self.descriptors.locking.as_ref();
        let locked = locking
            .ok_or(Errno::ENOTCONN)
            .and_then(|locking| locking.lock(made.as_fd(), restrictions))
            .map_err(failed("cannot lock the flags of the mount of"))?;
        let status = table
            .status(locked.as_fd())
            .map_err(failed("cannot examine the mount of"))?;
        let id = MountId::try_from(status.mount)
            .map_err(|_| failed("cannot describe the mount of")(Errno::EPROTO))?;
        let detached = Detached {
            id,
            // A copy keeps those of what its source lies on.
            attributes: table::attributes(&source.mount) | permit.attributes,
        };
        let handed = Handed {
            descriptor: locked,
            attached: None,
        };
        Ok((detached, handed, mapping.map(|mapping| mapping.maps)))
    }
}
