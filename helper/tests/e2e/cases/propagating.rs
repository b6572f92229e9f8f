//! What is mounted on a mount, seen from a second mount namespace.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use mountwarden_client::protocol::{Mount, Operation, Propagation, Reply, Request};
use mountwarden_client::{
    Bind, Client, DenyReason, ErrorCode, ErrorKind, Explanation, MountInfo, Outcome, Remount,
    Tmpfs, Unmount,
};
use nix::mount::{MsFlags, mount};

use super::between::{error, while_attaching};
use super::mounting::share;
use crate::daemon::{Daemon, START, wait_for, with_ambient};
use crate::fuse::Server;
use crate::kernel::{self, statmount, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;
use crate::{Skip, roles};

/// The usual policy, with both granted, and what else it says of the grant.
fn granted(sandbox: &Sandbox, more: &str) {
    let more = format!("propagation = [\"slave\", \"shared\"]\n{more}\ntarget = ");
    sandbox.policy(&POLICY.replace("target = ", &more));
}

/// Whether the kernel has the mount as shared, and whether as a slave.
fn is_shared_and_slave(mount: &MountInfo) -> (bool, bool) {
    let bits = statmount(mount.id).propagation;
    let has = |flag: MsFlags| bits & flag.bits() != 0;
    (has(MsFlags::MS_SHARED), has(MsFlags::MS_SLAVE))
}

/// A second mount namespace, copied from this one.
struct Elsewhere {
    process: Child,
    ask: ChildStdin,
    answers: ChildStdout,
}

impl Elsewhere {
    fn copy(sandbox: &Sandbox) -> Self {
        let mut process = roles::command(sandbox, "elsewhere");
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = with_ambient(sandbox, &START, || process.spawn().unwrap());
        let mut answers = process.stdout.take().unwrap();
        assert_eq!(roles::read_line(&mut answers), "ready");
        Self {
            ask: process.stdin.take().unwrap(),
            process,
            answers,
        }
    }

    fn say(&mut self, word: &str, path: &Path) -> usize {
        writeln!(self.ask, "{word} {}", path.display()).unwrap();
        roles::read_line(&mut self.answers).parse().unwrap()
    }

    /// How many mounts lie at a path there.
    fn at(&mut self, path: &Path) -> usize {
        self.say("count", path)
    }

    /// Mounts there.
    fn mount(&mut self, path: &Path) {
        assert_eq!(self.say("mount", path), 1);
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A source on a shared mount with directories to mount on, and a target.
fn places(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    for name in ["one", "two", "three", "four"] {
        sandbox.make_dir(&format!("src/data/{name}"));
    }
    share(&sandbox.path("src"));
    (sandbox.path("src/data"), sandbox.path("mnt/a"))
}

pub(crate) fn attack_11_a_private_mount_spreads_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (source, target) = places(sandbox);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client.mount(Bind::new(&source, &target).unwrap()).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (false, false));
    let mut elsewhere = Elsewhere::copy(sandbox);
    mount_tmpfs(&target.join("one"));
    mount_tmpfs(&source.join("two"));
    elsewhere.mount(&source.join("three"));
    elsewhere.mount(&target.join("four"));
    assert_eq!(elsewhere.at(&target.join("one")), 0);
    assert_eq!(kernel::at(&source.join("one")).len(), 0);
    assert_eq!(kernel::at(&target.join("four")).len(), 0);
    for name in ["two", "three"] {
        // The source is shared, and the mount has nothing of that.
        assert_eq!(kernel::at(&source.join(name)).len(), 1, "{name}");
        assert_eq!(elsewhere.at(&source.join(name)), 1, "{name}");
        assert_eq!(kernel::at(&target.join(name)).len(), 0, "{name}");
        assert_eq!(elsewhere.at(&target.join(name)), 0, "{name}");
    }
    Ok(())
}

pub(crate) fn attack_11_a_slave_receives_and_does_not_send(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (source, target) = places(sandbox);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = Bind::new(&source, &target).unwrap().slave();
    let made = client.mount(bind).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (false, true));
    assert_eq!(daemon.last_audit()["propagation"], "slave");
    let mut elsewhere = Elsewhere::copy(sandbox);
    mount_tmpfs(&target.join("one"));
    elsewhere.mount(&target.join("four"));
    for place in [source.join("one"), source.join("four")] {
        assert_eq!(kernel::at(&place).len(), 0, "sent to {}", place.display());
        assert_eq!(elsewhere.at(&place), 0, "sent to {}", place.display());
    }
    assert_eq!(elsewhere.at(&target.join("one")), 0);
    assert_eq!(kernel::at(&target.join("four")).len(), 0);
    mount_tmpfs(&source.join("two"));
    elsewhere.mount(&source.join("three"));
    for name in ["two", "three"] {
        assert_eq!(kernel::at(&target.join(name)).len(), 1, "{name}");
        assert_eq!(elsewhere.at(&target.join(name)), 1, "{name}");
    }
    Ok(())
}

