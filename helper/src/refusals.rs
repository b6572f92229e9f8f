//! Connections that were refused: the first of a run goes into the audit log.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use mountwarden_protocol::ErrorReply;
use nix::errno::Errno;

use crate::audit::{By, Record, Subject};
use crate::peer::AttestedPeer;

/// The users who were refused since a connection of theirs was admitted. One who
/// connects again and again leaves one line and no flood; `None` stands for
/// clients whom the kernel does not name.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeSet<Option<u32>>);

impl Refusals {
    /// Ends a run.
    pub(crate) fn admitted(&mut self, uid: u32) {
        self.0.remove(&Some(uid));
        self.0.remove(&None);
    }

    /// Writes a line, unless this is the next one of a run.
    pub(crate) fn refused(
        &mut self,
        by: By,
        peer: Option<&AttestedPeer>,
        error: &ErrorReply,
    ) -> Result<(), Errno> {
        if !self.0.insert(peer.map(|peer| peer.identity().uid)) {
            return Ok(());
        }
        let record = Record {
            peer,
            by,
            subject: Subject::Connection,
            grant: None,
            outcome: Err(error),
            took: None,
        };
        record.write()
    }
}
