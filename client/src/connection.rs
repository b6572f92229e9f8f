//! One connection: connect, handshake, exchange.

use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mountwarden_protocol::frame::{self, ReadError};
use mountwarden_protocol::{
    ErrorCode, Hello, HelloReply, Refusal, Reply, Request, Versions, Welcome,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::deadline::{Deadline, Timed, out_of_time};
use crate::descriptors::Receiving;

/// Why a connection gave no reply. The connection is of no further use: what
/// comes next on it may be the rest of an old reply.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody accepted the connection.
    Unreachable(io::Error),
    /// The helper refused the connection and said why.
    Refused(Box<Refusal>),
    /// The deadline passed.
    TimedOut {
        /// Whether the helper may have the request.
        sent: bool,
    },
    /// The helper closed the connection or was ended.
    Lost {
        /// Whether the helper may have the request.
        sent: bool,
        /// What the socket said.
        cause: io::Error,
    },
    /// The helper sent what no helper sends.
    Protocol(Box<dyn std::error::Error + Send + Sync>),
}

/// How long to wait before a connection is tried again whose helper went away
/// before it welcomed the client. A helper that is being ended may accept a few
/// more for a moment.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(125),
    Duration::from_millis(625),
];

/// The bytes of all but the longest replies.
const USUAL: usize = 1024;

/// An open connection with nothing under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    welcome: Welcome,
}

impl Connection {
    /// Connects and shakes hands, again where the helper went away meanwhile:
    /// nothing was asked, and with a socket that the service manager keeps the
    /// next helper answers.
    pub(crate) fn open(socket: &Path, deadline: Deadline) -> Result<Self, Failure> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let opened = Self::try_open(socket, deadline);
            let (Err(failure), Some(pause)) = (&opened, pauses.next()) else {
                return opened;
            };
            if !failure.is_of_going_helper() || !deadline.sleep(pause) {
                return opened;
            }
        }
    }

    fn try_open(socket: &Path, deadline: Deadline) -> Result<Self, Failure> {
        let stream = connect(socket, deadline).map_err(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                Failure::TimedOut { sent: false }
            } else {
                Failure::Unreachable(error)
            }
        })?;
        let welcome = shake_hands(&stream, deadline)?;
        Ok(Self { stream, welcome })
    }

    /// What the helper said when the connection was opened.
    pub(crate) fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// Sends a request, with descriptors, and reads its reply.
    ///
    /// Consumes the connection and gives it back only with a whole reply.
    pub(crate) fn exchange(
        self,
        request: &Request,
        descriptors: Vec<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(Self, Reply), Failure> {
        let mut timed = Timed::new(&self.stream, deadline).passing(descriptors);
        if let Err(error) = frame::write(&mut timed, request) {
            return Err(Failure::of(error, timed.wrote()));
        }
        let (reply, _) = read_reply(timed)?;
        Ok((self, reply))
    }

    /// As [`Connection::exchange`], for a request whose reply may bring descriptors.
    pub(crate) fn exchange_for_descriptors(
        self,
        request: &Request,
        descriptors: Vec<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(Self, Reply, Vec<OwnedFd>), Failure> {
        let mut timed = Timed::new(&self.stream, deadline).passing(descriptors);
        if let Err(error) = frame::write(&mut timed, request) {
            return Err(Failure::of(error, timed.wrote()));
        }
        let (reply, receiving) = read_reply(Receiving::new(&self.stream, deadline))?;
        let descriptors = receiving.into_received();
        Ok((self, reply, descriptors))
    }
}

/// Reads a reply, after which there is nothing more.
fn read_reply<R: Read>(stream: R) -> Result<(Reply, R), Failure> {
    // A reply of the usual size is read with one call.
    let mut buffered = BufReader::with_capacity(USUAL, stream);
    let bytes = frame::read(&mut buffered).map_err(|error| Failure::of_read(error, true))?;
    if !buffered.buffer().is_empty() {
        return Err(Failure::Protocol("bytes follow the reply".into()));
    }
    let reply = frame::decode(&bytes).map_err(|error| Failure::Protocol(error.into()))?;
    Ok((reply, buffered.into_inner()))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Failure {
    fn of(error: io::Error, sent: bool) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            Self::TimedOut { sent }
        } else {
            Self::Lost { sent, cause: error }
        }
    }

    /// Whether a helper went away, or said that it goes, before it did anything.
    pub(crate) fn is_of_going_helper(&self) -> bool {
        match self {
            Self::Lost { sent, .. } => !sent,
            Self::Refused(refusal) => refusal.error.code == ErrorCode::Unavailable,
            Self::Unreachable(_) | Self::TimedOut { .. } | Self::Protocol(_) => false,
        }
    }

    /// The same failure, of a second attempt at a request that the helper may
    /// have had the first time: "nothing was done" cannot be said any more.
    pub(crate) fn after_sent(self) -> Self {
        match self {
            Self::Unreachable(cause) | Self::Lost { cause, .. } => Self::Lost { sent: true, cause },
            Self::TimedOut { .. } => Self::TimedOut { sent: true },
            Self::Refused(refusal) => Self::Lost {
                sent: true,
                cause: io::Error::other(refusal.error.message),
            },
            Self::Protocol(cause) => Self::Protocol(cause),
        }
    }

    fn of_read(error: ReadError, sent: bool) -> Self {
        match error {
            ReadError::Closed => Self::Lost {
                sent,
                cause: io::Error::new(io::ErrorKind::UnexpectedEof, error),
            },
            ReadError::Io(error) => Self::of(error, sent),
            other => Self::Protocol(other.into()),
        }
    }
}

