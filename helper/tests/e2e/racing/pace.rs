//! How long a race goes on, what happened in it, and its random choices.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Rounds of a race, unless it takes longer than `TIME`.
const ROUNDS: usize = 2000;
const TIME: Duration = Duration::from_secs(8);
/// Rounds that are run however long they take.
const FEWEST: usize = 200;
/// Seconds that each race runs instead.
const SECONDS: &str = "MOUNTWARDEN_RACE_SECONDS";
/// A seed that a failure named.
const SEED: &str = "MOUNTWARDEN_RACE_SEED";
/// How long each race runs, where somebody said so.
pub(crate) fn seconds() -> Option<Duration> {
    let text = std::env::var(SECONDS).ok()?;
    Some(Duration::from_secs(text.parse().expect(SECONDS)))
}

/// Random numbers that a seed repeats (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a number.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A new sequence. A case that fails prints what repeats it.
    pub(crate) fn told() -> Self {
        let seed = seed();
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// Another sequence, for another thread.
    pub(crate) fn fork(&self, number: usize) -> Self {
        Self(self.0 ^ u64::try_from(number + 1).unwrap() << 56)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Less than a request takes, or somewhat more.
    pub(super) fn moment(&mut self) -> Duration {
        Duration::from_micros(self.next() % 500)
    }

    pub(crate) fn pause(&mut self) {
        std::thread::sleep(self.moment());
    }
}

/// The rounds of one race.
pub(crate) struct Pace {
    seed: u64,
    begun: Instant,
    over: AtomicBool,
    rounds: AtomicUsize,
    seen: Mutex<BTreeMap<String, usize>>,
    bites: &'static [&'static str],
}

impl Pace {
    /// A race that is none before each of `bites` has happened.
    pub(crate) fn new(bites: &'static [&'static str]) -> Self {
        Self {
            seed: seed(),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            rounds: AtomicUsize::new(0),
            seen: Mutex::default(),
            bites,
        }
    }

    pub(crate) fn random(&self) -> Random {
        Random(self.seed)
    }

    /// Counts a round, and says whether it is to be played.
    pub(crate) fn goes_on(&self) -> bool {
        let rounds = self.rounds.fetch_add(1, Ordering::Relaxed);
        if self.is_over() {
            return false;
        }
        let seen = self.seen.lock().unwrap();
        if rounds < FEWEST || !self.bites.iter().all(|&what| seen.contains_key(what)) {
            return true;
        }
        let time = self.begun.elapsed();
        seconds().map_or(rounds < ROUNDS && time < TIME, |long| time < long)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the race when the caller's part in it ends.
    pub(crate) fn until_the_end(&self) -> Over<'_> {
        Over(&self.over)
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.seen.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// Tells those who wait for the tests what was played.
    pub(crate) fn tell(&self) {
        println!("RACE: {}", self.story());
    }

    fn story(&self) -> String {
        format!(
            "{} rounds in {:.1?}, {SEED}={}: {:?}",
            self.rounds.load(Ordering::Relaxed),
            self.begun.elapsed(),
            self.seed,
            self.seen.lock().unwrap_or_else(PoisonError::into_inner)
        )
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RACE: {}", self.story());
        }
    }
}

fn seed() -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    match std::env::var(SEED) {
        Ok(text) => text.parse().expect(SEED),
        Err(_) => u64::try_from(now()).unwrap(),
    }
}

/// Ends what waits for it when this ends, also by a failure.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
