//! The client's socket: frames in, frames out, with deadlines.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mountwarden_protocol::{ErrorCode, ErrorReply, frame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::socket;

/// Why no message came.
pub(super) enum NoMessage {
    /// The client closed the connection, or let a deadline pass, between frames.
    Gone,
    /// The bytes are no message; this is the last reply.
    Bad(ErrorReply),
    /// The client spoke, and this connection has no other half any more.
    NoMounter,
}

/// The client's end of the connection.
pub(super) struct ClientStream {
    socket: OwnedFd,
    deadline: Instant,
    /// Whether a byte of the frame was read.
    begun: bool,
    /// What came with its first byte.
    descriptors: Vec<OwnedFd>,
    /// More came, or later.
    misplaced: bool,
}

impl ClientStream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            deadline: Instant::now(),
            begun: false,
            descriptors: Vec::new(),
            misplaced: false,
        }
    }

    /// Receives one message with as many descriptors as it `takes`; whatever else
    /// comes is closed. It may be `idle` before it starts, or for as long as it likes,
    /// and must be whole `within` that time of its first byte: a client that sends one
    /// byte a second holds its connection no longer than one that is silent.
    pub(super) fn receive<T: DeserializeOwned + Serialize>(
        &mut self,
        order: BorrowedFd<'_>,
        idle: Option<Duration>,
        within: Duration,
        takes: impl FnOnce(&T) -> usize,
    ) -> Result<(T, Vec<OwnedFd>), NoMessage> {
        self.wait_for_frame(order, idle)?;
        self.deadline = Instant::now().checked_add(within).unwrap_or(self.deadline);
        (self.begun, self.misplaced) = (false, false);
        let body = frame::read(self);
        let descriptors = mem::take(&mut self.descriptors);
        let body = match body {
            Err(frame::ReadError::Closed) => return Err(NoMessage::Gone),
            Ok(_) | Err(frame::ReadError::Io(_)) if self.misplaced => {
                return Err(NoMessage::Bad(malformed(
                    &"descriptors came that were too many, or not with the first byte of a frame",
                )));
            }
            Ok(body) => body,
            Err(frame::ReadError::Io(error)) => return Err(cut_short(&error)),
            Err(error) => return Err(NoMessage::Bad(malformed(&error))),
        };
        let value = frame::decode(&body).map_err(|error| {
            NoMessage::Bad(match error {
                frame::DecodeError::Invalid(why) => ErrorReply::new(ErrorCode::InvalidRequest, why),
                other => malformed(&other),
            })
        })?;
        match (takes(&value), descriptors.len()) {
            (wanted, came) if wanted == came => Ok((value, descriptors)),
            (0, _) => Err(NoMessage::Bad(malformed(
                &"descriptors came with a message that takes none",
            ))),
            (wanted, came) => Err(NoMessage::Bad(malformed(&format!(
                "descriptors came with a message that takes another number of them: {came}, not \
                 {wanted}"
            )))),
        }
    }

    /// Sends one message. A client that does not read it loses the connection
    /// (`SO_SNDTIMEO` is set on the socket).
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        frame::write(self, message)
    }

    /// Whether the client has closed its end.
    pub(super) fn has_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut polled, Some(Duration::ZERO)).is_ok_and(|events| events > 0)
    }

    /// Waits until the client says something.
    fn wait_for_frame(
        &self,
        order: BorrowedFd<'_>,
        idle: Option<Duration>,
    ) -> Result<(), NoMessage> {
        let mut polled = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(order, PollFlags::empty()),
        ];
        if poll(&mut polled, idle).unwrap_or(0) == 0 {
            return Err(NoMessage::Gone);
        }
        match polled.map(|fd| fd.any().unwrap_or(true)) {
            [_, false] => Ok(()),
            [true, true] => Err(NoMessage::NoMounter),
            [false, true] => Err(NoMessage::Gone),
        }
    }
}

fn malformed(error: &impl std::fmt::Display) -> ErrorReply {
    ErrorReply::new(ErrorCode::MalformedFrame, error.to_string())
}

fn cut_short(error: &io::Error) -> NoMessage {
    let reply = if error.kind() == io::ErrorKind::TimedOut {
        ErrorReply::new(
            ErrorCode::TimedOut,
            "the rest of the frame did not come in time",
        )
    } else {
        malformed(&"the connection ended inside a frame")
    };
    NoMessage::Bad(reply)
}

/// Waits for `time`, or until there is something.
fn poll(polled: &mut [PollFd<'_>], time: Option<Duration>) -> Result<i32, Errno> {
    let end = time.and_then(|time| Instant::now().checked_add(time));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        match nix::poll::ppoll(polled, left.map(TimeSpec::from_duration), None) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

impl Read for ClientStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match socket::receive(self.socket.as_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(received) => {
                    // The kernel has closed what did not fit (`MSG_CTRUNC` in `recvmsg(2)`).
                    let first = !mem::replace(&mut self.begun, true);
                    let late = !first && !received.descriptors.is_empty();
                    self.misplaced |= received.truncated || late;
                    if first && !self.misplaced {
                        self.descriptors = received.descriptors;
                    }
                    return Ok(received.length);
                }
                Err(Errno::EAGAIN) => {
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    if poll(&mut polled, Some(left))? == 0 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Write for ClientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(socket::send_bytes(self.socket.as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
