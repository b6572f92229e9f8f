//! `mountwarden-fusermount3`: what it mounts, refuses and unmounts.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::stat;
use nix::unistd::{Uid, chown};
use serde_json::json;

use super::fuseblk::blank;
use super::mounting::share;
use crate::Skip;
use crate::daemon::outcome;
use crate::fuse;
use crate::kernel::{self, unchanged};
use crate::libfuse::{Call, Stand, as_user, call};
use crate::sandbox::{BOB, Sandbox, mount_tmpfs};
use crate::served::{self, CONTENT, HELLO};
use crate::stick;

pub(super) const POLICY: &str = r#"
version = 1

[[grant]]
name = "home"
users = [@USER@]
target_owner = "peer"
passed_target = true
target = ["@DIR@/home/own"]
  [grant.fuse]
  subtypes = ["hello", "e2e*"]
  sources = ["plain"]

[[grant]]
name = "by path"
users = [@USER@, 4002]
target = ["@DIR@/mnt"]
  [grant.fuse]
  subtypes = ["*"]
  sources = ["*"]
  allow_other = true
"#;

/// Each refusal stands beside the nearest request that is allowed, and says what would
/// allow it.
pub(crate) fn attack_17_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let place = stand.place("a");
    let outside = sandbox.make_dir("home/own/b/c");
    stand.give(&outside);
    for (options, place, reason, words) in [
        (
            "subtype=sshfs",
            &place,
            "subtype-not-granted",
            "grant 'home'",
        ),
        (
            "subtype=hello,fsname=other",
            &place,
            "source-name-not-granted",
            "grant 'home'",
        ),
        (
            "subtype=hello,allow_other",
            &place,
            "allow-other-not-granted",
            "grant 'home'",
        ),
        (
            "subtype=hello",
            &sandbox.path("src/data"),
            "target-not-granted",
            "granted roots",
        ),
        (
            "subtype=hello",
            &sandbox.path("home/own"),
            "target-not-granted",
            "granted roots",
        ),
    ] {
        let mut command = stand.fusermount();
        command.args(["-o", options, "--"]).arg(place);
        let (status, out, error, connection) = unchanged(|| call(command));
        assert!(connection.is_none());
        assert_eq!((status, out.as_str()), (1, ""), "{options}: {error}");
        assert!(error.contains(words), "{options}: {error}");
        assert_eq!(stand.daemon.last_audit()["reason"], reason, "{error}");
    }
    // What the helper is never asked.
    for (options, words) in [
        ("subtype=hello,sync", "option sync is refused"),
        ("subtype=hello,blkdev", "option blkdev is refused"),
        (
            "subtype=hello,fsname=x,blkdev",
            r#"the device "x" is refused"#,
        ),
        ("subtype=a b", "the subtype is refused"),
        (r"subtype=hello,fsname=a\,b", "the source is refused"),
    ] {
        let lines = stand.daemon.audit().len();
        let mut command = stand.fusermount();
        command.args(["-o", options, "--"]).arg(&place);
        let (status, _, error, _) = unchanged(|| call(command));
        assert_eq!(status, 1, "{options}");
        assert!(error.contains(words), "{options}: {error}");
        assert_eq!(stand.daemon.audit().len(), lines);
    }
    let mut command = stand.fusermount();
    command
        .args(["-o", "subtype=hello,fsname=plain"])
        .arg(&place);
    let (status, _, error, connection) = call(command);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(connection.is_some());
    // Without a helper nothing is done, and even -q says so.
    let mut command = stand.fusermount();
    command
        .env("MOUNTWARDEN_SOCKET", "/no/such/socket")
        .arg("-uq")
        .arg(&place);
    let (status, _, error) = unchanged(|| outcome(&mut command));
    assert_eq!(status, 1);
    assert!(error.contains("no helper at /no/such/socket"), "{error}");
    Ok(())
}

