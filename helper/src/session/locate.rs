//! Opening the locations of a request, so that the open itself is the kernel's
//! check: Landlock does not look at `O_PATH`, so they are opened for reading.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use mountwarden_policy::{Permit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::roots::Roots;
use crate::failure;

/// Opens what the order for `permit` must bring, in this order: the directory
/// above the target; for a mount also the target, and the source if there is one.
pub(super) fn open(permit: &Permit<'_>, roots: &Roots) -> Result<Vec<OwnedFd>, ErrorReply> {
    let (path, mount) = match permit {
        Permit::Mount(permit) => (&permit.target, Some(&permit.kind)),
        Permit::Unmount(permit) => (&permit.target, None),
    };
    let Some((directory, name)) = path.split() else {
        return Err(failure::kernel(
            "there is no directory above",
            path,
            Errno::EINVAL,
        ));
    };
    let above = location(&directory, roots)?;
    let target = mount
        .map(|_| target(path, name, &above, roots))
        .transpose()?;
    let mut files = vec![above];
    files.extend(target);
    if let Some(PermittedKind::Bind { source, .. }) = mount {
        files.push(location(source, roots)?);
    }
    Ok(files)
}

/// Opens a target. When it holds a mount already, it comes unopened, which
/// cannot block on a dead or hung server and needs no permission: the mounter
/// then only compares.
fn target(
    path: &AbsPath,
    name: &[u8],
    above: &OwnedFd,
    roots: &Roots,
) -> Result<OwnedFd, ErrorReply> {
    let resolve = NO_LINKS | ResolveFlag::RESOLVE_NO_XDEV;
    match openat2(above, name, OpenHow::new().flags(READ).resolve(resolve)) {
        // It crossed into a mount (`openat2(2)`).
        Err(Errno::EXDEV) => {
            let unopened = OFlag::O_PATH | OFlag::O_CLOEXEC;
            openat2(
                above,
                name,
                OpenHow::new().flags(unopened).resolve(NO_LINKS),
            )
        }
        other => other,
    }
    .map_err(|errno| failed(path, errno, roots))
}

/// Opens the root of the mount at a place, unopened; `None` where there is no mount.
pub(super) fn mounted(path: &AbsPath, roots: &Roots) -> Result<Option<OwnedFd>, ErrorReply> {
    let Some((directory, name)) = path.split() else {
        return Ok(None);
    };
    let above = location(&directory, roots)?;
    let open = |resolve| {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        openat2(&above, name, how.resolve(resolve))
    };
    match open(NO_LINKS | ResolveFlag::RESOLVE_NO_XDEV) {
        Ok(_) => Ok(None),
        // It crossed into a mount (`openat2(2)`).
        Err(Errno::EXDEV) => open(NO_LINKS).map(Some),
        Err(errno) => Err(errno),
    }
    .map_err(|errno| failed(path, errno, roots))
}

/// Opens one directory or file for reading.
fn location(path: &AbsPath, roots: &Roots) -> Result<OwnedFd, ErrorReply> {
    let how = OpenHow::new().flags(READ).resolve(NO_LINKS);
    openat2(AT_FDCWD, path.as_path(), how).map_err(|errno| failed(path, errno, roots))
}

/// `O_NONBLOCK` and `O_NOCTTY`: a FIFO or a terminal in the place of a directory
/// neither blocks this process nor becomes its own.
const READ: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_NONBLOCK);

/// No component may be a symbolic link, so that the path leads where it reads,
/// and no magic link of `/proc` leads elsewhere.
const NO_LINKS: ResolveFlag =
    ResolveFlag::RESOLVE_NO_SYMLINKS.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

fn failed(path: &AbsPath, errno: Errno, roots: &Roots) -> ErrorReply {
    match roots.missing_above(path) {
        Some(root) if errno == Errno::EACCES => ErrorReply::new(
            ErrorCode::NotFound,
            format!(
                "the granted root {root} could not be read when this connection began, so nothing \
                 beneath it can be opened: create it and connect again"
            ),
        )
        .at(path),
        _ => failure::kernel("cannot open", path, errno),
    }
}
