//! The calls that a filter allows in some forms only: each form, and what lies next to it.

use nix::libc::{self, c_long};

use super::attempts::{Attempt, int, killed, passes, works};
use super::{Role, Scene};
use crate::puppet::Puppet;

/// The addresses that the filters of warden and mounter name.
pub(super) struct Pinned {
    pub(super) empty: u64,
    proc_self_fd: u64,
    tmpfs: u64,
    keys: [u64; 6],
    links: [u64; 4],
    pub(super) name: u64,
}

impl Pinned {
    pub(super) fn of(puppet: &Puppet, scene: &Scene<'_>) -> Self {
        let symbols = scene.symbols();
        let base = puppet.base(&scene.sandbox.helper());
        // A `&CStr` begins with its address.
        let string =
            |path: &str, index: u64| puppet.word(base + symbols.address(path) + 16 * index);
        Self {
            empty: string("6pinned5EMPTY", 0),
            proc_self_fd: string("6pinned12PROC_SELF_FD", 0),
            tmpfs: string("6pinned5TMPFS", 0),
            keys: [0, 1, 2, 3, 4, 5].map(|index| string("6pinned10TMPFS_KEYS", index)),
            links: [0, 1, 2, 3].map(|index| string("4Slot4link5LINKS", index)),
            name: base + symbols.address("6pinned4NAME"),
        }
    }
}

const HERE: i32 = libc::AT_FDCWD;
const NOBODY: i32 = -1;
/// Bits that the kernel does not read of an `int`.
const HIGH: u64 = 0xdead_beef << 32;

/// One call, its allowed forms, and forms that differ from one of them in one argument.
struct Call {
    name: &'static str,
    number: c_long,
    allowed: Vec<Vec<u64>>,
    refused: Vec<Vec<u64>>,
}

impl Call {
    fn new(name: &'static str, number: c_long) -> Self {
        let (allowed, refused) = (Vec::new(), Vec::new());
        Self {
            name,
            number,
            allowed,
            refused,
        }
    }

    fn allow(mut self, arguments: &[u64]) -> Self {
        self.allowed.push(arguments.to_vec());
        self
    }

    /// Every form that has one of `values` for an argument of the last allowed form.
    fn but(mut self, argument: usize, values: impl IntoIterator<Item = u64>) -> Self {
        for value in values {
            let mut form = self.allowed.last().unwrap().clone();
            form[argument] = value;
            self.refused.push(form);
        }
        self
    }
}

/// Pointers that lead elsewhere, and the flags, commands and sizes that nobody uses.
pub(super) fn passes_no_other_pointer(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let pinned = Pinned::of(puppet, scene);
    let mut calls = making(puppet, &pinned);
    calls.extend(placing(puppet, scene, &pinned));
    calls.extend(looking(puppet, &pinned));
    if role == Role::Mounter {
        calls.extend(of_a_mounter_alone(puppet));
    }
    let form = |call: &Call, arguments: &[u64]| format!("{} {arguments:x?}", call.name);
    // What is allowed comes first: all of it is one process's.
    let mut attempts: Vec<Attempt> = Vec::new();
    for call in &calls {
        for arguments in &call.allowed {
            attempts.push(passes(form(call, arguments), call.number, arguments));
        }
    }
    if role == Role::Warden {
        let own = [int(HERE), pinned.proc_self_fd, 0x29_0000];
        attempts.push(works("its own descriptors", libc::SYS_openat, &own));
    }
    for call in &calls {
        for arguments in &call.refused {
            attempts.push(killed(form(call, arguments), call.number, arguments));
        }
    }
    attempts
}

