//! Ways out: paths, sockets, programs, namespaces.

use nix::errno::Errno;
use nix::libc::{self, c_int};

use super::attempts::{Attempt, Expected, int, killed, passes, works};
use super::{Role, Scene};
use crate::puppet::{FORK, Puppet};

const HERE: c_int = libc::AT_FDCWD;

/// A `struct open_how`.
fn how(flags: c_int) -> [u64; 3] {
    let mode = if flags & (libc::O_CREAT | libc::O_TMPFILE) == 0 {
        0
    } else {
        0o600
    };
    [int(flags), mode, 0]
}

fn open(puppet: &mut Puppet, path: &str, flags: c_int) -> [u64; 4] {
    let (path, how) = (puppet.text(path), puppet.words(&how(flags)));
    [int(HERE), path, how, 24]
}

/// Paths, other than through a descriptor that the role was given.
pub(super) fn attack_28_opens_no_path(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let secret = puppet.text("/etc/passwd");
    let new = puppet.text(scene.text("src/new"));
    let empty = puppet.text("");
    let room = puppet.place(&[0; 512]);
    let here = int(HERE);
    let mut attempts = vec![
        killed("open", libc::SYS_open, &[secret]),
        killed("openat", libc::SYS_openat, &[here, secret]),
        killed("creat", libc::SYS_creat, &[new, 0o600]),
        killed(
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            &[here, room],
        ),
        killed(
            "name_to_handle_at",
            libc::SYS_name_to_handle_at,
            &[here, secret, room, room],
        ),
        killed("stat", libc::SYS_stat, &[secret, room]),
        killed("access", libc::SYS_access, &[secret]),
        killed("readlink", libc::SYS_readlink, &[secret, room, 64]),
        killed("getxattr", libc::SYS_getxattr, &[secret, empty, room, 64]),
        killed("setxattr", libc::SYS_setxattr, &[secret, empty, room, 64]),
        killed("chdir", libc::SYS_chdir, &[secret]),
        killed("mkdir", libc::SYS_mkdir, &[new, 0o700]),
        killed("unlink", libc::SYS_unlink, &[new]),
        killed("rename", libc::SYS_rename, &[new, new]),
        killed("link", libc::SYS_link, &[secret, new]),
        killed("symlink", libc::SYS_symlink, &[secret, new]),
        killed("truncate", libc::SYS_truncate, &[new]),
        killed("chmod", libc::SYS_chmod, &[new]),
        killed("chown", libc::SYS_chown, &[new]),
        killed("mknod", libc::SYS_mknod, &[new, 0o600]),
        killed("getdents64", libc::SYS_getdents64, &[4, room, 512]),
        killed("inotify_init1", libc::SYS_inotify_init1, &[]),
        killed("fanotify_init", libc::SYS_fanotify_init, &[]),
    ];
    let [gate, session, warden, mounter] = scene.processes;
    match role {
        Role::Warden | Role::Mounter | Role::Locker => {
            let read = open(puppet, "/etc/passwd", libc::O_RDONLY);
            attempts.push(killed("openat2", libc::SYS_openat2, &read));
        }
        Role::Gate | Role::Session => {
            let mut openat2 = |path: &str, flags, expected| {
                let arguments = open(puppet, path, flags);
                attempts.push(Attempt {
                    expected,
                    ..killed(
                        format!("openat2 {path} {flags:o}"),
                        libc::SYS_openat2,
                        &arguments,
                    )
                });
            };
            let denied = Expected::Fails(Errno::EACCES);
            for path in ["/", "/etc/passwd", "/proc/self/mem"] {
                openat2(path, libc::O_RDONLY, denied);
            }
            // It is a socket.
            for flags in [libc::O_RDONLY, libc::O_WRONLY] {
                openat2("/proc/self/fd/2", flags, Expected::Fails(Errno::ENXIO));
            }
            openat2(&scene.text("policy.toml"), libc::O_RDONLY, denied);
            for process in [gate, session, warden, mounter] {
                openat2(&format!("/proc/{process}/mem"), libc::O_RDONLY, denied);
                openat2(&format!("/proc/{process}/environ"), libc::O_RDONLY, denied);
            }
            let (directory, file) = (scene.text("src/data"), scene.text("src/data/file"));
            openat2(&file, libc::O_RDONLY, Expected::Works);
            openat2(&directory, libc::O_RDONLY, Expected::Works);
            for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_WRONLY | libc::O_TRUNC] {
                openat2(&file, flags, denied);
            }
            if scene.abi >= 3 {
                openat2(&file, libc::O_RDONLY | libc::O_TRUNC, denied);
            }
            openat2(&directory, libc::O_RDWR | libc::O_TMPFILE, denied);
            openat2(
                &scene.text("src/new"),
                libc::O_WRONLY | libc::O_CREAT,
                denied,
            );
            // Landlock does not look at `O_PATH`; see `further::attack_28_an_unopened_path_leads_nowhere`.
            openat2("/etc", libc::O_PATH, Expected::Works);
        }
        Role::Bystander => {
            let read = open(puppet, "/etc/passwd", libc::O_RDONLY);
            attempts.push(works("openat2", libc::SYS_openat2, &read));
        }
    }
    attempts
}

