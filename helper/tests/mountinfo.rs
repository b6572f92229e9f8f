//! The reader of `/proc/self/mountinfo`: what the kernel writes, what it never
//! writes, and tables that are larger than what is held at a time.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::ops::ControlFlow;

use mountwarden_helper::raw::{MountStatus, Mountinfo, parse};
use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;

/// Every mount, in the place of a parent.
const ALL: u64 = u64::MAX;

/// Writes a field as the kernel does (`mangle_path` in `fs/seq_file.c`).
fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in bytes {
        if b" \t\n\\".contains(&byte) {
            text.extend(format!("\\{byte:03o}").bytes());
        } else {
            text.push(byte);
        }
    }
    text
}

fn line(id: u64, parent: u64, root: &[u8], point: &[u8], rest: &str) -> Vec<u8> {
    let mut line = format!("{id} {parent} 0:42 ").into_bytes();
    for field in [root, point] {
        line.extend(escape(field));
        line.push(b' ');
    }
    line.extend(rest.bytes());
    line
}

/// A table in a file, as a descriptor of `/proc/self/mountinfo` would read.
fn table(lines: &[Vec<u8>]) -> Mountinfo {
    let mut file = tempfile::tempfile().unwrap();
    for line in lines {
        file.write_all(line).unwrap();
        file.write_all(b"\n").unwrap();
    }
    Mountinfo::new(file.into())
}

fn ids(table: &Mountinfo, parent: u64, after: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    table
        .walk(parent, after, |mount| {
            ids.push(mount.id);
            ControlFlow::Continue(())
        })
        .unwrap();
    ids
}

#[test]
fn the_manuals_example() {
    let line =
        br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
    let wanted = MountStatus {
        id: 36,
        parent: 35,
        short_id: 36,
        attributes: 0,
        propagation: libc::MS_SLAVE,
        filesystem: b"ext3".to_vec(),
        root: b"/mnt1".to_vec(),
        point: b"/mnt 2".to_vec(),
        device: (98, 0),
    };
    assert_eq!(parse(line), Some(wanted));
}

#[test]
fn options_and_propagation() {
    let parsed = |rest: &str| {
        let status = parse(&line(2, 1, b"/", b"/a", rest)).unwrap();
        (status.attributes, status.propagation, status.filesystem)
    };
    let shared = (0x1, libc::MS_SHARED, b"fuse".to_vec());
    assert_eq!(parsed("ro,relatime shared:5 - fuse.sshfs a@b: rw"), shared);
    let all = "rw,nosuid,nodev,noexec,nosymfollow";
    let slave = libc::MS_SHARED | libc::MS_SLAVE;
    assert_eq!(
        parsed(&format!(
            "{all} shared:1 master:2 propagate_from:3 - tmpfs  rw"
        )),
        (0x20_000e, slave, b"tmpfs".to_vec()),
    );
    let mapped = (0x10_0001, libc::MS_PRIVATE, b"tmpfs".to_vec());
    assert_eq!(parsed("ro,relatime,idmapped - tmpfs tmpfs rw"), mapped);
    let unbindable = (0, libc::MS_UNBINDABLE, b"tmpfs".to_vec());
    assert_eq!(parsed("rw unbindable - tmpfs tmpfs rw"), unbindable);
    // The super block's options are not the mount's, and a field may be new.
    let private = (0, libc::MS_PRIVATE, b"tmpfs".to_vec());
    assert_eq!(parsed("rw novel:7 - tmpfs shared:1 ro,nosuid"), private);
}

