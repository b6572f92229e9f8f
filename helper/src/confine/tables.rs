//! The system calls of each role, each with the reason that it is there: here
//! what both halves have in common, in `unprivileged.rs` and `privileged.rs` the
//! rest of each half.
#![forbid(unsafe_code)]

mod locker;
mod mount_table;
mod privileged;
mod unprivileged;

use libc::{
    CLOCK_MONOTONIC, F_DUPFD_CLOEXEC, F_GETFD, MSG_DONTWAIT, MSG_NOSIGNAL, O_CLOEXEC,
    PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_READ, PR_GET_DUMPABLE,
    PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_NO_NEW_PRIVS,
    RLIMIT_CORE, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_NOFILE, SECCOMP_SET_MODE_FILTER, SIGABRT,
    SO_ACCEPTCONN, SO_PEERCRED, SO_PEERGROUPS, SO_TYPE, SOL_SOCKET, SYS_brk, SYS_capget,
    SYS_clock_gettime, SYS_clone, SYS_close, SYS_close_range, SYS_dup3, SYS_exit_group, SYS_fcntl,
    SYS_geteuid, SYS_getpeername, SYS_getpid, SYS_getsockname, SYS_getsockopt, SYS_gettid,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_ppoll, SYS_prctl, SYS_prlimit64,
    SYS_read, SYS_rt_sigprocmask, SYS_seccomp, SYS_sendmsg, SYS_set_robust_list, SYS_tgkill,
    SYS_wait4, SYS_write, WNOHANG,
};
use mountwarden_policy::Kinds;
use mountwarden_protocol::Role;

use self::locker::{locker, locker_beside, locker_detached, locker_idmap, locker_loop_device};
use self::privileged::{
    mounter_block, mounter_checks, mounter_contexts, mounter_device, mounter_fuse, mounter_fuseblk,
    mounter_handing, mounter_image, mounter_locker, mounter_loop_device, mounter_network,
    mounter_overlay, mounter_work, warden, warden_child,
};
use self::unprivileged::{gate, gate_child, session};
use super::entry::{Check, Entry, Int, Value, call, fd, int, is, long, no_flags, null};
use crate::table::Source;

/// Every kind that there is.
pub(super) const ALL_KINDS: Kinds = Kinds {
    block: true,
    fuse: true,
    overlay: true,
    image: true,
    loop_devices: true,
    network: true,
    detached: true,
    idmap: true,
    fuseblk: true,
};

/// Every set of kinds that a peer can have, of those that some are granted.
pub(super) fn sets_of(granted: Kinds) -> impl Iterator<Item = Kinds> {
    let sets = (0..512_u16).map(|set| Kinds {
        block: set & 1 != 0,
        fuse: set & 2 != 0,
        overlay: set & 4 != 0,
        image: set & 8 != 0,
        network: set & 16 != 0,
        detached: set & 32 != 0,
        idmap: set & 64 != 0,
        loop_devices: set & 128 != 0,
        fuseblk: set & 256 != 0,
    });
    sets.filter(move |set| {
        (granted.block || !set.block)
            && (granted.fuse || !set.fuse)
            && (granted.overlay || !set.overlay)
            && (granted.image || !set.image)
            && (granted.network || !set.network)
            && (granted.detached || !set.detached)
            && (granted.idmap || !set.idmap)
            && (granted.loop_devices && set.image || !set.loop_devices)
            && (granted.fuseblk && set.fuse || !set.fuseblk)
    })
}

