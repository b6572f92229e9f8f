//! Moves by a session that an attacker owns.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mountwarden_client::protocol::{Operation, Reply};
use mountwarden_client::{ErrorCode, ErrorReply};
use nix::libc;
use nix::mount::{MntFlags, umount2};

use super::between::wait_for_lock;
use super::moving::{granted, id_at, is_at, moving, restricted_tmpfs};
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::fuse::Server;
use crate::honest::{borrowed, directory};
use crate::hostile::{HostileSession, Order, OrderReply, Quiet, others_are_served};
use crate::kernel::{self, unchanged};
use crate::oddities::open;
use crate::sandbox::Sandbox;

/// An order with another number of descriptors ends the mounter, as does an answer that nobody
/// asked for.
pub(crate) fn attack_22_orders_that_do_not_fit(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    restricted_tmpfs(&a);
    let file = directory(&b);
    let order = Order::Perform(moving(&a, &b).into());
    let why = "a move takes a directory, a target, and the root of a mount twice";
    let none = "nothing is to be moved back";
    let entry = Order::Entry {
        operation: moving(&a, &b).into(),
        number: 0,
    };
    let batch = "a batch does not hold such an operation";
    for (order, count, why) in [
        (&order, 0, why),
        (&order, 3, why),
        (&order, 5, why),
        (&Order::MoveBack, 0, none),
        (&Order::MoveBack, 1, none),
        (&entry, 4, batch),
    ] {
        let hostile = HostileSession::take(&daemon)?;
        unchanged(|| {
            hostile.channel.send(order, &vec![file.as_fd(); count]);
            hostile.ended(&daemon, &[why]);
        });
    }
    others_are_served(&daemon);
    quiet.again(&daemon)
}

/// A session in the hands of an attacker, which sends roots of other mounts, and other places.
pub(crate) fn attack_26_roots_of_other_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let (beside, outside) = (sandbox.make_dir("mnt/beside"), sandbox.make_dir("outside"));
    let unopened = |path: &Path| open(path, libc::O_PATH, 0);
    restricted_tmpfs(&a);
    restricted_tmpfs(&beside);
    restricted_tmpfs(&outside);
    restricted_tmpfs(&a);
    let below = {
        let below = unopened(&a);
        restricted_tmpfs(&a);
        below
    };
    let hostile = HostileSession::take(&daemon)?;
    let operation: Operation = moving(&a, &b).into();
    let (above, target, root) = (directory(sandbox.path("mnt")), directory(&b), unopened(&a));
    let (other, secret) = (unopened(&beside), unopened(&outside));
    let (plain, elsewhere) = (unopened(&b), directory(sandbox.path("src")));
    let gone = {
        let place = sandbox.make_dir("mnt/gone");
        restricted_tmpfs(&place);
        let gone = unopened(&place);
        umount2(&place, MntFlags::MNT_DETACH).unwrap();
        gone
    };
    for (files, code) in [
        ([&above, &target, &other], ErrorCode::Changed),
        ([&above, &target, &secret], ErrorCode::Changed),
        ([&above, &target, &plain], ErrorCode::NotMounted),
        ([&above, &target, &hostile.channel.0], ErrorCode::NotMounted),
        ([&above, &target, &gone], ErrorCode::NotMounted),
        ([&above, &target, &below], ErrorCode::Busy),
        ([&above, &plain, &root], ErrorCode::Changed),
        ([&above, &elsewhere, &root], ErrorCode::Changed),
        ([&above, &secret, &root], ErrorCode::Changed),
        ([&elsewhere, &target, &root], ErrorCode::Changed),
        ([&target, &target, &root], ErrorCode::Changed),
    ] {
        let [above, target, root] = files.map(OwnedFd::as_fd);
        let error = hostile.refused(&daemon, &operation, &[above, target, root, root])?;
        assert_eq!(error.code, code, "{error:?}");
    }
    let files = [&above, &target, &root, &root].map(OwnedFd::as_fd);
    let reply = hostile.channel.perform(&operation, &files);
    assert!(matches!(reply, Reply::Moved(_)), "{reply:?}");
    Ok(())
}

