//! Attack 34: what the machine gives has run out, and comes back.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use mountwarden_client::protocol::{Request, frame};
use mountwarden_client::{Client, ErrorKind, Tmpfs};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;

use super::confinement::only;
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;
use crate::{Skip, slowly};

/// Sets a soft limit of a process (`prlimit(1)`), as the user who that is: even
/// root may not have the capability that others need.
fn limit(pid: Pid, what: &str) -> Result<(), Skip> {
    let id = |name| {
        let ids = kernel::status_field(pid, name).unwrap();
        ids.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), what]);
    command.uid(id("Uid")).gid(id("Gid"));
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => Err(Skip(format!("prlimit cannot be run: {error}"))),
    }
}

/// The lowest descriptor numbers that a process does not use.
fn free_descriptors(pid: Pid) -> Result<impl Iterator<Item = usize>, Skip> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(path)
        .map_err(|error| Skip(format!("the gate's descriptors cannot be seen: {error}")))?;
    let used: Vec<usize> = entries
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    Ok((0..).filter(move |number| !used.contains(number)))
}

/// The helper goes on, and serves who was there and who comes.
fn recovered(sandbox: &Sandbox, daemon: &mut Daemon, client: &mut Client) {
    assert!(daemon.runs());
    client.list().unwrap();
    let mut new = wait_for("a new connection is served", || {
        Client::connect_to(&daemon.socket).ok()
    });
    let made = new
        .mount(Tmpfs::new(sandbox.path("mnt/b")).unwrap())
        .unwrap();
    new.unmount(&made).unwrap();
}

pub(crate) fn attack_34_the_gate_has_no_descriptor(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut daemon = Daemon::start(sandbox);
    let gate = only(&daemon, "mw-gate");
    let mut client = daemon.client();
    let mut free = free_descriptors(gate)?;
    let first = free.next().unwrap();
    // One is left: the connection is taken, and has no order channel.
    limit(gate, &format!("--nofile={}:", first + 1))?;
    let error = Client::connect_to(&daemon.socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("descriptor"), "{error}");
    client.list().unwrap();
    // None is left: the connection waits in the backlog, and who is there does not.
    limit(gate, &format!("--nofile={first}:"))?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| Client::connect_to(&daemon.socket));
        let before = switches(gate);
        wait_for("the gate has tried more than once", || {
            client.list().unwrap();
            (switches(gate) > before + 3).then_some(())
        });
        assert!(!waiting.is_finished(), "it was not served");
        limit(gate, "--nofile=1088:").map(|()| waiting.join().unwrap().unwrap())
    })?;
    recovered(sandbox, &mut daemon, &mut client);
    Ok(())
}

/// How often a process went to sleep.
fn switches(pid: Pid) -> u64 {
    let count = kernel::status_field(pid, "voluntary_ctxt_switches").unwrap();
    count.parse().unwrap()
}

pub(crate) fn attack_34_no_process_left(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let mut parents = vec![only(&daemon, "mw-gate")];
    if !sandbox.is_root {
        // The kernel holds no one to this limit who has CAP_SYS_ADMIN outside of
        // user namespaces (`RLIMIT_NPROC` in `getrlimit(2)`).
        parents.push(daemon.pid());
    }
    let most = match getrlimit(Resource::RLIMIT_NPROC).unwrap() {
        (_, RLIM_INFINITY) => "unlimited".to_owned(),
        (_, hard) => hard.to_string(),
    };
    for parent in parents {
        limit(parent, "--nproc=1:")?;
        let error = Client::connect_to(&daemon.socket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("no room"), "{error}");
        client.list().unwrap();
        limit(parent, &format!("--nproc={most}:"))?;
        recovered(sandbox, &mut daemon, &mut client);
    }
    Ok(())
}

pub(crate) fn attack_34_no_memory_left(sandbox: &Sandbox) -> Result<(), Skip> {
    if kernel::needs_unique_ids().is_err() {
        return Err(Skip(
            "without statmount a session has no list in its own memory".to_owned(),
        ));
    }
    let mut daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let known = only(&daemon, "mw-session");
    let mut poor = Wire::open(&daemon.socket);
    let mut sessions = kernel::named(daemon.pid(), "mw-session");
    sessions.retain(|&pid| pid != known);
    // Its heap may not grow by a page; a long list does not fit into it.
    limit(sessions[0], "--data=1:")?;
    for number in 0..300 {
        mount_tmpfs(&sandbox.make_dir(&format!("mnt/{number:0100}")));
    }
    frame::write(&mut poor.0, &Request::List { after: None }).unwrap();
    assert!(poor.is_closed(), "its connection ends");
    wait_for("the gate reports it", || {
        let log = daemon.log();
        // libc then tries `mmap`, which no role may call.
        log.contains("killed by SIGSYS").then_some(())
    });
    recovered(sandbox, &mut daemon, &mut client);
    Ok(())
}

/// A copy of all mounts beneath `from` at `to`, if the kernel has room for it.
fn copy(from: &Path, to: &Path) -> Result<(), Errno> {
    let all = MsFlags::MS_BIND | MsFlags::MS_REC;
    fs::create_dir(to).unwrap();
    mount(Some(from), to, None::<&str>, all, None::<&str>)
}

pub(crate) fn attack_34_no_mount_left(sandbox: &Sandbox) -> Result<(), Skip> {
    let most: u32 = fs::read_to_string("/proc/sys/fs/mount-max")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if most > 200_000 {
        return Err(Skip(format!("fs.mount-max is {most}, too many to make")));
    }
    let crowd = sandbox.make_dir("crowd");
    mount_tmpfs(&crowd);
    // Without statmount, each question reads all of the table.
    let seconds = slowly(Duration::from_secs(30)).as_secs();
    let limits = format!("[limits]\nrequest_timeout = \"{seconds}s\"\n[[grant]]");
    sandbox.policy(&POLICY.replacen("[[grant]]", &limits, 1));
    let mut daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    // Each copy has all before it: 1, 2, 4, 8 mounts, until one does not fit. Then
    // smaller ones, until none does.
    let mut copies = Vec::new();
    loop {
        let next = crowd.join(copies.len().to_string());
        match copy(&crowd, &next) {
            Ok(()) => copies.push(next),
            Err(errno) => break assert_eq!(errno, Errno::ENOSPC),
        }
    }
    let fill = sandbox.make_dir("fill");
    mount_tmpfs(&fill);
    for (number, from) in copies.iter().enumerate().rev() {
        let result = copy(from, &fill.join(number.to_string()));
        assert!(matches!(result, Ok(()) | Err(Errno::ENOSPC)), "{result:?}");
    }
    let tmpfs = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let error = unchanged(|| client.mount(tmpfs()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("fs.mount-max"), "{error}");
    assert_eq!(daemon.last_audit()["code"], "limit-reached");
    umount2(&fill, MntFlags::MNT_DETACH).unwrap();
    let made = client.mount(tmpfs()).unwrap();
    assert_eq!(kernel::at(&sandbox.path("mnt/a")).len(), 1);
    client.unmount(&made).unwrap();
    umount2(&crowd, MntFlags::MNT_DETACH).unwrap();
    recovered(sandbox, &mut daemon, &mut client);
    Ok(())
}
