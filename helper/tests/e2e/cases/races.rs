//! Races for the target of a mount and for its source: whatever changes while a
//! request runs, what was granted is attached where it was granted, or nothing is.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use mountwarden_client::{Bind, Tmpfs};
use mountwarden_helper::raw;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::Mode;

use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel;
use crate::racing::{Player, Race, Random, Rules, Scene, State, end};
use crate::sandbox::{Sandbox, mount_tmpfs};

/// What a request gets while everything is in its place. Another client may
/// mount and unmount the same thing at the same time, more often than the helper
/// looks again.
const IN_PLACE: &[&str] = &["mounted", "already-mounted", "changed"];

/// How the end of a mount may turn out when others end it too, or look at it.
const ENDS: &[&str] = &["unmounted", "not-mounted", "id-mismatch", "busy", "changed"];
/// As above, where the way to it changes.
const LOST_ENDS: &[&str] = &[
    "unmounted",
    "not-mounted",
    "id-mismatch",
    "busy",
    "changed",
    "not-found",
    "unreachable",
    "wrong-type",
];

/// As above, where somebody else's mount may be in the way.
const COVERED_ENDS: &[&str] = &[
    "unmounted",
    "not-mounted",
    "id-mismatch",
    "busy",
    "changed",
    "not-found",
    "unreachable",
    "failed",
];

/// What a request may get when the way to its target or source changes: the
/// kernel found a link, nothing, or, where the path had just left the granted
/// tree, a file that Landlock denies.
const LOST: &[&str] = &[
    "mounted",
    "already-mounted",
    "changed",
    "not-found",
    "unreachable",
    "wrong-type",
];

/// Lets two paths change places, of which one may lead nowhere.
pub(super) fn trade(one: &Path, other: &Path) -> bool {
    let rename = |from, to, flags| renameat2(AT_FDCWD, from, AT_FDCWD, to, flags).is_ok();
    rename(one, other, RenameFlags::RENAME_EXCHANGE)
        || rename(one, other, RenameFlags::RENAME_NOREPLACE)
        || rename(other, one, RenameFlags::RENAME_NOREPLACE)
}

/// What comes instead of a place's own file, and what a request gets meanwhile.
type Other = (PathBuf, &'static [&'static str]);

/// A place that changes with others.
struct Swapped {
    place: PathBuf,
    others: Vec<Other>,
    in_place: &'static [&'static str],
    /// The one that it has changed with.
    with: Option<usize>,
    /// What is asked for, which may lie beneath the place.
    targets: Vec<PathBuf>,
}

impl Swapped {
    fn new(place: PathBuf, targets: &[PathBuf], others: Vec<Other>) -> Self {
        Self {
            place,
            others,
            in_place: IN_PLACE,
            with: None,
            targets: targets.to_vec(),
        }
    }

    /// Where a target's own directory is now.
    fn now(&self, target: &Path, place: &Path) -> PathBuf {
        match target.strip_prefix(&self.place) {
            Ok(rest) => place.components().chain(rest.components()).collect(),
            Err(_) => target.to_owned(),
        }
    }
}

impl Scene for Swapped {
    fn change(&mut self, random: &mut Random) -> State {
        let with = self.with.unwrap_or_else(|| random.below(self.others.len()));
        if trade(&self.place, &self.others[with].0) {
            self.with = self.with.xor(Some(with));
        }
        let (place, answers) = match self.with {
            Some(with) => (&self.others[with].0, self.others[with].1),
            None => (&self.place, self.in_place),
        };
        let places: Vec<_> = self
            .targets
            .iter()
            .map(|target| self.now(target, place))
            .collect();
        State {
            away: places != self.targets,
            places,
            answers,
        }
    }

    fn restore(&mut self) {
        if let Some(with) = self.with.take() {
            trade(&self.place, &self.others[with].0);
        }
    }
}

/// Mounts and unmounts a tmpfs at one of some targets.
fn tmpfs_at_one_of(targets: &[PathBuf]) -> impl Fn(&mut Player<'_, '_>) + Sync {
    move |player| {
        let target = &targets[player.random.below(targets.len())];
        if let Some(made) = player.mount(Tmpfs::new(target).unwrap()) {
            if player.random.below(2) == 0 {
                player.random.pause();
            }
            player.unmount(&made);
        }
    }
}

/// Symbolic links to a directory that nobody is granted, to one that is granted,
/// and to the neighbour; in the granted tree and outside.
fn links(sandbox: &Sandbox) -> Vec<Other> {
    sandbox.make_dir("victim/leaf");
    sandbox.make_dir("mnt/b/leaf");
    sandbox.make_dir("outside");
    [
        ("outside/1", sandbox.path("victim")),
        ("mnt/2", sandbox.path("victim")),
        ("outside/3", sandbox.path("mnt/b")),
        ("mnt/4", PathBuf::from("b")),
    ]
    .into_iter()
    .map(|(link, to)| {
        let link = sandbox.path(link);
        symlink(to, &link).unwrap();
        (link, &["wrong-type"][..])
    })
    .collect()
}

