//! The order channel between a session and its mounter: one `SOCK_SEQPACKET`
//! message an order, one a reply, descriptors attached.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mountwarden_protocol::{
    AbsPath, Counters, ErrorReply, MountId, Operation, Reply, RoleReport, frame,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sys::socket;

/// What a session asks of its mounter.
///
/// | order | descriptors | reply |
/// |---|---|---|
/// | `Perform` | the directory above the target; for a mount or a remount also the target, and what the kind is made from: a source; a device and what stands at its path; a FUSE connection, after a device and what stands at its path where it is on one; an image; an upper layer, its work directory, the lower layers; with a passed target that one twice, instead of the directory and it; for a detached mount its source three times; for a move the mount's root twice after the directory and the target; where one is ID-mapped, the last of these once more, and a user namespace; none when the session's own judgement is a denial | `Done` |
/// | `Note` | none | `Taken` |
/// | `Admit` | none | `Taken` |
/// | `Status` | none | `Status` |
/// | `List` | none | `Done` |
/// | `NoteProbe` | none | `Taken` |
/// | `Entry` | as `Perform` of a mount | `Done` |
/// | `Keep` | none | `Taken` |
/// | `TakeBack` | none | `TakenBack` |
/// | `MoveBack` | the place that was asked for, if it could be opened | `Done` |
///
/// Each takes from the budget of the session's user, and waits for it. When that
/// would take too long, the reply is `Done` with the error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Judge it and do it.
    Perform(Operation),
    /// A request ended in the session; it goes into the audit log.
    Note {
        operation: Option<Operation>,
        error: ErrorReply,
        /// Which mount of a batch it is about.
        entry: Option<u32>,
    },
    /// The session has a reply of its own; it may send it when its user's turn
    /// comes.
    Admit {
        /// How many requests it counts as.
        weight: u32,
    },
    /// Say what only the privileged half knows.
    Status,
    /// List the peer's mounts; only where the mount table is a file.
    List { after: Option<MountId> },
    /// A probe ended in the session; it goes into the audit log.
    NoteProbe { target: AbsPath, error: ErrorReply },
    /// Judge a mount and make it, until it is taken back or the connection ends.
    Entry { operation: Operation, number: u32 },
    /// What the `Entry` orders have mounted is to stay.
    Keep,
    /// What the `Entry` orders have mounted is to end.
    TakeBack,
    /// The answer to `Uncovered`.
    MoveBack,
}

/// What a mounter answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OrderReply {
    /// The mounter is confined and waits; the first message on every channel.
    Ready,
    /// The warden gives this connection no mounter; the only message then.
    Refused(ErrorReply),
    /// The end of a `Perform` or a `List`, or of any order that was not let through.
    Done(Reply),
    /// The end of a `Note`, an `Admit` or a `Keep`.
    Taken,
    /// The privileged half's part of the status.
    Status {
        roles: Vec<RoleReport>,
        counters: Counters,
        uptime_seconds: u64,
    },
    /// The end of a `Perform` whose reply the mounter has sent to the client itself,
    /// with a descriptor.
    Answered,
    /// The end of a `TakeBack`, with what is still there.
    TakenBack { left: Vec<MountId> },
    /// A mount was moved from here and is to come back: open the place and send `MoveBack`.
    Uncovered(AbsPath),
}

/// More than any order needs: the layers of an overlay, four paths, a message and the
/// fixed parts.
const MAX_MESSAGE: usize = 32 * 1024;

/// How long to wait for descriptors that are on their way to be taken.
pub(crate) const IN_FLIGHT: Duration = Duration::from_millis(2);

/// Sends one message with descriptors.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    loop {
        match socket::send(socket, bytes, descriptors, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            // The kernel counts the descriptors that are on their way for all
            // sessions together, since they are one user (`unix(7)`). Others
            // take theirs soon; the deadline of the request bounds the wait.
            Err(Errno::ETOOMANYREFS) => rest(IN_FLIGHT)?,
            other => return other.map(drop),
        }
    }
}

