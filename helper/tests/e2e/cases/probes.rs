//! Probes: what can be said of a file system, and what asking it costs.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mountwarden_client::{Bind, DenyReason, ErrorKind, Health, Probe, Tmpfs, Unmount};

use super::confinement::only;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::{self, descendants, unchanged};
use crate::sandbox::{ALICE, Sandbox};
use crate::{Skip, fuse, slowly};

/// More than an answer takes.
fn ample() -> Duration {
    slowly(Duration::from_secs(20))
}

/// Long enough to be sure that there is no answer.
const SHORT: Duration = Duration::from_millis(300);

fn probe(daemon: &Daemon, target: &Path) -> Probe {
    unchanged(|| daemon.client().probe(target, ample()).unwrap())
}

pub(crate) fn alive_and_absent(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let absent = probe(&daemon, &target);
    assert_eq!((absent.health, absent.id), (Health::Absent, None));
    let mut client = daemon.client();
    for mount in [
        Tmpfs::new(&target).unwrap().into(),
        mountwarden_client::protocol::Mount::from(
            Bind::new(sandbox.path("src/data"), &target).unwrap(),
        ),
    ] {
        let mounted = client.mount(mount).unwrap();
        let alive = probe(&daemon, &target);
        // A session sees no other ids than unique ones.
        let id = kernel::has_unique_ids().then_some(mounted.mount.id);
        assert_eq!((alive.health, alive.id), (Health::Alive, id));
        assert_eq!(alive.target, mounted.mount.target);
        client.unmount(&mounted).unwrap();
    }
    // A file of a file, and a directory that somebody may not enter.
    let file = Bind::new(sandbox.path("src/data/file"), sandbox.path("mnt/file")).unwrap();
    client.mount(file).unwrap();
    assert_eq!(
        probe(&daemon, &sandbox.path("mnt/file")).health,
        Health::Alive
    );
    Ok(())
}

/// Who has nothing granted at a place hears nothing of it.
pub(crate) fn refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let client = daemon.client();
    let refused = |path: &Path| unchanged(|| client.probe(path, ample()).unwrap_err());
    for (path, reason) in [
        (sandbox.path("src/data"), DenyReason::TargetNotGranted),
        (sandbox.path("src/none"), DenyReason::TargetNotGranted),
        (sandbox.path("mnt"), DenyReason::TargetNotGranted),
        ("/proc/self".into(), DenyReason::TargetProtected),
        ("/".into(), DenyReason::TargetProtected),
    ] {
        let error = refused(&path);
        assert_eq!(error.reason(), Some(reason), "{error}");
        let line = daemon.last_audit();
        assert_eq!(
            (&line["event"], &line["by"]),
            (&"probe".into(), &"session".into())
        );
        assert_eq!(line["target"], path.to_str().unwrap());
    }
    symlink(sandbox.path("mnt/a"), sandbox.path("mnt/link")).unwrap();
    assert_eq!(
        refused(&sandbox.path("mnt/link")).kind(),
        ErrorKind::WrongType
    );
    assert_eq!(
        refused(&sandbox.path("mnt/none")).kind(),
        ErrorKind::NotFound
    );
    let error = client.probe("relative", ample()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(
        probe(&daemon, &sandbox.path("mnt/a")).health,
        Health::Absent
    );
    if sandbox.is_root {
        let mut other = daemon.cli_as(ALICE + 100);
        let (status, _, text) = outcome(other.arg("probe").arg(sandbox.path("mnt/a")));
        assert_eq!(status, 3, "{text}");
        assert!(text.contains("no grant"), "{text}");
    }
    Ok(())
}

/// A FUSE server that answers, and is then gone. The list shows both alike, for it asks
/// nobody.
pub(crate) fn a_server_that_dies(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let root = sandbox.path("mnt/a");
    let server = fuse::Server::start(&root)?;
    let mut client = daemon.client();
    assert_eq!(probe(&daemon, &root).health, Health::Alive);
    let list = client.list().unwrap();
    drop(server);
    let stale = probe(&daemon, &root);
    let errno = libc::ENOTCONN;
    assert_eq!(stale.health, Health::Stale { errno });
    assert_eq!(
        stale.id,
        Some(list[0].id).filter(|_| kernel::needs_unique_ids().is_ok())
    );
    assert_eq!(client.list().unwrap(), list);
    let mut command = daemon.cli();
    let (status, text, _) = outcome(command.args(["--json", "probe"]).arg(&root));
    assert_eq!(status, 8, "{text}");
    assert!(
        text.contains(r#""result":"stale""#) && text.contains(r#""errno":107"#),
        "{text}"
    );
    client.unmount(Unmount::new(&root).unwrap().lazy()).unwrap();
    assert_eq!(probe(&daemon, &root).health, Health::Absent);
    Ok(())
}

/// One that does not answer holds up its own reply alone.
pub(crate) fn attack_31_a_server_that_hangs(sandbox: &Sandbox) -> Result<(), Skip> {
    let device: File = fuse::device()?;
    let hung = sandbox.path("mnt/a");
    fuse::attach(&device, &hung, true)?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let session = only(&daemon, "mw-session");
    thread::scope(|scope| {
        let probing = scope.spawn(|| daemon.client().probe(&hung, SHORT).unwrap());
        while !probing.is_finished() {
            assert_eq!(client.list().unwrap().len(), 1);
        }
        let probe = probing.join().unwrap();
        assert!(matches!(probe.health, Health::Hung { .. }), "{probe:?}");
    });
    // Of the same client, too: it does not lose its connection.
    let probe = client.probe(&hung, SHORT).unwrap();
    let Health::Hung { waited } = probe.health else {
        panic!("{probe:?}")
    };
    assert!(waited >= SHORT);
    wait_for("the probes' connections end", || {
        (descendants(daemon.pid()).len() == 4).then_some(())
    });
    assert_eq!(only(&daemon, "mw-session"), session);
    let mut command = daemon.cli();
    let (status, text, _) = outcome(command.args(["probe", "--timeout", "0.3"]).arg(&hung));
    assert_eq!(status, 8, "{text}");
    assert!(text.starts_with("Hung: "), "{text}");
    Ok(())
}

/// The helper's own deadline is the longest that anybody waits.
pub(crate) fn a_hang_ends_with_the_helpers_deadline(sandbox: &Sandbox) -> Result<(), Skip> {
    let device: File = fuse::device()?;
    super::limits::limited(sandbox, "request_timeout = \"@SECOND@\"");
    let hung = sandbox.path("mnt/a");
    fuse::attach(&device, &hung, true)?;
    let daemon = Daemon::start(sandbox);
    let probe = daemon
        .client()
        .probe(&hung, Duration::from_hours(1))
        .unwrap();
    assert!(matches!(probe.health, Health::Hung { .. }), "{probe:?}");
    Ok(())
}

/// What is not asked is not said to live: neither before its server dies, nor after.
pub(crate) fn a_private_file_system(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let device = fuse::device()?;
    let root = sandbox.path("mnt/a");
    fuse::attach(&device, &root, false)?;
    let daemon = Daemon::start(sandbox);
    assert_eq!(probe(&daemon, &root).health, Health::Private);
    drop(device);
    let private = probe(&daemon, &root);
    assert_eq!(private.health, Health::Private);
    assert!(private.id.is_some() || kernel::needs_unique_ids().is_err());
    let (status, text, _) = outcome(daemon.cli().arg("probe").arg(&root));
    assert_eq!(status, 11, "{text}");
    Ok(())
}
