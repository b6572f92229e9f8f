//! Leases: mounts that end with the connection that made them, and nothing else does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use mountwarden_client::{
    Bind, Client, DenyReason, ErrorKind, Explanation, MountId, Mounted, Outcome, Tmpfs, Unmount,
};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::between::is_in_state;
use super::confinement::only;
use super::limits::limited;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::hostile::descriptors;
use crate::kernel::{self, children, descendants, named, unchanged};
use crate::sandbox::{Sandbox, mount_tmpfs};
use crate::{Skip, roles};

fn is_there(id: MountId) -> bool {
    kernel::status_of_mount(id.into()).is_ok()
}

fn gone(id: MountId) {
    wait_for("the leased mount ends", || (!is_there(id)).then_some(()));
}

/// Waits until there are no processes but gate and warden, and the warden, which forks
/// those that end mounts, has nothing more to do.
pub(super) fn quiet(daemon: &Daemon) {
    let mut seen = 0;
    wait_for("nobody is connected, and nothing is being ended", || {
        let rests = || is_in_state(daemon.pid(), 'S');
        let quiet = rests() && descendants(daemon.pid()).len() == 2 && rests();
        seen = if quiet { seen + 1 } else { 0 };
        (seen == 5).then_some(())
    });
}

fn lease(client: &mut Client, target: &Path) -> MountId {
    let mounted = client.mount(Tmpfs::new(target).unwrap().leased()).unwrap();
    assert_eq!(mounted.outcome, Outcome::Mounted);
    mounted.mount.id
}

fn plain(client: &mut Client, target: &Path) -> MountId {
    client.mount(Tmpfs::new(target).unwrap()).unwrap().mount.id
}

/// The audit lines about ends of leases.
fn ends(daemon: &Daemon) -> Vec<serde_json::Value> {
    let mut lines = daemon.audit();
    lines.retain(|line| line["event"] == "lease-end");
    lines
}

pub(crate) fn ends_with_its_connection(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let mut client = daemon.client();
    let bind = Bind::new(sandbox.path("src/data"), &a).unwrap().leased();
    let explained = client.explain(bind.clone()).unwrap();
    assert!(matches!(explained, Explanation::Allowed { .. }));
    let leased = client.mount(bind).unwrap().mount.id;
    assert_eq!(daemon.last_audit()["lease"], true);
    let kept = plain(&mut client, &b);
    assert_eq!(daemon.last_audit().get("lease"), None);
    assert!(is_there(leased) && is_there(kept));
    drop(client);
    gone(leased);
    quiet(&daemon);
    assert!(is_there(kept));
    let lines = ends(&daemon);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["id"], u64::from(leased), "{line}");
    assert_eq!(line["target"], a.to_str().unwrap(), "{line}");
    assert_eq!(line["why"], "the lease's connection ended", "{line}");
    assert_eq!(line["uid"], nix::unistd::geteuid().as_raw(), "{line}");
    assert_eq!(line["result"], "unmounted", "{line}");
    Ok(())
}

/// How a connection can end.
const DEATHS: [&str; 4] = ["close", "client", "mw-session", "mw-mounter"];

/// A connection with a lease that was made by another process.
struct Holder {
    child: std::process::Child,
    id: MountId,
}

