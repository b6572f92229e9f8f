//! What a session in the hands of an attacker brings for kinds of mount that are made
//! from more than a directory.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use mountwarden_client::protocol::Operation;
use mountwarden_client::{Block, ErrorCode, Fuse, Image, Network, Outcome, Overlay};
use nix::libc;

use super::{images, overlays};
use crate::Skip;
use crate::daemon::Daemon;
use crate::devices::{Disk, open_fuse_to_all};
use crate::honest::{borrowed, directory, mounted};
use crate::hostile::{HostileSession, Order, OrderReply, Quiet};
use crate::kernel::{self, unchanged};
use crate::oddities::{self, Namespace, open};
use crate::sandbox::{POLICY, Sandbox};

fn named(path: &Path) -> OwnedFd {
    open(path, libc::O_PATH, libc::O_NOFOLLOW)
}

/// In the place of the device and of what stands at its path.
pub(crate) fn attack_13_every_descriptor_as_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let (disk, other) = (
        Disk::make(sandbox, "disk", "ext4")?,
        Disk::make(sandbox, "other", "ext4")?,
    );
    let grant = "  [grant.block]\n  device = [\"@DIR@/disks/*\"]\n  filesystems = [\"ext4\"]\n";
    sandbox.policy(&format!("{POLICY}{grant}"));
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let hostile = HostileSession::take(&daemon)?;
    let granted = sandbox.make_dir("disks").join("granted");
    symlink(disk.path(), &granted).unwrap();
    let to_other = sandbox.path("disks/other");
    symlink(other.path(), &to_other).unwrap();
    let elsewhere = sandbox.path("src/elsewhere");
    symlink(disk.path(), &elsewhere).unwrap();
    let foreign = Namespace::copy(sandbox);
    let target = sandbox.path("mnt/a");
    let operation = Operation::from(Block::new(&granted, "ext4", &target).unwrap());
    let right = || {
        [
            directory(sandbox.path("mnt")),
            directory(&target),
            named(disk.path()),
            named(&granted),
        ]
    };
    let refused = |what: &str, place: usize, file: &OwnedFd, whys: &[oddities::Why]| {
        let files = right();
        let mut files = borrowed(&files);
        files[place] = file.as_fd();
        let error = hostile.refused(&daemon, &operation, &files)?;
        let known =
            |&(code, words): &oddities::Why| error.code == code && error.message.contains(words);
        assert!(whys.iter().any(known), "{what} in place {place}: {error:?}");
        Ok(())
    };

    let no_device = (ErrorCode::WrongType, "is not a block device");
    let foreign_mount = (ErrorCode::Changed, "is not in the helper's mount namespace");
    let removed = (ErrorCode::Changed, "was removed while the request ran");
    let other_path = (
        ErrorCode::Changed,
        "was renamed or replaced while the request ran",
    );
    let too_long = (ErrorCode::InvalidRequest, "File name too long");
    let leads_away = (ErrorCode::Changed, "does not lead straight to the device");
    for oddity in oddities::anywhere(sandbox, &daemon, &hostile)? {
        let file = oddity.as_fd().try_clone_to_owned().unwrap();
        refused(&oddity.what, 2, &file, &[foreign_mount, removed, no_device])?;
        refused(
            &oddity.what,
            3,
            &file,
            &[foreign_mount, removed, other_path, too_long],
        )?;
    }
    let devices = [
        ("another device", named(other.path())),
        (
            "another device, opened",
            open(other.path(), libc::O_RDONLY, 0),
        ),
    ];
    for (what, file) in &devices {
        refused(what, 2, file, &[leads_away])?;
        refused(what, 3, file, &[other_path])?;
    }
    for (what, path) in [
        ("a granted link to another", &to_other),
        ("a link that is not granted", &elsewhere),
    ] {
        refused(what, 3, &named(path), &[other_path])?;
    }
    let theirs = foreign.open(disk.path());
    refused("another namespace's device", 2, &theirs, &[foreign_mount])?;

    let files = right();
    let reply = hostile.channel.perform(&operation, &borrowed(&files));
    assert_eq!(mounted(reply).outcome, Outcome::Mounted);
    assert_eq!(kernel::only(&target).filesystem, "ext4");
    drop((hostile, files));
    quiet.again(&daemon)
}

