//! Restarts: what stays, and what a client notices.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use mountwarden_client::protocol::Mount;
use mountwarden_client::{
    Bind, Client, DenyReason, Error, ErrorKind, MountInfo, Outcome, Tmpfs, Unmount,
};
use nix::sys::signal::{Signal, kill};

use super::start::refused;
use crate::daemon::{Daemon, START, command, outcome, wait_for};
use crate::kernel::{self, descendants, named, unchanged};
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox};
use crate::{Skip, roles};

pub(crate) fn attack_32_restart_with_live_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    let target = sandbox.path("mnt/a");
    let daemon = Daemon::start(sandbox);
    let (made, by_alice) = if sandbox.is_root {
        let policy = POLICY.replace("mnt\"", "mnt/{uid}\"");
        daemon.stop();
        sandbox.policy(&policy);
        sandbox.make_dir("mnt/4001/x");
        sandbox.make_dir("mnt/4002");
        sandbox.make_dir("mnt/0/x");
        let daemon = Daemon::start(sandbox);
        let alice = sandbox.path("mnt/4001/x");
        assert_eq!(
            outcome(daemon.cli_as(ALICE).args(["mount", "tmpfs"]).arg(&alice)).0,
            0
        );
        let made = daemon
            .client()
            .mount(Tmpfs::new(sandbox.path("mnt/0/x")).unwrap())
            .unwrap();
        unchanged(|| daemon.kill());
        (made, Some(alice))
    } else {
        let made = daemon.client().mount(Tmpfs::new(&target).unwrap()).unwrap();
        unchanged(|| daemon.kill());
        (made, None)
    };
    let daemon = unchanged(|| Daemon::start(sandbox));
    assert_eq!(
        daemon.client().list().unwrap(),
        std::slice::from_ref(&made.mount)
    );
    if let Some(alice) = by_alice {
        let unmount = |uid| outcome(daemon.cli_as(uid).arg("unmount").arg(&alice)).0;
        assert_eq!(unchanged(|| unmount(BOB)), 3, "nobody else's to end");
        assert_eq!(unmount(ALICE), 0);
    }
    daemon.client().unmount(&made).unwrap();
    Ok(())
}

pub(crate) fn stop_leaves_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    let processes = descendants(daemon.pid());
    let log = sandbox.path("log");
    let status = unchanged(|| daemon.stop());
    assert_eq!(status.code(), Some(0), "a clean end");
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains("stopped; mounts stay")
    );
    wait_for("every role has ended", || {
        (!processes.iter().any(|&pid| kernel::is_alive(pid))).then_some(())
    });
    Ok(())
}

pub(crate) fn client_reconnects(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client: Client = daemon.client();
    let bind = || Bind::new(sandbox.path("src/data"), sandbox.path("mnt/a")).unwrap();
    client.mount(bind()).unwrap();
    daemon.stop();
    let daemon = Daemon::start(sandbox);
    let again = client.mount(bind()).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    daemon.stop();
    let error = client.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    Ok(())
}

/// A listening socket that outlives the helpers, as a service manager keeps one.
struct Kept<'a> {
    sandbox: &'a Sandbox,
    listener: UnixListener,
    path: PathBuf,
}

impl<'a> Kept<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let path = sandbox.make_dir("run").join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        Self {
            sandbox,
            listener,
            path,
        }
    }

    fn command(&self) -> Command {
        let helper = command(self.sandbox);
        let mut activated = roles::command(self.sandbox, "activate");
        activated.arg(&self.path).arg("kept");
        activated.arg(helper.get_program()).args(helper.get_args());
        activated.stdin(OwnedFd::from(self.listener.try_clone().unwrap()));
        activated
    }

    fn start(&self) -> Daemon {
        Daemon::start_with(self.sandbox, self.command())
    }
}

/// Ends a helper in each way that it can end.
fn end(mut daemon: Daemon, round: usize) {
    match round % 4 {
        0 => assert_eq!(daemon.stop().code(), Some(0), "a clean end"),
        1 => daemon.kill(),
        2 => daemon.kill_all(),
        _ => {
            // A session has its gate's name for a moment; the warden's children
            // come before theirs.
            kill(named(daemon.pid(), "mw-gate")[0], Signal::SIGKILL).unwrap();
            wait_for("it ends without its gate", || {
                (!daemon.runs()).then_some(())
            });
        }
    }
}

