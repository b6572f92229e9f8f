//! Descriptors that come with a reply.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::deadline::{Deadline, out_of_time};

/// One, and room to see that there were more.
const ROOM: usize = rustix::cmsg_space!(ScmRights(2));

/// A stream that is read until a deadline, and keeps what descriptors come.
pub(crate) struct Receiving<'a> {
    stream: &'a UnixStream,
    deadline: Deadline,
    received: Vec<OwnedFd>,
}

impl<'a> Receiving<'a> {
    pub(crate) fn new(stream: &'a UnixStream, deadline: Deadline) -> Self {
        Self {
            stream,
            deadline,
            received: Vec::new(),
        }
    }

    /// What came.
    pub(crate) fn into_received(self) -> Vec<OwnedFd> {
        self.received
    }
}

impl Read for Receiving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(self.deadline.remaining()?)?;
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let mut parts = [IoSliceMut::new(buffer)];
            let message = match recvmsg(
                self.stream,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(out_of_time(error.into())),
                Ok(message) => message,
            };
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    self.received.extend(descriptors);
                }
            }
            if message.flags.contains(ReturnFlags::CTRUNC) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(message.bytes);
        }
    }
}
