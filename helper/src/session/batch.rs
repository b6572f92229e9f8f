//! A batch: entry by entry, since a target may lie on what an entry before it mounts.
#![forbid(unsafe_code)]

use mountwarden_policy::Verdict;
use mountwarden_protocol::{
    AppliedEntry, Batch, ErrorReply, LeftEntry, MountId, Mounted, NotApplied, Operation, Outcome,
    Reply,
};

use super::{Conversation, Ended};
use crate::order::{ChannelError, Order, OrderReply};

impl Conversation<'_> {
    pub(super) fn apply(&mut self, batch: Batch) -> Result<Reply, Ended> {
        let leases = batch.iter().any(|mount| mount.lease);
        let operations: Vec<_> = Vec::from(batch).into_iter().map(Operation::Mount).collect();
        let mut made = Vec::new();
        // All of it is judged before a path is touched.
        let denied = operations
            .iter()
            .position(|operation| self.denies(operation));
        let tried = denied.map_or(0..operations.len(), |one| one..one.saturating_add(1));
        let entries = (0_u32..).zip(&operations);
        for (entry, operation) in entries.skip(tried.start).take(tried.len()) {
            self.client_listens()?;
            match self.perform(operation, Some(entry), Vec::new())? {
                Some(Reply::Mounted(mounted)) => made.push(mounted),
                Some(Reply::Error(error)) => return self.give_up(entry, error, &made),
                _ => return Err(Ended::WrongAnswer),
            }
        }
        self.client_listens()?;
        if made.iter().any(is_new) {
            self.give(&Order::Keep, &[])?;
            let OrderReply::Taken = self.answer()? else {
                return Err(Ended::WrongAnswer);
            };
        }
        self.leases |= leases;
        Ok(Reply::Applied(made.iter().map(applied).collect()))
    }

    /// Nothing is kept for a client that has gone: with this process, its mounts end.
    fn client_listens(&self) -> Result<(), Ended> {
        if self.client.has_gone() {
            return Err(ChannelError::Closed.into());
        }
        Ok(())
    }

    fn denies(&self, operation: &Operation) -> bool {
        let peer = self.context.peer.identity();
        let verdict = self.context.policy.judge(peer, operation);
        matches!(verdict, Verdict::Denied(_))
    }

    /// Has what was made taken back. What was there before stays.
    fn give_up(&self, entry: u32, error: ErrorReply, made: &[Mounted]) -> Result<Reply, Ended> {
        let mut left = Vec::new();
        if made.iter().any(is_new) {
            self.give(&Order::TakeBack, &[])?;
            let OrderReply::TakenBack { left: ids } = self.answer()? else {
                return Err(Ended::WrongAnswer);
            };
            let number = |id: &MountId| made.iter().position(|mounted| mounted.mount.id == *id);
            left.extend(ids.into_iter().filter_map(|id| {
                let entry = u32::try_from(number(&id)?).ok()?;
                Some(LeftEntry { entry, id })
            }));
        }
        Ok(Reply::NotApplied(NotApplied { entry, error, left }))
    }
}

fn is_new(mounted: &Mounted) -> bool {
    mounted.outcome == Outcome::Mounted
}

fn applied(mounted: &Mounted) -> AppliedEntry {
    AppliedEntry {
        outcome: mounted.outcome,
        id: mounted.mount.id,
        attributes: mounted.mount.attributes,
    }
}
