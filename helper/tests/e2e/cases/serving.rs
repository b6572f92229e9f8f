//! FUSE file systems: the helper mounts, an unprivileged program serves.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mountwarden_client::protocol::{Operation, Request};
use mountwarden_client::{DenyReason, ErrorKind, Fuse, MountAttributes, Outcome, Unmount};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::stat;
use nix::unistd::{getegid, geteuid};

use super::between::wait_for_lock;
use super::confinement::only;
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::open_fuse_to_all;
use crate::fuse;
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;
use crate::served::{self, CONTENT, HELLO};
use crate::wire::{Wire, body};

/// `daemon`, a normal user with an account on every system: some programs look it up.
const DAEMON: u32 = 1;

const POLICY: &str = r#"
version = 1

[[grant]]
name = "served"
users = [@UID@, 1]
target = ["@DIR@/mnt"]
  [grant.fuse]
  subtypes = ["hello", "squash*", "sshfs"]
  sources = ["registry:*/volume", "plain"]

[[grant]]
name = "shared"
users = [@UID@]
target = ["@DIR@/all"]
  [grant.fuse]
  subtypes = ["*"]
  sources = ["*"]
  allow_other = true
  default_permissions = true
  read_only = true
"#;

fn start(sandbox: &Sandbox) -> Result<Daemon, Skip> {
    open_fuse_to_all(sandbox)?;
    sandbox.make_dir("all/a");
    sandbox.policy(POLICY);
    Ok(Daemon::start(sandbox))
}

/// Mounted by the helper, served by this process, read through the kernel.
pub(crate) fn a_client_serves_it(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client
        .mount_fuse(Fuse::new("hello", &target).unwrap())
        .unwrap();
    assert_eq!(made.mounted.outcome, Outcome::Mounted);
    let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    assert_eq!(made.mounted.mount.attributes, forced);
    let server = served::serve(made.connection, false);
    assert_eq!(fs::read_to_string(target.join(HELLO)).unwrap(), CONTENT);
    assert_eq!(daemon.last_audit()["type"], "fuse.hello");
    let listed = client.list().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].id, made.mounted.mount.id);

    client.unmount(&made.mounted).unwrap();
    server.join().unwrap();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}

