//! A mounter's side of a lease.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::getpid;

use super::{NoLease, Places, owner};
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
    limit: u32,
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
            limit,
        }
    }

    /// Has the warden hold the directory above a mount that is being made. It does when
    /// this returns; the request's deadline bounds the wait.
    pub(crate) fn take(&self, above: BorrowedFd<'_>) -> Result<Lease<'_>, NoLease> {
        let place = self.places.claim(self.owner, self.limit)?;
        let id = Places::UNNAMED;
        self.tell(place, id, &[above])?;
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
        let held = |place: &usize| self.holds(*place, id);
        if let Some(place) = (0..self.places.count()).find(held) {
            // A warden that could not be told finds out when it wants to end the mount.
            let _ = self.let_go(place, id);
        }
    }

    fn let_go(&self, place: usize, id: u64) -> Result<(), Errno> {
        self.tell(place, id, &[])?;
        for _ in 0..LOOKS {
            if !self.holds(place, id) {
                break;
            }
            order::rest(NAP)?;
        }
        Ok(())
    }

    /// Whether the warden holds this mount there.
    fn holds(&self, place: usize, id: u64) -> bool {
        let [_, held] = self.places.get(place);
        held == id
    }

    fn tell(&self, place: usize, id: u64, above: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let place = u64::try_from(place).map_err(|_| Errno::EOVERFLOW)?;
        let message = [place, id].map(u64::to_le_bytes).concat();
        order::send(self.socket.as_fd(), &message, above)
    }
}

impl Lease<'_> {
    /// Tells the warden which mount it is. It knows when this returns; the request's
    /// deadline bounds the wait.
    pub(crate) fn name(&mut self, id: u64) -> Result<(), Errno> {
        self.lessee.tell(self.place, id, &[])?;
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
