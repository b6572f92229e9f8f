//! Batches: all of their mounts are there, or none.

use std::fs::File;
use std::path::{Path, PathBuf};

use mountwarden_client::{
    Applied, Batch, Bind, Block, Client, DenyReason, Error, ErrorKind, Left, Outcome, Tmpfs,
    Unmount,
};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use super::between::wait_for_lock;
use super::confinement::only;
use super::limits::limited;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::devices::Disk;
use crate::fuse::Server;
use crate::honest::Honest;
use crate::hostile::{HostileSession, Order};
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};

pub(super) fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Bind {
    Bind::new(source, target).unwrap()
}

pub(super) fn tmpfs(target: impl AsRef<Path>) -> Tmpfs {
    Tmpfs::new(target).unwrap()
}

/// Mounts that lie on each other: `src` at `mnt/a`, and more on it.
pub(super) fn tree(sandbox: &Sandbox) -> Batch {
    let at = |name: &str| sandbox.path(&format!("mnt/a/{name}"));
    Batch::new()
        .mount(bind(sandbox.path("src"), sandbox.path("mnt/a")))
        .mount(bind(sandbox.path("src"), at("other")).read_only())
        .mount(tmpfs(at("other/other")))
        .mount(bind(sandbox.path("src/data"), at("other/data")).no_exec())
}

fn places(batch: &Batch) -> Vec<PathBuf> {
    let targets = batch.mounts().iter().map(|mount| &mount.target);
    targets.map(|target| target.as_path().to_owned()).collect()
}

/// Ends what was applied, the last first.
pub(super) fn end(client: &mut Client, applied: &[Applied]) {
    for mount in applied.iter().rev() {
        client.unmount(mount).unwrap();
    }
}

/// The number of the mount that failed; nothing may be left.
fn entry_of(error: &Error) -> usize {
    let batch = error.batch().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(batch.left, [], "{error}");
    let text = error.to_string();
    let begin = format!("mount[{}]: ", batch.entry);
    assert!(text.starts_with(&begin), "{text}");
    assert!(text.ends_with("; nothing of the batch was done"), "{text}");
    batch.entry
}

/// The events of audit lines, each with the number of the entry or what became of it.
fn told(lines: &[Value]) -> Vec<String> {
    let line = |line: &Value| {
        let more = if line["event"] == "lease-end" {
            &line["why"]
        } else {
            &line["entry"]
        };
        let words = [&line["event"], more, &line["result"]];
        words.map(ToString::to_string).join(" ").replace('"', "")
    };
    lines.iter().map(line).collect()
}

pub(crate) fn a_tree_is_applied(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let batch = tree(sandbox);
    let places = places(&batch);
    unchanged(|| {
        let applied = client.apply(batch.clone()).unwrap();
        let listed = client.list().unwrap();
        assert_eq!(applied.len(), 4);
        for (mount, place) in applied.iter().zip(&places) {
            assert_eq!(mount.outcome, Outcome::Mounted);
            assert_eq!(mount.target.as_path(), place);
            let info = listed.iter().find(|info| info.id == mount.id).unwrap();
            assert_eq!(info.target, mount.target);
            assert_eq!(info.attributes, mount.attributes);
            assert_eq!(kernel::only(place).point, place.to_str().unwrap());
        }
        let kept = [
            "mount-bind 0 mounted",
            "mount-bind 1 mounted",
            "mount-tmpfs 2 mounted",
            "mount-bind 3 mounted",
            "batch null kept",
        ];
        assert_eq!(told(&daemon.audit()), kept);
        assert_eq!(daemon.last_audit()["made"], 4);
        // The same again is there already, and stays when the connection goes.
        let again = client.apply(batch).unwrap();
        assert!(
            again
                .iter()
                .all(|mount| mount.outcome == Outcome::AlreadyMounted)
        );
        drop(client);
        let mut client = daemon.client();
        assert_eq!(client.list().unwrap(), listed);
        end(&mut client, &applied);
    });
    Ok(())
}

