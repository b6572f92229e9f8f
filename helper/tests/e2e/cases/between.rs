//! What changes while a request runs, at a known step of it.
//!
//! Before the mounter looks: it is stopped with a signal, which any process of
//! another user could only wish for. While it attaches: the kernel's own lock of
//! the target is held by a file system that the case serves.

use std::fs::{self, File};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Stdio;

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{
    Bind, DenyReason, ErrorCode, ErrorKind, ErrorReply, Mounted, Outcome, Tmpfs,
};
use nix::libc::SIGTERM;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use serde_json::Value;

use super::confinement::only;
use crate::daemon::{Daemon, START, wait_for, with_ambient};
use crate::fuse::{self, Hold, Server};
use crate::kernel::{self, status_field, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;
use crate::{Skip, roles};

pub(super) fn request(mount: impl Into<mountwarden_client::protocol::Mount>) -> Request {
    Request::Perform(Operation::Mount(mount.into()))
}

/// Whether a process is in a state (`proc_pid_status(5)`). A stopped one that is
/// traced shows `t` for `T`.
pub(super) fn is_in_state(pid: Pid, state: char) -> bool {
    status_field(pid, "State").is_some_and(|text| text.to_ascii_uppercase().starts_with(state))
}

pub(crate) fn wait_for_state(pid: Pid, state: char) {
    wait_for(&format!("{pid} is in state {state}"), || {
        is_in_state(pid, state).then_some(())
    });
}

/// How often a process went to sleep.
pub(super) fn sleeps(pid: Pid) -> u64 {
    let count = status_field(pid, "voluntary_ctxt_switches").unwrap();
    count.parse().unwrap()
}

/// Waits until a process waits for the lock that a [`Hold`] holds: nothing else
/// that it does is a sleep that no signal ends.
pub(super) fn wait_for_lock(pid: Pid) {
    let mut seen = 0;
    wait_for("it waits for the lock", || {
        seen = if is_in_state(pid, 'D') { seen + 1 } else { 0 };
        (seen == 10).then_some(())
    });
}

/// Asks for something, and makes a change after the session opened the paths and
/// before the mounter looks at what it was sent.
pub(super) fn before_the_check(daemon: &Daemon, request: &Request, change: impl FnOnce()) -> Reply {
    before_the_check_of(daemon, request, &[], change)
}

/// As above, for a request that passes descriptors.
pub(super) fn before_the_check_of(
    daemon: &Daemon,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
    change: impl FnOnce(),
) -> Reply {
    let mut wire = Wire::open(&daemon.socket);
    let (session, mounter) = (only(daemon, "mw-session"), only(daemon, "mw-mounter"));
    kill(mounter, Signal::SIGSTOP).unwrap();
    wait_for_state(mounter, 'T');
    wait_for_state(session, 'S');
    let before = sleeps(session);
    wire.send_request(request, descriptors);
    // It sleeps for the client, and then for its mounter's answer.
    wait_for("the session sent its order", || {
        (sleeps(session) > before && is_in_state(session, 'S')).then_some(())
    });
    change();
    kill(mounter, Signal::SIGCONT).unwrap();
    let reply = wire.reply();
    drop(wire);
    wait_for("the connection's processes end", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    reply
}

/// What the mounter said of each attempt.
pub(super) fn attempts(daemon: &Daemon) -> Vec<Value> {
    daemon
        .audit()
        .into_iter()
        .filter(|line| line["by"] == "mounter")
        .collect()
}

/// The mounter's first attempt met a change, and said which.
pub(super) fn first_saw(daemon: &Daemon, what: &str) {
    let attempts = attempts(daemon);
    let first = attempts.first().expect("an attempt");
    assert_eq!(first["code"], "changed", "{attempts:?}");
    let message = first["message"].as_str().unwrap();
    assert!(message.contains(what), "{message}");
}

pub(super) fn error(reply: Reply) -> ErrorReply {
    match reply {
        Reply::Error(error) => error,
        other => panic!("not an error: {other:?}"),
    }
}

pub(super) fn mounted(reply: Reply) -> Mounted {
    match reply {
        Reply::Mounted(mounted) => mounted,
        other => panic!("not mounted: {other:?}"),
    }
}

/// The source leaves the granted tree after it was opened there.
pub(crate) fn attack_03_source_renamed_away(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    sandbox.make_dir("outside");
    let (source, away) = (sandbox.path("src/data"), sandbox.path("outside/data"));
    let bind = request(Bind::new(&source, sandbox.path("mnt/a")).unwrap());
    let reply =
        unchanged(|| before_the_check(&daemon, &bind, || fs::rename(&source, &away).unwrap()));
    first_saw(&daemon, "src/data was renamed or replaced while");
    // Tried again, it is not there.
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    fs::rename(&away, &source).unwrap();
    mounted(before_the_check(&daemon, &bind, || {}));
    Ok(())
}

/// The source's mount leaves the namespace: the path of what was opened reads
/// from another root then, and is not believed.
pub(crate) fn attack_05_source_mount_detached(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let place = sandbox.make_dir("src/mounted");
    mount_tmpfs(&place);
    let bind = |name: &str| {
        let source = sandbox.make_dir(&format!("src/mounted/{name}"));
        request(Bind::new(source, sandbox.path("mnt/a")).unwrap())
    };
    let reply = before_the_check(&daemon, &bind("data"), || {
        umount2(&place, MntFlags::MNT_DETACH).unwrap();
    });
    first_saw(&daemon, "is not in the helper's mount namespace");
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    assert!(kernel::at(&sandbox.path("mnt/a")).is_empty());
    mount_tmpfs(&place);
    mounted(before_the_check(&daemon, &bind("data"), || {}));
    Ok(())
}

/// Removed after it was opened: the target, and then the source.
pub(crate) fn attack_06_removed_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    let target = sandbox.path("mnt/a");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&target).unwrap());
    let reply =
        unchanged(|| before_the_check(&daemon, &tmpfs, || fs::remove_dir(&target).unwrap()));
    first_saw(&daemon, "mnt/a was removed while");
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    drop(daemon);

    fs::remove_file(sandbox.path("log")).unwrap();
    let daemon = Daemon::start(sandbox);
    let source = sandbox.path("src/data/file");
    let bind = request(Bind::new(&source, sandbox.path("mnt/file")).unwrap());
    let reply =
        unchanged(|| before_the_check(&daemon, &bind, || fs::remove_file(&source).unwrap()));
    first_saw(&daemon, "src/data/file was removed while");
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    Ok(())
}

