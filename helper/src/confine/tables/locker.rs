//! The calls of the process that locks the flags of mounts, and of its children.
#![forbid(unsafe_code)]

use libc::{
    AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, CLOCK_REALTIME, CLONE_NEWNS, CLONE_NEWUSER, ITIMER_REAL,
    MOVE_MOUNT_F_EMPTY_PATH, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE, SYS_clock_gettime, SYS_mount_setattr, SYS_move_mount, SYS_open_tree,
    SYS_recvmsg, SYS_sendmsg, SYS_setitimer, SYS_setns, SYS_unshare, SYS_wait4,
};

use crate::confine::entry::{
    Check, Entry, Int, Value, call, fd, int, is, long, no_flags, null, pinned,
};
use crate::locker::layout::{ANSWER, COPY, MOUNT, NAMESPACE, REQUESTS};
use crate::sys::pinned::{DIRECTORY, EMPTY, FILE};

pub(super) fn locker() -> Vec<Entry> {
    let answer = fd(0, ANSWER, "where to send it");
    let reply = is!(2, flags = MSG_NOSIGNAL | MSG_DONTWAIT);
    let attach = |name| {
        vec![
            fd(0, MOUNT, "the mount that came"),
            pinned(1, "path", EMPTY),
            is!(2, target = AT_FDCWD),
            pinned(3, "target path", name),
            is!(4, flags = MOVE_MOUNT_F_EMPTY_PATH),
        ]
    };
    let clone = |name| {
        vec![
            is!(0, fd = AT_FDCWD),
            pinned(1, "path", name),
            is!(
                2,
                flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
            ),
        ]
    };
    let mut attached = call!(SYS_move_mount, "to a place that is copied with it");
    attached.forms.extend([DIRECTORY, FILE].map(attach));
    let mut cloned = call!(SYS_open_tree, "what is handed over");
    cloned.forms.extend([DIRECTORY, FILE].map(clone));
    vec![
        call!(
            SYS_clock_gettime,
            "the time of a line of the log, where the vDSO cannot tell it",
            [is!(0, clock = CLOCK_REALTIME)]
        ),
        call!(
            SYS_recvmsg,
            "mounts, from mounters",
            [
                fd(0, REQUESTS, "where mounters ask"),
                is!(2, flags = MSG_CMSG_CLOEXEC)
            ]
        ),
        call!(
            SYS_sendmsg,
            "that it is ready; to a mounter, what it has made",
            [fd(0, REQUESTS, "where mounters ask"), reply],
            [answer, reply]
        ),
        call!(
            SYS_wait4,
            "how a child ended",
            [int(0, "pid", u32::MAX, "any child"), no_flags(2)]
        ),
        call!(
            SYS_setitimer,
            "the deadline of a child",
            [is!(0, which = ITIMER_REAL), null(2, "old")]
        ),
        call!(
            SYS_unshare,
            "a mount namespace, that ends with its process; the copy of that",
            [is!(0, flags = CLONE_NEWNS)]
        ),
        attached,
        call!(
            SYS_setns,
            "the user namespace of the copy",
            [
                fd(0, NAMESPACE, "the user namespace of all copies"),
                is!(1, kind = CLONE_NEWUSER)
            ]
        ),
        cloned,
        call!(
            SYS_mount_setattr,
            "whether an attribute is locked",
            [
                fd(0, COPY, "the copy"),
                pinned(1, "path", EMPTY),
                is!(2, flags = AT_EMPTY_PATH),
                long(4, "size", 32, "sizeof(struct mount_attr)")
            ]
        ),
    ]
}
