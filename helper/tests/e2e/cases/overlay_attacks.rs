//! What an overlay could be used for, and is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use mountwarden_client::{ErrorKind, Fuse, MountAttributes, Overlay};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::overlays::{count, layers, supported};
use crate::daemon::Daemon;
use crate::devices::open_fuse_to_all;
use crate::kernel::{self, unchanged};
use crate::sandbox::{ALICE, Sandbox, mount_tmpfs};
use crate::{Skip, misleading};

const POLICY: &str = r#"
version = 1

[[grant]]
name = "test"
users = [@UID@, 4001]
target = ["@DIR@/mnt"]
  [grant.overlay]
  layer = ["@DIR@/layers"]
  [grant.fuse]
  subtypes = ["none"]
  allow_other = true

[[grant]]
name = "free"
users = [@UID@]
target = ["@DIR@/free"]
force = []
  [grant.overlay]
  layer = ["@DIR@/layers"]
"#;

fn start(sandbox: &Sandbox) -> Result<Daemon, Skip> {
    supported()?;
    layers(sandbox);
    sandbox.make_dir("free/a");
    sandbox.policy(POLICY);
    Ok(Daemon::start(sandbox))
}

/// What would separate layers or options in one text is a byte of a name here.
pub(crate) fn attack_15_a_layer_is_one_layer(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let a = sandbox.path("layers/a");
    for name in [
        "a:b",
        "a,b",
        "a::b",
        "x,upperdir=a,workdir=b",
        "x,lowerdir+=a",
        "back\\slash\\:",
        " new\nline ",
        "lowerdir=a:b",
    ] {
        let layer = sandbox.make_dir(&format!("layers/{name}"));
        sandbox.write(&format!("layers/{name}/here"), name);
        let overlay = Overlay::new([&layer, &a], &target).unwrap();
        let mounted = client.mount(overlay).unwrap();
        assert_eq!(count(&target), 2, "{name:?}");
        assert_eq!(fs::read_to_string(target.join("here")).unwrap(), name);
        assert!(!target.join("b").exists(), "{name:?}");
        let record = daemon.last_audit();
        assert_eq!(record["layers"][0], layer.to_str().unwrap());
        client.unmount(&mounted).unwrap();
    }
    Ok(())
}

/// The kernel asks the overlay alone for `noexec` and the like: so it has what any of its
/// layers has where it lies, even where the grant would not force it.
pub(crate) fn attack_19_as_restricted_as_its_layers(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("free/a");
    let a = sandbox.path("layers/a");
    let layer = sandbox.make_dir("layers/restricted");
    mount_tmpfs(&layer);
    fs::copy("/bin/true", layer.join("true")).unwrap();
    let no_symfollow = MsFlags::from_bits_retain(256);
    for (flags, attributes) in [
        (MsFlags::empty(), MountAttributes::empty()),
        (MsFlags::MS_NOSUID, MountAttributes::NO_SUID),
        (MsFlags::MS_NODEV, MountAttributes::NO_DEV),
        (MsFlags::MS_NOEXEC, MountAttributes::NO_EXEC),
        (no_symfollow, MountAttributes::NO_SYMFOLLOW),
    ] {
        let change = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
        mount(None::<&str>, &layer, None::<&str>, change, None::<&str>).unwrap();
        for layers in [[&layer, &a], [&a, &layer]] {
            let overlay = Overlay::new(layers, &target).unwrap().suid().dev();
            let mounted = client.mount(overlay).unwrap();
            let read_only = MountAttributes::READ_ONLY;
            assert_eq!(mounted.mount.attributes, read_only | attributes);
            let run = Command::new(target.join("true")).status();
            let runs = !attributes.contains(MountAttributes::NO_EXEC);
            assert_eq!(run.is_ok(), runs, "{flags:?}: {run:?}");
            client.unmount(&mounted).unwrap();
        }
    }
    Ok(())
}

/// A layer is a directory and what lies in it, without what is mounted there: it shows
/// what that covers, as a bind that is not recursive does.
pub(crate) fn attack_09_submounts_are_not_followed(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = start(sandbox)?;
    let target = sandbox.path("mnt/a");
    let within = sandbox.make_dir("layers/a/within");
    fs::write(within.join("covered"), "").unwrap();
    mount_tmpfs(&within);
    fs::write(within.join("secret"), "").unwrap();
    let layers = ["layers/a", "layers/b"].map(|name| sandbox.path(name));
    let overlay = Overlay::new(layers, &target).unwrap();
    daemon.client().mount(overlay).unwrap();
    assert!(target.join("within/covered").exists());
    assert!(!target.join("within/secret").exists());
    Ok(())
}

