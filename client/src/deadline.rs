//! One deadline for everything that a call does.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::descriptors::send_with;

/// A zero timeout means "no limit" to a socket.
const SHORTEST: Duration = Duration::from_millis(1);

/// The moment at which a call gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// `None` for a moment beyond what the clock can count.
    end: Option<Instant>,
}

impl Deadline {
    /// The moment that is `timeout` away.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self {
            end: Instant::now().checked_add(timeout),
        }
    }

    /// What is left, in the form that a socket's timeouts take.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when nothing is left.
    pub(crate) fn remaining(self) -> io::Result<Option<Duration>> {
        let Some(end) = self.end else {
            return Ok(None);
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left.max(SHORTEST)))
    }

    /// Sleeps; false, at once, when that would be beyond the deadline.
    pub(crate) fn sleep(self, time: Duration) -> bool {
        let wake = Instant::now().checked_add(time);
        let in_time = self
            .end
            .is_none_or(|end| wake.is_some_and(|wake| wake < end));
        if in_time {
            std::thread::sleep(time);
        }
        in_time
    }
}

/// A stream whose every read and write ends at the deadline, however many
/// there are and however few bytes each one moves.
pub(crate) struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Deadline,
    written: usize,
    /// What goes with the first byte.
    passing: Vec<BorrowedFd<'a>>,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(stream: &'a UnixStream, deadline: Deadline) -> Self {
        Self {
            stream,
            deadline,
            written: 0,
            passing: Vec::new(),
        }
    }

    /// Sends descriptors with the first byte that is written.
    pub(crate) fn passing(mut self, descriptors: Vec<BorrowedFd<'a>>) -> Self {
        self.passing = descriptors;
        self
    }

    /// Whether any byte was written.
    pub(crate) fn wrote(&self) -> bool {
        self.written > 0
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.deadline.remaining()?)?;
        self.stream.read(buffer).map_err(out_of_time)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.deadline.remaining()?)?;
        let count = if self.passing.is_empty() {
            self.stream.write(bytes)
        } else {
            send_with(self.stream, bytes, &self.passing)
        }
        .map_err(out_of_time)?;
        self.passing.clear();
        self.written = self.written.saturating_add(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose timeout passed says `EAGAIN`.
pub(crate) fn out_of_time(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::Error::new(io::ErrorKind::TimedOut, error)
    } else {
        error
    }
}
