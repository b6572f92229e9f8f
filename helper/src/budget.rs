//! How fast one user is served: `requests_per_second`.
//!
//! All connections of the user share one number, the moment at which what they
//! have taken is paid off. They may be a second ahead of it; then they wait. A
//! flood so slows only itself, and writes no more lines than it is let make.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// One user's budget.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// In nanoseconds since the start of the helper.
    paid_off: &'static AtomicU64,
    rate: u32,
}

/// When a request may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How long to wait first.
    pub(crate) wait: Duration,
    /// Whether it goes on then; otherwise nothing was taken.
    pub(crate) comes: bool,
}

impl Budget {
    pub(crate) fn new(paid_off: &'static AtomicU64, rate: u32) -> Self {
        Self { paid_off, rate }
    }

    /// A full budget again, for the next user of this place.
    pub(crate) fn forget(self) {
        self.paid_off.store(0, Ordering::Relaxed);
    }

    /// Grows with what is not paid off.
    pub(crate) fn debt(self) -> u64 {
        self.paid_off.load(Ordering::Relaxed)
    }

    /// Takes what `weight` requests cost. It waits for what was taken before, not
    /// for what it takes itself: that the next ones do. Who would wait longer than
    /// `patience` waits that long in vain, so that asking in vain is slow too.
    pub(crate) fn take(self, now: Duration, weight: u32, patience: Duration) -> Turn {
        let (now, patience) = (nanoseconds(now), nanoseconds(patience));
        let wait = |paid_off: u64| {
            let after = paid_off.max(now).saturating_add(self.cost(1));
            after.saturating_sub(now.saturating_add(SECOND))
        };
        let taken = self.update(|paid_off| {
            let after = paid_off.max(now).saturating_add(self.cost(weight));
            (wait(paid_off) <= patience).then_some(after)
        });
        let (Ok(before) | Err(before)) = taken;
        Turn {
            wait: Duration::from_nanos(wait(before).min(patience)),
            comes: taken.is_ok(),
        }
    }

    /// Takes what work has cost beyond its own request.
    pub(crate) fn charge(self, now: Duration, weight: u32) {
        if weight > 0 {
            let now = nanoseconds(now);
            let after = |paid_off: u64| paid_off.max(now).saturating_add(self.cost(weight));
            let _ = self.update(|paid_off| Some(after(paid_off)));
        }
    }

    fn update(self, change: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        let relaxed = Ordering::Relaxed;
        self.paid_off.fetch_update(relaxed, relaxed, change)
    }

    /// At most a second's budget, so that no one request costs a user more.
    fn cost(self, weight: u32) -> u64 {
        let each = SECOND.checked_div(u64::from(self.rate)).unwrap_or(SECOND);
        let weight = weight.min(self.rate).max(1);
        each.saturating_mul(u64::from(weight))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::{Budget, Turn};

    fn budget(rate: u32) -> Budget {
        Budget::new(Box::leak(Box::new(AtomicU64::new(0))), rate)
    }

    const NOW: Duration = Duration::from_secs(100);
    const LONG: Duration = Duration::from_mins(1);

    fn waits(budget: Budget, now: Duration, weight: u32) -> Duration {
        let turn = budget.take(now, weight, LONG);
        assert!(turn.comes);
        turn.wait
    }

    #[test]
    fn a_second_at_once_and_then_one_by_one() {
        let budget = budget(4);
        let quarter = Duration::from_millis(250);
        for _ in 0..4 {
            assert_eq!(waits(budget, NOW, 1), Duration::ZERO);
        }
        assert_eq!(waits(budget, NOW, 1), quarter);
        assert_eq!(waits(budget, NOW, 1), quarter * 2);
        // Half a second later those two are served, and one is not.
        assert_eq!(waits(budget, NOW + quarter * 2, 1), quarter);
        // A pause fills it, and no more than that.
        let later = NOW + LONG;
        for _ in 0..4 {
            assert_eq!(waits(budget, later, 1), Duration::ZERO);
        }
        assert_eq!(waits(budget, later, 1), quarter);
    }

    #[test]
    fn who_would_wait_too_long_takes_nothing() {
        let budget = budget(1);
        let patience = Duration::from_secs(2);
        let take = || budget.take(NOW, 1, patience);
        for (wait, comes) in [(0, true), (1, true), (2, true), (2, false), (2, false)] {
            let wait = Duration::from_secs(wait);
            assert_eq!(take(), Turn { wait, comes });
        }
        assert_eq!(
            budget.take(NOW + Duration::from_secs(1), 1, patience),
            Turn {
                wait: patience,
                comes: true
            }
        );
    }

    #[test]
    fn weight_is_paid_by_what_comes_after() {
        let second = Duration::from_secs(1);
        let budget = budget(10);
        assert_eq!(waits(budget, NOW, 5), Duration::ZERO);
        budget.charge(NOW, 4);
        budget.charge(NOW, 0);
        assert_eq!(waits(budget, NOW, 1), Duration::ZERO);
        // Full now. The heaviest takes a second's budget.
        assert_eq!(waits(budget, NOW, u32::MAX), second / 10);
        assert_eq!(waits(budget, NOW, 0), second + second / 10);
        assert_eq!(waits(budget, NOW, 1), second + second / 5);
        assert!(budget.debt() > 0);
        budget.forget();
        assert_eq!(budget.debt(), 0);
        assert_eq!(waits(budget, NOW, 1), Duration::ZERO);
    }
}