/// A device comes as `fsname`, where the grant has it.
pub(crate) fn on_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    let disk = blank(sandbox, &[])?;
    let device = disk.path().to_str().unwrap();
    let granted = format!("sources = [\"plain\"]\n  device = [\"{device}\"]");
    let stand = Stand::start(
        sandbox,
        &POLICY.replacen("sources = [\"plain\"]", &granted, 1),
    )?;
    let place = stand.place("a");
    let options = |device: &str| format!("subtype=hello,fsname={device},blkdev,blksize=1024");
    let mut command = stand.fusermount();
    command.args(["-o", &options("/dev/sda"), "--"]).arg(&place);
    let (status, _, error, _) = unchanged(|| call(command));
    assert_eq!(status, 1);
    assert!(
        error.contains("grant 'home' has only these devices"),
        "{error}"
    );
    let connection = mounted(&stand, &options(device), &place);
    assert_eq!(kernel::only(&place).filesystem, "fuseblk.hello");
    let server = stick::serve(connection, disk.path(), &place);
    let mut command = stand.fusermount();
    let (status, _, error) = outcome(command.arg("-u").arg(&place));
    assert_eq!((status, error.as_str()), (0, ""));
    server.join();
    assert_eq!(kernel::at(&place), []);
    Ok(())
}

/// Mounts, and gives the connection.
fn mounted(stand: &Stand<'_>, options: &str, place: &Path) -> OwnedFd {
    let mut command = stand.fusermount();
    command.args(["-o", options, "--"]).arg(place);
    let (status, _, error, connection) = call(command);
    assert_eq!((status, error.as_str()), (0, ""), "{options}");
    connection.unwrap()
}

fn unmount(stand: &Stand<'_>, flags: &str, place: &Path) -> (i32, String) {
    let (status, _, error) = outcome(stand.fusermount().arg(flags).arg("--").arg(place));
    (status, error)
}

/// Whoever has it serves; a mount point may be a file.
pub(crate) fn the_connection_comes_over_the_socket(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let options = "subtype=hello,fsname=plain,allow_other,default_permissions,ro";
    let file = sandbox.path("mnt/file");
    stand.give(&file);
    for (place, read) in [
        (sandbox.path("mnt/a"), sandbox.path("mnt/a").join(HELLO)),
        (file.clone(), file),
    ] {
        let is_file = place == read;
        let server = served::serve(mounted(&stand, options, &place), is_file);
        assert_eq!(fs::read_to_string(&read).unwrap(), CONTENT);
        let line = kernel::only(&place);
        assert_eq!(
            (line.filesystem.as_str(), line.source.as_str()),
            ("fuse.hello", "plain")
        );
        assert!(
            line.super_options
                .contains("default_permissions,allow_other"),
            "{line:?}"
        );
        assert!(line.options.starts_with("ro,nosuid,nodev"), "{line:?}");
        assert_eq!(unmount(&stand, "-u", &place), (0, String::new()));
        server.join().unwrap();
        assert!(kernel::at(&place).is_empty());
    }
    // Without a subtype it bears the caller's name, as if libfuse had given it.
    let program = std::env::current_exe().unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let place = stand.place("a");
    let connection = mounted(&stand, "fsname=plain", &place);
    assert_eq!(kernel::only(&place).filesystem, format!("fuse.{name}"));
    drop(connection);
    assert_eq!(unmount(&stand, "-uz", &place), (0, String::new()));
    // By the number on the command line, which counts before the environment's.
    let mut command = stand.fusermount();
    command.args(["--comm-fd", "99"]).arg(&place);
    let (status, _, error, _) = unchanged(|| call(command));
    assert_eq!(
        (status, error.contains("descriptor 99")),
        (1, true),
        "{error}"
    );
    Ok(())
}

/// The helper's user may not enter it: the target goes as a descriptor.
pub(crate) fn a_private_home(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let stand = Stand::start(sandbox, POLICY)?;
    let place = stand.place("a");
    let server = served::serve(mounted(&stand, "subtype=hello", &place), false);
    assert_eq!(stand.daemon.last_audit()["passed"], "target");
    let (status, text) = stand.shell("cat \"$1\"", &place.join(HELLO), "");
    assert_eq!((status, text.as_str()), (0, CONTENT));
    assert_eq!(unmount(&stand, "-u", &place), (0, String::new()));
    assert_eq!(stand.daemon.last_audit()["passed"], "target");
    server.join().unwrap();

    // Not the user's own any more.
    chown(&place, Some(Uid::from_raw(0)), None).unwrap();
    let mut command = stand.fusermount();
    command.args(["-o", "subtype=hello"]).arg(&place);
    let (status, _, error, _) = unchanged(|| call(command));
    assert_eq!(status, 1, "{error}");
    assert_eq!(
        stand.daemon.last_audit()["reason"],
        "target-not-owned",
        "{error}"
    );
    Ok(())
}

