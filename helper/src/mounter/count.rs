//! How many mounts a user has.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;

use super::Worker;
use super::location::Location;
use crate::board::Reserved;
use crate::failure;
use crate::sys::mount::LSMT_ROOT;

impl Worker<'_> {
    /// Takes a place in the user's number of mounts.
    pub(super) fn reserve(&self, target: &Location) -> Result<Reserved<'_>, ErrorReply> {
        let limit = self.context.policy.limits().mounts_per_user;
        let reserved = self.context.mounts.reserve(limit, || self.mounts_of_peer());
        match reserved {
            Ok(Some(place)) => Ok(place),
            Ok(None) => Err(ErrorReply::new(
                ErrorCode::LimitReached,
                format!(
                    "{limit} mounts lie beneath your granted roots, which is the most that \
                     `mounts_per_user` allows: unmount one before you mount at {}",
                    target.path
                ),
            )
            .at(&target.path)),
            Err(errno) => Err(failure::kernel(
                "cannot count mounts for",
                &target.path,
                errno,
            )),
        }
    }

    pub(super) fn targets_of_peer(&self) -> Vec<AbsPath> {
        let context = self.context;
        context.policy.places(context.peer.identity()).targets
    }

    /// Counts in the kernel's table: linear in the number of all mounts, so it
    /// is done once for each user, and again when the limit seems reached.
    fn mounts_of_peer(&self) -> Result<u64, Errno> {
        let roots = self.targets_of_peer();
        let mut count: u64 = 0;
        self.descriptors.table.walk(LSMT_ROOT, 0, |mount| {
            let point = AbsPath::from_bytes(&mount.point).ok();
            if point.is_some_and(|point| roots.iter().any(|root| point.is_beneath(root))) {
                count = count.saturating_add(1);
            }
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }
}
