//! Mounts that are handed over, and the process that locks their flags.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use mountwarden_client::{Client, DenyReason, Detach, ErrorKind, Explanation, MountAttributes};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::between::wait_for_state;
use super::confinement::only;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::hostile::others_are_served;
use crate::kernel::{self, is_alive, named, unchanged};
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox};
use crate::{Skip, roles};

/// The usual policy, in which the grant hands over what it binds.
pub(super) fn granted(sandbox: &Sandbox, more: &str) {
    let more = format!("detached = true\n{more}\ntarget = ");
    sandbox.policy(&POLICY.replace("target = ", &more));
}

/// A command as a user without a right of their own.
fn unprivileged(sandbox: &Sandbox, mut command: Command) -> Command {
    if sandbox.is_root {
        command.uid(ALICE).gid(ALICE);
    }
    command
}

/// Who was handed a mount.
pub(super) struct Holder {
    process: Child,
    output: BufReader<ChildStdout>,
    /// What came of each of its attempts.
    attempts: BTreeMap<String, String>,
}

impl Holder {
    /// Has `source` handed over, asked for so, and attaches it in its own namespace.
    pub(super) fn of(sandbox: &Sandbox, daemon: &Daemon, source: &str, asked: &[&str]) -> Self {
        let mut command = unprivileged(sandbox, roles::command(sandbox, "holder"));
        let places = if sandbox.path(source).is_dir() {
            ["mnt/a", "mnt/b"]
        } else {
            ["mnt/file", "mnt/other"]
        };
        fs::write(sandbox.path("mnt/other"), "covered").unwrap();
        command.arg(&daemon.socket).arg(sandbox.path(source));
        command
            .args(places.map(|place| sandbox.path(place)))
            .args(asked);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut holder = Self {
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            attempts: BTreeMap::new(),
        };
        while holder.hear() != "held" {}
        holder
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it failed");
        if let Some((attempt, came)) = line.trim_end().split_once(": ") {
            self.attempts.insert(attempt.to_owned(), came.to_owned());
        }
        line.trim_end().to_owned()
    }

    /// What came of an attempt: "done", or the name of an errno.
    pub(super) fn tried(&self, attempt: &str) -> &str {
        self.attempts.get(attempt).expect(attempt)
    }