/// A program as the user, in a mount namespace of its own.
fn elsewhere(stand: &Stand<'_>, program: &str) -> Result<Command, Skip> {
    let within = |program: &str| {
        let mut command = stand.run("/usr/bin/unshare");
        command.args(["--user", "--map-current-user", "--mount"]);
        command.args(["--propagation", "unchanged", "--", program]);
        command
    };
    let tried = within("/bin/true").status();
    if !tried.is_ok_and(|status| status.success()) {
        return Err(Skip("unshare(1) makes no user namespace here".to_owned()));
    }
    Ok(within(program))
}

/// What the setuid program would mount there, as in a container, would appear elsewhere: a
/// descriptor from there is refused, and what was mounted by its path is ended again.
pub(crate) fn attack_05_from_another_namespace(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let not_there = "does not show the mount that was made";
    let of_another = "lies on a mount that is not in the helper's mount namespace";
    for (place, words) in [
        // The helper's user reaches it by its path where that is the user.
        (
            stand.place("a"),
            if sandbox.is_root {
                of_another
            } else {
                not_there
            },
        ),
        (sandbox.path("mnt/a"), not_there),
    ] {
        let mut command = elsewhere(&stand, &stand.own())?;
        command.args(["-o", "subtype=e2e", "--"]).arg(&place);
        let (status, _, error, connection) = unchanged(|| call(command));
        assert_eq!((status, connection.is_none()), (1, true), "{error}");
        assert!(error.contains(words), "{error}");
        drop(mounted(&stand, "subtype=e2e", &place));
        assert_eq!(unmount(&stand, "-uz", &place), (0, String::new()));
    }
    Ok(())
}

/// A service that systemd confines has such a namespace, to which mounts spread. It sees copies,
/// which have ids of their own.
pub(crate) fn where_mounts_spread(sandbox: &Sandbox) -> Result<(), Skip> {
    share(&sandbox.path("mnt"));
    let keys = "passed_target = true\nshared_target = true\ntarget = [\"@DIR@/mnt\"]";
    let stand = Stand::start(sandbox, &POLICY.replace("target = [\"@DIR@/mnt\"]", keys))?;
    let place = sandbox.path("mnt/a");
    for options in ["subtype=hello", "subtype=hello,auto_unmount"] {
        let mut command = elsewhere(&stand, &stand.own())?;
        command.args(["-o", options, "--"]).arg(&place);
        let call = Call::begin(command);
        let connection = call.received();
        assert!(connection.is_some(), "{:?}", call.ended());
        assert_eq!(kernel::only(&place).filesystem, "fuse.hello");
        if options.ends_with("auto_unmount") {
            drop(connection);
            assert!(call.close().wait().unwrap().success());
        } else {
            assert_eq!(call.ended().0, 0);
            let mut command = elsewhere(&stand, &stand.own())?;
            let (status, _, error) = outcome(command.arg("-u").arg(&place));
            assert_eq!((status, error.as_str()), (0, ""));
        }
        assert_eq!(kernel::at(&place), []);
        let last = stand.daemon.last_audit();
        assert_eq!(
            (&last["event"], &last["result"]),
            (&json!("unmount"), &json!("unmounted"))
        );
    }
    Ok(())
}

/// Where the grant takes no descriptor, the target is asked for by its path.
pub(crate) fn a_target_by_its_path(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let stand = Stand::start(sandbox, &POLICY.replace("passed_target = true\n", ""))?;
    let place = sandbox.path("mnt/a");
    drop(mounted(&stand, "subtype=hello", &place));
    let audit = stand.daemon.audit();
    assert_eq!(audit.len(), 1, "no denial is written down: {audit:?}");
    assert_eq!(unmount(&stand, "-u", &place), (0, String::new()));
    let mut command = stand.fusermount();
    command.args(["-o", "subtype=hello"]).arg(stand.place("a"));
    let (status, _, error, _) = unchanged(|| call(command));
    assert_eq!(status, 1);
    let advice = "ask the administrator for passed_target";
    assert!(
        error.contains("Permission denied") && error.contains(advice),
        "{error}"
    );
    Ok(())
}

