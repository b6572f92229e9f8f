//! Mounts that are moved from one granted place to another.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use mountwarden_client::protocol::{Operation, Request};
use mountwarden_client::{
    Bind, Client, DenyReason, Error, ErrorKind, Explanation, MountAttributes, MountId, Move, Tmpfs,
};
use nix::libc;
use nix::mount::{MsFlags, mount};

use super::remounting::{bind_read_only, in_a_user_namespace};
use crate::Skip;
use crate::daemon::Daemon;
use crate::fuse;
use crate::kernel::{self, NODEV, NOSUID, RESTRICTIONS, statmount, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};

/// The usual policy, with moves granted, and what else it says of the grant.
pub(super) fn granted(sandbox: &Sandbox, more: &str) {
    sandbox.policy(&POLICY.replace("target = ", &format!("move = true\n{more}\ntarget = ")));
}

pub(super) fn moving(from: &Path, to: &Path) -> Move {
    Move::new(from, to).unwrap()
}

pub(super) fn request(from: &Path, to: &Path) -> Request {
    Request::Perform(Operation::Move(moving(from, to).into()))
}

/// Mounts a tmpfs as the test itself, with what the usual grant forces.
pub(super) fn restricted_tmpfs(path: &Path) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("test"), path, Some("tmpfs"), flags, Some("mode=0755")).unwrap();
}

/// The id of the topmost mount at a place that is granted.
pub(super) fn id_at(daemon: &Daemon, place: &Path) -> MountId {
    let mut mounts = daemon.client().list().unwrap();
    mounts.retain(|mount| mount.target.as_path() == place);
    mounts.pop().expect("a mount").id
}

pub(super) fn is_at(id: MountId, place: &Path) -> bool {
    let status = kernel::status_of_mount(id.into());
    status.is_ok_and(|status| status.point == place.as_os_str().as_encoded_bytes())
}

fn refused(client: &mut Client, moved: Move, kind: ErrorKind) -> Error {
    let error = unchanged(|| client.move_mount(moved).unwrap_err());
    assert_eq!(error.kind(), kind, "{error}");
    error
}

fn denied(client: &mut Client, moved: Move, reason: DenyReason) {
    let error = refused(client, moved, ErrorKind::Denied);
    assert_eq!(error.reason(), Some(reason), "{error}");
}

/// A mount keeps its id, its flags and what is in it, also what is open.
pub(crate) fn it_keeps_all_but_its_place(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b, file) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.path("mnt/file"),
    );
    let made = client.mount(Tmpfs::new(&a).unwrap().no_exec()).unwrap();
    let mut open = File::create(a.join("kept")).unwrap();
    let before = statmount(made.mount.id);
    let moved = client.move_mount(moving(&a, &b).id(made.mount.id)).unwrap();
    assert_eq!((moved.id, moved.target.as_path()), (made.mount.id, &*b));
    assert_eq!(moved.attributes, made.mount.attributes);
    let after = statmount(made.mount.id);
    assert_eq!(after.point, b.as_os_str().as_encoded_bytes());
    assert_eq!(
        (after.attributes, after.propagation, after.parent),
        (before.attributes, before.propagation, before.parent)
    );
    assert!(kernel::at(&a).is_empty());
    // What was open is in the same mount.
    open.write_all(b"kept").unwrap();
    assert_eq!(fs::read_to_string(b.join("kept")).unwrap(), "kept");
    drop(open);
    assert_eq!(client.list().unwrap(), [moved]);
    let line = daemon.last_audit();
    assert_eq!(
        (&line["event"], &line["result"]),
        (&"move".into(), &"moved".into())
    );
    assert_eq!(line["source"], a.to_str().unwrap());
    assert_eq!(line["target"], b.to_str().unwrap());
    assert_eq!(line["only_id"], u64::from(made.mount.id));
    assert_eq!(line["flags"], "nosuid,nodev,noexec");
    assert_eq!(client.status().unwrap().counters.moved, 1);

    // A file too, and the place that was left is free.
    let other = sandbox.write("mnt/other", "covered as well");
    let bind = Bind::new(sandbox.path("src/data/file"), &file).unwrap();
    let made = client.mount(bind).unwrap();
    let moved = client.move_mount(moving(&file, &other)).unwrap();
    assert_eq!(moved.id, made.mount.id);
    assert_eq!(fs::read_to_string(&other).unwrap(), "data");
    assert_eq!(fs::read_to_string(&file).unwrap(), "covered");
    client.mount(Tmpfs::new(&a).unwrap()).unwrap();
    for target in [&a, &b, &other] {
        client
            .unmount(mountwarden_client::Unmount::new(target).unwrap())
            .unwrap();
    }
    Ok(())
}

