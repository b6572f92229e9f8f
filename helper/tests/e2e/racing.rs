//! Races: what clients ask for while something changes under them, and what must
//! hold at each moment of it.
//!
//! One thread, the only one that changes the tree, also looks at the mount table
//! in each state that it has brought about. So it knows of every mount where the
//! granted directory was when that mount appeared. A directory that is renamed
//! takes the mounts on it along, which no helper can prevent; what is attached to
//! it while it is away is a stray, and must be taken back before anybody is told
//! of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mountwarden_client::protocol::Mount;
use mountwarden_client::{Client, Error, MountAttributes, Mounted, Outcome, Unmount};
use mountwarden_helper::raw;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, Line};

/// Rounds of a race, unless it takes longer than `TIME`.
const ROUNDS: usize = 2000;
const TIME: Duration = Duration::from_secs(5);
/// Rounds that are run however long they take.
const FEWEST: usize = 200;
/// Seconds that each race runs instead.
const SECONDS: &str = "MOUNTWARDEN_RACE_SECONDS";
/// A seed that a failure named.
const SEED: &str = "MOUNTWARDEN_RACE_SEED";
/// The source of the mounts that scenes make (`sandbox::mount_tmpfs`).
const OTHERS: &str = "test";
/// A log that is longer than this is begun anew.
const LOG: u64 = 1 << 20;

/// How long each race runs, where somebody said so.
pub(crate) fn seconds() -> Option<Duration> {
    let text = std::env::var(SECONDS).ok()?;
    Some(Duration::from_secs(text.parse().expect(SECONDS)))
}

/// Random numbers that a seed repeats (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Another sequence, for another thread.
    fn fork(&self, number: usize) -> Self {
        Self(self.0 ^ u64::try_from(number + 1).unwrap() << 56)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Less than a request takes, or somewhat more.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.next() % 500)
    }

    pub(crate) fn pause(&mut self) {
        std::thread::sleep(self.moment());
    }
}

/// What changes while clients ask.
pub(crate) trait Scene {
    /// Changes something, or finds that the kernel does not let it.
    fn change(&mut self, random: &mut Random) -> State;
    /// Puts everything back in its place.
    fn restore(&mut self);
}

/// How things are until the next change.
pub(crate) struct State {
    /// Where a mount of the helper's may be.
    pub(crate) places: Vec<PathBuf>,
    /// Whether those are not where a request names them.
    pub(crate) away: bool,
    /// What a mount request gets that begins and ends in this state.
    pub(crate) answers: &'static [&'static str],
}

/// What a race expects of the helper.
pub(crate) struct Rules {
    /// What a mount request may get, in the words of `word`.
    pub(crate) mount: &'static [&'static str],
    /// What the unmount of a mount that was made may get.
    pub(crate) unmount: &'static [&'static str],
    /// What has to happen at least once, or it was no race.
    pub(crate) bites: &'static [&'static str],
    /// Whether nothing but a request ends a mount of the helper's. Where its end is
    /// refused, the kernel is asked then; else it is left to a later request.
    pub(crate) kept: bool,
}

/// The number of the state and what it answers; none while it changes.
type Now = Option<(u64, &'static [&'static str])>;

/// One race.
pub(crate) struct Race<'a> {
    daemon: &'a Daemon,
    rules: Rules,
    seed: u64,
    begun: Instant,
    over: AtomicBool,
    rounds: AtomicUsize,
    base: Vec<Line>,
    quiet: usize,
    state: Mutex<Now>,
    /// The short ids of strays that are attached.
    strays: Mutex<BTreeSet<u64>>,
    seen: Mutex<BTreeMap<String, usize>>,
    /// What clients were told of: mounts that were made, found, and ended.
    made: Mutex<BTreeSet<u64>>,
    found: Mutex<BTreeSet<u64>>,
    ended: Mutex<BTreeSet<u64>>,
}