/// Neither what is no FUSE file system nor another user's is ended.
pub(crate) fn unmounts_its_users_own(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let stand = Stand::start(sandbox, POLICY)?;
    let place = sandbox.path("mnt/a");
    let words = "no FUSE file system of yours is mounted at";
    let not_ours = || {
        let (status, error) = unchanged(|| unmount(&stand, "-u", &place));
        assert_eq!((status, error.contains(words)), (1, true), "{error}");
        assert_eq!(
            unchanged(|| unmount(&stand, "-uq", &place)),
            (1, String::new())
        );
    };
    not_ours();
    mount_tmpfs(&place);
    not_ours();
    umount2(&place, MntFlags::empty()).unwrap();
    let connection = mounted(&stand, "subtype=hello", &place);
    let own = stand.own();
    let as_bob = || {
        let mut command = as_user(sandbox, &own, BOB);
        outcome(command.arg("-u").arg(&place))
    };
    let (status, _, error) = unchanged(as_bob);
    assert_eq!((status, error.contains(words)), (1, true), "{error}");
    // A mount on it hides it.
    let device = fuse::device()?;
    fuse::attach(&device, &sandbox.path("mnt/b"), true)?;
    let (status, error) = unchanged(|| unmount(&stand, "-u", &sandbox.path("mnt/b")));
    assert_eq!((status, error.contains(words)), (1, true), "{error}");
    assert_eq!(unmount(&stand, "-u", &place), (0, String::new()));
    drop(connection);
    // What is granted decides at last.
    let place = sandbox.make_dir("elsewhere");
    let device = fuse::device()?;
    let options = format!(
        "fd={},rootmode=40000,user_id={1},group_id={1}",
        device.as_raw_fd(),
        stand.user
    );
    let flags = MsFlags::empty();
    mount(
        Some("x"),
        &place,
        Some("fuse"),
        flags,
        Some(options.as_str()),
    )
    .unwrap();
    let (status, error) = unchanged(|| unmount(&stand, "-u", &place));
    assert_eq!(
        (status, error.contains("granted roots")),
        (1, true),
        "{error}"
    );
    assert_eq!(stand.daemon.last_audit()["reason"], "target-not-granted");
    Ok(())
}

/// A mount in use is busy, but for `-z`; one without a server is ended like any.
pub(crate) fn dead_and_busy(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let place = sandbox.path("mnt/a");
    let server = served::serve(mounted(&stand, "subtype=hello,allow_other", &place), false);
    let held = fs::File::open(place.join(HELLO)).unwrap();
    let (status, error) = unchanged(|| unmount(&stand, "-u", &place));
    assert_eq!((status, error.contains("is in use")), (1, true), "{error}");
    assert_eq!(
        unchanged(|| unmount(&stand, "-uq", &place)),
        (1, String::new())
    );
    assert_eq!(unmount(&stand, "-uz", &place), (0, String::new()));
    assert!(kernel::at(&place).is_empty());
    drop(held);
    server.join().unwrap();
    for flags in ["-u", "-uqz"] {
        for place in [&place, &stand.place("a")] {
            drop(mounted(&stand, "subtype=hello", place));
            let dead = stat(place).unwrap_err();
            let never_served = [Errno::ENOTCONN, Errno::ECONNREFUSED, Errno::EACCES];
            assert!(never_served.contains(&dead), "{dead}");
            assert_eq!(unmount(&stand, flags, place), (0, String::new()));
            assert!(kernel::at(place).is_empty());
        }
    }
    Ok(())
}

/// A package's script may mistake it for the program that it stands in for.
pub(crate) fn it_does_nothing_setuid(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let stand = Stand::start(sandbox, POLICY)?;
    let place = stand.place("a");
    let program = sandbox.path("bin/setuid/fusermount3");
    sandbox.make_dir("bin/setuid");
    fs::copy(sandbox.path("bin/e2e"), &program).unwrap();
    let with = |mode| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = as_user(sandbox, program.to_str().unwrap(), stand.user);
        command.args(["-o", "subtype=hello", "--"]).arg(&place);
        call(command)
    };
    let (status, out, error, connection) = unchanged(|| with(0o4755));
    assert_eq!((status, out.as_str(), connection.is_none()), (1, "", true));
    assert!(error.contains("is not to be setuid"), "{error}");
    assert_eq!(stand.daemon.audit(), Vec::<serde_json::Value>::new());
    let (status, _, error, connection) = with(0o755);
    assert_eq!((status, connection.is_some()), (0, true), "{error}");
    Ok(())
}
