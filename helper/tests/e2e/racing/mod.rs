//! Races: what clients ask for while something changes under them, and what must
//! hold at each moment of it.
//!
//! One thread, the only one that changes the tree, also looks at the mount table
//! in each state that it has brought about. So it knows of every mount where the
//! granted directory was when that mount appeared. A directory that is renamed
//! takes the mounts on it along, which no helper can prevent; what is attached to
//! it while it is away is a stray, and must be taken back before anybody is told
//! of it.

mod pace;
mod player;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub(crate) use self::pace::{Over, Pace, Random, seconds};
pub(crate) use self::player::{Player, check_status, end, status, word};
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, Line};

/// The source of the mounts that scenes make (`sandbox::mount_tmpfs`).
const OTHERS: &str = "test";
/// A log that is longer than this is begun anew.
const LOG: u64 = 1 << 20;

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
    pub(crate) pace: Pace,
    base: Vec<Line>,
    quiet: usize,
    state: Mutex<Now>,
    /// The short ids of strays that are attached.
    strays: Mutex<BTreeSet<u64>>,
    /// What clients were told of: mounts that were made, found, and ended.
    made: Mutex<BTreeSet<u64>>,
    found: Mutex<BTreeSet<u64>>,
    ended: Mutex<BTreeSet<u64>>,
}

impl<'a> Race<'a> {
    pub(crate) fn new(daemon: &'a Daemon, rules: Rules) -> Self {
        Self {
            daemon,
            pace: Pace::new(rules.bites),
            rules,
            base: kernel::table(),
            quiet: quiet(daemon),
            state: Mutex::default(),
            strays: Mutex::default(),
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
        let random = self.pace.random();
        std::thread::scope(|scope| {
            for number in 0..clients {
                let (race, round, random) = (&self, &round, random.fork(number + 1));
                scope.spawn(move || {
                    let _over = race.pace.until_the_end();
                    let mut player = race.player(number, random);
                    while race.pace.goes_on() {
                        round(&mut player);
                    }
                });
            }
            let _over = self.pace.until_the_end();
            let mut random = random.fork(0);
            while !self.pace.is_over() {
                self.disturb(&mut scene, &mut random);
            }
            *self.state.lock().unwrap() = None;
            scene.restore();
        });
        // After all of it, what was asked for is done. Processes that still end may
        // have a target open.
        quiet(self.daemon);
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
            if self.pace.is_over() {
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
            // Those who are watched need the processor too.
            std::thread::sleep(Duration::from_micros(20));
            left = strays();
        }
        if !left.is_empty() {
            self.pace.count("strays");
            wait_for("what was attached while it was away is taken back", || {
                self.strays.lock().unwrap().clone_from(&left);
                left = &left & &strays();
                (left.is_empty() || self.pace.is_over()).then_some(())
            });
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
        self.pace.tell();
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
