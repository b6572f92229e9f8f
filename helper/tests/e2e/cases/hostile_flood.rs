//! A session in the hands of an attacker that says much and does not listen.

use mountwarden_client::{ErrorCode, ErrorReply, Tmpfs, Unmount};
use nix::errno::Errno;
use serde_json::Value;

use super::between::wait_for_state;
use super::limits::limited;
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::honest::{borrowed, directory};
use crate::hostile::{HostileSession, Order, Quiet, encoded, others_are_served};
use crate::kernel::{self, status_field, unchanged};
use crate::sandbox::{ALICE, Sandbox};

/// A policy whose requests end early, and need not wait.
fn hurried(sandbox: &Sandbox) {
    limited(
        sandbox,
        "requests_per_second = 1000000\nrequest_timeout = \"1s\"",
    );
}

const TOO_LATE: &str = "it was killed by SIGALRM; a request took longer than `request_timeout`";

fn noted() -> Order {
    Order::Note {
        operation: None,
        error: ErrorReply::new(ErrorCode::NotFound, "noted"),
        entry: None,
    }
}

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
    let orders = [
        Order::Perform(denied.into()),
        noted(),
        Order::Admit { weight: 1 },
        Order::Status,
    ];
    for order in orders.map(|order| encoded(&order)) {
        let hostile = HostileSession::take(&daemon)?;
        let memory = |field| status_field(hostile.mounter, field);
        let before = memory("VmData");
        for _ in 0..40 {
            hostile.channel.send_bytes(&order, &[]).unwrap();
        }
        others_are_served(&daemon);
        wait_for("it has replied", || {
            assert_eq!(memory("VmData"), before);
            hostile.channel.receive()
        });
        assert!(unchanged(|| flood(&hostile, &order)) > 40);
        hostile.killed(&daemon, TOO_LATE);
    }
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

/// The heaviest orders cost a second of their own user's budget each, and nothing of
/// another's. An order whose session goes while it waits is not done, and the mounter
/// has nothing to report.
pub(crate) fn attack_26_the_heaviest_orders(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let take = |_| HostileSession::take(&daemon);
    let sessions: Vec<_> = (0..8).map(take).collect::<Result<_, _>>()?;
    let mut leaving = HostileSession::take(&daemon)?;
    for hostile in &sessions {
        let heaviest = Order::Admit { weight: u32::MAX };
        hostile.channel.send(&heaviest, &[]);
        // It was awake from the moment at which the order came.
        wait_for_state(hostile.mounter, 'S');
    }
    leaving.channel.send(&noted(), &[]);
    leaving.die();
    if sandbox.is_root {
        let delayed = || {
            let (code, text, _) = outcome(daemon.cli_as(ALICE).args(["--json", "status"]));
            assert_eq!(code, 0, "{text}");
            let status: Value = serde_json::from_str(&text).unwrap();
            status["counters"]["delayed"].as_u64().unwrap()
        };
        let before = delayed();
        assert!(before > 0);
        assert_eq!(delayed(), before);
    }
    for hostile in &sessions {
        hostile.channel.taken();
    }
    leaving.ended_quietly(&daemon);
    assert!(!daemon.log().contains("\"noted\""), "{}", daemon.log());
    sessions[0].channel.send(&noted(), &[]);
    sessions[0].channel.taken();
    assert_eq!(daemon.last_audit()["message"], "noted");
    drop(sessions);
    quiet.again(&daemon)
}
