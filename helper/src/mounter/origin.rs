//! What a mount is made from: the descriptors of an order, each checked for its kind.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use mountwarden_policy::PermittedKind;
use mountwarden_protocol::{AbsPath, DenyReason, ErrorReply, Passed};

use super::device::{self, Device};
use super::location::{Location, Purpose};
use super::mount::not_covered;
use crate::sys::pinned::Slot;
use crate::table::Table;

/// The descriptors that came for an origin, not checked, in the slots from
/// [`Slot::Source`] on.
pub(super) enum Unchecked<'p> {
    Location {
        path: &'p AbsPath,
        owner: Option<u32>,
        passed: bool,
        file: OwnedFd,
    },
    Nothing,
    Device(&'p AbsPath, OwnedFd, OwnedFd),
    Connection(&'p AbsPath, OwnedFd),
}

impl<'p> Unchecked<'p> {
    /// Tells the descriptors of an order apart; `None` when they are not those of this
    /// kind of mount.
    pub(super) fn of(
        kind: Option<&'p PermittedKind>,
        target: &'p AbsPath,
        passed: Passed,
        files: impl IntoIterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let mut files = files.into_iter();
        let unchecked = match kind {
            Some(PermittedKind::Bind { source, owner, .. }) => Self::Location {
                path: source,
                owner: *owner,
                passed: passed.contains(Passed::SOURCE),
                file: files.next()?,
            },
            Some(PermittedKind::Tmpfs { .. } | PermittedKind::Network { .. }) | None => {
                Self::Nothing
            }
            Some(PermittedKind::Block { device, .. }) => {
                Self::Device(device, files.next()?, files.next()?)
            }
            Some(PermittedKind::Fuse(_)) => Self::Connection(target, files.next()?),
        };
        files.next().is_none().then_some(unchecked)
    }

    pub(super) fn check(self, table: &Table, own: BorrowedFd<'_>) -> Result<Origin, ErrorReply> {
        match self {
            Self::Location {
                path,
                owner,
                passed,
                file,
            } => {
                let purpose = Purpose::Use { passed };
                let source = Location::check(table, own, Slot::Source, file, path, purpose)?;
                if passed {
                    not_covered(table, source.mount.id, path)?;
                }
                source.check_owner(owner, DenyReason::SourceNotOwned)?;
                Ok(Origin::Location(source))
            }
            Self::Nothing => Ok(Origin::Nothing),
            Self::Device(path, file, link) => {
                Device::check(table, own, file, link, path).map(Origin::Device)
            }
            Self::Connection(target, file) => {
                device::connection(table, file, target).map(Origin::Connection)
            }
        }
    }
}

/// What a mount is made from.
pub(super) enum Origin {
    /// A directory or regular file, for a bind.
    Location(Location),
    /// A tmpfs, or a network file system.
    Nothing,
    /// A device with a file system.
    Device(Device),
    /// What a FUSE file system is served on.
    Connection(OwnedFd),
}

impl Origin {
    /// The directory or file of a bind.
    pub(super) fn location(&self) -> Option<&Location> {
        match self {
            Self::Location(location) => Some(location),
            _ => None,
        }
    }
}
