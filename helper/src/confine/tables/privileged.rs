//! The calls of the half that holds `CAP_SYS_ADMIN`.
#![forbid(unsafe_code)]

use libc::{
    AF_UNIX, AT_EMPTY_PATH, AT_FDCWD, AT_HANDLE_MNT_ID_UNIQUE, AT_NO_AUTOMOUNT, AT_RECURSIVE,
    AT_STATX_DONT_SYNC, AT_SYMLINK_NOFOLLOW, CLOCK_REALTIME, F_GETFL, F_SETLKW, ITIMER_REAL,
    MNT_DETACH, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH, MSG_CMSG_CLOEXEC, MSG_DONTWAIT,
    MSG_NOSIGNAL, O_CLOEXEC, O_DIRECTORY, O_PATH, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE,
    PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, PR_SET_PDEATHSIG, SIGKILL, SIGTERM, SOCK_CLOEXEC,
    SOCK_SEQPACKET, SYS_clock_gettime, SYS_fchdir, SYS_fcntl, SYS_fsconfig, SYS_fsmount,
    SYS_fsopen, SYS_fstatfs, SYS_getppid, SYS_kill, SYS_mount_setattr, SYS_move_mount,
    SYS_name_to_handle_at, SYS_open_tree, SYS_openat, SYS_prctl, SYS_read, SYS_readlinkat,
    SYS_recvmsg, SYS_sendmsg, SYS_setitimer, SYS_socketpair, SYS_statx, SYS_umount2,
    UMOUNT_NOFOLLOW,
};

use crate::confine::entry::{
    Check, Entry, Int, Value, call, fd, int, is, long, name_buffer, null, pinned, policy_name,
};
use crate::mounter::layout::{ANSWERS, CLIENT, LEASES, LOCK, LOCKER, ORDER, PROC};
use crate::sys::mount::{
    FSCONFIG_CMD_CREATE, FSCONFIG_CMD_CREATE_EXCL, FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC, FSOPEN_CLOEXEC,
};
use crate::sys::pinned::{
    BLOCK_SIZE, DEVICE, EMPTY, EROFS, FUSE, FUSE_FD, FUSE_FLAGS, FUSE_KEYS, FUSEBLK, LOWER_DIR,
    MOUNTWARDEN, NETWORK_TYPES, OVERLAY, OVERLAY_LIMITS, PROC_SELF_FD, READ_ONLY, SOURCE, SQUASHFS,
    Slot, TMPFS, TMPFS_KEYS, UPPER_DIR, WORK_DIR,
};

pub(super) fn warden() -> Vec<Entry> {
    vec![
        call!(
            SYS_kill,
            "mounters are told to stop",
            [is!(1, signal = SIGKILL)],
            [is!(1, signal = SIGTERM)]
        ),
        call!(
            SYS_recvmsg,
            "connections, from the gate; what the other half reports",
            [is!(2, flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC)]
        ),
    ]
}

/// What only a mounter does before its own filter.
pub(super) fn warden_child() -> Vec<Entry> {
    vec![
        call!(SYS_getppid, "a parent that has gone"),
        call!(
            SYS_kill,
            "its domain is tried on its parent",
            [int(1, "signal", 0, "0")]
        ),
        call!(
            SYS_openat,
            "its own /proc/self/fd",
            [
                is!(0, fd = AT_FDCWD),
                pinned(1, "path", PROC_SELF_FD),
                is!(2, flags = O_PATH | O_DIRECTORY | O_CLOEXEC)
            ]
        ),
        call!(
            SYS_prctl,
            "its end with its parent, and reading a capability back",
            [is!(0, option = PR_SET_PDEATHSIG), is!(1, signal = SIGKILL)],
            [
                is!(0, option = PR_CAP_AMBIENT),
                is!(1, action = PR_CAP_AMBIENT_IS_SET)
            ]
        ),
        call!(
            SYS_socketpair,
            "where it hears from the locker",
            [
                is!(0, domain = AF_UNIX),
                is!(1, kind = SOCK_SEQPACKET | SOCK_CLOEXEC),
                int(2, "protocol", 0, "0")
            ]
        ),
    ]
}

