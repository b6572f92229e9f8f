//! Opening the locations of a request, so that the open itself is the kernel's
//! check: Landlock does not look at `O_PATH`, so they are opened for reading.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use mountwarden_policy::{Permit, PermittedKind};
use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply, FuseSource, Passed};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::roots::{FUSE_CONNECTION, Roots};
use crate::failure;

/// A descriptor that an order brings.
#[derive(Clone)]
pub(super) enum Brought<'a> {
    Opened(Rc<OwnedFd>),
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
/// the target; for a mount or a remount also the target, and what its kind is made
/// from; for a move, the directory and the target of the new place, and the mount's root
/// twice. What was passed is taken from `passed`. With a passed target there is no
/// directory: it is beyond the helper's user. The target comes twice instead, so that
/// each descriptor arrives in its slot. A user namespace comes last, after so many that the
/// slot in which the new mount will be is taken.
pub(super) fn open<'a>(
    permit: &Permit<'_>,
    roots: &Roots,
    passed: &'a [OwnedFd],
) -> Result<Vec<Brought<'a>>, ErrorReply> {
    let mut passed = passed.iter().map(AsFd::as_fd);
    let (mut files, kind) = match permit {
        Permit::Unmount(permit) if permit.passed => (twice(passed.next(), &permit.target)?, None),
        Permit::Unmount(permit) => (opened([above(&permit.target, roots)?.0]), None),
        Permit::Mount(permit) if permit.passed.contains(Passed::TARGET) => {
            (twice(passed.next(), &permit.target)?, Some(&permit.kind))
        }
        Permit::Mount(permit) => {
            let (above, name) = above(&permit.target, roots)?;
            let target = target(&permit.target, name, &above, roots)?;
            (opened([above, target]), Some(&permit.kind))
        }
        Permit::Remount(permit) => {
            let (above, name) = above(&permit.target, roots)?;
            let root =
                unopened(&above, name).map_err(|errno| failed(&permit.target, errno, roots))?;
            let kind = permit.lift.as_ref().map(|lift| &lift.kind);
            (opened([above, root]), kind)
        }
        // Nothing is looked up above it, and nothing is mounted on. It comes in the place
        // of both, so that it also arrives in its own slot.
        Permit::Detach(permit) => {
            let source = Brought::Opened(Rc::new(location(&permit.source, roots)?));
            let mut files = vec![source; 3];
            if permit.idmap.is_some() {
                files.extend(with_filler(&files, passed.next(), &permit.source)?);
            }
            return Ok(files);
        }
        // The root comes twice, so that it arrives in the slot of a mount.
        Permit::Move(permit) => {
            let root = mounted(&permit.from, roots)?.ok_or_else(|| not_mounted(&permit.from))?;
            let root = Brought::Opened(Rc::new(root));
            let (above, name) = above(&permit.to, roots)?;
            let target = target(&permit.to, name, &above, roots)?;
            let mut files = opened([above, target]);
            files.extend([root.clone(), root]);
            return Ok(files);
        }
    };
    let (source, namespace) = match permit {
        Permit::Mount(permit) => {
            let source = permit.passed.contains(Passed::SOURCE);
            let source = source.then(|| passed.next()).flatten();
            (source, permit.idmap.as_ref().map(|_| permit.bound()))
        }
        _ => (None, None),
    };
    files.extend(origin(kind, roots, source)?);
    if let Some(path) = namespace {
        files.extend(with_filler(&files, passed.next(), path)?);
    }
    Ok(files)
}

/// A user namespace, and before it what is there already.
fn with_filler<'a>(
    files: &[Brought<'a>],
    namespace: Option<BorrowedFd<'a>>,
    path: &AbsPath,
) -> Result<[Brought<'a>; 2], ErrorReply> {
    let (Some(filler), Some(namespace)) = (files.last().cloned(), namespace) else {
        return Err(failure::kernel("no user namespace for", path, Errno::EBADF));
    };
    Ok([filler, Brought::Passed(namespace)])
}