/// The target becomes a symbolic link while the request runs.
pub(crate) fn attack_02_leaf_swapped_for_a_symlink(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = [sandbox.make_dir("mnt/s")];
    let scene = Swapped::new(sandbox.path("mnt/s"), &target, links(sandbox));
    let rules = Rules {
        mount: LOST,
        unmount: ENDS,
        bites: &["mounted", "wrong-type"],
        kept: true,
    };
    Race::new(&daemon, rules).run(scene, 2, tmpfs_at_one_of(&target));
    Ok(())
}

/// The same of a directory above it (CVE-2026-53613).
pub(crate) fn attack_02_ancestor_swapped_for_a_symlink(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = [sandbox.make_dir("mnt/s/leaf")];
    let scene = Swapped::new(sandbox.path("mnt/s"), &target, links(sandbox));
    let rules = Rules {
        mount: LOST,
        unmount: LOST_ENDS,
        bites: &["mounted", "wrong-type"],
        kept: true,
    };
    Race::new(&daemon, rules).run(scene, 2, tmpfs_at_one_of(&target));
    Ok(())
}

/// The granted root is another directory for a while. A client that connects
/// then is granted nothing in either.
pub(crate) fn attack_02_root_replaced(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = [sandbox.path("mnt/a")];
    sandbox.make_dir("victim/a");
    let other = (sandbox.path("victim"), &["unreachable"][..]);
    let scene = Swapped {
        in_place: &["mounted", "already-mounted", "changed", "unreachable"],
        ..Swapped::new(sandbox.path("mnt"), &target, vec![other])
    };
    let rules = Rules {
        mount: LOST,
        unmount: LOST_ENDS,
        bites: &["mounted", "unreachable"],
        kept: true,
    };
    let round = tmpfs_at_one_of(&target);
    Race::new(&daemon, rules).run(scene, 2, |player| {
        if player.random.below(8) == 0 {
            player.reconnect();
        }
        round(player);
    });
    Ok(())
}

/// A directory above the target leaves the granted tree, or moves within it.
pub(crate) fn attack_03_ancestor_renamed_away(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    sandbox.make_dir("outside");
    let target = [sandbox.make_dir("mnt/inner/leaf")];
    let nowhere = |name| (sandbox.path(name), &["not-found"][..]);
    let others = vec![
        nowhere("outside/inner"),
        nowhere("mnt/b/inner"),
        nowhere("mnt/aside"),
    ];
    let scene = Swapped::new(sandbox.path("mnt/inner"), &target, others);
    let rules = Rules {
        mount: LOST,
        unmount: LOST_ENDS,
        bites: &["mounted", "not-found"],
        kept: true,
    };
    Race::new(&daemon, rules).run(scene, 2, tmpfs_at_one_of(&target));
    Ok(())
}

/// Two directories change names. What one request makes is another's to end,
/// under the other name; but no request ends what another has just made.
pub(crate) fn attack_03_directories_change_names(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let targets = ["mnt/one/leaf", "mnt/two/leaf"].map(|name| sandbox.make_dir(name));
    let two = (sandbox.path("mnt/two"), IN_PLACE);
    let scene = Names(Swapped::new(sandbox.path("mnt/one"), &targets, vec![two]));
    let rules = Rules {
        mount: LOST,
        unmount: LOST_ENDS,
        bites: &["mounted", "already-mounted"],
        kept: true,
    };
    Race::new(&daemon, rules).run(scene, 3, tmpfs_at_one_of(&targets));
    Ok(())
}

/// A swap after which both places are granted.
struct Names(Swapped);

impl Scene for Names {
    fn change(&mut self, random: &mut Random) -> State {
        let State { answers, .. } = self.0.change(random);
        State {
            places: self.0.targets.clone(),
            away: false,
            answers,
        }
    }

    fn restore(&mut self) {
        self.0.restore();
    }
}

/// The target is removed, and made again.
pub(crate) fn attack_06_target_removed(sandbox: &Sandbox) -> Result<(), Skip> {
    struct Removed(PathBuf);

    impl Scene for Removed {
        fn change(&mut self, _: &mut Random) -> State {
            // The kernel removes no directory that holds a mount (EBUSY).
            let gone = fs::create_dir(&self.0).is_err() && fs::remove_dir(&self.0).is_ok();
            State {
                places: vec![self.0.clone()],
                away: false,
                answers: if gone { &["not-found"] } else { IN_PLACE },
            }
        }

        fn restore(&mut self) {
            // It may be there.
            let _ = fs::create_dir(&self.0);
        }
    }

    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = [sandbox.make_dir("mnt/gone")];
    let rules = Rules {
        mount: LOST,
        unmount: LOST_ENDS,
        bites: &["mounted", "not-found"],
        kept: true,
    };
    Race::new(&daemon, rules).run(Removed(target[0].clone()), 2, tmpfs_at_one_of(&target));
    Ok(())
}

