//! Locations that the client opens and passes, because the helper's user cannot
//! reach them.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mountwarden_client::protocol::{Mount, Operation, Passed, Reply, Request};
use mountwarden_client::{
    Bind, Client, DenyReason, Error, ErrorCode, ErrorKind, MountAttributes, Outcome, Passing,
    Remount, Tmpfs, Unmount,
};
use nix::libc;

use super::between::{
    before_the_check_of, error, first_saw, is_in_state, mounted, overtaken, sleeps, wait_for_lock,
    wait_for_state,
};
use super::confinement::only;
use super::contending::other_mounter;
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::fuse::{self, Server};
use crate::kernel::{self, unchanged};
use crate::oddities::open;
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;

/// The policy of most cases, which takes descriptors.
pub(super) fn policy() -> String {
    POLICY
        .replace("target = [", "passed_target = true\ntarget = [")
        .replace("source = [", "passed_source = true\nsource = [")
}

/// A directory in one that nobody may enter who lacks a capability for it: the
/// helper's user, whoever that is here.
pub(super) fn private(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.make_dir(name);
    let above = path.parent().unwrap();
    fs::set_permissions(above, Permissions::from_mode(0o000)).unwrap();
    path
}

/// A request with these bits set.
pub(super) fn passing(mount: impl Into<Mount>, passed: Passed) -> Request {
    let mount = Mount {
        passed,
        ..mount.into()
    };
    Request::Perform(Operation::Mount(mount))
}

pub(super) fn mount_at(
    client: &mut Client,
    mount: impl Into<Mount>,
    target: &Path,
) -> Result<Outcome, Error> {
    let target = File::open(target).unwrap();
    let made = client.mount_passing(mount, Passing::new().target(&target))?;
    Ok(made.outcome)
}

