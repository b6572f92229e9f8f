//! What an owned session or gate gets into the log, and hands to its client.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{getpid, write};
use serde_json::Value;

use super::super::confinement::only;
use super::attempts::{Attempt, int, killed, passes, works};
use super::{Role, Scene};
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::hostile::{descriptors, others_are_served};
use crate::kernel::unchanged;
use crate::puppet::{Outcome, Puppet};
use crate::sandbox::Sandbox;

const FORGED: &str = concat!(
    r#"{"time_ms":1,"event":"unmount","by":"mounter","uid":0,"gid":0,"pid":1,"target":"/a","#,
    r#""lazy":false,"grant":"a","result":"unmounted","id":1,"took_us":1}"#,
);

/// Waits until the log has the forged line as what it is: a message.
fn is_a_message(scene: &Scene<'_>, puppet: &Puppet, role: Role) {
    let pid = puppet.pid().as_raw();
    wait_for("the message", || {
        let lines = scene.daemon.about_itself();
        lines
            .iter()
            .any(|line| {
                line["message"] == format!("\n{FORGED}")
                    && line["pid"] == pid
                    && line["role"] == role.name()
            })
            .then_some(())
    });
}

/// Lets it send the forged line through a descriptor.
fn forge(puppet: &mut Puppet, number: libc::c_long, descriptor: u64) {
    let line = format!("\n{FORGED}\n");
    let length = u64::try_from(line.len()).unwrap();
    let at = puppet.text(&line);
    let outcome = if number == libc::SYS_write {
        puppet.syscall(number, &[descriptor, at, length])
    } else {
        let vector = puppet.words(&[at, length]);
        let message = puppet.words(&[0, 0, vector, 1, 0, 0, 0]);
        puppet.syscall(number, &[descriptor, message, int(libc::MSG_NOSIGNAL)])
    };
    assert_eq!(outcome, Outcome::Returned(Ok(length)));
}

/// Whatever it writes is a message of its own, with its own pid.
pub(super) fn attack_33_writes_no_line_of_anothers(
    sandbox: &Sandbox,
    role: Role,
) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    unchanged(|| {
        let (_wire, session, _) = scene.connect();
        let pid = if role == Role::Gate {
            scene.processes[0]
        } else {
            session
        };
        let mut puppet = Puppet::seize(pid);
        forge(&mut puppet, libc::SYS_write, 2);
        is_a_message(&scene, &puppet, role);
        if role == Role::Gate {
            // The log may be behind its other standard descriptors, and it may move those.
            for number in [0, 1] {
                let mut fork = puppet.fork();
                forge(&mut fork, libc::SYS_sendmsg, number);
                // Not the gate's own pid: one of the unprivileged half all the same.
                is_a_message(&scene, &fork, Role::Session);
                let moved = fork.syscall(libc::SYS_dup3, &[number, 2, int(libc::O_CLOEXEC)]);
                assert_eq!(moved, Outcome::Returned(Ok(2)));
                let before = scene.daemon.about_itself().len();
                forge(&mut fork, libc::SYS_write, 2);
                wait_for("another message", || {
                    (scene.daemon.about_itself().len() > before).then_some(())
                });
            }
        }
        puppet.release();
    });
    let audit = scene.daemon.audit();
    assert!(audit.is_empty(), "{audit:?}");
    scene.others_are_served();
    Ok(())
}

/// The warden ends with the gate, and first writes what that had to say.
pub(super) fn what_the_gate_said_last(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let [gate, _, warden, _] = scene.processes;
    kill(warden, Signal::SIGSTOP).unwrap();
    let mut puppet = Puppet::seize(gate);
    forge(&mut puppet, libc::SYS_write, 2);
    drop(puppet);
    kill(warden, Signal::SIGCONT).unwrap();
    assert_eq!(scene.daemon.end().code(), Some(1));
    let said = |line: &Value| line["role"] == "gate" && line["pid"] == gate.as_raw();
    let lines = scene.daemon.about_itself();
    assert_eq!(
        lines.iter().filter(|line| said(line)).count(),
        1,
        "{lines:?}"
    );
    Ok(())
}

/// Sets a flag when it is dropped, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Messages without end: others are served meanwhile, and the helper stops in time.
pub(super) fn attack_34_a_flood_of_messages(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut daemon = Daemon::start(sandbox);
    let _client = daemon.client();
    let held = descriptors(only(&daemon, "mw-session"))?;
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let end = Ends(&stop);
        let flood = || {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) && write(held[&2].as_fd(), b"flood").is_ok() {
                sent += 1;
            }
            sent
        };
        // One that waits for room leaves none to the others.
        let flood = [flood; 4].map(|flood| scope.spawn(flood));
        wait_for("a flood", || {
            (daemon.log().matches("flood").count() > 1000).then_some(())
        });
        for _ in 0..20 {
            others_are_served(&daemon);
        }
        kill(daemon.pid(), Signal::SIGTERM).unwrap();
        let status = daemon.end();
        drop(end);
        assert_eq!(status.code(), Some(0));
        flood
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    let lines = daemon.about_itself();
    assert!(
        lines
            .iter()
            .any(|line| line["message"] == "stopped; mounts stay")
    );
    let flood: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "flood")
        .collect();
    assert!(
        flood.len() > 1000 && flood.len() <= sent,
        "{} of {sent}",
        flood.len()
    );
    for line in flood {
        assert_eq!(
            (&line["role"], &line["pid"]),
            (&"session".into(), &getpid().as_raw().into())
        );
    }
    Ok(())
}

/// A session sends its client bytes alone, and to nobody else: nothing takes the
/// numbers that its filter names.
pub(super) fn attack_26_hands_its_client_nothing(
    puppet: &mut Puppet,
    _: &Scene<'_>,
    _: Role,
) -> Vec<Attempt> {
    let bytes = puppet.place(&[0; 16]);
    let vector = puppet.words(&[bytes, 1]);
    // A `cmsghdr` of `SCM_RIGHTS`, with the order channel's number.
    let rights = puppet.words(&[20, 1 << 32 | 1, 4]);
    let message = puppet.words(&[0, 0, vector, 1, rights, 24, 0]);
    let (client, order, quiet) = (3, 4, int(libc::MSG_NOSIGNAL));
    let room = puppet.place(&[1, 0, b'/', 0]);
    let mut attempts = vec![
        killed("descriptors", libc::SYS_sendmsg, &[client, message, quiet]),
        killed(
            "sendmsg on the log",
            libc::SYS_sendmsg,
            &[2, message, quiet],
        ),
        killed(
            "an address",
            libc::SYS_sendto,
            &[client, bytes, 1, quiet, room, 4],
        ),
        killed(
            "sendto its mounter",
            libc::SYS_sendto,
            &[order, bytes, 1, quiet],
        ),
        killed("sendto the log", libc::SYS_sendto, &[2, bytes, 1, quiet]),
        killed("another flag", libc::SYS_sendto, &[client, bytes, 1]),
        works("bytes", libc::SYS_sendto, &[client, bytes, 1, quiet]),
    ];
    for number in 0..5 {
        attempts.push(killed(
            format!("close {number}"),
            libc::SYS_close,
            &[number],
        ));
    }
    attempts.push(passes("close another", libc::SYS_close, &[5]));
    attempts
}
