//! What systemd gives a service: a listening socket (`sd_listen_fds(3)`) and a
//! place to say that it is ready (`sd_notify(3)`).
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use crate::sys::socket;

/// The first passed descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The descriptor that was passed for listening, if there is just one.
pub(crate) fn passed_socket() -> Result<Option<OwnedFd>, Errno> {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    if number("LISTEN_PID") != Some(nix::unistd::getpid().as_raw().unsigned_abs()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => socket::adopt(FIRST).map(Some),
        Some(_) => Err(Errno::EINVAL),
    }
}

/// A connection to the service manager, made before confinement, because
/// afterwards no socket can be made.
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects where `NOTIFY_SOCKET` says; to nothing where it is not set.
    pub(crate) fn connect() -> io::Result<Self> {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self(None));
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&parse(&address)?)?;
        Ok(Self(Some(socket)))
    }

    /// Sends one state, such as `READY=1`.
    pub(crate) fn send(&self, state: &str) -> Result<(), Errno> {
        match &self.0 {
            Some(manager) => {
                socket::send(manager.as_fd(), state.as_bytes(), &[], MsgFlags::empty()).map(drop)
            }
            None => Ok(()),
        }
    }

    /// The socket's number, for the list of what stays open.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.0.as_ref().map(AsRawFd::as_raw_fd)
    }
}

fn parse(address: &OsString) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(address),
    }
}
