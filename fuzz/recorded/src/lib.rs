//! How the helper makes file systems (`helper/src/mounter/filesystem.rs`, the file itself),
//! above a kernel that only writes down what it is asked.
//!
//! A model and not the real calls in a namespace: only a process with one thread can enter
//! a user namespace (`unshare(2)`), and the tests are threads of one process. So it
//! works as any user and takes no system call but for the descriptors, and
//! any call can be told to fail. What it cannot show is what a kernel makes of the calls;
//! the helper's own tests do that. Each thread has a kernel of its own.
//!
//! Beside that file, `failure.rs`, `table.rs` and `sys/pinned.rs` are the helper's. The rest
//! of what they use is here, as little as they need: [`kernel`] stands for
//! `sys::mount`, and what has been checked before a file system is made (a device, a location)
//! is only named.
#![deny(unsafe_code)]

#[path = "../../../helper/src/failure.rs"]
mod failure;
pub mod kernel;
mod mounter;
#[expect(
    dead_code,
    reason = "what finds mounts; only attributes and devices are asked here"
)]
#[path = "../../../helper/src/table.rs"]
mod table;

pub use mounter::{Given, make};

mod sys;

mod files {
    use std::os::fd::OwnedFd;

    use nix::errno::Errno;

    pub(crate) fn open_root() -> Result<OwnedFd, Errno> {
        Err(Errno::ENOSYS)
    }
}

mod mountinfo {
    use std::ops::ControlFlow;
    use std::os::fd::OwnedFd;

    use nix::errno::Errno;

    use crate::kernel::MountStatus;

    pub(crate) struct Mountinfo;

    #[expect(clippy::unused_self, reason = "the helper's have state")]
    impl Mountinfo {
        pub(crate) fn new(_: OwnedFd) -> Self {
            Self
        }

        pub(crate) fn status_of_mount(&self, _: u64) -> Result<MountStatus, Errno> {
            Err(Errno::ENOSYS)
        }

        pub(crate) fn walk(
            &self,
            _: u64,
            _: u64,
            _: impl FnMut(&MountStatus) -> ControlFlow<()>,
        ) -> Result<(), Errno> {
            Err(Errno::ENOSYS)
        }
    }
}

mod locker {
    use std::os::fd::{BorrowedFd, OwnedFd};

    use mountwarden_policy::LoopDevices;
    use nix::errno::Errno;

    use crate::kernel;

    pub(crate) struct Locking;

    #[expect(clippy::unused_self, reason = "the helper's has a channel")]
    impl Locking {
        pub(crate) fn show(&self, _: BorrowedFd<'_>, of: LoopDevices) -> Result<OwnedFd, Errno> {
            let numbers: Vec<_> = of.numbers().collect();
            kernel::make(format!("loop {numbers:?}"))
        }
    }
}