/// The kernel asks twice: whether who reads may, by owner and mode, and whether the
/// helper's user may. So an overlay shows nobody more than a bind would, and some less.
pub(crate) fn attack_26_nobody_reads_more(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let daemon = start(sandbox)?;
    let nobody = 65534;
    for (name, owner, mode) in [
        ("everybodys", 0, 0o644),
        ("alices", ALICE, 0o600),
        ("alices-shown", ALICE, 0o604),
        ("helpers", nobody, 0o600),
        ("roots", 0, 0o600),
    ] {
        let file = sandbox.write(&format!("layers/a/{name}"), name);
        chown(&file, Some(owner), None).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    }
    let closed = sandbox.make_dir("layers/a/closed");
    fs::write(closed.join("file"), "").unwrap();
    chown(&closed, Some(ALICE), None).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let node = sandbox.path("layers/a/null");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).unwrap();
    fs::set_permissions(&node, Permissions::from_mode(0o666)).unwrap();

    let target = sandbox.path("mnt/a");
    let layers = ["layers/a", "layers/b"].map(|name| sandbox.path(name));
    let overlay = Overlay::new(&layers, &target).unwrap();
    daemon.client().mount(overlay).unwrap();
    for (name, by_alice, by_root) in [
        ("everybodys", true, true),
        ("alices", false, false),
        ("alices-shown", true, true),
        ("helpers", false, true),
        ("roots", false, false),
        ("closed/file", false, false),
        ("null", false, false),
    ] {
        let reads = |uid| reads(uid, &target.join(name));
        assert_eq!((reads(ALICE), reads(0)), (by_alice, by_root), "{name}");
    }
    // Where they lie, their owner reads them, and root all.
    for name in ["alices", "closed/file"] {
        assert!(reads(ALICE, &layers[0].join(name)), "{name}");
        assert!(reads(0, &layers[0].join(name)), "{name}");
    }
    Ok(())
}

fn reads(uid: u32, file: &Path) -> bool {
    let mut read = Command::new("cat");
    read.arg(file).uid(uid).gid(uid);
    read.output().unwrap().status.success()
}

/// A program that serves a layer can say of any name that it is found elsewhere in the
/// layers beneath, where the kernel would go with the helper's rights. It does not.
pub(crate) fn attack_26_a_layer_that_misleads(sandbox: &Sandbox) -> Result<(), Skip> {
    open_fuse_to_all(sandbox)?;
    let daemon = start(sandbox)?;
    let mut client = daemon.client();
    sandbox.make_dir("layers/b/elsewhere");
    sandbox.write("layers/b/elsewhere/secret", "");
    let served = sandbox.make_dir("mnt/served");
    let fuse = |others: bool| {
        let fuse = Fuse::new("none", &served).unwrap();
        if others { fuse.allow_other() } else { fuse }
    };
    let layer = sandbox.make_dir("layers/served");
    let bind = || {
        // Until somebody asks, the kernel takes the root of a FUSE mount to permit nothing,
        // and so does an overlay of it for as long as it lasts.
        fs::metadata(&served).unwrap();
        let flags = MsFlags::MS_BIND;
        mount(Some(&served), &layer, None::<&str>, flags, None::<&str>).unwrap();
    };
    let target = sandbox.path("mnt/a");
    let below = sandbox.path("layers/b");
    let overlay = || Overlay::new([&layer, &below], &target).unwrap();

    // Another user's files, which the kernel does not show the helper's.
    let own = client.mount_fuse(fuse(false)).unwrap();
    let program = misleading::serve(own.connection);
    bind();
    if sandbox.is_root {
        let error = unchanged(|| client.mount(overlay()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    }
    nix::mount::umount(&layer).unwrap();
    client.unmount(&own.mounted).unwrap();
    program.join().unwrap();

    let own = client.mount_fuse(fuse(true)).unwrap();
    let program = misleading::serve(own.connection);
    bind();
    let mounted = client.mount(overlay()).unwrap();
    assert_eq!(kernel::only(&target).filesystem, "overlay");
    fs::metadata(target.join("elsewhere/secret")).unwrap();
    let here = target.join(misleading::NAME);
    match fs::metadata(&here) {
        // In a user namespace the kernel does not look for what would mislead it.
        Ok(_) if !sandbox.is_root => assert!(!here.join("secret").exists()),
        shown => assert_eq!(shown.unwrap_err().raw_os_error(), Some(libc::EPERM)),
    }
    client.unmount(&mounted).unwrap();
    nix::mount::umount(&layer).unwrap();
    client.unmount(&own.mounted).unwrap();
    program.join().unwrap();
    Ok(())
}