/// In the place of the FUSE connection.
pub(crate) fn attack_26_every_descriptor_as_a_connection(sandbox: &Sandbox) -> Result<(), Skip> {
    open_fuse_to_all(sandbox)?;
    let grant = "  [grant.fuse]\n  subtypes = [\"none\"]\n";
    sandbox.policy(&format!("{POLICY}{grant}"));
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let target = sandbox.path("mnt/a");
    let operation = Operation::from(Fuse::new("none", &target).unwrap());
    let places = [directory(sandbox.path("mnt")), directory(&target)];
    let brought = |file: &OwnedFd| {
        let files = [places[0].as_fd(), places[1].as_fd(), file.as_fd()];
        hostile.refused(&daemon, &operation, &files)
    };
    let mut anywhere = oddities::anywhere(sandbox, &daemon, &hostile)?;
    // That is what it should be.
    anywhere.retain(|oddity| oddity.what != "/dev/fuse");
    for oddity in anywhere {
        let error = brought(&oddity.as_fd().try_clone_to_owned().unwrap())?;
        assert_eq!(
            error.code,
            ErrorCode::WrongType,
            "{}: {error:?}",
            oddity.what
        );
        let words = "what came is not a FUSE connection";
        assert!(error.message.contains(words), "{}: {error:?}", oddity.what);
    }
    // One that is only named. Newer kernels say that it is not open (7.3).
    let fuse = Path::new("/dev/fuse");
    let error = brought(&named(fuse))?;
    let refused = [Some(libc::EINVAL), Some(libc::EBADF)];
    assert!(refused.contains(&error.errno), "{error:?}");

    let fresh = open(fuse, libc::O_RDWR, 0);
    let files = [places[0].as_fd(), places[1].as_fd(), fresh.as_fd()];
    hostile.channel.send(&Order::Perform(operation), &files);
    // The client has the reply, from the mounter.
    assert!(matches!(
        hostile.channel.receive(),
        Some(OrderReply::Answered)
    ));
    assert_eq!(kernel::only(&target).filesystem, "fuse.none");
    Ok(())
}

/// In the place of a device that a program is to serve, of what stands at its path, and of
/// the connection.
pub(crate) fn attack_13_every_descriptor_as_a_served_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    open_fuse_to_all(sandbox)?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let other = Disk::make(sandbox, "other", "ext4")?;
    let device = disk.path().to_str().unwrap();
    let grant = format!("  [grant.fuse]\n  subtypes = [\"none\"]\n  device = [\"{device}\"]\n");
    sandbox.policy(&format!("{POLICY}{grant}"));
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let target = sandbox.path("mnt/a");
    let fuse = || Fuse::new("none", &target).unwrap();
    let operation = Operation::from(fuse().device(disk.path(), None).unwrap());
    let connection = || open(Path::new("/dev/fuse"), libc::O_RDWR, 0);
    let right = || {
        [
            directory(sandbox.path("mnt")),
            directory(&target),
            named(disk.path()),
            named(disk.path()),
            connection(),
        ]
    };
    let refused = |what: &str, place: usize, file: &OwnedFd, whys: &[oddities::Why]| {
        let files = right();
        let mut files = borrowed(&files);
        files[place] = file.as_fd();
        let error = hostile.refused(&daemon, &operation, &files)?;
        let known =
            |&(code, words): &oddities::Why| error.code == code && error.message.contains(words);
        assert!(whys.iter().any(known), "{what} in place {place}: {error:?}");
        Ok(())
    };
    let no_device = (ErrorCode::WrongType, "is not a block device");
    let foreign_mount = (ErrorCode::Changed, "is not in the helper's mount namespace");
    let removed = (ErrorCode::Changed, "was removed while the request ran");
    let other_path = (
        ErrorCode::Changed,
        "was renamed or replaced while the request ran",
    );
    let too_long = (ErrorCode::InvalidRequest, "File name too long");
    let replaced = (ErrorCode::Changed, "was replaced while the request ran");
    let no_connection = (ErrorCode::WrongType, "what came is not a FUSE connection");
    for oddity in oddities::anywhere(sandbox, &daemon, &hostile)? {
        let file = oddity.as_fd().try_clone_to_owned().unwrap();
        refused(&oddity.what, 2, &file, &[foreign_mount, removed, no_device])?;
        refused(
            &oddity.what,
            3,
            &file,
            &[foreign_mount, removed, other_path, too_long],
        )?;
        if oddity.what != "/dev/fuse" {
            refused(&oddity.what, 4, &file, &[no_connection])?;
        }
    }
    refused("another device", 2, &named(other.path()), &[replaced])?;
    refused("another device", 3, &named(other.path()), &[other_path])?;
    refused("the device", 4, &named(disk.path()), &[no_connection])?;
    refused("a connection", 2, &connection(), &[no_device])?;
    // One that serves another file system.
    let plain = Fuse::new("none", sandbox.path("mnt/b")).unwrap();
    let serving = daemon.client().mount_fuse(plain).unwrap();
    let in_use = (ErrorCode::Failed, "Invalid argument");
    refused("a connection in use", 4, &serving.connection, &[in_use])?;

    // Those of the kinds that it looks like.
    let without = Operation::from(fuse());
    for (operation, count) in [
        (&operation, 3),
        (&operation, 4),
        (&operation, 6),
        (&without, 5),
    ] {
        let other = HostileSession::take(&daemon)?;
        let files = right().into_iter().chain([connection()]);
        let files: Vec<OwnedFd> = files.take(count).collect();
        let order = Order::Perform(operation.clone());
        unchanged(|| {
            other.channel.send(&order, &borrowed(&files));
            other.ended(&daemon, &["descriptors are not those of this kind"]);
        });
    }
    let files = right();
    let order = Order::Perform(operation);
    hostile.channel.send(&order, &borrowed(&files));
    assert!(matches!(
        hostile.channel.receive(),
        Some(OrderReply::Answered)
    ));
    assert_eq!(kernel::only(&target).filesystem, "fuseblk.none");
    Ok(())
}