/// Another target stands at the path by the time that the mounter looks: the
/// session opens that one, and the client hears nothing of it.
pub(crate) fn a_changed_target_is_tried_again(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let (target, aside) = (sandbox.path("mnt/a"), sandbox.path("mnt/aside"));
    let tmpfs = request(Tmpfs::new(&target).unwrap());
    let reply = before_the_check(&daemon, &tmpfs, || {
        fs::rename(&target, &aside).unwrap();
        sandbox.make_dir("mnt/a");
    });
    first_saw(&daemon, "mnt/a was renamed or replaced while");
    let made = mounted(reply);
    assert_eq!(made.outcome, Outcome::Mounted);
    assert_eq!(attempts(&daemon).len(), 2);
    assert_eq!(kernel::at(&target).len(), 1);
    assert!(kernel::at(&aside).is_empty());
    Ok(())
}

/// Somebody mounts at the target after it was opened: never a second mount on top.
pub(crate) fn attack_12_mounted_over_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let tmpfs = request(Tmpfs::new(&target).unwrap());
    let reply = before_the_check(&daemon, &tmpfs, || mount_tmpfs(&target));
    first_saw(&daemon, "what is mounted at");
    let busy = error(reply);
    assert_eq!(busy.code, ErrorCode::Busy, "{busy:?}");
    let listed = daemon.client().list().unwrap();
    assert_eq!(busy.mount, Some(listed[0].id));
    assert_eq!(kernel::at(&target).len(), 1);
    Ok(())
}