/// What makes a mount.
fn making(puppet: &mut Puppet, pinned: &Pinned) -> Vec<Call> {
    let none = int(NOBODY);
    let empty = [
        puppet.text(""),
        puppet.text("/etc"),
        pinned.empty + 1,
        pinned.empty ^ 1 << 63,
    ];
    let tmpfs = [
        puppet.text("tmpfs"),
        puppet.text("ext4"),
        pinned.empty,
        pinned.name,
    ];
    let key = [puppet.text("source"), pinned.tmpfs, pinned.name, 0];
    let value = puppet.text("1");
    let attributes = puppet.place(&[0; 64]);
    let mut calls = vec![
        Call::new("fsopen", libc::SYS_fsopen)
            .allow(&[pinned.tmpfs, 1])
            .but(0, tmpfs)
            .but(1, [0, 2])
            .allow(&[pinned.tmpfs, 1 | HIGH]),
        Call::new("fsmount", libc::SYS_fsmount)
            .allow(&[none, 1, 0])
            .but(1, [0, 2])
            .allow(&[none, 1 | HIGH, u64::MAX]),
        // `AT_EMPTY_PATH`, without and with `AT_RECURSIVE`.
        Call::new("mount_setattr", libc::SYS_mount_setattr)
            .allow(&[none, pinned.empty, 0x9000, attributes, 32])
            .allow(&[none, pinned.empty, 0x1000, attributes, 32])
            .but(1, empty)
            .but(2, [0, 0x100, 0x8000, 0x1100])
            .but(4, [0, 24, 40, 32 | 1 << 32]),
        // `OPEN_TREE_CLONE`, `OPEN_TREE_CLOEXEC` and those two.
        Call::new("open_tree", libc::SYS_open_tree)
            .allow(&[none, pinned.empty, 0x8_9001])
            .allow(&[none, pinned.empty, 0x8_1001])
            .but(1, empty)
            .but(
                2,
                [0, 1, 0x1000, 0x8_1000, 0x8_0001, 0x1001, 0x8_1101, 0x8_1003],
            ),
        Call::new("fsconfig CREATE", libc::SYS_fsconfig)
            .allow(&[none, 6, 0, 0, 0])
            .but(2, [value, pinned.keys[0]])
            .but(3, [value]),
    ];
    for pinned_key in pinned.keys {
        calls.push(
            // `FSCONFIG_SET_FLAG`, `SET_BINARY`, `SET_PATH`, `SET_PATH_EMPTY`, `SET_FD`,
            // `CMD_RECONFIGURE`, `CMD_CREATE_EXCL`.
            Call::new("fsconfig SET_STRING", libc::SYS_fsconfig)
                .allow(&[none, 1, pinned_key, value, 0])
                .but(1, [0, 2, 3, 4, 5, 6, 7, 8])
                .but(2, key)
                .but(2, [pinned_key + 1, pinned_key ^ 1 << 32]),
        );
    }
    calls
}

/// What attaches and detaches.
fn placing(puppet: &mut Puppet, scene: &Scene<'_>, pinned: &Pinned) -> Vec<Call> {
    let none = int(NOBODY);
    let target = puppet.text(scene.text("mnt/a"));
    let paths = [target, puppet.text(""), pinned.name, pinned.empty ^ 1 << 32];
    // `MNT_DETACH`, `UMOUNT_NOFOLLOW`, `MNT_FORCE`, `MNT_EXPIRE`.
    let (detach, nofollow, force, expire) = (2, 8, 1, 4);
    let mut elsewhere = vec![target, pinned.empty, pinned.name + 1, pinned.proc_self_fd];
    elsewhere.extend(&pinned.links[..3]);
    vec![
        // `MOVE_MOUNT_F_EMPTY_PATH`, `MOVE_MOUNT_T_EMPTY_PATH`; with `SET_GROUP` or `BENEATH`.
        Call::new("move_mount", libc::SYS_move_mount)
            .allow(&[none, pinned.empty, none, pinned.empty, 0x44])
            .but(1, paths)
            .but(3, paths)
            .but(4, [0, 0x4, 0x40, 0x144, 0x244, 0x45, 0x54])
            .allow(&[none, pinned.empty, none, pinned.empty, 0x44 | HIGH]),
        // The buffer is empty, and nothing is mounted at no name.
        Call::new("umount2 by name", libc::SYS_umount2)
            .allow(&[pinned.name, nofollow | detach])
            .allow(&[pinned.name, nofollow])
            .but(0, elsewhere.clone())
            .but(1, [0, detach, nofollow | force, nofollow | expire, force]),
        // The slot is empty too.
        Call::new("umount2 by slot", libc::SYS_umount2)
            .allow(&[pinned.links[3], detach])
            .but(0, elsewhere)
            .but(1, [0, force, expire, nofollow]),
    ]
}