/// The table of a role, where the mount table is asked in this way; of a mounter, for a
/// peer that is granted these kinds.
pub(super) fn of(role: Role, source: Source, kinds: Kinds) -> Vec<Entry> {
    let tables: &[fn() -> Vec<Entry>] = match role {
        Role::Gate => &[
            memory_and_time,
            every_role,
            closing,
            gate,
            forking,
            parent,
            child_setup,
            gate_child,
            session,
        ],
        Role::Session => &[memory_and_time, every_role, session],
        Role::Warden => &[
            memory_and_time,
            every_role,
            closing,
            warden,
            forking,
            parent,
            child_setup,
            warden_child,
            mounter_checks,
        ],
        Role::Mounter => &[memory_and_time, every_role, closing, mounter_checks],
        Role::Locker => &[every_role, closing, forking, locker],
    };
    let mut entries: Vec<Entry> = tables.iter().flat_map(|table| table()).collect();
    match role {
        Role::Warden | Role::Mounter => {
            entries.extend(mounter_work());
            entries.extend(granted(mounter_of_kinds(kinds)));
        }
        Role::Locker => entries.extend(granted(locker_of_kinds(kinds))),
        Role::Gate | Role::Session => {}
    }
    entries.extend(mount_table::of(role, source));
    if cfg!(debug_assertions) {
        entries.push(call!(
            SYS_fcntl,
            "std in debug builds: is a descriptor open",
            [is!(1, cmd = F_GETFD)]
        ));
    }
    entries
}