/// The mount that was asked for is there, and then another on top of it: what the
/// name leads to is no longer the mount that was asked for.
pub(crate) fn attack_12_stacked_over_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let tmpfs = request(Tmpfs::new(&target).unwrap());
    let below = mounted(before_the_check(&daemon, &tmpfs, || {}));
    let again = mounted(before_the_check(&daemon, &tmpfs, || {}));
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    let reply = before_the_check(&daemon, &tmpfs, || mount_tmpfs(&target));
    let attempts = attempts(&daemon);
    assert_eq!(attempts[2]["code"], "changed", "{attempts:?}");
    let busy = error(reply);
    assert_eq!(busy.code, ErrorCode::Busy, "{busy:?}");
    assert!(busy.mount.is_some() && busy.mount != Some(below.mount.id));
    assert_eq!(kernel::at(&target).len(), 2);
    Ok(())
}

/// A request for a mount at `leaf`, which waits in the kernel to be attached.
pub(super) fn while_attaching(
    daemon: &Daemon,
    server: &Server,
    mut wire: Wire,
    request: &Request,
    change: impl FnOnce(&Hold<'_>),
) -> Reply {
    let mounter = only(daemon, "mw-mounter");
    server.hold(|hold| {
        wire.send_body(&crate::wire::body(request));
        wait_for_lock(mounter);
        change(hold);
        hold.let_go();
        wire.reply()
    })
}

/// A directory above the target leaves the granted tree while the mount is being
/// attached: seen afterwards, and taken back.
pub(crate) fn attack_03_target_renamed_while_attaching(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.make_dir("outside");
    let server = Server::start(&sandbox.make_dir("mnt/inner/held"))?;
    let (inside, outside) = (sandbox.path("mnt/inner"), sandbox.path("outside/inner"));
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(inside.join("held/leaf")).unwrap());
    let before = kernel::table().len();
    let wire = Wire::open(&daemon.socket);
    let reply = while_attaching(&daemon, &server, wire, &tmpfs, |_| {
        fs::rename(&inside, &outside).unwrap();
    });
    first_saw(&daemon, "or a directory above it, was renamed");
    assert_eq!(error(reply).code, ErrorCode::NotFound);
    assert_eq!(kernel::table().len(), before, "nothing is left anywhere");
    fs::rename(&outside, &inside).unwrap();
    let made = mounted(Wire::open(&daemon.socket).ask(&tmpfs));
    assert_eq!(made.mount.target.as_path(), inside.join("held/leaf"));
    Ok(())
}

/// A mounter that is killed while it waits to attach does attach: nothing ends that wait. What it
/// leased ends all the same, because the warden held it before.
pub(crate) fn attack_30_killed_while_attaching_a_lease(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap().leased());
    let mut wire = Wire::open(&daemon.socket);
    let mounter = only(&daemon, "mw-mounter");
    server.hold(|hold| {
        wire.send_body(&crate::wire::body(&tmpfs));
        wait_for_lock(mounter);
        kill(mounter, Signal::SIGKILL).unwrap();
        assert!(kernel::is_alive(mounter), "it waits still");
        hold.let_go();
    });
    wait_for("the lease's end", || {
        let ended = daemon.audit().pop()?;
        (ended["event"] == "lease-end" && ended["result"] == "unmounted").then_some(())
    });
    assert!(kernel::at(&leaf).is_empty());
    Ok(())
}

