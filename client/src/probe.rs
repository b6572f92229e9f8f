//! What a probe found out.

use std::time::Duration;

use mountwarden_protocol::{AbsPath, MountId, ProbeAnswer, Probed};

/// How the file system at a place fares; made by [`Client::probe`](crate::Client::probe).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The place.
    pub target: AbsPath,
    /// The mount there; `None` also when the file system hangs, and on a kernel without
    /// unique ids.
    pub id: Option<MountId>,
    /// What was found out.
    pub health: Health,
}

/// Whether a file system answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It answered. A local file system does so from memory.
    Alive,
    /// It failed: its server is gone, or its device.
    Stale {
        /// The kernel's error number (`errno(3)`), such as `ENOTCONN`.
        errno: i32,
    },
    /// It did not answer in time.
    Hung {
        /// How long it took to find out.
        waited: Duration,
    },
    /// It answers the helper's user nothing, dead or alive, as a FUSE mount without
    /// `allow_other` does. The mount's own user can ask it.
    Private,
    /// Nothing is mounted there.
    Absent,
}

impl Health {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stale { .. } => "stale",
            Self::Hung { .. } => "hung",
            Self::Private => "private",
            Self::Absent => "absent",
        }
    }
}

impl From<Probed> for Probe {
    fn from(probed: Probed) -> Self {
        let health = match probed.answer {
            ProbeAnswer::Alive => Health::Alive,
            ProbeAnswer::Stale { errno } => Health::Stale { errno },
            ProbeAnswer::Private => Health::Private,
            ProbeAnswer::Absent => Health::Absent,
        };
        Self {
            target: probed.target,
            id: probed.id,
            health,
        }
    }
}
