//! Opening the locations of a request, so that the open itself is the kernel's
//! check: Landlock does not look at `O_PATH`, so they are opened for reading.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use mountwarden_policy::{MountPermit, Permit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::roots::Roots;
use crate::failure;

/// Opens what the order for `permit` must bring: target and source of a mount,
/// the directory above the target of an unmount.
pub(super) fn open(permit: &Permit<'_>, roots: &Roots) -> Result<Vec<OwnedFd>, ErrorReply> {
    match permit {
        Permit::Mount(MountPermit {
            target,
            kind: PermittedKind::Bind { source, .. },
            ..
        }) => Ok(vec![location(target, roots)?, location(source, roots)?]),
        Permit::Mount(MountPermit {
            target,
            kind: PermittedKind::Tmpfs { .. },
            ..
        }) => Ok(vec![location(target, roots)?]),
        Permit::Unmount(permit) => match permit.target.split() {
            Some((directory, _)) => Ok(vec![location(&directory, roots)?]),
            None => Err(failure::kernel(
                "cannot unmount",
                &permit.target,
                Errno::EINVAL,
            )),
        },
    }
}

/// Opens one directory or file. No component may be a symbolic link, so that
/// the path is where it reads, and no magic link of `/proc` leads elsewhere.
fn location(path: &AbsPath, roots: &Roots) -> Result<OwnedFd, ErrorReply> {
    // O_NONBLOCK and O_NOCTTY: a FIFO or a terminal in the place of a directory
    // neither blocks this process nor becomes its own.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(nix::fcntl::AT_FDCWD, path.as_path(), how).map_err(|errno| {
        match roots.missing_above(path) {
            Some(root) if errno == Errno::EACCES => ErrorReply::new(
                ErrorCode::NotFound,
                format!(
                    "the granted root {root} could not be read when this connection began, so \
                     nothing beneath it can be opened: create it and connect again"
                ),
            )
            .at(path),
            _ => failure::kernel("cannot open", path, errno),
        }
    })
}