/// Does nothing for a moment.
pub(crate) fn rest(time: Duration) -> Result<(), Errno> {
    match ppoll(&mut [], Some(TimeSpec::from_duration(time)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Why the channel is of no more use.
#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    #[error("the other half closed the channel")]
    Closed,
    #[error("the channel failed: {0}")]
    Failed(#[from] Errno),
    #[error("a message does not follow the protocol: {0}")]
    Violation(String),
}

/// One end of the channel.
pub(crate) struct OrderChannel(OwnedFd);

impl OrderChannel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends one message.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes =
            frame::encode(message).map_err(|error| ChannelError::Violation(error.to_string()))?;
        match send(self.0.as_fd(), &bytes, descriptors) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(ChannelError::Closed),
            other => Ok(other?),
        }
    }

    /// Waits until a message or the end is there; false when `time` is over.
    pub(crate) fn wait(&self, time: Duration) -> Result<bool, ChannelError> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut polled, Some(TimeSpec::from_duration(time)), None) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Receives one message and what is attached to it.
    pub(crate) fn receive<T: DeserializeOwned + Serialize>(
        &self,
    ) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        #[expect(
            clippy::large_stack_arrays,
            reason = "room that is there even when the heap cannot grow"
        )]
        let mut buffer = [0_u8; MAX_MESSAGE];
        let message = loop {
            match socket::receive_order(self.0.as_fd(), &mut buffer) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Err(ChannelError::Closed),
                other => break other?,
            }
        };
        if message.truncated {
            return Err(ChannelError::Violation(
                "bytes or descriptors of it did not fit".to_owned(),
            ));
        }
        let mut bytes = match buffer.get(..message.length) {
            Some([]) | None => return Err(ChannelError::Closed),
            Some(bytes) => bytes,
        };
        let body =
            frame::read(&mut bytes).map_err(|error| ChannelError::Violation(error.to_string()))?;
        if !bytes.is_empty() {
            return Err(ChannelError::Violation("bytes follow it".to_owned()));
        }
        let value =
            frame::decode(&body).map_err(|error| ChannelError::Violation(error.to_string()))?;
        Ok((value, message.descriptors))
    }
}

impl AsFd for OrderChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use mountwarden_protocol::{AbsPath, ErrorCode, Unmount};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;

    use super::*;

    /// What comes out of one message.
    fn receive(bytes: &[u8]) -> Result<Order, ChannelError> {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("a channel");
        socket::send(theirs.as_fd(), bytes, &[], MsgFlags::empty()).expect("sent");
        OrderChannel::new(ours).receive().map(|(order, _)| order)
    }

    fn order(number: u8) -> Order {
        let target = AbsPath::new("/mnt/a").expect("a path");
        let error = ErrorReply::new(ErrorCode::NotFound, "not there").at(&target);
        let operation = Operation::Unmount(Unmount {
            target,
            lazy: true,
            id: None,
            passed: false,
        });
        match number {
            0 => Order::Status,
            1 => Order::Perform(operation),
            2 => Order::Admit { weight: 7 },
            3 => Order::List {
                after: MountId::try_from(7).ok(),
            },
            4 => Order::Keep,
            5 => Order::Entry {
                operation,
                number: 7,
            },
            _ => Order::Note {
                operation: Some(operation),
                error,
                entry: Some(7),
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Attack 20: an order has one spelling, and nothing else is an order.
        #[test]
        fn attack_20_only_what_is_sent_is_received(
            number in 0_u8..7,
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in prop::option::of(any::<prop::sample::Index>()),
            more in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let mut bytes = frame::encode(&order(number)).expect("encoded");
            for (place, byte) in noise {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            bytes.extend(more);
            match receive(&bytes) {
                Ok(order) => prop_assert_eq!(frame::encode(&order).expect("encoded"), bytes),
                Err(ChannelError::Closed) => prop_assert!(bytes.is_empty()),
                Err(ChannelError::Violation(_)) => {}
                Err(ChannelError::Failed(errno)) => return Err(TestCaseError::fail(errno.desc())),
            }
        }
    }
}