impl Holder {
    fn start(daemon: &Daemon, target: &Path) -> Self {
        let mut command = daemon.cli();
        command
            .args(["--json", "mount", "tmpfs", "--lease"])
            .arg(target);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let id = MountId::try_from(said["id"].as_u64().unwrap()).unwrap();
        Self { child, id }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn ends(mut self, daemon: &Daemon, how: &str) {
        match how {
            "close" => kill(self.pid(), Signal::SIGTERM).unwrap(),
            "client" => kill(self.pid(), Signal::SIGKILL).unwrap(),
            role => kill(only(daemon, role), Signal::SIGKILL).unwrap(),
        }
        let status = self.child.wait().unwrap();
        let expected = match how {
            "close" => Some(0),
            "client" => None,
            _ => Some(6),
        };
        assert_eq!(status.code(), expected, "{how}");
    }
}

pub(crate) fn attack_30_whoever_is_killed(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    for how in DEATHS {
        let holder = Holder::start(&daemon, &target);
        let id = holder.id;
        assert!(is_there(id), "{how}");
        holder.ends(&daemon, how);
        gone(id);
        quiet(&daemon);
        assert!(kernel::at(&target).is_empty(), "{how}");
    }
    Ok(())
}

/// What was put there since has another id, and whoever dies, it stays.
pub(crate) fn a_later_mount_is_left_alone(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    for how in DEATHS {
        let holder = Holder::start(&daemon, &target);
        // As an administrator would end it.
        umount2(&target, MntFlags::MNT_DETACH).unwrap();
        assert!(!is_there(holder.id));
        mount_tmpfs(&target);
        let before = kernel::table();
        holder.ends(&daemon, how);
        quiet(&daemon);
        assert_eq!(kernel::table(), before, "{how}");
        umount2(&target, MntFlags::empty()).unwrap();
    }
    assert_eq!(ends(&daemon).len(), 0, "there was nothing to end");
    Ok(())
}

/// Somebody waits for the place, and has it the moment that the lease is over.
pub(crate) fn a_close_and_a_mount_race(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "requests_per_second = 1000000");
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let mut next = daemon.client();
    for round in 0..100 {
        let mut client = daemon.client();
        let leased = lease(&mut client, &target);
        drop(client);
        let later = wait_for("the place is free", || {
            match next.mount(Bind::new(sandbox.path("src/data"), &target).unwrap()) {
                Ok(mounted) => Some(mounted),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                    None
                }
            }
        });
        assert!(!is_there(leased));
        wait_for("the other connection has ended", || {
            (descendants(daemon.pid()).len() == 4).then_some(())
        });
        assert!(is_there(later.mount.id), "round {round}");
        assert_eq!(kernel::at(&target).len(), 1);
        next.unmount(&later).unwrap();
    }
    Ok(())
}

pub(crate) fn busy_mounts_leave_the_tree(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let mut client = daemon.client();
    let bind = Bind::new(sandbox.path("src/data"), &target).unwrap();
    let leased = client.mount(bind.leased()).unwrap().mount.id;
    let open = File::open(target.join("file")).unwrap();
    let error = client.unmount(Unmount::new(&target).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(client);
    gone(leased);
    assert!(!target.join("file").exists());
    assert_eq!(std::io::read_to_string(open).unwrap(), "data");
    Ok(())
}

/// The client's own unmount ends the lease, whichever of its connections it comes by; what
/// the helper held for it is in nobody's way.
pub(crate) fn an_unmount_is_the_end_of_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let mut client = daemon.client();
    let mut other = daemon.client();
    for from_other in [false, true] {
        let below = client
            .mount(Bind::new(sandbox.path("src"), &target).unwrap())
            .unwrap();
        let inner = target.join("other");
        let leased = lease(&mut client, &inner);
        let error = client.unmount(&below).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "a mount lies beneath it");
        let by = if from_other { &mut other } else { &mut client };
        by.unmount(Unmount::new(&inner).unwrap().id(leased))
            .unwrap();
        assert!(!is_there(leased));
        client.unmount(&below).unwrap();
    }
    drop((client, other));
    quiet(&daemon);
    assert_eq!(ends(&daemon).len(), 0);
    Ok(())
}

