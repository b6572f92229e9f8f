//! Counts that the warden and its mounters share in memory.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use mountwarden_protocol::Counters;
use nix::errno::Errno;

use crate::budget::Budget;
use crate::leases::Places;
use crate::sys::process;

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    ConnectionsOpen,
    Connections,
    Mounted,
    AlreadyMounted,
    Unmounted,
    Denied,
    Failed,
    Delayed,
    Killed,
    Remounted,
    Detached,
    Moved,
}

impl Count {
    const NUMBER: usize = 12;

    fn index(self) -> usize {
        match self {
            Self::ConnectionsOpen => 0,
            Self::Connections => 1,
            Self::Mounted => 2,
            Self::AlreadyMounted => 3,
            Self::Unmounted => 4,
            Self::Denied => 5,
            Self::Failed => 6,
            Self::Delayed => 7,
            Self::Killed => 8,
            Self::Remounted => 9,
            Self::Detached => 10,
            Self::Moved => 11,
        }
    }
}

/// The shared counts. Only the privileged half maps them.
#[derive(Clone, Copy)]
pub(crate) struct Board {
    counts: &'static [AtomicU64],
    mounts: &'static [AtomicU64],
    budgets: &'static [AtomicU64],
    leases: Places,
}

impl Board {
    /// A board with a place for each of `users` users, for as many leases, and for batches.
    pub(crate) fn new(users: usize) -> Result<Self, Errno> {
        let words_of_user = Places::WORDS.saturating_add(2);
        let others = Count::NUMBER.saturating_add(Places::BATCHES.saturating_mul(Places::WORDS));
        let words = others.saturating_add(users.saturating_mul(words_of_user));
        let words = process::shared_words(words)?;
        let split = |words: &'static [AtomicU64], at| words.split_at_checked(at);
        let (counts, words) = split(words, Count::NUMBER).ok_or(Errno::ENOMEM)?;
        let (mounts, words) = split(words, users).ok_or(Errno::ENOMEM)?;
        let (budgets, leases) = split(words, users).ok_or(Errno::ENOMEM)?;
        Ok(Self {
            counts,
            mounts,
            budgets,
            leases: Places::new(leases).ok_or(Errno::ENOMEM)?,
        })
    }

    /// The places for leases.
    pub(crate) fn leases(self) -> Places {
        self.leases
    }

    pub(crate) fn add(self, count: Count) {
        if let Some(word) = self.counts.get(count.index()) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn set(self, count: Count, value: u64) {
        if let Some(word) = self.counts.get(count.index()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn get(self, count: Count) -> u64 {
        self.counts
            .get(count.index())
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    pub(crate) fn counters(self) -> Counters {
        Counters {
            connections_open: self.get(Count::ConnectionsOpen),
            connections: self.get(Count::Connections),
            mounted: self.get(Count::Mounted),
            already_mounted: self.get(Count::AlreadyMounted),
            unmounted: self.get(Count::Unmounted),
            denied: self.get(Count::Denied),
            failed: self.get(Count::Failed),
            delayed: self.get(Count::Delayed),
            killed: self.get(Count::Killed),
            remounted: self.get(Count::Remounted),
            detached: self.get(Count::Detached),
            moved: self.get(Count::Moved),
        }
    }

    /// One user's mount count.
    pub(crate) fn mounts(self, place: usize) -> Option<MountCount> {
        self.mounts.get(place).map(MountCount)
    }

    /// One user's budget, of `rate` requests a second.
    pub(crate) fn budget(self, place: usize, rate: u32) -> Option<Budget> {
        self.budgets.get(place).map(|word| Budget::new(word, rate))
    }
}

/// How many mounts lie beneath one user's target roots.
///
/// The kernel's table is the truth. The number here saves reading all of it for
/// each request; it is read again when the number is unknown, and when it says
/// that the limit is reached, because mounts also end without us.
#[derive(Clone, Copy)]
pub(crate) struct MountCount(&'static AtomicU64);

/// A counted place for one mount; it is given back unless it is kept.
#[must_use]
pub(crate) struct Reserved<'a> {
    count: &'a MountCount,
    kept: bool,
}

impl MountCount {
    /// "Nobody has counted since the start"; a count of `n` is stored as `n + 1`.
    const UNKNOWN: u64 = 0;

    /// Forgets the number, for the next user of this place.
    pub(crate) fn forget(self) {
        self.0.store(Self::UNKNOWN, Ordering::SeqCst);
    }

    /// Takes a place for one more mount, or says that `limit` is reached.
    /// `recount` counts in the kernel's table.
    pub(crate) fn reserve(
        &self,
        limit: u32,
        recount: impl Fn() -> Result<u64, Errno>,
    ) -> Result<Option<Reserved<'_>>, Errno> {
        if let Some(reserved) = self.take(limit) {
            return Ok(Some(reserved));
        }
        self.0.store(recount()?.saturating_add(1), Ordering::SeqCst);
        Ok(self.take(limit))
    }

    fn take(&self, limit: u32) -> Option<Reserved<'_>> {
        let room = |stored: u64| {
            let known = stored != Self::UNKNOWN && stored <= u64::from(limit);
            known.then(|| stored.saturating_add(1))
        };
        let taken = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, room);
        taken.is_ok().then(|| Reserved {
            count: self,
            kept: false,
        })
    }

    /// One mount fewer.
    pub(crate) fn release(self) {
        // A number that would fall below 0 was wrong; then it is unknown.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |stored| {
                Some(if stored > 1 {
                    stored.saturating_sub(1)
                } else {
                    Self::UNKNOWN
                })
            });
    }
}

impl Reserved<'_> {
    /// The mount is there.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.count.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, Count};

    #[test]
    fn a_count_is_kept_given_back_and_corrected() {
        let board = Board::new(2).expect("a board");
        let count = board.mounts(0).expect("a place");
        assert!(board.mounts(2).is_none() && board.budget(2, 1).is_none());
        let reserve = |limit, table: u64| count.reserve(limit, || Ok(table)).expect("counted");

        // Unknown at first: the table has one, and two fit.
        reserve(2, 1).expect("room").keep();
        // Full by the number, and by the table.
        assert!(reserve(2, 2).is_none());
        // Full by the number, but one has ended by itself.
        reserve(2, 1).expect("room").keep();
        // A place that is not kept is free again, without another look.
        count.release();
        drop(reserve(2, 99).expect("room"));
        reserve(2, 99).expect("room").keep();
        assert!(reserve(2, 2).is_none());
        // More were given back than were known: then nothing is known.
        for _ in 0..5 {
            count.release();
        }
        assert!(reserve(2, 2).is_none());
        reserve(3, 2).expect("room").keep();
        count.forget();
        assert!(reserve(3, 3).is_none());
        // A limit that the table exceeds already.
        assert!(reserve(1, 5).is_none());
        reserve(6, 5).expect("room").keep();
    }

    #[test]
    fn counts_are_told_apart() {
        let board = Board::new(1).expect("a board");
        board.add(Count::Mounted);
        board.add(Count::Mounted);
        board.add(Count::Killed);
        board.set(Count::ConnectionsOpen, 9);
        let counters = board.counters();
        assert_eq!(
            (counters.mounted, counters.killed, counters.connections_open),
            (2, 1, 9)
        );
        assert_eq!(
            (counters.unmounted, counters.denied, counters.failed),
            (0, 0, 0)
        );
    }
}