/// Sockets of every family.
pub(super) fn attack_28_makes_no_socket(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let room = puppet.place(&[0; 128]);
    let mut address = vec![1, 0];
    address.extend(scene.text("run/sock").bytes());
    let size = u64::try_from(address.len() + 1).unwrap();
    let address = puppet.text(address);
    let (unix, stream) = (int(libc::AF_UNIX), int(libc::SOCK_STREAM));
    // `AF_UNSPEC` to beyond `AF_MCTP`, the last.
    let mut attempts: Vec<Attempt> = (0..=46)
        .map(|family| {
            killed(
                format!("socket of family {family}"),
                libc::SYS_socket,
                &[family, stream],
            )
        })
        .collect();
    attempts.extend([
        killed("connect", libc::SYS_connect, &[3, address, size]),
        killed("bind", libc::SYS_bind, &[3, address, size]),
        killed("listen", libc::SYS_listen, &[3, 1]),
        killed("accept", libc::SYS_accept, &[3]),
        killed(
            "sendto",
            libc::SYS_sendto,
            &[3, room, 0, int(libc::MSG_NOSIGNAL), address, size],
        ),
        killed("recvfrom", libc::SYS_recvfrom, &[3, room, 1, 0x40]),
        killed("sendmmsg", libc::SYS_sendmmsg, &[3, room]),
        killed("recvmmsg", libc::SYS_recvmmsg, &[3, room, 0, 0x40]),
        killed("shutdown", libc::SYS_shutdown, &[3, 7]),
        killed("pipe2", libc::SYS_pipe2, &[room]),
        killed("eventfd2", libc::SYS_eventfd2, &[]),
        killed("epoll_create1", libc::SYS_epoll_create1, &[]),
        killed("ioctl", libc::SYS_ioctl, &[3, 0x541b, room]),
    ]);
    let other_end = [3, room, room];
    attempts.push(match role {
        // It changes nothing, and tells a peer from a socket that was made up.
        Role::Gate | Role::Warden => passes("getpeername", libc::SYS_getpeername, &other_end),
        _ => killed("getpeername", libc::SYS_getpeername, &other_end),
    });
    let pair = |kind: c_int| [unix, int(kind), 0, room];
    // The one pair that the gate makes cannot be sent to an address, as a datagram can.
    if role == Role::Gate {
        let order = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        attempts.push(works(
            "an order channel",
            libc::SYS_socketpair,
            &pair(order),
        ));
        // `SO_ATTACH_FILTER` loads a program into the kernel.
        attempts.push(killed(
            "a socket filter",
            libc::SYS_setsockopt,
            &[3, 1, 26, room, 16],
        ));
        attempts.push(works(
            "a timeout",
            libc::SYS_setsockopt,
            &[3, 1, int(libc::SO_SNDTIMEO), room, 16],
        ));
    } else {
        attempts.push(killed(
            "an order channel",
            libc::SYS_socketpair,
            &pair(libc::SOCK_SEQPACKET),
        ));
    }
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        attempts.push(killed(
            format!("a pair of kind {kind}"),
            libc::SYS_socketpair,
            &pair(kind),
        ));
    }
    attempts
}

