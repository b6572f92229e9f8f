//! Overlays: directories that are seen as one.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mountwarden_client::{
    AbsPath, Bind, DenyReason, ErrorKind, MountAttributes, Outcome, Overlay, Remount,
};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::passed::{self, mount_at, private};
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;

/// The helper's user where root starts it.
const NOBODY: u32 = 65534;

/// A grant of three layers, and one of as many as there can be, with an upper one.
const POLICY: &str = r#"
version = 1

[[grant]]
name = "read"
users = [@UID@, 4001]
target = ["@DIR@/mnt"]
remount = true
propagation = ["slave", "shared"]
  [grant.overlay]
  layer = ["@DIR@/layers"]
  max_layers = 3

[[grant]]
name = "write"
users = [@UID@]
target = ["@DIR@/rw"]
  [grant.overlay]
  layer = ["@DIR@/layers"]
  upper = ["@DIR@/upper"]
"#;

/// Skips where the kernel takes no layers one by one.
pub(super) fn supported() -> Result<(), Skip> {
    kernel::needs(6, 7, "an overlay whose layers are values of their own")
}

/// Layers `a` and `b`, which both have `both`.
pub(super) fn layers(sandbox: &Sandbox) -> [PathBuf; 2] {
    sandbox.make_dir("rw/a");
    sandbox.make_dir("upper");
    ["a", "b"].map(|name| {
        let layer = sandbox.make_dir(&format!("layers/{name}"));
        sandbox.write(&format!("layers/{name}/{name}"), name);
        sandbox.write(&format!("layers/{name}/both"), name);
        layer
    })
}

/// An upper layer and its work directory, both of the helper's user.
fn upper(sandbox: &Sandbox) -> [PathBuf; 2] {
    ["upper/u", "upper/w"].map(|name| {
        let directory = sandbox.make_dir(name);
        if sandbox.is_root {
            chown(&directory, Some(NOBODY), None).unwrap();
        }
        directory
    })
}