/// How a request ended, in one word.
fn word<T>(result: &Result<T, Error>, done: impl FnOnce(&T) -> &'static str) -> &'static str {
    match result {
        Ok(value) => done(value),
        Err(error) => error.kind().name(),
    }
}

impl<'a> Race<'a> {
    pub(crate) fn new(daemon: &'a Daemon, rules: Rules) -> Self {
        Self {
            daemon,
            rules,
            seed: seed(),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            rounds: AtomicUsize::new(0),
            base: kernel::table(),
            quiet: quiet(daemon),
            state: Mutex::default(),
            strays: Mutex::default(),
            seen: Mutex::default(),
            made: Mutex::default(),
            found: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Lets `clients` play rounds while the scene changes, and then looks whether
    /// everything is as it was.
    pub(crate) fn run(
        self,
        mut scene: impl Scene + Send,
        clients: usize,
        round: impl Fn(&mut Player<'_, '_>) + Sync,
    ) {
        let random = Random(self.seed);
        std::thread::scope(|scope| {
            for number in 0..clients {
                let (race, round, random) = (&self, &round, random.fork(number + 1));
                scope.spawn(move || {
                    let _over = Over(&race.over);
                    let mut player = race.player(number, random);
                    while race.goes_on() {
                        round(&mut player);
                    }
                });
            }
            let _over = Over(&self.over);
            let mut random = random.fork(0);
            while !self.over.load(Ordering::Relaxed) {
                self.disturb(&mut scene, &mut random);
            }
            *self.state.lock().unwrap() = None;
            scene.restore();
        });
        // After all of it, what was asked for is done.
        let mut player = self.player(0, random);
        for left in player.client.list().unwrap() {
            player.client.unmount(&left).unwrap();
        }
        *self.state.lock().unwrap() = Some((u64::MAX, &["mounted"]));
        round(&mut player);
        drop(player);
        self.finish();
    }

    fn wait_for_another_state(&self, last: Now) {
        while last.is_some() && *self.state.lock().unwrap() == last {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn player(&self, number: usize, random: Random) -> Player<'_, 'a> {
        Player {
            client: self.daemon.client(),
            race: self,
            number,
            random,
        }
    }

    /// Whether another round is to be played.
    fn goes_on(&self) -> bool {
        let rounds = self.rounds.fetch_add(1, Ordering::Relaxed);
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        let seen = self.seen.lock().unwrap();
        if rounds < FEWEST || !self.rules.bites.iter().all(|&what| seen.contains_key(what)) {
            return true;
        }
        let time = self.begun.elapsed();
        seconds().map_or(rounds < ROUNDS && time < TIME, |long| time < long)
    }

    /// One change, and what is seen from then until the next.
    fn disturb(&self, scene: &mut impl Scene, random: &mut Random) {
        let last = self.state.lock().unwrap().take();
        let now = scene.change(random);
        let number = last.map_or(0, |(number, _)| number + 1);
        *self.state.lock().unwrap() = Some((number, now.answers));
        let first = self.look(&now);
        let strays = || -> BTreeSet<u64> {
            let seen = self.look(&now);
            let is_stray =
                |line: &&Line| now.away && !first.ours.contains(line) || seen.is_on_anothers(line);
            seen.ours
                .iter()
                .filter(is_stray)
                .map(|line| line.id)
                .collect()
        };
        // A random short time, which meets each step of a request in the end.
        let until = Instant::now() + random.moment();
        let mut left = BTreeSet::new();
        while left.is_empty() && Instant::now() < until {
            left = strays();
        }
        if !left.is_empty() {
            self.count("strays");
        }
        while !left.is_empty() && !self.over.load(Ordering::Relaxed) {
            self.strays.lock().unwrap().clone_from(&left);
            left = &left & &strays();
        }
        self.strays.lock().unwrap().clear();
        self.daemon.shorten_log(LOG);
    }

    /// The helper's mounts, each of which must be one that it may make.
    fn look(&self, state: &State) -> Seen {
        let mut ours = kernel::table();
        ours.retain(|line| !self.base.contains(line));
        let others = ours.extract_if(.., |line| line.source == OTHERS).collect();
        for line in &ours {
            check(line);
            let point = Path::new(&line.point);
            assert!(
                state.places.iter().any(|place| place == point),
                "misplaced: {line:?}"
            );
            let below = ours.iter().find(|below| line.is_on(below));
            assert!(below.is_none(), "one on the other: {below:?} {line:?}");
        }
        Seen { ours, others }
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.seen.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// Nothing may be left of it.
    fn finish(&self) {
        assert_eq!(
            kernel::table(),
            self.base,
            "the mount table is not what it was"
        );
        let [made, found, ended] = [&self.made, &self.found, &self.ended].map(|ids| {
            let ids = ids.lock().unwrap();
            ids.clone()
        });
        assert!(
            found.is_subset(&made),
            "found, and never made: {:?}",
            &found - &made
        );
        if self.rules.kept {
            assert_eq!(made, ended, "made, and what was ended by request");
        }
        wait_for("the helper's descriptors are what they were", || {
            (quiet(self.daemon) == self.quiet).then_some(())
        });
        println!("RACE: {}", self.story());
    }

    fn story(&self) -> String {
        format!(
            "{} rounds in {:.1?}, {SEED}={}: {:?}",
            self.rounds.load(Ordering::Relaxed),
            self.begun.elapsed(),
            self.seed,
            self.seen
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        )
    }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RACE: {}", self.story());
        }
    }
}

/// What the mount table showed.
struct Seen {
    /// Mounts that the helper made.
    ours: Vec<Line>,
    /// Mounts that the scene made.
    others: Vec<Line>,
}

impl Seen {
    fn is_on_anothers(&self, line: &Line) -> bool {
        self.others.iter().any(|below| line.is_on(below))
    }
}

/// What every mount of the helper's has, in these cases.
pub(crate) fn check(line: &Line) {
    assert!(
        line.options.contains("nosuid,nodev"),
        "without what is forced: {line:?}"
    );
    assert!(!line.shared, "shared: {line:?}");
    assert!(
        !line.root.contains("/victim"),
        "nobody is granted that: {line:?}"
    );
}

/// Waits until the helper serves nobody; the number of its open descriptors.
pub(crate) fn quiet(daemon: &Daemon) -> usize {
    wait_for("the connections' processes end", || {
        let processes = kernel::descendants(daemon.pid());
        let open = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        (processes.len() == 2).then(|| processes.into_iter().map(open).sum())
    })
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

/// One client.
pub(crate) struct Player<'r, 'a> {
    pub(crate) race: &'r Race<'a>,
    pub(crate) client: Client,
    pub(crate) number: usize,
    pub(crate) random: Random,
}

impl Player<'_, '_> {
    /// Connects again.
    pub(crate) fn reconnect(&mut self) {
        self.client = self.race.daemon.client();
    }

    /// Asks for a mount.
    pub(crate) fn mount(&mut self, mount: impl Into<Mount>) -> Option<Mounted> {
        let mount = mount.into();
        let before = *self.race.state.lock().unwrap();
        let result = self.client.mount(mount.clone());
        let after = *self.race.state.lock().unwrap();
        let word = word(&result, |made| match made.outcome {
            Outcome::Mounted => "mounted",
            Outcome::AlreadyMounted => "already-mounted",
        });
        let rules = &self.race.rules;
        assert!(rules.mount.contains(&word), "{result:?}");
        if let Some((_, answers)) = before.filter(|_| before == after) {
            assert!(
                answers.contains(&word),
                "not one of {answers:?}: {result:?}"
            );
            self.race.count(format!("{word}, undisturbed"));
        }
        self.race.count(word);
        if result.is_err() {
            // The same again would be the same answer.
            self.race.wait_for_another_state(after);
        }
        let made = result.ok()?;
        assert_eq!(made.mount.target, mount.target);
        let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
        assert_eq!(made.mount.attributes, forced);
        let id = u64::from(made.mount.id);
        match made.outcome {
            Outcome::Mounted => self.race.made.lock().unwrap().insert(id),
            Outcome::AlreadyMounted => self.race.found.lock().unwrap().insert(id),
        };
        if let Some(status) = status(id) {
            let strays = self.race.strays.lock().unwrap();
            assert!(
                !strays.contains(&status.short_id),
                "a stray was not taken back: {made:?}"
            );
        }
        Some(made)
    }

    /// Ends a mount that was made, by a request that names it, and by the kernel
    /// if that was refused.
    pub(crate) fn unmount(&mut self, made: &Mounted) -> &'static str {
        let id = u64::from(made.mount.id);
        let result = self.client.unmount(Unmount::from(made));
        let word = word(&result, |_| "unmounted");
        assert!(
            self.race.rules.unmount.contains(&word),
            "{made:?}: {result:?}"
        );
        self.race.count(format!("unmount: {word}"));
        let ended = match result {
            Ok(gone) => {
                assert_eq!(gone.id, made.mount.id);
                assert_eq!(status(id), None, "said to be gone: {gone:?}");
                true
            }
            Err(_) => self.race.rules.kept && end(id),
        };
        if ended {
            let first = self.race.ended.lock().unwrap().insert(id);
            assert!(first, "ended twice: {made:?}");
        }
        word
    }
}

fn status(id: u64) -> Option<raw::MountStatus> {
    match raw::status_of_mount(id) {
        Ok(status) => Some(status),
        Err(Errno::ENOENT) => None,
        Err(errno) => panic!("{errno}"),
    }
}

/// Ends a mount, wherever its place was renamed to, and no other; false when it
/// has ended already.
pub(crate) fn end(id: u64) -> bool {
    wait_for("the mount ends", || {
        let Some(status) = status(id) else {
            return Some(false);
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(&status.point[..], flags, Mode::empty()).ok()?;
        if raw::status(root.as_fd()).ok()?.mount != id {
            return None;
        }
        // The link leads to the mount that is open, whatever its path is by now.
        let link = format!("/proc/self/fd/{}", root.as_raw_fd());
        umount2(&link[..], MntFlags::MNT_DETACH).ok().map(|()| true)
    })
}
