//! Orders of a session in the hands of an attacker, and what they bring.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mountwarden_client::protocol::Operation;
use mountwarden_client::{
    Bind, DenyReason, ErrorCode, ErrorReply, MountId, Outcome, Tmpfs, Unmount,
};
use nix::libc;

use crate::Skip;
use crate::daemon::Daemon;
use crate::honest::{Honest, borrowed, directory, mounted, unmounted};
use crate::hostile::{HostileSession, Order, Quiet, others_are_served};
use crate::kernel::{self, unchanged};
use crate::oddities::{self, Namespace, open};
use crate::sandbox::{Sandbox, mount_tmpfs};

/// What there is beneath `mnt` and `src`, and the orders about it: each kind of
/// mount, then each way to end the first.
fn honest(sandbox: &Sandbox) -> (Vec<Honest>, PathBuf) {
    let [a, b] = ["mnt/top/a", "mnt/top/b"].map(|name| sandbox.make_dir(name));
    let file = sandbox.write("mnt/top/file", "covered");
    let source = sandbox.path("src/data");
    let mounts = vec![
        Honest::bind(&source, &a),
        Honest::bind(&source.join("file"), &file),
        Honest::tmpfs(&b),
    ];
    (mounts, a)
}

/// Each order, with each wrong descriptor in each place: refused for that reason.
/// With the right ones, it is done.
pub(crate) fn attack_05_every_descriptor_in_every_place(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let hostile = HostileSession::take(&daemon)?;
    let other = Namespace::copy(sandbox);
    let (mounts, first) = honest(sandbox);
    let anywhere = oddities::anywhere(sandbox, &daemon, &hostile)?;
    let mut instead = BTreeMap::new();
    for path in mounts.iter().flat_map(|order| &order.paths) {
        instead
            .entry(path.clone())
            .or_insert_with(|| oddities::instead_of(sandbox, path, &other));
    }
    let attack = |order: &Honest| -> Result<(), Skip> {
        for (place, path) in order.paths.iter().enumerate() {
            for oddity in anywhere.iter().chain(&instead[path]) {
                let files = order.files();
                let mut files = borrowed(&files);
                files[place] = oddity.as_fd();
                let error = hostile.refused(&daemon, &order.operation, &files)?;
                let (code, words) = oddity.why(place);
                let path = path.to_str().unwrap();
                let named = error.message.contains(path) && error.message.contains(words);
                assert!(
                    named && error.code == code,
                    "{} in place {place} of {:?}: {error:?}",
                    oddity.what,
                    order.operation
                );
            }
        }
        Ok(())
    };
    for order in &mounts {
        attack(order)?;
        assert_eq!(mounted(order.perform(&hostile)).outcome, Outcome::Mounted);
    }
    let id = kernel_id(&daemon, &first);
    let ways: [fn(Unmount, MountId) -> Unmount; 3] = [
        |unmount, _| unmount,
        |unmount, id| unmount.id(id),
        |unmount, _| unmount.lazy(),
    ];
    for way in ways {
        attack(&Honest::unmount(&first, |unmount| way(unmount, id)))?;
    }
    unmounted(Honest::unmount(&first, |unmount| unmount.id(id)).perform(&hostile));
    others_are_served(&daemon);
    drop((hostile, anywhere, instead));
    quiet.again(&daemon)
}

/// The unique id of the mount at a place, asked without the hostile connection.
fn kernel_id(daemon: &Daemon, path: &Path) -> MountId {
    let listed = daemon.client().list().unwrap();
    let found = listed.iter().find(|mount| mount.target.as_path() == path);
    found.expect("a mount there").id
}

/// The right descriptors in another order, or one of them in two places.
pub(crate) fn attack_05_right_descriptors_in_wrong_places(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (mounts, _) = honest(sandbox);
    let [bind, _, tmpfs] = &mounts[..] else {
        panic!("three kinds")
    };
    let wrong: [(&Honest, &[usize]); 9] = [
        (bind, &[1, 0, 2]),
        (bind, &[2, 1, 0]),
        (bind, &[0, 2, 1]),
        (bind, &[1, 2, 0]),
        (bind, &[0, 0, 2]),
        (bind, &[0, 1, 1]),
        (bind, &[2, 2, 2]),
        (tmpfs, &[1, 0]),
        (tmpfs, &[0, 0]),
    ];
    for (order, places) in wrong {
        let files = order.files();
        let files: Vec<_> = places.iter().map(|&place| files[place].as_fd()).collect();
        let error = hostile.refused(&daemon, &order.operation, &files)?;
        let (code, words) = oddities::OTHER_PATH;
        assert_eq!(error.code, code, "{places:?}: {error:?}");
        assert!(error.message.contains(words), "{places:?}: {error:?}");
    }
    for order in &mounts {
        mounted(order.perform(&hostile));
    }
    Ok(())
}

