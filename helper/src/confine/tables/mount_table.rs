//! How the mount table is asked: by calls, or by a file on kernels without them.
#![forbid(unsafe_code)]

use libc::{AT_FDCWD, O_CLOEXEC, O_RDONLY, SYS_openat, SYS_pread64};
use mountwarden_protocol::Role;

use crate::confine::entry::{Check, Entry, Int, Value, call, fd, is, no_flags, pinned};
use crate::mounter::layout::TABLE;
use crate::sys::mount::{SYS_LISTMOUNT, SYS_STATMOUNT};
use crate::sys::pinned::PROC_SELF_MOUNTINFO;
use crate::table::Source;

pub(super) fn of(role: Role, source: Source) -> Vec<Entry> {
    match (source, role) {
        (_, Role::Locker) | (Source::Mountinfo, Role::Gate | Role::Session) => vec![],
        (Source::Calls, _) => calls(),
        (Source::Mountinfo, Role::Warden) => vec![file(), file_opened()],
        (Source::Mountinfo, Role::Mounter) => vec![file()],
    }
}

/// What a session lists with, and a mounter checks with.
fn calls() -> Vec<Entry> {
    vec![
        call!(
            SYS_STATMOUNT,
            "what a mount is, and whether it is in this namespace",
            [no_flags(3)]
        ),
        call!(
            SYS_LISTMOUNT,
            "lists; what a recursive bind holds; how many mounts a user has",
            [no_flags(3)]
        ),
    ]
}

fn file() -> Entry {
    call!(
        SYS_pread64,
        "the mount table",
        [fd(0, TABLE, "its own /proc/self/mountinfo")]
    )
}

fn file_opened() -> Entry {
    call!(
        SYS_openat,
        "a mounter's own /proc/self/mountinfo",
        [
            is!(0, fd = AT_FDCWD),
            pinned(1, "path", PROC_SELF_MOUNTINFO),
            is!(2, flags = O_RDONLY | O_CLOEXEC)
        ]
    )
}
