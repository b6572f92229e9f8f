//! Mounts, their flags, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use mountwarden_client::{
    Bind, DenyReason, ErrorCode, ErrorKind, MountAttributes, Outcome, Tmpfs, TmpfsMode, TmpfsSize,
};
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::daemon::{Daemon, START, outcome, with_ambient};
use crate::kernel::{self, NODEV, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, RESTRICTIONS, unchanged};
use crate::racing::Over;
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox, mount_tmpfs};
use crate::{Skip, roles};

pub(crate) fn bind_directory(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let (source, target) = (sandbox.path("src/data"), sandbox.path("mnt/a"));
    let made = daemon
        .client()
        .mount(Bind::new(&source, &target).unwrap())
        .unwrap();
    assert_eq!(made.outcome, Outcome::Mounted);
    assert_eq!(made.mount.target.as_path(), target);
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "data");

    let line = kernel::only(&target);
    assert!(line.options.starts_with("rw,nosuid,nodev"), "{line:?}");
    assert!(!line.shared);
    let status = kernel::statmount(made.mount.id);
    assert_eq!(status.attributes & RESTRICTIONS, NOSUID | NODEV);
    assert_eq!(status.point, target.as_os_str().as_encoded_bytes());
    assert_eq!(
        made.mount.attributes,
        MountAttributes::NO_SUID | MountAttributes::NO_DEV
    );

    let audit = daemon.last_audit();
    assert_eq!(audit["event"], "mount-bind");
    assert_eq!(audit["result"], "mounted");
    assert_eq!(audit["grant"], "test");
    assert_eq!(audit["uid"], geteuid().as_raw());
    assert_eq!(audit["id"], u64::from(made.mount.id));
    Ok(())
}

/// A source root of `/` is legal, if unwise; what is above a target is not readable for
/// that alone, nor is anything writable.
pub(crate) fn from_all_of_the_tree(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("[\"@DIR@/src\"]", "[\"/\"]"));
    let daemon = Daemon::start(sandbox);
    assert!(daemon.log().contains("/ is the whole file tree"));
    let target = sandbox.path("mnt/a");
    let etc = Bind::new("/etc", &target).unwrap().read_only();
    daemon.client().mount(etc).unwrap();
    assert!(target.join("passwd").exists());
    let refused = Bind::new("/etc/none", sandbox.path("mnt/b")).unwrap();
    let error = unchanged(|| daemon.client().mount(refused).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    Ok(())
}

pub(crate) fn bind_file(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let (source, target) = (sandbox.path("src/data/file"), sandbox.path("mnt/file"));
    daemon
        .client()
        .mount(Bind::new(&source, &target).unwrap())
        .unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "data");
    assert_eq!(kernel::only(&target).filesystem, "tmpfs");
    Ok(())
}

pub(crate) fn bind_read_only(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let source = sandbox.path("src/data");
    let writable = sandbox.path("mnt/a");
    let read_only = sandbox.path("mnt/b");
    let mut client = daemon.client();
    client
        .mount(Bind::new(&source, &writable).unwrap())
        .unwrap();
    let made = client
        .mount(Bind::new(&source, &read_only).unwrap().read_only())
        .unwrap();
    assert_eq!(
        kernel::statmount(made.mount.id).attributes & RESTRICTIONS,
        RDONLY | NOSUID | NODEV
    );
    fs::write(writable.join("new"), "x").unwrap();
    let error = fs::write(read_only.join("new"), "y").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "x");
    Ok(())
}

pub(crate) fn attack_09_recursive_only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let inner = sandbox.make_dir("src/data/inner");
    mount_tmpfs(&inner);
    sandbox.write("src/data/inner/secret", "beneath");
    let bind = |target: &Path| Bind::new(sandbox.path("src/data"), target).unwrap();
    let (plain, tree) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));

    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    match client.mount(bind(&plain)) {
        Ok(_) => assert!(
            !plain.join("inner/secret").exists(),
            "a submount shows through"
        ),
        // A mount that came with the user namespace must not be uncovered.
        Err(error) => assert!(!sandbox.is_root, "{error}"),
    }
    client.mount(bind(&tree).recursive().read_only()).unwrap();
    assert_eq!(
        fs::read_to_string(tree.join("inner/secret")).unwrap(),
        "beneath"
    );
    let submount = kernel::only(&tree.join("inner"));
    assert!(
        submount.options.starts_with("ro,nosuid,nodev"),
        "{submount:?}"
    );
    assert!(!submount.shared);
    drop(client);
    daemon.stop();

    sandbox.policy(&POLICY.replace("recursive = true", "recursive = false"));
    let daemon = Daemon::start(sandbox);
    let target = sandbox.make_dir("mnt/c");
    let error = unchanged(|| {
        daemon
            .client()
            .mount(bind(&target).recursive())
            .unwrap_err()
    });
    assert_eq!(error.reason(), Some(DenyReason::RecursiveNotGranted));
    assert_eq!(daemon.last_audit()["reason"], "recursive-not-granted");
    Ok(())
}