/// A name that ends as the kernel ends the path of a removed file: a directory that
/// was removed is not taken for it, nor is a file that has another name.
pub(crate) fn attack_05_removed_and_named_so(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let a = sandbox.path("mnt/a");
    let named = sandbox.make_dir("src/data (deleted)");
    let bind = Honest::bind(&named, &a);
    let files = bind.files();
    let removed = {
        let aside = sandbox.path("src/aside");
        fs::rename(sandbox.path("src/data"), &aside).unwrap();
        let removed = directory(sandbox.make_dir("src/data"));
        fs::remove_dir(sandbox.path("src/data")).unwrap();
        fs::rename(aside, sandbox.path("src/data")).unwrap();
        removed
    };
    assert_eq!(oddities::link(&removed), named);
    let wrong = [files[0].as_fd(), files[1].as_fd(), removed.as_fd()];
    let error = hostile.refused(&daemon, &bind.operation, &wrong)?;
    assert_eq!(error.code, ErrorCode::Changed, "{error:?}");
    assert!(error.message.contains("was removed"), "{error:?}");
    mounted(bind.perform(&hostile));

    let file = sandbox.write("src/data/file (deleted)", "another");
    let bind = Honest::bind(&file, &sandbox.path("mnt/file"));
    let unlinked = oddities::unlinked(&sandbox.path("src/data/file"));
    assert_eq!(oddities::link(&unlinked), file);
    let files = bind.files();
    let wrong = [files[0].as_fd(), files[1].as_fd(), unlinked.as_fd()];
    let error = hostile.refused(&daemon, &bind.operation, &wrong)?;
    assert_eq!(error.code, ErrorCode::Unsupported, "{error:?}");
    assert!(error.message.contains("cannot be told from"), "{error:?}");
    // Even the file that has the name is refused, since nothing tells them apart.
    let error = hostile.refused(&daemon, &bind.operation, &borrowed(&files))?;
    assert_eq!(error.code, ErrorCode::Unsupported, "{error:?}");
    let near = sandbox.write("src/data/file (deleted).", "another");
    mounted(Honest::bind(&near, &sandbox.path("mnt/file")).perform(&hostile));
    Ok(())
}

/// The root of a mount that was not opened is compared as a target, and is good
/// for nothing else.
pub(crate) fn attack_05_unopened_roots_are_compared(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (held, free) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let tmpfs = Honest::tmpfs(&held);
    let made = mounted(tmpfs.perform(&hostile));
    let source = sandbox.make_dir("src/mounted");
    mount_tmpfs(&source);
    let unopened = |path: &Path| open(path, libc::O_PATH, 0);
    let (above, opened) = (directory(sandbox.path("mnt")), directory(&source));
    let (target, root, other) = (unopened(&held), unopened(&source), unopened(&free));

    let files = [above.as_fd(), target.as_fd()];
    let again = unchanged(|| mounted(hostile.channel.perform(&tmpfs.operation, &files)));
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    assert_eq!(again.mount, made.mount);

    let refuse = |order: &Honest, files: [&OwnedFd; 3], why| {
        refused(&daemon, &hostile, &order.operation, &files, why)
    };
    let reading = (ErrorCode::WrongType, "was not opened for reading");
    let bind = Honest::bind(&source, &held);
    refuse(&bind, [&above, &root, &opened], oddities::OTHER_PATH)?;
    refuse(&bind, [&above, &target, &root], reading)?;
    let different = (ErrorCode::Busy, "holds a different mount");
    let busy = refuse(&bind, [&above, &target, &opened], different)?;
    assert_eq!(busy.mount, Some(made.mount.id));
    let bind = Honest::bind(&source, &free);
    refuse(&bind, [&above, &other, &opened], oddities::NO_MOUNT)?;
    mounted(bind.perform(&hostile));
    // Beneath another mount, the name no longer leads to it.
    mount_tmpfs(&held);
    let changed = (ErrorCode::Changed, "changed while the request ran");
    refused(
        &daemon,
        &hostile,
        &tmpfs.operation,
        &[&above, &target],
        changed,
    )?;
    Ok(())
}

