//! Mount calls with other pointers, flags and slots than a mounter's, written down apart
//! from the tables: a table that loses a condition is noticed here.

use nix::libc::{self, c_long};

use super::attempts::{Attempt, int, killed};
use super::forms::Pinned;
use super::{Role, Scene};
use crate::puppet::Puppet;

/// `AT_EMPTY_PATH`.
const EMPTY: u64 = 0x1000;

/// What differs from an allowed form in one argument.
fn but(call: &str, number: c_long, allowed: &[u64], others: &[(usize, &[u64])]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (argument, values) in others {
        for &value in *values {
            let mut arguments = allowed.to_vec();
            arguments[*argument] = value;
            attempts.push(killed(format!("{call} {arguments:x?}"), number, &arguments));
        }
    }
    attempts
}

pub(super) fn attack_29_passes_no_other_pointer(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    _: Role,
) -> Vec<Attempt> {
    let pinned = Pinned::of(puppet, scene);
    let [directory, target, source, mount] = [6, 7, 8, 9];
    let (empty, name) = (pinned.address(""), pinned.name);
    let [own_empty, path, tmpfs, size] =
        ["", "/etc", "tmpfs", "size"].map(|text| puppet.text(text));
    let room = puppet.place(&[0; 256]);
    let paths = [own_empty, path, name, 0];
    let by_slots = [mount, empty, target, empty, 0x44];
    let clone = [source, empty, 0x8_1001];
    let option = [source, 1, pinned.address("size"), room, 0];
    [
        // Without an empty path, with `MOVE_MOUNT_SET_GROUP`, with `MOVE_MOUNT_BENEATH`.
        but(
            "move_mount",
            libc::SYS_move_mount,
            &by_slots,
            &[
                (0, &[source, target]),
                (1, &paths),
                (2, &[directory, mount]),
                (3, &paths),
                (4, &[0, 0x4, 0x40, 0x144, 0x244]),
            ],
        ),
        // Without `OPEN_TREE_CLONE`, without `OPEN_TREE_CLOEXEC`, without an empty path.
        but(
            "open_tree",
            libc::SYS_open_tree,
            &clone,
            &[
                (0, &[directory, target, mount]),
                (1, &paths),
                (2, &[0x8_1000, 0x1001, 0x8_0001]),
            ],
        ),
        attributes(empty, &paths, room),
        but(
            "fsopen",
            libc::SYS_fsopen,
            &[pinned.address("tmpfs"), 1],
            &[(0, &[tmpfs, empty, name]), (1, &[0])],
        ),
        // `FSCONFIG_SET_FLAG`, `SET_BINARY`, `SET_PATH`, `SET_PATH_EMPTY`, `SET_FD`,
        // `CMD_RECONFIGURE`, `CMD_CREATE_EXCL`.
        but(
            "fsconfig",
            libc::SYS_fsconfig,
            &option,
            &[
                (0, &[directory, target, mount]),
                (1, &[0, 2, 3, 4, 5, 7, 8]),
                (2, &[size, name, 0]),
            ],
        ),
        but(
            "fsmount",
            libc::SYS_fsmount,
            &[source, 1, 0],
            &[(0, &[target, mount]), (1, &[0])],
        ),
        of_names_and_links(puppet, &pinned, room),
    ]
    .concat()
}

/// Of the calls that take a name, or the link of a descriptor.
fn of_names_and_links(puppet: &mut Puppet, pinned: &Pinned, room: u64) -> Vec<Attempt> {
    let source = 8;
    let (empty, name, link) = (pinned.address(""), pinned.name, pinned.address("9"));
    let [own_empty, path, own_link] = ["", "/etc", "9"].map(|text| puppet.text(text));
    let paths = [own_empty, path, name, 0];
    let own = [
        int(libc::AT_FDCWD),
        pinned.address("/proc/self/fd"),
        0x29_0000,
    ];
    [
        // `MNT_FORCE`, `MNT_EXPIRE`; without `UMOUNT_NOFOLLOW`.
        but(
            "umount2",
            libc::SYS_umount2,
            &[name, 8],
            &[
                (0, &[path, empty, own_link, link]),
                (1, &[0, 2, 8 | 1, 8 | 4]),
            ],
        ),
        but(
            "umount2 by slot",
            libc::SYS_umount2,
            &[link, 2],
            &[(0, &[own_link, path])],
        ),
        but(
            "statx",
            libc::SYS_statx,
            &[source, empty, EMPTY | 0x4800, 0, room],
            &[(1, &paths), (2, &[0, 0x4900])],
        ),
        but(
            "openat",
            libc::SYS_openat,
            &own,
            &[(0, &[4]), (1, &[path, empty, name]), (2, &[0, 2, 0x9_0000])],
        ),
    ]
    .concat()
}

/// Of a new mount, and of a target: there never with the mounts beneath it.
fn attributes(empty: u64, paths: &[u64], room: u64) -> Vec<Attempt> {
    let [directory, target, source, mount] = [6, 7, 8, 9];
    let of = |slot, flags: &[u64]| {
        but(
            "mount_setattr",
            libc::SYS_mount_setattr,
            &[slot, empty, EMPTY, room, 32],
            &[
                (0, &[directory, source]),
                (1, paths),
                (2, flags),
                (4, &[24, 40]),
            ],
        )
    };
    let mut all = of(mount, &[0, 0x8000, 0x1100]);
    all.extend(of(target, &[0, 0x8000, 0x9000, 0x1100]));
    all
}