/// Calls that are there where one of some kinds is granted: which kinds, whether one is,
/// and the calls.
type OfKinds = (&'static str, bool, Vec<Entry>);

/// What a mounter does for a peer that is granted these kinds alone.
fn mounter_of_kinds(kinds: Kinds) -> Vec<OfKinds> {
    let contexts = kinds.block || kinds.fuse || kinds.overlay || kinds.image;
    vec![
        ("block, fuse, overlay, image", contexts, mounter_contexts()),
        ("block", kinds.block, mounter_block()),
        (
            "block, fuseblk",
            kinds.block || kinds.fuseblk,
            mounter_device(),
        ),
        ("fuse", kinds.fuse, mounter_fuse()),
        ("fuseblk", kinds.fuseblk, mounter_fuseblk()),
        ("overlay", kinds.overlay, mounter_overlay()),
        ("image", kinds.image, mounter_image()),
        ("network", kinds.network, mounter_network()),
        ("fuse, detached", kinds.hands_over(), mounter_handing()),
        (
            "detached, idmap, loop_devices",
            kinds.takes_locker(),
            mounter_locker(),
        ),
        ("loop_devices", kinds.loop_devices, mounter_loop_device()),
    ]
}

/// What the locker does where these kinds are granted.
fn locker_of_kinds(kinds: Kinds) -> Vec<OfKinds> {
    vec![
        ("detached", kinds.detached, locker_detached()),
        ("idmap", kinds.idmap, locker_idmap()),
        ("loop_devices", kinds.loop_devices, locker_loop_device()),
        (
            "idmap, loop_devices",
            kinds.idmap || kinds.loop_devices,
            locker_beside(),
        ),
    ]
}

fn granted(tables: Vec<OfKinds>) -> impl Iterator<Item = Entry> {
    tables
        .into_iter()
        .filter(|(_, is_granted, _)| *is_granted)
        .flat_map(|(kinds, _, table)| {
            table.into_iter().map(move |entry| Entry {
                granted: Some(kinds),
                ..entry
            })
        })
}

/// All but the locker, which asks for no memory beyond what it starts with, and for no
/// time but that of a line of the log.
fn memory_and_time() -> Vec<Entry> {
    vec![
        call!(SYS_brk, "the heap, which never uses mmap here"),
        call!(
            SYS_clock_gettime,
            "time, where the vDSO cannot tell it",
            [is!(0, clock = CLOCK_MONOTONIC)]
        ),
    ]
}

fn every_role() -> Vec<Entry> {
    vec![
        call!(SYS_exit_group, "the end"),
        call!(SYS_ppoll, "waiting"),
        call!(
            SYS_write,
            "the log; in gate and session, what the warden writes there",
            [fd(0, 2, "standard error")]
        ),
        call!(SYS_rt_sigprocmask, "libc: abort after a panic, fork"),
        call!(SYS_getpid, "the log; libc: abort"),
        call!(SYS_gettid, "libc: abort"),
        call!(SYS_tgkill, "libc: abort", [is!(2, signal = SIGABRT)]),
        call!(
            SYS_prctl,
            "the filter is read back",
            [is!(0, option = PR_GET_SECCOMP)]
        ),
    ]
}

/// All but a session close any descriptor.
fn closing() -> Vec<Entry> {
    vec![call!(SYS_close, "descriptors that were received")]
}

/// What all roles that fork do.
fn forking() -> Vec<Entry> {
    let fork =
        u64::from((libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID | libc::SIGCHLD).bits());
    vec![
        call!(
            SYS_clone,
            "fork, without a new namespace",
            [
                long(
                    0,
                    "flags",
                    fork,
                    "CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD"
                ),
                null(1, "stack")
            ]
        ),
        call!(SYS_set_robust_list, "libc: fork"),
    ]
}

/// What gate and warden do.
fn parent() -> Vec<Entry> {
    vec![
        call!(
            SYS_getsockopt,
            "who the peer is",
            [is!(1, level = SOL_SOCKET), is!(2, option = SO_TYPE)],
            [is!(1, level = SOL_SOCKET), is!(2, option = SO_ACCEPTCONN)],
            [is!(1, level = SOL_SOCKET), is!(2, option = SO_PEERCRED)],
            [is!(1, level = SOL_SOCKET), is!(2, option = SO_PEERGROUPS)]
        ),
        call!(SYS_getpeername, "which end of a connection it is"),
        call!(SYS_getsockname, "which socket the peer connected to"),
        call!(
            SYS_read,
            "signals, from a signalfd",
            [long(2, "count", 128, "sizeof(struct signalfd_siginfo)")]
        ),
        call!(
            SYS_sendmsg,
            "the channel between the halves; a last word to a client or a session",
            [is!(2, flags = MSG_NOSIGNAL)],
            [is!(2, flags = MSG_NOSIGNAL | MSG_DONTWAIT)]
        ),
        call!(
            SYS_wait4,
            "how a child ended",
            [
                int(0, "pid", u32::MAX, "any child"),
                is!(2, options = WNOHANG)
            ]
        ),
    ]
}

/// What a child does between the fork and its own, narrower filter.
fn child_setup() -> Vec<Entry> {
    vec![
        call!(SYS_capget, "capabilities are read back"),
        call!(SYS_close_range, "the parent's descriptors", [no_flags(2)]),
        call!(
            SYS_dup3,
            "descriptors to their fixed places",
            [is!(2, flags = O_CLOEXEC)]
        ),
        call!(
            SYS_fcntl,
            "descriptors out of the way of those places",
            [is!(1, cmd = F_DUPFD_CLOEXEC)]
        ),
        call!(SYS_geteuid, "the user is read back"),
        call!(
            SYS_landlock_create_ruleset,
            "the child's domain",
            [int(2, "flags", 1, "LANDLOCK_CREATE_RULESET_VERSION")],
            [no_flags(2)]
        ),
        call!(
            SYS_landlock_restrict_self,
            "the child's domain",
            [no_flags(1)]
        ),
        call!(
            SYS_prlimit64,
            "limits are lowered and read back",
            [int(0, "pid", 0, "itself"), is!(1, resource = RLIMIT_CORE)],
            [
                int(0, "pid", 0, "itself"),
                is!(1, resource = RLIMIT_MEMLOCK)
            ],
            [int(0, "pid", 0, "itself"), is!(1, resource = RLIMIT_DATA)],
            [int(0, "pid", 0, "itself"), is!(1, resource = RLIMIT_NOFILE)]
        ),
        call!(
            SYS_prctl,
            "each setting of a child, and reading it back",
            [is!(0, option = PR_GET_DUMPABLE)],
            [
                is!(0, option = PR_SET_DUMPABLE),
                long(1, "dumpable", 0, "0")
            ],
            [is!(0, option = PR_SET_NAME)],
            [is!(0, option = PR_CAPBSET_READ)],
            [is!(0, option = PR_SET_NO_NEW_PRIVS)],
            [is!(0, option = PR_GET_NO_NEW_PRIVS)],
            [
                is!(0, option = PR_CAP_AMBIENT),
                is!(1, action = PR_CAP_AMBIENT_CLEAR_ALL)
            ]
        ),
        call!(
            SYS_seccomp,
            "the child's filter",
            [is!(0, operation = SECCOMP_SET_MODE_FILTER), no_flags(1)]
        ),
    ]
}