#[test]
fn what_the_kernel_never_writes() {
    for text in [
        "",
        "36",
        "36 35 98:0 / /a rw",
        "36 35 98:0 / /a rw shared:1",
        "36 35 98:0 / /a rw -",
        "x 35 98:0 / /a rw - tmpfs t rw",
        "36 -1 98:0 / /a rw - tmpfs t rw",
        "+36 35 98:0 / /a rw - tmpfs t rw",
        "99999999999999999999 35 98:0 / /a rw - tmpfs t rw",
        "36  98:0 / /a rw - tmpfs t rw",
        r"36 35 98:0 / /a\ rw - tmpfs t rw",
        r"36 35 98:0 / /a\04 rw - tmpfs t rw",
        r"36 35 98:0 / /a\048 rw - tmpfs t rw",
        r"36 35 98:0 / /a\400 rw - tmpfs t rw",
        r"36 35 98:0 /\x41 /a rw - tmpfs t rw",
    ] {
        assert_eq!(parse(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn a_mount_beyond_any_request_is_nobody_elses_trouble() {
    let rest = "rw - tmpfs t rw";
    let long = vec![b'\n'; 20_000];
    let table = table(&[
        line(1, 1, b"/", b"/", rest),
        line(2, 1, b"/", &long, rest),
        line(3, 1, b"/", b"/b", rest),
        b"4 1 0:42 / /broken\\ rw - tmpfs t rw".to_vec(),
    ]);
    assert_eq!(ids(&table, ALL, 0), [1, 3]);
    assert_eq!(table.status_of_mount(3).unwrap().point, b"/b");
    assert_eq!(table.status_of_mount(2), Err(Errno::EOVERFLOW));
    assert_eq!(table.status_of_mount(4), Err(Errno::EOVERFLOW));
    assert_eq!(table.status_of_mount(5), Err(Errno::ENOENT));
}

/// A line that is cut off says nothing, not even where it could be read.
#[test]
fn a_line_that_is_cut_off() {
    let cut = |point: usize| line(2, 1, b"/", &vec![b'x'; point], "rw - tmp");
    let missing = 64 * 1024 - cut(0).len();
    let table = table(&[cut(missing), cut(missing - 1)]);
    assert_eq!(ids(&table, ALL, 0), [2], "the one that fits with its end");
    assert_eq!(table.status_of_mount(2), Err(Errno::EOVERFLOW));
}

#[test]
fn a_line_without_ids_is_no_table() {
    let table = table(&[b"root:x:0:0".to_vec()]);
    assert_eq!(table.status_of_mount(1), Err(Errno::EPROTO));
}

#[test]
fn a_walk_beneath_a_mount() {
    let rest = "rw - tmpfs t rw";
    let at = |id, parent| line(id, parent, b"/", b"/a", rest);
    // Children before their parents, a root that is its own, and one whose parent
    // is not shown.
    let table = table(&[
        at(9, 5),
        at(5, 3),
        at(3, 1),
        at(1, 1),
        at(4, 1),
        at(7, 6),
        at(2, 3),
    ]);
    assert_eq!(ids(&table, 3, 0), [2, 5, 9]);
    assert_eq!(ids(&table, 3, 5), [9]);
    assert_eq!(ids(&table, 1, 0), [2, 3, 4, 5, 9]);
    assert_eq!(ids(&table, 9, 0), []);
    assert_eq!(ids(&table, ALL, 4), [5, 7, 9]);
}

#[test]
fn a_ring_of_parents_ends() {
    let at = |id, parent| line(id, parent, b"/", b"/a", "rw - tmpfs t rw");
    assert_eq!(ids(&table(&[at(1, 2), at(2, 3), at(3, 1)]), 4, 0), []);
}

/// More than is held at a time, of all sizes, in an order of the kernel's choice.
#[test]
fn a_large_table_comes_in_the_order_of_ids() {
    let point = vec![b'x'; 4000];
    // 5 and 4001 have no common divisor: every id once, scattered.
    let scattered = (0..4001).map(|n| n * 5 % 4001 + 1);
    let lines: Vec<_> = scattered
        .map(|id| {
            let point = &point[..id % 7 * 600];
            line(id.try_into().unwrap(), 1, b"/", point, "rw - tmpfs t rw")
        })
        .collect();
    let table = table(&lines);
    let all: Vec<u64> = (1..=4001).collect();
    assert_eq!(ids(&table, ALL, 0), all);
    assert_eq!(ids(&table, ALL, 3999), [4000, 4001]);
    let mut visited = 0;
    table
        .walk(ALL, 0, |_| {
            visited += 1;
            if visited == 3000 {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(visited, 3000);
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![1_u8.., Just(b' '), Just(b'\\'), Just(b'\n'), Just(b'-')],
        0..60,
    )
}

proptest! {
    #[test]
    fn reads_what_the_kernel_writes(id: u32, parent: u32, root in path(), point in path()) {
        let (id, parent) = (u64::from(id), u64::from(parent));
        let status = parse(&line(id, parent, &root, &point, "ro - tmpfs t rw")).unwrap();
        prop_assert_eq!((status.id, status.parent), (id, parent));
        prop_assert_eq!((status.root, status.point), (root, point));
        prop_assert_eq!(status.attributes, 1);
    }

    /// Bytes of any kind are a mount or none; never a panic, never two fields in one.
    #[test]
    fn any_bytes(bytes in vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\\'), Just(b'0')], 0..80)) {
        if let Some(status) = parse(&bytes) {
            let fields = bytes.split(|&byte| byte == b' ').count();
            prop_assert!(fields >= 8, "{status:?}");
        }
    }
}