/// A move needs its key, both places of one grant, and what that forces.
pub(crate) fn attack_16_only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let (one, far) = (sandbox.make_dir("far/one"), sandbox.make_dir("far/two"));
    restricted_tmpfs(&a);
    restricted_tmpfs(&one);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    denied(&mut client, moving(&a, &b), DenyReason::MoveNotGranted);
    assert_eq!(daemon.last_audit()["reason"], "move-not-granted");
    drop(client);
    daemon.stop();

    // Another grant, with the other place.
    let other = POLICY
        .replace("version = 1", "")
        .replace("@DIR@/mnt", "@DIR@/far");
    let other = other.replace("\"test\"", "\"far\"\nmove = true");
    let text = POLICY.replace(
        "target = ",
        "move = true\nforce = [\"nosuid\", \"noexec\"]\ntarget = ",
    );
    sandbox.policy(&format!("{text}{other}"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let proc = Path::new("/proc");
    for (from, to, reason) in [
        (&*a, &*far, DenyReason::MoveNotGranted),
        (&*one, &*b, DenyReason::MoveNotGranted),
        (
            &*a,
            &*sandbox.path("src/data"),
            DenyReason::TargetNotGranted,
        ),
        (&*sandbox.path("src/data"), &*b, DenyReason::MoveNotGranted),
        (&*a, proc, DenyReason::TargetProtected),
        (proc, &*b, DenyReason::TargetProtected),
        // It lacks `noexec`.
        (&*a, &*b, DenyReason::AttributeForced),
    ] {
        let operation = moving(from, to);
        let explained = client.explain(operation.clone()).unwrap();
        let early = matches!(explained, Explanation::Denied(_));
        assert_eq!(
            early,
            reason != DenyReason::AttributeForced,
            "{explained:?}"
        );
        denied(&mut client, operation, reason);
    }
    let explained = client.explain(moving(&a, &b)).unwrap();
    let forced = MountAttributes::NO_SUID | MountAttributes::NO_EXEC;
    assert!(
        matches!(explained, Explanation::Allowed { attributes, .. } if attributes == forced),
        "{explained:?}"
    );
    // The nearest that are allowed.
    let moved = client.move_mount(moving(&one, &far)).unwrap();
    assert_eq!(
        statmount(moved.id).attributes & RESTRICTIONS,
        NOSUID | NODEV
    );
    nix::mount::umount(&a).unwrap();
    client.mount(Tmpfs::new(&a).unwrap().no_exec()).unwrap();
    client.move_mount(moving(&a, &b)).unwrap();
    Ok(())
}

/// Where every kind of the grant is read-only, nothing else is moved.
pub(crate) fn attack_16_read_only_kinds(sandbox: &Sandbox) -> Result<(), Skip> {
    let (a, b, data) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.path("src/data"),
    );
    let text = POLICY.replace("target = ", "move = true\nforce = []\ntarget = ");
    let text = text.replace("recursive = true", "read_only = true");
    sandbox.policy(text.split("  [grant.tmpfs]").next().unwrap());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    restricted_tmpfs(&a);
    denied(&mut client, moving(&a, &b), DenyReason::AttributeForced);
    nix::mount::umount(&a).unwrap();
    bind_read_only(&data, &a);
    let moved = client.move_mount(moving(&a, &b)).unwrap();
    assert_eq!(
        statmount(moved.id).attributes & RESTRICTIONS,
        kernel::RDONLY
    );
    Ok(())
}