fn opened<'a>(files: impl IntoIterator<Item = OwnedFd>) -> Vec<Brought<'a>> {
    let opened = |file| Brought::Opened(Rc::new(file));
    files.into_iter().map(opened).collect()
}

fn twice<'a>(
    target: Option<BorrowedFd<'a>>,
    path: &AbsPath,
) -> Result<Vec<Brought<'a>>, ErrorReply> {
    let file = target.ok_or_else(|| failure::kernel("no descriptor for", path, Errno::EBADF))?;
    Ok(vec![Brought::Passed(file), Brought::Passed(file)])
}

/// What a kind is made from. Only a bind's source is ever passed.
fn origin<'a>(
    kind: Option<&PermittedKind>,
    roots: &Roots,
    passed: Option<BorrowedFd<'a>>,
) -> Result<Vec<Brought<'a>>, ErrorReply> {
    Ok(match (kind, passed) {
        (Some(PermittedKind::Bind { .. }), Some(file)) => vec![Brought::Passed(file)],
        (Some(PermittedKind::Bind { source, .. }), None) => opened([location(source, roots)?]),
        (Some(PermittedKind::Block { device, .. }), _) => opened(block_device(device)?),
        (Some(PermittedKind::Fuse(fuse)), _) => {
            let mut files = match &fuse.source {
                FuseSource::Device { device, .. } => opened(block_device(device)?),
                FuseSource::Subtype | FuseSource::Named(_) => Vec::new(),
            };
            files.extend(opened([fuse_connection()?]));
            files
        }
        (Some(PermittedKind::Image { file, .. }), _) => opened([location(file, roots)?]),
        (Some(PermittedKind::Overlay(overlay)), _) => {
            let layers = overlay.directories().map(|path| location(path, roots));
            opened(layers.collect::<Result<Vec<_>, _>>()?)
        }
        (Some(PermittedKind::Tmpfs { .. } | PermittedKind::Network { .. }) | None, _) => Vec::new(),
    })
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

/// Opens a device, and what stands at its path: itself, or a link to it. Neither is
/// opened for more than to name it, which takes no permission of the device.
fn block_device(path: &AbsPath) -> Result<[OwnedFd; 2], ErrorReply> {
    let opened = |flags, resolve| {
        let how = OpenHow::new().flags(flags).resolve(resolve);
        openat2(AT_FDCWD, path.as_path(), how)
            .map_err(|errno| failure::kernel("cannot find the device", path, errno))
    };
    let name = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok([
        opened(name, ResolveFlag::RESOLVE_NO_MAGICLINKS)?,
        opened(name | OFlag::O_NOFOLLOW, NO_LINKS)?,
    ])
}

fn fuse_connection() -> Result<OwnedFd, ErrorReply> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(NO_LINKS);
    openat2(AT_FDCWD, FUSE_CONNECTION, how).map_err(|errno| {
        let message = format!(
            "cannot open {FUSE_CONNECTION}: {}; the kernel needs its module fuse, and the helper's \
             user the right to read and write it",
            errno.desc()
        );
        ErrorReply::new(ErrorCode::Unsupported, message).errno(failure::number(errno))
    })
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
        Err(Errno::EXDEV) => unopened(above, name),
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
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let resolve = NO_LINKS | ResolveFlag::RESOLVE_NO_XDEV;
    match openat2(&above, name, how.resolve(resolve)) {
        Ok(_) => Ok(None),
        // It crossed into a mount (`openat2(2)`).
        Err(Errno::EXDEV) => unopened(&above, name).map(Some),
        Err(errno) => Err(errno),
    }
    .map_err(|errno| failed(path, errno, roots))
}

fn not_mounted(path: &AbsPath) -> ErrorReply {
    let message = format!("nothing is mounted at {path}");
    ErrorReply::new(ErrorCode::NotMounted, message).at(path)
}

/// The root of the mount at a name. What it shows is not asked.
fn unopened(above: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    openat2(above, name, how.resolve(NO_LINKS))
}

/// Opens one directory or file for reading.
pub(super) fn location(path: &AbsPath, roots: &Roots) -> Result<OwnedFd, ErrorReply> {
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