/// How a mounter hears and checks an order.
pub(super) fn mounter_checks() -> Vec<Entry> {
    let order = fd(0, ORDER, "the order channel");
    let own = fd(0, PROC, "its own /proc/self/fd");
    let link = |slot: Slot| pinned(1, "path", slot.link());
    vec![
        call!(
            SYS_clock_gettime,
            "the time of a line of the log, where the vDSO cannot tell it",
            [is!(0, clock = CLOCK_REALTIME)]
        ),
        call!(
            SYS_fcntl,
            "how a location was opened; the lock of a target",
            [is!(1, cmd = F_GETFL)],
            [fd(0, LOCK, "the lock file"), is!(1, cmd = F_SETLKW)]
        ),
        call!(
            SYS_fstatfs,
            "the limits of the tmpfs that a target holds",
            [slot(0, Slot::Target)]
        ),
        call!(
            SYS_readlinkat,
            "the path of a slot",
            [own, link(Slot::Source)],
            [own, link(Slot::Target)],
            [own, link(Slot::Directory)]
        ),
        call!(
            SYS_recvmsg,
            "orders",
            [order, is!(2, flags = MSG_CMSG_CLOEXEC)]
        ),
        call!(
            SYS_sendmsg,
            "replies; to the warden, what ends a leased mount",
            [order, is!(2, flags = MSG_NOSIGNAL)],
            [
                fd(0, LEASES, "the channel about leases"),
                is!(2, flags = MSG_NOSIGNAL)
            ]
        ),
        call!(
            SYS_setitimer,
            "the deadline of a request",
            [is!(0, which = ITIMER_REAL), null(2, "old")]
        ),
        call!(
            SYS_statx,
            "a descriptor, or the name of a target",
            [
                pinned(1, "path", EMPTY),
                is!(
                    2,
                    flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT
                )
            ],
            [
                is!(0, fd = AT_FDCWD),
                name_buffer(1),
                is!(
                    2,
                    flags = AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT
                )
            ]
        ),
    ]
}