/// Each refusal beside what is allowed, and the mount where it was.
pub(crate) fn refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let place = |name: &str| sandbox.path(&format!("mnt/{name}"));
    let (a, b, file) = (place("a"), place("b"), place("file"));
    sandbox.make_dir("mnt/c");
    refused(&mut client, moving(&a, &b), ErrorKind::NotMounted);
    refused(&mut client, moving(&place("none"), &b), ErrorKind::NotFound);
    let made = client.mount(Tmpfs::new(&a).unwrap()).unwrap();
    let beside = client.mount(Tmpfs::new(&b).unwrap()).unwrap();
    refused(&mut client, moving(&a, &place("none")), ErrorKind::NotFound);
    refused(&mut client, moving(&a, &file), ErrorKind::WrongType);
    for number in [beside.mount.id, MountId::try_from(u64::MAX).unwrap()] {
        let other = moving(&a, &place("c")).id(number);
        let error = refused(&mut client, other, ErrorKind::IdMismatch);
        assert_eq!(error.mount(), Some(made.mount.id));
    }
    client
        .move_mount(moving(&a, &place("c")).id(made.mount.id))
        .unwrap();
    client.move_mount(moving(&place("c"), &a)).unwrap();
    Ok(())
}

/// Never on another mount, and none with others on it.
pub(crate) fn attack_12_never_on_anothers_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    restricted_tmpfs(&a);
    restricted_tmpfs(&b);
    let (own, other) = (id_at(&daemon, &a), id_at(&daemon, &b));
    let error = refused(&mut client, moving(&a, &b), ErrorKind::Busy);
    assert_eq!(error.mount(), Some(other));
    let error = refused(&mut client, moving(&a, &a), ErrorKind::Busy);
    assert_eq!(error.mount(), Some(own));
    // Into itself.
    let inner = sandbox.make_dir("mnt/a/inner");
    refused(&mut client, moving(&a, &inner), ErrorKind::InvalidRequest);
    // What lies on it would come along, out of its own grant too.
    sandbox.make_dir("mnt/c");
    let c = sandbox.path("mnt/c");
    mount_tmpfs(&inner);
    let error = refused(&mut client, moving(&a, &c), ErrorKind::Busy);
    assert_eq!(error.mount(), Some(id_at(&daemon, &inner)));
    nix::mount::umount(&inner).unwrap();
    mount_tmpfs(&a);
    // What is on top is another mount, without what is forced.
    let top = moving(&a, &c).id(own);
    refused(&mut client, top, ErrorKind::IdMismatch);
    denied(&mut client, moving(&a, &c), DenyReason::AttributeForced);
    nix::mount::umount(&a).unwrap();
    assert_eq!(client.move_mount(moving(&a, &c)).unwrap().id, own);
    Ok(())
}

/// The kernel moves nothing from a shared mount, and shares what is moved to one.
pub(crate) fn attack_11_neither_from_nor_to_shared_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "shared_target = true");
    let (a, b, shared) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.make_dir("mnt/shared"),
    );
    mount_tmpfs(&shared);
    let propagate = |flags: MsFlags| {
        mount(None::<&str>, &shared, None::<&str>, flags, None::<&str>).unwrap();
    };
    let (inside, free) = (
        sandbox.make_dir("mnt/shared/x"),
        sandbox.make_dir("mnt/shared/y"),
    );
    restricted_tmpfs(&inside);
    restricted_tmpfs(&a);
    propagate(MsFlags::MS_SHARED);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    refused(&mut client, moving(&a, &free), ErrorKind::Unsupported);
    refused(&mut client, moving(&inside, &b), ErrorKind::Unsupported);
    propagate(MsFlags::MS_PRIVATE);
    client.move_mount(moving(&a, &free)).unwrap();
    let moved = client.move_mount(moving(&inside, &b)).unwrap();
    assert_eq!(statmount(moved.id).propagation, libc::MS_PRIVATE);
    Ok(())
}

