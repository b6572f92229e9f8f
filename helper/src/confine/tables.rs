//! The system calls of each role, each with the reason that it is there.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use libc::{
    AF_UNIX, AT_FDCWD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETLKW, SECCOMP_SET_MODE_FILTER,
    SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, SYS_accept4, SYS_brk, SYS_capget,
    SYS_clock_gettime, SYS_clone, SYS_close, SYS_close_range, SYS_dup3, SYS_exit_group, SYS_fchdir,
    SYS_fcntl, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fstat, SYS_fstatfs, SYS_geteuid,
    SYS_getpid, SYS_getppid, SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_kill,
    SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self,
    SYS_mount_setattr, SYS_move_mount, SYS_newfstatat, SYS_open_tree, SYS_openat, SYS_openat2,
    SYS_ppoll, SYS_prctl, SYS_prlimit64, SYS_read, SYS_readlinkat, SYS_recvmsg, SYS_rt_sigprocmask,
    SYS_seccomp, SYS_sendmsg, SYS_set_robust_list, SYS_setitimer, SYS_setsockopt, SYS_socketpair,
    SYS_statx, SYS_tgkill, SYS_umount2, SYS_wait4, SYS_write,
};
use mountwarden_protocol::Role;

use crate::mounter::layout;
use crate::sys::mount::{self, SYS_LISTMOUNT, SYS_STATMOUNT};
use crate::sys::pinned;
use crate::sys::pinned::Slot;

/// One system call of a table.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) number: i64,
    /// Why the role needs it.
    pub(super) why: &'static str,
    /// Any of these must hold; with none of them, every argument is allowed.
    pub(super) rules: Vec<Vec<Check>>,
}

/// What an argument must be.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// The argument's low 32 bits, which is all that the kernel reads of an `int`.
    Number(u8, u32),
    /// The whole argument.
    Pointer(u8, u64),
}

use Check::{Number, Pointer};

/// `call!(SYS_name, "reason")` for any arguments, or with rules:
/// `call!(SYS_name, "reason", [check, check], [check])`.
macro_rules! call {
    ($number:ident, $why:literal $(, [$($check:expr),+])*) => {
        Entry {
            name: stringify!($number),
            number: $number,
            why: $why,
            rules: vec![$(vec![$($check),+]),*],
        }
    };
}

/// The table of a role.
pub(super) fn of(role: Role) -> Vec<Entry> {
    let tables: &[fn() -> Vec<Entry>] = match role {
        Role::Gate => &[every_role, gate, parent, child_setup, session],
        Role::Session => &[every_role, session],
        Role::Warden => &[
            every_role,
            warden,
            parent,
            child_setup,
            mounter_checks,
            mounter_work,
        ],
        Role::Mounter => &[every_role, mounter_checks, mounter_work],
    };
    let mut entries: Vec<Entry> = tables.iter().flat_map(|table| table()).collect();
    if cfg!(debug_assertions) {
        let get = F_GETFD.cast_unsigned();
        entries.push(call!(
            SYS_fcntl,
            "std in debug builds: is a descriptor open",
            [Number(1, get)]
        ));
    }
    entries
}

/// The tables of all roles, for a person who reviews them.
pub(crate) fn describe() -> String {
    let mut text = String::new();
    for role in [Role::Gate, Role::Session, Role::Warden, Role::Mounter] {
        let _ = writeln!(text, "{role}");
        for entry in of(role) {
            let name = entry.name.trim_start_matches("SYS_").to_lowercase();
            let arguments = match entry.rules.len() {
                0 => "any arguments".to_owned(),
                1 => "1 form".to_owned(),
                forms => format!("{forms} forms"),
            };
            let _ = writeln!(text, "  {name:<26} {arguments:<14} {}", entry.why);
        }
    }
    text
}

fn every_role() -> Vec<Entry> {
    vec![
        call!(SYS_brk, "the heap, which never uses mmap here"),
        call!(SYS_clock_gettime, "time, where the vDSO cannot tell it"),
        call!(SYS_close, "descriptors that were received"),
        call!(SYS_exit_group, "the end"),
        call!(SYS_ppoll, "waiting"),
        call!(SYS_write, "the log", [Number(0, 2)]),
        call!(SYS_rt_sigprocmask, "libc: abort after a panic, fork"),
        call!(SYS_getpid, "the log; libc: abort"),
        call!(SYS_gettid, "libc: abort"),
        call!(SYS_tgkill, "libc: abort", [Number(2, 6)]),
        call!(SYS_prctl, "the filter is read back", [Number(0, 21)]),
    ]
}