/// What an owned session answers when it is asked for the place that a mount has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    TheEnd,
    AnotherOrder,
    Nothing,
    AnotherPlace,
    Unopened,
    ThePlace,
}

/// Only the place itself brings the mount back; whatever else comes, the mount does not stay
/// where nobody is granted it.
pub(crate) fn attack_26_a_session_that_does_not_help(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    sandbox.make_dir("outside");
    for (number, answer) in [
        Answer::TheEnd,
        Answer::AnotherOrder,
        Answer::Nothing,
        Answer::AnotherPlace,
        Answer::Unopened,
        Answer::ThePlace,
    ]
    .into_iter()
    .enumerate()
    {
        let inside = sandbox.make_dir(&format!("mnt/inner{number}"));
        let outside = sandbox.path(&format!("outside/inner{number}"));
        let server = Server::start(&sandbox.make_dir(&format!("mnt/inner{number}/held")))?;
        let (a, leaf) = (sandbox.path("mnt/a"), inside.join("held/leaf"));
        restricted_tmpfs(&a);
        let daemon = Daemon::start(sandbox);
        let id = id_at(&daemon, &a);
        let hostile = HostileSession::take(&daemon)?;
        let root = open(&a, libc::O_PATH, 0);
        let files = [directory(leaf.parent().unwrap()), directory(&leaf)];
        let files = [&files[0], &files[1], &root, &root].map(OwnedFd::as_fd);
        server.hold(|hold| {
            let order = Order::Perform(moving(&a, &leaf).into());
            hostile.channel.send(&order, &files);
            wait_for_lock(hostile.mounter);
            fs::rename(&inside, &outside).unwrap();
            hold.let_go();
        });
        match hostile.channel.receive() {
            Some(OrderReply::Uncovered(place)) => assert_eq!(place.as_path(), a),
            other => panic!("not asked for the place: {other:?}"),
        }
        assert!(is_at(id, &outside.join("held/leaf")));
        let refused = answered(hostile, answer, sandbox);
        wait_for("it is back, or has ended", || {
            let ended = kernel::status_of_mount(id.into()).is_err();
            (if answer == Answer::ThePlace {
                is_at(id, &a)
            } else {
                ended
            })
            .then_some(())
        });
        if let Some(error) = refused {
            let back = answer == Answer::ThePlace;
            let code = if back {
                ErrorCode::Changed
            } else {
                ErrorCode::Failed
            };
            assert_eq!(error.code, code, "{answer:?}: {error:?}");
            assert_eq!(error.message.contains("was ended"), !back, "{error:?}");
            let line = daemon.last_audit();
            assert_eq!(line["code"], code.name(), "{line}");
        }
        others_are_served(&daemon);
        daemon.stop();
    }
    Ok(())
}

/// Answers so, and gives what came of the move.
fn answered(mut hostile: HostileSession, answer: Answer, sandbox: &Sandbox) -> Option<ErrorReply> {
    let place = |name: &str| vec![directory(sandbox.path(name))];
    let (order, files) = match answer {
        Answer::TheEnd => {
            hostile.die();
            return None;
        }
        Answer::AnotherOrder => (Order::Keep, place("mnt/a")),
        Answer::Nothing => (Order::MoveBack, Vec::new()),
        Answer::AnotherPlace => (Order::MoveBack, place("mnt/b")),
        Answer::Unopened => (
            Order::MoveBack,
            vec![open(&sandbox.path("mnt/a"), libc::O_PATH, 0)],
        ),
        Answer::ThePlace => (Order::MoveBack, place("mnt/a")),
    };
    match hostile.channel.done(&order, &borrowed(&files)) {
        Reply::Error(error) => Some(error),
        other => panic!("not refused: {other:?}"),
    }
}
