//! A mounter's side of the locker.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::{MESSAGE, message, words};
use crate::mounter::layout;
use crate::order;
use crate::sys::socket;

/// Where a mounter asks the locker, and where it hears from it.
pub(crate) struct Locking {
    locker: OwnedFd,
    answers: OwnedFd,
    /// The other end of that, of which each request brings a copy.
    answer: OwnedFd,
    /// What the next request bears. An answer to one that was given up is told by it.
    number: Cell<u64>,
}

impl Locking {
    /// The descriptors that it takes.
    pub(crate) const NUMBERS: [i32; 3] = [layout::LOCKER, layout::ANSWERS, layout::ANSWER];

    /// With the locker's channel at its number already.
    pub(crate) fn new(locker: OwnedFd) -> Result<Self, Errno> {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
        // Confinement closes these, wherever the kernel put them.
        let pair = ManuallyDrop::new(pair);
        let numbers = [layout::ANSWERS, layout::ANSWER];
        let [answers, answer] = socket::place([pair.0.as_fd(), pair.1.as_fd()], numbers)?;
        Ok(Self {
            locker,
            answers,
            answer,
            number: Cell::new(0),
        })
    }

    /// Has the flags of a detached mount locked, and gives what it has become. The
    /// request's deadline bounds the wait.
    pub(crate) fn lock(&self, mount: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let brought = [mount, self.answer.as_fd()];
        order::send(
            self.locker.as_fd(),
            &message([number, attributes]),
            &brought,
        )?;
        loop {
            let mut buffer = [0; MESSAGE];
            let flags = MsgFlags::empty();
            let answer = match socket::receive(self.answers.as_fd(), &mut buffer, flags) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            match words(&buffer) {
                [of, _] if of != number => {}
                [_, 0] => return answer.descriptors.into_iter().next().ok_or(Errno::ENFILE),
                [_, errno] => {
                    let errno = i32::try_from(errno).map_err(|_| Errno::EPROTO)?;
                    return Err(Errno::from_raw(errno));
                }
            }
        }
    }
}
