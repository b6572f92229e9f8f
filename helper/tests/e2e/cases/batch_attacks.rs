//! What a session in the hands of an attacker does with the orders of batches.

use mountwarden_client::protocol::{Mount, Operation, Passed, Reply};
use mountwarden_client::{ErrorCode, Fuse, MountId, Outcome, Tmpfs, Unmount};

use super::batches::tmpfs;
use super::between::is_in_state;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::honest::{Honest, borrowed, mounted, unmounted};
use crate::hostile::{HostileSession, Order, Quiet, others_are_served};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;

fn is_there(id: MountId) -> bool {
    kernel::status_of_mount(id.into()).is_ok()
}

fn entry(hostile: &HostileSession, honest: &Honest, number: u32) -> Reply {
    let operation = honest.operation.clone();
    let files = honest.files();
    let order = Order::Entry { operation, number };
    hostile.channel.done(&order, &borrowed(&files))
}

/// Makes a mount as one of a batch.
pub(super) fn enter(hostile: &HostileSession, honest: &Honest, number: u32) -> MountId {
    let made = mounted(entry(hostile, honest, number));
    assert_eq!(made.outcome, Outcome::Mounted);
    made.mount.id
}

/// Entries that are neither kept nor taken back end with the connection.
pub(crate) fn attack_26_entries_without_an_end(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    unchanged(|| {
        for _ in 0..3 {
            let mut hostile = HostileSession::take(&daemon)?;
            let bind = Honest::bind(&sandbox.path("src"), &sandbox.path("mnt/a"));
            // Numbers that mean nothing.
            let ids = [
                enter(&hostile, &bind, u32::MAX),
                enter(&hostile, &Honest::tmpfs(&sandbox.path("mnt/b")), 7),
            ];
            assert_eq!(daemon.last_audit()["entry"], 7);
            hostile.die();
            for id in ids {
                wait_for("the entry ends", || (!is_there(id)).then_some(()));
            }
            drop(hostile);
            quiet.again(&daemon)?;
        }
        Ok(())
    })
}

/// The orders at the wrong time, and entries that no batch has.
pub(crate) fn attack_26_orders_out_of_place(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let a = sandbox.path("mnt/a");
    let passed = Mount {
        passed: Passed::TARGET,
        ..tmpfs(&a).into()
    };
    let never: [Operation; 3] = [
        Unmount::new(&a).unwrap().into(),
        Fuse::new("hello", &a).unwrap().into(),
        Operation::Mount(passed),
    ];
    let honest = Honest::tmpfs(&a);
    for operation in never {
        let hostile = HostileSession::take(&daemon)?;
        unchanged(|| {
            let files = honest.files();
            let number = 0;
            let order = Order::Entry { operation, number };
            hostile.channel.send(&order, &borrowed(&files));
            hostile.ended(&daemon, &["a batch does not hold such an operation"]);
        });
    }
    for order in [Order::Keep, Order::TakeBack] {
        let hostile = HostileSession::take(&daemon)?;
        let files = honest.files();
        hostile.channel.send(&order, &borrowed(&files[..1]));
        hostile.ended(&daemon, &["an order that takes none"]);
    }
    let hostile = HostileSession::take(&daemon)?;
    unchanged(|| {
        // Nothing to be kept or taken back, and again after it was.
        for _ in 0..2 {
            hostile.channel.send(&Order::Keep, &[]);
            hostile.channel.taken();
            assert_eq!(hostile.channel.taken_back(), []);
        }
        let id = enter(&hostile, &honest, 0);
        // What is pending is nobody's to be had again.
        let Reply::Error(error) = entry(&hostile, &honest, 1) else {
            panic!("mounted twice")
        };
        assert_eq!((error.code, error.mount), (ErrorCode::Busy, Some(id)));
        assert_eq!(hostile.channel.taken_back(), []);
        assert!(!is_there(id));
        assert_eq!(hostile.channel.taken_back(), []);
    });
    let id = enter(&hostile, &honest, 0);
    hostile.channel.send(&Order::Keep, &[]);
    hostile.channel.taken();
    assert_eq!(hostile.channel.taken_back(), []);
    assert!(is_there(id), "kept is kept");
    let denied = Honest {
        operation: Tmpfs::new(sandbox.path("src/other")).unwrap().into(),
        paths: Vec::new(),
    };
    let Reply::Error(error) = entry(&hostile, &denied, 0) else {
        panic!("not granted")
    };
    assert_eq!(error.code, ErrorCode::Denied);
    drop(hostile);
    quiet.again(&daemon)?;
    daemon
        .client()
        .unmount(Unmount::new(&a).unwrap().id(id))
        .unwrap();
    Ok(())
}

