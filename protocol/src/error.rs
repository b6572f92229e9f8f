//! Errors as they travel.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;
use crate::{AbsPath, MountId};

open_enum! {
    /// What kind of failure a reply reports. Numbers and names never change
    /// and are never used again; new ones are added at the end.
    ErrorCode {
        /// A path, option or value that no helper accepts.
        InvalidRequest = 1, "invalid-request";
        /// A frame that breaks the protocol; the connection ends.
        MalformedFrame = 2, "malformed-frame";
        /// No protocol version in common.
        UnsupportedVersion = 3, "unsupported-version";
        /// This kernel or this helper cannot do it.
        Unsupported = 4, "unsupported";
        /// The policy does not allow it; [`ErrorReply::reason`] says why.
        Denied = 5, "denied";
        /// The target holds a different mount, or the mount is in use.
        Busy = 6, "busy";
        /// Nothing is mounted at the target.
        NotMounted = 7, "not-mounted";
        /// The topmost mount at the target is not the one that was named.
        IdMismatch = 8, "id-mismatch";
        /// A path does not exist.
        NotFound = 9, "not-found";
        /// The helper's own user may not reach the path.
        Unreachable = 10, "unreachable";
        /// A symbolic link, or a file of the wrong type, where a directory or
        /// a regular file belongs.
        WrongType = 11, "wrong-type";
        /// A path was renamed, replaced or removed while the request ran.
        Changed = 12, "changed";
        /// The file system at the path is dead: its server is gone.
        Stale = 13, "stale";
        /// The file system at the path does not answer.
        Hung = 14, "hung";
        /// The request took longer than the helper allows.
        TimedOut = 15, "timed-out";
        /// A limit of the helper or the kernel was reached.
        LimitReached = 16, "limit-reached";
        /// The helper is stopping or lost one of its processes.
        Unavailable = 17, "unavailable";
        /// The kernel refused for a reason without a code of its own;
        /// [`ErrorReply::errno`] has it.
        Failed = 18, "failed";
    }
}

open_enum! {
    /// Why the policy does not allow a request.
    DenyReason {
        /// No grant names the peer's user or one of its groups.
        NoGrant = 1, "no-grant";
        /// The target lies beneath no root that the peer is granted.
        TargetNotGranted = 2, "target-not-granted";
        /// The target would cover a place that is never covered.
        TargetProtected = 3, "target-protected";
        /// A grant covers the target, and grants no mount of this kind there.
        KindNotGranted = 4, "kind-not-granted";
        /// The source, or a layer, lies beneath no source root of the grant.
        SourceNotGranted = 5, "source-not-granted";
        /// The grant does not allow a recursive bind.
        RecursiveNotGranted = 6, "recursive-not-granted";
        /// `suid` was asked for and the grant forces `nosuid`.
        SuidNotGranted = 7, "suid-not-granted";
        /// `dev` was asked for and the grant forces `nodev`.
        DevNotGranted = 8, "dev-not-granted";
        /// More bytes than the grant's `max_size`.
        SizeAboveMaximum = 9, "size-above-maximum";
        /// More inodes than the grant's `max_inodes`.
        InodesAboveMaximum = 10, "inodes-above-maximum";
        /// The target lies on a mount that other namespaces share, and the grant
        /// does not allow that.
        SharedTarget = 11, "shared-target";
        /// The grant does not allow to change the attributes of a mount.
        RemountNotGranted = 12, "remount-not-granted";
        /// An attribute was to be lifted that the grant, or the mount that the
        /// source lies on, forces; or a mount that is to be moved lacks one.
        AttributeForced = 13, "attribute-forced";
        /// The grant allows only mounts of another propagation.
        PropagationNotGranted = 14, "propagation-not-granted";
        /// The device is none of those that the grant has.
        DeviceNotGranted = 15, "device-not-granted";
        /// The type of the file system is none of those that the grant has.
        FilesystemNotGranted = 16, "filesystem-not-granted";
        /// An option of the file system is none of those that the grant has.
        OptionNotGranted = 17, "option-not-granted";
        /// The subtype of the FUSE file system is none of those that the grant has.
        SubtypeNotGranted = 18, "subtype-not-granted";
        /// The name of the source is none of those that the grant has.
        SourceNameNotGranted = 19, "source-name-not-granted";
        /// `allow_other` was asked for and the grant does not allow it.
        AllowOtherNotGranted = 20, "allow-other-not-granted";
        /// The grant takes no descriptor for this location.
        PassedNotGranted = 21, "passed-not-granted";
        /// The target belongs to somebody else, and the grant asks for the peer's own.
        TargetNotOwned = 22, "target-not-owned";
        /// The source belongs to somebody else, and the grant asks for the peer's own.
        SourceNotOwned = 23, "source-not-owned";
        /// More layers than the grant's `max_layers`.
        LayersAboveMaximum = 24, "layers-above-maximum";
        /// The grant has no overlay with an upper layer there.
        UpperNotGranted = 25, "upper-not-granted";
        /// No grant hands over detached mounts.
        DetachedNotGranted = 26, "detached-not-granted";
        /// No grant that allows to move mounts has both places.
        MoveNotGranted = 27, "move-not-granted";
        /// The grant allows no ID-mapped mount, or not with this map.
        IdmapNotGranted = 28, "idmap-not-granted";
        /// The user namespace is the helper's own, or was made by somebody else than the
        /// peer.
        NamespaceNotOwned = 29, "namespace-not-owned";
    }
}

/// A failure, for a program and for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What kind of failure.
    pub code: ErrorCode,
    /// Why the policy refused, when `code` is [`ErrorCode::Denied`].
    pub reason: Option<DenyReason>,
    /// What happened, to what, and what to do: one line, no control characters.
    pub message: String,
    /// The kernel's error number, where it had one (`errno(3)`).
    pub errno: Option<i32>,
    /// The path that the failure is about.
    pub path: Option<AbsPath>,
    /// The mount that the failure is about: the one that makes a target busy.
    pub mount: Option<MountId>,
}

impl ErrorReply {
    /// The most bytes of a message. A path can be longer once it is escaped; it
    /// stands whole in [`ErrorReply::path`].
    pub const MAX_MESSAGE: usize = 2048;

    /// A failure with a message and nothing else. From one that exceeds
    /// [`ErrorReply::MAX_MESSAGE`] the middle is cut out: a long path stands
    /// between what was refused and why.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MAX_MESSAGE {
            let kept = Self::MAX_MESSAGE.saturating_sub(3) / 2;
            let end = message.ceil_char_boundary(message.len().saturating_sub(kept));
            message.replace_range(message.floor_char_boundary(kept)..end, "...");
        }
        Self {
            code,
            reason: None,
            message,
            errno: None,
            path: None,
            mount: None,
        }
    }

    /// Adds the path that the failure is about.
    #[must_use]
    pub fn at(mut self, path: &AbsPath) -> Self {
        self.path = Some(path.clone());
        self
    }

    /// Adds the kernel's error number.
    #[must_use]
    pub fn errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Adds the mount that the failure is about.
    #[must_use]
    pub fn mount(mut self, id: MountId) -> Self {
        self.mount = Some(id);
        self
    }
}
