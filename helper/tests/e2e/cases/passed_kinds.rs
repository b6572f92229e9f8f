//! Passed locations and the other things that a mount may be.

use std::fs::{self, File};
use std::path::Path;

use mountwarden_client::{
    Bind, Block, Client, DenyReason, ErrorKind, Fuse, FuseMount, Mounted, Outcome, Passing, Unmount,
};
use nix::libc;

use super::passed::{mount_at, policy, private};
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::{Disk, open_fuse_to_all};
use crate::kernel::{self, unchanged};
use crate::oddities::open;
use crate::sandbox::Sandbox;
use crate::served::{self, CONTENT, HELLO};
use crate::stick::{self, DATA, SIZE};

/// The file system of a device goes to a passed target as well; the device is never
/// passed.
pub(crate) fn a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let device = disk.path().to_str().unwrap();
    let grant = format!("[grant.block]\ndevice = [{device:?}]\nfilesystems = [\"ext4\"]\n");
    sandbox.policy(&(policy() + &grant));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let block = || Block::new(disk.path(), "ext4", &target).unwrap();

    let to = File::open(&target).unwrap();
    let both = Passing::new().target(&to).source(&to);
    let error = unchanged(|| client.mount_passing(block(), both).unwrap_err());
    assert_eq!(
        error.reason(),
        Some(DenyReason::PassedNotGranted),
        "{error}"
    );
    let made = mount_at(&mut client, block(), &target).unwrap();
    assert_eq!(made, Outcome::Mounted);
    assert_eq!(daemon.last_audit()["passed"], "target");
    assert_eq!(kernel::only(&target).filesystem, "ext4");
    let again = mount_at(&mut client, block(), &target).unwrap();
    assert_eq!(again, Outcome::AlreadyMounted);

    let root = open(&target, libc::O_PATH, 0);
    let unmount = Unmount::new(&target).unwrap().lazy();
    client.unmount_passing(unmount, &root).unwrap();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}

/// So does one that a client serves, who gets the connection as ever.
pub(crate) fn a_served_file_system(sandbox: &Sandbox) -> Result<(), Skip> {
    open_fuse_to_all(sandbox)?;
    sandbox.policy(&(policy() + "[grant.fuse]\nsubtypes = [\"hello\"]\n"));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let fuse = Fuse::new("hello", &target).unwrap();
    let made = at_its_target(&daemon, &mut client, &target, &fuse);
    let server = served::serve(made.connection, false);
    assert_eq!(fs::read_to_string(target.join(HELLO)).unwrap(), CONTENT);

    end(&mut client, &target, &made.mounted);
    server.join().unwrap();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}

/// Mounts at a target that takes a descriptor, and takes none for anything else.
fn at_its_target(daemon: &Daemon, client: &mut Client, target: &Path, fuse: &Fuse) -> FuseMount {
    let error = unchanged(|| client.mount_fuse(fuse.clone()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let to = File::open(target).unwrap();
    let both = Passing::new().target(&to).source(&to);
    let error = unchanged(|| client.mount_fuse_passing(fuse.clone(), both).unwrap_err());
    assert_eq!(
        error.reason(),
        Some(DenyReason::PassedNotGranted),
        "{error}"
    );
    let only = Passing::new().target(&to);
    let made = client.mount_fuse_passing(fuse.clone(), only).unwrap();
    assert_eq!(daemon.last_audit()["passed"], "target");
    made
}

/// Ends it by its root.
fn end(client: &mut Client, target: &Path, mounted: &Mounted) {
    let root = open(target, libc::O_PATH, 0);
    let unmount = Unmount::from(mounted).lazy();
    client.unmount_passing(unmount, &root).unwrap();
}

/// And one that is on a device.
pub(crate) fn a_served_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    open_fuse_to_all(sandbox)?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let device = disk.path().to_str().unwrap();
    let grant = format!("[grant.fuse]\nsubtypes = [\"stick\"]\ndevice = [{device:?}]\n");
    sandbox.policy(&(policy() + &grant));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let fuse = Fuse::new("stick", &target).unwrap();
    let fuse = fuse.device(disk.path(), None).unwrap();
    let made = at_its_target(&daemon, &mut client, &target, &fuse);
    assert_eq!(kernel::only(&target).filesystem, "fuseblk.stick");
    let server = stick::serve(made.connection, disk.path(), &target);
    assert_eq!(fs::read(target.join(DATA)).unwrap().len(), SIZE);

    end(&mut client, &target, &made.mounted);
    server.join();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}

/// No mount is left by the command whose program does not start.
pub(crate) fn a_program_that_does_not_start(sandbox: &Sandbox) -> Result<(), Skip> {
    // A command has no capability, with which it could open what is private here.
    sandbox.needs_root()?;
    open_fuse_to_all(sandbox)?;
    sandbox.policy(&(policy() + "[grant.fuse]\nsubtypes = [\"hello\"]\n"));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    unchanged(|| {
        let mut command = daemon.cli();
        command.args(["mount", "fuse"]).arg(&target);
        command.args(["--subtype", "hello", "--pass-target"]);
        let (status, _, error) = outcome(command.args(["--", "/no/such/program"]));
        assert_eq!(status, 1, "{error}");
        assert!(error.contains("cannot be started"), "{error}");
        assert!(!error.contains("still there"), "{error}");
    });
    Ok(())
}

/// A lease ends by the directory above the target, which nobody here has of a passed
/// one. A source may be passed, and who ends the mount by its root gives the lease back.
pub(crate) fn a_lease(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let limits = "[limits]\nconnections_per_user = 1\n[[grant]]";
    sandbox.policy(&policy().replacen("[[grant]]", limits, 1));
    let target = sandbox.path("mnt/a");
    let source = private(sandbox, "src/home/data");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let (to, from) = (File::open(&target).unwrap(), File::open(&source).unwrap());
    let bind = || Bind::new(&source, &target).unwrap().leased();

    let both = Passing::new().target(&to).source(&from);
    let error = unchanged(|| client.mount_passing(bind(), both).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("cannot be leased"), "{error}");
    let only = Passing::new().source(&from);
    client.mount_passing(bind(), only).unwrap();
    let root = open(&target, libc::O_PATH, 0);
    let unmount = Unmount::new(&target).unwrap().lazy();
    client.unmount_passing(unmount, &root).unwrap();
    drop(root);

    client.mount_passing(bind(), only).unwrap();
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    Ok(())
}