/// Performs an operation with these descriptors, which must be refused so.
fn refused(
    daemon: &Daemon,
    hostile: &HostileSession,
    operation: &Operation,
    files: &[&OwnedFd],
    (code, words): oddities::Why,
) -> Result<ErrorReply, Skip> {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let error = hostile.refused(daemon, operation, &files)?;
    let expected = error.code == code && error.message.contains(words);
    assert!(expected, "{words:?} in {error:?}");
    Ok(error)
}

/// A directory that a mount has covered since it was opened still reads as its
/// path. What is made of it lies where it was opened: where no path leads.
pub(crate) fn attack_05_covered_since_it_was_opened(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (top, source) = (sandbox.make_dir("mnt/top"), sandbox.path("src/data"));
    let target = sandbox.make_dir("mnt/top/a");
    let bind = Honest::bind(&source, &target);
    let files = bind.files();
    mount_tmpfs(&top);
    sandbox.make_dir("mnt/top/a");
    let made = mounted(hostile.channel.perform(&bind.operation, &borrowed(&files)));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing to see");
    let attached = kernel::statmount(made.mount.id);
    let covering = kernel_id(&daemon, &top);
    assert_eq!(attached.parent, kernel::statmount(covering).parent);
    assert_eq!(attached.attributes & kernel::NOSUID, kernel::NOSUID);
    // At the path that is seen, the right descriptors make another.
    let seen = mounted(bind.perform(&hostile));
    assert_eq!(seen.outcome, Outcome::Mounted);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    // And each is ended by its own.
    drop(files);
    let unmount = Honest::unmount(&target, |unmount| unmount);
    assert_eq!(unmounted(unmount.perform(&hostile)).id, seen.mount.id);
    Ok(())
}

/// An order with as many descriptors as it never has ends the mounter, which says
/// so; one that is denied needs none, and has no use for any.
pub(crate) fn attack_22_counts_of_descriptors(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let file = directory(sandbox.path("mnt"));
    let place = |name: &str| sandbox.path(name);
    let bind = Bind::new(place("src/data"), place("mnt/a")).unwrap().into();
    let tmpfs = Tmpfs::new(place("mnt/a")).unwrap().into();
    let unmount = Unmount::new(place("mnt/a")).unwrap().into();
    let noted = Order::Note {
        operation: None,
        error: ErrorReply::new(ErrorCode::NotFound, "not there"),
        entry: None,
    };
    let two = "a mount or remount takes a directory and a target";
    let kind = "the descriptors are not those of this kind";
    let one = "an unmount takes one descriptor";
    let none = "descriptors came with an order that takes none";
    let many = "bytes or descriptors of it did not fit";
    let wrong: [(Order, &[(usize, &str)]); 6] = [
        (
            Order::Perform(bind),
            &[
                (0, two),
                (1, two),
                (2, kind),
                (4, kind),
                (20, kind),
                (21, many),
                (253, many),
            ],
        ),
        (
            Order::Perform(tmpfs),
            &[(0, two), (1, two), (3, kind), (20, kind), (21, many)],
        ),
        (
            Order::Perform(unmount),
            &[(0, one), (2, one), (3, one), (21, many)],
        ),
        (noted, &[(1, none), (20, none), (21, many)]),
        (
            Order::Admit { weight: 1 },
            &[(1, none), (20, none), (21, many)],
        ),
        (Order::Status, &[(1, none), (3, none), (253, many)]),
    ];
    for (order, counts) in wrong {
        for &(count, why) in counts {
            let hostile = HostileSession::take(&daemon)?;
            unchanged(|| {
                hostile.channel.send(&order, &vec![file.as_fd(); count]);
                hostile.ended(&daemon, &[why]);
            });
        }
    }
    others_are_served(&daemon);
    let hostile = HostileSession::take(&daemon)?;
    let denied = Tmpfs::new(place("outside")).unwrap().into();
    for count in 0..=4 {
        let error = hostile.refused(&daemon, &denied, &vec![file.as_fd(); count])?;
        assert_eq!(
            error.reason,
            Some(DenyReason::TargetNotGranted),
            "{error:?}"
        );
    }
    mounted(Honest::tmpfs(&place("mnt/a")).perform(&hostile));
    drop(hostile);
    quiet.again(&daemon)
}