pub(crate) fn shared_goes_both_ways(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (source, target) = places(sandbox);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = Bind::new(&source, &target).unwrap().shared();
    let made = client.mount(bind).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (true, false));
    let mut elsewhere = Elsewhere::copy(sandbox);
    mount_tmpfs(&target.join("one"));
    mount_tmpfs(&source.join("two"));
    elsewhere.mount(&target.join("three"));
    elsewhere.mount(&source.join("four"));
    for name in ["one", "two", "three", "four"] {
        for place in [source.join(name), target.join(name)] {
            assert_eq!(kernel::at(&place).len(), 1, "{}", place.display());
            assert_eq!(elsewhere.at(&place), 1, "{}", place.display());
        }
    }
    // Nothing of that asks for more than the target's mount gives.
    assert_eq!(kernel::at(&target).len(), 1);
    Ok(())
}

/// It has no source: what is mounted on it appears in namespaces that are made later.
pub(crate) fn a_shared_tmpfs(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "remount = true");
    let target = sandbox.path("mnt/a");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let tmpfs = Tmpfs::new(&target).unwrap();
    let made = client.mount(tmpfs.shared()).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (true, false));
    let changed = Remount::new(&target).unwrap().no_exec();
    client.remount(changed).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (true, false));
    let [ours, theirs] = ["mnt/a/ours", "mnt/a/theirs"].map(|name| sandbox.make_dir(name));
    let mut elsewhere = Elsewhere::copy(sandbox);
    mount_tmpfs(&ours);
    elsewhere.mount(&theirs);
    assert_eq!(elsewhere.at(&ours), 1);
    assert_eq!(kernel::at(&theirs).len(), 1);
    Ok(())
}

fn denied(client: &mut Client, mount: impl Into<Mount>) -> DenyReason {
    let error = unchanged(|| client.mount(mount).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    error.reason().expect("a reason")
}

pub(crate) fn attack_11_only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (source, target) = places(sandbox);
    let bind = || Bind::new(&source, &target).unwrap();
    let tmpfs = || Tmpfs::new(&target).unwrap();
    let word = |words: &str| {
        let line = format!("propagation = [{words}]\ntarget = ");
        sandbox.policy(&POLICY.replace("target = ", &line));
        Daemon::start(sandbox)
    };
    for (words, slave, shared) in [
        ("", false, false),
        ("'slave'", true, false),
        ("'shared'", false, true),
    ] {
        let daemon = word(words);
        let mut client = daemon.client();
        for (granted, asked) in [
            (slave, Mount::from(bind().slave())),
            (shared, bind().shared().into()),
            (shared, tmpfs().shared().into()),
        ] {
            if granted {
                let made = client.mount(asked).unwrap();
                client.unmount(&made).unwrap();
            } else {
                let reason = denied(&mut client, asked);
                assert_eq!(reason, DenyReason::PropagationNotGranted);
                assert_eq!(daemon.last_audit()["reason"], "propagation-not-granted");
            }
        }
        let made = client.mount(bind()).unwrap();
        client.unmount(&made).unwrap();
        drop(client);
        daemon.stop();
    }
    Ok(())
}

/// A mount that may be shared is still not attached where others would see it.
pub(crate) fn attack_11_shared_on_a_shared_target(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (source, target) = places(sandbox);
    share(&sandbox.path("mnt"));
    let bind = || Bind::new(&source, &target).unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for asked in [bind().shared(), bind().slave(), bind()] {
        assert_eq!(denied(&mut client, asked), DenyReason::SharedTarget);
    }
    drop(client);
    daemon.stop();

    granted(sandbox, "shared_target = true");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for (asked, has) in [
        (bind().shared(), (true, false)),
        (bind().slave(), (false, true)),
        (bind(), (false, false)),
    ] {
        let mut elsewhere = Elsewhere::copy(sandbox);
        let made = client.mount(asked).unwrap();
        assert_eq!(is_shared_and_slave(&made.mount), has);
        assert_eq!(elsewhere.at(&target), 1, "the target is shared");
        client.unmount(&made).unwrap();
        assert_eq!(elsewhere.at(&target), 0);
    }
    Ok(())
}