/// Each refusal, beside the nearest request that is allowed.
pub(crate) fn refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "connections_per_user = 2");
    let daemon = Daemon::start(sandbox);
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let (c, d) = (sandbox.make_dir("mnt/c"), sandbox.make_dir("mnt/d"));
    let mut client = daemon.client();
    // What is there already, of which somebody else may make use.
    let there = plain(&mut client, &a);
    let again = || Tmpfs::new(&a).unwrap();
    let error = unchanged(|| client.mount(again().leased()).unwrap_err());
    assert_eq!(
        (error.kind(), error.mount()),
        (ErrorKind::Busy, Some(there))
    );
    assert!(
        error.to_string().contains("a lease ends what it made"),
        "{error}"
    );
    let mounted = client.mount(again()).unwrap();
    assert_eq!(mounted.outcome, Outcome::AlreadyMounted);
    // A different mount, as without a lease.
    let bind = Bind::new(sandbox.path("src/data"), &a).unwrap();
    let error = unchanged(|| client.mount(bind.leased()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy);
    // A lease allows nothing that no grant does.
    let denied = [
        (
            Tmpfs::new(sandbox.path("src/other")).unwrap(),
            DenyReason::TargetNotGranted,
        ),
        (Tmpfs::new(&b).unwrap().suid(), DenyReason::SuidNotGranted),
        (
            Tmpfs::new(&b).unwrap().size("17M".parse().unwrap()),
            DenyReason::SizeAboveMaximum,
        ),
    ];
    for (mount, reason) in denied {
        let error = unchanged(|| client.mount(mount.leased()).unwrap_err());
        assert_eq!(error.reason(), Some(reason), "{error}");
    }
    // More than there may be.
    lease(&mut client, &b);
    let second = lease(&mut client, &c);
    let leased = || Tmpfs::new(&d).unwrap().leased();
    let error = unchanged(|| client.mount(leased()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("you have 2 leases"), "{error}");
    let open = plain(&mut client, &d);
    client.unmount(Unmount::new(&d).unwrap().id(open)).unwrap();
    client
        .unmount(Unmount::new(&c).unwrap().id(second))
        .unwrap();
    client.mount(leased()).unwrap();
    drop(client);
    quiet(&daemon);
    assert!(is_there(there));
    assert_eq!([b, c, d].map(|path| kernel::at(&path).len()), [0; 3]);
    Ok(())
}

pub(crate) fn a_stop_ends_leases(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    for stop in [true, false] {
        let mut daemon = Daemon::start(sandbox);
        let mut client = daemon.client();
        let leased = lease(&mut client, &a);
        let kept = plain(&mut client, &b);
        if stop {
            assert!(daemon.stop().success());
        } else {
            kill(only(&daemon, "mw-gate"), Signal::SIGKILL).unwrap();
            assert_eq!(daemon.end().code(), Some(1));
        }
        assert!(!is_there(leased), "it was over before the helper was");
        assert!(is_there(kept));
        umount2(&b, MntFlags::empty()).unwrap();
    }
    Ok(())
}

/// A helper that is killed as a whole can keep no promise; the mount's owner can end it.
pub(crate) fn a_killed_helper_leaves_the_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let leased = lease(&mut client, &sandbox.path("mnt/a"));
    daemon.kill_all();
    assert!(is_there(leased));
    let daemon = Daemon::start(sandbox);
    let error = client.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    let found = client.list().unwrap();
    assert_eq!(
        found.iter().map(|mount| mount.id).collect::<Vec<_>>(),
        [leased]
    );
    client.unmount(&found[0]).unwrap();
    drop(daemon);
    Ok(())
}

/// The library connects again by itself, and does not hide what that costs.
pub(crate) fn a_lost_lease_is_told(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    assert!(client.lease_end().is_none());
    let leased = lease(&mut client, &sandbox.path("mnt/a"));
    assert!(client.lease_end().is_some());
    kill(only(&daemon, "mw-mounter"), Signal::SIGKILL).unwrap();
    let error = client.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    assert!(error.to_string().contains(&leased.to_string()), "{error}");
    assert!(client.lease_end().is_none());
    gone(leased);
    assert_eq!(client.list().unwrap(), []);
    Ok(())
}

/// A connection that keeps a lease has nothing to say.
pub(crate) fn silence_is_no_end(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "idle_timeout = \"50ms\"");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let leased = lease(&mut client, &sandbox.path("mnt/a"));
    for _ in 0..3 {
        let silent = daemon.client();
        wait_for("a silent connection ends", || {
            (children(only(&daemon, "mw-gate")).len() == 1).then_some(())
        });
        drop(silent);
    }
    assert!(is_there(leased));
    assert_eq!(client.list().unwrap().len(), 1, "the same connection");
    Ok(())
}