/// Whichever mount cannot be made, and whichever half finds out.
pub(crate) fn a_failure_at_any_place_leaves_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let taken = sandbox.make_dir("mnt/taken");
    mount_tmpfs(&taken);
    let missing = sandbox.path("mnt/missing");
    let bad = [
        (tmpfs(missing), ErrorKind::NotFound),
        (tmpfs(taken), ErrorKind::Busy),
        (tmpfs(sandbox.path("mnt/file")), ErrorKind::WrongType),
    ];
    for (failing, kind) in bad {
        for place in 0..=4 {
            let mut mounts = tree(sandbox).mounts().to_vec();
            mounts.insert(place, failing.clone().into());
            let batch = mounts.into_iter().fold(Batch::new(), Batch::mount);
            let before = daemon.audit().len();
            let error = unchanged(|| client.apply(batch).unwrap_err());
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(entry_of(&error), place);
            let lines = told(&daemon.audit()[before..]);
            let ended = "lease-end its batch was taken back unmounted";
            assert_eq!(lines.iter().filter(|line| *line == ended).count(), place);
            assert_eq!(lines[place], format!("mount-tmpfs {place} error"));
            let last = daemon.last_audit();
            if place == 0 {
                assert_eq!(lines.len(), 1);
            } else {
                assert_eq!(lines.last().unwrap(), "batch null taken-back");
                assert_eq!((&last["made"], &last["left"]), (&place.into(), &0.into()));
            }
        }
    }
    let applied = client.apply(tree(sandbox)).unwrap();
    end(&mut client, &applied);
    Ok(())
}