/// The target becomes shared while the mount is being attached: of one that is to be
/// shared itself, the target's mount tells.
pub(crate) fn attack_11_target_shared_while_attaching(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let held = sandbox.make_dir("mnt/held");
    let server = Server::start(&held)?;
    let daemon = Daemon::start(sandbox);
    let tmpfs = Tmpfs::new(held.join("leaf")).unwrap().shared();
    let request = Request::Perform(Operation::Mount(tmpfs.into()));
    let wire = Wire::open(&daemon.socket);
    let count = || kernel::table().len();
    let before = count();
    let reply = while_attaching(&daemon, &server, wire, &request, |_| {
        let no = None::<&str>;
        mount(no, &held, no, MsFlags::MS_SHARED, no).unwrap();
    });
    let error = error(reply);
    assert_eq!(error.reason, Some(DenyReason::SharedTarget), "{error:?}");
    wait_for("it is taken back", || (count() == before).then_some(()));
    Ok(())
}

/// What is mounted on a shared bind is mounted on its source too.
pub(crate) fn attack_08_sources_that_nothing_covers(sandbox: &Sandbox) -> Result<(), Skip> {
    let more = "propagation = [\"slave\", \"shared\"]\ntarget = ";
    let policy = POLICY.replace("target = ", more);
    sandbox.policy(&policy.replace("@DIR@/src", "@DIR@\", \"/etc\", \"/usr\", \"/proc"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let bind = |source: &Path| Bind::new(source, &target).unwrap();
    let own = sandbox.path("");
    for source in ["/etc", "/usr", "/proc/self", own.to_str().unwrap()] {
        let source = Path::new(source);
        let private = client.explain(bind(source)).unwrap();
        assert!(
            matches!(private, Explanation::Allowed { .. }),
            "{private:?}"
        );
        let error = unchanged(|| client.mount(bind(source).shared()).unwrap_err());
        assert_eq!(error.reason(), Some(DenyReason::TargetProtected), "{error}");
        assert_eq!(error.path(), Some(source));
    }
    let source = sandbox.path("src/data");
    let made = client.mount(bind(&source).shared()).unwrap();
    assert_eq!(is_shared_and_slave(&made.mount), (true, false));
    Ok(())
}

/// What has no source on a shared mount has nothing to receive from.
pub(crate) fn a_slave_needs_a_master(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let source = sandbox.path("src/data");
    let mut mount: Mount = Tmpfs::new(&target).unwrap().into();
    mount.propagation = Propagation::Slave;
    let mut wire = Wire::open(&daemon.socket);
    let bind = Bind::new(&source, &target).unwrap().slave();
    for mount in [mount, bind.clone().into()] {
        let request = Request::Perform(Operation::Mount(mount));
        let error = unchanged(|| error(wire.ask(&request)));
        assert_eq!(error.code, ErrorCode::Unsupported, "{error:?}");
        assert!(error.message.contains("would get nothing"), "{error:?}");
    }
    share(&sandbox.path("src"));
    let request = Request::Perform(Operation::Mount(bind.into()));
    assert!(matches!(wire.ask(&request), Reply::Mounted(_)));
    Ok(())
}

pub(crate) fn already_mounted_has_the_same(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let (source, target) = places(sandbox);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = || Bind::new(&source, &target).unwrap();
    let all = [bind(), bind().slave(), bind().shared()];
    for asked in &all {
        let made = client.mount(asked.clone()).unwrap();
        for again in &all {
            if again == asked {
                let again = unchanged(|| client.mount(again.clone()).unwrap());
                assert_eq!(again.outcome, Outcome::AlreadyMounted);
                assert_eq!(again.mount, made.mount);
            } else {
                let error = unchanged(|| client.mount(again.clone()).unwrap_err());
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                assert!(error.to_string().contains("propagation"), "{error}");
            }
        }
        client.unmount(Unmount::from(&made)).unwrap();
    }
    Ok(())
}