/// Ends the clients of a case, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Restarts a helper under clients that work all the time, each round of each
/// client's work through `work`; no client may see an error.
fn restart_under(
    sandbox: &Sandbox,
    rounds: usize,
    work: impl Fn(&Path, usize, &dyn Fn() -> bool) -> Result<(), Error> + Sync,
) {
    const CLIENTS: usize = 3;
    let kept = Kept::new(sandbox);
    let (stop, work) = (AtomicBool::new(false), &work);
    let done: [AtomicUsize; CLIENTS] = Default::default();
    thread::scope(|scope| {
        let guard = Stop(&stop);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (path, stop, done) = (&kept.path, &stop, &done[number]);
                let goes_on = move || {
                    done.fetch_add(1, Ordering::SeqCst);
                    !stop.load(Ordering::SeqCst)
                };
                scope.spawn(move || work(path, number, &goes_on))
            })
            .collect();
        for round in 0..rounds {
            let daemon = kept.start();
            let before: Vec<usize> = done.iter().map(|n| n.load(Ordering::SeqCst)).collect();
            // The moment of the end differs from round to round.
            let more = 3 + round % 5;
            wait_for("every client goes on, or one has failed", || {
                let all = done.iter().zip(&before);
                let on = all
                    .into_iter()
                    .all(|(n, before)| n.load(Ordering::SeqCst) >= before + more);
                (on || clients.iter().any(thread::ScopedJoinHandle::is_finished)).then_some(())
            });
            end(daemon, round);
        }
        let last = kept.start();
        drop(guard);
        for client in clients {
            client.join().unwrap().unwrap();
        }
        drop(last);
    });
}

/// However the helper ends, whoever connects is served: by this one or the next.
pub(crate) fn no_connection_fails_with_a_kept_socket(sandbox: &Sandbox) -> Result<(), Skip> {
    // Connections end a moment after their clients have gone.
    let limits = "[limits]\nconnections_per_user = 500\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    restart_under(sandbox, 24, |socket, _, goes_on| {
        while goes_on() {
            Client::connect_to(socket)?;
        }
        Ok(())
    });
    Ok(())
}

/// One client all the time, which sees no restart and no error: each of its
/// requests may be repeated.
pub(crate) fn a_caller_who_repeats_does_not_notice(sandbox: &Sandbox) -> Result<(), Skip> {
    for number in 0..3 {
        sandbox.make_dir(&format!("mnt/stays-{number}"));
        sandbox.make_dir(&format!("mnt/goes-{number}"));
    }
    restart_under(sandbox, 16, |socket, number, goes_on| {
        let stays = sandbox.path(&format!("mnt/stays-{number}"));
        let goes = sandbox.path(&format!("mnt/goes-{number}"));
        let mut client = Client::connect_to(socket)?;
        let id = client.mount(Tmpfs::new(&stays)?)?.mount.id;
        while goes_on() {
            let again = client.mount(Tmpfs::new(&stays)?)?;
            assert_eq!(
                (again.outcome, again.mount.id),
                (Outcome::AlreadyMounted, id)
            );
            assert!(client.list()?.iter().any(|mount| mount.id == id));
            client.explain(Unmount::new(&goes)?)?;
            client.status()?;
            let made = client.mount(Bind::new(sandbox.path("src/data"), &goes)?)?;
            assert_eq!(client.unmount(&made)?.id, made.mount.id);
        }
        Ok(())
    });
    assert_eq!(kernel::at(&sandbox.path("mnt/goes-0")).len(), 0);
    Ok(())
}

/// Every mount beneath a directory is one that the policy allows, with all that
/// it forces, and there is one at a place.
fn whole(directory: &Path) -> usize {
    let mut points = Vec::new();
    for line in kernel::table() {
        if !Path::new(&line.point).starts_with(directory) {
            continue;
        }
        let options: Vec<&str> = line.options.split(',').collect();
        assert!(
            options.contains(&"nosuid") && options.contains(&"nodev"),
            "{line:?}"
        );
        assert!(!line.shared, "{line:?}");
        if line.root == "/" {
            assert!(line.super_options.contains("size=16384k"), "{line:?}");
        } else {
            assert!(line.root.ends_with("/src/data"), "{line:?}");
        }
        assert!(
            !points.contains(&line.point),
            "two mounts at one place: {line:?}"
        );
        points.push(line.point);
    }
    points.len()
}

/// Mounts and unmounts at one place until the helper is gone.
fn work_until_the_end(mut client: Client, mount: impl Fn() -> Mount, done: &AtomicUsize) {
    let error = loop {
        let result = client.mount(mount()).and_then(|made| client.unmount(&made));
        match result {
            Ok(_) => done.fetch_add(1, Ordering::SeqCst),
            Err(error) => break error,
        };
    };
    let expected = [ErrorKind::Unavailable, ErrorKind::ConnectionLost];
    assert!(expected.contains(&error.kind()), "{error}");
}