/// Sends a request to mount at `leaf`, which the server holds, and has somebody else's mount get
/// there first, by a moment.
pub(super) fn overtaken(
    daemon: &Daemon,
    server: &Server,
    leaf: &Path,
    wire: &mut Wire,
    send: impl FnOnce(&mut Wire),
) -> Reply {
    let mounter = only(daemon, "mw-mounter");
    let reply = server.hold(|hold| {
        std::thread::scope(|scope| {
            let (say, hear) = std::sync::mpsc::channel();
            let first = scope.spawn(move || {
                say.send(gettid()).unwrap();
                mount_tmpfs(leaf);
            });
            wait_for_lock(hear.recv().unwrap());
            send(wire);
            wait_for_lock(mounter);
            hold.let_go();
            first.join().unwrap();
            wire.reply()
        })
    });
    first_saw(daemon, "another mount was placed at");
    reply
}

/// Somebody else's mount gets there first, by a moment.
pub(crate) fn attack_12_mounted_over_while_attaching(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap());
    let mut wire = Wire::open(&daemon.socket);
    let reply = overtaken(&daemon, &server, &leaf, &mut wire, |wire| {
        wire.send_body(&crate::wire::body(&tmpfs));
    });
    let busy = error(reply);
    assert_eq!(busy.code, ErrorCode::Busy, "{busy:?}");
    let line = kernel::only(&leaf);
    assert_eq!(line.super_options.split(',').next(), Some("rw"));
    assert!(!line.options.contains("nosuid"), "the other's: {line:?}");
    Ok(())
}

/// The mount at whose place it is attached becomes shared in that moment, and a
/// namespace shares it: nothing stays there either.
pub(crate) fn attack_11_shared_while_attaching(sandbox: &Sandbox) -> Result<(), Skip> {
    let root = sandbox.make_dir("mnt/held");
    let server = Server::start(&root)?;
    let leaf = root.join("leaf");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap());
    let propagate = |flags: MsFlags| {
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
    };
    let mut other = None;
    let wire = Wire::open(&daemon.socket);
    let reply = while_attaching(&daemon, &server, wire, &tmpfs, |_| {
        propagate(MsFlags::MS_SHARED);
        other = Some(namespace(sandbox, &leaf));
    });
    let denied = error(reply);
    assert_eq!(denied.reason, Some(DenyReason::SharedTarget), "{denied:?}");
    assert!(kernel::at(&leaf).is_empty());
    let mut other = other.unwrap();
    drop(other.stdin.take());
    let count = roles::read_line(other.stdout.as_mut().unwrap());
    other.wait().unwrap();
    assert_eq!(count, "0", "taken back there too");

    // Shared before: refused before anything is attached, so nothing waits.
    wait_for("the connection's processes end", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    let server = {
        drop(server);
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        Server::start(&root)?
    };
    propagate(MsFlags::MS_SHARED);
    let mut wire = Wire::open(&daemon.socket);
    let denied = server.hold(|_| error(wire.ask(&tmpfs)));
    assert_eq!(denied.reason, Some(DenyReason::SharedTarget), "{denied:?}");
    drop(wire);
    propagate(MsFlags::MS_PRIVATE);
    mounted(Wire::open(&daemon.socket).ask(&tmpfs));
    Ok(())
}

/// Another mount namespace, a copy of this one.
fn namespace(sandbox: &Sandbox, place: &Path) -> std::process::Child {
    let mut other = roles::command(sandbox, "namespace");
    other
        .arg(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut other = with_ambient(sandbox, &START, || other.spawn().unwrap());
    assert_eq!(roles::read_line(other.stdout.as_mut().unwrap()), "ready");
    other
}

/// A stop of the helper never cuts a mount in two: the request that runs is
/// finished and answered first.
pub(crate) fn attack_30_a_stop_waits_for_the_request(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let mut daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap());
    let wire = Wire::open(&daemon.socket);
    let mounter = only(&daemon, "mw-mounter");
    let pid = daemon.pid();
    let reply = while_attaching(&daemon, &server, wire, &tmpfs, |_| {
        kill(pid, Signal::SIGTERM).unwrap();
        wait_for("the mounter was told", || {
            let pending = status_field(mounter, "ShdPnd")?;
            let bits = u64::from_str_radix(&pending, 16).unwrap();
            (bits & (1 << (SIGTERM - 1)) != 0).then_some(())
        });
    });
    let made = mounted(reply);
    wait_for("the helper ends", || (!daemon.runs()).then_some(()));
    assert!(daemon.log().contains("stopped; mounts stay"));
    assert_eq!(attempts(&daemon)[0]["result"], "mounted");
    let status = kernel::statmount(made.mount.id);
    assert_eq!(status.point, leaf.as_os_str().as_encoded_bytes());
    Ok(())
}

