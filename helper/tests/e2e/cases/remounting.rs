//! Attributes of mounts that are there: what is changed, and what is never lifted.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{
    Bind, Client, DenyReason, Error, ErrorCode, ErrorKind, MountAttributes, MountId, MountInfo,
    Remount, Tmpfs, Unmount,
};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::between::{before_the_check, error, first_saw};
use crate::daemon::{Daemon, outcome};
use crate::honest::directory;
use crate::hostile::HostileSession;
use crate::kernel::{
    self, NODEV, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, RESTRICTIONS, statmount, unchanged,
};
use crate::oddities::open;
use crate::sandbox::{ALICE, POLICY, Sandbox, for_this_kernel, mount_tmpfs};
use crate::{Skip, fuse, roles};

const RO: MountAttributes = MountAttributes::READ_ONLY;
const NO_EXEC: MountAttributes = MountAttributes::NO_EXEC;
const NO_SUID: MountAttributes = MountAttributes::NO_SUID;

/// The usual policy, with remounts granted, and what else it says of the grant.
fn granted(sandbox: &Sandbox, more: &str) {
    sandbox.policy(&POLICY.replace("target = ", &format!("remount = true\n{more}\ntarget = ")));
}

fn at(target: &Path) -> Remount {
    Remount::new(target).unwrap()
}

fn lift_bind(target: &Path, attributes: MountAttributes, source: &Path) -> Remount {
    at(target).lift_from_bind(attributes, source).unwrap()
}

/// The kernel's word.
fn flags(mount: &MountInfo) -> u64 {
    statmount(mount.id).attributes & RESTRICTIONS
}

/// A remount that is refused for what the policy, or the source's mount, forces.
fn denied(client: &mut Client, remount: Remount) -> DenyReason {
    let error = unchanged(|| client.remount(remount).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    error.reason().expect("a reason")
}

fn refused(client: &mut Client, remount: Remount) -> Error {
    unchanged(|| client.remount(remount).unwrap_err())
}

/// What the grant forces is not lifted from what it allows, alone or beside what may
/// be; what it does not force is.
pub(crate) fn attack_16_forced_flags_are_never_lifted(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(
        &POLICY
            .replace("target = ", "remount = true\ntarget = ")
            .replace("recursive = true", "read_only = true"),
    );
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b, data) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.path("src/data"),
    );
    let bind = client
        .mount(Bind::new(&data, &a).unwrap().no_exec())
        .unwrap();
    let tmpfs = client.mount(Tmpfs::new(&b).unwrap().no_exec()).unwrap();
    for forced in [RO, NO_SUID, MountAttributes::NO_DEV, RO | NO_EXEC] {
        let reason = denied(&mut client, lift_bind(&a, forced, &data));
        assert_eq!(reason, DenyReason::AttributeForced);
        assert_eq!(daemon.last_audit()["reason"], "attribute-forced");
        // Whatever else is asked for.
        let all = at(&a).set(MountAttributes::all());
        let all = all.lift_from_bind(forced, &data).unwrap();
        assert_eq!(denied(&mut client, all), DenyReason::AttributeForced);
    }
    for forced in [NO_SUID, MountAttributes::NO_DEV, NO_SUID | NO_EXEC] {
        let reason = denied(&mut client, at(&b).lift_from_tmpfs(forced));
        assert_eq!(reason, DenyReason::AttributeForced);
    }
    assert_eq!(flags(&bind.mount), RDONLY | NOSUID | NODEV | NOEXEC);
    assert_eq!(flags(&tmpfs.mount), NOSUID | NODEV | NOEXEC);

    // The nearest that is allowed; `ro` is forced on binds alone.
    client.remount(lift_bind(&a, NO_EXEC, &data)).unwrap();
    assert_eq!(flags(&bind.mount), RDONLY | NOSUID | NODEV);
    client.remount(at(&b).read_only()).unwrap();
    client
        .remount(at(&b).lift_from_tmpfs(RO | NO_EXEC))
        .unwrap();
    assert_eq!(flags(&tmpfs.mount), NOSUID | NODEV);
    assert!(fs::write(a.join("file"), "x").is_err(), "read-only");
    Ok(())
}