/// What a mounter does to the mount table.
pub(super) fn mounter_work() -> Vec<Entry> {
    let mut options = call!(
        SYS_fsconfig,
        "the options of a tmpfs, by pinned keys",
        [
            SOURCELESS,
            is!(1, cmd = FSCONFIG_CMD_CREATE),
            null(2, "key"),
            null(3, "value")
        ],
        [
            SOURCELESS,
            is!(1, cmd = FSCONFIG_SET_STRING),
            pinned(2, "key", SOURCE),
            pinned(3, "value", MOUNTWARDEN)
        ]
    );
    let set = is!(1, cmd = FSCONFIG_SET_STRING);
    let keys = TMPFS_KEYS.map(|key| vec![SOURCELESS, set, pinned(2, "key", key)]);
    options.forms.extend(keys);
    let (made, target) = (slot(0, Slot::Mount), slot(0, Slot::Target));
    let empty = pinned(1, "path", EMPTY);
    let size = long(4, "size", 32, "sizeof(struct mount_attr)");
    vec![
        call!(
            SYS_fchdir,
            "the directory above a target",
            [slot(0, Slot::Directory)],
            [fd(0, PROC, "its own /proc/self/fd")]
        ),
        call!(
            SYS_fsmount,
            "a detached mount of what has no source",
            [SOURCELESS, is!(1, flags = FSMOUNT_CLOEXEC)]
        ),
        call!(
            SYS_fsopen,
            "a tmpfs",
            [pinned(0, "type", TMPFS), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        options,
        call!(
            SYS_mount_setattr,
            "the attributes of a new mount; of a target, when it is remounted",
            [made, empty, is!(2, flags = AT_EMPTY_PATH), size],
            [target, empty, is!(2, flags = AT_EMPTY_PATH), size],
            [
                made,
                empty,
                is!(2, flags = AT_EMPTY_PATH | AT_RECURSIVE),
                size
            ]
        ),
        call!(
            SYS_move_mount,
            "attach, descriptor to descriptor",
            [
                made,
                empty,
                slot(2, Slot::Target),
                pinned(3, "target path", EMPTY),
                is!(4, flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            ]
        ),
        call!(
            SYS_open_tree,
            "a detached clone of the source",
            [
                slot(0, Slot::Source),
                empty,
                is!(
                    2,
                    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
                )
            ],
            [
                slot(0, Slot::Source),
                empty,
                is!(
                    2,
                    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
                )
            ]
        ),
        call!(
            SYS_umount2,
            "end a mount by its name; a failed or a passed one by its slot",
            [name_buffer(0), is!(1, flags = UMOUNT_NOFOLLOW)],
            [name_buffer(0), is!(1, flags = UMOUNT_NOFOLLOW | MNT_DETACH)],
            [
                pinned(0, "path", Slot::Target.link()),
                is!(1, flags = MNT_DETACH)
            ],
            [
                pinned(0, "path", Slot::Mount.link()),
                is!(1, flags = MNT_DETACH)
            ]
        ),
    ]
}

/// What only a mounter does whose peer is granted a file system that is made by a
/// context, other than a tmpfs. For those the directory has been closed.
pub(super) fn mounter_contexts() -> Vec<Entry> {
    vec![
        call!(
            SYS_fsconfig,
            "a file system is made",
            [
                CONTEXT,
                is!(1, cmd = FSCONFIG_CMD_CREATE),
                null(2, "key"),
                null(3, "value")
            ]
        ),
        call!(
            SYS_fsmount,
            "a detached mount of a file system",
            [CONTEXT, is!(1, flags = FSMOUNT_CLOEXEC)]
        ),
        call!(
            SYS_read,
            "what the kernel says of a file system that it does not make",
            [CONTEXT]
        ),
    ]
}

/// What only a mounter does whose peer is granted block devices. A file system is made
/// from a pinned link to a descriptor, and from nothing else.
pub(super) fn mounter_block() -> Vec<Entry> {
    let set = is!(1, cmd = FSCONFIG_SET_STRING);
    let flag = is!(1, cmd = FSCONFIG_SET_FLAG);
    let value = null(3, "value");
    vec![
        call!(
            SYS_fsopen,
            "a type of file system that the policy names",
            [policy_name(0, "type"), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        call!(
            SYS_fsconfig,
            "the device, and options that the policy names",
            [
                CONTEXT,
                set,
                pinned(2, "key", SOURCE),
                pinned(3, "value", DEVICE)
            ],
            [CONTEXT, flag, pinned(2, "key", READ_ONLY), value],
            [CONTEXT, flag, policy_name(2, "key"), value],
            [CONTEXT, set, policy_name(2, "key")]
        ),
    ]
}

/// What only a mounter does whose peer is granted devices: for the kernel's file systems or
/// for a program.
pub(super) fn mounter_device() -> Vec<Entry> {
    vec![call!(
        SYS_readlinkat,
        "the path of a link to a device, and what it holds",
        [
            fd(0, PROC, "its own /proc/self/fd"),
            pinned(1, "path", Slot::Link.link())
        ],
        [slot(0, Slot::Link), pinned(1, "path", EMPTY)]
    )]
}

/// What only a mounter does whose peer is granted FUSE. The source is only shown, and
/// may be any text: so for a peer that has block devices too, a mounter that was taken
/// over could name any device.
pub(super) fn mounter_fuse() -> Vec<Entry> {
    let set = is!(1, cmd = FSCONFIG_SET_STRING);
    let flag = is!(1, cmd = FSCONFIG_SET_FLAG);
    let mut options = call!(
        SYS_fsconfig,
        "the options of a FUSE file system, by pinned keys",
        [
            CONTEXT,
            set,
            pinned(2, "key", FUSE_FD),
            pinned(3, "value", Slot::Source.link())
        ],
        [
            CONTEXT,
            is!(1, cmd = FSCONFIG_CMD_CREATE_EXCL),
            null(2, "key"),
            null(3, "value")
        ],
        [CONTEXT, set, pinned(2, "key", SOURCE)]
    );
    let keys = FUSE_KEYS.map(|key| vec![CONTEXT, set, pinned(2, "key", key)]);
    let flags = FUSE_FLAGS.map(|key| vec![CONTEXT, flag, pinned(2, "key", key), null(3, "value")]);
    options.forms.extend(keys.into_iter().chain(flags));
    vec![
        call!(
            SYS_fsopen,
            "a FUSE file system",
            [pinned(0, "type", FUSE), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        options,
        call!(
            SYS_name_to_handle_at,
            "the id of a mount that is leased, which its file system hides from others",
            [
                slot(0, Slot::Mount),
                pinned(1, "path", EMPTY),
                is!(4, flags = AT_EMPTY_PATH | AT_HANDLE_MNT_ID_UNIQUE)
            ]
        ),
    ]
}

/// What only a mounter does whose peer is granted FUSE on devices. The device is a pinned
/// link to a descriptor; but the source may be any text, as for all FUSE.
pub(super) fn mounter_fuseblk() -> Vec<Entry> {
    let set = is!(1, cmd = FSCONFIG_SET_STRING);
    vec![
        call!(
            SYS_fsopen,
            "a FUSE file system on a device",
            [pinned(0, "type", FUSEBLK), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        call!(
            SYS_fsconfig,
            "its connection, its blocks, and a device that is only read",
            [
                CONTEXT,
                set,
                pinned(2, "key", FUSE_FD),
                pinned(3, "value", Slot::Connection.link())
            ],
            [CONTEXT, set, pinned(2, "key", BLOCK_SIZE)],
            [
                CONTEXT,
                is!(1, cmd = FSCONFIG_SET_FLAG),
                pinned(2, "key", READ_ONLY),
                null(3, "value")
            ]
        ),
    ]
}

/// What only a mounter does whose peer may be sent descriptors.
pub(super) fn mounter_handing() -> Vec<Entry> {
    vec![call!(
        SYS_sendmsg,
        "a reply with a descriptor, to the client itself",
        [
            fd(0, CLIENT, "the client's socket"),
            is!(2, flags = MSG_NOSIGNAL)
        ]
    )]
}

/// What only a mounter does whose peer is granted detached or ID-mapped mounts, or loop
/// devices.
pub(super) fn mounter_locker() -> Vec<Entry> {
    vec![
        call!(
            SYS_sendmsg,
            "to the locker, a mount that is to be handed over, a user namespace or an image",
            [
                fd(0, LOCKER, "the locker's channel"),
                is!(2, flags = MSG_NOSIGNAL)
            ]
        ),
        call!(
            SYS_recvmsg,
            "what the locker has made or found out of it",
            [
                fd(0, ANSWERS, "the locker's answers"),
                is!(2, flags = MSG_CMSG_CLOEXEC)
            ]
        ),
    ]
}

/// What only a mounter does whose peer is granted overlays: of its layers each is a pinned
/// link to a descriptor.
pub(super) fn mounter_overlay() -> Vec<Entry> {
    let set = |key, value| {
        let set = is!(1, cmd = FSCONFIG_SET_STRING);
        let (key, value) = (pinned(2, "key", key), pinned(3, "value", value));
        vec![CONTEXT, set, key, value]
    };
    let mut layers = call!(
        SYS_fsconfig,
        "the layers of an overlay, and what it believes"
    );
    layers.forms.push(set(SOURCE, MOUNTWARDEN));
    layers
        .forms
        .extend(OVERLAY_LIMITS.map(|(key, value)| set(key, value)));
    let upper = [UPPER_DIR, WORK_DIR].into_iter().zip(Slot::layers());
    layers
        .forms
        .extend(upper.map(|(key, slot)| set(key, slot.path)));
    layers
        .forms
        .extend(Slot::layers().map(|slot| set(LOWER_DIR, slot.path)));
    let mut paths = call!(SYS_readlinkat, "the path of a layer");
    let own = fd(0, PROC, "its own /proc/self/fd");
    // The first is the slot of a source.
    let further = Slot::layers().skip(1).map(Slot::Layer);
    paths
        .forms
        .extend(further.map(|slot| vec![own, pinned(1, "path", slot.link())]));
    vec![
        call!(
            SYS_fsopen,
            "an overlay",
            [pinned(0, "type", OVERLAY), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        call!(
            SYS_fstatfs,
            "whether an overlay with an upper layer can be written",
            [slot(0, Slot::Mount)]
        ),
        layers,
        paths,
    ]
}

/// What only a mounter does whose peer is granted images.
pub(super) fn mounter_image() -> Vec<Entry> {
    vec![
        call!(
            SYS_fsopen,
            "a file system in a regular file",
            [pinned(0, "type", EROFS), is!(1, flags = FSOPEN_CLOEXEC)],
            [pinned(0, "type", SQUASHFS), is!(1, flags = FSOPEN_CLOEXEC)]
        ),
        call!(
            SYS_fsconfig,
            "the file, which is only read",
            [
                CONTEXT,
                is!(1, cmd = FSCONFIG_SET_STRING),
                pinned(2, "key", SOURCE),
                pinned(3, "value", DEVICE)
            ],
            [
                CONTEXT,
                is!(1, cmd = FSCONFIG_SET_FLAG),
                pinned(2, "key", READ_ONLY),
                null(3, "value")
            ]
        ),
    ]
}

/// What only a mounter does whose peer's images may take loop devices.
pub(super) fn mounter_loop_device() -> Vec<Entry> {
    vec![call!(
        SYS_fsconfig,
        "the loop device of an image",
        [
            CONTEXT,
            is!(1, cmd = FSCONFIG_SET_STRING),
            pinned(2, "key", SOURCE),
            pinned(3, "value", Slot::link_path())
        ]
    )]
}

/// What only a mounter does whose peer is granted network file systems. The source may be
/// any text, but of these types alone, none of which takes it for a device.
pub(super) fn mounter_network() -> Vec<Entry> {
    let set = is!(1, cmd = FSCONFIG_SET_STRING);
    let flag = is!(1, cmd = FSCONFIG_SET_FLAG);
    let value = null(3, "value");
    let mut types = call!(SYS_fsopen, "a network file system");
    types.forms = NETWORK_TYPES
        .map(|name| vec![pinned(0, "type", name), is!(1, flags = FSOPEN_CLOEXEC)])
        .to_vec();
    vec![
        types,
        call!(
            SYS_fsconfig,
            "its source, and options that the policy names",
            [SOURCELESS, set, pinned(2, "key", SOURCE)],
            [SOURCELESS, flag, pinned(2, "key", READ_ONLY), value],
            [SOURCELESS, flag, policy_name(2, "key"), value],
            [SOURCELESS, set, policy_name(2, "key")]
        ),
        call!(
            SYS_read,
            "what the kernel says of a network file system that it does not make",
            [SOURCELESS]
        ),
    ]
}

/// The context of a file system that is made from no descriptor.
const SOURCELESS: Check = Check {
    index: 0,
    name: "fd",
    value: Value::Int {
        bits: Slot::Source.number().cast_unsigned(),
        means: "the free slot of a source",
    },
};

/// The context of a file system other than that.
const CONTEXT: Check = Check {
    index: 0,
    name: "fd",
    value: Value::Int {
        bits: Slot::Directory.number().cast_unsigned(),
        means: "the free slot of a directory",
    },
};

fn slot(index: u8, slot: Slot) -> Check {
    let means = match slot {
        Slot::Directory => "the slot of the directory above the target",
        Slot::Target => "the slot of the target",
        Slot::Source => "the slot of the source",
        Slot::Link => "the slot of a link to a device, or of a loop device",
        Slot::Mount => "the slot of the new mount",
        Slot::Connection => "the slot of a FUSE connection beside a device",
        Slot::Layer(_) => "the slot of a layer",
    };
    fd(index, slot.number(), means)
}
