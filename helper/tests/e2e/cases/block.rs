//! File systems on block devices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use mountwarden_client::{Block, DenyReason, ErrorKind, MountAttributes, Outcome, Remount};

use nix::libc::EINVAL;

use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::Disk;
use crate::kernel::{self, unchanged};
use crate::sandbox::{SECOND, Sandbox};
use crate::{Skip, slowly};

/// A grant of one device, and of a directory of links.
const POLICY: &str = r#"
version = 1

[[grant]]
name = "disks"
users = [@UID@, 4001]
target = ["@DIR@/mnt"]
  [grant.block]
  device = ["@DEVICE@", "@DIR@/links/*"]
  filesystems = ["ext4", "xfs", "btrfs"]
  options = ["nodiscard", "commit=*", "errors=continue", "no_such_option"]

[[grant]]
name = "read"
users = [@UID@]
target = ["@DIR@/read"]
  [grant.block]
  device = ["@DEVICE@"]
  filesystems = ["ext4"]
  read_only = true
"#;

fn policy(sandbox: &Sandbox, device: &Path) {
    sandbox.make_dir("links");
    sandbox.make_dir("read/a");
    sandbox.policy(&POLICY.replace("@DEVICE@", device.to_str().unwrap()));
}

/// A real file system of each type: mounted, written, read again, unmounted.
fn works(sandbox: &Sandbox, type_name: &str) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", type_name)?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = || Block::new(disk.path(), type_name, &target).unwrap();

    let mounted = client.mount(block()).unwrap();
    assert_eq!(mounted.outcome, Outcome::Mounted);
    assert_eq!(mounted.mount.filesystem, type_name);
    let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    assert_eq!(mounted.mount.attributes, forced);
    let line = kernel::only(&target);
    assert_eq!(line.filesystem, type_name);
    // The kernel shows what it was given; btrfs, what it was given first for the device.
    let given = Path::new(&line.source) == Path::new("/proc/self/fd/8");
    let first = type_name == "btrfs" && Path::new(&line.source) == disk.path();
    assert!(given || first, "{line:?}");
    fs::write(target.join("file"), "kept").unwrap();
    client.unmount(&mounted).unwrap();
    assert_eq!(kernel::at(&target), []);

    let again = client.mount(block().read_only()).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
    let line = kernel::only(&target);
    assert!(line.super_options.starts_with("ro"), "{line:?}");
    client.unmount(&again).unwrap();
    Ok(())
}

pub(crate) fn ext4(sandbox: &Sandbox) -> Result<(), Skip> {
    works(sandbox, "ext4")
}

pub(crate) fn xfs(sandbox: &Sandbox) -> Result<(), Skip> {
    works(sandbox, "xfs")
}

pub(crate) fn btrfs(sandbox: &Sandbox) -> Result<(), Skip> {
    works(sandbox, "btrfs")
}