/// Without `remount = true`, or another's place, or a kind that is not granted, not
/// even a restriction is added.
pub(crate) fn attack_16_only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (a, data) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let foreign = sandbox.make_dir("elsewhere");
    mount_tmpfs(&foreign);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client.mount(Bind::new(&data, &a).unwrap()).unwrap();
    for remount in [at(&a).read_only(), lift_bind(&a, NO_EXEC, &data)] {
        let reason = denied(&mut client, remount);
        assert_eq!(reason, DenyReason::RemountNotGranted);
    }
    drop(client);
    daemon.stop();

    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for (remount, reason) in [
        (at(&foreign).read_only(), DenyReason::TargetNotGranted),
        (
            at(Path::new("/proc")).read_only(),
            DenyReason::TargetProtected,
        ),
        (
            lift_bind(&a, NO_EXEC, &foreign),
            DenyReason::SourceNotGranted,
        ),
    ] {
        assert_eq!(denied(&mut client, remount), reason);
    }
    let sealed = client.remount(at(&a).read_only()).unwrap();
    assert_eq!(sealed.id, made.mount.id);
    assert_eq!(flags(&sealed), RDONLY | NOSUID | NODEV);
    let line = daemon.last_audit();
    assert_eq!(
        (&line["event"], &line["result"], &line["set"]),
        (&"remount".into(), &"remounted".into(), &"ro".into())
    );
    assert_eq!(line["flags"], "ro,nosuid,nodev");
    assert_eq!(client.status().unwrap().counters.remounted, 1);
    Ok(())
}

pub(super) fn bind_read_only(source: &Path, target: &Path) {
    let bind = |flags| mount(Some(source), target, None::<&str>, flags, None::<&str>).unwrap();
    bind(MsFlags::MS_BIND);
    bind(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
}

/// A restriction that an administrator put on a mount at a granted place: lifted only
/// where the peer could make the mount without it.
pub(crate) fn attack_16_what_others_put_there_stays(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = []");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b, data) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.path("src/data"),
    );
    let outside = sandbox.make_dir("outside");
    let mut busy = |target: &Path, remount: Remount, why: &str| {
        let error = refused(&mut client, remount);
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(kernel::only(target).options.starts_with("ro"));
    };
    // What is no granted source, and what shows a part of a tmpfs, of this user too.
    bind_read_only(&outside, &a);
    busy(&a, lift_bind(&a, RO, &data), "another directory");
    busy(&a, at(&a).lift_from_tmpfs(RO), "not a tmpfs");
    umount2(&a, MntFlags::empty()).unwrap();
    if sandbox.is_root {
        let flags = MsFlags::MS_RDONLY;
        mount(Some("test"), &a, Some("tmpfs"), flags, Some("uid=4001")).unwrap();
        busy(&a, at(&a).lift_from_tmpfs(RO), "its owner");
        umount2(&a, MntFlags::empty()).unwrap();
    }
    // What the source's own mount has.
    let source = sandbox.make_dir("src/restricted");
    mount_tmpfs(&source);
    let remount_ro = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(
        None::<&str>,
        &source,
        None::<&str>,
        remount_ro,
        None::<&str>,
    )
    .unwrap();
    let made = client.mount(Bind::new(&source, &b).unwrap()).unwrap();
    let reason = denied(&mut client, lift_bind(&b, RO, &source));
    assert_eq!(reason, DenyReason::AttributeForced);
    client.remount(lift_bind(&b, NO_SUID, &source)).unwrap();
    assert_eq!(flags(&made.mount), RDONLY | NODEV);
    // The peer could end this one and bind it anew, writable.
    bind_read_only(&data, &a);
    let open = client.remount(lift_bind(&a, RO, &data)).unwrap();
    assert_eq!(flags(&open), 0);
    Ok(())
}

