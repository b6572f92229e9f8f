//! Unmounting.

use std::fs::File;
use std::os::unix::fs::symlink;

use mountwarden_client::{Bind, DenyReason, ErrorCode, ErrorKind, MountId, Tmpfs, Unmount};

use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel::{self, unchanged};
use crate::sandbox::{Sandbox, mount_tmpfs};

pub(crate) fn normal_and_twice(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let before = kernel::table();
    let made = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let gone = client.unmount(Unmount::new(&target).unwrap()).unwrap();
    assert_eq!(gone.id, made.mount.id);
    assert_eq!(gone.target.as_path(), target);
    assert_eq!(kernel::table(), before);
    let error = unchanged(|| client.unmount(Unmount::new(&target).unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotMounted);
    let missing = Unmount::new(sandbox.path("mnt/missing")).unwrap();
    let error = unchanged(|| client.unmount(missing).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    Ok(())
}

pub(crate) fn busy_then_lazy(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    client
        .mount(Bind::new(sandbox.path("src/data"), &target).unwrap())
        .unwrap();
    let open = File::open(target.join("file")).unwrap();
    let error = unchanged(|| client.unmount(Unmount::new(&target).unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(error.errno(), Some(16));
    client
        .unmount(Unmount::new(&target).unwrap().lazy())
        .unwrap();
    assert!(kernel::at(&target).is_empty());
    assert!(open.metadata().is_ok());
    Ok(())
}

pub(crate) fn by_id(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let mount = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let beside = client
        .mount(Tmpfs::new(sandbox.path("mnt/b")).unwrap())
        .unwrap();
    let other = Unmount::new(&target).unwrap().id(beside.mount.id);
    let error = unchanged(|| client.unmount(other).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::IdMismatch);
    assert_eq!(error.mount(), Some(mount.mount.id));
    let far = Unmount::new(&target)
        .unwrap()
        .id(MountId::try_from(u64::MAX).unwrap());
    let error = unchanged(|| client.unmount(far).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::IdMismatch);
    client.unmount(&mount).unwrap();
    Ok(())
}

pub(crate) fn by_id_of_an_ended_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let first = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    client.unmount(&first).unwrap();
    let second = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let error = unchanged(|| client.unmount(&first).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::IdMismatch);
    assert_eq!(error.mount(), Some(second.mount.id));
    client.unmount(&second).unwrap();
    Ok(())
}

pub(crate) fn not_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let foreign = sandbox.make_dir("elsewhere");
    mount_tmpfs(&foreign);
    let error = unchanged(|| client.unmount(Unmount::new(&foreign).unwrap()).unwrap_err());
    assert_eq!(error.reason(), Some(DenyReason::TargetNotGranted));
    for protected in ["/proc", "/sys", "/dev", "/"] {
        let unmount = Unmount::new(protected).unwrap().lazy();
        let error = unchanged(|| client.unmount(unmount).unwrap_err());
        assert_eq!(
            error.reason(),
            Some(DenyReason::TargetProtected),
            "{protected}"
        );
    }
    // The right to a target is the right to what is mounted there.
    let own = sandbox.path("mnt/a");
    mount_tmpfs(&own);
    client.unmount(Unmount::new(&own).unwrap()).unwrap();
    assert!(kernel::at(&own).is_empty());
    Ok(())
}

pub(crate) fn topmost_of_a_stack(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let below = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    mount_tmpfs(&target);
    let error = unchanged(|| client.unmount(&below).unwrap_err());
    assert_eq!(
        error.kind(),
        ErrorKind::IdMismatch,
        "only the topmost can be ended"
    );
    client.unmount(Unmount::new(&target).unwrap()).unwrap();
    client.unmount(&below).unwrap();
    assert!(kernel::at(&target).is_empty());
    Ok(())
}

/// A link to a mount that is not granted, as the last part of a target or above
/// it, leads no unmount there.
pub(crate) fn attack_02_links_are_not_followed(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let foreign = sandbox.make_dir("elsewhere/place");
    mount_tmpfs(&foreign);
    let (link, above) = (sandbox.path("mnt/link"), sandbox.path("mnt/above"));
    symlink(&foreign, &link).unwrap();
    symlink(sandbox.path("elsewhere"), &above).unwrap();
    for (target, code) in [
        (link.clone(), ErrorCode::NotMounted),
        (above.join("place"), ErrorCode::WrongType),
    ] {
        for lazy in [false, true] {
            let unmount = Unmount::new(&target).unwrap();
            let unmount = if lazy { unmount.lazy() } else { unmount };
            let error = unchanged(|| client.unmount(unmount).unwrap_err());
            assert_eq!(error.reply().map(|reply| reply.code), Some(code), "{error}");
            assert_eq!(daemon.last_audit()["code"], code.name());
        }
    }
    // A directory in the link's place.
    std::fs::remove_file(&link).unwrap();
    mount_tmpfs(&sandbox.make_dir("mnt/link"));
    client.unmount(Unmount::new(&link).unwrap()).unwrap();
    assert_eq!(kernel::at(&foreign).len(), 1);
    Ok(())
}