/// Neither place is found through a link.
pub(crate) fn attack_02_links_are_not_followed(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let place = |name: &str| sandbox.path(&format!("mnt/{name}"));
    sandbox.make_dir("outside/leaf");
    sandbox.make_dir("mnt/b/leaf");
    for (to, link) in [("outside", "out"), ("mnt/b", "near"), ("mnt/a", "own")] {
        std::os::unix::fs::symlink(sandbox.path(to), place(link)).unwrap();
    }
    restricted_tmpfs(&place("a"));
    for (from, to) in [
        ("a", "out"),
        ("a", "out/leaf"),
        ("a", "near"),
        ("a", "near/leaf"),
        ("own", "b"),
    ] {
        refused(
            &mut client,
            moving(&place(from), &place(to)),
            ErrorKind::WrongType,
        );
    }
    client
        .move_mount(moving(&place("a"), &place("b/leaf")))
        .unwrap();
    Ok(())
}

/// What the warden is to end, it looks for where it was made.
pub(crate) fn a_leased_mount_stays(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let leased = client.mount(Tmpfs::new(&a).unwrap().leased()).unwrap();
    for client in [&mut daemon.client(), &mut client] {
        let error = refused(client, moving(&a, &b), ErrorKind::Busy);
        assert!(error.to_string().contains("leased"), "{error}");
    }
    client.unmount(&leased).unwrap();
    client.mount(Tmpfs::new(&a).unwrap()).unwrap();
    client.move_mount(moving(&a, &b)).unwrap();
    Ok(())
}

/// A file system that does not answer, or whose server is gone, is not asked.
pub(crate) fn attack_31_dead_and_hung_file_systems(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    for allow_other in [true, false] {
        let device = fuse::device()?;
        fuse::attach(&device, &a, allow_other)?;
        let hung = client.move_mount(moving(&a, &b)).unwrap();
        assert_eq!(hung.filesystem, "fuse");
        drop(device);
        let dead = client.move_mount(moving(&b, &a).id(hung.id)).unwrap();
        assert!(is_at(hung.id, &a));
        client
            .unmount(mountwarden_client::Unmount::from(&dead).lazy())
            .unwrap();
    }
    Ok(())
}

/// Where the grant asks for an owner of what is covered, a move does too.
pub(crate) fn the_target_is_the_peers(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    granted(sandbox, "target_owner = \"peer\"");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    restricted_tmpfs(&a);
    let theirs = File::open(&b).unwrap();
    nix::unistd::fchown(theirs.as_fd(), Some(4001.into()), None).unwrap();
    denied(&mut client, moving(&a, &b), DenyReason::TargetNotOwned);
    nix::unistd::fchown(theirs.as_fd(), Some(0.into()), None).unwrap();
    client.move_mount(moving(&a, &b)).unwrap();
    Ok(())
}

/// A mount that came with the helper's user namespace stays where it was.
pub(crate) fn attack_16_locked_by_the_kernel(sandbox: &Sandbox) -> Result<(), Skip> {
    in_a_user_namespace(sandbox, "move = true\nforce = []", |target, run| {
        let free = target.with_file_name("b");
        let words = ["move", target.to_str().unwrap(), free.to_str().unwrap()];
        let (status, _, error) = run(&words);
        assert_eq!(status, 1, "{error}");
        assert!(error.contains("locked"), "{error}");
        let (target, other) = (free.to_str().unwrap(), target.with_file_name("c"));
        let (status, _, error) = run(&["mount", "tmpfs", target]);
        assert_eq!(status, 0, "{error}");
        let (status, text, error) = run(&["move", target, other.to_str().unwrap()]);
        assert_eq!(status, 0, "{error}");
        assert!(text.starts_with("Moved tmpfs at "), "{text}");
    });
    Ok(())
}