/// A mount is no source of itself: where targets and sources overlap, nothing is
/// lifted from what is bound from its own place.
pub(crate) fn attack_16_a_mount_is_no_proof_of_itself(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY.replace("target = ", "remount = true\nforce = []\ntarget = ");
    sandbox.policy(&policy.replace("@DIR@/src", "@DIR@/mnt"));
    let a = sandbox.path("mnt/a");
    bind_read_only(&sandbox.make_dir("outside"), &a);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let reason = denied(&mut client, lift_bind(&a, RO, &a));
    assert_eq!(reason, DenyReason::AttributeForced);
    // What it does not have can be lifted from it.
    client.remount(lift_bind(&a, NO_EXEC, &a)).unwrap();
    assert!(kernel::only(&a).options.starts_with("ro"));
    Ok(())
}

/// Every flag in its own sense, by the kernel's word, alone and beside others; no
/// mount beneath it, nor what it is a bind of, is changed.
pub(crate) fn attack_19_flags_are_the_kernels(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = []");
    let (a, data) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let inner = sandbox.make_dir("src/data/inner");
    mount_tmpfs(&inner);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = Bind::new(&data, &a).unwrap().recursive().suid().dev();
    let made = client.mount(bind).unwrap();
    let others: Vec<_> = kernel::table()
        .into_iter()
        .filter(|line| Path::new(&line.point) != a)
        .collect();
    for (flag, bit) in [
        (RO, RDONLY),
        (NO_SUID, NOSUID),
        (MountAttributes::NO_DEV, NODEV),
        (NO_EXEC, NOEXEC),
        (MountAttributes::NO_SYMFOLLOW, NOSYMFOLLOW),
        (MountAttributes::all(), RESTRICTIONS),
    ] {
        // Twice: what is so already is no error.
        for _ in 0..2 {
            let set = client.remount(at(&a).set(flag)).unwrap();
            assert_eq!((set.attributes, flags(&made.mount)), (flag, bit));
            assert_eq!(client.list().unwrap()[0], set);
        }
        let kept = at(&a).set(flag).lift_from_bind(flag, &data).unwrap();
        client.remount(kept).unwrap();
        assert_eq!(flags(&made.mount), bit, "what is set and lifted is set");
        for _ in 0..2 {
            let lifted = client.remount(lift_bind(&a, flag, &data)).unwrap();
            assert!(lifted.attributes.is_empty());
            assert_eq!(flags(&made.mount), 0);
        }
    }
    let now: Vec<_> = kernel::table()
        .into_iter()
        .filter(|line| Path::new(&line.point) != a)
        .collect();
    assert_eq!(now, others);
    Ok(())
}

/// What the grant forces comes with any remount.
pub(crate) fn forced_flags_come_with_it(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = [\"nosuid\", \"nosymfollow\"]");
    let (a, data) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    mount(
        Some(&data),
        &a,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let daemon = Daemon::start(sandbox);
    let now = daemon.client().remount(at(&a).no_exec()).unwrap();
    assert_eq!(flags(&now), NOEXEC | NOSUID | NOSYMFOLLOW);
    Ok(())
}

pub(crate) fn by_id_and_where_nothing_is(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let error = refused(&mut client, at(&a).read_only());
    assert_eq!(error.kind(), ErrorKind::NotMounted, "{error}");
    let error = refused(&mut client, at(&sandbox.path("mnt/none")).read_only());
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let below = client.mount(Tmpfs::new(&a).unwrap()).unwrap();
    let beside = client.mount(Tmpfs::new(&b).unwrap()).unwrap();
    for other in [beside.mount.id, MountId::try_from(u64::MAX).unwrap()] {
        let error = refused(&mut client, at(&a).read_only().id(other));
        assert_eq!(error.kind(), ErrorKind::IdMismatch, "{error}");
        assert_eq!(error.mount(), Some(below.mount.id));
    }
    let only = at(&a).read_only().id(below.mount.id);
    client.remount(only.clone()).unwrap();
    assert_eq!(flags(&below.mount), RDONLY | NOSUID | NODEV);
    // Beneath another mount it is out of reach; the topmost is meant.
    mount_tmpfs(&a);
    let error = refused(&mut client, only);
    assert_eq!(error.kind(), ErrorKind::IdMismatch, "{error}");
    let top = client.remount(at(&a).no_exec()).unwrap();
    assert_eq!(flags(&top), NOEXEC | NOSUID | NODEV);
    assert_eq!(flags(&below.mount), RDONLY | NOSUID | NODEV);
    Ok(())
}

pub(crate) fn busy_while_open_for_writing(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, file) = (sandbox.path("mnt/a"), sandbox.path("src/data/file"));
    let bind = Bind::new(sandbox.path("src/data"), &a).unwrap();
    let made = client.mount(bind).unwrap();
    // A writer of the source is none of the mount's.
    let outside = File::options().append(true).open(file).unwrap();
    client.remount(at(&a).no_exec()).unwrap();
    let writer = File::options().append(true).open(a.join("file")).unwrap();
    let error = refused(&mut client, at(&a).read_only());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(
        (error.errno(), error.mount()),
        (Some(16), Some(made.mount.id))
    );
    assert_eq!(flags(&made.mount), NOSUID | NODEV | NOEXEC);
    drop(writer);
    client.remount(at(&a).read_only()).unwrap();
    assert_eq!(flags(&made.mount), RESTRICTIONS & !NOSYMFOLLOW);
    drop(outside);
    Ok(())
}