/// In the place of each layer, the first and one that has a slot of its own, and of the
/// upper one and its work directory.
pub(crate) fn attack_26_every_descriptor_as_a_layer(sandbox: &Sandbox) -> Result<(), Skip> {
    overlays::supported()?;
    let [a, b] = overlays::layers(sandbox);
    let grant = "  [grant.overlay]\n  layer = [\"@DIR@/layers\"]\n  upper = [\"@DIR@/upper\"]\n";
    sandbox.policy(&format!("{POLICY}{grant}"));
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let hostile = HostileSession::take(&daemon)?;
    let foreign = Namespace::copy(sandbox);
    let target = sandbox.path("mnt/a");
    let overlay = || Overlay::new([&a, &b], &target).unwrap();
    let (upper, work) = (sandbox.make_dir("upper/u"), sandbox.make_dir("upper/w"));
    let written = overlay().upper(&upper, &work).unwrap();
    let above = sandbox.path("mnt");
    let anywhere = oddities::anywhere(sandbox, &daemon, &hostile)?;
    for (overlay, paths) in [
        (overlay(), vec![&above, &target, &a, &b]),
        (written, vec![&above, &target, &upper, &work, &a, &b]),
    ] {
        let operation = Operation::from(overlay);
        let right: Vec<OwnedFd> = paths.iter().map(directory).collect();
        let other_path = (
            ErrorCode::Changed,
            "was renamed or replaced while the request ran",
        );
        let foreign_mount = (ErrorCode::Changed, "is not in the helper's mount namespace");
        let not_for_reading = (ErrorCode::WrongType, "was not opened for reading");
        for place in 2..right.len() {
            let refused = |what: &str, file: &OwnedFd, whys: &[oddities::Why]| {
                let mut files = borrowed(&right);
                files[place] = file.as_fd();
                let error = hostile.refused(&daemon, &operation, &files)?;
                let known = |&(code, words): &oddities::Why| {
                    error.code == code && error.message.contains(words)
                };
                assert!(whys.iter().any(known), "{what} in place {place}: {error:?}");
                Ok(())
            };
            for oddity in &anywhere {
                let file = oddity.as_fd().try_clone_to_owned().unwrap();
                refused(&oddity.what, &file, &[oddity.why(place)])?;
            }
            let layer = paths[place];
            let others = sandbox.path("src/data");
            refused("another directory", &directory(&others), &[other_path])?;
            refused(
                "one beneath it",
                &directory(sandbox.make_dir("layers/a/x")),
                &[other_path],
            )?;
            refused("the layer, unopened", &named(layer), &[not_for_reading])?;
            refused(
                "another namespace's",
                &foreign.open(layer),
                &[foreign_mount],
            )?;
        }
    }
    let right = [&above, &target, &a, &b].map(directory);
    let reply = hostile
        .channel
        .perform(&overlay().into(), &borrowed(&right));
    assert_eq!(mounted(reply).outcome, Outcome::Mounted);
    assert_eq!(overlays::count(&target), 2);
    drop((hostile, right, anywhere));
    quiet.again(&daemon)?;

    for count in [2, 3, 5, 20] {
        let hostile = HostileSession::take(&daemon)?;
        let operation = Operation::from(Overlay::new([&a, &b], sandbox.path("mnt/b")).unwrap());
        let files: Vec<_> = (0..count).map(|_| directory(&a)).collect();
        let order = Order::Perform(operation);
        unchanged(|| {
            hostile.channel.send(&order, &borrowed(&files));
            hostile.ended(&daemon, &["descriptors are not those of this kind"]);
        });
    }
    Ok(())
}

