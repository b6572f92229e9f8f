//! File systems in regular files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mountwarden_client::{
    Block, DenyReason, ErrorKind, Image, MountAttributes, Outcome, Passing, Remount,
};
use nix::libc;
use nix::mount::{MsFlags, mount};

use super::passed::{self, mount_at, private};
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::devices::{Disk, run};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;

const POLICY: &str = r#"
version = 1

[[grant]]
name = "images"
users = [@UID@]
target = ["@DIR@/mnt"]
remount = true
  [grant.image]
  file = ["@DIR@/images"]
  filesystems = ["erofs"]

[[grant]]
name = "both"
users = [@UID@]
target = ["@DIR@/both"]
  [grant.image]
  file = ["@DIR@/images"]
  filesystems = ["squashfs", "erofs"]
"#;

/// What the directory `images` lies on: the kernel reads an image from a disk alone, and
/// the scratch directory is a tmpfs.
pub(super) struct OnDisk {
    _disk: Disk,
}

impl OnDisk {
    pub(super) fn make(sandbox: &Sandbox) -> Result<Self, Skip> {
        sandbox.needs_devices()?;
        let disk = Disk::make(sandbox, "disk", "ext4")?;
        let images = sandbox.make_dir("images");
        let flags = MsFlags::empty();
        mount(
            Some(disk.path()),
            &images,
            Some("ext4"),
            flags,
            None::<&str>,
        )
        .unwrap();
        Ok(Self { _disk: disk })
    }
}

/// An image of one file, made by the type's own program.
pub(super) fn image(sandbox: &Sandbox, name: &str, type_name: &str) -> Result<PathBuf, Skip> {
    let content = sandbox.make_dir("content");
    sandbox.write("content/file", "in an image");
    sandbox.make_dir("images");
    let image = sandbox.path(&format!("images/{name}"));
    let mut make;
    if type_name == "erofs" {
        make = Command::new("mkfs.erofs");
        make.arg("--quiet").arg(&image).arg(&content);
    } else {
        make = Command::new("mksquashfs");
        make.arg(&content).arg(&image).arg("-quiet");
    }
    run(&mut make)?;
    Ok(image)
}

fn start(sandbox: &Sandbox) -> Result<(OnDisk, Daemon, PathBuf), Skip> {
    kernel::needs(6, 12, "erofs in a file")?;
    let disk = OnDisk::make(sandbox)?;
    let image = image(sandbox, "a.erofs", "erofs")?;
    sandbox.make_dir("both/a");
    sandbox.policy(POLICY);
    Ok((disk, Daemon::start(sandbox), image))
}

fn erofs(image: &Path, target: &Path) -> Image {
    Image::new(image, "erofs", target).unwrap()
}

