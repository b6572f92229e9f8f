//! What gate and sessions have to say: to them standard error is a socket, and the
//! warden writes the line. So an owned one cannot write a line of another's.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_protocol::Role;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, setsockopt, socketpair, sockopt,
};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};

use crate::audit;
use crate::sys::socket;

/// The most bytes of a message. A value in the log is cut before that, so that one
/// which did not fit is seen to be cut.
pub(crate) const MAX_MESSAGE: usize = 1024;

/// How many messages the warden takes before it looks at the rest of its work.
pub(crate) const AT_ONCE: usize = 16;

/// More than the socket holds (`wmem_default` in `socket(7)`, of which a message takes
/// some 700 bytes): what was said by who has ended.
pub(crate) const ALL: usize = 1024;

/// The warden's end, and the one that its writers share.
///
/// The pid that comes with each message is the kernel's word (`SO_PASSCRED` in `unix(7)`).
/// A datagram socket would not do: it can be sent to an address.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    Ok((ours, theirs))
}

/// Makes this process a writer. The log may be behind any of the three standard
/// descriptors: a unit has it behind two, a terminal is all of them.
pub(crate) fn divert(theirs: &OwnedFd) -> Result<(), Errno> {
    dup2_stdin(theirs)?;
    dup2_stdout(theirs)?;
    dup2_stderr(theirs)
}

/// The warden's end.
pub(crate) struct Reports {
    socket: OwnedFd,
    gate: Pid,
}

impl Reports {
    pub(crate) fn new(socket: OwnedFd, gate: Pid) -> Self {
        Self { socket, gate }
    }

    /// Writes a line for each message that waits, up to `most`, and waits for none;
    /// false when there is no writer any more.
    pub(crate) fn write(&self, most: usize) -> Result<bool, Errno> {
        for _ in 0..most {
            let mut buffer = [0; MAX_MESSAGE];
            let received = socket::receive(self.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
            let message = match received {
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let Some(pid) = message.sender else {
                return Ok(false);
            };
            let role = if pid == self.gate {
                Role::Gate
            } else {
                Role::Session
            };
            let said = buffer.get(..message.length).unwrap_or_default();
            audit::log_of(role, pid, said.trim_ascii_end())?;
        }
        Ok(true)
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
