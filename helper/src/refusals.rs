//! Connections that were refused: the first of a run goes into the audit log.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use mountwarden_policy::Limits;
use mountwarden_protocol::{ErrorCode, ErrorReply};
use nix::errno::Errno;

use crate::audit::{By, Record, Subject};
use crate::children;
use crate::peer::{AttestedPeer, NotAPeer};

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

    /// Whether this is the first of a run, which gets a line.
    pub(crate) fn begins(&mut self, peer: Option<&AttestedPeer>) -> bool {
        self.0.insert(peer.map(|peer| peer.identity().uid))
    }
}

/// Why the gate refuses a client. It gives the warden the client's socket and one of
/// a few words, so that the warden reads no text of the gate's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    OfUser,
    OfAll,
    NoRoom,
    Unknown,
}

impl Refused {
    const ALL: [Self; 4] = [Self::OfUser, Self::OfAll, Self::NoRoom, Self::Unknown];

    pub(crate) fn word(self) -> &'static [u8] {
        match self {
            Self::OfUser => b"refused: user",
            Self::OfAll => b"refused: all",
            Self::NoRoom => b"refused: room",
            Self::Unknown => b"refused: who",
        }
    }

    pub(crate) fn of_word(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.word() == word)
    }

    /// What the client is told. Where the kernel does not name it, `NotAPeer` says more.
    pub(crate) fn error(self, limits: &Limits) -> ErrorReply {
        let (code, message) = match self {
            Self::OfUser => (
                ErrorCode::LimitReached,
                children::too_many_of_user(limits.connections_per_user),
            ),
            Self::OfAll => (
                ErrorCode::LimitReached,
                children::too_many(limits.connections),
            ),
            Self::NoRoom => (
                ErrorCode::LimitReached,
                "the helper's system has no room for another process or descriptor now".to_owned(),
            ),
            Self::Unknown => (
                ErrorCode::Denied,
                "the kernel does not say who the client is".to_owned(),
            ),
        };
        ErrorReply::new(code, message)
    }
}

impl From<NotAPeer> for ErrorReply {
    fn from(error: NotAPeer) -> Self {
        Self::new(ErrorCode::Denied, error.to_string())
    }
}

/// Writes the line of a refusal.
pub(crate) fn write(by: By, peer: Option<&AttestedPeer>, error: &ErrorReply) -> Result<(), Errno> {
    let record = Record {
        peer,
        by,
        subject: Subject::Connection,
        grant: None,
        outcome: Err(error),
        maps: None,
        took: None,
    };
    record.write()
}