/// Watches the mount table while mounts are made: none is ever there without
/// `nosuid` and `nodev`.
pub(crate) fn attack_10_never_without_nosuid(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let (source, target) = (sandbox.path("src/data"), sandbox.path("mnt/a"));
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0_u32;
            while !done.load(Ordering::Relaxed) {
                for line in kernel::at(&target) {
                    assert!(line.options.contains("nosuid,nodev"), "{line:?}");
                    seen += 1;
                }
            }
            seen
        });
        // Also when a round fails, so that the failure is seen.
        let stop = Over(&done);
        let mut client = daemon.client();
        for round in 0..500 {
            let mounted = if round % 2 == 0 {
                client.mount(Bind::new(&source, &target).unwrap())
            } else {
                client.mount(Tmpfs::new(&target).unwrap())
            };
            client.unmount(&mounted.unwrap()).unwrap();
        }
        drop(stop);
        watcher.join().unwrap()
    });
    assert!(seen > 0, "the watcher never saw a mount");
    assert!(kernel::at(&target).is_empty());
    Ok(())
}

/// Makes a directory a mount of its own that other namespaces share.
pub(super) fn share(path: &Path) {
    let no_type = None::<&str>;
    mount(Some(path), path, no_type, MsFlags::MS_BIND, no_type).unwrap();
    mount(no_type, path, no_type, MsFlags::MS_SHARED, no_type).unwrap();
}

pub(crate) fn attack_11_private_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let target = sandbox.path("mnt/a");
    let count_elsewhere = |work: &mut dyn FnMut()| {
        let mut other = roles::command(sandbox, "namespace");
        other
            .arg(&target)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut other = with_ambient(sandbox, &START, || other.spawn().unwrap());
        let mut output = other.stdout.take().unwrap();
        assert_eq!(roles::read_line(&mut output), "ready");
        work();
        drop(other.stdin.take());
        let count: usize = roles::read_line(&mut output).parse().unwrap();
        other.wait().unwrap();
        count
    };
    let bind = || Bind::new(sandbox.path("src/data"), &target).unwrap();

    // On a private mount, from a shared source: nobody else sees it.
    share(&sandbox.path("src"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let elsewhere = count_elsewhere(&mut || {
        client.mount(bind()).unwrap();
        assert!(
            !kernel::only(&target).shared,
            "it is in the source's peer group"
        );
    });
    assert_eq!(elsewhere, 0);
    client
        .unmount(mountwarden_client::Unmount::new(&target).unwrap())
        .unwrap();

    // On a shared mount: refused, because the kernel would copy it.
    share(&sandbox.path("mnt"));
    let elsewhere = count_elsewhere(&mut || {
        let error = unchanged(|| client.mount(bind()).unwrap_err());
        assert_eq!(error.reason(), Some(DenyReason::SharedTarget), "{error}");
    });
    assert_eq!(elsewhere, 0);
    assert_eq!(daemon.last_audit()["reason"], "shared-target");
    drop(client);
    daemon.stop();

    // Granted: copied where the target's mount is shared; itself private.
    sandbox.policy(&POLICY.replace("target = ", "shared_target = true\ntarget = "));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let elsewhere = count_elsewhere(&mut || {
        client.mount(bind()).unwrap();
        assert!(!kernel::only(&target).shared);
    });
    assert_eq!(elsewhere, 1);
    Ok(())
}

pub(crate) fn attack_12_busy_for_another_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let first = client
        .mount(Bind::new(sandbox.path("src/data"), &target).unwrap())
        .unwrap();
    let busy = |error: mountwarden_client::Error| {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(
            error.mount(),
            Some(first.mount.id),
            "it names the mount that is in the way"
        );
    };
    let other_source = Bind::new(sandbox.path("src/other"), &target).unwrap();
    busy(unchanged(|| client.mount(other_source).unwrap_err()));
    let other_flags = Bind::new(sandbox.path("src/data"), &target)
        .unwrap()
        .read_only();
    busy(unchanged(|| client.mount(other_flags).unwrap_err()));
    let other_kind = Tmpfs::new(&target).unwrap();
    busy(unchanged(|| client.mount(other_kind).unwrap_err()));
    assert_eq!(kernel::at(&target).len(), 1);
    if sandbox.is_root {
        let source = sandbox.path("src/other");
        let mount = |uid, source: &Path| {
            outcome(
                daemon
                    .cli_as(uid)
                    .args(["mount", "bind"])
                    .arg(source)
                    .arg(&target),
            )
            .0
        };
        client.unmount(&first).unwrap();
        assert_eq!(mount(ALICE, &sandbox.path("src/data")), 0);
        assert_eq!(
            unchanged(|| mount(BOB, &source)),
            4,
            "busy for another user's mount"
        );
    }
    Ok(())
}