pub(crate) fn attack_26_denied_last_and_nothing_is_tried(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let at = sandbox.path("mnt/b");
    let denied = [
        (
            tmpfs(sandbox.path("src/other")),
            DenyReason::TargetNotGranted,
        ),
        (tmpfs(&at).suid(), DenyReason::SuidNotGranted),
        (
            tmpfs(&at).size("17M".parse().unwrap()),
            DenyReason::SizeAboveMaximum,
        ),
    ];
    let count = denied.len();
    for (mount, reason) in denied {
        let batch = tree(sandbox).mount(mount);
        let error = unchanged(|| client.apply(batch).unwrap_err());
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(entry_of(&error), 4);
    }
    // A line each: nothing else was tried.
    let lines = daemon.audit();
    assert_eq!(told(&lines), vec!["mount-tmpfs 4 denied"; count]);
    assert!(lines.iter().all(|line| line["by"] == "mounter"));
    let size = "16M".parse().unwrap();
    let allowed = tree(sandbox).mount(tmpfs(&at).size(size));
    let applied = client.apply(allowed).unwrap();
    end(&mut client, &applied);
    // What never is a batch.
    let refused = |client: &mut Client, batch: Batch, why: &str| {
        let error = unchanged(|| client.apply(batch).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&mut client, Batch::new(), "has no mount");
    let twice = tree(sandbox).mount(tmpfs(sandbox.path("mnt/a")));
    refused(&mut client, twice, "mount[4] has the target of another");
    let many = (0..=Batch::MAX).map(|number| tmpfs(sandbox.path(&format!("mnt/{number}"))));
    let many = many.fold(Batch::new(), Batch::mount);
    refused(&mut client, many, "more than 64 mounts");
    Ok(())
}

pub(crate) fn what_is_there_already_stays(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let batch = tree(sandbox);
    let first = client
        .mount(bind(sandbox.path("src"), sandbox.path("mnt/a")))
        .unwrap();
    let missing = tmpfs(sandbox.path("mnt/missing"));
    let error = unchanged(|| client.apply(batch.clone().mount(missing)).unwrap_err());
    assert_eq!(entry_of(&error), 4);
    assert_eq!(daemon.last_audit()["made"], 3);
    let applied = client.apply(batch).unwrap();
    let outcomes: Vec<_> = applied.iter().map(|mount| mount.outcome).collect();
    let (there, made) = (Outcome::AlreadyMounted, Outcome::Mounted);
    assert_eq!(outcomes, [there, made, made, made]);
    assert_eq!(applied[0].id, first.mount.id);
    end(&mut client, &applied);
    Ok(())
}

/// Entries may be leased: those end with the connection, and the others stay.
pub(crate) fn leases_of_a_batch(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "connections_per_user = 2");
    let daemon = Daemon::start(sandbox);
    let place = |name: &str| sandbox.make_dir(&format!("mnt/{name}"));
    let leased = |name: &str| tmpfs(place(name)).leased();
    let mut client = daemon.client();
    let missing = || tmpfs(sandbox.path("mnt/missing"));
    let batch = || Batch::new().mount(leased("one")).mount(tmpfs(place("two")));
    let error = unchanged(|| client.apply(batch().mount(missing())).unwrap_err());
    assert_eq!(entry_of(&error), 2);
    assert!(client.lease_end().is_none());
    // As many as there may be, and one more.
    let many = batch().mount(leased("three")).mount(leased("four"));
    let error = unchanged(|| client.apply(many).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert_eq!(entry_of(&error), 3);
    let applied = client.apply(batch().mount(leased("three"))).unwrap();
    assert!(client.lease_end().is_some());
    drop(client);
    wait_for("what was leased ends, and both lines say so", || {
        let lines = daemon.audit();
        let ended = |line: &&Value| line["why"] == "the lease's connection ended";
        (lines.iter().filter(ended).count() == 2).then_some(())
    });
    let left = kernel::at(&place("one")).len() + kernel::at(&place("three")).len();
    assert_eq!(left, 0);
    daemon.client().unmount(&applied[1]).unwrap();
    Ok(())
}

pub(crate) fn limits_hold_across_a_batch(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "mounts_per_user = 3");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for _ in 0..3 {
        let error = unchanged(|| client.apply(tree(sandbox)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("mounts_per_user"), "{error}");
        assert_eq!(entry_of(&error), 3);
    }
    let mut mounts = tree(sandbox).mounts().to_vec();
    mounts.pop();
    let batch = mounts.into_iter().fold(Batch::new(), Batch::mount);
    let applied = client.apply(batch).unwrap();
    let error = client.mount(tmpfs(sandbox.path("mnt/b"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    end(&mut client, &applied);
    Ok(())
}

/// What is in use leaves the tree at once. What somebody with rights of their own has covered
/// stays, and the client is told.
pub(crate) fn busy_and_covered_when_taken_back(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let mut client = daemon.client();
    let mounter = only(&daemon, "mw-mounter");
    let batch = Batch::new()
        .mount(tmpfs(&a))
        .mount(bind(sandbox.path("src/data"), &b))
        .mount(bind(sandbox.path("src"), sandbox.path("mnt/held/leaf")))
        .mount(tmpfs(sandbox.path("mnt/missing")));
    let (error, open) = server.hold(|hold| {
        std::thread::scope(|scope| {
            let applying = scope.spawn(|| client.apply(batch).unwrap_err());
            wait_for_lock(mounter);
            let open = File::open(b.join("file")).unwrap();
            mount_tmpfs(&a);
            hold.let_go();
            (applying.join().unwrap(), open)
        })
    });
    assert_eq!(std::io::read_to_string(open).unwrap(), "data");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(kernel::at(&b).len(), 0);
    let [below, _] = &kernel::at(&a)[..] else {
        panic!("two mounts")
    };
    assert_eq!(below.source, "mountwarden");
    let failure = error.batch().unwrap();
    let [Left { id, target }] = &failure.left[..] else {
        panic!("{failure:?}")
    };
    assert_eq!((failure.entry, target.as_path()), (3, a.as_path()));
    let text = error.to_string();
    let said = format!("the mount {id} at {} could not be taken back", a.display());
    assert!(text.ends_with(&said), "{text}");
    let last = daemon.last_audit();
    assert_eq!((&last["made"], &last["left"]), (&3.into(), &1.into()));
    umount2(&a, MntFlags::empty()).unwrap();
    client.unmount(Unmount::new(&a).unwrap().id(*id)).unwrap();
    Ok(())
}

/// A device is mounted while the directory above its target is closed, and is let go of again.
pub(crate) fn a_device_among_others(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let device = disk.path().to_str().unwrap();
    sandbox.policy(&format!(
        "{POLICY}  [grant.block]\n  device = [\"{device}\"]\n  filesystems = [\"ext4\"]\n"
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let block = Block::new(disk.path(), "ext4", sandbox.path("mnt/b")).unwrap();
    let batch = tree(sandbox).mount(block);
    let missing = tmpfs(sandbox.path("mnt/missing"));
    let error = unchanged(|| client.apply(batch.clone().mount(missing)).unwrap_err());
    assert_eq!(entry_of(&error), 5);
    let applied = client.apply(batch).unwrap();
    assert_eq!(kernel::only(&sandbox.path("mnt/b")).filesystem, "ext4");
    drop(client);
    let mut client = daemon.client();
    assert_eq!(client.list().unwrap().len(), applied.len());
    end(&mut client, &applied);
    Ok(())
}

/// What may yet be taken back is not said to be there already.
pub(crate) fn unfinished_is_not_already_mounted(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let a = sandbox.path("mnt/a");
    let honest = Honest::tmpfs(&a);
    let made = super::batch_attacks::enter(&hostile, &honest, 0);
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(tmpfs(&a)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(error.mount(), Some(made));
    let text = error.to_string();
    assert!(
        text.contains("holds a mount of a batch that is not finished"),
        "{text}"
    );
    hostile.channel.send(&Order::Keep, &[]);
    hostile.channel.taken();
    let mounted = client.mount(tmpfs(&a)).unwrap();
    assert_eq!(
        (mounted.outcome, mounted.mount.id),
        (Outcome::AlreadyMounted, made)
    );
    client.unmount(&mounted).unwrap();
    Ok(())
}

/// Each gets all or nothing, whoever is first at which place.
pub(crate) fn two_clients_apply_the_same(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    limited(sandbox, "requests_per_second = 1000000");
    let daemon = Daemon::start(sandbox);
    let (mut one, mut two) = (daemon.client(), daemon.client());
    let batch = tree(sandbox);
    let reversed = Batch::new()
        .mount(tmpfs(sandbox.path("mnt/b")))
        .mount(batch.mounts()[0].clone());
    let mut won = 0;
    for _ in 0..100 {
        let before = kernel::table();
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(|| two.apply(reversed.clone()));
            (one.apply(batch.clone()), other.join().unwrap())
        });
        let mut ours: Vec<Applied> = Vec::new();
        for result in [first, second] {
            match result {
                Ok(applied) => ours.extend(applied),
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        [ErrorKind::Busy, ErrorKind::Changed].contains(&kind),
                        "{error}"
                    );
                    entry_of(&error);
                }
            }
        }
        won += ours.len();
        ours.retain(|mount| mount.outcome == Outcome::Mounted);
        assert_eq!(kernel::table().len(), before.len() + ours.len());
        let mut ended = ours.clone();
        ended.sort_by_key(|mount| u64::from(mount.id));
        end(&mut one, &ended);
        assert_eq!(kernel::table(), before);
    }
    assert!(won > 0, "nobody ever got what it asked for");
    Ok(())
}

pub(crate) fn not_without_unique_ids(sandbox: &Sandbox) -> Result<(), Skip> {
    if kernel::has_unique_ids() {
        return Err(Skip("this kernel has unique ids".to_owned()));
    }
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let error = unchanged(|| client.apply(tree(sandbox)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(entry_of(&error), 0);
    Ok(())
}