/// What both roles that fork do.
fn parent() -> Vec<Entry> {
    vec![
        call!(
            SYS_clone,
            "fork, without a new namespace",
            [Pointer(0, 0x0120_0011)]
        ),
        call!(SYS_getsockopt, "who the peer is"),
        call!(SYS_getsockname, "which socket the peer connected to"),
        call!(SYS_read, "signals, from a signalfd"),
        call!(SYS_recvmsg, "the channel between the halves"),
        call!(SYS_sendmsg, "the channel between the halves; a refusal"),
        call!(SYS_set_robust_list, "libc: fork"),
        call!(SYS_wait4, "how a child ended"),
    ]
}

/// What a child does between the fork and its own, narrower filter.
fn child_setup() -> Vec<Entry> {
    vec![
        call!(SYS_capget, "capabilities are read back"),
        call!(SYS_close_range, "the parent's descriptors"),
        call!(SYS_dup3, "descriptors to their fixed places"),
        call!(
            SYS_fcntl,
            "descriptors out of the way of fixed places",
            [Number(1, F_DUPFD_CLOEXEC.cast_unsigned())]
        ),
        call!(SYS_geteuid, "the user is read back"),
        call!(SYS_getppid, "a parent that has gone"),
        call!(SYS_landlock_create_ruleset, "the child's domain"),
        call!(SYS_landlock_add_rule, "the child's domain"),
        call!(SYS_landlock_restrict_self, "the child's domain"),
        // Another process's limits could end it, past what Landlock says of signals.
        call!(
            SYS_prlimit64,
            "its own limits are lowered and read back",
            [Number(0, 0)]
        ),
        call!(
            SYS_prctl,
            "each setting of a child, and reading it back",
            [Number(0, 1)],               // PR_SET_PDEATHSIG
            [Number(0, 3)],               // PR_GET_DUMPABLE
            [Number(0, 4), Number(1, 0)], // PR_SET_DUMPABLE
            [Number(0, 15)],              // PR_SET_NAME
            [Number(0, 23)],              // PR_CAPBSET_READ
            [Number(0, 38)],              // PR_SET_NO_NEW_PRIVS
            [Number(0, 39)],              // PR_GET_NO_NEW_PRIVS
            [Number(0, 47)]               // PR_CAP_AMBIENT
        ),
        call!(
            SYS_seccomp,
            "the child's filter",
            [Number(0, SECCOMP_SET_MODE_FILTER), Number(1, 0)]
        ),
    ]
}

fn gate() -> Vec<Entry> {
    vec![
        call!(SYS_accept4, "connections"),
        call!(SYS_newfstatat, "the type of a granted root"),
        call!(SYS_fstat, "the type of a granted root"),
        call!(
            SYS_setsockopt,
            "how long a write to a client may take",
            [
                Number(1, SOL_SOCKET.cast_unsigned()),
                Number(2, SO_SNDTIMEO.cast_unsigned())
            ]
        ),
        // A datagram socket could send to any address in the file tree.
        call!(
            SYS_socketpair,
            "an order channel for each connection",
            [
                Number(0, AF_UNIX.cast_unsigned()),
                Number(1, (SOCK_SEQPACKET | SOCK_CLOEXEC).cast_unsigned())
            ]
        ),
    ]
}

fn session() -> Vec<Entry> {
    vec![
        call!(SYS_recvmsg, "the client, the order channel"),
        call!(SYS_sendmsg, "the client, the order channel"),
        call!(SYS_openat2, "granted locations; Landlock says which"),
        call!(SYS_setitimer, "the deadline of a request"),
        call!(SYS_STATMOUNT, "the list of the peer's mounts"),
        call!(SYS_LISTMOUNT, "the list of the peer's mounts"),
    ]
}

fn warden() -> Vec<Entry> {
    vec![
        call!(
            SYS_kill,
            "mounters are told to stop; a child tries its domain",
            [Number(1, 0)],
            [Number(1, 9)],
            [Number(1, 15)]
        ),
        call!(
            SYS_openat,
            "a mounter's own /proc/self/fd",
            [
                Number(0, AT_FDCWD.cast_unsigned()),
                Pointer(1, pinned::PROC_SELF_FD.address()),
                Number(2, mount::OPEN_PROC.cast_unsigned())
            ]
        ),
    ]
}