/// A file system that does not answer, or whose server is gone, is not asked.
pub(crate) fn attack_31_dead_and_hung_file_systems(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for (name, allow_other) in [("mnt/a", true), ("mnt/b", false)] {
        let target = sandbox.path(name);
        let device = fuse::device()?;
        fuse::attach(&device, &target, allow_other)?;
        let hung = client.remount(at(&target).no_exec()).unwrap();
        assert_eq!(flags(&hung), NOEXEC | NOSUID | NODEV);
        let tmpfs = at(&target).lift_from_tmpfs(NO_EXEC);
        let error = refused(&mut client, tmpfs);
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(device);
        let dead = client.remount(at(&target).read_only()).unwrap();
        assert_eq!(flags(&dead), RDONLY | NOEXEC | NOSUID | NODEV);
        client.unmount(Unmount::from(&dead).lazy()).unwrap();
    }
    Ok(())
}

/// The mount is replaced between the session's look and the mounter's: the one that
/// was opened is not touched, and the one that is there is judged for itself.
pub(crate) fn attack_16_replaced_before_the_check(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = []");
    let daemon = Daemon::start(sandbox);
    let (a, data) = (sandbox.path("mnt/a"), sandbox.path("src/data"));
    let outside = sandbox.make_dir("outside");
    bind_read_only(&data, &a);
    let remount = lift_bind(&a, RO, &data);
    let request = Request::Perform(Operation::Remount(remount.into()));
    let reply = before_the_check(&daemon, &request, || {
        umount2(&a, MntFlags::MNT_DETACH).unwrap();
        bind_read_only(&outside, &a);
    });
    first_saw(&daemon, "not in the helper's mount namespace");
    assert_eq!(error(reply).code, ErrorCode::Busy);
    assert!(kernel::only(&a).options.starts_with("ro"));
    umount2(&a, MntFlags::empty()).unwrap();
    bind_read_only(&data, &a);
    let reply = before_the_check(&daemon, &request, || {});
    assert!(matches!(reply, Reply::Remounted(_)), "{reply:?}");
    assert!(kernel::only(&a).options.starts_with("rw"));
    Ok(())
}

/// A session in the hands of an attacker, which sends roots of other mounts.
pub(crate) fn attack_26_roots_of_other_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "force = []");
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (a, b, data) = (
        sandbox.path("mnt/a"),
        sandbox.path("mnt/b"),
        sandbox.path("src/data"),
    );
    let outside = sandbox.make_dir("outside");
    let unopened = |path: &Path| open(path, libc::O_PATH, 0);
    bind_read_only(&outside, &a);
    let below = unopened(&a);
    bind_read_only(&data, &a);
    bind_read_only(&outside, &b);
    let (above, source, secret) = (
        directory(sandbox.path("mnt")),
        directory(&data),
        directory(&outside),
    );
    let operation: Operation = lift_bind(&a, RO, &data).into();
    let (right, beside, plain) = (unopened(&a), unopened(&b), unopened(&a.join("file")));
    for (files, code) in [
        ([&above, &below, &source], ErrorCode::Changed),
        ([&above, &beside, &source], ErrorCode::Changed),
        ([&above, &plain, &source], ErrorCode::Changed),
        ([&above, &right, &secret], ErrorCode::Changed),
        ([&above, &right, &right], ErrorCode::WrongType),
        ([&source, &right, &source], ErrorCode::Changed),
    ] {
        let files = files.map(std::os::fd::AsFd::as_fd);
        let error = hostile.refused(&daemon, &operation, &files)?;
        assert_eq!(error.code, code, "{error:?}");
    }
    let files = [&above, &right, &source].map(std::os::fd::AsFd::as_fd);
    let reply = hostile.channel.perform(&operation, &files);
    assert!(matches!(reply, Reply::Remounted(_)), "{reply:?}");
    Ok(())
}

