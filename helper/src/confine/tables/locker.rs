//! The calls of the process that locks the flags of mounts, finds out what user
//! namespaces map and has loop devices show images, and of its children.
#![forbid(unsafe_code)]

use libc::{
    AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_RECURSIVE, AT_STATX_DONT_SYNC, CLOCK_REALTIME,
    CLONE_NEWNS, CLONE_NEWUSER, ITIMER_REAL, MOVE_MOUNT_F_EMPTY_PATH, MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT, MSG_NOSIGNAL, O_CLOEXEC, O_RDONLY, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE, SIGKILL,
    SYS_clock_gettime, SYS_fstatfs, SYS_ioctl, SYS_kill, SYS_mount_setattr, SYS_move_mount,
    SYS_open_tree, SYS_openat, SYS_read, SYS_recvmsg, SYS_sendmsg, SYS_setitimer, SYS_setns,
    SYS_statx, SYS_unshare, SYS_wait4, WNOHANG,
};

use crate::confine::entry::{
    Check, Entry, Int, Value, call, fd, int, is, long, no_flags, null, pinned, policy_name,
};
use crate::locker::layout::{ANSWER, BROUGHT, DEVICES, NAMESPACE, NEXT, OWN, PROC, REQUESTS};
use crate::sys::loop_device::{LOOP_CONFIGURE, OPEN};
use crate::sys::namespace::{NS_GET_NSTYPE, NS_GET_OWNER_UID, NS_GET_PARENT};
use crate::sys::pinned::{DIRECTORY, EMPTY, FILE, GID_MAP, UID_MAP};

/// What it does in any case.
pub(super) fn locker() -> Vec<Entry> {
    let reply = is!(2, flags = MSG_NOSIGNAL | MSG_DONTWAIT);
    vec![
        call!(
            SYS_clock_gettime,
            "the time of a line of the log, where the vDSO cannot tell it",
            [is!(0, clock = CLOCK_REALTIME)]
        ),
        call!(
            SYS_recvmsg,
            "what mounters ask",
            [
                fd(0, REQUESTS, "where mounters ask"),
                is!(2, flags = MSG_CMSG_CLOEXEC)
            ]
        ),
        call!(
            SYS_sendmsg,
            "that it is ready; to a mounter, what has come of its request",
            [fd(0, REQUESTS, "where mounters ask"), reply],
            [fd(0, ANSWER, "where to send it"), reply]
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
    ]
}

/// What it does where detached mounts are granted.
pub(super) fn locker_detached() -> Vec<Entry> {
    let attach = |name| {
        vec![
            fd(0, BROUGHT, "the mount that came"),
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
                fd(0, NEXT, "the copy"),
                pinned(1, "path", EMPTY),
                is!(2, flags = AT_EMPTY_PATH),
                long(4, "size", 32, "sizeof(struct mount_attr)")
            ]
        ),
    ]
}

/// What it does where ID-mapped mounts are granted.
pub(super) fn locker_idmap() -> Vec<Entry> {
    let asked = fd(0, BROUGHT, "the user namespace that came");
    let status = |number, means| {
        vec![
            fd(0, number, means),
            pinned(1, "path", EMPTY),
            is!(
                2,
                flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT
            ),
        ]
    };
    let mut which = call!(SYS_statx, "which namespace a descriptor is");
    which.forms.extend([
        status(OWN, "the helper's user namespace"),
        status(BROUGHT, "the user namespace that came"),
        status(NEXT, "the parent of that"),
    ]);
    let map = |path| {
        vec![
            fd(0, PROC, "the machine's /proc"),
            pinned(1, "path", path),
            is!(2, flags = O_RDONLY | O_CLOEXEC),
        ]
    };
    let mut maps = call!(SYS_openat, "the maps of the namespace that it is in");
    maps.forms.extend([UID_MAP, GID_MAP].map(map));
    vec![
        call!(SYS_fstatfs, "whether it is a namespace that came", [asked]),
        call!(
            SYS_ioctl,
            "of which type it is, whose, and where it was made",
            [asked, is!(1, request = NS_GET_NSTYPE)],
            [asked, is!(1, request = NS_GET_OWNER_UID)],
            [asked, is!(1, request = NS_GET_PARENT)]
        ),
        which,
        call!(
            SYS_setns,
            "to read its maps",
            [asked, is!(1, kind = CLONE_NEWUSER)]
        ),
        maps,
        call!(SYS_read, "a map", [fd(0, NEXT, "a map")]),
        call!(
            SYS_kill,
            "a child that somebody else has stopped",
            [is!(1, signal = SIGKILL)]
        ),
    ]
}

/// What it does where images may take loop devices.
pub(super) fn locker_loop_device() -> Vec<Entry> {
    vec![
        call!(
            SYS_openat,
            "a loop device that the policy names",
            [
                fd(0, DEVICES, "the machine's /dev"),
                policy_name(1, "path"),
                int(
                    2,
                    "flags",
                    OPEN.cast_unsigned(),
                    "O_RDONLY | O_CLOEXEC | O_NOFOLLOW"
                )
            ]
        ),
        call!(
            SYS_ioctl,
            "a device shows the image that came, until nothing uses it",
            [
                fd(0, NEXT, "a loop device"),
                is!(1, request = LOOP_CONFIGURE)
            ]
        ),
    ]
}

/// What it does where children work that it does not wait for.
pub(super) fn locker_beside() -> Vec<Entry> {
    vec![call!(
        SYS_wait4,
        "whether a child has ended",
        [
            int(0, "pid", u32::MAX, "any child"),
            is!(2, options = WNOHANG)
        ]
    )]
}
