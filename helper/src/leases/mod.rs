//! Leases: mounts that end with the connection that made them, however that ends.
//!
//! The mounter that made such a mount may be the process that was killed. So, before it
//! attaches, the warden holds what it takes to end it: the directory above the target,
//! which it gets first, since most mounts are made with that closed, and the unique id. Not
//! the mount itself: a descriptor of that would keep it busy.
//!
//! The mounts of a batch are held in the same way until all of them are there.
#![forbid(unsafe_code)]

mod lessee;
mod lessor;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use mountwarden_protocol::Batch;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use thiserror::Error;

pub(crate) use self::lessee::{Lease, Lessee};
pub(crate) use self::lessor::{Held, Lessor};

/// The places for what the warden holds, in memory that warden and mounters share. Each
/// is two words: whose it is, and which mount it is for.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    leases: &'static [[AtomicU64; 2]],
    /// Their numbers follow those for leases.
    batches: &'static [[AtomicU64; 2]],
}

/// For how long a mount is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    /// As long as its connection lasts.
    Connection,
    /// Until its batch is whole.
    Batch,
}

impl Places {
    /// How many words of shared memory a place takes.
    pub(crate) const WORDS: usize = 2;
    /// How many there are for batches.
    pub(crate) const BATCHES: usize = 8 * Batch::MAX;
    /// How many of them one user may have.
    const BATCHES_PER_USER: usize = 2 * Batch::MAX;
    /// Nobody's, or no mount's.
    const FREE: u64 = 0;
    /// Of a mount that is being made. No mount has this id, which stands for a root in
    /// `listmount(2)`.
    const UNNAMED: u64 = u64::MAX;

    /// With room for as many batches as there may be, and for leases.
    pub(crate) fn new(words: &'static [AtomicU64]) -> Option<Self> {
        let places = words.as_chunks().0;
        let (leases, batches) =
            places.split_at_checked(places.len().checked_sub(Self::BATCHES)?)?;
        Some(Self { leases, batches })
    }

    /// How many there are.
    fn count(self) -> usize {
        self.leases.len().saturating_add(self.batches.len())
    }

    /// What a place is for.
    fn term(self, place: usize) -> Term {
        if place < self.leases.len() {
            Term::Connection
        } else {
            Term::Batch
        }
    }

    fn words(self, place: usize) -> Option<&'static [AtomicU64; 2]> {
        match place.checked_sub(self.leases.len()) {
            None => self.leases.get(place),
            Some(place) => self.batches.get(place),
        }
    }

    /// Whose a place is, and which mount is held there.
    fn get(self, place: usize) -> [u64; 2] {
        self.words(place).map_or([Self::FREE; 2], |words| {
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
        if let Some([_, mount]) = self.words(place) {
            mount.store(id, Ordering::SeqCst);
        }
    }

    /// Makes a place free again.
    fn clear(self, place: usize) {
        self.set_mount(place, Self::FREE);
        if let Some([owner, _]) = self.words(place) {
            owner.store(Self::FREE, Ordering::SeqCst);
        }
    }

    /// Takes a free place, unless the owner's user has as many of its term already as one
    /// may have, which is `leases` for leases.
    fn claim(self, own: u64, term: Term, leases: usize) -> Result<usize, NoLease> {
        let (places, before, limit) = match term {
            Term::Connection => (self.leases, 0, leases),
            Term::Batch => (self.batches, self.leases.len(), Self::BATCHES_PER_USER),
        };
        let taken = places.iter().position(|[owner, _]| {
            let order = Ordering::SeqCst;
            let swapped = owner.compare_exchange(Self::FREE, own, order, order);
            swapped.is_ok()
        });
        let Some(place) = taken.and_then(|place| place.checked_add(before)) else {
            return Err(match term {
                Term::Connection => NoLease::All(places.len()),
                Term::Batch => NoLease::AllOfBatches(places.len()),
            });
        };
        let of_user =
            |[owner, _]: &&[AtomicU64; 2]| owner.load(Ordering::SeqCst) >> 32 == own >> 32;
        if places.iter().filter(of_user).count() <= limit {
            return Ok(place);
        }
        self.clear(place);
        Err(match term {
            Term::Connection => NoLease::OfUser(limit),
            Term::Batch => NoLease::OfBatches(limit),
        })
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
    OfUser(usize),
    #[error("all {0} leases that the helper's `connections` allows are in use: try later")]
    All(usize),
    #[error("batches of yours that are not finished have {0} mounts, which is the most: try later")]
    OfBatches(usize),
    #[error("batches that are not finished have {0} mounts in all, which is the most: try later")]
    AllOfBatches(usize),
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

/// A message to the warden: what it is to do, and two numbers.
const MESSAGE: usize = 24;

/// What the warden is to do. The numbers are the place and the id of a mount, unless it
/// is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Hold the directory that comes with it, for a mount without an id.
    Hold,
    /// That mount has an id now.
    Name,
    /// Let go of a mount.
    LetGo,
    /// End a mount.
    End,
    /// Let go of all that is held for the batch of a mounter, which is the first number.
    Keep,
}

impl What {
    const ALL: [Self; 5] = [Self::Hold, Self::Name, Self::LetGo, Self::End, Self::Keep];

    fn word(self) -> u64 {
        let place = Self::ALL.iter().position(|&what| what == self);
        place.map_or(u64::MAX, |place| u64::try_from(place).unwrap_or(u64::MAX))
    }

    fn of(word: u64) -> Option<Self> {
        let place = usize::try_from(word).ok()?;
        Self::ALL.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::{NoLease, Places, Term, owner};
    use crate::sys::process::shared_words;

    #[test]
    fn places_are_claimed_within_both_limits() {
        let words = (3 + Places::BATCHES) * Places::WORDS;
        let places = Places::new(shared_words(words).expect("memory")).expect("places");
        let [one, two] = [0, 1].map(|user| owner(user, Pid::from_raw(7)));
        let claim = |owner, limit| places.claim(owner, Term::Connection, limit);
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
        let none = 3 + Places::BATCHES;
        assert_eq!(places.get(none), [0, 0], "no such place");
    }

    #[test]
    fn batches_have_places_of_their_own() {
        let words = (1 + Places::BATCHES) * Places::WORDS;
        let places = Places::new(shared_words(words).expect("memory")).expect("places");
        let claim = |user, term| places.claim(owner(user, Pid::from_raw(7)), term, 9);
        for place in 1..=Places::BATCHES_PER_USER {
            assert_eq!(claim(0, Term::Batch).ok(), Some(place));
        }
        let most = Places::BATCHES_PER_USER;
        assert!(matches!(claim(0, Term::Batch), Err(NoLease::OfBatches(n)) if n == most));
        assert_eq!(claim(0, Term::Connection).ok(), Some(0));
        assert_eq!(claim(1, Term::Batch).ok(), Some(most + 1));
        assert_eq!(
            (places.term(0), places.term(1)),
            (Term::Connection, Term::Batch)
        );
        for user in 1..4 {
            while claim(user, Term::Batch).is_ok() {}
        }
        let full = claim(4, Term::Batch);
        assert!(matches!(full, Err(NoLease::AllOfBatches(Places::BATCHES))));
    }
}
