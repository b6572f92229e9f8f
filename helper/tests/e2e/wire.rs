//! A client that says what no client library would.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mountwarden_client::protocol::{Hello, HelloReply, Reply, Request, frame};
use mountwarden_client::{ErrorCode, ErrorReply};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub(crate) struct Wire(pub(crate) UnixStream);

impl Wire {
    /// Connects without a word.
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(crate::slowly(Duration::from_secs(30))))
            .unwrap();
        Self(stream)
    }

    /// Connects and shakes hands.
    pub(crate) fn open(socket: &Path) -> Self {
        let mut wire = Self::connect(socket);
        wire.shake();
        wire
    }

    pub(crate) fn shake(&mut self) -> u32 {
        frame::write(&mut self.0, &Hello::default()).unwrap();
        let body = frame::read(&mut self.0).unwrap();
        match frame::decode(&body).unwrap() {
            HelloReply::Welcome(welcome) => welcome.uid,
            HelloReply::Refused(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        frame::write(&mut self.0, request).unwrap();
        self.reply()
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let body = frame::read(&mut self.0).unwrap();
        frame::decode(&body).unwrap()
    }

    /// The reply, which must be an error of this code.
    pub(crate) fn error(&mut self, code: ErrorCode) -> ErrorReply {
        match self.reply() {
            Reply::Error(error) => {
                assert_eq!(error.code, code, "{error:?}");
                assert!(
                    !error.message.contains(|c: char| c.is_control()),
                    "{error:?}"
                );
                error
            }
            other => panic!("not an error: {other:?}"),
        }
    }

    /// Sends the value of a frame as it is.
    pub(crate) fn send_body(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        self.0.write_all(&[&length, body].concat()).unwrap();
    }

    /// Sends a request with descriptors.
    pub(crate) fn send_request(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        if descriptors.is_empty() {
            return frame::write(&mut self.0, request).unwrap();
        }
        let bytes = frame::encode(request).unwrap();
        let sent = self.send_with(&bytes, descriptors).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// Sends bytes with descriptors.
    pub(crate) fn send_with(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        Ok(sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?)
    }

    /// Whether the helper has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => panic!("bytes where the end should be"),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// The value of a frame, encoded.
pub(crate) fn body(request: &Request) -> Vec<u8> {
    frame::encode(request).unwrap()[4..].to_vec()
}
