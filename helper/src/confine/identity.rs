//! The user that a role runs as.
#![forbid(unsafe_code)]

use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::{ConfineError, in_force, step};

/// The user that a role runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity {
    /// Become this user and group, and leave every supplementary group.
    Become { uid: Uid, gid: Gid },
    /// Stay what the process was started as, or what its parent became.
    Stay,
}

/// Takes on the identity, in all of its forms, and reads it back.
pub(super) fn assume(identity: Identity) -> Result<(), ConfineError> {
    let Identity::Become { uid, gid } = identity else {
        return in_force("a user other than root", !nix::unistd::geteuid().is_root());
    };
    step("leave the supplementary groups", setgroups(&[]))?;
    step("change the group", setresgid(gid, gid, gid))?;
    step("change the user", setresuid(uid, uid, uid))?;
    let users = step("read the user", getresuid())?;
    let groups = step("read the group", getresgid())?;
    in_force(
        "the service user",
        [users.real, users.effective, users.saved] == [uid; 3],
    )?;
    in_force(
        "the service group",
        [groups.real, groups.effective, groups.saved] == [gid; 3],
    )?;
    let supplementary = step("read the supplementary groups", getgroups())?;
    in_force("no supplementary groups", supplementary.is_empty())
}
