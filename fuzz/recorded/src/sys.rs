//! The helper's `sys`, as far as it is used.

pub(crate) use crate::kernel as mount;

#[expect(unsafe_code, reason = "the helper's own file")]
#[expect(
    dead_code,
    reason = "what unmounts by a name, and what builds the filters"
)]
#[path = "../../../helper/src/sys/pinned.rs"]
pub(crate) mod pinned;

pub(crate) mod proc {
    use std::os::fd::OwnedFd;

    use nix::errno::Errno;

    pub(crate) fn open_own_mountinfo() -> Result<OwnedFd, Errno> {
        Err(Errno::ENOSYS)
    }
}