pub(crate) fn attack_17_suid_and_dev_only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let target = sandbox.path("mnt/a");
    let bind = || Bind::new(sandbox.path("src/data"), &target).unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(bind().suid()).unwrap_err());
    assert_eq!(error.reason(), Some(DenyReason::SuidNotGranted));
    let error = unchanged(|| client.mount(bind().dev()).unwrap_err());
    assert_eq!(error.reason(), Some(DenyReason::DevNotGranted));
    drop(client);
    daemon.stop();

    sandbox.policy(&POLICY.replace("target = ", "force = [\"nodev\"]\ntarget = "));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(bind().dev()).unwrap_err());
    assert_eq!(error.reason(), Some(DenyReason::DevNotGranted));
    let made = client.mount(bind().suid()).unwrap();
    assert_eq!(
        kernel::statmount(made.mount.id).attributes & RESTRICTIONS,
        NODEV
    );
    client.unmount(&made).unwrap();
    let made = client.mount(bind()).unwrap();
    assert_eq!(
        kernel::statmount(made.mount.id).attributes & RESTRICTIONS,
        NOSUID | NODEV,
        "what is not asked for is not given"
    );
    Ok(())
}

/// What the grant forces is there although nobody asked for it.
pub(crate) fn attack_17_forced_flags_without_asking(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY
        .replace(
            "target = ",
            "force = [\"nosuid\", \"nodev\", \"noexec\", \"nosymfollow\"]\ntarget = ",
        )
        .replace("recursive = true", "read_only = true");
    sandbox.policy(&policy);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let bind = client.mount(Bind::new(sandbox.path("src/data"), &a).unwrap());
    let tmpfs = client.mount(Tmpfs::new(&b).unwrap());
    for (made, wanted) in [
        (bind.unwrap(), RESTRICTIONS),
        (tmpfs.unwrap(), RESTRICTIONS & !RDONLY),
    ] {
        let has = kernel::statmount(made.mount.id).attributes & RESTRICTIONS;
        assert_eq!(has, wanted, "{made:?}");
    }
    let error = fs::write(a.join("new"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    Ok(())
}

/// Every flag in its own sense: the kernel's word, for each alone and for all.
pub(crate) fn attack_19_flags_are_the_kernels(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("target = ", "force = []\ntarget = "));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let bind = || {
        Bind::new(sandbox.path("src/data"), &target)
            .unwrap()
            .suid()
            .dev()
    };
    let cases: [(Bind, u64, &str); 6] = [
        (bind(), 0, "rw"),
        (bind().read_only(), RDONLY, "ro"),
        (bind().no_exec(), NOEXEC, "noexec"),
        (bind().no_symfollow(), NOSYMFOLLOW, "nosymfollow"),
        (
            Bind::new(sandbox.path("src/data"), &target).unwrap(),
            NOSUID | NODEV,
            "nosuid,nodev",
        ),
        (
            Bind::new(sandbox.path("src/data"), &target)
                .unwrap()
                .read_only()
                .no_exec()
                .no_symfollow(),
            RESTRICTIONS,
            "ro,nosuid,nodev,noexec",
        ),
    ];
    for (request, bits, text) in cases {
        let made = client.mount(request).unwrap();
        assert_eq!(
            kernel::statmount(made.mount.id).attributes & RESTRICTIONS,
            bits,
            "{text}"
        );
        assert!(kernel::only(&target).options.contains(text), "{text}");
        let listed = client.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0], made.mount, "the list says what the reply said");
        client.unmount(&made).unwrap();
    }
    Ok(())
}

