//! A session in the hands of an attacker that says much and does not listen.

use mountwarden_client::{ErrorCode, ErrorReply, Tmpfs, Unmount};
use nix::errno::Errno;

use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::honest::{borrowed, directory};
use crate::hostile::{HostileSession, Order, Quiet, encoded, others_are_served};
use crate::kernel::{self, status_field, unchanged};
use crate::sandbox::{POLICY, Sandbox};

/// A policy whose requests end early.
fn hurried(sandbox: &Sandbox) {
    let limits = "[limits]\nrequest_timeout = \"1s\"\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
}

const TOO_LATE: &str = "it was killed by SIGALRM; a request took longer than `request_timeout`";

/// Sends orders until the mounter is gone, and reads no reply. Gives the number of
/// replies that waited.
fn flood(hostile: &HostileSession, order: &[u8]) -> usize {
    wait_for("the mounter gives up", || {
        loop {
            match hostile.channel.send_bytes(order, &[]) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return None,
                Err(_) => return Some(()),
            }
        }
    });
    std::iter::from_fn(|| hostile.channel.receive()).count()
}

/// Thousands of orders, and nobody reads the replies: the mounter waits for its own
/// deadline, needs no more memory, and nobody else waits.
pub(crate) fn attack_26_a_flood_that_nobody_reads(sandbox: &Sandbox) -> Result<(), Skip> {
    hurried(sandbox);
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let denied = Unmount::new(sandbox.path("outside")).unwrap();
    let denied = encoded(&Order::Perform(denied.into()));
    for order in [&denied, &encoded(&Order::Status)] {
        let hostile = HostileSession::take(&daemon)?;
        let memory = |field| status_field(hostile.mounter, field);
        let before = memory("VmData");
        for _ in 0..40 {
            hostile.channel.send_bytes(order, &[]).unwrap();
        }
        others_are_served(&daemon);
        wait_for("it has replied", || {
            assert_eq!(memory("VmData"), before);
            hostile.channel.receive()
        });
        assert!(unchanged(|| flood(&hostile, order)) > 40);
        hostile.killed(&daemon, TOO_LATE);
    }
    // Notes have no reply: as many as there is time for are written down.
    let hostile = HostileSession::take(&daemon)?;
    let note = Order::Note {
        operation: None,
        error: ErrorReply::new(ErrorCode::NotFound, "noted"),
    };
    let mut sent = 0;
    wait_for("thousands of notes are sent", || {
        while sent < 3000 && hostile.channel.send_bytes(&encoded(&note), &[]).is_ok() {
            sent += 1;
        }
        (sent == 3000).then_some(())
    });
    others_are_served(&daemon);
    hostile.channel.send(&Order::Status, &[]);
    assert!(hostile.channel.receive().is_some());
    assert_eq!(daemon.log().matches("\"noted\"").count(), 3000);
    drop(hostile);
    quiet.again(&daemon)
}

/// The attach of a mount takes the deadline back; a reply that nobody reads has one
/// all the same.
pub(crate) fn attack_26_a_mount_that_nobody_hears_of(sandbox: &Sandbox) -> Result<(), Skip> {
    hurried(sandbox);
    let daemon = Daemon::start(sandbox);
    let status = encoded(&Order::Status);
    let hostile = HostileSession::take(&daemon)?;
    let room = flood(&hostile, &status);
    drop(hostile);

    let hostile = HostileSession::take(&daemon)?;
    let target = sandbox.path("mnt/a");
    let tmpfs = Order::Perform(Tmpfs::new(&target).unwrap().into());
    let mut sent = 0;
    wait_for("the channel is full of replies", || {
        while sent < room && hostile.channel.send_bytes(&status, &[]).is_ok() {
            sent += 1;
        }
        (sent == room).then_some(())
    });
    let files = [sandbox.path("mnt"), target.clone()].map(directory);
    wait_for("there is room for the order", || {
        let sent = hostile
            .channel
            .send_bytes(&encoded(&tmpfs), &borrowed(&files));
        sent.ok()
    });
    hostile.killed(&daemon, TOO_LATE);
    assert!(kernel::only(&target).options.contains("nosuid,nodev"));
    assert_eq!(daemon.last_audit()["result"], "mounted");
    Ok(())
}