/// Orders that many mounters have not taken yet: the kernel counts descriptors
/// that are on their way for all processes of a user (`unix(7)`, ETOOMANYREFS).
pub(crate) fn attack_34_many_orders_at_once(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut waiting = Vec::new();
    for number in 0..12 {
        let target = sandbox.make_dir(&format!("mnt/{number}"));
        let known = kernel::named(daemon.pid(), "mw-mounter");
        let mut wire = Wire::open(&daemon.socket);
        let mounters = kernel::named(daemon.pid(), "mw-mounter");
        let mounter = mounters.into_iter().find(|pid| !known.contains(pid));
        let mounter = mounter.expect("its mounter");
        kill(mounter, Signal::SIGSTOP).unwrap();
        wait_for_state(mounter, 'T');
        let bind = Bind::new(sandbox.path("src/data"), target).unwrap();
        wire.send_body(&crate::wire::body(&request(bind)));
        waiting.push((wire, mounter));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    for (_, mounter) in &waiting {
        kill(*mounter, Signal::SIGCONT).unwrap();
    }
    for (wire, _) in &mut waiting {
        mounted(wire.reply());
    }
    Ok(())
}

/// As above, but the request's time is over before the mount is attached: what
/// is attached is looked at all the same.
pub(crate) fn attack_03_target_renamed_until_the_deadline(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nrequest_timeout = \"@SECOND@\"\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    sandbox.make_dir("outside");
    let server = Server::start(&sandbox.make_dir("mnt/inner/held"))?;
    let (inside, outside) = (sandbox.path("mnt/inner"), sandbox.path("outside/inner"));
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(inside.join("held/leaf")).unwrap());
    let before = kernel::table().len();
    let mut wire = Wire::open(&daemon.socket);
    let mounter = only(&daemon, "mw-mounter");
    server.hold(|hold| {
        wire.send_body(&crate::wire::body(&tmpfs));
        wait_for_lock(mounter);
        fs::rename(&inside, &outside).unwrap();
        wire.error(ErrorCode::TimedOut);
        std::thread::sleep(std::time::Duration::from_millis(500));
        hold.let_go();
    });
    wait_for("the connection's processes end", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    assert_eq!(kernel::table().len(), before, "nothing is left anywhere");
    Ok(())
}

/// A file system that hides even its root from the helper's user: its mount is
/// found, compared and ended all the same.
pub(crate) fn attack_31_a_private_file_system(sandbox: &Sandbox) -> Result<(), Skip> {
    let device: File = fuse::device()?;
    let target = sandbox.path("mnt/a");
    fuse::attach(&device, &target, false)?;
    sandbox.policy(&POLICY.replacen(
        "[[grant]]",
        "[limits]\nrequest_timeout = \"5s\"\n[[grant]]",
        1,
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(Tmpfs::new(&target).unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let bind = Bind::new(sandbox.path("src/data"), &target).unwrap();
    let error = unchanged(|| client.mount(bind).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let listed = client.list().unwrap();
    assert_eq!(error.mount(), Some(listed[0].id));
    client
        .unmount(mountwarden_client::Unmount::new(&target).unwrap())
        .unwrap();
    assert!(kernel::at(&target).is_empty());
    Ok(())
}
