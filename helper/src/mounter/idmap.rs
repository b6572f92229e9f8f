//! ID-mapped mounts: whose files they show as whose is what a user namespace of the peer
//! maps, and the grant allows.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::{IdMaps, PermittedIdmap};
use mountwarden_protocol::{AbsPath, DenyReason, ErrorCode, ErrorReply};
use nix::errno::Errno;

use super::{Ended, Worker};
use crate::failure;
use crate::locker::{Refused, Unfit};

/// A namespace that was proven, and what it maps.
pub(super) struct Mapping {
    pub(super) namespace: OwnedFd,
    pub(super) maps: IdMaps,
}

/// Takes the namespace from the end of what an order brings, where one is permitted. What
/// comes before it only fills the slot in which the new mount will be.
pub(super) fn take_namespace(
    files: &mut Vec<OwnedFd>,
    permitted: Option<&PermittedIdmap>,
) -> Result<Option<OwnedFd>, Ended> {
    if permitted.is_none() {
        return Ok(None);
    }
    match (files.pop(), files.pop()) {
        (Some(namespace), Some(_filler)) => Ok(Some(namespace)),
        _ => Err(Ended::Violation(
            "an ID-mapped mount takes a user namespace",
        )),
    }
}

impl Worker<'_> {
    /// Has the locker find out whose a namespace is and what it maps, and holds that to
    /// the grant.
    pub(super) fn mapping(
        &self,
        namespace: Option<OwnedFd>,
        permitted: Option<&PermittedIdmap>,
        source: &AbsPath,
        grant: &str,
    ) -> Result<Option<Mapping>, ErrorReply> {
        let (Some(namespace), Some(permitted)) = (namespace, permitted) else {
            return Ok(None);
        };
        let locking = self.descriptors.locking.as_ref();
        let maps = locking
            .ok_or(Refused::Kernel(Errno::ENOTCONN))
            .and_then(|locking| locking.maps(namespace.as_fd(), permitted.owner))
            .map_err(|why| unusable(why, source))?;
        permitted.check(&maps, source, grant)?;
        Ok(Some(Mapping { namespace, maps }))
    }
}

fn unusable(why: Refused, source: &AbsPath) -> ErrorReply {
    let (code, reason, why) = match why {
        Refused::Kernel(errno) => {
            return failure::kernel("cannot examine the user namespace for", source, errno);
        }
        Refused::Unfit(Unfit::NoNamespace) => (
            ErrorCode::WrongType,
            None,
            "is no namespace: pass /proc/PID/ns/user",
        ),
        Refused::Unfit(Unfit::OtherKind) => (
            ErrorCode::WrongType,
            None,
            "is a namespace of another kind: pass /proc/PID/ns/user",
        ),
        Refused::Unfit(Unfit::Own) => (
            ErrorCode::Denied,
            Some(DenyReason::NamespaceNotOwned),
            "is the one that the helper itself is in: make one of your own",
        ),
        Refused::Unfit(Unfit::NotOwned) => (
            ErrorCode::Denied,
            Some(DenyReason::NamespaceNotOwned),
            "was made by another user: make one of your own",
        ),
        Refused::Unfit(Unfit::Nested) => (
            ErrorCode::Unsupported,
            None,
            "was not made in the one that the helper is in: its map says nothing there",
        ),
        Refused::Unfit(Unfit::Unmapped) => (
            ErrorCode::Unsupported,
            None,
            "has no uid_map or no gid_map yet: write both first",
        ),
        Refused::Unfit(Unfit::TooLong) => (
            ErrorCode::Unsupported,
            None,
            "maps more than 31 ranges of users or of groups",
        ),
    };
    let message = format!("the user namespace for {source} {why}");
    ErrorReply {
        reason,
        ..ErrorReply::new(code, message).at(source)
    }
}

/// Why the kernel does not map a mount (`mount_setattr(2)`).
pub(super) fn failed(source: &AbsPath, errno: Errno) -> ErrorReply {
    let why = match errno {
        Errno::EINVAL => {
            "its file system, or one that is mounted beneath it, maps no ids on this kernel \
             (mount_setattr(2))"
        }
        Errno::EPERM => {
            "it lies on a mount that is ID-mapped already, or on a file system that belongs to \
             another user namespace: bind it from where it is mounted without a map"
        }
        _ => return failure::kernel("cannot map the ids of", source, errno),
    };
    let message = format!("{source} cannot be ID-mapped: {why}");
    ErrorReply::new(ErrorCode::Unsupported, message)
        .at(source)
        .errno(failure::number(errno))
}
