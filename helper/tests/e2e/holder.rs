//! Who is handed a mount: an unprivileged process that is root in a user and a mount
//! namespace of its own, and tries there what the kernel lets it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use mountwarden_client::{Client, Detach, DetachedMount};
use mountwarden_helper::raw;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, move_mount};

use crate::kernel::{NODEV, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY};

/// Every attribute that a mount can be given, by its name.
const ATTRIBUTES: [(&str, u64); 5] = [
    ("ro", RDONLY),
    ("nosuid", NOSUID),
    ("nodev", NODEV),
    ("noexec", NOEXEC),
    ("nosymfollow", NOSYMFOLLOW),
];

/// An option of a request.
type Asking = fn(Detach) -> Detach;

/// Becomes root in a user namespace, as `unshare --map-root-user` does.
pub(crate) fn enter_namespaces_of_ones_own() {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
}

/// `SOCKET SOURCE TARGET OTHER_TARGET WORD...`: what is handed over, where it is attached,
/// where a copy of it is, and how it is asked for. Each line is an attempt and its result.
pub(crate) fn play(arguments: &[String]) {
    let [socket, source, target, other, words @ ..] = arguments else {
        panic!("{arguments:?}")
    };
    enter_namespaces_of_ones_own();
    let asked = |word: &str| words.iter().any(|other| other == word);
    let mut detach = Detach::new(source).unwrap();
    let options: [(&str, Asking); 4] = [
        ("ro", Detach::read_only),
        ("noexec", Detach::no_exec),
        ("nosymfollow", Detach::no_symfollow),
        ("recursive", Detach::recursive),
    ];
    for (word, option) in options {
        if asked(word) {
            detach = option(detach);
        }
    }
    let mount = Client::connect_to(socket).unwrap().detach(detach).unwrap();
    println!("flags: {}", mount.detached.attributes.names().join(","));
    println!("id: {}", mount.detached.id);
    clear("detached", mount.as_fd());
    write_beneath("detached", &mount);
    let root = mount.mount.try_clone().unwrap();
    mount.attach(target).unwrap();
    let target = Path::new(target);
    let file = if target.is_dir() {
        target.join("file")
    } else {
        target.to_owned()
    };
    tell("write", fs::write(&file, "written"));
    clear("attached", root.as_fd());
    remount(target);
    tell("write after all", fs::write(&file, "written"));
    let copy = raw::clone_tree(root.as_fd(), true).unwrap();
    clear("copy", copy.as_fd());
    let from_root = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&copy, "", CWD, other, from_root).unwrap();
    clear("copy attached", copy.as_fd());
    if asked("recursive") {
        let beneath = target.join("beneath");
        clear("beneath", File::open(&beneath).unwrap().as_fd());
        let ended = umount2(&beneath, MntFlags::MNT_DETACH);
        tell("umount beneath", ended);
        let moved = move_mount(CWD, &beneath, CWD, "/mnt", MoveMountFlags::empty());
        tell("move beneath", moved);
        let alone = raw::clone_tree(root.as_fd(), false);
        tell("clone without beneath", alone.map(drop));
    }
    tell("mount on it", mount_tmpfs(&target.join("sub")));
    println!("held");
    let _ = io::stdin().read_line(&mut String::new());
    tell(
        "seen later",
        fs::metadata(target.join("later/seen")).map(drop),
    );
}

fn mount_tmpfs(at: &Path) -> nix::Result<()> {
    mount(
        Some("holder"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
}

/// Tries to clear each attribute by itself.
fn clear(what: &str, mount: BorrowedFd<'_>) {
    for (name, bit) in ATTRIBUTES {
        tell(&format!("clear {name} {what}"), raw::change(mount, 0, bit));
    }
}

/// Opens a file through the descriptor alone.
fn write_beneath(what: &str, mount: &DetachedMount) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(mount, "file", flags, Mode::empty());
    tell(&format!("open for writing {what}"), opened.map(drop));
}

/// As `mount -o remount` does, of the mount and of its file system.
fn remount(target: &Path) {
    let all = [
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
    ];
    let change = |flags| mount(None::<&str>, target, None::<&str>, flags, None::<&str>);
    for (name, without) in all {
        let kept = all.iter().filter(|(_, flag)| *flag != without);
        let kept = kept.fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND, |all, (_, flag)| {
            all | *flag
        });
        tell(&format!("remount without {name}"), change(kept));
    }
    tell("remount its file system", change(MsFlags::MS_REMOUNT));
}

/// A line for each attempt: what came of it, by the name of the errno.
fn tell<E: Into<io::Error>>(attempt: &str, result: Result<(), E>) {
    let told = match result.map_err(Into::into) {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap())),
    };
    println!("{attempt}: {told}");
}