/// It goes with the client, although its program holds the connection and goes on.
pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let fuse = || Fuse::new("hello", &target).unwrap().leased();
    let unmounted = match client.mount_fuse(fuse()) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Err(Skip(error.to_string()));
        }
        made => made.unwrap(),
    };
    client.unmount(&unmounted.mounted).unwrap();
    assert!(client.lease_end().is_none());

    let made = client.mount_fuse(fuse()).unwrap();
    assert!(client.lease_end().is_some());
    let server = served::serve(made.connection, false);
    assert_eq!(fs::read_to_string(target.join(HELLO)).unwrap(), CONTENT);
    drop(client);
    server.join().unwrap();
    assert_eq!(kernel::at(&target), []);
    let record = wait_for("its line", || {
        Some(daemon.last_audit()).filter(|line| line["event"] == "lease-end")
    });
    assert_eq!(record["id"], u64::from(made.mounted.mount.id), "{record}");
    assert_eq!(record["result"], "unmounted", "{record}");

    // A lost one is told before another file system is made.
    let mut client = daemon.client();
    let made = client.mount_fuse(fuse()).unwrap();
    kill(only(&daemon, "mw-session"), Signal::SIGKILL).unwrap();
    let mut end = [PollFd::new(client.lease_end().unwrap(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut end, PollTimeout::NONE), Ok(1));
    let error = client.mount_fuse(fuse()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    drop(made);
    wait_for("the lost one ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    Ok(())
}

/// Who serves it is what the kernel says of the peer, whatever the client is.
pub(crate) fn attack_17_identity_is_the_kernels(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let ours = format!("user_id={},group_id={}", geteuid(), getegid());
    let target = sandbox.path("mnt/a");
    let own = Fuse::new("hello", &target)
        .unwrap()
        .source("registry:7/volume")
        .unwrap();
    let _own = client.mount_fuse(own.max_read(8192)).unwrap();
    let line = kernel::only(&target);
    assert_eq!(line.filesystem, "fuse.hello");
    assert_eq!(line.source, "registry:7/volume");
    assert_eq!(line.super_options, format!("rw,{ours},max_read=8192"));

    let target = sandbox.path("all/a");
    let others = Fuse::new("any", &target).unwrap().allow_other();
    let _others = client.mount_fuse(others).unwrap();
    let line = kernel::only(&target);
    assert_eq!(line.source, "any");
    assert!(line.options.starts_with("ro,"), "{line:?}");
    assert_eq!(
        line.super_options,
        format!("rw,{ours},default_permissions,allow_other")
    );
    Ok(())
}

/// Each refusal stands beside the nearest request that is allowed.
pub(crate) fn attack_17_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let fuse = |subtype| Fuse::new(subtype, &target).unwrap();
    let named = |source| fuse("hello").source(source).unwrap();
    for (request, reason) in [
        (fuse("hello2"), DenyReason::SubtypeNotGranted),
        (fuse("ssh"), DenyReason::SubtypeNotGranted),
        (named("registry:7/other"), DenyReason::SourceNameNotGranted),
        (
            named("registry:7/8/volume"),
            DenyReason::SourceNameNotGranted,
        ),
        (named("/dev/sda1"), DenyReason::SourceNameNotGranted),
        (
            fuse("hello").allow_other(),
            DenyReason::AllowOtherNotGranted,
        ),
        (fuse("hello").suid(), DenyReason::SuidNotGranted),
        (fuse("hello").dev(), DenyReason::DevNotGranted),
        (
            Fuse::new("hello", sandbox.path("src/data")).unwrap(),
            DenyReason::TargetNotGranted,
        ),
    ] {
        let error = unchanged(|| client.mount_fuse(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(daemon.last_audit()["reason"], reason.name());
    }
    let allowed = named("plain").default_permissions().no_exec();
    let made = client.mount_fuse(allowed).unwrap();
    assert!(
        made.mounted
            .mount
            .attributes
            .contains(MountAttributes::NO_EXEC)
    );
    Ok(())
}

/// A program may serve a single file.
pub(crate) fn a_file_serves_as_well(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/file");
    let made = client
        .mount_fuse(Fuse::new("hello", &target).unwrap())
        .unwrap();
    let server = served::serve(made.connection, true);
    assert_eq!(fs::read_to_string(&target).unwrap(), CONTENT);
    client.unmount(&made.mounted).unwrap();
    server.join().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "covered");
    Ok(())
}

/// There is one connection, so that the same again is not what is there.
pub(crate) fn attack_12_busy_for_another(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let fuse = || Fuse::new("hello", &target).unwrap();
    let made = client.mount_fuse(fuse()).unwrap();
    for _ in ["not served yet", "dead"] {
        let error = unchanged(|| client.mount_fuse(fuse()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(error.mount(), Some(made.mounted.mount.id));
    }
    // Nothing keeps it alive but the connection, which the helper has no copy of.
    drop(made.connection);
    // Newer kernels say that no program ever served it (7.3).
    let dead = stat(&target).unwrap_err();
    assert!(matches!(dead, Errno::ENOTCONN | Errno::ECONNREFUSED));
    let error = unchanged(|| client.mount_fuse(fuse()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    client.unmount(Unmount::from(&made.mounted)).unwrap();
    client.mount_fuse(fuse()).unwrap();
    Ok(())
}

/// A client that is gone when its connection would be sent leaves no dead mount behind.
pub(crate) fn attack_30_a_client_that_is_gone_leaves_nothing(
    sandbox: &Sandbox,
) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let below = sandbox.make_dir("mnt/below");
    let holding = fuse::Server::start(&below)?;
    let fuse = Fuse::new("hello", below.join("leaf")).unwrap();
    unchanged(|| {
        let mut wire = Wire::open(&daemon.socket);
        let mounter = only(&daemon, "mw-mounter");
        let request = Request::Perform(Operation::from(fuse.clone()));
        holding.hold(|hold| {
            wire.send_body(&body(&request));
            wait_for_lock(mounter);
            drop(wire);
            hold.let_go();
        });
        wait_for("it was taken back", || {
            let lines = daemon.audit();
            lines
                .iter()
                .any(|line| line["code"] == "unavailable")
                .then_some(())
        });
    });
    let lines = daemon.audit();
    let [.., made, taken_back] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(made["result"], "mounted");
    assert_eq!(taken_back["by"], "mounter");
    let message = taken_back["message"].as_str().unwrap();
    assert!(message.contains("was ended again"), "{message}");
    // The place is free.
    daemon.client().mount_fuse(fuse).unwrap();
    Ok(())
}

/// The program waits for what the kernel asks: nothing was asked before it began.
pub(crate) fn the_kernel_waits_for_the_program(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let made = daemon
        .client()
        .mount_fuse(Fuse::new("hello", sandbox.path("mnt/a")).unwrap())
        .unwrap();
    let mut polled = [PollFd::new(made.connection.as_fd(), PollFlags::POLLIN)];
    // `FUSE_INIT` waits to be read.
    let ready = poll(
        &mut polled,
        PollTimeout::try_from(Duration::from_secs(10)).unwrap(),
    );
    assert_eq!(ready, Ok(1));
    Ok(())
}

/// Programs that are not ours, as they are packaged, in the hands of a normal user.
fn runs(sandbox: &Sandbox, subtype: &str, program: &[&str], source: &Path) -> Result<(), Skip> {
    if Command::new(program[0]).arg("--version").output().is_err() {
        return Err(Skip(format!("{} is not installed", program[0])));
    }
    let daemon = start(sandbox)?;
    let user = if sandbox.is_root {
        DAEMON
    } else {
        geteuid().as_raw()
    };
    let cli = || {
        if sandbox.is_root {
            daemon.cli_as(DAEMON)
        } else {
            daemon.cli()
        }
    };
    let mut command = cli();
    let target = sandbox.path("mnt/a");
    command
        .args(["mount", "fuse"])
        .arg(&target)
        .args(["--subtype", subtype, "--"]);
    command.args(program).arg(source).arg("/dev/fd/{fd}");
    let mut serving = command.spawn().unwrap();
    wait_for("it serves", || {
        let ended = serving.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "{program:?} ended: {ended:?}\n{}",
            daemon.log()
        );
        kernel::at(&target).first().map(drop)
    });
    let line = kernel::only(&target);
    assert_eq!(line.filesystem, format!("fuse.{subtype}"));
    assert!(
        line.super_options.contains(&format!("user_id={user},")),
        "{line:?}"
    );
    // Nobody else, root included, is let in.
    let mut read = Command::new("cat");
    if sandbox.is_root {
        read.uid(DAEMON).gid(DAEMON);
    }
    let (status, text, error) = outcome(read.arg(target.join("file")));
    assert_eq!((status, text.as_str()), (0, "data"), "{error}");
    let (status, _, error) = outcome(cli().arg("unmount").arg(&target));
    assert_eq!(status, 0, "{error}");
    // Its file system has ended, and so does it.
    serving.wait().unwrap();
    Ok(())
}

pub(crate) fn squashfuse_as_a_user(sandbox: &Sandbox) -> Result<(), Skip> {
    let image = sandbox.path("src/image");
    let mut make = Command::new("mksquashfs");
    make.arg(sandbox.path("src/data"))
        .arg(&image)
        .args(["-quiet", "-no-progress"]);
    match make.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => return Err(Skip(format!("mksquashfs cannot be started: {error}"))),
    }
    runs(sandbox, "squashfuse", &["squashfuse", "-f"], &image)
}

/// Read and written, by libfuse 3 as sshfs brings it.
pub(crate) fn sshfs_as_a_user(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = "/usr/lib/openssh/sftp-server";
    if !Path::new(server).exists() {
        return Err(Skip(format!("{server} is not installed")));
    }
    // It reads its mode from the environment of no shell: the "connection" is a pipe.
    let script = sandbox.write("sftp", &format!("#!/bin/sh\nexec {server}\n"));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("ssh_command={}", script.display());
    let source = format!("host:{}", sandbox.path("src/data").display());
    runs(
        sandbox,
        "sshfs",
        &["sshfs", "-f", "-o", &command],
        Path::new(&source),
    )
}

/// A program that does not start leaves no mount behind.
pub(crate) fn a_program_that_does_not_start(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let target = sandbox.path("mnt/a");
    let words = |program: &[&str]| {
        let mut command = daemon.cli();
        command
            .args(["mount", "fuse"])
            .arg(&target)
            .args(["--subtype", "hello"])
            .args(program);
        command
    };
    unchanged(|| {
        let (status, _, error) = outcome(&mut words(&["--", "/no/such/program"]));
        assert_eq!(status, 1, "{error}");
        let expected = "the program \"/no/such/program\" cannot be started";
        assert!(error.contains(expected), "{error}");
        let (status, _, error) = outcome(&mut words(&[]));
        assert_eq!(status, 9, "{error}");
        assert!(
            error.contains("a FUSE file system needs its program"),
            "{error}"
        );
    });
    Ok(())
}