/// How a mounter hears and checks an order.
fn mounter_checks() -> Vec<Entry> {
    let empty = pinned::EMPTY.address();
    let name = pinned::name_buffer_address();
    let [directory, target, source, mounted] = Slot::ALL.map(|slot| slot.link().address());
    let [directory_fd, target_fd, source_fd, mounted_fd] =
        Slot::ALL.map(|slot| slot.number().cast_unsigned());
    let order = layout::ORDER.cast_unsigned();
    let proc = layout::PROC.cast_unsigned();
    vec![
        call!(
            SYS_dup3,
            "a received descriptor to its slot",
            [Number(1, source_fd)],
            [Number(1, target_fd)],
            [Number(1, mounted_fd)],
            [Number(1, directory_fd)]
        ),
        call!(
            SYS_fcntl,
            "how a location was opened; the lock of a target",
            [Number(1, F_GETFL.cast_unsigned())],
            [
                Number(0, layout::LOCK.cast_unsigned()),
                Number(1, F_SETLKW.cast_unsigned())
            ]
        ),
        call!(SYS_fstatfs, "the limits of the tmpfs that a target holds"),
        call!(
            SYS_LISTMOUNT,
            "what a recursive bind holds; how many mounts a user has"
        ),
        call!(
            SYS_readlinkat,
            "the path of a slot",
            [Number(0, proc), Pointer(1, source)],
            [Number(0, proc), Pointer(1, target)],
            [Number(0, proc), Pointer(1, mounted)],
            [Number(0, proc), Pointer(1, directory)]
        ),
        call!(SYS_recvmsg, "orders", [Number(0, order)]),
        call!(SYS_sendmsg, "replies", [Number(0, order)]),
        call!(SYS_setitimer, "the deadline of a request"),
        call!(
            SYS_STATMOUNT,
            "what a mount is, and whether it is in this namespace"
        ),
        call!(
            SYS_statx,
            "a descriptor, or the name of a target",
            [
                Pointer(1, empty),
                Number(2, mount::STATX_FD_FLAGS.cast_unsigned())
            ],
            [
                Pointer(1, name),
                Number(2, mount::STATX_NAME_FLAGS.cast_unsigned())
            ]
        ),
    ]
}

/// What a mounter does to the mount table.
fn mounter_work() -> Vec<Entry> {
    let empty = pinned::EMPTY.address();
    let name = pinned::name_buffer_address();
    let mounted = Slot::Mount.link().address();
    let one = mount::EMPTY_PATH;
    let tree = mount::EMPTY_PATH | mount::RECURSIVE;
    let size = mount::MOUNT_ATTR_SIZE;
    let mut fsconfig = call!(
        SYS_fsconfig,
        "the options of a tmpfs, by pinned keys",
        [
            Number(1, mount::FSCONFIG_CMD_CREATE),
            Pointer(2, 0),
            Pointer(3, 0)
        ]
    );
    for key in pinned::TMPFS_KEYS {
        let set = vec![
            Number(1, mount::FSCONFIG_SET_STRING),
            Pointer(2, key.address()),
        ];
        fsconfig.rules.push(set);
    }
    vec![
        call!(SYS_fchdir, "the directory above a target"),
        fsconfig,
        call!(
            SYS_fsmount,
            "a detached mount of a tmpfs",
            [Number(1, mount::FSMOUNT_CLOEXEC)]
        ),
        call!(
            SYS_fsopen,
            "a tmpfs",
            [
                Pointer(0, pinned::TMPFS.address()),
                Number(1, mount::FSOPEN_CLOEXEC)
            ]
        ),
        call!(
            SYS_mount_setattr,
            "attributes, which are only ever added",
            [Pointer(1, empty), Number(2, one), Pointer(4, size)],
            [Pointer(1, empty), Number(2, tree), Pointer(4, size)]
        ),
        call!(
            SYS_move_mount,
            "attach, descriptor to descriptor",
            [
                Pointer(1, empty),
                Pointer(3, empty),
                Number(4, mount::MOVE_MOUNT)
            ]
        ),
        call!(
            SYS_open_tree,
            "a detached clone of the source",
            [Pointer(1, empty), Number(2, mount::OPEN_TREE)],
            [Pointer(1, empty), Number(2, mount::OPEN_TREE_RECURSIVE)]
        ),
        call!(
            SYS_umount2,
            "end a mount by its name, or a failed one by its slot",
            [Pointer(0, name), Number(1, mount::UMOUNT.cast_unsigned())],
            [
                Pointer(0, name),
                Number(1, mount::UMOUNT_LAZY.cast_unsigned())
            ],
            [
                Pointer(0, mounted),
                Number(1, mount::UMOUNT_SLOT.cast_unsigned())
            ]
        ),
    ]
}
