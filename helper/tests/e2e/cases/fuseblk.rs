//! FUSE file systems on devices: the kernel keeps the device, an unprivileged program
//! serves what is on it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mountwarden_client::{DenyReason, ErrorKind, Fuse, Health, MountAttributes, Outcome, Remount};
use nix::libc;

use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::{Disk, open_fuse_to_all};
use crate::kernel::{self, unchanged};
use crate::sandbox::{SECOND, Sandbox};
use crate::stick::{self, DATA, SIZE};
use crate::{Skip, slowly};

/// Of the same devices: one grant of their own, one that others may use, and one without.
pub(super) const POLICY: &str = r#"
version = 1

[[grant]]
name = "sticks"
users = [@UID@]
target = ["@DIR@/mnt"]
remount = true
  [grant.fuse]
  subtypes = ["stick"]
  sources = ["named"]
  device = ["@DEVICE@", "@DIR@/links/*"]
  [grant.block]
  device = ["@DEVICE@"]
  filesystems = ["ext4"]

[[grant]]
name = "shown"
users = [@UID@]
target = ["@DIR@/all"]
detached = true
  [grant.fuse]
  subtypes = ["stick"]
  device = ["@DEVICE@"]
  allow_other = true
  [grant.tmpfs]
  max_size = 65536
  [grant.bind]
  source = ["@DIR@/all"]
  recursive = true
  [grant.overlay]
  layer = ["@DIR@"]
  [grant.image]
  file = ["@DIR@/all"]
  filesystems = ["squashfs"]
  loop_devices = { first = 436, count = 1 }

[[grant]]
name = "none"
users = [@UID@]
target = ["@DIR@/none"]
  [grant.fuse]
  subtypes = ["*"]
  sources = ["*"]
"#;

/// A device without a file system that the kernel knows.
pub(super) fn blank(sandbox: &Sandbox, words: &[&str]) -> Result<Disk, Skip> {
    let file = sandbox.path("disk");
    File::create(&file).unwrap().set_len(1 << 20).unwrap();
    Disk::with(words, &file)
}

pub(super) fn policy(sandbox: &Sandbox, device: &Path) -> Result<(), Skip> {
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    open_fuse_to_all(sandbox)?;
    for directory in ["links", "all/a", "all/b", "none/a"] {
        sandbox.make_dir(directory);
    }
    sandbox.policy(&POLICY.replace("@DEVICE@", device.to_str().unwrap()));
    Ok(())
}

pub(super) fn start(sandbox: &Sandbox) -> Result<(Disk, Daemon), Skip> {
    start_with(sandbox, &[])
}

/// The same, with more words for `losetup(8)`.
fn start_with(sandbox: &Sandbox, words: &[&str]) -> Result<(Disk, Daemon), Skip> {
    sandbox.needs_devices()?;
    let disk = blank(sandbox, words)?;
    policy(sandbox, disk.path())?;
    Ok((disk, Daemon::start(sandbox)))
}

pub(super) fn fuse(disk: &Disk, target: impl AsRef<Path>) -> Fuse {
    let fuse = Fuse::new("stick", target).unwrap();
    fuse.device(disk.path(), None).unwrap()
}

/// Mounted by the helper, served by this process, read and written through the kernel. When
/// it is unmounted, nobody has the device any more.
pub(crate) fn a_program_serves_it(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    for (block_size, shown) in [(None, 512), (Some(512), 512), (Some(4096), 4096)] {
        let fuse = Fuse::new("stick", &target).unwrap();
        let fuse = fuse.device(disk.path(), block_size).unwrap();
        let made = client.mount_fuse(fuse).unwrap();
        assert_eq!(made.mounted.outcome, Outcome::Mounted);
        let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
        assert_eq!(made.mounted.mount.attributes, forced);
        let record = daemon.last_audit();
        assert_eq!(record["event"], "mount-fuse");
        assert_eq!(record["type"], "fuseblk.stick");
        assert_eq!(record["source"], disk.path().to_str().unwrap());
        assert_eq!(
            record.get("block_size"),
            block_size.map(Into::into).as_ref()
        );
        let line = kernel::only(&target);
        assert_eq!(line.filesystem, "fuseblk.stick");
        assert_eq!(line.source, "/proc/self/fd/8");
        // The size that newer kernels show is that of a page, whatever was asked (6.18).
        let ours = "rw,user_id=0,group_id=0";
        assert!(line.super_options.starts_with(ours), "{line:?}");

        let server = stick::serve(made.connection, disk.path(), &target);
        let file = target.join(DATA);
        let status = file.metadata().unwrap();
        assert_eq!(status.blksize(), shown);
        assert_eq!(status.dev(), disk.path().metadata().unwrap().rdev());
        let content = vec![u8::try_from(shown % 251).unwrap(); SIZE];
        let opened = File::options().read(true).write(true).open(&file).unwrap();
        opened.write_all_at(&content, 0).unwrap();
        opened.sync_all().unwrap();
        drop(opened);
        assert_eq!(fs::read(&file).unwrap(), content);
        client.unmount(&made.mounted).unwrap();
        server.join();
        assert_eq!(kernel::at(&target), []);
        assert_eq!(fs::read(sandbox.path("disk")).unwrap()[..SIZE], content);
        // Nobody else keeps it.
        let exclusive = File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(disk.path());
        drop(exclusive.unwrap());
    }
    Ok(())
}