/// In the place of the image: its path, its type and its namespace must be right.
pub(crate) fn attack_26_every_descriptor_as_an_image(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs(6, 12, "erofs in a file")?;
    let _disk = images::OnDisk::make(sandbox)?;
    let image = images::image(sandbox, "a", "erofs")?;
    let other = images::image(sandbox, "b", "erofs")?;
    let grant = "  [grant.image]\n  file = [\"@DIR@/images\"]\n  filesystems = [\"erofs\"]\n";
    sandbox.policy(&format!("{POLICY}{grant}"));
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let foreign = Namespace::copy(sandbox);
    let target = sandbox.path("mnt/a");
    let operation = Operation::from(Image::new(&image, "erofs", &target).unwrap());
    let places = [directory(sandbox.path("mnt")), directory(&target)];
    let brought = |file: &OwnedFd| {
        let files = [places[0].as_fd(), places[1].as_fd(), file.as_fd()];
        hostile.refused(&daemon, &operation, &files)
    };
    let refused = |what: &str, file: &OwnedFd, (code, words): oddities::Why| {
        let error = brought(file)?;
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert!(error.message.contains(words), "{what}: {error:?}");
        Ok(())
    };
    for oddity in oddities::anywhere(sandbox, &daemon, &hostile)? {
        let file = oddity.as_fd().try_clone_to_owned().unwrap();
        refused(&oddity.what, &file, oddity.why(2))?;
    }
    let other_path = (
        ErrorCode::Changed,
        "was renamed or replaced while the request ran",
    );
    let foreign_mount = (ErrorCode::Changed, "is not in the helper's mount namespace");
    let not_for_reading = (ErrorCode::WrongType, "was not opened for reading");
    refused("another image", &directory(&other), other_path)?;
    refused("the image, unopened", &named(&image), not_for_reading)?;
    refused("another namespace's", &foreign.open(&image), foreign_mount)?;
    let writable = open(&image, libc::O_RDWR, 0);
    refused("the image, to write", &writable, not_for_reading)?;
    drop(writable);
    let right = directory(&image);
    let files = [places[0].as_fd(), places[1].as_fd(), right.as_fd()];
    let reply = hostile.channel.perform(&operation, &files);
    assert_eq!(mounted(reply).outcome, Outcome::Mounted);
    Ok(())
}

/// A connection serves one file system, once: the kernel would show it again as it is,
/// whatever this grant says of it.
pub(crate) fn attack_26_a_connection_in_use(sandbox: &Sandbox) -> Result<(), Skip> {
    open_fuse_to_all(sandbox)?;
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    let grants = "  [grant.fuse]\n  subtypes = [\"none\"]\n\n[[grant]]\nname = \"shared\"\n\
                  users = [@UID@]\ntarget = [\"@DIR@/all\"]\n  [grant.fuse]\n  \
                  subtypes = [\"none\"]\n  allow_other = true\n";
    sandbox.policy(&format!("{POLICY}{grants}"));
    let all = sandbox.make_dir("all/a");
    let daemon = Daemon::start(sandbox);
    let shared = Fuse::new("none", all).unwrap().allow_other();
    let shared = daemon.client().mount_fuse(shared).unwrap();
    let hostile = HostileSession::take(&daemon)?;
    let target = sandbox.path("mnt/a");
    let operation = Operation::from(Fuse::new("none", &target).unwrap());
    let places = [directory(sandbox.path("mnt")), directory(&target)];
    let files = [
        places[0].as_fd(),
        places[1].as_fd(),
        shared.connection.as_fd(),
    ];
    let error = hostile.refused(&daemon, &operation, &files)?;
    assert_eq!(error.errno, Some(libc::EBUSY), "{error:?}");
    Ok(())
}

/// Orders for what another user is granted are refused by the mounter's own judgement.
pub(crate) fn attack_26_what_others_are_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let theirs = "\n[[grant]]\nname = \"theirs\"\nusers = [4001]\ntarget = [\"@DIR@/mnt\"]\n  \
                  [grant.block]\n  device = [\"/dev/*\"]\n  filesystems = [\"ext4\"]\n  \
                  [grant.fuse]\n  subtypes = [\"*\"]\n  \
                  [grant.network]\n  source = [\"*\"]\n  filesystems = [\"nfs4\"]\n";
    sandbox.policy(&format!("{POLICY}{theirs}"));
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let target = sandbox.path("mnt/a");
    for operation in [
        Operation::from(Block::new("/dev/loop0", "ext4", &target).unwrap()),
        Operation::from(Fuse::new("none", &target).unwrap()),
        Operation::from(Network::new("server", "nfs4", &target).unwrap()),
    ] {
        let null = directory("/dev/null");
        let files = [directory(sandbox.path("mnt")), directory(&target), null];
        let error = hostile.refused(&daemon, &operation, &borrowed(&files))?;
        assert_eq!(error.code, ErrorCode::Denied, "{error:?}");
    }
    Ok(())
}