    /// Whether it sees a file on its mount that has come there since.
    pub(super) fn sees_later(mut self) -> bool {
        self.process.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.hear();
        assert!(self.process.wait().unwrap().success());
        self.tried("seen later") == "done"
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A source that anybody may write to, but for the mount.
pub(super) fn open_source(sandbox: &Sandbox) {
    for name in ["src/data/sub", "src/data/later", "src/data/beneath"] {
        sandbox.make_dir(name);
    }
    fs::set_permissions(
        sandbox.path("src/data/file"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
}

pub(crate) fn a_directory_and_a_file(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    let daemon = Daemon::start(sandbox);
    unchanged(|| {
        let holder = Holder::of(sandbox, &daemon, "src/data", &[]);
        // Nobody asked for a read-only one.
        assert_eq!(holder.tried("write"), "done");
        assert_eq!(holder.tried("flags"), "nosuid,nodev");
        assert_eq!(holder.tried("mount on it"), "done");
        let line = daemon.last_audit();
        assert_eq!(line["event"], "detach-bind", "{line}");
        assert_eq!(line["result"], "detached", "{line}");
        assert_eq!(line["id"].to_string(), holder.tried("id"), "{line}");
        assert_eq!(line["flags"], "nosuid,nodev", "{line}");
        let file = Holder::of(sandbox, &daemon, "src/data/file", &["ro"]);
        assert_eq!(file.tried("write"), "EROFS");
    });
    let source = sandbox.path("src/data/file");
    assert_eq!(fs::read_to_string(source).unwrap(), "written");
    let counters = daemon.client().status().unwrap().counters;
    assert_eq!((counters.detached, counters.mounted), (2, 0));
    Ok(())
}

/// A shell in namespaces of its own mounts by the command, and the directory is there.
pub(crate) fn the_command_attaches_it(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    let daemon = Daemon::start(sandbox);
    let run = |script: &str| {
        let mut shell = unprivileged(sandbox, roles::command(sandbox, "alone"));
        shell.args(["/bin/sh", "-c", script]);
        shell
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", sandbox.path("bin").display()),
            )
            .env("MOUNTWARDEN_SOCKET", &daemon.socket)
            .env("MW", sandbox.path("bin/mountwarden"))
            .env("SRC", sandbox.path("src/data"))
            .env("MNT", sandbox.path("mnt/a"));
        outcome(&mut shell)
    };
    let (status, out, err) = unchanged(|| {
        run(
            "\"$MW\" attach \"$SRC\" \"$MNT\" --read-only --noexec && cat \"$MNT/file\" && \
             echo more > \"$MNT/file\"",
        )
    });
    assert!(out.starts_with("Attached at "), "{out}{err}");
    assert!(out.contains("(ro,nosuid,nodev,noexec, id "), "{out}");
    assert!(out.ends_with("data"), "{out}");
    assert!(err.contains("Read-only file system"), "{err}");
    assert_ne!(status, 0);
    let (status, out, _) = run("\"$MW\" --json attach \"$SRC\" \"$MNT\"");
    assert_eq!(status, 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["result"], "attached", "{json}");
    assert_eq!(json["flags"], serde_json::json!(["nosuid", "nodev"]));
    // Not in the namespace that everybody else is in.
    let mut here = unprivileged(sandbox, daemon.cli());
    here.arg("attach").arg(sandbox.path("src/data"));
    let (status, _, err) = unchanged(|| outcome(here.arg(sandbox.path("mnt/a"))));
    assert_eq!(status, 1, "{err}");
    assert!(
        err.contains("a user and a mount namespace of one's own"),
        "{err}"
    );
    Ok(())
}

/// Each beside what is nearest to it and allowed.
pub(crate) fn refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let policy = fs::read_to_string(sandbox.path("policy.toml")).unwrap();
    sandbox.policy(&policy.replace("recursive = true", ""));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let data = || Detach::new(sandbox.path("src/data")).unwrap();
    let outside = Detach::new(sandbox.path("mnt")).unwrap();
    for (detach, reason) in [
        (outside, DenyReason::SourceNotGranted),
        (data().recursive(), DenyReason::RecursiveNotGranted),
        (data().suid(), DenyReason::SuidNotGranted),
        (data().dev(), DenyReason::DevNotGranted),
    ] {
        let explained = client.explain(detach.clone()).unwrap();
        let Explanation::Denied(why) = explained else {
            panic!("{explained:?}")
        };
        let error = unchanged(|| client.detach(detach)).unwrap_err();
        assert_eq!(error.reply(), Some(&why));
        assert_eq!(error.reason(), Some(reason), "{error}");
        let line = daemon.last_audit();
        assert_eq!(line["reason"], reason.name(), "{line}");
        assert_eq!(line["event"], "detach-bind", "{line}");
    }
    let explained = client.explain(data().read_only()).unwrap();
    let flags = MountAttributes::READ_ONLY | MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    assert!(
        matches!(&explained, Explanation::Allowed { attributes, .. } if *attributes == flags),
        "{explained:?}"
    );
    let made = client.detach(data().read_only()).unwrap();
    assert_eq!(made.detached.attributes, flags);
    Ok(())
}

/// What may stand for a source, and whose it must be.
pub(crate) fn sources(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let policy = fs::read_to_string(sandbox.path("policy.toml")).unwrap();
    let owned = policy.replace("recursive = true", "source_owner = \"peer\"");
    sandbox.policy(&owned);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let fifo = sandbox.path("src/fifo");
    mkfifo(&fifo, Mode::from_bits_retain(0o644)).unwrap();
    std::os::unix::fs::symlink("data", sandbox.path("src/link")).unwrap();
    for (name, kind) in [
        ("fifo", ErrorKind::WrongType),
        ("link", ErrorKind::WrongType),
        ("nothing", ErrorKind::NotFound),
        ("data/file/beneath", ErrorKind::WrongType),
    ] {
        let detach = Detach::new(sandbox.path("src").join(name)).unwrap();
        let error = unchanged(|| client.detach(detach)).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
    client
        .detach(Detach::new(sandbox.path("src/data")).unwrap())
        .unwrap();
    sandbox.needs_root()?;
    chown(sandbox.path("src/other"), Some(BOB), None).unwrap();
    let others = Detach::new(sandbox.path("src/other")).unwrap();
    let error = unchanged(|| client.detach(others)).unwrap_err();
    assert_eq!(error.reason(), Some(DenyReason::SourceNotOwned), "{error}");
    Ok(())
}

/// Who has no such grant gets none, and their mounters have no way to the locker.
pub(crate) fn only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let theirs = "\n[[grant]]\nname = \"theirs\"\nusers = [4001]\ndetached = true\n\
                  target = [\"@DIR@/theirs\"]\n  [grant.bind]\n  source = [\"@DIR@/src\"]\n";
    sandbox.policy(&format!("{POLICY}{theirs}"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    let error = unchanged(|| client.detach(detach)).unwrap_err();
    let reason = error.reason();
    assert_eq!(reason, Some(DenyReason::DetachedNotGranted), "{error}");
    assert!(error.to_string().contains("`detached = true`"), "{error}");
    let mounter = only(&daemon, "mw-mounter");
    let held = crate::hostile::descriptors(mounter)?;
    for number in [11, 13, 14, 15] {
        assert!(!held.contains_key(&number), "{number}");
    }
    sandbox.needs_root()?;
    let holder = Holder::of(sandbox, &daemon, "src/data", &["ro"]);
    assert_eq!(holder.tried("flags"), "ro,nosuid,nodev");
    Ok(())
}

/// A copy keeps the attributes of the mount that its source lies on, and the reply has
/// them all.
pub(crate) fn flags_are_the_kernels(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = [\"noexec\"]");
    open_source(sandbox);
    let source = sandbox.path("src");
    super::mounting::share(&source);
    let seal = fs::File::open(&source).unwrap();
    let read_only = kernel::RDONLY | kernel::NODEV;
    mountwarden_helper::raw::restrict(std::os::fd::AsFd::as_fd(&seal), read_only, 0, false)
        .unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client
        .detach(Detach::new(sandbox.path("src/data")).unwrap().suid())
        .unwrap();
    let kernels = rustix::fs::fstatvfs(&made.mount).unwrap().f_flag.bits();
    // `ST_RDONLY`, `ST_NOSUID`, `ST_NODEV`, `ST_NOEXEC` (`fstatvfs(3)`).
    assert_eq!(kernels & 0b1111, 0b1101, "ro, nodev, noexec");
    assert_eq!(
        made.detached.attributes.names().join(","),
        "ro,nodev,noexec"
    );
    Ok(())
}

pub(crate) fn the_locker_is_reported(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let status = daemon.client().status().unwrap();
    let last = status.roles.last().unwrap();
    assert_eq!(last.role.to_string(), "locker");
    assert_eq!(last.capabilities, 1 << 21);
    assert!(last.system_calls > 0);
    assert_eq!(named(daemon.pid(), "mw-locker").len(), 1);
    let daemon_pid = daemon.pid();
    assert!(daemon.stop().success());
    wait_for("the locker ends", || {
        named(daemon_pid, "mw-locker").is_empty().then_some(())
    });
    Ok(())
}

/// Where nobody is granted it there is none, and none of its calls is needed.
pub(crate) fn without_a_locker(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    assert_eq!(named(daemon.pid(), "mw-locker"), []);
    let roles = daemon.client().status().unwrap().roles;
    assert_eq!(roles.len(), 4, "{roles:?}");
    Ok(())
}

fn detach(sandbox: &Sandbox, client: &mut Client) -> Result<(), mountwarden_client::Error> {
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    client.detach(detach).map(drop)
}

/// Whoever waits for it is ended by the deadline; all else goes on.
pub(crate) fn a_locker_that_does_not_answer(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let policy = fs::read_to_string(sandbox.path("policy.toml")).unwrap();
    sandbox.policy(&format!(
        "{policy}\n[limits]\nrequest_timeout = \"@SECOND@\"\n"
    ));
    let daemon = Daemon::start(sandbox);
    let locker = only(&daemon, "mw-locker");
    kill(locker, Signal::SIGSTOP).unwrap();
    wait_for_state(locker, 'T');
    let error = unchanged(|| detach(sandbox, &mut daemon.client())).unwrap_err();
    others_are_served(&daemon);
    kill(locker, Signal::SIGCONT).unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    wait_for("it answers again", || {
        detach(sandbox, &mut daemon.client()).ok()
    });
    Ok(())
}

/// Like the gate it is there from the start, and nothing can make another one.
pub(crate) fn attack_30_a_killed_locker(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let mut daemon = Daemon::start(sandbox);
    let others = kernel::descendants(daemon.pid());
    unchanged(|| {
        kill(only(&daemon, "mw-locker"), Signal::SIGKILL).unwrap();
        assert_eq!(daemon.end().code(), Some(1));
    });
    let log = daemon.log();
    assert!(
        log.contains("the locker ended: it was killed by SIGKILL"),
        "{log}"
    );
    wait_for("all end", || {
        (!others.iter().any(|&pid| is_alive(pid))).then_some(())
    });
    Ok(())
}

/// A child that is killed has handed nothing over, and the next one does.
pub(crate) fn attack_30_the_child_is_killed(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let locker = only(&daemon, "mw-locker");
    let mut killed = 0;
    while killed < 20 {
        let mut client = daemon.client();
        let asked = thread::scope(|scope| {
            let asked = scope.spawn(|| unchanged(|| detach(sandbox, &mut client)));
            while !asked.is_finished() {
                kill_children(locker);
            }
            asked.join().unwrap()
        });
        if let Err(error) = asked {
            assert_eq!(error.errno(), Some(libc::EINTR), "{error}");
            killed += 1;
        }
    }
    detach(sandbox, &mut daemon.client()).unwrap();
    Ok(())
}

fn kill_children(of: Pid) {
    let path = format!("/proc/{of}/task/{of}/children");
    let children = fs::read_to_string(Path::new(&path)).unwrap_or_default();
    for child in children.split_whitespace() {
        let child = Pid::from_raw(child.parse().unwrap());
        // One that has just ended is a zombie until the locker has reaped it, or gone.
        let _ = kill(child, Signal::SIGKILL);
    }
}