/// All processes are killed at once while several clients mount and unmount; the
/// next helper serves what is left, to its owners alone.
pub(crate) fn attack_30_killed_with_requests_in_flight(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("mnt\"", "mnt/{uid}\""));
    let own = format!("mnt/{}", nix::unistd::geteuid());
    let places: Vec<PathBuf> = (0..4)
        .map(|n| sandbox.make_dir(&format!("{own}/{n}")))
        .collect();
    let alices = sandbox.make_dir("mnt/4001/x");
    sandbox.make_dir("mnt/4002");
    let source = sandbox.path("src/data");
    let (mut left, mut of_alice) = (0, 0);
    for round in 0..20 {
        let daemon = Daemon::start(sandbox);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for (index, place) in places.iter().enumerate() {
                let (client, source, done) = (daemon.client(), &source, &done);
                scope.spawn(move || {
                    let tmpfs = || Tmpfs::new(place).unwrap().into();
                    let bind = || Bind::new(source, place).unwrap().into();
                    if index % 2 == 0 {
                        work_until_the_end(client, tmpfs, done);
                    } else {
                        work_until_the_end(client, bind, done);
                    }
                });
            }
            if sandbox.is_root {
                assert_eq!(
                    outcome(daemon.cli_as(ALICE).args(["mount", "tmpfs"]).arg(&alices)).0,
                    0
                );
            }
            wait_for("requests are in flight", || {
                (done.load(Ordering::SeqCst) > 4 + round * 3).then_some(())
            });
            daemon.kill_all();
        });
        let there = whole(&sandbox.path("mnt"));
        let daemon = unchanged(|| Daemon::start(sandbox));
        let mut client = daemon.client();
        let listed = client.list().unwrap();
        if sandbox.is_root {
            assert_eq!(listed.len() + 1, there, "all but Alice's is listed");
            let unmount = |uid| outcome(daemon.cli_as(uid).arg("unmount").arg(&alices)).0;
            assert_eq!(unchanged(|| unmount(BOB)), 3, "nobody else's to end");
            let denied = unchanged(|| client.unmount(Unmount::new(&alices).unwrap()).unwrap_err());
            assert_eq!(denied.reason(), Some(DenyReason::TargetNotGranted));
            assert_eq!(unmount(ALICE), 0);
            of_alice += 1;
        } else {
            assert_eq!(listed.len(), there, "all is listed");
        }
        left += listed.len();
        for mount in &listed {
            client.unmount(mount).unwrap();
        }
        assert_eq!(whole(&sandbox.path("mnt")), 0);
        daemon.kill_all();
    }
    println!("{left} mounts were left by 20 kills, and {of_alice} of another user");
    assert!(left > 0, "no kill hit a moment with a mount");
    Ok(())
}

/// A restart is when a changed policy counts: for a new grant, and for a mount
/// whose grant is gone, which then is nobody's but root's.
pub(crate) fn a_new_policy_takes_effect(sandbox: &Sandbox) -> Result<(), Skip> {
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let only_beneath = |name: &str| POLICY.replace("@DIR@/mnt", &format!("@DIR@/mnt/{name}"));
    let at = |path: &Path| Tmpfs::new(path.join("x")).unwrap();
    for path in [&a, &b] {
        fs::create_dir(path.join("x")).unwrap();
    }
    let refused_at = |client: &mut Client, path: &Path| {
        let mount = unchanged(|| client.mount(at(path)).unwrap_err());
        let unmount = unchanged(|| {
            client
                .unmount(Unmount::new(path.join("x")).unwrap())
                .unwrap_err()
        });
        for error in [mount, unmount] {
            assert_eq!(
                error.reason(),
                Some(DenyReason::TargetNotGranted),
                "{error}"
            );
        }
    };
    sandbox.policy(&only_beneath("a"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client.mount(at(&a)).unwrap();
    refused_at(&mut client, &b);
    // Not before the restart.
    sandbox.policy(&only_beneath("b"));
    client.mount(at(&a)).unwrap();
    refused_at(&mut client, &b);
    daemon.stop();

    let daemon = unchanged(|| Daemon::start(sandbox));
    let mut client = daemon.client();
    assert_eq!(
        client.list().unwrap(),
        [],
        "what no grant covers is nobody's"
    );
    refused_at(&mut client, &a);
    let other = client.mount(at(&b)).unwrap();
    assert_eq!(client.list().unwrap(), [other.mount]);
    daemon.stop();

    // With its grant the mount comes back to its owner.
    sandbox.policy(&only_beneath("a"));
    let daemon = unchanged(|| Daemon::start(sandbox));
    daemon.client().unmount(&made).unwrap();
    Ok(())
}

/// With a bad policy nobody serves. The socket is the service manager's, so that
/// clients wait, and are served when the policy is mended.
pub(crate) fn a_bad_policy_leaves_clients_waiting(sandbox: &Sandbox) -> Result<(), Skip> {
    let kept = Kept::new(sandbox);
    kept.start().stop();
    sandbox.policy("version = 1\nnonsense = 3\n");
    thread::scope(|scope| {
        let client =
            scope.spawn(|| Client::connect_to(&kept.path).and_then(|mut client| client.list()));
        for _ in 0..3 {
            let error = refused(sandbox, &START, kept.command());
            assert!(
                error.contains("policy.toml:2:1: ") && error.contains("nonsense"),
                "{error}"
            );
        }
        assert!(!client.is_finished(), "it waits");
        sandbox.policy(POLICY);
        let daemon = kept.start();
        assert_eq!(client.join().unwrap().unwrap(), Vec::<MountInfo>::new());
        drop(daemon);
    });
    Ok(())
}
