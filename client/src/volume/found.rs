//! What is told of a volume.

use mountwarden_protocol::MountId;

use crate::seen::{Line, Seen};
use crate::{Client, Error};

/// How a volume's mount fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validity {
    /// It is the volume's, and answers.
    Good,
    /// It is the volume's, and its server is gone.
    Stale {
        /// The kernel's error number (`errno(3)`), such as `ENOTCONN`.
        errno: i32,
    },
    /// It is the volume's, and does not answer in time.
    Hung,
    /// What is mounted there is not the volume's.
    Foreign,
    /// Nothing is mounted there.
    Absent,
}

impl Validity {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale { .. } => "stale",
            Self::Hung => "hung",
            Self::Foreign => "foreign",
            Self::Absent => "absent",
        }
    }
}

/// What was found at the place of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How it fares.
    pub validity: Validity,
    /// The topmost mount.
    pub mount: Option<Topmost>,
}

/// The topmost mount at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topmost {
    /// Its unique id, which is another one in another mount namespace; `None` for another user's
    /// FUSE file system, of which the kernel does not tell it.
    pub id: Option<MountId>,
    /// The type of the file system, such as `fuse.quobyte`.
    pub filesystem: String,
    /// Its source, such as `quobyte@registry/volume`.
    pub source: String,
    line: Line,
}

impl Topmost {
    pub(super) fn of(seen: &Seen) -> Self {
        Self {
            id: seen.id().ok(),
            filesystem: seen.line.filesystem.to_string_lossy().into_owned(),
            source: seen.line.source.to_string_lossy().into_owned(),
            line: seen.line.clone(),
        }
    }

    /// The id that the helper knows it by.
    pub(super) fn id_at_helper(&self, client: &mut Client) -> Result<Option<MountId>, Error> {
        let own = self.id.map(|own| self.line.id_at_helper(own, client));
        own.transpose()
    }
}

/// How a volume was connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// It was good as it was.
    AlreadyGood,
    /// Nothing was there, and it was mounted.
    Mounted,
    /// A dead mount was ended, and it was mounted again.
    Repaired,
}

/// A connected volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// How.
    pub how: Connection,
    /// The mount, which is good.
    pub mount: Topmost,
    /// How many uses it has now.
    pub uses: usize,
}

/// What became of the mount when a use ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disconnection {
    /// It was the last use, and it was unmounted.
    Unmounted,
    /// Others use it.
    StillUsed,
    /// There was none.
    Absent,
    /// It is dead, and in use: it is still there.
    Left,
}

/// A use that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnected {
    /// What became of the mount.
    pub how: Disconnection,
    /// What was wrong with it, if anything was.
    pub warning: Option<Validity>,
    /// What was at the place, where that was looked at.
    pub mount: Option<Topmost>,
    /// How many uses are left.
    pub uses: usize,
}