/// Connects within the deadline.
///
/// A full backlog makes `connect` wait, and poll cannot wait for a Unix socket
/// that is not connected; the kernel ends this wait by the send timeout.
fn connect(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    loop {
        socket.set_write_timeout(deadline.remaining()?)?;
        match socket.connect(&address) {
            Ok(()) => return Ok(OwnedFd::from(socket).into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(out_of_time(error)),
        }
    }
}

fn shake_hands(stream: &UnixStream, deadline: Deadline) -> Result<Welcome, Failure> {
    let mut timed = Timed::new(stream, deadline);
    // A helper at its limit refuses and closes without reading: the write fails,
    // and the reason waits to be read.
    let unread = match frame::write(&mut timed, &Hello::default()) {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Failure::TimedOut { sent: false });
        }
        Err(error) => Some(error),
    };
    let bytes = match (frame::read(&mut timed), &unread) {
        (Ok(bytes), _) => bytes,
        (Err(error), None) => return Err(Failure::of_read(error, false)),
        (Err(_), Some(_)) => Vec::new(),
    };
    let reply = frame::decode(&bytes);
    match (reply, unread) {
        (Ok(HelloReply::Refused(refusal)), _) => Err(Failure::Refused(Box::new(refusal))),
        (_, Some(cause)) => Err(Failure::Lost { sent: false, cause }),
        (Err(error), None) => Err(Failure::Protocol(error.into())),
        (Ok(HelloReply::Welcome(welcome)), None) => {
            let offered = Versions::SUPPORTED;
            if (offered.oldest..=offered.newest).contains(&welcome.version) {
                Ok(welcome)
            } else {
                Err(Failure::Protocol(
                    format!(
                        "it chose protocol version {}, and {offered} was offered",
                        welcome.version
                    )
                    .into(),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mountwarden_protocol::{ErrorReply, Features, VERSION};

    use super::*;

    /// Shakes hands with a helper that said this and closed before any hello.
    fn after(said: &HelloReply) -> Result<Welcome, Failure> {
        let (stream, mut helper) = UnixStream::pair().unwrap();
        frame::write(&mut helper, said).unwrap();
        drop(helper);
        shake_hands(&stream, Deadline::after(Duration::from_mins(1)))
    }

    #[test]
    fn a_refusal_is_read_though_the_hello_cannot_be_written() {
        let refusal = Refusal::new(ErrorReply::new(ErrorCode::LimitReached, "full"));
        match after(&HelloReply::Refused(refusal.clone())) {
            Err(Failure::Refused(read)) => assert_eq!(*read, refusal),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_welcome_to_a_hello_that_cannot_be_written_is_a_lost_connection() {
        let welcome = Welcome {
            version: VERSION,
            features: Features::empty(),
            uid: 0,
        };
        match after(&HelloReply::Welcome(welcome)) {
            Err(Failure::Lost { sent: false, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
