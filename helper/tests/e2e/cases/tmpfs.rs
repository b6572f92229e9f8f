//! Tmpfs mounts: their limits, their owner, and what is not the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{
    Bind, DenyReason, ErrorCode, ErrorKind, Outcome, Tmpfs, TmpfsInodes, TmpfsMode, TmpfsSize,
};
use nix::mount::{MsFlags, mount};
use nix::unistd::{getegid, geteuid};

use super::mounting::bind_restricted;
use crate::Skip;
use crate::daemon::{Daemon, outcome};
use crate::kernel::{self, unchanged};
use crate::sandbox::{ALICE, Sandbox};
use crate::wire::{Wire, body};

/// Every single difference from the tmpfs that was asked for is another mount.
pub(crate) fn attack_12_busy_for_another(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let tmpfs = |target: &Path| {
        Tmpfs::new(target)
            .unwrap()
            .size(TmpfsSize::try_from(1 << 20).unwrap())
            .inodes(TmpfsInodes::try_from(100).unwrap())
    };
    let first = client.mount(tmpfs(&target)).unwrap();
    let mut busy = |request: mountwarden_client::protocol::Mount, why: &str| {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    };
    let more = |n: u64| tmpfs(&target).inodes(TmpfsInodes::try_from(n).unwrap());
    busy(more(101).into(), "its limits differ");
    busy(more(99).into(), "its limits differ");
    let larger = TmpfsSize::try_from((1 << 20) + 1).unwrap();
    busy(tmpfs(&target).size(larger).into(), "its limits differ");
    busy(tmpfs(&target).no_exec().into(), "other attributes");
    let bind = Bind::new(sandbox.path("src/data"), &target).unwrap();
    busy(bind.into(), "another directory or file");

    // Just this file system, but not all of it.
    let part = sandbox.path("mnt/b");
    fs::create_dir(target.join("sub")).unwrap();
    bind_restricted(&target.join("sub"), &part);
    busy(tmpfs(&part).into(), "it is not a tmpfs");
    // Another file system that also lives in memory.
    let other = sandbox.make_dir("mnt/other");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("test"), &other, Some("ramfs"), flags, None::<&str>).unwrap();
    busy(tmpfs(&other).into(), "it is not a tmpfs");
    // All of it, at another place, is what was asked for.
    let whole = sandbox.make_dir("mnt/whole");
    bind_restricted(&target, &whole);
    let again = client.mount(tmpfs(&whole)).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    if sandbox.is_root {
        let mut of_alice = daemon.cli_as(ALICE);
        of_alice.args(["mount", "tmpfs"]).arg(&target);
        of_alice.args(["--size", "1M", "--inodes", "100"]);
        let (status, _, error) = unchanged(|| outcome(&mut of_alice));
        assert_eq!(status, 4, "{error}");
        assert!(error.contains("its owner is somebody else"), "{error}");
    }
    client.unmount(&first).unwrap();
    Ok(())
}

pub(crate) fn has_its_limits_and_owner(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let request = Tmpfs::new(&target)
        .unwrap()
        .size(TmpfsSize::try_from(1 << 20).unwrap())
        .inodes(TmpfsInodes::try_from(10).unwrap())
        .mode(TmpfsMode::try_from(0o750).unwrap());
    let made = client.mount(request).unwrap();
    assert_eq!(made.mount.filesystem, "tmpfs");
    let line = kernel::only(&target);
    assert!(
        line.super_options
            .contains("size=1024k,nr_inodes=10,mode=750"),
        "{line:?}"
    );
    let root = fs::metadata(&target).unwrap();
    assert_eq!(
        (root.uid(), root.gid()),
        (geteuid().as_raw(), getegid().as_raw())
    );
    assert_eq!(root.permissions().mode() & 0o7777, 0o750);
    let error = fs::write(target.join("big"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    client.unmount(&made).unwrap();

    let made = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let line = kernel::only(&target);
    assert!(
        line.super_options
            .contains("size=16384k,nr_inodes=1024,mode=700"),
        "{line:?}"
    );
    client.unmount(&made).unwrap();
    if sandbox.is_root {
        let status = outcome(daemon.cli_as(ALICE).args(["mount", "tmpfs"]).arg(&target));
        assert_eq!(status.0, 0, "{status:?}");
        let root = fs::metadata(&target).unwrap();
        assert_eq!((root.uid(), root.gid()), (ALICE, ALICE));
    }
    Ok(())
}

pub(crate) fn attack_18_extremes(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let size = |n: u64| {
        Tmpfs::new(&target)
            .unwrap()
            .size(TmpfsSize::try_from(n).unwrap())
    };
    let inodes = |n: u64| {
        Tmpfs::new(&target)
            .unwrap()
            .inodes(TmpfsInodes::try_from(n).unwrap())
    };
    for number in [(16 << 20) + 1, 1 << 31, (1 << 63) - 1] {
        let error = unchanged(|| client.mount(size(number)).unwrap_err());
        assert_eq!(
            error.reason(),
            Some(DenyReason::SizeAboveMaximum),
            "{number}"
        );
    }
    for number in [1025, 1 << 31, (1 << 63) - 1] {
        let error = unchanged(|| client.mount(inodes(number)).unwrap_err());
        assert_eq!(
            error.reason(),
            Some(DenyReason::InodesAboveMaximum),
            "{number}"
        );
    }
    for allowed in [size(1), size(16 << 20), inodes(1024)] {
        let made = client.mount(allowed).unwrap();
        client.unmount(&made).unwrap();
    }

    // Numbers that the client library cannot say.
    let marker = 0x1122_3344_5566_7788;
    let mount = |request: Tmpfs| Request::Perform(Operation::Mount(request.into()));
    let mut wire = Wire::open(&daemon.socket);
    for (request, part) in [
        (mount(size(marker)), "size"),
        (mount(inodes(marker)), "inode"),
    ] {
        for number in [0_u64, 1 << 63, u64::MAX] {
            let mut bytes = body(&request);
            let at = bytes
                .windows(8)
                .position(|w| w == marker.to_le_bytes())
                .unwrap();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            let error = unchanged(|| {
                wire.send_body(&bytes);
                wire.error(ErrorCode::InvalidRequest)
            });
            assert!(error.message.contains(part), "{error:?}");
        }
    }
    // The connection goes on, and so does the helper.
    assert!(matches!(wire.ask(&mount(size(4096))), Reply::Mounted(_)));
    Ok(())
}
