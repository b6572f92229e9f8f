//! FUSE file systems on devices, in the hands of a client, or of a program, that means harm.

use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;

use mountwarden_client::{Batch, Block, Detach, ErrorKind, Fuse, Image, Overlay, Tmpfs};
use nix::libc;

use super::fuseblk::{POLICY, blank, fuse, policy, start};
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::devices::run;
use crate::kernel::{self, descendants, unchanged};
use crate::sandbox::Sandbox;
use crate::stick::{self, DATA};

/// One device has one file system, whoever asks and however: the kernel would show another
/// program's again.
pub(crate) fn attack_12_one_file_system_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(disk.path()))?;
    let mut client = daemon.client();
    let (target, all) = (sandbox.path("mnt/a"), sandbox.path("all/a"));
    let busy = |fuse: Fuse| {
        let error = unchanged(|| daemon.client().mount_fuse(fuse).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        error
    };
    let block = || Block::new(disk.path(), "ext4", sandbox.path("mnt/b")).unwrap();

    let first = client.mount_fuse(fuse(&disk, &target)).unwrap();
    for other in [
        fuse(&disk, &all),
        fuse(&disk, &all).allow_other().read_only(),
    ] {
        assert_eq!(busy(other).errno(), Some(libc::EBUSY));
    }
    let error = busy(fuse(&disk, &target));
    assert!(error.to_string().contains("is served once"), "{error}");
    let error = unchanged(|| client.mount(block()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    client.unmount(&first.mounted).unwrap();

    let mounted = client.mount(block()).unwrap();
    assert_eq!(busy(fuse(&disk, &all)).errno(), Some(libc::EBUSY));
    client.unmount(&mounted).unwrap();

    let held = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(disk.path())
        .unwrap();
    assert_eq!(busy(fuse(&disk, &all)).errno(), Some(libc::EBUSY));
    drop(held);
    client.mount_fuse(fuse(&disk, &all)).unwrap();
    Ok(())
}

/// What lies at a granted path must be a device, and the link to it a straight one.
pub(crate) fn attack_13_anything_else_is_no_device(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let link = |name: &str, to: &Path| symlink(to, sandbox.path(&format!("links/{name}"))).unwrap();
    link("straight", disk.path());
    link("twice", &sandbox.path("links/straight"));
    link("directory", &sandbox.path("src"));
    link("file", &sandbox.path("disk"));
    link("fuse", Path::new("/dev/fuse"));
    link("nowhere", Path::new("/dev/mountwarden-nowhere"));
    let at = |name: &str| {
        let fuse = Fuse::new("stick", &target).unwrap();
        let path = sandbox.path(&format!("links/{name}"));
        fuse.device(path, None).unwrap()
    };
    for (name, kind, why) in [
        ("twice", ErrorKind::Changed, "does not lead straight"),
        ("directory", ErrorKind::WrongType, "is not a block device"),
        ("file", ErrorKind::WrongType, "is not a block device"),
        ("fuse", ErrorKind::WrongType, "is not a block device"),
        ("nowhere", ErrorKind::NotFound, "cannot find the device"),
        ("absent", ErrorKind::NotFound, "cannot find the device"),
    ] {
        let error = unchanged(|| client.mount_fuse(at(name)).unwrap_err());
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    let made = client.mount_fuse(at("straight")).unwrap();
    assert_eq!(kernel::only(&target).filesystem, "fuseblk.stick");
    client.unmount(&made.mounted).unwrap();
    Ok(())
}

/// An unmount waits until the program has let go of the device. One that does not hold up
/// that connection alone, although not even SIGKILL ends the wait.
pub(crate) fn attack_31_a_program_that_keeps_it(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = blank(sandbox, &[])?;
    policy(sandbox, disk.path())?;
    let text = POLICY.replace("@DEVICE@", disk.path().to_str().unwrap());
    sandbox.policy(&format!(
        "{text}\n[limits]\nrequest_timeout = \"@SECOND@\"\n"
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount_fuse(fuse(&disk, &target)).unwrap();
    let session = stick::begin(made.connection, disk.path());
    let error = client.unmount(&made.mounted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(kernel::at(&target), []);
    let mut other = daemon.client();
    let tmpfs = Tmpfs::new(sandbox.path("all/b")).unwrap();
    let mounted = other.mount(tmpfs).unwrap();
    other.unmount(&mounted).unwrap();
    drop((client, other));
    drop(session);
    wait_for("the held mounter ends", || {
        (descendants(daemon.pid()).len() == 3).then_some(())
    });
    daemon.client().mount_fuse(fuse(&disk, &target)).unwrap();
    Ok(())
}

/// Whoever lets go of it last waits for its program: so no role that serves all clients
/// gets a hold of it.
pub(crate) fn attack_31_nobody_shared_holds_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let root = sandbox.path("all/a");
    let leaf = root.join("leaf");
    let made = client.mount_fuse(fuse(&disk, &root).allow_other()).unwrap();
    let server = stick::serve(made.connection, disk.path(), &root);
    let tmpfs = || Tmpfs::new(&leaf).unwrap();
    let batch = Batch::new().mount(tmpfs());
    let overlay = Overlay::new([&root, &sandbox.path("links")], sandbox.path("all/b")).unwrap();
    let image = Image::new(root.join(DATA), "squashfs", sandbox.path("all/b")).unwrap();
    for error in [
        unchanged(|| client.mount(image).unwrap_err()),
        unchanged(|| client.mount(tmpfs().leased()).unwrap_err()),
        unchanged(|| client.apply(batch).unwrap_err()),
        unchanged(|| client.mount(overlay).unwrap_err()),
        unchanged(|| client.detach(Detach::new(&root).unwrap()).unwrap_err()),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let why = "lies on a fuseblk file system, whose program could hold up the helper";
        assert!(error.to_string().contains(why), "{error}");
    }
    let above = || Detach::new(sandbox.path("all")).unwrap();
    let error = unchanged(|| client.detach(above().recursive()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let why = "has a fuseblk file system beneath it";
    assert!(error.to_string().contains(why), "{error}");
    client.detach(above()).unwrap();
    let mounted = client.mount(tmpfs()).unwrap();
    client.unmount(&mounted).unwrap();
    client.unmount(&made.mounted).unwrap();
    client.detach(above().recursive()).unwrap();
    server.join();
    Ok(())
}

/// What was on the device is gone under a mount: its program is told, and all else goes on.
pub(crate) fn attack_31_a_device_that_vanishes(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount_fuse(fuse(&disk, &target)).unwrap();
    let server = stick::serve(made.connection, disk.path(), &target);
    let backing = File::options().write(true).open(sandbox.path("disk"));
    backing.unwrap().set_len(0).unwrap();
    run(Command::new("losetup")
        .arg("--set-capacity")
        .arg(disk.path()))?;
    assert!(fs::read(target.join(DATA)).is_err());
    assert_eq!(client.list().unwrap()[0].id, made.mounted.mount.id);
    client.unmount(&made.mounted).unwrap();
    server.join();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}