/// The directory above the target, which the warden holds for it, is closed in the mounter
/// before the file system is made.
pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = || Block::new(disk.path(), "ext4", &target).unwrap();
    let unmounted = client.mount(block().leased()).unwrap();
    client.unmount(&unmounted).unwrap();
    let leased = client.mount(block().leased()).unwrap();
    assert_eq!(daemon.last_audit()["lease"], true);
    fs::write(target.join("file"), "kept").unwrap();
    // It was not leased then.
    let error = unchanged(|| client.mount(block().leased()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    let record = wait_for("its line", || {
        Some(daemon.last_audit()).filter(|line| line["event"] == "lease-end")
    });
    assert_eq!(record["id"], u64::from(leased.mount.id), "{record}");
    assert_eq!(record["result"], "unmounted", "{record}");
    Ok(())
}

/// What is there already, and what is not quite that.
pub(crate) fn attack_12_busy_for_another(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let other = Disk::make(sandbox, "other", "ext4")?;
    policy(sandbox, disk.path());
    symlink(other.path(), sandbox.path("links/other")).unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = || Block::new(disk.path(), "ext4", &target).unwrap();
    let first = client.mount(block()).unwrap();
    let again = unchanged(|| client.mount(block()).unwrap());
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    assert_eq!(again.mount, first.mount);
    let links = Block::new(sandbox.path("links/other"), "ext4", &target).unwrap();
    for (request, why) in [
        (links, "it is of another device"),
        (block().no_exec(), "it has other attributes"),
        (
            Block::new(disk.path(), "xfs", &target).unwrap(),
            "it is of another type",
        ),
    ] {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    // One file system has one way to its device.
    let elsewhere = Block::new(disk.path(), "ext4", sandbox.path("mnt/b")).unwrap();
    let error = unchanged(|| client.mount(elsewhere.clone().read_only()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(
        error
            .to_string()
            .contains("mounted elsewhere with other access"),
        "{error}"
    );
    client.mount(elsewhere).unwrap();
    Ok(())
}

/// Each refusal stands beside the nearest request that is allowed: the one in `ext4`.
pub(crate) fn attack_14_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let other = Disk::make(sandbox, "other", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = |type_name| Block::new(disk.path(), type_name, &target).unwrap();
    let option = |key, value| block("ext4").option(key, value).unwrap();
    let ungranted = Block::new(other.path(), "ext4", &target).unwrap();
    for (request, reason) in [
        (ungranted, DenyReason::DeviceNotGranted),
        (block("ext2"), DenyReason::FilesystemNotGranted),
        (block("vfat"), DenyReason::FilesystemNotGranted),
        (block("tmpfs"), DenyReason::FilesystemNotGranted),
        (option("discard", None), DenyReason::OptionNotGranted),
        (option("nodiscard", Some("1")), DenyReason::OptionNotGranted),
        (option("commit", None), DenyReason::OptionNotGranted),
        (
            option("errors", Some("panic")),
            DenyReason::OptionNotGranted,
        ),
        (option("context", Some("a")), DenyReason::OptionNotGranted),
        (
            option("source", Some("/dev/sda")),
            DenyReason::OptionNotGranted,
        ),
        (block("ext4").suid(), DenyReason::SuidNotGranted),
        (block("ext4").dev(), DenyReason::DevNotGranted),
    ] {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(daemon.last_audit()["reason"], reason.name());
    }
    let granted = option("commit", Some("7"))
        .option("nodiscard", None)
        .unwrap();
    client.mount(granted).unwrap();
    let line = kernel::only(&target);
    assert!(line.super_options.contains("commit=7"), "{line:?}");
    Ok(())
}

/// A grant that reads only makes even a request without `ro` read-only, device and all.
pub(crate) fn attack_19_read_only_reaches_the_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("read/a");
    let block = Block::new(disk.path(), "ext4", &target).unwrap();
    let mounted = daemon.client().mount(block).unwrap();
    assert!(
        mounted
            .mount
            .attributes
            .contains(MountAttributes::READ_ONLY)
    );
    let line = kernel::only(&target);
    assert!(line.options.starts_with("ro"), "{line:?}");
    assert!(line.super_options.starts_with("ro"), "{line:?}");
    Ok(())
}

/// Links as udev and LVM make them; anything else at a granted path is no device.
pub(crate) fn attack_13_a_link_leads_straight_to_its_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let link = |name: &str, to: &Path| symlink(to, sandbox.path(&format!("links/{name}"))).unwrap();
    link("straight", disk.path());
    link("twice", &sandbox.path("links/straight"));
    link("directory", &sandbox.path("src"));
    link("file", &sandbox.path("src/data/file"));
    link("null", Path::new("/dev/null"));
    link("nowhere", Path::new("/dev/mountwarden-nowhere"));
    link("magic", Path::new("/proc/self/fd/0"));
    sandbox.make_dir("real");
    symlink(disk.path(), sandbox.path("real/disk")).unwrap();
    link("roundabout", Path::new("../real/disk"));
    fs::write(sandbox.path("links/plain"), "").unwrap();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block =
        |name: &str| Block::new(sandbox.path(&format!("links/{name}")), "ext4", &target).unwrap();
    for (name, kind, why) in [
        (
            "twice",
            ErrorKind::Changed,
            "does not lead straight to the device",
        ),
        (
            "roundabout",
            ErrorKind::Changed,
            "does not lead straight to the device",
        ),
        ("directory", ErrorKind::WrongType, "is not a block device"),
        ("file", ErrorKind::WrongType, "is not a block device"),
        ("null", ErrorKind::WrongType, "is not a block device"),
        ("plain", ErrorKind::WrongType, "is not a block device"),
        (
            "magic",
            ErrorKind::WrongType,
            "a component is a symbolic link",
        ),
        ("nowhere", ErrorKind::NotFound, "cannot find the device"),
        ("absent", ErrorKind::NotFound, "cannot find the device"),
    ] {
        let error = unchanged(|| client.mount(block(name)).unwrap_err());
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    let mounted = client.mount(block("straight")).unwrap();
    assert_eq!(kernel::only(&target).filesystem, "ext4");
    client.unmount(&mounted).unwrap();
    Ok(())
}

/// What the kernel does not mount, with its own words for why.
pub(crate) fn a_corrupt_file_system_is_an_error(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = |type_name| Block::new(disk.path(), type_name, &target).unwrap();

    let unknown = block("ext4").option("no_such_option", None).unwrap();
    let error = unchanged(|| client.mount(unknown).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("the kernel says: ext4: Unknown parameter 'no_such_option'"),
        "{text}"
    );
    let error = unchanged(|| client.mount(block("xfs")).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert_eq!(error.errno(), Some(EINVAL), "{error}");
    // A superblock that says what cannot be.
    let image = sandbox.path("disk");
    let mut bytes = fs::read(&image).unwrap();
    bytes[1024 + 0x18] = 0xff;
    fs::write(&image, bytes).unwrap();
    let error = unchanged(|| client.mount(block("ext4")).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("as ext4: ") && text.contains("the kernel's log"),
        "{text}"
    );
    assert!(daemon.last_audit()["errno"].is_number());
    // The connection goes on.
    assert_eq!(client.list().unwrap(), []);
    Ok(())
}

/// A kernel has fewer types than a policy may name.
pub(crate) fn an_unknown_type_is_unsupported(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let text = POLICY.replace("\"xfs\"", "\"no_such_fs\"");
    sandbox.make_dir("links");
    sandbox.policy(&text.replace("@DEVICE@", disk.path().to_str().unwrap()));
    let daemon = Daemon::start(sandbox);
    let block = Block::new(disk.path(), "no_such_fs", sandbox.path("mnt/a")).unwrap();
    let error = unchanged(|| daemon.client().mount(block).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().contains("has no such file system"),
        "{error}"
    );
    Ok(())
}

/// What is lifted must be of the device that is named, and of that type. What the file
/// system itself was told stays.
pub(crate) fn a_remount_lifts(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let other = Disk::make(sandbox, "other", "ext4")?;
    policy(sandbox, disk.path());
    symlink(other.path(), sandbox.path("links/other")).unwrap();
    let text = POLICY.replace("@DEVICE@", disk.path().to_str().unwrap());
    sandbox.policy(&text.replacen("target =", "remount = true\ntarget =", 1));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = Block::new(disk.path(), "ext4", &target).unwrap();
    let made = client.mount(block.no_exec()).unwrap();
    let lift = |attributes, device: &Path, name| {
        let remount = Remount::new(&target).unwrap();
        remount.lift_from_block(attributes, device, name).unwrap()
    };
    let (forced, noexec) = (MountAttributes::NO_DEV, MountAttributes::NO_EXEC);
    let links = sandbox.path("links/other");
    for (remount, kind, reason) in [
        (
            lift(forced, disk.path(), "ext4"),
            ErrorKind::Denied,
            Some(DenyReason::AttributeForced),
        ),
        (
            lift(noexec, other.path(), "ext4"),
            ErrorKind::Denied,
            Some(DenyReason::DeviceNotGranted),
        ),
        (lift(noexec, disk.path(), "xfs"), ErrorKind::Busy, None),
        (lift(noexec, &links, "ext4"), ErrorKind::Busy, None),
    ] {
        let error = unchanged(|| client.remount(remount).unwrap_err());
        assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
    }
    let lifted = client.remount(lift(noexec, disk.path(), "ext4")).unwrap();
    assert_eq!(lifted.id, made.mount.id);
    assert_eq!(lifted.attributes, MountAttributes::NO_SUID | forced);
    client
        .remount(Remount::new(&target).unwrap().read_only())
        .unwrap();
    let mut command = daemon.cli();
    command.arg("remount").arg(&target).arg("--read-write");
    command.arg("--device").arg(disk.path());
    let (status, _, error) = outcome(command.args(["--type", "ext4"]));
    assert_eq!(status, 0, "{error}");
    fs::write(target.join("file"), "written").unwrap();
    Ok(())
}

/// What was on the device is gone under a mount: what fails, fails with an error, and
/// others are served.
pub(crate) fn attack_31_a_device_that_vanishes(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let block = || Block::new(disk.path(), "ext4", &target).unwrap();
    let made = client.mount(block()).unwrap();
    fs::write(target.join("file"), "not written yet").unwrap();
    let file = fs::File::options().write(true).open(sandbox.path("disk"));
    file.unwrap().set_len(0).unwrap();
    let synced = fs::File::open(target.join("file")).and_then(|file| file.sync_all());
    assert!(synced.is_err(), "the device is gone");
    client.probe(&target, slowly(SECOND)).unwrap();
    assert_eq!(client.list().unwrap()[0].id, made.mount.id);
    client.unmount(&made).unwrap();
    assert_eq!(kernel::at(&target), []);
    let error = unchanged(|| client.mount(block()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.errno().is_some(), "{error}");
    assert_eq!(daemon.client().list().unwrap(), []);
    Ok(())
}

/// The command, and what it prints.
pub(crate) fn by_the_command(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    policy(sandbox, disk.path());
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let words = |more: &[&str]| {
        let mut command = daemon.cli();
        command
            .args(["mount", "block"])
            .arg(disk.path())
            .arg(&target)
            .args(more);
        command
    };
    let (status, _, error) = unchanged(|| outcome(&mut words(&["--type", "auto"])));
    assert_eq!(status, 9, "{error}");
    assert!(error.contains("named, never guessed"), "{error}");
    let (status, _, error) =
        unchanged(|| outcome(&mut words(&["--type", "ext4", "--option", "discard"])));
    assert_eq!(status, 3, "{error}");
    assert!(
        error.contains("nodiscard, commit=*, errors=continue"),
        "{error}"
    );
    let granted = [
        "--type",
        "ext4",
        "--option",
        "commit=9",
        "--option",
        "nodiscard",
    ];
    let (status, printed, error) = outcome(&mut words(&granted));
    assert_eq!(status, 0, "{error}");
    assert!(printed.contains("Mounted"), "{printed}");
    let line = kernel::only(&target);
    assert!(line.super_options.contains("commit=9"), "{line:?}");
    let record = daemon.last_audit();
    assert_eq!(record["event"], "mount-block");
    assert_eq!(record["type"], "ext4");
    assert_eq!(record["type_options"], "commit=9,nodiscard");
    Ok(())
}
