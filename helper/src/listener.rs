//! The listening socket: passed by systemd, or bound here.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::AbsPath;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{Backlog, UnixAddr, getsockname, getsockopt};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

use crate::files::{FileError, Trust};
use crate::systemd;

/// Why there is no socket to listen on.
#[derive(Debug, Error)]
pub(crate) enum ListenError {
    #[error("socket: {0}")]
    File(#[from] FileError),
    #[error(
        "the socket passed by the service manager: {0}; pass exactly one listening stream socket"
    )]
    Passed(Errno),
    #[error("socket {}: {error}", path.display())]
    Bind {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("socket {}: another helper listens there", .0.display())]
    InUse(PathBuf),
    #[error("socket: {0}")]
    Kernel(#[from] Errno),
}

/// A socket that listens, and its path, which no mount may cover.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) path: Option<AbsPath>,
}

impl Listener {
    /// Takes the passed socket, or binds one at `path`, in a directory that only
    /// trusted users can change. Any user may connect: the policy decides.
    pub(crate) fn open(path: &Path, trust: &Trust) -> Result<Self, ListenError> {
        let socket = match systemd::passed_socket().map_err(ListenError::Passed)? {
            Some(socket) => {
                let listens = getsockopt(&socket, AcceptConn).map_err(ListenError::Passed)?;
                let kind = getsockopt(&socket, SockType).map_err(ListenError::Passed)?;
                if !listens || kind != nix::sys::socket::SockType::Stream {
                    return Err(ListenError::Passed(Errno::EINVAL));
                }
                socket
            }
            None => bind(path, trust)?,
        };
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let address = getsockname::<UnixAddr>(socket.as_fd().as_raw_fd())?;
        let path = address.path().and_then(|path| AbsPath::new(path).ok());
        Ok(Self { socket, path })
    }
}

/// How many connections may wait to be accepted. They are one queue, whoever they
/// are from (`listen(2)`): in a flood everybody waits behind a full one, so that it
/// may be no longer than what is refused in a moment. Who finds it full waits too.
const BACKLOG: i32 = 128;

#[expect(
    clippy::disallowed_methods,
    reason = "before confinement, in a directory that was found trusted"
)]
fn bind(path: &Path, trust: &Trust) -> Result<OwnedFd, ListenError> {
    let not_absolute = || FileError::NotAbsolute(path.to_owned());
    AbsPath::new(path).map_err(|_| not_absolute())?;
    let directory = path.parent().ok_or_else(not_absolute)?;
    let opened = match trust.directory(directory) {
        Err(FileError::Kernel {
            errno: Errno::ENOENT,
            ..
        }) => {
            make_directory(directory, trust)?;
            trust.directory(directory)?
        }
        other => other?,
    };
    if is_answered(path) {
        return Err(ListenError::InUse(path.to_owned()));
    }
    let name = path.file_name().ok_or_else(not_absolute)?;
    match unlinkat(&opened, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let before = umask(Mode::from_bits_truncate(0o111));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|error| ListenError::Bind {
        path: path.to_owned(),
        error,
    })?;
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener.into())
}

/// Whether a helper listens at `path`, and goes on to: the gate of one that was
/// killed goes a moment after its warden.
#[expect(clippy::disallowed_methods, reason = "before confinement")]
fn is_answered(path: &Path) -> bool {
    (0..20).all(|_| {
        let answered = UnixStream::connect(path).is_ok();
        if answered {
            std::thread::sleep(Duration::from_millis(50));
        }
        answered
    })
}

/// Makes the socket's directory where only that is missing.
fn make_directory(path: &Path, trust: &Trust) -> Result<(), ListenError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let above = trust.directory(parent)?;
    match mkdirat(&above, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(ListenError::File(FileError::Kernel {
            path: path.to_owned(),
            errno,
        })),
    }
}
