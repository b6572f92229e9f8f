//! Opening the locations of a request, so that the open itself is the kernel's
//! check: Landlock does not look at `O_PATH`, so they are opened for reading.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::{Permit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::roots::Roots;
use crate::failure;
use crate::sys::mount;

/// Opens what the order for `permit` must bring, in this order: the directory
/// above the target; for a mount also the target, and the source if there is one.
pub(super) fn open(permit: &Permit<'_>, roots: &Roots) -> Result<Vec<OwnedFd>, ErrorReply> {
    let (path, mount) = match permit {
        Permit::Mount(permit) => (&permit.target, Some(&permit.kind)),
        Permit::Unmount(permit) => (&permit.target, None),
    };
    let Some((directory, _)) = path.split() else {
        return Err(failure::kernel(
            "there is no directory above",
            path,
            Errno::EINVAL,
        ));
    };
    let mut files = vec![location(&directory, roots)?];
    if mount.is_some() {
        files.push(target(path, roots)?);
    }
    if let Some(PermittedKind::Bind { source, .. }) = mount {
        files.push(location(source, roots)?);
    }
    Ok(files)
}

/// Opens a target. When it holds a mount already, it comes unopened, which
/// cannot block on a dead or hung server and needs no permission: the mounter
/// then only compares.
fn target(path: &AbsPath, roots: &Roots) -> Result<OwnedFd, ErrorReply> {
    let unopened = open_without_links(path, OFlag::O_PATH | OFlag::O_CLOEXEC);
    match unopened.and_then(|file| Ok((mount::mount_of(file.as_fd())?, file))) {
        Ok((status, file)) if status.is_mount_root => Ok(file),
        _ => location(path, roots),
    }
}

/// Opens one directory or file for reading.
fn location(path: &AbsPath, roots: &Roots) -> Result<OwnedFd, ErrorReply> {
    // O_NONBLOCK and O_NOCTTY: a FIFO or a terminal in the place of a directory
    // neither blocks this process nor becomes its own.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    open_without_links(path, flags).map_err(|errno| match roots.missing_above(path) {
        Some(root) if errno == Errno::EACCES => ErrorReply::new(
            ErrorCode::NotFound,
            format!(
                "the granted root {root} could not be read when this connection began, so \
                     nothing beneath it can be opened: create it and connect again"
            ),
        )
        .at(path),
        _ => failure::kernel("cannot open", path, errno),
    })
}

/// Opens a path of which no component may be a symbolic link, so that it leads
/// where it reads, and no magic link of `/proc` leads elsewhere.
fn open_without_links(path: &AbsPath, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(nix::fcntl::AT_FDCWD, path.as_path(), how)
}