/// A mount that came with the helper's user namespace keeps the flags that it had.
pub(crate) fn attack_16_locked_by_the_kernel(sandbox: &Sandbox) -> Result<(), Skip> {
    in_a_user_namespace(sandbox, "remount = true\nforce = []", |target, run| {
        let source = target.ancestors().nth(2).unwrap().join("src");
        let source = source.to_str().unwrap();
        let target = target.to_str().unwrap();
        let remount = |words: &[&str]| run(&[&["remount", target], words].concat());
        let (status, _, error) = remount(&["--read-write", "--source", source]);
        assert_eq!(status, 1, "{error}");
        assert!(error.contains("locked"), "{error}");
        // More can be added, and that be taken away again.
        for words in [&["--noexec"][..], &["--exec", "--source", source]] {
            let (status, text, error) = remount(words);
            assert_eq!(status, 0, "{words:?}: {error}");
            let noexec = words.len() == 1;
            assert_eq!(text.contains("noexec"), noexec, "{text}");
            assert!(text.contains("ro"), "{text}");
        }
    });
    Ok(())
}

/// What a command ended with: its status, and what it printed.
type Ended = (i32, String, String);

/// Has `work` run the command against a helper in a user namespace of its own, with a
/// read-only bind that came along.
pub(super) fn in_a_user_namespace(
    sandbox: &Sandbox,
    grant: &str,
    work: impl FnOnce(&Path, &dyn Fn(&[&str]) -> Ended),
) {
    let uid = if sandbox.is_root {
        ALICE
    } else {
        nix::unistd::geteuid().as_raw()
    };
    let base = sandbox.make_dir("own");
    let own = |name: &str| base.join(name);
    for name in ["src", "mnt", "mnt/a", "mnt/b", "mnt/c", "run"] {
        fs::create_dir_all(own(name)).unwrap();
    }
    let policy = POLICY
        .replace("target = ", &format!("{grant}\ntarget = "))
        .replace("@DIR@", base.to_str().unwrap())
        .replace("@UID@", &uid.to_string());
    fs::write(own("policy.toml"), for_this_kernel(policy)).unwrap();
    let all = [
        "",
        "src",
        "mnt",
        "mnt/a",
        "mnt/b",
        "mnt/c",
        "policy.toml",
        "run",
    ];
    for name in all {
        std::os::unix::fs::chown(own(name), Some(uid), Some(uid)).unwrap();
    }
    let (source, target) = (own("src"), own("mnt/a"));
    bind_read_only(&source, &target);
    let mut helper = Command::new(sandbox.helper());
    helper.args(["serve", "--userns", "--policy"]);
    helper.arg(own("policy.toml"));
    helper.arg("--socket").arg(own("run/sock"));
    if sandbox.is_root {
        helper.uid(uid).gid(uid);
    }
    let daemon = Daemon::start_with(sandbox, helper);
    work(&target, &|words| {
        let mut join = roles::command(sandbox, "join");
        if sandbox.is_root {
            join.uid(uid).gid(uid);
        }
        join.arg(daemon.pid().to_string())
            .arg(sandbox.path("bin/mountwarden"))
            .arg("--socket")
            .arg(own("run/sock"))
            .args(words)
            .env_remove(crate::CASE);
        outcome(&mut join)
    });
}
