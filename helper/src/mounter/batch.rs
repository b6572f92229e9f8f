//! The mounts of a batch: each is held as a leased one is, until all are there.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use mountwarden_protocol::{Batch, MountInfo, Operation, Outcome, Reply};

use super::{Ended, Worker};
use crate::audit;
use crate::order::OrderReply;

/// How many requests it counts as to take a mount back: the fork takes about as long
/// as so many.
const TAKING_BACK_WEIGHT: u32 = 5;

impl Worker<'_> {
    /// Makes one more mount of the batch.
    pub(super) fn entry(
        &mut self,
        operation: &Operation,
        number: u32,
        files: Vec<OwnedFd>,
    ) -> Result<OrderReply, Ended> {
        let taken = matches!(operation, Operation::Mount(mount) if Batch::check(mount, 0).is_ok());
        if !taken {
            return Err(Ended::Violation("a batch does not hold such an operation"));
        }
        let done = self.perform(operation, Some(number), files)?;
        if let OrderReply::Done(Reply::Mounted(mounted)) = &done
            && mounted.outcome == Outcome::Mounted
        {
            self.batch.push(mounted.mount.clone());
        }
        Ok(done)
    }

    /// Has what the batch mounted stay, all at once.
    pub(super) fn keep(&mut self) -> Result<OrderReply, Ended> {
        self.lessee.keep()?;
        let made = std::mem::take(&mut self.batch);
        audit::batch(self.context.peer, made.len(), None).map_err(Ended::Audit)?;
        Ok(OrderReply::Taken)
    }

    /// Has what the batch mounted ended, the last first.
    pub(super) fn take_back(&mut self) -> Result<OrderReply, Ended> {
        let made = std::mem::take(&mut self.batch);
        let mut left = Vec::new();
        for MountInfo { id, target, .. } in made.iter().rev() {
            self.lessee.end((*id).into())?;
            if self.descriptors.table.is_left((*id).into(), target) {
                left.push(*id);
            }
            let now = self.context.started.elapsed();
            self.context.budget.charge(now, TAKING_BACK_WEIGHT);
        }
        audit::batch(self.context.peer, made.len(), Some(left.len())).map_err(Ended::Audit)?;
        Ok(OrderReply::TakenBack { left })
    }
}