/// Programs and processes.
pub(super) fn attack_28_starts_nothing(
    puppet: &mut Puppet,
    _: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let program = puppet.text("/bin/true");
    let empty = puppet.text("");
    let none = puppet.words(&[0]);
    let new = puppet.words(&[0, 0, 0, 0, 17, 0, 0, 0]);
    let mut attempts = vec![
        killed("execve", libc::SYS_execve, &[program, none, none]),
        killed(
            "execveat",
            libc::SYS_execveat,
            &[2, empty, none, none, 0x1000],
        ),
        killed("fork", libc::SYS_fork, &[]),
        killed("vfork", libc::SYS_vfork, &[]),
        killed("clone3", libc::SYS_clone3, &[new, 64]),
    ];
    for (name, flags) in [
        ("clone in a time namespace", FORK | 0x80),
        (
            "clone of the memory",
            FORK | int(libc::CLONE_VM | libc::CLONE_VFORK),
        ),
        (
            "clone of the descriptors",
            FORK | int(libc::CLONE_FILES | libc::CLONE_FS),
        ),
        ("clone for another parent", FORK | int(libc::CLONE_PARENT)),
        ("clone without a signal", FORK & !0xff),
        ("clone with high bits", FORK | 1 << 32),
    ] {
        attempts.push(killed(name, libc::SYS_clone, &[flags]));
    }
    for (name, flag) in NAMESPACES {
        attempts.push(killed(
            format!("clone in a {name} namespace"),
            libc::SYS_clone,
            &[FORK | int(flag)],
        ));
    }
    attempts.push(
        if matches!(role, Role::Gate | Role::Warden | Role::Locker) {
            works("fork by clone", libc::SYS_clone, &[FORK])
        } else {
            killed("fork by clone", libc::SYS_clone, &[FORK])
        },
    );
    attempts
}

const NAMESPACES: [(&str, c_int); 7] = [
    ("mount", libc::CLONE_NEWNS),
    ("user", libc::CLONE_NEWUSER),
    ("pid", libc::CLONE_NEWPID),
    ("network", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Namespaces, and mount calls that no role needs.
pub(super) fn attack_28_enters_no_namespace(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let tmpfs = puppet.text("tmpfs");
    let target = puppet.text(scene.text("mnt/a"));
    let empty = puppet.text("");
    let room = puppet.place(&[0; 64]);
    let here = int(HERE);
    let mut attempts: Vec<Attempt> = NAMESPACES
        .iter()
        .flat_map(|&(name, flag)| {
            // What is on its mounts it made itself.
            let its_own = role == Role::Locker && flag == libc::CLONE_NEWNS;
            let unshare = format!("unshare the {name} namespace");
            [
                if its_own {
                    works(unshare, libc::SYS_unshare, &[int(flag)])
                } else {
                    killed(unshare, libc::SYS_unshare, &[int(flag)])
                },
                killed(
                    format!("setns to a {name} namespace"),
                    libc::SYS_setns,
                    &[3, int(flag)],
                ),
            ]
        })
        .collect();
    if role == Role::Locker {
        let namespace = [4, int(libc::CLONE_NEWUSER)];
        let both = int(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
        attempts.extend([
            works("its user namespace", libc::SYS_setns, &namespace),
            killed(
                "the helper's",
                libc::SYS_setns,
                &[5, int(libc::CLONE_NEWUSER)],
            ),
            killed(
                "what came, as mounts",
                libc::SYS_setns,
                &[7, int(libc::CLONE_NEWNS)],
            ),
            killed("both namespaces", libc::SYS_unshare, &[both]),
            // What it has entered gives it every capability, and no call more.
            killed("chroot", libc::SYS_chroot, &[target]),
        ]);
    }
    attempts.extend([
        killed("mount", libc::SYS_mount, &[tmpfs, target, tmpfs, 0, 0]),
        killed("umount2", libc::SYS_umount2, &[target, 0]),
        killed("pivot_root", libc::SYS_pivot_root, &[target, target]),
        killed("chroot", libc::SYS_chroot, &[target]),
        killed("fspick", libc::SYS_fspick, &[here, target]),
        killed("open_tree", libc::SYS_open_tree, &[here, target, 1]),
        killed("open_tree_attr", 467, &[here, target, 1, room, 32]),
        killed("fsopen", libc::SYS_fsopen, &[tmpfs, 1]),
        killed("quotactl", libc::SYS_quotactl, &[0, target]),
        killed("quotactl_fd", libc::SYS_quotactl_fd, &[3]),
        killed("listns", 470, &[room, room]),
    ]);
    if matches!(role, Role::Gate | Role::Session | Role::Bystander) {
        attempts.extend([
            killed("fsconfig", libc::SYS_fsconfig, &[3, 6]),
            killed("fsmount", libc::SYS_fsmount, &[3, 1]),
            killed(
                "move_mount",
                libc::SYS_move_mount,
                &[3, empty, 3, empty, 0x44],
            ),
            killed(
                "mount_setattr",
                libc::SYS_mount_setattr,
                &[3, empty, 0x1000, room, 32],
            ),
        ]);
    }
    attempts
}
