//! The calls of the half that speaks with clients.
#![forbid(unsafe_code)]

use libc::{
    AF_UNIX, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC, AT_STATX_FORCE_SYNC, ITIMER_REAL,
    MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_SEQPACKET,
    SOL_SOCKET, SYS_accept4, SYS_close, SYS_fstat, SYS_landlock_add_rule, SYS_newfstatat,
    SYS_openat2, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_setitimer, SYS_setsockopt,
    SYS_socketpair, SYS_statx,
};

use crate::confine::entry::{
    Check, Entry, Int, Value, call, fd, fd_from, int, is, no_flags, null, pinned,
};
use crate::session::layout::{CLIENT, FIRST_FREE, ORDER};
use crate::sys::pinned::EMPTY;

pub(super) fn gate() -> Vec<Entry> {
    vec![
        call!(SYS_accept4, "connections", [is!(3, flags = SOCK_CLOEXEC)]),
        call!(
            SYS_setsockopt,
            "how long a write to a client may take",
            [is!(1, level = SOL_SOCKET), is!(2, option = SO_SNDTIMEO)]
        ),
        call!(
            SYS_socketpair,
            "an order channel for each connection",
            [
                is!(0, domain = AF_UNIX),
                is!(1, kind = SOCK_SEQPACKET | SOCK_CLOEXEC),
                int(2, "protocol", 0, "0")
            ]
        ),
    ]
}

/// What only a session does before its own filter.
pub(super) fn gate_child() -> Vec<Entry> {
    vec![
        call!(
            SYS_landlock_add_rule,
            "the session's granted roots",
            [int(1, "type", 1, "LANDLOCK_RULE_PATH_BENEATH"), no_flags(3)]
        ),
        call!(
            SYS_newfstatat,
            "libc, some versions: the type of a granted root",
            [is!(3, flags = AT_EMPTY_PATH)]
        ),
        call!(SYS_fstat, "libc, the others: the type of a granted root"),
    ]
}

pub(super) fn session() -> Vec<Entry> {
    let client = fd(0, CLIENT, "the client's socket");
    let order = fd(0, ORDER, "the order channel");
    vec![
        call!(
            SYS_recvmsg,
            "the client and what it passes, the order channel",
            [client, is!(2, flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC)],
            [order, is!(2, flags = MSG_CMSG_CLOEXEC)]
        ),
        call!(
            SYS_sendmsg,
            "the order channel",
            [order, is!(2, flags = MSG_NOSIGNAL)]
        ),
        call!(
            SYS_sendto,
            "the client, whom no descriptor reaches",
            [client, is!(3, flags = MSG_NOSIGNAL), null(4, "address")]
        ),
        call!(
            SYS_close,
            "locations; not what it sends to",
            [fd_from(0, FIRST_FREE)]
        ),
        call!(SYS_openat2, "granted locations; Landlock says which"),
        call!(
            SYS_setitimer,
            "the deadline of a request",
            [is!(0, which = ITIMER_REAL), null(2, "old")]
        ),
        call!(
            SYS_statx,
            "a probe: which mount it is, and whether its file system answers",
            [
                fd_from(0, FIRST_FREE),
                pinned(1, "path", EMPTY),
                is!(
                    2,
                    flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT
                )
            ],
            [
                fd_from(0, FIRST_FREE),
                pinned(1, "path", EMPTY),
                is!(
                    2,
                    flags = AT_EMPTY_PATH | AT_STATX_FORCE_SYNC | AT_NO_AUTOMOUNT
                )
            ]
        ),
    ]
}
