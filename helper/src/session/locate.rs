//! Opening the locations of a request, so that the open itself is the kernel's
//! check: Landlock does not look at `O_PATH`, so they are opened for reading.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_policy::{MountPermit, Permit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, Passed};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::roots::Roots;
use crate::failure;

/// A descriptor that an order brings.
pub(super) enum Brought<'a> {
    Opened(OwnedFd),
    /// The client opened it; nothing is known of it here.
    Passed(BorrowedFd<'a>),
}

impl AsFd for Brought<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Opened(file) => file.as_fd(),
            Self::Passed(file) => *file,
        }
    }
}

/// Gives what the order for `permit` must bring, in this order: the directory above
/// the target; for a mount also the target, and the source if there is one. What was
/// passed is taken from `passed`. With a passed target there is no directory: it is
/// beyond the helper's user. The target comes twice instead, so that each descriptor
/// arrives in its slot.
pub(super) fn open<'a>(
    permit: &Permit<'_>,
    roots: &Roots,
    passed: &'a [OwnedFd],
) -> Result<Vec<Brought<'a>>, ErrorReply> {
    let mut passed = passed.iter().map(AsFd::as_fd);
    match permit {
        Permit::Unmount(permit) if permit.passed => twice(passed.next(), &permit.target),
        Permit::Unmount(permit) => Ok(vec![Brought::Opened(above(&permit.target, roots)?.0)]),
        Permit::Mount(permit) => {
            let mut files = if permit.passed.contains(Passed::TARGET) {
                twice(passed.next(), &permit.target)?
            } else {
                let (above, name) = above(&permit.target, roots)?;
                let target = target(&permit.target, name, &above, roots)?;
                vec![Brought::Opened(above), Brought::Opened(target)]
            };
            files.extend(source(permit, roots, passed.next())?);
            Ok(files)
        }
    }
}

fn twice<'a>(
    target: Option<BorrowedFd<'a>>,
    path: &AbsPath,
) -> Result<Vec<Brought<'a>>, ErrorReply> {
    let file = target.ok_or_else(|| failure::kernel("no descriptor for", path, Errno::EBADF))?;
    Ok(vec![Brought::Passed(file), Brought::Passed(file)])
}

fn source<'a>(
    permit: &MountPermit<'_>,
    roots: &Roots,
    passed: Option<BorrowedFd<'a>>,
) -> Result<Option<Brought<'a>>, ErrorReply> {
    let PermittedKind::Bind { source, .. } = &permit.kind else {
        return Ok(None);
    };
    Ok(Some(match passed {
        Some(file) => Brought::Passed(file),
        None => Brought::Opened(location(source, roots)?),
    }))
}

/// Opens the directory above a path.
fn above<'p>(path: &'p AbsPath, roots: &Roots) -> Result<(OwnedFd, &'p [u8]), ErrorReply> {
    let Some((directory, name)) = path.split() else {
        return Err(failure::kernel(
            "there is no directory above",
            path,
            Errno::EINVAL,
        ));
    };
    Ok((location(&directory, roots)?, name))
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
