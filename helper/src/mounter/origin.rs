//! What a mount is made from: the descriptors of an order, each checked for its kind.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use mountwarden_policy::PermittedKind;
use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, FuseSource, MountAttributes, Passed,
};

use super::device::{self, Device};
use super::location::{Location, Purpose, refuse};
use super::mount::not_covered;
use crate::sys::pinned::Slot;
use crate::table::{self, Table};

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
    /// For a target; after a device with what stands at its path, where it is on one.
    Connection(
        &'p AbsPath,
        Option<(&'p AbsPath, OwnedFd, OwnedFd)>,
        OwnedFd,
    ),
    Layers(Vec<(&'p AbsPath, OwnedFd)>),
    Image(&'p AbsPath, OwnedFd),
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
            Some(PermittedKind::Fuse(fuse)) => {
                let device = match &fuse.source {
                    FuseSource::Device { device, .. } => {
                        Some((device, files.next()?, files.next()?))
                    }
                    FuseSource::Subtype | FuseSource::Named(_) => None,
                };
                Self::Connection(target, device, files.next()?)
            }
            Some(PermittedKind::Overlay(overlay)) => {
                let mut layer = |path| Some((path, files.next()?));
                let layers: Option<_> = overlay.directories().map(&mut layer).collect();
                Self::Layers(layers?)
            }
            Some(PermittedKind::Image { file, .. }) => Self::Image(file, files.next()?),
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
            Self::Connection(target, device, file) => {
                let device = device
                    .map(|(path, file, link)| Device::check(table, own, file, link, path))
                    .transpose()?;
                let slot = device.as_ref().map_or(Slot::Source, |_| Slot::Connection);
                let file = device::connection(table, file, slot, target)?;
                Ok(Origin::Connection(file, device))
            }
            Self::Layers(layers) => {
                let layers = Slot::layers().zip(layers);
                let checked = layers
                    .map(|(slot, (path, file))| layer(table, own, Slot::Layer(slot), file, path));
                checked.collect::<Result<_, _>>().map(Origin::Layers)
            }
            Self::Image(path, file) => {
                let purpose = Purpose::Use { passed: false };
                let image = Location::check(table, own, Slot::Source, file, path, purpose)?;
                if image.status.is_regular_file() {
                    Ok(Origin::Image(image))
                } else {
                    Err(refuse(ErrorCode::WrongType, path, "is not a regular file"))
                }
            }
        }
    }
}

fn layer(
    table: &Table,
    own: BorrowedFd<'_>,
    slot: Slot,
    file: OwnedFd,
    path: &AbsPath,
) -> Result<Location, ErrorReply> {
    let layer = Location::check(table, own, slot, file, path, Purpose::Use { passed: false })?;
    layer.check_shareable()?;
    if layer.status.is_directory() {
        Ok(layer)
    } else {
        Err(refuse(ErrorCode::WrongType, path, "is not a directory"))
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
    /// What a FUSE file system is served on, and the device that it is on, if it is on one.
    Connection(OwnedFd, Option<Device>),
    /// The directories of an overlay.
    Layers(Vec<Location>),
    /// A regular file with a file system.
    Image(Location),
}

impl Origin {
    /// The directory or file of a bind.
    pub(super) fn location(&self) -> Option<&Location> {
        match self {
            Self::Location(location) => Some(location),
            _ => None,
        }
    }

    /// What keeps the layers of an overlay safe where they lie. The kernel asks the overlay
    /// alone, which has none of it by itself; that it is only read is its own affair.
    pub(super) fn attributes_of_layers(&self) -> MountAttributes {
        let Self::Layers(layers) = self else {
            return MountAttributes::empty();
        };
        let attributes = layers.iter().map(|layer| table::attributes(&layer.mount));
        attributes
            .collect::<MountAttributes>()
            .difference(MountAttributes::READ_ONLY)
    }
}
