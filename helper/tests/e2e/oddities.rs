//! Descriptors that are not what a location should be, and what a mounter must
//! say to each.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use mountwarden_client::ErrorCode;
use mountwarden_helper::raw;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::SockType;
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::cases::confinement::only;
use crate::daemon::{Daemon, START, with_ambient};
use crate::hostile::{HostileSession, descriptors};
use crate::sandbox::Sandbox;
use crate::{Skip, roles};

/// The code and the words of a refusal.
pub(crate) type Why = (ErrorCode, &'static str);

const NOT_FOR_READING: Why = (ErrorCode::WrongType, "was not opened for reading");
const NO_FILE: Why = (
    ErrorCode::WrongType,
    "is neither a directory nor a regular file",
);
const REMOVED: Why = (ErrorCode::Changed, "was removed while the request ran");
const ELSEWHERE: Why = (
    ErrorCode::Changed,
    "lies on a mount that is not in the helper's mount namespace",
);
/// What has no file opened can only be the root of a mount, to compare.
pub(crate) const NO_MOUNT: Why = (ErrorCode::Changed, "holds no mount any more");
pub(crate) const OTHER_PATH: Why = (
    ErrorCode::Changed,
    "was renamed or replaced while the request ran",
);
const TOO_LONG: Why = (ErrorCode::InvalidRequest, "File name too long");

/// A descriptor that must be refused.
pub(crate) struct Oddity {
    pub(crate) what: String,
    file: OwnedFd,
    why: Why,
    /// What it is as a target, where the unopened root of a mount may stand.
    as_target: Why,
}

impl Oddity {
    fn new(what: &str, file: impl Into<OwnedFd>, why: Why) -> Self {
        let file = file.into();
        let flags = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        let as_target = if flags & libc::O_PATH == 0 {
            why
        } else {
            NO_MOUNT
        };
        Self {
            what: what.to_owned(),
            file,
            why,
            as_target,
        }
    }

    /// The unopened root of a mount that is attached nowhere.
    fn root(what: &str, file: OwnedFd) -> Self {
        let as_target = ELSEWHERE;
        Self {
            as_target,
            ..Self::new(what, file, NOT_FOR_READING)
        }
    }

    /// What must be said of it as the descriptor in this place of an order.
    pub(crate) fn why(&self, place: usize) -> Why {
        if place == 1 { self.as_target } else { self.why }
    }
}

impl AsFd for Oddity {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens a path with flags of `open(2)` beside the access mode.
pub(crate) fn open(path: &Path, access: i32, flags: i32) -> OwnedFd {
    let flags = nix::fcntl::OFlag::from_bits_retain(access | flags | libc::O_CLOEXEC);
    nix::fcntl::open(path, flags, Mode::empty()).unwrap()
}

/// The kernel's name of an open file.
pub(crate) fn link(file: &impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).unwrap()
}

/// Descriptors that are wrong in any place.
pub(crate) fn anywhere(
    sandbox: &Sandbox,
    daemon: &Daemon,
    hostile: &HostileSession,
) -> Result<Vec<Oddity>, Skip> {
    let mut all = sockets_and_events();
    all.extend(kernel_objects());
    all.extend(detached());
    all.extend(files(sandbox));
    all.extend(of_the_helper(daemon, hostile)?);
    Ok(all)
}

/// What its processes hold.
fn of_the_helper(daemon: &Daemon, hostile: &HostileSession) -> Result<Vec<Oddity>, Skip> {
    let channel = hostile.channel.0.try_clone().unwrap();
    let mut all = vec![Oddity::new("the order channel", channel, NOT_FOR_READING)];
    for (what, pid) in [
        ("the gate", only(daemon, "mw-gate")),
        ("the warden", daemon.pid()),
        ("the mounter", hostile.mounter),
    ] {
        // Without the standard ones, which are the test's own.
        for (number, file) in descriptors(pid)?.split_off(&3) {
            let path = link(&file);
            let what = format!("{what}'s {number}, {}", path.display());
            // What a mounter reads where there is no `statmount(2)`.
            let why = if path.ends_with("mountinfo") {
                OTHER_PATH
            } else {
                NOT_FOR_READING
            };
            all.push(Oddity::new(&what, file, why));
        }
    }
    for file in hostile.descriptors.values() {
        if getsockopt(file, SockType).is_ok() {
            let file = file.try_clone().unwrap();
            all.push(Oddity::new("the client's socket", file, NOT_FOR_READING));
        }
    }
    // Only root may open this.
    let own = File::open(format!("/proc/{}/fd", hostile.mounter)).ok();
    all.extend(own.map(|file| Oddity::new("the mounter's descriptors", file, OTHER_PATH)));
    Ok(all)
}

fn sockets_and_events() -> Vec<Oddity> {
    use rustix::event::{EventfdFlags, epoll, eventfd};
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    let (read, write) = std::io::pipe().unwrap();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let signals = SignalFd::new(&SigSet::empty()).unwrap();
    let signals = signals.as_fd().try_clone_to_owned().unwrap();
    let myself = rustix::process::getpid();
    vec![
        Oddity::new("a socket", UnixStream::pair().unwrap().0, NOT_FOR_READING),
        Oddity::new("a pipe", read, NO_FILE),
        Oddity::new("a pipe's other end", write, NOT_FOR_READING),
        Oddity::new(
            "an eventfd",
            eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            NOT_FOR_READING,
        ),
        Oddity::new(
            "an epoll",
            epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            NOT_FOR_READING,
        ),
        Oddity::new("a timerfd", timer, NOT_FOR_READING),
        Oddity::new("a signalfd", signals, NOT_FOR_READING),
        Oddity::new(
            "a pidfd",
            pidfd_open(myself, PidfdFlags::empty()).unwrap(),
            NOT_FOR_READING,
        ),
        Oddity::new(
            "an inotify",
            rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap(),
            NO_FILE,
        ),
    ]
}

fn kernel_objects() -> Vec<Oddity> {
    let read = |path: &str| open(Path::new(path), libc::O_RDONLY, libc::O_NONBLOCK);
    let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let memory_to_read = open(&own_link(&memory), libc::O_RDONLY, 0);
    let mut all = vec![
        Oddity::new("a memfd", memory, NOT_FOR_READING),
        Oddity::new("a memfd, opened for reading", memory_to_read, REMOVED),
        Oddity::new("/dev/null", read("/dev/null"), NO_FILE),
    ];
    for name in ["mnt", "user", "net"] {
        let path = format!("/proc/self/ns/{name}");
        all.push(Oddity::new(&path, read(&path), ELSEWHERE));
    }
    for path in [
        "/proc/self/fd",
        "/proc/self/root",
        "/proc/self/status",
        "/proc/sys",
        "/sys/kernel",
    ] {
        all.push(Oddity::new(path, read(path), OTHER_PATH));
    }
    // What only some may open; a process of another namespace.
    for (path, why) in [("/proc/1/root", ELSEWHERE), ("/dev/fuse", NOT_FOR_READING)] {
        let opened = File::options()
            .read(true)
            .write(path == "/dev/fuse")
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        all.extend(opened.ok().map(|file| Oddity::new(path, file, why)));
    }
    all
}

fn own_link(file: &impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// What the mount calls give out that is attached nowhere.
fn detached() -> Vec<Oddity> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_create(&context).unwrap();
    let none = MountAttrFlags::empty();
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, none).unwrap();
    let inside = rustix::fs::openat(
        &mount,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    vec![
        Oddity::new("a file system context", context, NOT_FOR_READING),
        Oddity::root("a detached mount", mount),
        Oddity::new(
            "a detached mount, opened for reading",
            inside.unwrap(),
            ELSEWHERE,
        ),
    ]
}

fn files(sandbox: &Sandbox) -> Vec<Oddity> {
    let fifo = sandbox.path("src/fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR).unwrap();
    let mut all = vec![
        Oddity::new(
            "a FIFO",
            open(&fifo, libc::O_RDONLY, libc::O_NONBLOCK),
            NO_FILE,
        ),
        Oddity::new("a very long path", long_path(sandbox), TOO_LONG),
    ];
    for name in [
        "src/other",
        "mnt/b",
        "outside",
        "mnt/new\nline",
        "mnt/was (deleted) x",
    ] {
        let path = sandbox.make_dir(name);
        all.push(Oddity::new(name, File::open(path).unwrap(), OTHER_PATH));
    }
    all
}

/// A directory whose path is longer than any path can be.
fn long_path(sandbox: &Sandbox) -> OwnedFd {
    let mut at = OwnedFd::from(File::open(sandbox.make_dir("long")).unwrap());
    let name = "n".repeat(250);
    for _ in 0..17 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    at
}

/// A process in a mount namespace of its own, and its root.
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn copy(sandbox: &Sandbox) -> Self {
        let mut other = roles::command(sandbox, "namespace");
        other.arg("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut other = with_ambient(sandbox, &START, || other.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(other.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(other)
    }

    pub(crate) fn open(&self, path: &Path) -> OwnedFd {
        let path = format!("/proc/{}/root{}", self.0.id(), path.display());
        File::open(path).unwrap().into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Descriptors that are wrong in the place of `path`, though most of them look as
/// if they were just that.
pub(crate) fn instead_of(sandbox: &Sandbox, path: &Path, other: &Namespace) -> Vec<Oddity> {
    let mut all = vec![
        Oddity::new(
            "O_PATH",
            open(path, libc::O_PATH, libc::O_NOFOLLOW),
            NOT_FOR_READING,
        ),
        Oddity::new("another mount namespace's", other.open(path), ELSEWHERE),
        Oddity::new("in a detached clone", in_clone(sandbox, path), ELSEWHERE),
        Oddity::root(
            "a detached clone",
            raw::clone_tree(File::open(path).unwrap().as_fd(), false).unwrap(),
        ),
        Oddity::new("in another root", in_root(sandbox, path), OTHER_PATH),
        Oddity::new("renamed", renamed(path), OTHER_PATH),
    ];
    let removed = removed(path);
    let text = format!("{} (deleted)", path.display());
    assert_eq!(link(&removed), Path::new(&text));
    all.push(Oddity::new("removed", removed, REMOVED));
    for ending in ["2", " (deleted)", "/.."] {
        let sibling = PathBuf::from(format!("{}{ending}", path.display()));
        if ending != "/.." {
            like(path, &sibling);
        } else if !path.is_dir() {
            continue;
        }
        let file = File::open(&sibling).unwrap();
        all.push(Oddity::new(&format!("with {ending:?}"), file, OTHER_PATH));
    }
    if path.is_file() {
        for (what, access, flags) in [
            ("for writing", libc::O_WRONLY, 0),
            ("for both", libc::O_RDWR, 0),
            ("for appending", libc::O_WRONLY, libc::O_APPEND),
        ] {
            all.push(Oddity::new(
                what,
                open(path, access, flags),
                NOT_FOR_READING,
            ));
        }
        all.push(Oddity::new(
            "removed here, kept there",
            unlinked(path),
            OTHER_PATH,
        ));
    }
    all
}

/// Makes an empty directory or file, as `model` is, at `path`.
fn like(model: &Path, path: &Path) {
    if model.is_dir() {
        fs::create_dir_all(path).unwrap();
    } else {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap();
    }
}

/// A file that stands at `path` for a moment, while what is there is aside.
fn for_a_moment(path: &Path, then: impl FnOnce(&Path)) -> OwnedFd {
    let aside = path.with_file_name("aside");
    fs::rename(path, &aside).unwrap();
    like(&aside, path);
    let file = File::open(path).unwrap();
    then(path);
    fs::rename(aside, path).unwrap();
    file.into()
}

fn removed(path: &Path) -> OwnedFd {
    for_a_moment(path, |path| {
        if path.is_dir() {
            fs::remove_dir(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    })
}

fn renamed(path: &Path) -> OwnedFd {
    for_a_moment(path, |path| {
        fs::rename(path, path.with_extension("renamed")).unwrap();
    })
}

/// A file that was at `path` and has a name elsewhere.
pub(crate) fn unlinked(path: &Path) -> OwnedFd {
    for_a_moment(path, |path| {
        fs::hard_link(path, path.with_extension("kept")).unwrap();
        fs::remove_file(path).unwrap();
    })
}

/// What a process with another root would have at `path`.
fn in_root(sandbox: &Sandbox, path: &Path) -> OwnedFd {
    let inside = fake(sandbox, path);
    File::open(inside).unwrap().into()
}

/// A file in a detached copy of a tree that looks like this one from its root.
fn in_clone(sandbox: &Sandbox, path: &Path) -> OwnedFd {
    fake(sandbox, path);
    let root = File::open(sandbox.path("fake")).unwrap();
    let clone = raw::clone_tree(root.as_fd(), false).unwrap();
    let file = rustix::fs::openat(
        &clone,
        path.strip_prefix("/").unwrap(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    assert_eq!(link(&file), path, "it reads as the real one");
    file
}

fn fake(sandbox: &Sandbox, path: &Path) -> PathBuf {
    let inside = sandbox.path("fake").join(path.strip_prefix("/").unwrap());
    like(path, &inside);
    inside
}
