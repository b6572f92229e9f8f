//! The descriptors that an order brings.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use mountwarden_policy::PermittedKind;
use mountwarden_protocol::AbsPath;

use super::Ended;
use super::origin::Unchecked;

/// The descriptors of a mount or a remount.
pub(super) struct Files<'a> {
    pub(super) directory: OwnedFd,
    pub(super) target: OwnedFd,
    pub(super) origin: Unchecked<'a>,
}

impl<'a> Files<'a> {
    /// Those that an order about this kind brings.
    pub(super) fn of(
        kind: Option<&'a PermittedKind>,
        target: &'a AbsPath,
        files: Vec<OwnedFd>,
    ) -> Result<Self, Ended> {
        let mut files = files.into_iter();
        let (Some(directory), Some(at_target)) = (files.next(), files.next()) else {
            return Err(Ended::Violation(
                "a mount or remount takes a directory and a target",
            ));
        };
        let Some(origin) = Unchecked::of(kind, target, files) else {
            return Err(Ended::Violation(
                "the descriptors are not those of this kind",
            ));
        };
        Ok(Self {
            directory,
            target: at_target,
            origin,
        })
    }
}