fn start(sandbox: &Sandbox) -> Result<(Daemon, [PathBuf; 2]), Skip> {
    supported()?;
    let layers = layers(sandbox);
    sandbox.policy(POLICY);
    Ok((Daemon::start(sandbox), layers))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// How many lower layers the kernel shows of an overlay.
pub(super) fn count(target: &Path) -> usize {
    let line = kernel::only(target);
    assert_eq!(line.filesystem, "overlay");
    line.super_options.matches("lowerdir+=").count()
}

/// The first layer hides what the others have under the same name.
pub(crate) fn layers_in_order(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    for (layers, both) in [([&a, &b], "a"), ([&b, &a], "b")] {
        let overlay = Overlay::new(layers, &target).unwrap();
        let explained = unchanged(|| client.explain(overlay.clone()).unwrap());
        let mounted = client.mount(overlay).unwrap();
        assert_eq!(mounted.outcome, Outcome::Mounted);
        assert_eq!(mounted.mount.filesystem, "overlay");
        let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
        assert_eq!(
            mounted.mount.attributes,
            forced | MountAttributes::READ_ONLY
        );
        assert!(
            format!("{explained:?}").contains("READ_ONLY"),
            "{explained:?}"
        );
        let record = daemon.last_audit();
        assert_eq!(record["event"], "mount-overlay");
        let written = layers.map(|layer| layer.to_str().unwrap());
        assert_eq!(record["layers"], serde_json::json!(written));
        assert_eq!(record["upper"], false);
        assert_eq!(count(&target), 2);
        assert_eq!(kernel::only(&target).source, "mountwarden");
        assert_eq!(names(&target), ["a", "b", "both"]);
        assert_eq!(fs::read_to_string(target.join("both")).unwrap(), both);
        let error = fs::write(target.join("both"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let listed = client.list().unwrap();
        assert!(listed.contains(&mounted.mount), "{listed:?}");
        client.unmount(&mounted).unwrap();
        assert_eq!(kernel::at(&target), []);
    }
    Ok(())
}

/// Every slot that there is for a layer, with and without those of an upper one.
pub(crate) fn as_many_as_there_can_be(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, _) = start(sandbox)?;
    let all: Vec<_> = (0..16)
        .map(|number| {
            sandbox.make_dir(&format!("layers/{number}"));
            sandbox.write(&format!("layers/{number}/{number}"), "");
            sandbox.path(&format!("layers/{number}"))
        })
        .collect();
    let mut client = daemon.client();
    let target = sandbox.path("rw/a");
    let overlay = || Overlay::new(&all, &target).unwrap();
    let mounted = client.mount(overlay()).unwrap();
    assert_eq!(count(&target), 16);
    assert_eq!(names(&target).len(), 16);
    client.unmount(&mounted).unwrap();
    let [upper, work] = upper(sandbox);
    let upper = overlay().upper(upper, work).unwrap();
    let error = unchanged(|| client.mount(upper).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let more = all.iter().chain([&all[0]]);
    let error = Overlay::new(more, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    Ok(())
}

/// What an overlay that is made with `CAP_SYS_ADMIN` alone cannot have. It is the
/// kernel's word: with all capabilities, the same directories make one.
pub(crate) fn an_upper_layer_takes_more(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let [upper, work] = upper(sandbox);
    let target = sandbox.path("rw/a");
    let mut client = daemon.client();
    let overlay = Overlay::new([&a, &b], &target).unwrap();
    let written = || overlay.clone().upper(&upper, &work).unwrap();
    let error = unchanged(|| client.mount(written()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().contains("takes more than CAP_SYS_ADMIN"),
        "{error}"
    );
    let record = daemon.last_audit();
    assert_eq!(record["errno"], libc::EACCES, "{record}");
    assert_eq!(record["upper"], true, "{record}");
    // The kernel has begun: this is what it made, and may not use.
    assert_eq!(names(&work), ["work"]);
    fs::remove_dir(work.join("work")).unwrap();
    assert_eq!(names(&upper), [""; 0]);
    // Where it cannot even begin, it would have left it at one that is only read.
    fs::set_permissions(&work, fs::Permissions::from_mode(0o555)).unwrap();
    let error = unchanged(|| client.mount(written()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(daemon.last_audit()["errno"], libc::EROFS);
    assert_eq!(names(&work), [""; 0]);
    fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).unwrap();

    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        a.display(),
        upper.display(),
        work.display()
    );
    let (flags, options) = (MsFlags::empty(), Some(options.as_str()));
    mount(Some("test"), &target, Some("overlay"), flags, options).unwrap();
    fs::write(target.join("new"), "").unwrap();
    nix::mount::umount(&target).unwrap();
    assert_eq!(names(&upper), ["new"]);

    client.mount(overlay).unwrap();
    assert_eq!(names(&target), ["a", "b", "both"]);
    Ok(())
}

/// Each refusal stands beside the nearest request that is allowed: that in
/// `layers_in_order`.
pub(crate) fn attack_14_refused_unless_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let other = sandbox.path("src/data");
    let overlay = |layers: &[&PathBuf]| Overlay::new(layers, &target).unwrap();
    let upper = overlay(&[&a]).upper(&b, &b).unwrap();
    for (request, reason) in [
        (overlay(&[&a, &other]), DenyReason::SourceNotGranted),
        (overlay(&[&other, &a]), DenyReason::SourceNotGranted),
        (overlay(&[&a, &b, &a, &b]), DenyReason::LayersAboveMaximum),
        (upper, DenyReason::UpperNotGranted),
        (overlay(&[&a]).suid(), DenyReason::SuidNotGranted),
        (overlay(&[&a]).dev(), DenyReason::DevNotGranted),
        (
            Overlay::new([&a], &other).unwrap(),
            DenyReason::TargetNotGranted,
        ),
    ] {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(daemon.last_audit()["reason"], reason.name());
    }
    let bind = Bind::new(&a, &target).unwrap();
    let error = unchanged(|| client.mount(bind).unwrap_err());
    assert_eq!(
        error.reason(),
        Some(DenyReason::KindNotGranted),
        "a layer is no source: {error}"
    );
    client
        .mount(overlay(&[&a, &b, &sandbox.make_dir("layers/c")]))
        .unwrap();
    Ok(())
}

/// What is granted and no layer: nothing is made of it.
pub(crate) fn what_is_no_layer(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let link = sandbox.path("layers/link");
    std::os::unix::fs::symlink(&b, &link).unwrap();
    let fifo = sandbox.path("layers/fifo");
    nix::unistd::mkfifo(&fifo, Mode::empty()).unwrap();
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).unwrap();
    let within = sandbox.make_dir("layers/a/within");
    for (layer, kind, words) in [
        (b.join("b"), ErrorKind::WrongType, "is not a directory"),
        (link, ErrorKind::WrongType, "symbolic link"),
        (fifo, ErrorKind::WrongType, "neither a directory"),
        (b.join("nothing"), ErrorKind::NotFound, "nothing"),
        (a.clone(), ErrorKind::InvalidRequest, "lies in another"),
        (within, ErrorKind::InvalidRequest, "lies in another"),
    ] {
        let overlay = Overlay::new([&a, &layer], &target).unwrap();
        let error = unchanged(|| client.mount(overlay).unwrap_err());
        assert_eq!(error.kind(), kind, "{}: {error}", layer.display());
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let single = Overlay::new([&a], &target).unwrap();
    let error = unchanged(|| client.mount(single).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    assert!(error.to_string().contains("two lower ones"), "{error}");
    let file = Overlay::new([&a, &b], sandbox.path("mnt/file")).unwrap();
    let error = unchanged(|| client.mount(file).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::WrongType, "{error}");
    // As deep as the kernel stacks them, and no deeper.
    let within = |name: &str| sandbox.make_dir(&format!("layers/{name}"));
    let mut lower = a;
    for (place, inner) in [("mnt/a", "one"), ("mnt/b", "two")] {
        let (place, inner) = (sandbox.path(place), within(inner));
        client
            .mount(Overlay::new([&lower, &b], &place).unwrap())
            .unwrap();
        let flags = MsFlags::MS_BIND;
        mount(Some(&place), &inner, None::<&str>, flags, None::<&str>).unwrap();
        lower = inner;
    }
    let deeper = Overlay::new([&lower, &b], sandbox.make_dir("mnt/c")).unwrap();
    let error = unchanged(|| client.mount(deeper).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    Ok(())
}

/// An overlay is made once: what it was made from, nobody tells.
pub(crate) fn attack_12_busy_for_the_same(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let overlay = |layers: &[&PathBuf]| Overlay::new(layers, &target).unwrap();
    let made = client.mount(overlay(&[&a, &b])).unwrap();
    for again in [overlay(&[&a, &b]), overlay(&[&b, &a])] {
        let error = unchanged(|| client.mount(again).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(error.mount(), Some(made.mount.id));
        let why = "the kernel does not tell which layers an overlay has";
        assert!(error.to_string().contains(why), "{error}");
    }
    client.unmount(&made).unwrap();
    crate::sandbox::mount_tmpfs(&target);
    let error = unchanged(|| client.mount(overlay(&[&a])).unwrap_err());
    assert!(
        error.to_string().contains("it is of another kind"),
        "{error}"
    );
    Ok(())
}

/// A remount adds attributes, and takes none away.
pub(crate) fn a_remount_sets_and_lifts_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    use mountwarden_client::protocol::{Kind, Lift, Operation, Remount as Request};
    let (daemon, layers) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let overlay = Overlay::new(layers, &target).unwrap();
    client.mount(overlay.clone()).unwrap();
    let remount = Remount::new(&target).unwrap();
    let set = remount.set(MountAttributes::NO_EXEC);
    let mount = client.remount(set).unwrap();
    assert!(mount.attributes.contains(MountAttributes::NO_EXEC));
    let mut wire = crate::wire::Wire::open(&daemon.socket);
    let kind: Operation = overlay.into();
    let kind: Kind = kind.kind().unwrap().clone();
    for (attributes, words) in [
        (MountAttributes::READ_ONLY, "forces that"),
        (MountAttributes::NO_EXEC, "does not tell which layers"),
    ] {
        let lift = Some(Lift {
            attributes,
            kind: kind.clone(),
        });
        let request = Operation::Remount(Request {
            target: AbsPath::new(&target).unwrap(),
            set: MountAttributes::empty(),
            lift,
            id: None,
        });
        let reply =
            unchanged(|| wire.ask(&mountwarden_client::protocol::Request::Perform(request)));
        assert!(format!("{reply:?}").contains(words), "{reply:?}");
    }
    assert_eq!(
        kernel::statmount(mount.id).id,
        u64::from(mount.id),
        "it is still there"
    );
    Ok(())
}

/// Shared it can be, and a slave it cannot: nothing is its master.
pub(crate) fn attack_11_its_propagation(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, layers) = start(sandbox)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let overlay = || Overlay::new(&layers, &target).unwrap();
    let private = client.mount(overlay()).unwrap();
    assert!(!kernel::only(&target).shared);
    client.unmount(&private).unwrap();
    client.mount(overlay().shared()).unwrap();
    assert!(kernel::only(&target).shared);
    Ok(())
}

/// Its end is seen to before it is attached, as of every kind.
pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (daemon, [a, b]) = start(sandbox)?;
    let target = sandbox.path("mnt/a");
    let mut client = daemon.client();
    let leased = Overlay::new([&a, &b], &target).unwrap().leased();
    client.mount(leased).unwrap();
    assert_eq!(daemon.last_audit()["lease"], true);
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    Ok(())
}

/// To a target that the helper's user cannot reach; its layers are never passed.
pub(crate) fn at_a_passed_target(sandbox: &Sandbox) -> Result<(), Skip> {
    supported()?;
    let [a, b] = layers(sandbox);
    let grant = "[grant.overlay]\nlayer = [\"@DIR@/layers\"]\n";
    sandbox.policy(&(passed::policy() + grant));
    let target = private(sandbox, "mnt/home/vm");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let overlay = || Overlay::new([&a, &b], &target).unwrap();
    let to = File::open(&target).unwrap();
    let both = mountwarden_client::Passing::new().target(&to).source(&to);
    let error = unchanged(|| client.mount_passing(overlay(), both).unwrap_err());
    assert_eq!(
        error.reason(),
        Some(DenyReason::PassedNotGranted),
        "{error}"
    );
    let made = mount_at(&mut client, overlay(), &target).unwrap();
    assert_eq!(made, Outcome::Mounted);
    assert_eq!(count(&target), 2);
    Ok(())
}

/// The command, and what it prints.
pub(crate) fn by_the_command(sandbox: &Sandbox) -> Result<(), Skip> {
    let (daemon, [a, b]) = start(sandbox)?;
    let target = sandbox.path("mnt/a");
    let words = |more: &[&str]| {
        let mut command = daemon.cli();
        command.args(["mount", "overlay"]).arg(&target).args(more);
        command
    };
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let upper = ["--lower", a, "--upper", b, "--work", b];
    for (more, status, said) in [
        (&[][..], 2, "--lower"),
        (&["--lower", a, "--upper", b], 2, "--work"),
        (&["--lower", "relative"], 9, "must start with '/'"),
        (&upper, 3, "roots of your grant 'read': none"),
    ] {
        let (code, _, error) = unchanged(|| outcome(&mut words(more)));
        assert_eq!(code, status, "{error}");
        assert!(error.contains(said), "{error}");
    }
    let (status, printed, error) = outcome(&mut words(&["--lower", b, "--lower", a]));
    assert_eq!(status, 0, "{error}");
    assert!(printed.contains("Mounted"), "{printed}");
    assert_eq!(fs::read_to_string(target.join("both")).unwrap(), "b");
    Ok(())
}