pub(crate) fn already_mounted_is_the_same_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let inner = sandbox.make_dir("src/data/inner");
    mount_tmpfs(&inner);
    let data = || Bind::new(sandbox.path("src/other"), sandbox.path("mnt/a")).unwrap();
    let tree = || {
        Bind::new(sandbox.path("src/data"), sandbox.path("mnt/b"))
            .unwrap()
            .recursive()
    };
    let memory = || {
        Tmpfs::new(sandbox.make_dir("mnt/c"))
            .unwrap()
            .size(TmpfsSize::try_from(5000).unwrap())
            .mode(TmpfsMode::try_from(0o711).unwrap())
    };
    let first = [
        client.mount(data()).unwrap(),
        client.mount(tree()).unwrap(),
        client.mount(memory()).unwrap(),
    ];
    let again = unchanged(|| {
        let mut other = daemon.client();
        [
            other.mount(data()).unwrap(),
            other.mount(tree()).unwrap(),
            other.mount(memory()).unwrap(),
        ]
    });
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first.outcome, Outcome::Mounted);
        assert_eq!(again.outcome, Outcome::AlreadyMounted);
        assert_eq!(first.mount, again.mount);
    }
    // The nearest that is not the same.
    let larger = memory().size(TmpfsSize::try_from(9000).unwrap());
    let error = unchanged(|| client.mount(larger).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy);
    mount_tmpfs(&sandbox.make_dir("src/data/later"));
    let error = unchanged(|| client.mount(tree()).unwrap_err());
    assert_eq!(
        error.kind(),
        ErrorKind::Busy,
        "the tree beneath the source has grown"
    );
    Ok(())
}

/// What the source's own mount restricts, a bind of it restricts as well.
pub(crate) fn already_mounted_from_a_restricted_source(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let source = sandbox.make_dir("src/restricted");
    let flags = MsFlags::MS_NOEXEC;
    mount(Some("test"), &source, Some("tmpfs"), flags, None::<&str>).unwrap();
    let bind = || Bind::new(&source, sandbox.path("mnt/a")).unwrap();
    let mut client = daemon.client();
    let made = client.mount(bind()).unwrap();
    assert_eq!(
        kernel::statmount(made.mount.id).attributes & RESTRICTIONS,
        NOSUID | NODEV | NOEXEC
    );
    let again = unchanged(|| client.mount(bind().no_exec()).unwrap());
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    let again = unchanged(|| client.mount(bind()).unwrap());
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    assert_eq!(again.mount, made.mount);
    Ok(())
}

/// Binds as the test itself, with what the helper's policy forces.
pub(super) fn bind_restricted(source: &Path, target: &Path) {
    let bind = |flags: MsFlags| {
        mount(Some(source), target, None::<&str>, flags, None::<&str>).unwrap();
    };
    bind(MsFlags::MS_BIND);
    let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    bind(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | restricted);
}

/// The mounter compares all that lies beneath, however much it is.
pub(crate) fn already_mounted_with_much_beneath(sandbox: &Sandbox) -> Result<(), Skip> {
    let deep = |root: &str| (0..20).fold(root.to_owned(), |path, _| path + "/" + &"d".repeat(100));
    let beneath = deep("src/data");
    for number in 0..150 {
        mount_tmpfs(&sandbox.make_dir(&format!("{beneath}/{number}")));
    }
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = || {
        let bind = Bind::new(sandbox.path("src/data"), sandbox.path("mnt/a")).unwrap();
        bind.recursive()
    };
    assert_eq!(client.mount(bind()).unwrap().outcome, Outcome::Mounted);
    let again = unchanged(|| client.mount(bind()).unwrap());
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    nix::mount::umount(&sandbox.path(&format!("{}/149", deep("mnt/a")))).unwrap();
    let error = unchanged(|| client.mount(bind()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("lacks mounts"), "{error}");
    Ok(())
}

pub(crate) fn concurrent_requests_make_one_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let bind = || Bind::new(sandbox.path("src/data"), &target).unwrap();
    for _ in 0..50 {
        let mut clients: Vec<_> = (0..4).map(|_| daemon.client()).collect();
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| client.mount(bind()).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(
            made.iter()
                .filter(|m| m.outcome == Outcome::Mounted)
                .count(),
            1,
            "{made:?}"
        );
        assert!(
            made.iter().all(|m| m.mount.id == made[0].mount.id),
            "{made:?}"
        );
        assert_eq!(kernel::at(&target).len(), 1);
        clients[0].unmount(&made[0]).unwrap();
        assert!(kernel::at(&target).is_empty());
    }
    Ok(())
}

pub(crate) fn directory_and_file_do_not_mix(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for (source, target) in [("src/data", "mnt/file"), ("src/data/file", "mnt/a")] {
        let bind = Bind::new(sandbox.path(source), sandbox.path(target)).unwrap();
        let error = unchanged(|| client.mount(bind).unwrap_err());
        assert_eq!(error.reply().unwrap().code, ErrorCode::WrongType, "{error}");
    }
    let tmpfs = Tmpfs::new(sandbox.path("mnt/file")).unwrap();
    let error = unchanged(|| client.mount(tmpfs).unwrap_err());
    assert_eq!(error.reply().unwrap().code, ErrorCode::WrongType, "{error}");
    Ok(())
}
