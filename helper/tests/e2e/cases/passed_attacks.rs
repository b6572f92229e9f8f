//! What is passed in the place of a location, by a client and by a session in the hands
//! of an attacker.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mountwarden_client::protocol::{Operation, Passed, Reply, Request, Unmount, frame};
use mountwarden_client::{AbsPath, Bind, DenyReason, ErrorCode, Outcome, Tmpfs};
use nix::libc;

use super::passed::{passing, policy};
use crate::Skip;
use crate::daemon::Daemon;
use crate::honest::{borrowed, directory, mounted, unmounted};
use crate::hostile::{HostileSession, Order, Quiet, others_are_served};
use crate::kernel::{self, unchanged};
use crate::oddities::{self, NO_MOUNT, Namespace, OTHER_PATH, Oddity, Why, open};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;

const PROC: Why = (ErrorCode::WrongType, "lies on a proc file system");

/// What must be said of a descriptor that a client passes.
fn why(oddity: &Oddity, as_target: bool) -> Why {
    let (source, target) = (oddity.why(2), oddity.why(1));
    match (as_target, target) {
        _ if is_of_proc(oddity) && source == OTHER_PATH => PROC,
        (true, target) if target != NO_MOUNT => target,
        _ => source,
    }
}

fn is_of_proc(oddity: &Oddity) -> bool {
    let statistics = nix::sys::statfs::fstatfs(oddity.as_fd());
    statistics.is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Each wrong descriptor, as the target and as the source, under a path that is
/// granted: refused for that reason. The right ones are taken.
pub(crate) fn attack_05_every_descriptor(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let other = Namespace::copy(sandbox);
    let (target, source) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let anywhere = oddities::anywhere(sandbox, &daemon, &hostile)?;
    let [to, from] = [&target, &source]
        .map(|path| (directory(path), oddities::instead_of(sandbox, path, &other)));
    let request = passing(
        Bind::new(&source, &target).unwrap(),
        Passed::TARGET | Passed::SOURCE,
    );
    let mut wire = Wire::open(&daemon.socket);
    for (as_target, path, instead) in [(true, &target, &to.1), (false, &source, &from.1)] {
        for oddity in anywhere.iter().chain(instead) {
            let files = if as_target {
                [oddity.as_fd(), from.0.as_fd()]
            } else {
                [to.0.as_fd(), oddity.as_fd()]
            };
            let (code, words) = why(oddity, as_target);
            let reply = unchanged(|| {
                wire.send_request(&request, &files);
                wire.reply()
            });
            let Reply::Error(error) = reply else {
                panic!("{} as a target ({as_target}): {reply:?}", oddity.what)
            };
            let named = error.message.contains(path.to_str().unwrap());
            assert!(
                named && error.message.contains(words) && error.code == code,
                "{} as a target ({as_target}): {error:?}",
                oddity.what
            );
            assert_eq!(daemon.last_audit()["code"], code.name());
        }
    }
    wire.send_request(&request, &[to.0.as_fd(), from.0.as_fd()]);
    mounted(wire.reply());
    Ok(())
}

/// A directory and a regular file do not mix, nor does a root that was not opened
/// make a source.
pub(crate) fn attack_07_beside_a_directory(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let mut wire = Wire::open(&daemon.socket);
    let (target, file) = (sandbox.path("mnt/a"), sandbox.path("mnt/file"));
    let held = sandbox.make_dir("src/held");
    mount_tmpfs(&held);
    let root = open(&held, libc::O_PATH, 0);
    let opened = directory(&held);
    let mut refused = |bind: (&Path, &Path), files: [&OwnedFd; 2], words: &str| {
        let request = passing(
            Bind::new(bind.0, bind.1).unwrap(),
            Passed::TARGET | Passed::SOURCE,
        );
        unchanged(|| {
            wire.send_request(&request, &files.map(AsFd::as_fd));
            let error = wire.error(ErrorCode::WrongType);
            assert!(error.message.contains(words), "{error:?}");
        });
    };
    let [to, to_file] = [&target, &file].map(directory);
    refused((&held, &target), [&to, &root], "was not opened for reading");
    refused((&held, &file), [&to_file, &opened], "is not a directory");
    let inner = sandbox.write("src/held/inner", "x");
    let inner_file = directory(&inner);
    refused(
        (&inner, &target),
        [&to, &inner_file],
        "is not a regular file",
    );
    for (source, to, from, place) in [
        (&held, &to, &opened, &target),
        (&inner, &to_file, &inner_file, &file),
    ] {
        let request = passing(
            Bind::new(source, place).unwrap(),
            Passed::TARGET | Passed::SOURCE,
        );
        wire.send_request(&request, &[to.as_fd(), from.as_fd()]);
        mounted(wire.reply());
    }
    Ok(())
}

/// Too few, too many, too late, with a request that brings none: the connection ends,
/// and nothing stays open.
pub(crate) fn attack_22_descriptors_that_do_not_fit(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let file = directory(sandbox.path("mnt/a"));
    let many = |count| vec![file.as_fd(); count];
    let tmpfs = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let target = AbsPath::new(sandbox.path("mnt/a")).unwrap();
    let unmount = Operation::Unmount(Unmount {
        target,
        lazy: true,
        id: None,
        passed: true,
    });
    let none = "descriptors came with a message that takes none";
    let other = "a message that takes another number of them";
    let misplaced = "too many, or not with the first byte";
    let explained = match passing(tmpfs(), Passed::TARGET) {
        Request::Perform(operation) => Request::Explain(operation),
        other => panic!("{other:?}"),
    };
    let refused = |send: &dyn Fn(&mut Wire), words: &str| {
        unchanged(|| {
            let mut wire = Wire::open(&daemon.socket);
            send(&mut wire);
            let error = wire.error(ErrorCode::MalformedFrame);
            assert!(error.message.contains(words), "{words}: {error:?}");
            assert!(wire.is_closed(), "{words}");
        });
    };
    for (request, counts, words) in [
        (passing(tmpfs(), Passed::TARGET), &[0, 2, 4][..], other),
        (
            passing(tmpfs(), Passed::TARGET | Passed::SOURCE),
            &[0, 1, 3],
            other,
        ),
        (passing(tmpfs(), Passed::TARGET), &[5, 253], misplaced),
        (Request::Perform(unmount.clone()), &[0, 2], other),
        (explained.clone(), &[1], none),
        (Request::List { after: None }, &[1, 2], none),
    ] {
        for &count in counts {
            refused(&|wire| wire.send_request(&request, &many(count)), words);
        }
    }
    // After the length, instead of with it or beside it.
    let bytes = frame::encode(&passing(tmpfs(), Passed::TARGET)).unwrap();
    for (before, first) in [(4, 0), (5, 0), (4, 1)] {
        let late = |wire: &mut Wire| {
            let (start, rest) = bytes.split_at(before);
            let send = |bytes: &[u8], files: &[BorrowedFd<'_>]| {
                wire.send_with(bytes, files).unwrap();
            };
            send(start, &many(first));
            send(rest, &many(1));
        };
        refused(&late, misplaced);
    }
    quiet.again(&daemon)?;
    // A value that is never valid goes with what it brought, and the next is served.
    let mut wire = Wire::open(&daemon.socket);
    let mut invalid = bytes.clone();
    // The last byte of what is passed; the lease follows.
    let at = invalid.len() - 2;
    invalid[at] = 0x80;
    wire.send_with(&invalid, &many(2)).unwrap();
    wire.error(ErrorCode::InvalidRequest);
    assert!(matches!(wire.ask(&explained), Reply::Explained(_)));
    wire.send_request(&passing(tmpfs(), Passed::TARGET), &many(1));
    mounted(wire.reply());
    // Cut short, with what the frame needs and more.
    let cut = Wire::open(&daemon.socket);
    cut.send_with(&bytes[..9], &many(1)).unwrap();
    drop((cut, wire));
    quiet.again(&daemon)
}

fn operation(request: Request) -> Operation {
    match request {
        Request::Perform(operation) => operation,
        other => panic!("{other:?}"),
    }
}

fn unmount_of(path: &Path) -> Operation {
    Operation::Unmount(Unmount {
        target: AbsPath::new(path).unwrap(),
        lazy: true,
        id: None,
        passed: true,
    })
}

/// An order with as many descriptors as it never has ends the mounter.
pub(crate) fn attack_22_orders_that_do_not_fit(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let file = directory(sandbox.path("mnt"));
    let (target, source) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let bind = operation(passing(
        Bind::new(&source, &target).unwrap(),
        Passed::TARGET | Passed::SOURCE,
    ));
    let tmpfs = operation(passing(Tmpfs::new(&target).unwrap(), Passed::TARGET));
    let two = "a mount or remount takes a directory and a target";
    let kind = "the descriptors are not those of this kind";
    let twice = "a passed unmount takes its target twice";
    let wrong: [(&Operation, &[(usize, &str)]); 3] = [
        (&bind, &[(0, two), (1, two), (2, kind)]),
        (&tmpfs, &[(0, two), (1, two), (3, kind)]),
        (&unmount_of(&target), &[(0, twice), (1, twice), (3, twice)]),
    ];
    for (operation, counts) in wrong {
        for &(count, why) in counts {
            let hostile = HostileSession::take(&daemon)?;
            let order = Order::Perform(operation.clone());
            unchanged(|| {
                hostile.channel.send(&order, &vec![file.as_fd(); count]);
                hostile.ended(&daemon, &[why]);
            });
        }
    }
    others_are_served(&daemon);
    quiet.again(&daemon)
}

/// A session that says that something was passed gets by that nothing which it may
/// not have.
pub(crate) fn attack_26_passed_orders(sandbox: &Sandbox) -> Result<(), Skip> {
    let grants = policy().replace("@UID@, 4001, 4002", "@UID@");
    let others = POLICY
        .replace("@UID@, 4001, 4002", "4001")
        .replace("\"test\"", "\"alice\"")
        .replace("/mnt", "/alice");
    let paths = POLICY
        .replace("\"test\"", "\"paths\"")
        .replace("/mnt", "/paths")
        .replace("/src", "/files");
    let more = format!("{others}{paths}").replace("version = 1", "");
    sandbox.policy(&format!("{grants}{more}"));
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let place = |name: &str| sandbox.make_dir(name);
    let bind = |source: &str, target: &str, passed| {
        let bind = Bind::new(sandbox.path(source), sandbox.path(target)).unwrap();
        operation(passing(bind, passed))
    };
    let [a, data] = ["mnt/a", "src/data"].map(|name| directory(place(name)));
    for (source, target, passed, reason) in [
        (
            "src/data",
            "alice/x",
            Passed::TARGET | Passed::SOURCE,
            DenyReason::TargetNotGranted,
        ),
        (
            "outside",
            "mnt/a",
            Passed::TARGET | Passed::SOURCE,
            DenyReason::SourceNotGranted,
        ),
        (
            "files/x",
            "paths/x",
            Passed::TARGET,
            DenyReason::PassedNotGranted,
        ),
        (
            "files/x",
            "paths/x",
            Passed::SOURCE,
            DenyReason::PassedNotGranted,
        ),
    ] {
        let files = [target, target, source].map(|name| directory(place(name)));
        let order = bind(source, target, passed);
        let error = hostile.refused(&daemon, &order, &borrowed(&files))?;
        assert_eq!(error.reason, Some(reason), "{error:?}");
    }
    // What it passes must be what it names, whatever it puts in the other places.
    let order = bind("src/data", "mnt/a", Passed::TARGET | Passed::SOURCE);
    let outside = directory(place("outside"));
    let anything = hostile.channel.0.try_clone().unwrap();
    for files in [[&a, &outside, &data], [&a, &a, &outside], [&a, &data, &a]] {
        let files = files.map(AsFd::as_fd);
        let error = hostile.refused(&daemon, &order, &files)?;
        assert_eq!(
            (error.code, true),
            (OTHER_PATH.0, error.message.contains(OTHER_PATH.1))
        );
    }
    let files = [&anything, &a, &data].map(AsFd::as_fd);
    let made = mounted(hostile.channel.perform(&order, &files));
    assert_eq!(made.outcome, Outcome::Mounted);
    assert_eq!(made.mount.target.as_path(), sandbox.path("mnt/a"));
    let forced = kernel::NOSUID | kernel::NODEV;
    let attributes = kernel::statmount(made.mount.id).attributes;
    assert_eq!(attributes & kernel::RESTRICTIONS, forced);
    Ok(())
}

/// Nor does it end a mount by a descriptor but the one at the granted place.
pub(crate) fn attack_26_passed_unmounts(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&policy());
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (target, outside) = (sandbox.path("mnt/a"), sandbox.make_dir("outside"));
    mount_tmpfs(&target);
    mount_tmpfs(&outside);
    let other = Namespace::copy(sandbox);
    let elsewhere = "is not where that mount lies";
    let nothing = "nothing is mounted at";
    let order = unmount_of(&target);
    let mut wrong = vec![
        (directory(&outside), ErrorCode::Changed, elsewhere),
        (directory("/"), ErrorCode::Changed, elsewhere),
        (directory("/proc"), ErrorCode::Changed, elsewhere),
        (
            directory(sandbox.path("mnt")),
            ErrorCode::NotMounted,
            nothing,
        ),
        (
            hostile.channel.0.try_clone().unwrap(),
            ErrorCode::NotMounted,
            nothing,
        ),
    ];
    let clone = mountwarden_helper::raw::clone_tree(File::open(&target).unwrap().as_fd(), false);
    wrong.push((
        clone.unwrap(),
        ErrorCode::NotMounted,
        "not in the helper's mount namespace",
    ));
    wrong.push((
        other.open(&target),
        ErrorCode::NotMounted,
        "not in the helper's mount namespace",
    ));
    for (file, code, words) in &wrong {
        let error = hostile.refused(&daemon, &order, &[file.as_fd(), file.as_fd()])?;
        assert_eq!(error.code, *code, "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
    }
    let root = directory(&target);
    let outside = unmount_of(&outside);
    let error = hostile.refused(&daemon, &outside, &[root.as_fd(), root.as_fd()])?;
    assert_eq!(
        error.reason,
        Some(DenyReason::TargetNotGranted),
        "{error:?}"
    );
    let anything = wrong[0].0.as_fd();
    unmounted(hostile.channel.perform(&order, &[anything, root.as_fd()]));
    assert!(kernel::at(&target).is_empty());
    Ok(())
}
