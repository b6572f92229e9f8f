//! A mounter's side of the locker.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_policy::{IdMaps, LoopDevices};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::maps::{ANSWER_WITH_MAPS, Refused};
use super::{ANSWER, LOCK, LOOP, MAPS, message, words};
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

    /// Has the flags of a detached mount locked, and gives what it has become.
    pub(crate) fn lock(&self, mount: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
        self.made(LOCK, mount, attributes)
    }

    /// What a user namespace maps, which `owner` must have made in the helper's own.
    pub(crate) fn maps(&self, namespace: BorrowedFd<'_>, owner: u32) -> Result<IdMaps, Refused> {
        let mut answer = [0; ANSWER_WITH_MAPS];
        self.ask(MAPS, namespace, owner.into(), &mut answer)?;
        let maps = answer.get(ANSWER..).and_then(IdMaps::read);
        maps.ok_or(Refused::Kernel(Errno::EPROTO))
    }

    /// Has one of these devices show an image, and gives that one.
    pub(crate) fn show(&self, image: BorrowedFd<'_>, of: LoopDevices) -> Result<OwnedFd, Errno> {
        self.made(LOOP, image, of.to_bits())
    }

    /// What the locker has made.
    fn made(&self, what: u64, file: BorrowedFd<'_>, argument: u64) -> Result<OwnedFd, Errno> {
        let answer = self.ask(what, file, argument, &mut [0; ANSWER]);
        let descriptors = answer.map_err(|why| match why {
            Refused::Kernel(errno) => errno,
            Refused::Unfit(_) => Errno::EPROTO,
        })?;
        descriptors.into_iter().next().ok_or(Errno::ENFILE)
    }

    /// Has the locker do something. The request's deadline bounds the wait.
    fn ask(
        &self,
        what: u64,
        file: BorrowedFd<'_>,
        argument: u64,
        answer: &mut [u8],
    ) -> Result<Vec<OwnedFd>, Refused> {
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let brought = [file, self.answer.as_fd()];
        let request = message([number, argument, what]);
        order::send(self.locker.as_fd(), &request, &brought)?;
        loop {
            let got = match socket::receive(self.answers.as_fd(), answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            match words(answer) {
                [of, _] if of != number => {}
                [_, 0] => return Ok(got.descriptors),
                [_, why] => return Err(Refused::of(why)),
            }
        }
    }
}