/// Somebody else's mount appears on the target or above it, and goes.
struct Covered<'a> {
    /// What covers: a file system with a directory of the target's name.
    with: PathBuf,
    target: PathBuf,
    /// Somebody else's mount.
    cover: Option<u64>,
    /// How many of them requests have ended.
    lost: &'a AtomicUsize,
}

impl Covered<'_> {
    fn cover(&mut self, place: &Path) {
        let open = |path: &Path| open(path, OFlag::O_PATH, Mode::empty()).unwrap();
        let cover = raw::clone_tree(open(&self.with).as_fd(), false).unwrap();
        self.cover = Some(raw::status(cover.as_fd(), raw::Ids::Unique).unwrap().mount);
        raw::attach(cover.as_fd(), open(place).as_fd()).unwrap();
    }
}

impl Scene for Covered<'_> {
    fn change(&mut self, random: &mut Random) -> State {
        let target = self.target.clone();
        let mut answers = IN_PLACE;
        if self.cover.is_some() {
            self.restore();
        } else if random.below(2) == 0 {
            self.cover(&target);
            // The others too, once a request has ended the cover.
            answers = &["busy", "mounted", "already-mounted", "changed"];
        } else {
            self.cover(target.parent().unwrap());
        }
        State {
            places: vec![target],
            away: false,
            answers,
        }
    }

    fn restore(&mut self) {
        if self.cover.take().is_some_and(|cover| !end(cover)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// `umount2` takes no id: what root puts on a mount in the moment before its end is
/// ended in its stead. That is said, and happens in no other case.
pub(crate) fn attack_12_anothers_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = [sandbox.make_dir("mnt/inner/leaf")];
    mount_tmpfs(&sandbox.make_dir("cover"));
    sandbox.make_dir("cover/leaf");
    let (lost, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let scene = Covered {
        with: sandbox.path("cover"),
        target: target[0].clone(),
        cover: None,
        lost: &lost,
    };
    let rules = Rules {
        mount: &[
            "mounted",
            "already-mounted",
            "changed",
            "busy",
            // What covered the directory above went, with the target that was in it.
            "not-found",
            "unreachable",
        ],
        unmount: COVERED_ENDS,
        bites: &["mounted", "busy"],
        kept: false,
    };
    Race::new(&daemon, rules).run(scene, 2, |player| {
        let Some(made) = player.mount(Tmpfs::new(&target[0]).unwrap()) else {
            return;
        };
        player.random.pause();
        if player.unmount(&made) == "failed" {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(
        lost.into_inner(),
        failed.into_inner(),
        "ended, and said to be"
    );
    Ok(())
}

/// The source is another file for a while: a link, a regular file, another
/// directory that is granted, nothing.
pub(crate) fn attack_13_source_swapped(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    for (name, text) in [("src/x", "x"), ("src/y", "y"), ("victim", "victim")] {
        sandbox.make_dir(name);
        sandbox.write(&format!("{name}/name"), text);
    }
    sandbox.make_dir("outside");
    symlink(sandbox.path("victim"), sandbox.path("outside/link")).unwrap();
    sandbox.write("outside/file", "file");
    let (source, file) = (sandbox.path("src/x"), sandbox.path("mnt/file"));
    let targets = [sandbox.make_dir("mnt/0"), file, sandbox.make_dir("mnt/2")];
    let others = vec![
        (sandbox.path("outside/link"), &["wrong-type"][..]),
        (sandbox.path("outside/nothing"), &["not-found"]),
        (sandbox.path("outside/file"), &["mounted", "wrong-type"]),
        (sandbox.path("src/y"), &["mounted", "wrong-type"]),
    ];
    let scene = Swapped {
        in_place: &["mounted", "wrong-type"],
        ..Swapped::new(source.clone(), &targets, others)
    };
    let rules = Rules {
        mount: LOST,
        unmount: ENDS,
        bites: &["mounted", "wrong-type", "not-found"],
        kept: true,
    };
    Race::new(&daemon, rules).run(scene, targets.len(), |player| {
        let target = &targets[player.number];
        if let Some(made) = player.mount(Bind::new(&source, target).unwrap()) {
            let shown = if target.is_dir() {
                fs::read_to_string(target.join("name")).unwrap()
            } else {
                fs::read_to_string(target).unwrap()
            };
            let wanted: &[&str] = if player.number == 1 {
                &["file"]
            } else {
                &["x", "y"]
            };
            assert!(
                wanted.contains(&&shown[..]),
                "{} shows {shown}",
                target.display()
            );
            player.unmount(&made);
        }
    });
    Ok(())
}
