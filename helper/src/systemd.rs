//! What systemd gives a service: a listening socket (`sd_listen_fds(3)`), a place
//! to say that it is ready (`sd_notify(3)`), and somebody who watches it
//! (`sd_watchdog_enabled(3)`).
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use crate::files;
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

/// How often the service manager wants to hear `WATCHDOG=1`, if it watches this
/// process: twice in the time after which it takes it for dead.
pub(crate) fn watchdog() -> Result<Option<Duration>, Errno> {
    let Some(allowed) = env::var_os("WATCHDOG_USEC") else {
        return Ok(None);
    };
    let own = nix::unistd::getpid().to_string();
    if env::var_os("WATCHDOG_PID").is_some_and(|watched| watched != *own) {
        return Ok(None);
    }
    let allowed = allowed.to_str().and_then(|text| text.parse::<u64>().ok());
    match allowed.map(|microseconds| Duration::from_micros(microseconds / 2)) {
        Some(half) if !half.is_zero() => Ok(Some(half)),
        _ => Err(Errno::EINVAL),
    }
}

/// A warning where the service manager started this process in a mount namespace
/// of its own. `/proc/1/ns/mnt` is not for the helper to read; the ids of mounts
/// are, and no two namespaces share one (`proc_pid_mountinfo(5)`).
pub(crate) fn namespace_warning() -> Option<String> {
    env::var_os("NOTIFY_SOCKET")?;
    let first_id = |mountinfo: &str| {
        let text = files::read_proc(Path::new(mountinfo)).ok()?;
        text.split(' ').next().map(str::to_owned)
    };
    let (manager, own) = (
        first_id("/proc/1/mountinfo")?,
        first_id("/proc/self/mountinfo")?,
    );
    (manager != own).then(|| {
        "warning: the unit has a mount namespace of its own, where the machine may not see what is \
         mounted: remove the setting that gives it one, see the comment in mountwarden.service"
            .to_owned()
    })
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
        self.send_with(state, MsgFlags::empty())
    }

    /// Sends a state that a manager who does not listen now may miss: the helper
    /// does not stand still for it.
    pub(crate) fn offer(&self, state: &str) -> Result<(), Errno> {
        match self.send_with(state, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => Ok(()),
            other => other,
        }
    }

    fn send_with(&self, state: &str, flags: MsgFlags) -> Result<(), Errno> {
        match &self.0 {
            Some(manager) => socket::send(manager.as_fd(), state.as_bytes(), &[], flags).map(drop),
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