/// Each refusal stands beside the nearest request that is allowed.
pub(crate) fn attack_17_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let on = |device: PathBuf| {
        let fuse = Fuse::new("stick", &target).unwrap();
        fuse.device(device, None).unwrap()
    };
    let other = Disk::of_file(&sandbox.write("other", &"-".repeat(1 << 20)))?;
    let beneath = disk.path().join("partition");
    let none = |device: &Path| {
        let fuse = Fuse::new("stick", sandbox.path("none/a")).unwrap();
        fuse.device(device, Some(4096)).unwrap()
    };
    let subtype = Fuse::new("hello", &target).unwrap();
    for (request, reason, why) in [
        (
            on(other.path().to_owned()),
            DenyReason::DeviceNotGranted,
            "only these devices for programs to serve",
        ),
        (on(beneath), DenyReason::DeviceNotGranted, "only these"),
        (
            on(sandbox.path("links/a/b")),
            DenyReason::DeviceNotGranted,
            "only these",
        ),
        (
            none(disk.path()),
            DenyReason::DeviceNotGranted,
            "ask the administrator for `device` in its [grant.fuse]",
        ),
        (
            subtype.device(disk.path(), None).unwrap(),
            DenyReason::SubtypeNotGranted,
            "hello",
        ),
        (
            fuse(&disk, &target).allow_other(),
            DenyReason::AllowOtherNotGranted,
            "no other user",
        ),
        (
            fuse(&disk, &target).suid(),
            DenyReason::SuidNotGranted,
            "nosuid",
        ),
        (
            fuse(&disk, &target).dev(),
            DenyReason::DevNotGranted,
            "nodev",
        ),
    ] {
        let error = unchanged(|| client.mount_fuse(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(daemon.last_audit()["reason"], reason.name());
    }
    for (path, block_size) in [
        ("/dev/../dev/loop0", None),
        ("loop0", None),
        ("/dev/loop0", Some(0)),
        ("/dev/loop0", Some(256)),
        ("/dev/loop0", Some(1000)),
        ("/dev/loop0", Some(8192)),
        ("/dev/loop0", Some(u32::MAX)),
    ] {
        let fuse = Fuse::new("stick", &target).unwrap();
        let error = fuse.device(path, block_size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    let _made = client.mount_fuse(fuse(&disk, &target)).unwrap();
    // What it shows as its source is the device, and no name.
    let named = Fuse::new("stick", sandbox.path("mnt/b")).unwrap();
    let _named = client.mount_fuse(named.source("named").unwrap()).unwrap();
    assert_eq!(kernel::only(&sandbox.path("mnt/b")).source, "named");
    Ok(())
}

/// Its own blocks are the smallest.
pub(crate) fn blocks_of_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start_with(sandbox, &["--sector-size", "4096"])?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    for block_size in [None, Some(512), Some(2048)] {
        let small = Fuse::new("stick", &target).unwrap();
        let small = small.device(disk.path(), block_size).unwrap();
        let error = unchanged(|| client.mount_fuse(small).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
        let why = "own blocks may be larger than the block size";
        assert!(error.to_string().contains(why), "{error}");
    }
    let fits = Fuse::new("stick", &target).unwrap();
    let fits = fits.device(disk.path(), Some(4096)).unwrap();
    client.mount_fuse(fits).unwrap();
    Ok(())
}

/// What cannot be written is only read, which has to be asked for.
pub(crate) fn attack_19_read_only_reaches_the_device(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start_with(sandbox, &["--read-only"])?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let error = unchanged(|| client.mount_fuse(fuse(&disk, &target)).unwrap_err());
    assert_eq!(error.errno(), Some(libc::EACCES), "{error}");
    let why = "for which a read-only mount can be asked";
    assert!(error.to_string().contains(why), "{error}");
    let made = client.mount_fuse(fuse(&disk, &target).read_only()).unwrap();
    let line = kernel::only(&target);
    assert!(line.super_options.starts_with("ro,"), "{line:?}");
    let server = stick::serve(made.connection, disk.path(), &target);
    assert_eq!(fs::read(target.join(DATA)).unwrap().len(), SIZE);
    assert!(File::create(target.join(DATA)).is_err());
    client.unmount(&made.mounted).unwrap();
    server.join();
    Ok(())
}

/// It goes with the client, and the device with it.
pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs(6, 12, "the id of a mount that hides it")?;
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount_fuse(fuse(&disk, &target).leased()).unwrap();
    let server = stick::serve(made.connection, disk.path(), &target);
    assert_eq!(fs::read(target.join(DATA)).unwrap().len(), SIZE);
    drop(client);
    server.join();
    let record = wait_for("its line", || {
        Some(daemon.last_audit()).filter(|line| line["event"] == "lease-end")
    });
    assert_eq!(record["id"], u64::from(made.mounted.mount.id), "{record}");
    assert_eq!(kernel::at(&target), []);
    daemon.client().mount_fuse(fuse(&disk, &target)).unwrap();
    Ok(())
}

/// Attributes can be set; what program serves it nobody can say again, so none is lifted.
pub(crate) fn a_remount_sets_and_lifts_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount_fuse(fuse(&disk, &target)).unwrap();
    let server = stick::serve(made.connection, disk.path(), &target);
    let remount = || Remount::new(&target).unwrap();
    let lift = remount()
        .lift_from_block(MountAttributes::NO_EXEC, disk.path(), "ext4")
        .unwrap();
    client.remount(remount().no_exec()).unwrap();
    let error = unchanged(|| client.remount(lift).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let changed = client.remount(remount().read_only()).unwrap();
    let set = MountAttributes::NO_EXEC | MountAttributes::READ_ONLY;
    assert!(changed.attributes.contains(set));
    assert!(File::create(target.join(DATA)).is_err());
    client.unmount(&made.mounted).unwrap();
    server.join();
    Ok(())
}

/// What can be said of it, while it is served and when its program is gone.
pub(crate) fn probes(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("all/a");
    let asked = |client: &mountwarden_client::Client| {
        unchanged(|| client.probe(&target, slowly(SECOND * 20)).unwrap().health)
    };
    let made = client
        .mount_fuse(fuse(&disk, &target).allow_other())
        .unwrap();
    let server = stick::serve(made.connection, disk.path(), &target);
    assert_eq!(asked(&client), Health::Alive);
    client.unmount(&made.mounted).unwrap();
    server.join();
    let made = client
        .mount_fuse(fuse(&disk, &target).allow_other())
        .unwrap();
    drop(stick::begin(made.connection, disk.path()));
    let errno = libc::ENOTCONN;
    assert_eq!(asked(&client), Health::Stale { errno });
    client.unmount(&made.mounted).unwrap();
    assert_eq!(asked(&client), Health::Absent);
    // Others are not let in, and the helper is one of them.
    let private = sandbox.path("mnt/a");
    let _made = client.mount_fuse(fuse(&disk, &private)).unwrap();
    let probe = client.probe(&private, slowly(SECOND * 20)).unwrap();
    assert_eq!(probe.health, Health::Private);
    Ok(())
}

/// The command, and what it prints.
pub(crate) fn by_the_command(sandbox: &Sandbox) -> Result<(), Skip> {
    let (disk, daemon) = start(sandbox)?;
    let target = sandbox.path("mnt/a");
    let words = |more: &[&str]| {
        let mut command = daemon.cli();
        command.args(["mount", "fuse"]).arg(&target);
        command.args(["--subtype", "stick", "--device"]);
        command.arg(disk.path()).args(more);
        command
    };
    for (more, status, why) in [
        (
            &["--block-size", "4000", "--", "true"][..],
            9,
            "512, 1024, 2048 or 4096",
        ),
        (
            &["--source", "named", "--", "true"],
            2,
            "cannot be used with",
        ),
        (&["--allow-other", "--", "true"], 3, "no other user"),
    ] {
        let (code, _, error) = unchanged(|| outcome(&mut words(more)));
        assert_eq!(code, status, "{error}");
        assert!(error.contains(why), "{error}");
    }
    let mut alone = daemon.cli();
    alone.args(["mount", "fuse"]).arg(&target);
    alone.args(["--subtype", "stick", "--block-size", "512", "--", "true"]);
    let (code, _, error) = unchanged(|| outcome(&mut alone));
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("--device <DEVICE>"), "{error}");
    // It is dead when the program has ended, and there until it is unmounted.
    let (code, printed, error) = outcome(&mut words(&["--block-size", "4096", "--", "true"]));
    assert_eq!(code, 0, "{error}");
    assert!(printed.contains("Mounted"), "{printed}");
    assert_eq!(daemon.last_audit()["block_size"], 4096);
    assert_eq!(kernel::only(&target).filesystem, "fuseblk.stick");
    let (code, _, error) = outcome(daemon.cli().arg("unmount").arg(&target));
    assert_eq!(code, 0, "{error}");
    Ok(())
}
