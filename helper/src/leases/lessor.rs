//! The warden's side of leases: what ends each, and when.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use mountwarden_protocol::MountId;
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use nix::unistd::Pid;

use super::{MESSAGE, Places, Term, What};
use crate::peer::AttestedPeer;
use crate::sys::socket;

/// What ends a leased mount.
pub(crate) struct Held {
    pub(crate) id: MountId,
    /// The directory above the target.
    pub(crate) above: OwnedFd,
    /// Whose the lease is.
    pub(crate) peer: Rc<AttestedPeer>,
    /// Whether it ends because its batch is taken back.
    pub(crate) of_batch: bool,
    state: State,
    tries: u32,
}

/// How far the end of a lease is.
#[derive(PartialEq, Eq)]
enum State {
    /// The mounter that made the mount goes on.
    Running(Pid),
    /// It has ended, and the mount is to end.
    Due,
    /// A process is at it.
    Ending(Pid),
}

/// How often the end of one mount is tried.
const TRIES: u32 = 3;

/// The leases of all connections.
pub(crate) struct Lessor {
    places: Places,
    socket: OwnedFd,
    /// By their places, so that there are never more.
    held: BTreeMap<usize, Held>,
    /// The directories above mounts that have no id yet, by their places.
    unnamed: BTreeMap<usize, OwnedFd>,
}

impl Lessor {
    pub(crate) fn new(places: Places, socket: OwnedFd) -> Self {
        Self {
            places,
            socket,
            held: BTreeMap::new(),
            unnamed: BTreeMap::new(),
        }
    }

    /// Takes what mounters say, up to `most` messages. `peer_of` tells whose connection a
    /// mounter has.
    pub(crate) fn hear(
        &mut self,
        most: usize,
        peer_of: impl Fn(Pid) -> Option<Rc<AttestedPeer>>,
    ) -> Result<(), Errno> {
        for _ in 0..most {
            let mut buffer = [0; MESSAGE];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = match socket::receive(self.socket.as_fd(), &mut buffer, flags) {
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let (words, _) = buffer.as_chunks();
            let [what, place, id] = [0, 1, 2].map(|word: usize| {
                let bytes = words.get(word).copied().unwrap_or_default();
                u64::from_le_bytes(bytes)
            });
            let above = message.descriptors.into_iter().next();
            let (Some(what), Ok(place)) = (What::of(what), usize::try_from(place)) else {
                continue;
            };
            match (what, above, MountId::try_from(id)) {
                (What::Hold, Some(above), _) => self.hold_directory(place, above),
                // The system has no descriptor left.
                (What::Hold, None, _) => self.places.clear(place),
                (What::Name, _, Ok(id)) => self.name(place, id, &peer_of),
                (What::LetGo, _, Ok(id)) => self.let_go(place, id),
                (What::End, _, Ok(id)) => self.end(place, id),
                (What::Keep, ..) => self.keep(place),
                (_, _, Err(_)) => {}
            }
        }
        Ok(())
    }

    fn hold_directory(&mut self, place: usize, above: OwnedFd) {
        if self.places.mounter(place).is_some() && !self.held.contains_key(&place) {
            self.unnamed.insert(place, above);
            self.places.set_mount(place, Places::UNNAMED);
        }
    }

    fn name(
        &mut self,
        place: usize,
        id: MountId,
        peer_of: impl Fn(Pid) -> Option<Rc<AttestedPeer>>,
    ) {
        let Some(above) = self.unnamed.remove(&place) else {
            return;
        };
        let mounter = self.places.mounter(place);
        let Some((mounter, peer)) = mounter.and_then(|pid| Some((pid, peer_of(pid)?))) else {
            return;
        };
        let state = State::Running(mounter);
        self.held.entry(place).or_insert(Held {
            id,
            above,
            peer,
            of_batch: self.places.term(place) == Term::Batch,
            state,
            tries: 0,
        });
        self.places.set_mount(place, id.into());
    }

    /// Lets go of a mount that was not made, or ended while its connection goes on.
    fn let_go(&mut self, place: usize, id: MountId) {
        if self.unnamed.remove(&place).is_some() {
            self.places.clear(place);
        } else if self.running(place, id).is_some() {
            self.remove(place);
        }
    }

    fn running(&mut self, place: usize, id: MountId) -> Option<&mut Held> {
        let held = self.held.get_mut(&place)?;
        (held.id == id && matches!(held.state, State::Running(_))).then_some(held)
    }

    /// Has a mount end whose batch is taken back.
    fn end(&mut self, place: usize, id: MountId) {
        if let Some(held) = self.running(place, id) {
            held.state = State::Due;
            held.of_batch = true;
        }
    }

    /// Lets go of all mounts of a mounter's batch.
    fn keep(&mut self, mounter: usize) {
        let mounter = i32::try_from(mounter).map(Pid::from_raw);
        let places = self.places;
        self.held.retain(|&place, held| {
            let kept = places.term(place) == Term::Batch
                && mounter.is_ok_and(|mounter| held.state == State::Running(mounter));
            if kept {
                places.clear(place);
            }
            !kept
        });
    }

    fn remove(&mut self, place: usize) {
        self.held.remove(&place);
        self.places.clear(place);
    }

    /// A mounter has ended, and what it said was heard: so are its leases to end.
    pub(crate) fn mounter_ended(&mut self, mounter: Pid) {
        for held in self.held.values_mut() {
            if held.state == State::Running(mounter) {
                held.state = State::Due;
            }
        }
        // What it claimed and had no time to tell of.
        for place in 0..self.places.count() {
            if self.places.mounter(place) == Some(mounter) && !self.held.contains_key(&place) {
                self.unnamed.remove(&place);
                self.places.clear(place);
            }
        }
    }

    /// Has `start` fork a process for each mount that is to end. Those for which there is
    /// no process are tried again at the next call.
    pub(crate) fn end_due(&mut self, start: impl Fn(&Held) -> Result<Pid, Errno>) {
        for held in self.held.values_mut() {
            if held.state == State::Due
                && let Ok(pid) = start(held)
            {
                held.tries = held.tries.saturating_add(1);
                held.state = State::Ending(pid);
            }
        }
    }

    /// Takes note of a process that `start` had forked; false for every other one.
    pub(crate) fn ending_ended(&mut self, pid: Pid, done: bool) -> bool {
        let mut all = self.held.iter_mut();
        let Some((&place, held)) = all.find(|(_, held)| held.state == State::Ending(pid)) else {
            return false;
        };
        if done || held.tries >= TRIES {
            self.remove(place);
        } else {
            held.state = State::Due;
        }
        true
    }

    /// Whether a mount still waits for a process to end it.
    pub(crate) fn is_due(&self) -> bool {
        self.held.values().any(|held| held.state == State::Due)
    }

    /// Whether no lease is left.
    pub(crate) fn is_over(&self) -> bool {
        self.held.is_empty()
    }
}

impl AsFd for Lessor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