/// From path to descriptor and back: what the helper cannot open it mounts, compares,
/// and unmounts by what it is given.
pub(crate) fn beneath_a_private_directory(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let target = private(sandbox, "mnt/home/vm");
    let source = sandbox.make_dir("src/home/data");
    sandbox.write("src/home/data/file", "data");
    private(sandbox, "src/home/data");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = || Bind::new(&source, &target).unwrap().read_only();

    let error = unchanged(|| client.mount(bind()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let (to, from) = (File::open(&target).unwrap(), File::open(&source).unwrap());
    for part in [Passing::new().target(&to), Passing::new().source(&from)] {
        let error = unchanged(|| client.mount_passing(bind(), part).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    }
    let both = Passing::new().target(&to).source(&from);
    let made = client.mount_passing(bind(), both).unwrap();
    assert_eq!(made.outcome, Outcome::Mounted);
    assert_eq!(made.mount.target.as_path(), target);
    assert!(kernel::only(&target).options.contains("ro,nosuid,nodev"));
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "data");
    let line = daemon.last_audit();
    assert_eq!(line["passed"], "target,source", "{line}");
    assert_eq!(line["target"], target.to_str().unwrap(), "{line}");

    // The path opened anew is the root of the mount.
    let root = File::open(&target).unwrap();
    let both = Passing::new().target(&root).source(&from);
    let again = client.mount_passing(bind(), both).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    assert_eq!(again.mount, made.mount);
    let tmpfs = Tmpfs::new(&target).unwrap();
    let error = unchanged(|| mount_at(&mut client, tmpfs, &target).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(error.mount(), Some(made.mount.id));

    let unmount = || Unmount::new(&target).unwrap();
    let error = unchanged(|| client.unmount(unmount().lazy()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let error = unchanged(|| client.unmount_passing(unmount(), &root).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().contains("only be unmounted lazily"),
        "{error}"
    );
    let other = unmount().lazy().id(1.try_into().unwrap());
    let error = unchanged(|| client.unmount_passing(other, &root).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::IdMismatch, "{error}");
    let gone = client
        .unmount_passing(unmount().lazy().id(made.mount.id), &root)
        .unwrap();
    assert_eq!(gone.id, made.mount.id);
    assert_eq!(daemon.last_audit()["passed"], "target");
    assert!(kernel::at(&target).is_empty());
    // Neither the root of a mount that has ended nor a directory is one.
    let mut wire = Wire::open(&daemon.socket);
    let again = Request::Perform(Operation::Unmount(mountwarden_client::protocol::Unmount {
        target: gone.target,
        lazy: true,
        id: Some(gone.id),
        passed: true,
    }));
    for file in [&root, &to] {
        unchanged(|| {
            wire.send_request(&again, &[file.as_fd()]);
            wire.error(ErrorCode::NotMounted);
        });
    }
    assert_eq!(
        mount_at(&mut client, tmpfs_of(&target), &target).unwrap(),
        Outcome::Mounted
    );
    Ok(())
}

fn tmpfs_of(target: &Path) -> Tmpfs {
    Tmpfs::new(target).unwrap()
}

/// A user mounts in its own home, which the helper's user may not enter, and ends it
/// again; nobody else may.
pub(crate) fn a_private_home(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let own = "target_owner = \"peer\"\npassed_target = true\ntarget = [\"@DIR@/home/{uid}\"]";
    sandbox.policy(&POLICY.replace("target = [\"@DIR@/mnt\"]", own));
    for uid in [ALICE, BOB] {
        let home = sandbox.make_dir(&format!("home/{uid}"));
        let place = sandbox.make_dir(&format!("home/{uid}/vm"));
        for path in [&home, &place] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        fs::set_permissions(home, Permissions::from_mode(0o700)).unwrap();
    }
    let daemon = Daemon::start(sandbox);
    let home = |uid: u32| sandbox.path(&format!("home/{uid}/vm"));
    let run = |uid, arguments: &[&str], place: &Path, options: &[&str]| {
        let mut command = daemon.cli_as(uid);
        outcome(command.args(arguments).arg(place).args(options))
    };
    let data = sandbox.path("src/data");
    let bind = ["mount", "bind", data.to_str().unwrap()];
    let (alices, bobs) = (home(ALICE), home(BOB));
    for (options, status, words) in [
        (&[][..], 1, "Permission denied"),
        (&["--pass-target", "--read-only"], 0, "Mounted"),
        (&["--pass-target", "--read-only"], 0, "Already mounted"),
        (&["--pass-target", "--noexec"], 4, "different mount"),
    ] {
        let (code, out, err) = run(ALICE, &bind, &alices, options);
        assert_eq!(code, status, "{options:?}: {out}{err}");
        assert!(
            format!("{out}{err}").contains(words),
            "{options:?}: {out}{err}"
        );
    }
    assert!(kernel::only(&alices).options.contains("ro,nosuid,nodev"));
    unchanged(|| {
        // It cannot open it, and a path alone does not help.
        let (code, out, err) = run(BOB, &["unmount"], &alices, &["--lazy", "--pass"]);
        assert_eq!((code, err.contains("cannot open")), (1, true), "{out}{err}");
        let (code, out, err) = run(BOB, &["unmount"], &alices, &["--lazy"]);
        assert_eq!(
            (code, err.contains("granted roots")),
            (3, true),
            "{out}{err}"
        );
    });
    let (code, out, err) = run(BOB, &["mount", "tmpfs"], &bobs, &["--pass-target"]);
    assert_eq!(code, 0, "{out}{err}");
    for (uid, place) in [(ALICE, &alices), (BOB, &bobs)] {
        let (code, out, err) = run(uid, &["unmount"], place, &["--lazy", "--pass"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(kernel::at(place).is_empty());
    }
    Ok(())
}

/// What the grant asks to be the peer's own is refused when it is another's, passed
/// or not.
pub(crate) fn owners(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let policy = policy()
        .replace("target = [", "target_owner = \"peer\"\ntarget = [")
        .replace("source = [", "source_owner = \"peer\"\nsource = [");
    sandbox.policy(&policy.replace("[[grant]]", "[[grant]]\nremount = true"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (target, source) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    for (path, reason) in [
        (&target, DenyReason::TargetNotOwned),
        (&source, DenyReason::SourceNotOwned),
    ] {
        chown(path, Some(ALICE), Some(0)).unwrap();
        let (to, from) = (File::open(&target).unwrap(), File::open(&source).unwrap());
        for passing in [Passing::new(), Passing::new().target(&to).source(&from)] {
            let bind = Bind::new(&source, &target).unwrap();
            let error = unchanged(|| client.mount_passing(bind, passing).unwrap_err());
            assert_eq!(error.reason(), Some(reason), "{error}");
            assert_eq!(error.path(), Some(path.as_path()));
            assert_eq!(daemon.last_audit()["reason"], reason.name());
        }
        chown(path, Some(0), Some(0)).unwrap();
    }
    client.mount(Bind::new(&source, &target).unwrap()).unwrap();
    // What is shown there is not what is covered.
    chown(&source, Some(0), Some(ALICE)).unwrap();
    let again = client.mount(Bind::new(&source, &target).unwrap()).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    // From what the peer could not make anew nothing is lifted.
    client.remount(at_target(&target).no_exec()).unwrap();
    let lift = || {
        let attributes = MountAttributes::NO_EXEC;
        at_target(&target).lift_from_bind(attributes, &source)
    };
    chown(&source, Some(ALICE), Some(0)).unwrap();
    let error = unchanged(|| client.remount(lift().unwrap()).unwrap_err());
    assert_eq!(error.reason(), Some(DenyReason::SourceNotOwned), "{error}");
    chown(&source, Some(0), Some(0)).unwrap();
    client.remount(lift().unwrap()).unwrap();
    Ok(())
}

fn at_target(target: &Path) -> Remount {
    Remount::new(target).unwrap()
}

/// The root of a mount whose server is gone cannot be opened for reading, and is
/// named by a descriptor that was not.
pub(crate) fn the_root_of_a_dead_file_system(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let target = private(sandbox, "mnt/home/vm");
    let device = fuse::device()?;
    fuse::attach(&device, &target, true)?;
    drop(device);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    assert!(File::open(&target).is_err(), "it is dead");
    let root = open(&target, libc::O_PATH, 0);
    let unmount = Unmount::new(&target).unwrap().lazy();
    client.unmount_passing(unmount, &root).unwrap();
    assert!(kernel::at(&target).is_empty());
    Ok(())
}

/// What was opened before a mount covered it is no target, no source and no root,
/// however often it is sent.
pub(crate) fn attack_12_covered_since_it_was_opened(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let (target, source) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let to = File::open(&target).unwrap();
    let first = client
        .mount_passing(tmpfs_of(&target), Passing::new().target(&to))
        .unwrap();
    let covered = |error: &Error, by| {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(
            error.to_string().contains("a mount covers what was passed"),
            "{error}"
        );
        assert_eq!(error.mount(), by, "{error}");
    };
    for _ in 0..2 {
        let again = Passing::new().target(&to);
        let error = unchanged(|| client.mount_passing(tmpfs_of(&target), again).unwrap_err());
        covered(&error, Some(first.mount.id));
    }
    // Somebody else's mount on that one.
    let root = File::open(&target).unwrap();
    mount_tmpfs(&target);
    // Not the last of the list: without unique ids the kernel gives a freed one away.
    let listed = client.list().unwrap().into_iter();
    let second = listed
        .map(|mount| mount.id)
        .find(|&id| id != first.mount.id);
    assert!(second.is_some());
    let again = Passing::new().target(&root);
    let error = unchanged(|| client.mount_passing(tmpfs_of(&target), again).unwrap_err());
    covered(&error, second);
    let unmount = Unmount::new(&target).unwrap().lazy();
    let error = unchanged(|| client.unmount_passing(unmount, &root).unwrap_err());
    covered(&error, second);
    // The source, or a directory above it, hidden since.
    let free = sandbox.path("mnt/b");
    let bind = || Bind::new(&source, &free).unwrap();
    let from = File::open(&source).unwrap();
    for place in ["src/data", "src"] {
        mount_tmpfs(&sandbox.path(place));
        let passing = Passing::new().source(&from);
        let error = unchanged(|| client.mount_passing(bind(), passing).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        nix::mount::umount(&sandbox.path(place)).unwrap();
    }
    client
        .mount_passing(bind(), Passing::new().source(&from))
        .unwrap();
    Ok(())
}

/// Somebody else's mount gets there first, by a moment, and after every look: what
/// was put on top of it is taken back.
pub(crate) fn attack_12_mounted_over_while_attaching(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let to = File::open(&leaf).unwrap();
    let request = passing(tmpfs_of(&leaf), Passed::TARGET);
    let mut wire = Wire::open(&daemon.socket);
    let reply = overtaken(&daemon, &server, &leaf, &mut wire, |wire| {
        wire.send_request(&request, &[to.as_fd()]);
    });
    assert_eq!(error(reply).code, ErrorCode::Changed);
    let line = kernel::only(&leaf);
    assert!(!line.options.contains("nosuid"), "the other's: {line:?}");
    Ok(())
}

/// One request names the place by its path and another by a descriptor: the second
/// looks only after the first has finished, whichever it is.
pub(crate) fn attack_12_one_at_a_time(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let to = File::open(&leaf).unwrap();
    let path = passing(tmpfs_of(&leaf), Passed::empty());
    let passed = passing(tmpfs_of(&leaf), Passed::TARGET);
    let mut first = Wire::open(&daemon.socket);
    let first_mounter = only(&daemon, "mw-mounter");
    let mut second = Wire::open(&daemon.socket);
    let [made, busy] = server.hold(|hold| {
        first.send_request(&path, &[]);
        wait_for_lock(first_mounter);
        let second_mounter = other_mounter(&daemon, first_mounter);
        wait_for_state(second_mounter, 'S');
        let before = sleeps(second_mounter);
        second.send_request(&passed, &[to.as_fd()]);
        wait_for("the second mounter waits for the first", || {
            (sleeps(second_mounter) > before && is_in_state(second_mounter, 'S')).then_some(())
        });
        hold.let_go();
        [first.reply(), second.reply()]
    });
    let made = mounted(made);
    let busy = error(busy);
    assert_eq!(
        (busy.code, busy.mount),
        (ErrorCode::Busy, Some(made.mount.id)),
        "{busy:?}"
    );
    assert_eq!(kernel::at(&leaf).len(), 1);
    Ok(())
}

/// Renamed after the client opened it: before its request, and while that runs.
pub(crate) fn attack_03_renamed_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let (target, away) = (sandbox.path("mnt/a"), sandbox.path("outside"));
    let to = File::open(&target).unwrap();
    let request = passing(tmpfs_of(&target), Passed::TARGET);
    let reply = unchanged(|| {
        before_the_check_of(&daemon, &request, &[to.as_fd()], || {
            fs::rename(&target, &away).unwrap();
        })
    });
    first_saw(&daemon, "mnt/a was renamed or replaced while");
    assert_eq!(error(reply).code, ErrorCode::Changed);
    // The library says where it lies now.
    let passing = Passing::new().target(&to);
    let denied = unchanged(|| {
        let mut client = daemon.client();
        client
            .mount_passing(tmpfs_of(&target), passing)
            .unwrap_err()
    });
    assert_eq!(denied.reason(), Some(DenyReason::TargetNotGranted));
    assert_eq!(denied.path(), Some(away.as_path()));
    fs::rename(&away, &target).unwrap();
    mounted(before_the_check_of(&daemon, &request, &[to.as_fd()], || {}));
    Ok(())
}

/// Removed after the client opened it: before its request, and while that runs.
pub(crate) fn attack_06_removed_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let to = File::open(&target).unwrap();
    let request = passing(tmpfs_of(&target), Passed::TARGET);
    let remove = || fs::remove_dir(&target).unwrap();
    let reply = unchanged(|| before_the_check_of(&daemon, &request, &[to.as_fd()], remove));
    first_saw(&daemon, "mnt/a was removed while");
    assert_eq!(error(reply).code, ErrorCode::Changed);
    let mut wire = Wire::open(&daemon.socket);
    sandbox.make_dir("mnt/a");
    unchanged(|| {
        wire.send_request(&request, &[to.as_fd()]);
        wire.error(ErrorCode::Changed);
    });
    let to = File::open(&target).unwrap();
    wire.send_request(&request, &[to.as_fd()]);
    assert!(matches!(wire.reply(), Reply::Mounted(_)));
    Ok(())
}
