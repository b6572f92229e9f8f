//! The same work without the helper: the system calls that cannot be spared, in
//! this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mountwarden_helper::raw::{attach, clone_tree, restrict, restrict_mapped, unmount_name};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::fchdir;

use crate::Outcome;

/// `MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV`
const ATTRIBUTES: u64 = 0x2 | 0x4;

/// A detached clone, restricted while it is detached, attached.
pub(crate) fn bind(source: &Path, target: &Path) -> Outcome<()> {
    let target = open(target)?;
    attach(detached(source)?.as_fd(), target.as_fd())?;
    Ok(())
}

/// The same, attached nowhere.
pub(crate) fn detached(source: &Path) -> Outcome<OwnedFd> {
    let source = open(source)?;
    let clone = clone_tree(source.as_fd(), false)?;
    let private = MsFlags::MS_PRIVATE.bits();
    restrict(clone.as_fd(), ATTRIBUTES, private, false)?;
    Ok(clone)
}

/// A bind, ID-mapped by a user namespace.
pub(crate) fn bind_mapped(source: &Path, target: &Path, namespace: BorrowedFd<'_>) -> Outcome<()> {
    let (source, target) = (open(source)?, open(target)?);
    let clone = clone_tree(source.as_fd(), false)?;
    let private = MsFlags::MS_PRIVATE.bits();
    restrict_mapped(clone.as_fd(), ATTRIBUTES, private, false, Some(namespace))?;
    attach(clone.as_fd(), target.as_fd())?;
    Ok(())
}

/// The mount at a place, to another.
pub(crate) fn moved(from: &Path, to: &Path) -> Outcome<()> {
    let (from, to) = (open(from)?, open(to)?);
    Ok(attach(from.as_fd(), to.as_fd())?)
}

/// The name in its directory, as an unmount by descriptor must do it. The
/// working directory stays there: nothing that is mounted holds it.
pub(crate) fn unmount(directory: &Path, name: &[u8]) -> Outcome<()> {
    let directory = open(directory)?;
    fchdir(directory.as_fd())?;
    unmount_name(name, false)?;
    Ok(())
}

/// A tmpfs with the old calls, two in all.
pub(crate) fn tmpfs_pair(target: &Path) -> Outcome<()> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("size=1m,nr_inodes=256,mode=700"),
    )?;
    umount2(target, MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

fn open(path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how)
}
