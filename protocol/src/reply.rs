//! What the helper answers.

use serde::{Deserialize, Serialize};

use crate::{AbsPath, AppliedEntry, ErrorReply, MountAttributes, MountId, NotApplied, Status};

/// The answer to one [`crate::Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It was not done.
    Error(ErrorReply),
    /// A mount is there.
    Mounted(Mounted),
    /// A mount is gone.
    Unmounted(Unmounted),
    /// One page of the list.
    List(ListPage),
    /// What the policy says.
    Explained(Explanation),
    /// The helper's state.
    Status(Box<Status>),
    /// A mount has other attributes: the mount as the kernel reports it now.
    Remounted(MountInfo),
    /// Whether a file system answers.
    Probed(Probed),
    /// All mounts of a batch are there: one for each, in its order.
    Applied(Vec<AppliedEntry>),
    /// A batch was not done.
    NotApplied(NotApplied),
    /// A mount that is attached nowhere; its root comes with the reply.
    Detached(Detached),
    /// A mount is at another place: the mount as the kernel reports it now.
    Moved(MountInfo),
}

/// Whether a mount was made or was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// This request made it.
    Mounted,
    /// The target already held just this mount.
    AlreadyMounted,
}

/// The answer to a mount request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Whether it was made now.
    pub outcome: Outcome,
    /// The mount, as the kernel reports it.
    pub mount: MountInfo,
}

/// One mount, as `statmount(2)` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// Its unique id.
    pub id: MountId,
    /// Where it is attached.
    pub target: AbsPath,
    /// The type of the file system: `ext4`, `tmpfs`.
    pub filesystem: String,
    /// Which directory or file of the file system it shows: `/` for the whole.
    pub root: AbsPath,
    /// Its attributes.
    pub attributes: MountAttributes,
    /// The number of the file system, which it has in every mount namespace.
    pub device: DeviceNumber,
}

/// A device number, as `mountinfo` shows it (`proc_pid_mountinfo(5)`). The major one is 0 for a
/// file system that is on no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The answer to an unmount request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmounted {
    /// The id that the mount had.
    pub id: MountId,
    /// Where it was attached.
    pub target: AbsPath,
}

/// The answer to a request for a detached mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Its unique id, which it keeps where it is attached.
    pub id: MountId,
    /// Its attributes. None but `nosymfollow` can be taken away from it in another user
    /// namespace.
    pub attributes: MountAttributes,
}

/// Some of the mounts that a peer may unmount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// In the order of their ids.
    pub mounts: Vec<MountInfo>,
    /// The id to continue after; `None` when this page is the last.
    pub next: Option<MountId>,
}

/// What the policy says of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Explanation {
    /// It is allowed, in this form.
    Allowed {
        /// The name of the grant that allows it.
        grant: String,
        /// The attributes that a mount would get: what was asked and what is forced.
        /// After a remount it may have more; one that is to be moved must have these.
        attributes: MountAttributes,
        /// What a tmpfs would get.
        tmpfs: Option<TmpfsLimits>,
    },
    /// It is not; the operation itself gets the same error. (One that the policy
    /// allows may still fail for what only the kernel can tell.)
    Denied(ErrorReply),
}

/// The limits that a tmpfs gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsLimits {
    /// Bytes.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
    /// The mode of the root directory.
    pub mode: u32,
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The place.
    pub target: AbsPath,
    /// The mount there; `None` also where the kernel has no unique ids.
    pub id: Option<MountId>,
    /// What was found out.
    pub answer: ProbeAnswer,
}

/// What a file system said. One that says nothing ends the connection instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeAnswer {
    /// It answered.
    Alive,
    /// It failed.
    Stale {
        /// The kernel's error number (`errno(3)`).
        errno: i32,
    },
    /// It answers the helper's user nothing, dead or alive, as a FUSE mount without
    /// `allow_other` does.
    Private,
    /// Nothing is mounted there.
    Absent,
}
