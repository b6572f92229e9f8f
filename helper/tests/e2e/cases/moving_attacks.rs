//! Moves while something changes under them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mountwarden_client::protocol::Operation;
use mountwarden_client::{Client, ErrorCode, MountId, Tmpfs, Unmount};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};

use super::between::{
    before_the_check, error, first_saw, overtaken, wait_for_lock, while_attaching,
};
use super::confinement::only;
use super::moving::{granted, id_at, is_at, moving, request, restricted_tmpfs};
use super::races::trade;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::fuse::Server;
use crate::kernel;
use crate::racing::{Pace, word};
use crate::sandbox::{Sandbox, mount_tmpfs};
use crate::wire::Wire;

/// What a move may get when the way to its target changes.
const LOST: [&str; 4] = ["changed", "not-found", "unreachable", "wrong-type"];

/// Has a client move one mount to a place and back, while another takes the place's name
/// and gives it back. Whatever the client is told, the mount is where that says.
fn race(
    sandbox: &Sandbox,
    [swapped, leaf]: [&Path; 2],
    others: &[PathBuf],
    bites: &'static [&'static str],
) {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let home = sandbox.make_dir("mnt/home/leaf");
    restricted_tmpfs(&home);
    let id = id_at(&daemon, &home);
    let pace = Pace::new(bites);
    let random = pace.random();
    let mut client = daemon.client();
    std::thread::scope(|scope| {
        let (pace, mut random) = (&pace, random.fork(1));
        scope.spawn(move || {
            while !pace.is_over() {
                let other = &others[random.below(others.len())];
                if trade(swapped, other) {
                    random.pause();
                    // Not while the mount lies there, where a failure leaves it.
                    while !pace.is_over() && !trade(swapped, other) {
                        random.pause();
                    }
                }
                random.pause();
            }
        });
        let _over = pace.until_the_end();
        while pace.goes_on() {
            let result = client.move_mount(moving(&home, leaf).id(id));
            let said = word(&result, |_| "moved");
            pace.count(said);
            if let Err(error) = result {
                assert!(LOST.contains(&said), "{error}");
                assert!(is_at(id, &home), "{error}");
            } else {
                let point = kernel::statmount(id).point;
                let point = String::from_utf8(point).unwrap();
                assert!(!point.contains("victim"), "{point}");
                take_back(&mut client, leaf, &home, id);
            }
            daemon.shorten_log(1 << 20);
        }
    });
    assert!(is_at(id, &home));
    pace.tell();
}

/// Moves the mount from a leaf to where it was, also when it is at another granted place by now: a
/// rename within one directory may have begun before the mount came and end after it, and then
/// the kernel renames a place that is mounted on neither there nor back (`EBUSY`).
fn take_back(client: &mut Client, leaf: &Path, home: &Path, id: MountId) {
    let begun = Instant::now();
    while client.move_mount(moving(leaf, home).id(id)).is_err() {
        assert!(!is_at(id, home), "it is back, and nobody was told");
        let point = String::from_utf8(kernel::statmount(id).point).unwrap();
        match client.move_mount(moving(Path::new(&point), home).id(id)) {
            Ok(_) => return,
            Err(error) => assert!(
                begun.elapsed() < Duration::from_secs(30),
                "still at {point}: {error}"
            ),
        }
    }
}

/// Links to a directory that nobody is granted, and to one that is granted.
fn links(sandbox: &Sandbox) -> Vec<PathBuf> {
    sandbox.make_dir("victim/leaf");
    sandbox.make_dir("mnt/b/leaf");
    sandbox.make_dir("outside");
    let links = [
        ("outside/1", "victim"),
        ("mnt/2", "victim"),
        ("outside/3", "mnt/b"),
    ];
    let made = links.map(|(link, to)| {
        symlink(sandbox.path(to), sandbox.path(link)).unwrap();
        sandbox.path(link)
    });
    made.to_vec()
}

pub(crate) fn attack_02_leaf_swapped_for_a_symlink(sandbox: &Sandbox) -> Result<(), Skip> {
    let (place, others) = (sandbox.make_dir("mnt/s"), links(sandbox));
    let bites = &["moved", "wrong-type"];
    race(sandbox, [&place, &place], &others, bites);
    Ok(())
}

