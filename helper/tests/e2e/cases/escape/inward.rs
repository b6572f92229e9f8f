//! Ways into the kernel, out of the confinement, and to other text in memory.

use nix::errno::Errno;
use nix::libc::{self, c_int};

use super::attempts::{Attempt, Expected, fails, int, killed, works};
use super::forms::Pinned;
use super::{Role, Scene};
use crate::puppet::Puppet;

/// The rest of what the kernel offers.
pub(super) fn attack_28_meets_no_more_of_the_kernel(
    puppet: &mut Puppet,
    _: &Scene<'_>,
    _: Role,
) -> Vec<Attempt> {
    let room = puppet.place(&[0; 256]);
    let empty = puppet.text("");
    let far = int(-1);
    [
        ("bpf", libc::SYS_bpf, vec![0, room, 32]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![1, room]),
        ("io_uring_enter", libc::SYS_io_uring_enter, vec![far]),
        ("io_uring_register", libc::SYS_io_uring_register, vec![far]),
        ("keyctl", libc::SYS_keyctl, vec![0, int(-3), 0]),
        ("add_key", libc::SYS_add_key, vec![empty, empty]),
        ("request_key", libc::SYS_request_key, vec![empty, empty]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            vec![room, 0, far, far],
        ),
        ("userfaultfd", libc::SYS_userfaultfd, vec![1]),
        ("init_module", libc::SYS_init_module, vec![room, 1, empty]),
        ("finit_module", libc::SYS_finit_module, vec![far, empty]),
        ("delete_module", libc::SYS_delete_module, vec![empty]),
        ("kexec_load", libc::SYS_kexec_load, vec![0, 0, 0, far]),
        (
            "kexec_file_load",
            libc::SYS_kexec_file_load,
            vec![far, far, 0, 0, far],
        ),
        ("reboot", libc::SYS_reboot, vec![]),
        ("swapon", libc::SYS_swapon, vec![empty]),
        ("swapoff", libc::SYS_swapoff, vec![empty]),
        ("acct", libc::SYS_acct, vec![empty]),
        ("syslog", libc::SYS_syslog, vec![2, room, 1]),
        ("iopl", libc::SYS_iopl, vec![3]),
        ("ioperm", libc::SYS_ioperm, vec![0, 1, 1]),
        ("modify_ldt", libc::SYS_modify_ldt, vec![0, room, 16]),
        ("arch_prctl", libc::SYS_arch_prctl, vec![0x1003, room]),
        ("sethostname", libc::SYS_sethostname, vec![room, far]),
        ("settimeofday", libc::SYS_settimeofday, vec![room, 0]),
        ("clock_settime", libc::SYS_clock_settime, vec![0, room]),
        ("personality", libc::SYS_personality, vec![0xffff_ffff]),
        ("vmsplice", libc::SYS_vmsplice, vec![far, room, 1]),
        ("splice", libc::SYS_splice, vec![far, 0, far]),
        ("futex", libc::SYS_futex, vec![room, 1]),
        ("membarrier", libc::SYS_membarrier, vec![]),
        ("ioctl", libc::SYS_ioctl, vec![far, 0x5412, room]),
    ]
    .into_iter()
    .map(|(what, number, arguments)| killed(what, number, &arguments))
    .collect()
}

/// Capabilities, identities, limits and the confinement itself.
pub(super) fn attack_28_regains_no_right(
    puppet: &mut Puppet,
    _: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    // `_LINUX_CAPABILITY_VERSION_3`, for this process; every capability.
    let header = puppet.words(&[0x2008_0522]);
    let every = puppet.words(&[u64::MAX; 3]);
    let more = puppet.words(&[4096, u64::MAX]);
    let room = puppet.place(&[0; 64]);
    let none = u64::from(u32::MAX);
    let mut attempts = vec![
        killed("capset", libc::SYS_capset, &[header, every]),
        killed("setuid", libc::SYS_setuid, &[0]),
        killed("setgid", libc::SYS_setgid, &[0]),
        killed("setreuid", libc::SYS_setreuid, &[none, none]),
        killed("setregid", libc::SYS_setregid, &[none, none]),
        killed("setresuid", libc::SYS_setresuid, &[none, none, none]),
        killed("setresgid", libc::SYS_setresgid, &[none, none, none]),
        killed("setfsuid", libc::SYS_setfsuid, &[0]),
        killed("setfsgid", libc::SYS_setfsgid, &[0]),
        killed("setgroups", libc::SYS_setgroups, &[0]),
        killed("setrlimit", libc::SYS_setrlimit, &[7, more]),
        killed("setsid", libc::SYS_setsid, &[]),
        killed("umask", libc::SYS_umask, &[0o77]),
    ];
    attempts.extend(changes_no_setting());
    attempts.extend(match role {
        Role::Gate | Role::Warden => gives_up_more(puppet, more),
        Role::Session | Role::Mounter | Role::Locker | Role::Bystander => vec![
            prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1, 0),
            killed("prlimit64", libc::SYS_prlimit64, &[0, 7, 0, room]),
            killed("seccomp", libc::SYS_seccomp, &[2, 0, room]),
            killed(
                "a ruleset",
                libc::SYS_landlock_create_ruleset,
                &[room, 8, 0],
            ),
        ],
    });
    // Whatever it put on top, the filter beneath decides.
    attempts.push(killed("socket", libc::SYS_socket, &[1, 1]));
    attempts
}

