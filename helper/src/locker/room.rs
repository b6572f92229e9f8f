//! What the locker makes and opens before it is confined: a user namespace, and a mount
//! namespace with nothing in it but two names to attach at.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::wait::waitpid;
use nix::unistd::fchdir;

use super::LockerError;
use crate::sys::process::{self, Forked};
use crate::sys::{self, pinned, socket};

/// A user namespace in which nobody is mapped, and no process stays.
pub(super) fn user_namespace() -> Result<OwnedFd, LockerError> {
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    match process::fork()? {
        Forked::Child => {
            let sent = namespace_of_its_own().and_then(|namespace| {
                let namespace = [namespace.as_fd()];
                socket::send(theirs.as_fd(), b"namespace", &namespace, MsgFlags::empty())
            });
            process::exit(sent.map_or_else(crate::failure::number, |_| 0));
        }
        Forked::Parent(pid) => {
            drop(theirs);
            let status = waitpid(pid, None)?;
            let mut buffer = [0; 16];
            let message = socket::receive(ours.as_fd(), &mut buffer, MsgFlags::empty())?;
            message.descriptors.into_iter().next().ok_or_else(|| {
                let nix::sys::wait::WaitStatus::Exited(_, errno) = status else {
                    return LockerError::Namespace(Errno::EINTR);
                };
                LockerError::Namespace(Errno::from_raw(errno))
            })
        }
    }
}

fn namespace_of_its_own() -> Result<OwnedFd, Errno> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    own_user_namespace()
}

/// The user namespace that this process is in.
pub(super) fn own_user_namespace() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/proc/self/ns/user", flags, Mode::empty())
}

/// The machine's `/proc`, in which a process finds itself from wherever it is.
pub(super) fn proc() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/proc", flags, Mode::empty())
}

/// Where the machine's loop devices have their names.
pub(super) fn devices() -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/dev", flags, Mode::empty())
}

/// Enters a mount namespace whose root is an empty file system, but for a directory and
/// a file, and leaves all else behind. It is small, because it is copied for each mount.
pub(super) fn enter() -> Result<(), LockerError> {
    let step = |step| move |errno| LockerError::Room { step, errno };
    unshare(CloneFlags::CLONE_NEWNS).map_err(step("make a mount namespace"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, private, nothing).map_err(step("make every mount private"))?;
    let root = make_root().map_err(step("make a file system"))?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
    let how = how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let old = openat2(AT_FDCWD, "/", how).map_err(step("open the root"))?;
    sys::mount::attach(root.as_fd(), old.as_fd()).map_err(step("attach the file system"))?;
    fchdir(&root).map_err(step("enter the file system"))?;
    sys::mount::make_root().map_err(LockerError::Root)
}

fn make_root() -> Result<OwnedFd, Errno> {
    let context = sys::mount::open_filesystem(pinned::TMPFS)?;
    sys::mount::create_filesystem(context.as_fd())?;
    let root = sys::mount::mount_filesystem(context.as_fd(), 0)?;
    mkdirat(&root, pinned::DIRECTORY.text(), Mode::empty())?;
    let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(&root, pinned::FILE.text(), new, Mode::empty())?;
    let sealed = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    sys::mount::restrict(root.as_fd(), sealed, libc::MS_PRIVATE, false)?;
    Ok(root)
}