pub(crate) fn attack_02_ancestor_swapped_for_a_symlink(sandbox: &Sandbox) -> Result<(), Skip> {
    let (leaf, others) = (sandbox.make_dir("mnt/s/leaf"), links(sandbox));
    let bites = &["moved", "wrong-type"];
    race(sandbox, [&sandbox.path("mnt/s"), &leaf], &others, bites);
    Ok(())
}

pub(crate) fn attack_03_ancestor_renamed_away(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.make_dir("outside");
    let leaf = sandbox.make_dir("mnt/s/leaf");
    let others = ["outside/s", "mnt/b/s", "mnt/aside"].map(|name| sandbox.path(name));
    let bites = &["moved", "not-found"];
    race(sandbox, [&sandbox.path("mnt/s"), &leaf], &others, bites);
    Ok(())
}

/// A directory above the target leaves the granted tree while the mount is being moved there:
/// seen afterwards, and the same mount is back where it was.
pub(crate) fn attack_03_target_renamed_while_moving(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    sandbox.make_dir("outside");
    let a = sandbox.path("mnt/a");
    restricted_tmpfs(&a);
    let server = Server::start(&sandbox.make_dir("mnt/inner/held"))?;
    let (inside, outside) = (sandbox.path("mnt/inner"), sandbox.path("outside/inner"));
    let leaf = inside.join("held/leaf");
    let daemon = Daemon::start(sandbox);
    let id = id_at(&daemon, &a);
    let before = kernel::table().len();
    let wire = connection(&daemon);
    let reply = while_attaching(&daemon, &server, wire, &request(&a, &leaf), |_| {
        fs::rename(&inside, &outside).unwrap();
    });
    first_saw(&daemon, "or a directory above it, was renamed");
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    assert!(is_at(id, &a));
    assert_eq!(kernel::table().len(), before);
    fs::rename(&outside, &inside).unwrap();
    let moved = daemon.client().move_mount(moving(&a, &leaf)).unwrap();
    assert_eq!((moved.id, moved.target.as_path()), (id, &*leaf));
    Ok(())
}