/// What somebody with rights of their own put on top is not the leased mount.
pub(crate) fn a_covered_mount_is_left_alone(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let mut client = daemon.client();
    let leased = lease(&mut client, &target);
    mount_tmpfs(&target);
    unchanged(|| {
        drop(client);
        quiet(&daemon);
    });
    assert!(is_there(leased));
    let lines = ends(&daemon);
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (&line["result"], &line["code"]),
        (&"error".into(), &"id-mismatch".into())
    );
    umount2(&target, MntFlags::empty()).unwrap();
    let found = daemon.client().list().unwrap();
    daemon.client().unmount(&found[0]).unwrap();
    Ok(())
}

/// Where the directory is now counts, not what it was called.
pub(crate) fn a_renamed_directory(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let inner = sandbox.make_dir("mnt/c/inner");
    let leased = lease(&mut client, &inner);
    fs::rename(sandbox.path("mnt/c"), sandbox.path("mnt/renamed")).unwrap();
    fs::create_dir_all(&inner).unwrap();
    let decoy: Mounted = daemon.client().mount(Tmpfs::new(&inner).unwrap()).unwrap();
    drop(client);
    gone(leased);
    quiet(&daemon);
    assert!(is_there(decoy.mount.id));
    Ok(())
}

/// Many leases of one connection end together, and what was held for them is let go.
pub(crate) fn many_at_once(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    quiet(&daemon);
    let held = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count);
    let before = held();
    for _ in 0..3 {
        let mut client = daemon.client();
        let leased: Vec<MountId> = (0..16)
            .map(|number| lease(&mut client, &sandbox.make_dir(&format!("mnt/m{number}"))))
            .collect();
        drop(client);
        leased.into_iter().for_each(gone);
        quiet(&daemon);
    }
    assert_eq!(named(daemon.pid(), "mw-mounter").len(), 0);
    wait_for("the warden's descriptors are what they were", || {
        (held() == before).then_some(())
    });
    Ok(())
}

/// What the warden cannot hold is not mounted.
pub(crate) fn attack_34_no_descriptor_for_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let used = descriptors(daemon.pid())?;
    let free = (0..64).find(|number| !used.contains_key(number)).unwrap();
    let most = 1024 + 512 + 64;
    let limit = |number: i32| {
        let mut limit = roles::command(sandbox, "limit");
        let warden = daemon.pid().to_string();
        limit.args([&warden, &number.to_string(), &most.to_string()]);
        if sandbox.is_root {
            limit.uid(65534).gid(65534);
        }
        let (status, _, error) = outcome(&mut limit);
        assert_eq!(status, 0, "{error}");
    };
    let tmpfs = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    limit(free);
    let error = unchanged(|| client.mount(tmpfs().leased()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("no descriptor left"), "{error}");
    let open = client.mount(tmpfs()).unwrap();
    client.unmount(&open).unwrap();
    limit(most);
    client.mount(tmpfs().leased()).unwrap();
    Ok(())
}

/// The command holds the mount, and ends with the helper.
pub(crate) fn the_command_holds_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut holder = Holder::start(&daemon, &target);
        kill(holder.pid(), signal).unwrap();
        assert_eq!(holder.child.wait().unwrap().code(), Some(0), "{signal}");
        assert!(!is_there(holder.id), "it has ended before the command");
    }
    let (status, _, text) = outcome(daemon.cli().args(["mount", "tmpfs", "--lease", "/etc/x"]));
    assert_eq!(status, 3, "{text}");
    let mut holder = Holder::start(&daemon, &target);
    assert!(daemon.stop().success());
    assert_eq!(holder.child.wait().unwrap().code(), Some(6));
    assert!(!is_there(holder.id));
    Ok(())
}