fn prctl(what: &str, option: c_int, first: u64, second: u64) -> Attempt {
    killed(what, libc::SYS_prctl, &[int(option), first, second, 0, 0])
}

fn changes_no_setting() -> Vec<Attempt> {
    vec![
        prctl("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS, 1, 0),
        prctl("PR_SET_SECUREBITS", libc::PR_SET_SECUREBITS, 0, 0),
        prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, 0, 0),
        prctl("PR_CAP_AMBIENT_RAISE", libc::PR_CAP_AMBIENT, 2, 21),
        prctl("PR_SET_SECCOMP", libc::PR_SET_SECCOMP, 9, 0),
        prctl("PR_SET_MM", libc::PR_SET_MM, 6, 0),
        prctl("PR_SET_PTRACER", libc::PR_SET_PTRACER, u64::MAX, 0),
        prctl("PR_SET_TSC", libc::PR_SET_TSC, 1, 0),
        prctl("a subreaper", libc::PR_SET_CHILD_SUBREAPER, 1, 0),
        prctl("speculation", libc::PR_SET_SPECULATION_CTRL, 0, 0),
        prctl("PR_SET_SYSCALL_USER_DISPATCH", 59, 9, 0),
        // A process that may be dumped may be traced.
        prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 1, 0),
        // By which each role looks at its own filter.
        Attempt {
            expected: Expected::Works,
            ..prctl("PR_GET_SECCOMP", libc::PR_GET_SECCOMP, 0, 0)
        },
    ]
}

/// What a child of theirs gives up on its way, gate and warden may give up themselves.
fn gives_up_more(puppet: &mut Puppet, more: u64) -> Vec<Attempt> {
    let allow_everything = puppet.words(&[0x7fff_0000_0000_0006]);
    let program = puppet.words(&[1, allow_everything]);
    // `LANDLOCK_ACCESS_FS_READ_FILE`
    let ruleset = puppet.words(&[4]);
    let mut attempts = vec![
        Attempt {
            expected: Expected::Works,
            ..prctl("PR_CAP_AMBIENT_CLEAR_ALL", libc::PR_CAP_AMBIENT, 4, 0)
        },
        Attempt {
            expected: Expected::Fails(Errno::EINVAL),
            ..prctl("new privileges", libc::PR_SET_NO_NEW_PRIVS, 0, 0)
        },
        Attempt {
            expected: Expected::Works,
            ..prctl("no dumps", libc::PR_SET_DUMPABLE, 0, 0)
        },
        killed("strict seccomp", libc::SYS_seccomp, &[0]),
        killed("more processes", libc::SYS_prlimit64, &[0, 6, more]),
        killed("a listener", libc::SYS_seccomp, &[1, 8, program]),
        works("a filter", libc::SYS_seccomp, &[1, 0, program]),
        works(
            "a ruleset",
            libc::SYS_landlock_create_ruleset,
            &[ruleset, 8],
        ),
    ];
    for (what, limit) in [
        ("heap", 2),
        ("core", 4),
        ("descriptors", 7),
        ("locked memory", 8),
    ] {
        attempts.push(fails(
            format!("more {what}"),
            libc::SYS_prlimit64,
            &[0, limit, more],
            Errno::EPERM,
        ));
    }
    attempts
}

/// Memory: neither new text nor another page in the place of a pinned one.
pub(super) fn attack_28_maps_nothing(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let page = match role {
        // The page of a pinned string.
        Role::Warden | Role::Mounter | Role::Locker => Pinned::of(puppet, scene).address(""),
        _ => puppet.place(&[0; 64]),
    };
    let page = page / 4096 * 4096;
    let name = puppet.text("memory");
    let none = int(-1);
    let anonymous = int(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let fixed = anonymous | int(libc::MAP_FIXED);
    vec![
        killed(
            "executable memory",
            libc::SYS_mmap,
            &[0, 4096, 7, anonymous, none],
        ),
        killed("memory", libc::SYS_mmap, &[0, 4096, 3, anonymous, none]),
        killed(
            "memory in the place of a page",
            libc::SYS_mmap,
            &[page, 4096, 3, fixed, none],
        ),
        killed("mprotect", libc::SYS_mprotect, &[page, 4096, 7]),
        killed(
            "pkey_mprotect",
            libc::SYS_pkey_mprotect,
            &[page, 4096, 7, none],
        ),
        killed(
            "mremap",
            libc::SYS_mremap,
            &[page, 4096, 8192, int(libc::MREMAP_MAYMOVE)],
        ),
        killed("munmap", libc::SYS_munmap, &[page, 4096]),
        killed("madvise", libc::SYS_madvise, &[page, 4096, 4]),
        killed(
            "remap_file_pages",
            libc::SYS_remap_file_pages,
            &[page, 4096],
        ),
        killed("mlock", libc::SYS_mlock, &[page, 4096]),
        killed("mseal", libc::SYS_mseal, &[page]),
        killed("map_shadow_stack", 453, &[0, 4096]),
        killed("shmget", libc::SYS_shmget, &[0, 4096, 0o600]),
        killed("shmat", libc::SYS_shmat, &[0]),
        killed("memfd_create", libc::SYS_memfd_create, &[name]),
        killed("memfd_secret", libc::SYS_memfd_secret, &[0]),
        killed("pkey_alloc", libc::SYS_pkey_alloc, &[0, 0]),
        if role == Role::Locker {
            killed("the heap's end", libc::SYS_brk, &[0])
        } else {
            works("the heap's end", libc::SYS_brk, &[0])
        },
    ]
}