/// A mounter keeps and ends what it made as entries, and nothing else.
pub(crate) fn attack_26_what_it_did_not_make(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let place = |name: &str| sandbox.make_dir(&format!("mnt/{name}"));
    let mut client = daemon.client();
    let leased = client.mount(tmpfs(place("leased")).leased()).unwrap();
    let plain = client.mount(tmpfs(place("plain"))).unwrap();
    let ours = HostileSession::take(&daemon)?;
    let theirs = HostileSession::take(&daemon)?;
    let before = kernel::table();
    let kept = enter(&theirs, &Honest::tmpfs(&place("theirs")), 0);
    // An entry that was ended by an unmount, whose place another has by now.
    let gone = enter(&ours, &Honest::tmpfs(&place("gone")), 0);
    let unmount = Honest::unmount(&place("gone"), |unmount| unmount.id(gone));
    assert_eq!(unmounted(unmount.perform(&ours)).id, gone);
    let second = enter(&theirs, &Honest::tmpfs(&place("second")), 1);
    // It is there already, and somebody else's.
    let there = mounted(entry(&ours, &Honest::tmpfs(&place("plain")), 1));
    assert_eq!(there.outcome, Outcome::AlreadyMounted);
    // An order that is no entry.
    let own = mounted(Honest::tmpfs(&place("own")).perform(&ours))
        .mount
        .id;
    assert_eq!(ours.channel.taken_back(), []);
    for id in [leased.mount.id, plain.mount.id, kept, second, own] {
        assert!(is_there(id));
    }
    ours.channel.send(&Order::Keep, &[]);
    ours.channel.taken();
    assert_eq!(theirs.channel.taken_back(), []);
    assert!(!is_there(kept) && !is_there(second));
    let end = Honest::unmount(&place("own"), |unmount| unmount.id(own));
    unmounted(end.perform(&ours));
    assert_eq!(kernel::table(), before);
    drop(client);
    wait_for("the lease ends", || {
        (!is_there(leased.mount.id)).then_some(())
    });
    drop((ours, theirs));
    quiet.again(&daemon)?;
    daemon.client().unmount(&plain).unwrap();
    Ok(())
}

/// Whatever the user's other connections have spent, what was begun can be ended.
pub(crate) fn attack_21_a_spent_budget_holds_up_no_end(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let limits = "requests_per_second = 1\nrequest_timeout = \"2s\"";
    super::limits::limited(sandbox, limits);
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let other = HostileSession::take(&daemon)?;
    unchanged(|| {
        let id = enter(&hostile, &Honest::tmpfs(&sandbox.path("mnt/a")), 0);
        // As much as a request may wait for; one more would not be let through.
        other.channel.send(&Order::Status, &[]);
        wait_for("the other waits for its turn", || {
            is_in_state(other.mounter, 'S').then_some(())
        });
        assert_eq!(hostile.channel.taken_back(), []);
        assert!(!is_there(id));
    });
    Ok(())
}

/// A user has as many unfinished entries as two batches, and others have theirs.
pub(crate) fn attack_26_places_run_out(sandbox: &Sandbox) -> Result<(), Skip> {
    const MOST: u32 = 128;
    kernel::needs_unique_ids()?;
    super::limits::limited(sandbox, "requests_per_second = 1000000");
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let mut hostile = HostileSession::take(&daemon)?;
    let place = |number: u32| Honest::tmpfs(&sandbox.make_dir(&format!("mnt/{number}")));
    let before = kernel::table();
    for number in 0..MOST {
        enter(&hostile, &place(number), number);
    }
    let Reply::Error(error) = entry(&hostile, &place(MOST), MOST) else {
        panic!("more than there may be")
    };
    assert_eq!(error.code, ErrorCode::LimitReached, "{error:?}");
    assert!(error.message.contains("not finished have 128"), "{error:?}");
    // Leases and other mounts are not concerned.
    let mut client = daemon.client();
    let last = sandbox.make_dir("mnt/last");
    let leased = client.mount(tmpfs(&last).leased()).unwrap();
    client.unmount(&leased).unwrap();
    others_are_served(&daemon);
    hostile.die();
    wait_for("all end", || (kernel::table() == before).then_some(()));
    drop(hostile);
    let applied = client.mount(tmpfs(&last)).unwrap();
    client.unmount(&applied).unwrap();
    drop(client);
    quiet.again(&daemon)
}