/// What looks.
fn looking(puppet: &mut Puppet, pinned: &Pinned) -> Vec<Call> {
    let none = int(NOBODY);
    let room = puppet.place(&[0; 512]);
    let path = puppet.text("/etc/passwd");
    // `AT_EMPTY_PATH`, `AT_STATX_DONT_SYNC`, `AT_NO_AUTOMOUNT`, `AT_SYMLINK_NOFOLLOW`.
    let (by_descriptor, by_name) = (0x1000 | 0x4000 | 0x800, 0x100 | 0x4000 | 0x800);
    let proc = 4;
    let mut calls = vec![
        Call::new("statx of a descriptor", libc::SYS_statx)
            .allow(&[none, pinned.empty, by_descriptor, 0, room])
            .but(1, [path, pinned.tmpfs, pinned.name, pinned.empty ^ 1 << 40])
            .but(2, [0, by_name, 0x1000, by_descriptor | 0x2000]),
        Call::new("statx of a name", libc::SYS_statx)
            .allow(&[int(HERE), pinned.name, by_name, 0, room])
            .but(1, [path, pinned.empty, pinned.name + 1])
            .but(2, [0, by_descriptor, 0x4000 | 0x800]),
    ];
    for link in pinned.links {
        calls.push(
            Call::new("readlinkat", libc::SYS_readlinkat)
                .allow(&[proc, link, room, 512])
                .but(0, [int(HERE), 3, 5, none])
                .but(1, [path, pinned.name, pinned.empty, link ^ 1 << 32]),
        );
    }
    // No longer, or with another flag, directory or path: `O_PATH`, `O_DIRECTORY`, `O_CLOEXEC`.
    let own = [int(HERE), pinned.proc_self_fd, 0x29_0000];
    let openat = Call::new("openat", libc::SYS_openat)
        .allow(&own)
        .but(0, [4, none])
        .but(1, [path, pinned.empty, pinned.name])
        .but(2, [0, 2, 0x20_0000, 0x9_0000, 0x29_0002]);
    calls.push(Call {
        allowed: Vec::new(),
        ..openat
    });
    calls
}

/// Descriptors, which the filter of a mounter names and that of the warden cannot.
fn of_a_mounter_alone(puppet: &mut Puppet) -> Vec<Call> {
    let none = int(NOBODY);
    let room = puppet.place(&[0; 128]);
    let elsewhere = [0, 1, 2, 4, 5, none];
    let close_on_exec = int(libc::O_CLOEXEC);
    let mut calls = vec![
        Call::new("recvmsg", libc::SYS_recvmsg)
            .allow(&[3, room, int(libc::MSG_DONTWAIT)])
            .but(0, elsewhere),
        // A message of no place: the kernel refuses it and the session hears nothing.
        Call::new("sendmsg", libc::SYS_sendmsg)
            .allow(&[3, 1, 0])
            .but(0, elsewhere),
        Call::new("write", libc::SYS_write)
            .allow(&[2, room, 0])
            .but(0, [0, 1, 3, 4, 5, none]),
        Call::new("fcntl F_GETFL", libc::SYS_fcntl)
            .allow(&[3, int(libc::F_GETFL), 0])
            .but(
                1,
                [libc::F_SETFL, libc::F_DUPFD, libc::F_SETOWN, libc::F_NOTIFY].map(int),
            )
            .but(
                1,
                [libc::F_SETLEASE, libc::F_ADD_SEALS, libc::F_DUPFD_CLOEXEC].map(int),
            ),
        Call::new("fcntl F_SETLKW", libc::SYS_fcntl)
            .allow(&[5, int(libc::F_SETLKW), room])
            .but(0, [3, 4, 6, none])
            .but(1, [libc::F_SETLK, libc::F_OFD_SETLKW].map(int)),
    ];
    for slot in 6..=9 {
        calls.push(
            Call::new("dup3", libc::SYS_dup3)
                .allow(&[none, slot, close_on_exec])
                .but(1, [0, 2, 3, 4, 5, 10, none]),
        );
    }
    calls
}
