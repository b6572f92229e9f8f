//! ID-mapped mounts: whose files are whose, and what else goes with them.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mountwarden_client::{
    Bind, Client, DenyReason, Detach, Error, ErrorKind, MountAttributes, Mounted, Outcome, Passing,
    Remount,
};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::unistd::{getegid, geteuid};

use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::Disk;
use crate::kernel::{self, named, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::{Skip, roles};

/// What belongs to root belongs to this user through a mount, as in a container.
pub(super) const FIRST: u32 = 100_000;

/// The usual policy, in which binds may be mapped: so, and with their owners as they are.
pub(super) fn granted(sandbox: &Sandbox, more: &str) -> Result<(), Skip> {
    kernel::needs(6, 3, "an ID-mapped tmpfs")?;
    sandbox.policy(&policy(more));
    Ok(())
}

pub(super) fn policy(more: &str) -> String {
    let (uid, gid) = (geteuid(), getegid());
    let idmap = format!(
        "recursive = true\n  idmap.uids = [\"0:{FIRST}:65536\", \"{uid}:peer:1\"]\n  \
         idmap.gids = [\"0:{FIRST}:65536\", \"{gid}:peer:1\"]"
    );
    let policy = POLICY.replace("recursive = true", &idmap);
    policy.replace("target = ", &format!("{more}\ntarget = "))
}

/// A user namespace that is made by a process of its own.
pub(super) struct Made {
    process: Child,
}

impl Made {
    pub(super) fn new(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut made = Self {
            process: command.spawn().unwrap(),
        };
        made.hear();
        made
    }

    fn hear(&mut self) {
        let line = roles::read_line(self.process.stdout.as_mut().unwrap());
        assert_eq!(line, "ready");
    }

    /// Has it make another one in the first.
    pub(super) fn nest(&mut self) {
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
        self.hear();
    }

    pub(super) fn write(&self, map: &str, text: &str) {
        let proc = format!("/proc/{}", self.process.id());
        if map == "gid_map" {
            // Whoever may not set groups maps one only so (`user_namespaces(7)`).
            fs::write(format!("{proc}/setgroups"), "deny").unwrap();
        }
        fs::write(format!("{proc}/{map}"), text).unwrap();
    }

    pub(super) fn path(&self) -> String {
        format!("/proc/{}/ns/user", self.process.id())
    }

    pub(super) fn open(&self) -> File {
        File::open(self.path()).unwrap()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn command(sandbox: &Sandbox) -> Command {
    roles::command(sandbox, "mapped")
}

/// A namespace of this user with these maps.
pub(super) fn mapped(sandbox: &Sandbox, uids: &str, gids: &str) -> File {
    let made = Made::new(&mut command(sandbox));
    made.write("uid_map", uids);
    made.write("gid_map", gids);
    made.open()
}

/// One in which this user and group are who they are, which anybody can make.
pub(super) fn plain(sandbox: &Sandbox) -> File {
    let (uid, gid) = (geteuid(), getegid());
    mapped(
        sandbox,
        &format!("{uid} {uid} 1"),
        &format!("{gid} {gid} 1"),
    )
}

/// One of a container, which takes root, or what newuidmap(1) may.
fn container(sandbox: &Sandbox) -> Result<File, Skip> {
    sandbox.needs_root()?;
    let map = format!("0 {FIRST} 65536");
    Ok(mapped(sandbox, &map, &map))
}

pub(super) fn bind(sandbox: &Sandbox) -> Bind {
    Bind::new(sandbox.path("src/data"), sandbox.path("mnt/a")).unwrap()
}

pub(super) fn ask(
    client: &mut Client,
    mount: Bind,
    namespace: &impl AsFd,
) -> Result<Mounted, Error> {
    client.mount_passing(mount, Passing::new().idmap(namespace))
}

fn owners(path: &Path) -> (u32, u32) {
    let status = path.metadata().unwrap();
    (status.uid(), status.gid())
}

/// Creates a file as a user of the container.
fn create(path: &Path, uid: u32) -> bool {
    let mut touch = Command::new("touch");
    touch.arg(path).uid(uid).gid(uid).stderr(Stdio::null());
    touch.status().unwrap().success()
}

/// Through the mount, files belong to whom the namespace maps their owners to, and what is
/// made there belongs on disk to who that is inside.
fn check_owners(source: &Path, target: &Path) {
    let outside = |path: &str| owners(&target.join(path));
    assert_eq!(outside("root"), (FIRST, FIRST));
    assert_eq!(outside("user"), (FIRST + 1000, FIRST + 100));
    // The map has no place for this one.
    assert_eq!(outside("beyond"), (65_534, 65_534));
    assert!(create(&target.join("new"), FIRST));
    assert!(create(&target.join("sub/new"), FIRST + 1000));
    assert!(!create(&target.join("sub/other"), FIRST + 1001));
    assert!(
        !create(&target.join("root's"), 0),
        "root outside is nobody inside"
    );
    assert_eq!(owners(&source.join("new")), (0, 0));
    assert_eq!(owners(&source.join("sub/new")), (1000, 1000));
    assert_eq!(outside("new"), (FIRST, FIRST));
}

fn fill(source: &Path) {
    fs::create_dir(source.join("sub")).unwrap();
    for (name, uid, gid) in [
        ("root", 0, 0),
        ("user", 1000, 100),
        ("beyond", 70_000, 70_000),
    ] {
        fs::write(source.join(name), name).unwrap();
        chown(source.join(name), Some(uid), Some(gid)).unwrap();
    }
    chown(source.join("sub"), Some(1000), Some(1000)).unwrap();
}

pub(crate) fn a_container_owns_its_files(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let namespace = container(sandbox)?;
    let source = sandbox.path("src/data");
    fill(&source);
    let daemon = Daemon::start(sandbox);
    let made = ask(&mut daemon.client(), bind(sandbox), &namespace).unwrap();
    assert_eq!(made.outcome, Outcome::Mounted);
    check_owners(&source, &sandbox.path("mnt/a"));
    let line = kernel::only(&sandbox.path("mnt/a"));
    assert!(line.options.contains("idmapped"), "{line:?}");
    assert!(line.options.contains("nosuid,nodev"), "{line:?}");
    let line = daemon.last_audit();
    assert_eq!(line["passed"], "idmap", "{line}");
    let range = format!("0:{FIRST}:65536");
    let ranges = [format!("users {range}"), format!("groups {range}")];
    assert_eq!(line["idmap"], serde_json::json!(ranges), "{line}");
    daemon.client().unmount(&made).unwrap();
    Ok(())
}

/// The same on a disk, with what has kept most containers so far.
pub(crate) fn on_a_disk(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    sandbox.needs_devices()?;
    let namespace = container(sandbox)?;
    let daemon = Daemon::start(sandbox);
    let source = sandbox.path("src/data");
    for filesystem in ["ext4", "xfs", "btrfs"] {
        let disk = match Disk::make(sandbox, filesystem, filesystem) {
            Ok(disk) => disk,
            Err(_) if filesystem != "ext4" => continue,
            Err(skip) => return Err(skip),
        };
        let none = None::<&str>;
        let flags = MsFlags::empty();
        mount(Some(disk.path()), &source, Some(filesystem), flags, none).unwrap();
        fill(&source);
        let made = ask(&mut daemon.client(), bind(sandbox), &namespace).unwrap();
        check_owners(&source, &sandbox.path("mnt/a"));
        daemon.client().unmount(&made).unwrap();
        nix::mount::umount(&source).unwrap();
    }
    Ok(())
}

/// As any user can: a file is its owner's, or nobody's, as the map says.
pub(crate) fn owners_are_mapped(sandbox: &Sandbox) -> Result<(), Skip> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (higher, group) = (uid + 1, gid + 1);
    kernel::needs(6, 3, "an ID-mapped tmpfs")?;
    let idmap = format!(
        "recursive = true\n  idmap.uids = [\"{uid}:peer:1\", \"{higher}:peer:1\"]\n  \
         idmap.gids = [\"{gid}:peer:1\", \"{group}:peer:1\"]"
    );
    sandbox.policy(&POLICY.replace("recursive = true", &idmap));
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(sandbox.path("src/data"), everybody).unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    for (uids, gids, shown) in [
        (uid, gid, (uid, gid)),
        (higher, group, (65_534, 65_534)),
        (uid, group, (uid, 65_534)),
    ] {
        let namespace = mapped(
            sandbox,
            &format!("{uids} {uid} 1"),
            &format!("{gids} {gid} 1"),
        );
        let made = ask(&mut client, bind(sandbox), &namespace).unwrap();
        assert_eq!(owners(&target.join("file")), shown);
        let new = File::create(target.join("new"));
        if uids == uid && gids == gid {
            drop(new.unwrap());
            let source = sandbox.path("src/data/new");
            assert_eq!(owners(&source), shown);
            fs::remove_file(source).unwrap();
        } else {
            // The directory is nobody's, whom nobody is (`EACCES`), or the file would be.
            let errno = new.unwrap_err().raw_os_error();
            assert!(
                matches!(errno, Some(libc::EACCES | libc::EOVERFLOW)),
                "{errno:?}"
            );
        }
        client.unmount(&made).unwrap();
    }
    Ok(())
}

/// The kernel does not tell what a mount maps.
pub(crate) fn the_same_again_is_busy(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = plain(sandbox);
    let made = ask(&mut client, bind(sandbox), &namespace).unwrap();
    let again = unchanged(|| ask(&mut client, bind(sandbox), &namespace)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Busy, "{again}");
    assert!(
        again.to_string().contains("does not tell whether it maps"),
        "{again}"
    );
    let plainly = unchanged(|| client.mount(bind(sandbox))).unwrap_err();
    assert_eq!(plainly.kind(), ErrorKind::Busy, "{plainly}");
    assert!(plainly.to_string().contains("it is ID-mapped"), "{plainly}");
    client.unmount(&made).unwrap();
    for outcome in [Outcome::Mounted, Outcome::AlreadyMounted] {
        assert_eq!(client.mount(bind(sandbox)).unwrap().outcome, outcome);
    }
    let mapped = unchanged(|| ask(&mut client, bind(sandbox), &namespace)).unwrap_err();
    assert_eq!(mapped.kind(), ErrorKind::Busy, "{mapped}");
    Ok(())
}

/// Attributes are set on it and not lifted from it, and it can be leased.
pub(crate) fn remounts_and_leases(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "remount = true")?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = plain(sandbox);
    let made = ask(&mut client, bind(sandbox), &namespace).unwrap();
    let place = sandbox.path("mnt/a");
    let remount = || Remount::new(&place).unwrap();
    client.remount(remount().read_only()).unwrap();
    assert!(kernel::only(&place).options.contains("idmapped"));
    let source = sandbox.path("src/data");
    let lift = remount().lift_from_bind(MountAttributes::READ_ONLY, source);
    let lift = lift.unwrap();
    let error = unchanged(|| client.remount(lift.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("it maps owners"), "{error}");
    client.unmount(&made).unwrap();
    client.mount(bind(sandbox).read_only()).unwrap();
    client.remount(lift).unwrap();
    client
        .unmount(mountwarden_client::Unmount::new(&place).unwrap())
        .unwrap();
    kernel::needs_unique_ids()?;
    let mut other = daemon.client();
    ask(&mut other, bind(sandbox).leased(), &namespace).unwrap();
    assert!(kernel::only(&place).options.contains("idmapped"));
    drop(other);
    wait_for("the lease ends", || {
        kernel::at(&place).is_empty().then_some(())
    });
    Ok(())
}

/// What is handed over keeps its map, and its flags are locked as ever.
pub(crate) fn what_is_handed_over_is_mapped(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "detached = true")?;
    let uid = geteuid().as_raw() + 1;
    let namespace = if sandbox.is_root {
        container(sandbox)?
    } else {
        plain(sandbox)
    };
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let detach = || Detach::new(sandbox.path("src/data")).unwrap().read_only();
    let handed = unchanged(|| client.detach_mapped(detach(), &namespace)).unwrap();
    let line = daemon.last_audit();
    assert_eq!(
        (&line["event"], &line["passed"]),
        (&"detach-bind".into(), &"idmap".into())
    );
    assert_eq!(line["idmap"].as_array().map(Vec::len), Some(2), "{line}");
    let owner = |mount: &mountwarden_client::DetachedMount| {
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::statat(mount, "file", flags).unwrap().st_uid
    };
    let mapped = if sandbox.is_root { FIRST } else { uid - 1 };
    assert_eq!(owner(&handed), mapped);
    assert_eq!(owner(&client.detach(detach()).unwrap()), uid - 1);
    // The helper's own test of the lock: it is the same mount (`EPERM`), as it was attached.
    let clear = mountwarden_helper::raw::change(handed.as_fd(), 0, kernel::RDONLY);
    assert!(matches!(clear, Ok(()) | Err(Errno::EPERM)), "{clear:?}");
    Ok(())
}

/// By the command, which opens the namespace itself.
pub(crate) fn the_command_passes_it(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let (uid, gid) = (geteuid(), getegid());
    let made = Made::new(&mut command(sandbox));
    made.write("uid_map", &format!("{uid} {uid} 1"));
    made.write("gid_map", &format!("{gid} {gid} 1"));
    let run = |words: &[&str], idmap: &str| {
        let mut cli = daemon.cli();
        cli.args(words).arg(sandbox.path("src/data"));
        cli.arg(sandbox.path("mnt/a")).arg("--idmap").arg(idmap);
        outcome(&mut cli)
    };
    let (status, out, err) = unchanged(|| run(&["explain", "mount", "bind"], &made.path()));
    assert_eq!(status, 0, "{out}{err}");
    let (status, _, err) = unchanged(|| run(&["mount", "bind"], "/proc/self/ns/nothing"));
    assert_ne!(status, 0);
    assert!(err.contains("/proc/self/ns/nothing"), "{err}");
    let (status, out, err) = run(&["mount", "bind"], &made.path());
    assert_eq!(status, 0, "{out}{err}");
    let line = kernel::only(&sandbox.path("mnt/a"));
    assert!(line.options.contains("idmapped"), "{line:?}");
    Ok(())
}

/// There is a locker where only this is granted, and it hands nothing over.
pub(crate) fn a_locker_for_maps_alone(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    assert_eq!(named(daemon.pid(), "mw-locker").len(), 1);
    let mut client = daemon.client();
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    let error = unchanged(|| client.detach(detach)).unwrap_err();
    assert_eq!(
        error.reason(),
        Some(DenyReason::DetachedNotGranted),
        "{error}"
    );
    ask(&mut client, bind(sandbox), &plain(sandbox)).unwrap();
    Ok(())
}

/// With each location that can be passed, and both.
pub(crate) fn with_passed_locations(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let policy = policy("passed_target = true");
    sandbox.policy(&policy.replace("source = ", "passed_source = true\n  source = "));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = plain(sandbox);
    let source = File::open(sandbox.path("src/data")).unwrap();
    for (to, from) in [(true, false), (false, true), (true, true)] {
        let target = File::open(sandbox.path("mnt/a")).unwrap();
        let mut passing = Passing::new().idmap(&namespace);
        if to {
            passing = passing.target(&target);
        }
        if from {
            passing = passing.source(&source);
        }
        let made = client.mount_passing(bind(sandbox), passing).unwrap();
        let line = kernel::only(&sandbox.path("mnt/a"));
        assert!(line.options.contains("idmapped"), "{to} {from}: {line:?}");
        drop(target);
        client.unmount(&made).unwrap();
    }
    Ok(())
}

/// Beneath another mount of a recursive one, too.
pub(crate) fn mounts_beneath_are_mapped(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    mount_tmpfs(&sandbox.make_dir("src/data/beneath"));
    let daemon = Daemon::start(sandbox);
    ask(
        &mut daemon.client(),
        bind(sandbox).recursive(),
        &plain(sandbox),
    )
    .unwrap();
    for name in ["mnt/a", "mnt/a/beneath"] {
        let line = kernel::only(&sandbox.path(name));
        assert!(line.options.contains("idmapped"), "{line:?}");
        assert!(line.options.contains("nosuid,nodev"), "{line:?}");
    }
    Ok(())
}