/// A connection, when those before it have ended.
fn connection(daemon: &Daemon) -> Wire {
    wait_for("nobody is connected", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    Wire::open(&daemon.socket)
}

/// The mount on which the target lies becomes shared in that moment: what has moved there cannot
/// be moved from there either, and does not stay.
pub(crate) fn attack_11_target_shared_while_moving(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (a, root) = (sandbox.path("mnt/a"), sandbox.make_dir("mnt/held"));
    restricted_tmpfs(&a);
    let server = Server::start(&root)?;
    let leaf = root.join("leaf");
    let daemon = Daemon::start(sandbox);
    let wire = connection(&daemon);
    let reply = while_attaching(&daemon, &server, wire, &request(&a, &leaf), |_| {
        let flags = MsFlags::MS_SHARED;
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
    });
    let failed = error(reply);
    assert_eq!(failed.code, ErrorCode::Failed, "{failed:?}");
    for part in [
        "is shared with other",
        "the mount was ended",
        "Invalid argument",
    ] {
        assert!(failed.message.contains(part), "{part}: {failed:?}");
    }
    assert!(kernel::at(&leaf).is_empty() && kernel::at(&a).is_empty());
    Ok(())
}

/// Somebody else's mount gets there first, by a moment.
pub(crate) fn attack_12_mounted_over_while_moving(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let a = sandbox.path("mnt/a");
    restricted_tmpfs(&a);
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let id = id_at(&daemon, &a);
    let mut wire = connection(&daemon);
    let reply = overtaken(&daemon, &server, &leaf, &mut wire, |wire| {
        wire.send_body(&crate::wire::body(&request(&a, &leaf)));
    });
    assert_eq!(error(reply).code, ErrorCode::Busy);
    assert!(is_at(id, &a));
    assert_eq!(kernel::at(&leaf).len(), 1);
    Ok(())
}

/// Somebody mounts on it meanwhile: that would be at a place that nobody judged.
pub(crate) fn attack_12_mounted_beneath_while_moving(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let a = sandbox.path("mnt/a");
    restricted_tmpfs(&a);
    let inner = sandbox.make_dir("mnt/a/inner");
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let id = id_at(&daemon, &a);
    let wire = connection(&daemon);
    let reply = while_attaching(&daemon, &server, wire, &request(&a, &leaf), |_| {
        mount_tmpfs(&inner);
    });
    let busy = error(reply);
    assert_eq!(busy.code, ErrorCode::Busy, "{busy:?}");
    assert_eq!(busy.mount, Some(id_at(&daemon, &inner)));
    assert!(is_at(id, &a) && kernel::at(&leaf).is_empty());
    umount2(&inner, MntFlags::empty()).unwrap();
    daemon.client().move_mount(moving(&a, &leaf)).unwrap();
    Ok(())
}

/// Another mount stands at the place by the time that the mounter looks: only that one is moved.
pub(crate) fn attack_12_ended_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    restricted_tmpfs(&a);
    let first = id_at(&daemon, &a);
    wait_for("nobody is connected", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    let asked = Operation::Move(moving(&a, &b).id(first).into());
    let asked = mountwarden_client::protocol::Request::Perform(asked);
    let reply = before_the_check(&daemon, &asked, || {
        umount2(&a, MntFlags::MNT_DETACH).unwrap();
        restricted_tmpfs(&a);
    });
    assert_eq!(error(reply).code, ErrorCode::NotMounted);
    let second = id_at(&daemon, &a);
    assert!(is_at(second, &a) && kernel::at(&b).is_empty());
    let mut client = daemon.client();
    assert_eq!(client.move_mount(moving(&a, &b)).unwrap().id, second);
    Ok(())
}

/// Moves in both directions at once, and mounts at places of the same name: each ends in its
/// time, and the one mount is at one of the places.
pub(crate) fn attack_12_moves_that_cross(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let places =
        ["mnt/one/leaf", "mnt/two/leaf", "mnt/three/leaf"].map(|name| sandbox.make_dir(name));
    let [one, two, three] = &places;
    restricted_tmpfs(one);
    let daemon = Daemon::start(sandbox);
    let id = id_at(&daemon, one);
    let known = ["moved", "not-mounted", "busy", "changed", "id-mismatch"];
    std::thread::scope(|scope| {
        for (from, to) in [
            (one, two),
            (two, one),
            (one, two),
            (two, three),
            (three, one),
        ] {
            let mut client = daemon.client();
            scope.spawn(move || {
                for _ in 0..100 {
                    let result = client.move_mount(moving(from, to).id(id));
                    let said = word(&result, |_| "moved");
                    assert!(known.contains(&said), "{result:?}");
                }
            });
        }
        let mut client = daemon.client();
        scope.spawn(move || {
            for _ in 0..100 {
                if let Ok(made) = client.mount(Tmpfs::new(three).unwrap())
                    && made.mount.id != id
                {
                    // The others look at it, and so have it in use.
                    client.unmount(Unmount::from(&made).lazy()).unwrap();
                }
            }
        });
    });
    assert!(places.iter().any(|place| is_at(id, place)));
    Ok(())
}

/// A mounter that is killed while it waits leaves the mount at one of the places, whole.
pub(crate) fn attack_30_killed_while_moving(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (a, leaf) = (sandbox.path("mnt/a"), sandbox.path("mnt/held/leaf"));
    restricted_tmpfs(&a);
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let daemon = Daemon::start(sandbox);
    let id: MountId = id_at(&daemon, &a);
    let mut wire = connection(&daemon);
    let mounter = only(&daemon, "mw-mounter");
    server.hold(|hold| {
        wire.send_body(&crate::wire::body(&request(&a, &leaf)));
        wait_for_lock(mounter);
        kill(mounter, Signal::SIGKILL).unwrap();
        assert!(kernel::is_alive(mounter), "it waits still");
        assert!(is_at(id, &a));
        hold.let_go();
    });
    wait_for("the mounter ends", || {
        (!kernel::is_alive(mounter)).then_some(())
    });
    assert!(is_at(id, &leaf) && kernel::at(&a).is_empty());
    let mut client = daemon.client();
    client.move_mount(moving(&leaf, &a).id(id)).unwrap();
    Ok(())
}
