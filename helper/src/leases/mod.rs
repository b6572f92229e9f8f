//! Leases: mounts that end with the connection that made them, however that ends.
//!
//! The mounter that made such a mount may be the process that was killed. So, before it
//! attaches, the warden holds what it takes to end it: the directory above the target,
//! which it gets first, since most mounts are made with that closed, and the unique id. Not
//! the mount itself: a descriptor of that would keep it busy.
#![forbid(unsafe_code)]

mod lessee;
mod lessor;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use thiserror::Error;

pub(crate) use self::lessee::{Lease, Lessee};
pub(crate) use self::lessor::{Held, Lessor};

/// The places for leases, in memory that warden and mounters share. Each is two words:
/// whose it is, and which mount the warden holds there.
#[derive(Clone, Copy)]
pub(crate) struct Places(&'static [[AtomicU64; 2]]);

impl Places {
    /// How many words of shared memory a place takes.
    pub(crate) const WORDS: usize = 2;
    /// Nobody's, or no mount's.
    const FREE: u64 = 0;
    /// Of a mount that is being made. No mount has this id, which stands for a root in
    /// `listmount(2)`.
    const UNNAMED: u64 = u64::MAX;

    pub(crate) fn new(words: &'static [AtomicU64]) -> Self {
        Self(words.as_chunks().0)
    }

    /// How many there are.
    fn count(self) -> usize {
        self.0.len()
    }

    /// Whose a place is, and which mount is held there.
    fn get(self, place: usize) -> [u64; 2] {
        let words = self.0.get(place);
        words.map_or([Self::FREE; 2], |words| {
            words.each_ref().map(|word| word.load(Ordering::SeqCst))
        })
    }

    /// The mounter whose a place is.
    fn mounter(self, place: usize) -> Option<Pid> {
        let [owner, _] = self.get(place);
        let pid = i32::try_from(owner & u64::from(u32::MAX)).ok()?;
        (owner != Self::FREE).then(|| Pid::from_raw(pid))
    }

    fn set_mount(self, place: usize, id: u64) {
        if let Some([_, mount]) = self.0.get(place) {
            mount.store(id, Ordering::SeqCst);
        }
    }

    /// Makes a place free again.
    fn clear(self, place: usize) {
        self.set_mount(place, Self::FREE);
        if let Some([owner, _]) = self.0.get(place) {
            owner.store(Self::FREE, Ordering::SeqCst);
        }
    }

    /// Takes a free place, unless the owner's user has `limit` already.
    fn claim(self, own: u64, limit: u32) -> Result<usize, NoLease> {
        let taken = self.0.iter().position(|[owner, _]| {
            let order = Ordering::SeqCst;
            let swapped = owner.compare_exchange(Self::FREE, own, order, order);
            swapped.is_ok()
        });
        let place = taken.ok_or(NoLease::All(self.count()))?;
        let of_user =
            |[owner, _]: &&[AtomicU64; 2]| owner.load(Ordering::SeqCst) >> 32 == own >> 32;
        let count = self.0.iter().filter(of_user).count();
        if u32::try_from(count).is_ok_and(|count| count <= limit) {
            return Ok(place);
        }
        self.clear(place);
        Err(NoLease::OfUser(limit))
    }
}

/// Whose a place is: the user's place on the board, counted from one, and the mounter.
fn owner(user: u32, mounter: Pid) -> u64 {
    (u64::from(user).saturating_add(1) << 32) | u64::from(mounter.as_raw().unsigned_abs())
}

/// Why a mount gets no lease.
#[derive(Debug, Clone, Copy, Error)]
pub(crate) enum NoLease {
    #[error(
        "you have {0} leases, which is as many as `connections_per_user` allows: unmount a leased \
         mount, or close its connection"
    )]
    OfUser(u32),
    #[error("all {0} leases that the helper's `connections` allows are in use: try later")]
    All(usize),
    #[error("the helper's system has no descriptor left for the lease: try later")]
    NoRoom,
    #[error("the helper's warden cannot be told of the lease: {0}")]
    Kernel(#[from] Errno),
}

/// The channel that all mounters tell the warden of leases by: its end, and theirs.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let kind = SockType::SeqPacket;
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
}

/// A message to the warden: the place and the id. With a descriptor, that is to be held
/// for a mount without an id yet. Without one, such a mount has this id now, and any other
/// is to be let go.
const MESSAGE: usize = 16;

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::{NoLease, Places, owner};
    use crate::sys::process::shared_words;

    #[test]
    fn places_are_claimed_within_both_limits() {
        let places = Places::new(shared_words(3 * Places::WORDS).expect("memory"));
        let [one, two] = [0, 1].map(|user| owner(user, Pid::from_raw(7)));
        let claim = |owner, limit| places.claim(owner, limit);
        assert_eq!(claim(one, 2).ok(), Some(0));
        assert_eq!(claim(one, 2).ok(), Some(1));
        assert!(matches!(claim(one, 2), Err(NoLease::OfUser(2))));
        assert_eq!(
            claim(two, 2).ok(),
            Some(2),
            "what was refused took no place"
        );
        assert!(matches!(claim(two, 2), Err(NoLease::All(3))));
        places.set_mount(1, 9);
        places.clear(1);
        assert_eq!((places.get(1), places.mounter(1)), ([0, 0], None));
        assert_eq!(claim(two, 2).ok(), Some(1));
        assert_eq!(places.mounter(1), Some(Pid::from_raw(7)));
        assert_eq!(places.get(3), [0, 0], "no such place");
    }
}
