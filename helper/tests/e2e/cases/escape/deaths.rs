//! How the death of a role is reported, and what goes on after it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::unistd::{Pid, geteuid};

use super::{Role, Scene};
use crate::Skip;
use crate::daemon::wait_for;
use crate::kernel::{descendants, is_alive, unchanged};
use crate::puppet::Puppet;
use crate::sandbox::Sandbox;

/// What the owner of a process makes it do.
type Blow = fn(Puppet, &Scene<'_>);

/// Lets it make a socket, which no filter allows.
fn forbidden_call(puppet: Puppet, _: &Scene<'_>) {
    puppet.leap(libc::SYS_socket, &[1, 1, 0]);
}

const PANIC: &str = "panicked at attack:7:9:\nindex out of bounds: the len is 3 but the index is 8";

/// Lets it run into a panicking function of its own, with this file, line and column
/// as the place (`core::panic::Location`).
fn panic(mut puppet: Puppet, scene: &Scene<'_>) {
    let function = scene.symbols().address("9panicking18panic_bounds_check");
    let base = puppet.base(&scene.sandbox.helper());
    let file = puppet.text("attack");
    let location = puppet.words(&[file, 6, 9 << 32 | 7]);
    puppet.jump(base + function, [8, 3, location]);
}

pub(super) fn attack_28_a_forbidden_call_is_reported(
    sandbox: &Sandbox,
    role: Role,
) -> Result<(), Skip> {
    die(sandbox, role, forbidden_call, Signal::SIGSYS);
    Ok(())
}

pub(super) fn by_a_panic(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    let (pid, scene) = die(sandbox, role, panic, Signal::SIGABRT);
    let lines = scene.daemon.about_itself();
    let own: Vec<_> = lines
        .iter()
        .filter(|line| line["pid"] == pid.as_raw())
        .filter(|line| line["message"] == PANIC)
        .collect();
    assert_eq!(own.len(), 1, "{lines:?}");
    assert_eq!(own[0]["role"], role.name());
    assert!(own[0]["time_ms"].as_u64().is_some_and(|time| time > 0));
    Ok(())
}

fn die(sandbox: &Sandbox, role: Role, blow: Blow, signal: Signal) -> (Pid, Scene<'_>) {
    let mut scene = Scene::start(sandbox);
    let pid = unchanged(|| match role {
        Role::Session | Role::Mounter => a_connection_ends(&mut scene, role, blow),
        Role::Gate | Role::Warden | Role::Locker | Role::Bystander => {
            the_helper_ends(&mut scene, role, blow, signal)
        }
    });
    reported(&scene, role, pid, signal);
    (pid, scene)
}

fn a_connection_ends(scene: &mut Scene<'_>, role: Role, blow: Blow) -> Pid {
    let (mut wire, session, mounter) = scene.connect();
    let pid = if role == Role::Session {
        session
    } else {
        mounter
    };
    blow(Puppet::seize(pid), scene);
    assert!(wire.is_closed());
    scene.others_are_served();
    pid
}

fn the_helper_ends(scene: &mut Scene<'_>, role: Role, blow: Blow, signal: Signal) -> Pid {
    let [gate, _, warden, _] = scene.processes;
    let pid = match role {
        Role::Gate => gate,
        Role::Locker => scene.locker,
        _ => warden,
    };
    let all = descendants(warden);
    blow(Puppet::seize(pid), scene);
    let status = scene.daemon.end();
    if pid == warden {
        let ended_by = status.signal().map(Signal::try_from);
        assert_eq!(ended_by, Some(Ok(signal)));
    } else {
        assert_eq!(status.code(), Some(1));
    }
    wait_for("every role ends with them", || {
        (!all.iter().any(|&pid| is_alive(pid))).then_some(())
    });
    pid
}

/// Waits for the line in which a parent tells how its child ended. The warden has none.
pub(super) fn reported(scene: &Scene<'_>, role: Role, pid: Pid, signal: Signal) {
    let uid = geteuid();
    let (parent, who) = match role {
        Role::Gate => ("warden", "the gate".to_owned()),
        Role::Session => ("gate", format!("a session of uid {uid}")),
        Role::Mounter => ("warden", format!("a mounter of uid {uid}")),
        Role::Locker => ("warden", "the locker".to_owned()),
        Role::Warden | Role::Bystander => return,
    };
    let why = if signal == Signal::SIGSYS {
        "it made a system call that its filter forbids: the kernel's log, audit type 1326, names \
         the call"
    } else {
        "it aborted after a panic, or for want of memory: its own line in the log says which"
    };
    let message = format!("{who} ended: it was killed by {signal}; {why} (pid {pid})");
    wait_for(&message, || {
        let lines = scene.daemon.about_itself();
        lines
            .iter()
            .any(|line| line["role"] == parent && line["message"] == message)
            .then_some(())
    });
}

/// The kernel's own record has the number that nobody else is told.
pub(super) fn attack_28_the_kernel_names_the_call(sandbox: &Sandbox) -> Result<(), Skip> {
    let records = AuditRecords::subscribe()?;
    let mut scene = Scene::start(sandbox);
    for role in [Role::Session, Role::Mounter] {
        let end = Instant::now() + Duration::from_secs(30);
        // The kernel may lose records when the other cases cause thousands of them.
        while !records.name(a_connection_ends(&mut scene, role, forbidden_call), role) {
            assert!(
                Instant::now() < end,
                "no record names the call of the {role:?}"
            );
        }
    }
    Ok(())
}

/// The audit records that the kernel multicasts (`AUDIT_NLGRP_READLOG`). Its log has the
/// same ones, but no more than ten in five seconds, whosever they are.
struct AuditRecords(OwnedFd);

/// `audit(8)` records of a seccomp filter (`AUDIT_SECCOMP`).
const OF_A_FILTER: u16 = 1326;
/// The initial namespace of process ids, whose ids a record has (`PROC_PID_INIT_INO`).
const INITIAL: &str = "pid:[4026531836]";

impl AuditRecords {
    /// From now on.
    fn subscribe() -> Result<Self, Skip> {
        if fs::read_link("/proc/self/ns/pid").unwrap() != Path::new(INITIAL) {
            let why = "records have process ids of the initial namespace, which is not ours";
            return Err(Skip(why.to_owned()));
        }
        let subscribed = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkAudit,
        )
        .and_then(|socket| {
            let read_log = 1;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, read_log)).map(|()| socket)
        });
        match subscribed {
            Ok(socket) => Ok(Self(socket)),
            Err(error) => Err(Skip(format!("no audit records can be read: {error}"))),
        }
    }

    /// Whether a record tells that this process, of this role, made a socket.
    fn name(&self, pid: Pid, role: Role) -> bool {
        let end = Instant::now() + Duration::from_secs(2);
        let mut message = [0; 16 << 10];
        while Instant::now() < end {
            let length = match recv(self.0.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => {
                    sleep(Duration::from_millis(5));
                    continue;
                }
                // More came than the socket holds; later ones come.
                Err(Errno::ENOBUFS) => continue,
                Err(error) => panic!("audit records: {error}"),
            };
            let (header, text) = message[..length].split_at(16);
            let text = String::from_utf8_lossy(text);
            if header[4..6] == OF_A_FILTER.to_ne_bytes() && text.contains(&format!(" pid={pid} ")) {
                let (name, call) = (role.name(), libc::SYS_socket);
                for part in [format!(" comm=\"mw-{name}\" "), format!(" syscall={call} ")] {
                    assert!(text.contains(&part), "{part}: {text}");
                }
                return true;
            }
        }
        false
    }
}