pub(crate) fn erofs_from_its_file(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let mounted = match client.mount(erofs(&image, &target)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Err(Skip(format!("this kernel has no erofs in files: {error}")));
        }
        other => other.unwrap(),
    };
    assert_eq!(mounted.outcome, Outcome::Mounted);
    assert_eq!(mounted.mount.filesystem, "erofs");
    let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    let attributes = forced | MountAttributes::READ_ONLY;
    assert_eq!(mounted.mount.attributes, attributes);
    let text = fs::read_to_string(target.join("file")).unwrap();
    assert_eq!(text, "in an image");
    let error = fs::write(target.join("file"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let line = kernel::only(&target);
    assert!(line.super_options.starts_with("ro"), "{line:?}");
    let record = daemon.last_audit();
    assert_eq!(record["event"], "mount-image");
    assert_eq!(record["source"], image.to_str().unwrap());
    assert_eq!(record["type"], "erofs");
    client.unmount(&mounted).unwrap();
    assert_eq!(kernel::at(&target), []);
    Ok(())
}

/// What the kernel reads from a device alone: the answer says what to do, and that works.
pub(crate) fn squashfs_takes_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let squashfs = image(sandbox, "a.sqfs", "squashfs")?;
    let erofs = image(sandbox, "a.erofs", "erofs")?;
    sandbox.make_dir("both/a");
    let disk = Disk::of_file(&squashfs)?;
    let device = disk.path().to_str().unwrap();
    let block =
        format!("  [grant.block]\n  device = [\"{device}\"]\n  filesystems = [\"squashfs\"]\n");
    sandbox.policy(&format!("{POLICY}{block}"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("both/a");
    // The file is on a tmpfs here, which erofs does not read from either.
    for (file, type_name) in [(&squashfs, "squashfs"), (&erofs, "erofs")] {
        let image = Image::new(file, type_name, &target).unwrap();
        let error = unchanged(|| client.mount(image).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("`loop_devices`"), "{error}");
        assert_eq!(daemon.last_audit()["errno"], libc::ENOTBLK);
    }
    let block = Block::new(disk.path(), "squashfs", &target).unwrap();
    client.mount(block.read_only()).unwrap();
    let text = fs::read_to_string(target.join("file")).unwrap();
    assert_eq!(text, "in an image");
    Ok(())
}

/// Each refusal stands beside the nearest request that is allowed: that in
/// `erofs_from_its_file`.
pub(crate) fn attack_14_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let other = sandbox.path("src/data/file");
    for (request, reason) in [
        (erofs(&other, &target), DenyReason::SourceNotGranted),
        (
            Image::new(&image, "squashfs", &target).unwrap(),
            DenyReason::FilesystemNotGranted,
        ),
        (erofs(&image, &target).suid(), DenyReason::SuidNotGranted),
        (erofs(&image, &target).dev(), DenyReason::DevNotGranted),
        (erofs(&image, &other), DenyReason::TargetNotGranted),
    ] {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(daemon.last_audit()["reason"], reason.name());
    }
    let error = Image::new(&image, "ext4", &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    client.mount(erofs(&image, &target).no_exec()).unwrap();
    Ok(())
}

/// A file that is no image, or a broken one, and what is no file.
pub(crate) fn a_corrupt_image_is_an_error(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let whole = fs::read(&image).unwrap();
    let mut broken = whole.clone();
    // In the superblock, which begins at 1024, after its magic number.
    broken[1024 + 8..1024 + 40].fill(0xff);
    let cut = &whole[..1024];
    for (name, bytes) in [
        ("empty", &[][..]),
        ("noise", &[0x55; 8192][..]),
        ("broken", &broken),
        ("cut", cut),
    ] {
        let file = sandbox.path(&format!("images/{name}"));
        fs::write(&file, bytes).unwrap();
        let error = unchanged(|| client.mount(erofs(&file, &target)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Failed, "{name}: {error}");
        assert!(error.to_string().contains("as erofs"), "{name}: {error}");
    }
    let directory = sandbox.make_dir("images/directory");
    let link = sandbox.path("images/link");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    for (file, words) in [
        (&directory, "is not a regular file"),
        (&link, "symbolic link"),
    ] {
        let error = unchanged(|| client.mount(erofs(file, &target)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::WrongType, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let file = erofs(&image, &sandbox.path("mnt/file"));
    let error = unchanged(|| client.mount(file).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::WrongType, "{error}");
    client.mount(erofs(&image, &target)).unwrap();
    Ok(())
}

/// An image is mounted at a target once: nothing tells which file it is. A remount sets.
pub(crate) fn attack_12_busy_for_the_same(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount(erofs(&image, &target)).unwrap();
    let error = unchanged(|| client.mount(erofs(&image, &target)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(error.mount(), Some(made.mount.id));
    let why = "the kernel does not tell which file an image is";
    assert!(error.to_string().contains(why), "{error}");
    let set = Remount::new(&target).unwrap().set(MountAttributes::NO_EXEC);
    let changed = client.remount(set).unwrap();
    assert!(changed.attributes.contains(MountAttributes::NO_EXEC));
    // Elsewhere the same file is another file system.
    client.mount(erofs(&image, &sandbox.path("mnt/b"))).unwrap();
    Ok(())
}

pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (_disk, daemon, image) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    client.mount(erofs(&image, &target).leased()).unwrap();
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    Ok(())
}

/// To a target that the helper's user cannot reach; the file is never passed.
pub(crate) fn at_a_passed_target(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    drop(daemon);
    let grant = "[grant.image]\nfile = [\"@DIR@/images\"]\nfilesystems = [\"erofs\"]\n";
    sandbox.policy(&(passed::policy() + grant));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let to = fs::File::open(&target).unwrap();
    let both = Passing::new().target(&to).source(&to);
    let request = || erofs(&image, &target);
    let error = unchanged(|| client.mount_passing(request(), both).unwrap_err());
    assert_eq!(
        error.reason(),
        Some(DenyReason::PassedNotGranted),
        "{error}"
    );
    let made = mount_at(&mut client, request(), &target).unwrap();
    assert_eq!(made, Outcome::Mounted);
    assert_eq!(kernel::only(&target).filesystem, "erofs");
    Ok(())
}

/// The command, and what it prints.
pub(crate) fn by_the_command(sandbox: &Sandbox) -> Result<(), Skip> {
    let (_disk, daemon, image) = start(sandbox)?;
    let words = |more: &[&str]| {
        let mut command = daemon.cli();
        command.args(["mount", "image"]).arg(&image);
        command.arg(sandbox.path("mnt/a")).args(more);
        command
    };
    for (more, status, said) in [
        (&[][..], 2, "--type"),
        (&["--type", "ext4"], 9, "erofs or squashfs"),
        (
            &["--type", "squashfs"],
            3,
            "only these types of images: erofs",
        ),
    ] {
        let (code, _, error) = unchanged(|| outcome(&mut words(more)));
        assert_eq!(code, status, "{error}");
        assert!(error.contains(said), "{error}");
    }
    let (status, printed, error) = outcome(&mut words(&["--type", "erofs"]));
    assert_eq!(status, 0, "{error}");
    assert!(printed.contains("Mounted erofs"), "{printed}");
    Ok(())
}
