//! The socket to the program that is to serve (`receive_fd` in libfuse's `lib/mount.c`).

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;

use mountwarden_protocol::escape::Safe;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg};

/// The environment variable with its number.
const VARIABLE: &str = "_FUSE_COMMFD";

/// A socket that this process was started with. It is only known by its number.
pub(super) struct Channel(RawFd);

impl Channel {
    /// The one that the command line names, else the environment.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn named(number: Option<OsString>) -> Result<Self, String> {
        let number = number
            .or_else(|| std::env::var_os(VARIABLE))
            .ok_or("old style mounting not supported")?;
        let number = number.to_string_lossy();
        let fd: RawFd = number
            .parse()
            .map_err(|_| format!("invalid {VARIABLE}: {}", Safe(&number)))?;
        let status = fs::metadata(format!("/proc/self/fd/{fd}"))
            .map_err(|error| format!("cannot look at the file descriptor {fd}: {error}"))?;
        if !status.file_type().is_socket() {
            return Err(format!(
                "file descriptor {fd} is not a socket, can't send fuse fd"
            ));
        }
        Ok(Self(fd))
    }

    pub(super) fn number(&self) -> RawFd {
        self.0
    }

    /// Sends the connection, with one byte.
    pub(super) fn send(&self, connection: &OwnedFd) -> io::Result<()> {
        let byte = [IoSlice::new(&[0])];
        let descriptors = [connection.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        loop {
            let sent = sendmsg::<UnixAddr>(self.0, &byte, &rights, MsgFlags::MSG_NOSIGNAL, None);
            match sent {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Waits until nobody has the other end any more.
    pub(super) fn wait_for_end(&self) {
        let mut ignored = [0; 16];
        loop {
            match recv(self.0, &mut ignored, MsgFlags::empty()) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}
