//! What a probe found out.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use mountwarden_protocol::{AbsPath, ErrorCode, MountId, ProbeAnswer, Probed, Reply, Request};

use crate::Error;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::operation::checked;

/// Asks on a connection that is for this alone.
pub(crate) fn ask(
    socket: &Path,
    timeout: Duration,
    target: &Path,
    within: Duration,
) -> Result<Probe, Error> {
    let target = checked("target", target)?;
    let milliseconds = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
    let request = Request::Probe {
        target: target.clone(),
        timeout_ms: NonZeroU32::new(milliseconds).unwrap_or(NonZeroU32::MIN),
    };
    let timeout = timeout.saturating_add(within);
    let deadline = Deadline::after(timeout);
    let begun = Instant::now();
    let exchanged = Connection::open(socket, deadline)
        .and_then(|connection| connection.exchange(&request, Vec::new(), deadline));
    match exchanged {
        Ok((_, Reply::Probed(probed))) => Ok(probed.into()),
        // The gate's last word for a session that asked in vain.
        Ok((_, Reply::Error(error))) if error.code == ErrorCode::TimedOut => Ok(Probe {
            target,
            id: None,
            health: Health::Hung {
                waited: begun.elapsed(),
            },
        }),
        Ok((_, Reply::Error(error))) => Err(error.into()),
        Ok(_) => {
            let what = "it answered a request for a probe with something else";
            Err(Error::protocol(socket, what))
        }
        Err(failure) => Err(Error::of(failure, socket, timeout)),
    }
}

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
