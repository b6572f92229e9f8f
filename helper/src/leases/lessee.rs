//! A mounter's side of a lease.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::getpid;

use super::{NoLease, Places, Term, What, owner};
use crate::order;

/// How long to wait before looking for the warden's answer again.
const NAP: Duration = Duration::from_micros(200);

/// How often to look whether the warden has let go of a lease.
const LOOKS: usize = 250;

/// A mounter's side.
pub(crate) struct Lessee {
    places: Places,
    socket: OwnedFd,
    /// What stands in this mounter's places.
    owner: u64,
    limit: usize,
}

/// A lease that is given back unless it is kept.
#[must_use]
pub(crate) struct Lease<'a> {
    lessee: &'a Lessee,
    place: usize,
    /// The mount, once it has been named.
    id: u64,
    kept: bool,
}

impl Lessee {
    /// For the user at the place `user` on the board, who may have `limit` leases.
    pub(crate) fn new(places: Places, socket: OwnedFd, user: u32, limit: u32) -> Self {
        Self {
            places,
            socket,
            owner: owner(user, getpid()),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// Has the warden hold the directory above a mount that is being made. It does when
    /// this returns; the request's deadline bounds the wait.
    pub(crate) fn take(&self, above: BorrowedFd<'_>, term: Term) -> Result<Lease<'_>, NoLease> {
        let place = self.places.claim(self.owner, term, self.limit)?;
        let id = Places::UNNAMED;
        self.tell(What::Hold, place, id, &[above])?;
        loop {
            match self.places.get(place) {
                [owner, _] if owner != self.owner => return Err(NoLease::NoRoom),
                [_, held] if held == id => break,
                _ => order::rest(NAP)?,
            }
        }
        Ok(Lease {
            lessee: self,
            place,
            id,
            kept: false,
        })
    }

    /// Has the warden let go of a mount that has ended, whoever leased it. It waits a
    /// moment for that: what the warden holds keeps the mount above busy.
    pub(crate) fn give_back(&self, id: u64) {
        if let Some(place) = self.place_of(id) {
            // A warden that could not be told finds out when it wants to end the mount.
            let _ = self.let_go(place, id);
        }
    }

    fn let_go(&self, place: usize, id: u64) -> Result<(), Errno> {
        self.tell(What::LetGo, place, id, &[])?;
        wait_while(|| self.holds(place, id))
    }

    /// Has the warden let go of all that this mounter holds for a batch. It is one message:
    /// whoever is killed, all of it stays or none.
    pub(crate) fn keep(&self) -> Result<(), Errno> {
        let own = u64::from(getpid().as_raw().unsigned_abs());
        self.send(What::Keep, [own, 0], &[])?;
        wait_while(|| {
            let own = |place| self.places.get(place)[0] == self.owner;
            (0..self.places.count())
                .any(|place| self.places.term(place) == Term::Batch && own(place))
        })
    }

    /// Has the warden end a mount, if it holds it still, and waits until it has tried.
    pub(crate) fn end(&self, id: u64) -> Result<(), Errno> {
        let Some(place) = self.place_of(id) else {
            return Ok(());
        };
        self.tell(What::End, place, id, &[])?;
        while self.holds(place, id) {
            order::rest(NAP)?;
        }
        Ok(())
    }

    /// Whether the mount may still be taken back with its batch, whoever's that is.
    pub(crate) fn is_of_batch(&self, id: u64) -> bool {
        let place = self.place_of(id);
        place.is_some_and(|place| self.places.term(place) == Term::Batch)
    }

    /// Whether the warden holds the place of the mount, as that of a lease or of a batch.
    pub(crate) fn is_held(&self, id: u64) -> bool {
        self.place_of(id).is_some()
    }

    fn place_of(&self, id: u64) -> Option<usize> {
        (0..self.places.count()).find(|&place| self.holds(place, id))
    }

    /// Whether the warden holds this mount there.
    fn holds(&self, place: usize, id: u64) -> bool {
        let [_, held] = self.places.get(place);
        held == id
    }

    fn tell(
        &self,
        what: What,
        place: usize,
        id: u64,
        above: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let place = u64::try_from(place).map_err(|_| Errno::EOVERFLOW)?;
        self.send(what, [place, id], above)
    }

    fn send(&self, what: What, [a, b]: [u64; 2], above: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let message = [what.word(), a, b].map(u64::to_le_bytes).concat();
        order::send(self.socket.as_fd(), &message, above)
    }
}

/// Waits a moment, no more: what the warden does not hear now it finds out later.
fn wait_while(held: impl Fn() -> bool) -> Result<(), Errno> {
    for _ in 0..LOOKS {
        if !held() {
            break;
        }
        order::rest(NAP)?;
    }
    Ok(())
}

impl Lease<'_> {
    /// Tells the warden which mount it is. It knows when this returns; the request's
    /// deadline bounds the wait.
    pub(crate) fn name(&mut self, id: u64) -> Result<(), Errno> {
        self.lessee.tell(What::Name, self.place, id, &[])?;
        while !self.lessee.holds(self.place, id) {
            order::rest(NAP)?;
        }
        self.id = id;
        Ok(())
    }

    /// The mount is there.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // As when a mount is given back.
            let _ = self.lessee.let_go(self.place, self.id);
        }
    }
}
