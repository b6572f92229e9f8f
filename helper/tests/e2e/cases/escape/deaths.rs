//! How the death of a role is reported, and what goes on after it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
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
        Role::Gate | Role::Warden | Role::Bystander => {
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
    let pid = if role == Role::Gate { gate } else { warden };
    let all = descendants(warden);
    blow(Puppet::seize(pid), scene);
    let status = scene.daemon.end();
    if role == Role::Gate {
        assert_eq!(status.code(), Some(1));
    } else {
        let ended_by = status.signal().map(Signal::try_from);
        assert_eq!(ended_by, Some(Ok(signal)));
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

/// The kernel's own record has the number that nobody else is told. The kernel drops
/// records when many come at once, so a few processes may have to die.
pub(super) fn attack_28_the_kernel_names_the_call(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let mut log = KernelLog::open()?;
    for role in [Role::Session, Role::Mounter] {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let pid = a_connection_ends(&mut scene, role, forbidden_call);
            if log.names(pid, role)? {
                break;
            }
            if Instant::now() > end {
                return Err(Skip(log.why_not()));
            }
        }
    }
    Ok(())
}

struct KernelLog {
    file: File,
    /// Records of this kind, whosever they are.
    seen: bool,
}

impl KernelLog {
    /// From now on.
    fn open() -> Result<Self, Skip> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .map_err(|error| Skip(format!("the kernel's log was not looked at: {error}")))?;
        file.seek(SeekFrom::End(0)).unwrap();
        Ok(Self { file, seen: false })
    }

    /// Whether the log tells that this process, of this role, made a socket.
    fn names(&mut self, pid: Pid, role: Role) -> Result<bool, Skip> {
        let end = Instant::now() + Duration::from_millis(200);
        let mut record = [0; 8192];
        while Instant::now() < end {
            let length = match self.file.read(&mut record) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(5));
                    continue;
                }
                // It was written over before it was read (`EPIPE`).
                Err(error) if error.kind() == ErrorKind::BrokenPipe => continue,
                Err(error) => {
                    return Err(Skip(format!("the kernel's log cannot be read: {error}")));
                }
            };
            let text = String::from_utf8_lossy(&record[..length]);
            self.seen |= text.contains("type=1326");
            if text.contains("type=1326") && text.contains(&format!(" pid={pid} ")) {
                let (name, call) = (role.name(), libc::SYS_socket);
                for part in [format!(" comm=\"mw-{name}\" "), format!(" syscall={call} ")] {
                    assert!(text.contains(&part), "{part}: {text}");
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn why_not(&self) -> String {
        assert!(!self.seen, "the kernel records others, and none of ours");
        "the kernel's log has no records of filters: no audit, or a daemon that takes them"
            .to_owned()
    }
}
