//! Images that the kernel reads from a device alone, by loop devices that the helper takes
//! and that end with the mount.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use mountwarden_client::{Client, ErrorKind, Image, MountAttributes, Outcome, Remount, Unmount};
use nix::fcntl::OFlag;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::Mode;

use super::confinement::only;
use super::deaths::{of_the_helper, strike};
use super::images::image;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::devices::LoopDevices;
use crate::fuse;
use crate::hostile::{descriptors, send, seqpacket_pair};
use crate::kernel::{self, unchanged};
use crate::racing::{Pace, word};
use crate::sandbox::Sandbox;
use crate::served::{HELLO, serve_and_stall};

const POLICY: &str = r#"
version = 1

[[grant]]
name = "images"
users = [@UID@]
target = ["@DIR@/mnt"]
remount = true
  [grant.image]
  file = ["@DIR@/images"]
  filesystems = ["squashfs", "erofs"]
  @DEVICES@

[[grant]]
name = "without"
users = [@UID@]
target = ["@DIR@/without"]
  [grant.image]
  file = ["@DIR@/images"]
  filesystems = ["squashfs"]
"#;

/// So that the helper's user can read them, and so that it cannot.
const READABLE: u32 = 0o644;
const PRIVATE: u32 = 0o600;

fn policy(sandbox: &Sandbox, devices: &LoopDevices) {
    sandbox.make_dir("without/a");
    sandbox.policy(&POLICY.replace("@DEVICES@", &devices.key()));
}

/// A case's own devices, from a number on, and an image.
fn start(
    sandbox: &Sandbox,
    first: u32,
    count: u32,
) -> Result<(LoopDevices, Daemon, PathBuf), Skip> {
    let devices = LoopDevices::make(sandbox, first, count, READABLE)?;
    let image = image(sandbox, "a.sqfs", "squashfs")?;
    policy(sandbox, &devices);
    Ok((devices, Daemon::start(sandbox), image))
}

fn squashfs(image: &Path, target: &Path) -> Image {
    Image::new(image, "squashfs", target).unwrap()
}

pub(crate) fn squashfs_and_erofs(sandbox: &Sandbox) -> Result<(), Skip> {
    let (devices, daemon, file) = start(sandbox, 400, 2)?;
    let erofs = image(sandbox, "a.erofs", "erofs")?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    for (file, type_name) in [(&file, "squashfs"), (&erofs, "erofs")] {
        let request = Image::new(file, type_name, &target).unwrap();
        let mounted = client.mount(request).unwrap();
        assert_eq!(mounted.outcome, Outcome::Mounted);
        assert_eq!(mounted.mount.filesystem, type_name);
        let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
        let attributes = forced | MountAttributes::READ_ONLY;
        assert_eq!(mounted.mount.attributes, attributes);
        let text = fs::read_to_string(target.join("file")).unwrap();
        assert_eq!(text, "in an image");
        let error = fs::write(target.join("file"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert_eq!(devices.shown(), [file.as_path()]);
        let device = format!("/sys/block/loop{}", devices.first);
        for name in ["ro", "loop/autoclear"] {
            let is = fs::read_to_string(format!("{device}/{name}")).unwrap();
            assert_eq!(is, "1\n", "{name}");
        }
        let record = daemon.last_audit();
        assert_eq!(record["event"], "mount-image");
        assert_eq!(record["source"], file.to_str().unwrap());
        client.unmount(&mounted).unwrap();
        assert_eq!(kernel::at(&target), []);
        devices.wait_until_free();
    }
    Ok(())
}

/// No device is left where there is no mount, and what is wrong is said.
pub(crate) fn attack_14_refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    let (devices, daemon, file) = start(sandbox, 404, 1)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let whole = fs::read(&file).unwrap();
    let mut broken = whole.clone();
    broken[32..64].fill(0xff);
    for (name, bytes) in [
        ("empty", &[][..]),
        ("noise", &[0x55; 8192][..]),
        ("broken", &broken),
        ("cut", &whole[..512]),
    ] {
        let file = sandbox.path(&format!("images/{name}"));
        fs::write(&file, bytes).unwrap();
        let error = unchanged(|| client.mount(squashfs(&file, &target)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Failed, "{name}: {error}");
        assert!(error.to_string().contains("as squashfs"), "{name}: {error}");
        devices.wait_until_free();
    }
    let elsewhere = sandbox.path("without/a");
    let error = unchanged(|| client.mount(squashfs(&file, &elsewhere)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("`loop_devices`"), "{error}");
    assert_eq!(daemon.last_audit()["errno"], libc::ENOTBLK);

    let made = client.mount(squashfs(&file, &target)).unwrap();
    let second = sandbox.path("mnt/b");
    let error = unchanged(|| client.mount(squashfs(&file, &second)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    let number = devices.first;
    let why = format!("loop devices {number} to {number}, which the grant names");
    assert!(error.to_string().contains(&why), "{error}");
    assert_eq!(daemon.last_audit()["errno"], libc::EBUSY);
    client.unmount(&made).unwrap();
    devices.wait_until_free();
    client.mount(squashfs(&file, &second)).unwrap();
    Ok(())
}

/// What the helper's user cannot read it takes from nobody.
pub(crate) fn no_right_to_a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    let devices = LoopDevices::make(sandbox, 408, 1, PRIVATE)?;
    let file = image(sandbox, "a.sqfs", "squashfs")?;
    policy(sandbox, &devices);
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(squashfs(&file, &target)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("\"Loop devices\""), "{error}");
    assert_eq!(daemon.last_audit()["errno"], libc::EACCES);
    let node = sandbox.path(&format!("loop{}", devices.first));
    fs::set_permissions(node, readable()).unwrap();
    client.mount(squashfs(&file, &target)).unwrap();
    Ok(())
}

fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(READABLE)
}

/// The device ends with the last user of the mount, however the mount ends.
pub(crate) fn it_ends_with_the_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let (devices, daemon, file) = start(sandbox, 412, 2)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let unmount = || Unmount::new(&target).unwrap();

    client.mount(squashfs(&file, &target)).unwrap();
    let open = fs::File::open(target.join("file")).unwrap();
    let error = unchanged(|| client.unmount(unmount()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy);
    client.unmount(unmount().lazy()).unwrap();
    assert_eq!(kernel::at(&target), []);
    assert_eq!(devices.shown(), [file.as_path()]);
    drop(open);
    devices.wait_until_free();

    // By somebody else.
    client.mount(squashfs(&file, &target)).unwrap();
    nix::mount::umount(&target).unwrap();
    devices.wait_until_free();

    // The helper may end before it does, and its file be removed.
    let made = client.mount(squashfs(&file, &target)).unwrap();
    unchanged(|| daemon.kill());
    fs::remove_file(&file).unwrap();
    let daemon = Daemon::start(sandbox);
    let text = fs::read_to_string(target.join("file")).unwrap();
    assert_eq!(text, "in an image");
    let set = Remount::new(&target).unwrap().set(MountAttributes::NO_EXEC);
    let mut client = daemon.client();
    client.remount(set).unwrap();
    client.unmount(&made).unwrap();
    devices.wait_until_free();
    Ok(())
}

pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (devices, daemon, file) = start(sandbox, 416, 1)?;
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    client.mount(squashfs(&file, &target).leased()).unwrap();
    assert_eq!(devices.shown(), [file.as_path()]);
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&target).is_empty().then_some(())
    });
    devices.wait_until_free();
    Ok(())
}

/// An image that a server holds back: the mounter waits for it in the kernel, where nothing
/// ends it. Others are served, and when the server goes, so does all of it.
pub(crate) fn attack_31_an_image_that_hangs(sandbox: &Sandbox) -> Result<(), Skip> {
    let (devices, daemon, _) = start(sandbox, 430, 1)?;
    drop(daemon);
    let limits = "[limits]\nrequest_timeout = \"@SECOND@\"\n[[grant]]";
    let policy = POLICY.replace("@DEVICES@", &devices.key());
    sandbox.policy(&policy.replacen("[[grant]]", limits, 1));
    let hung = sandbox.make_dir("images/served");
    let connection = fuse::device()?;
    fuse::attach(&connection, &hung, true)?;
    let server = serve_and_stall(connection.into());
    let daemon = Daemon::start(sandbox);
    let before = kernel::table();
    let mut client = daemon.client();
    let hangs = squashfs(&hung.join(HELLO), &sandbox.path("mnt/a"));
    let error = client.mount(hangs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(devices.shown(), [hung.join(HELLO)]);
    let mut other = daemon.client();
    assert_eq!(other.list().unwrap(), []);
    let image = sandbox.path("images/a.sqfs");
    let second = squashfs(&image, &sandbox.path("mnt/b"));
    let error = other.mount(second.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    umount2(&hung, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    server.join().unwrap();
    devices.wait_until_free();
    assert_eq!(kernel::table().len() + 1, before.len());
    other.mount(second).unwrap();
    Ok(())
}

/// A mounter that somebody owns has a device of the policy's show what it has open, and no other.
pub(crate) fn attack_26_what_a_locker_is_asked(sandbox: &Sandbox) -> Result<(), Skip> {
    let (devices, daemon, file) = start(sandbox, 432, 1)?;
    // In no grant.
    let foreign = LoopDevices::make(sandbox, 433, 1, READABLE)?;
    let client = daemon.client();
    let held = descriptors(only(&daemon, "mw-mounter"))?;
    let locker = &held[&29];
    let (answers, answer) = seqpacket_pair();
    let ask = |number: u64, first: u64, count: u64, what: u64, file: &OwnedFd| {
        let message = [number, first << 32 | count, what].map(u64::to_le_bytes);
        let files = [file.as_fd(), answer.as_fd()];
        send(locker, &message.concat(), &files).unwrap();
        let mut words = [0; 16];
        recv(answers.as_raw_fd(), &mut words, MsgFlags::empty()).unwrap();
        let (words, _) = words.as_chunks::<8>();
        assert_eq!(u64::from_le_bytes(words[0]), number);
        i32::try_from(u64::from_le_bytes(words[1])).unwrap()
    };
    let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
    let image = open(&file);
    unchanged(|| {
        let (own, other) = (devices.first.into(), foreign.first.into());
        for (first, count) in [
            (other, 1),
            (own, 2),
            (own, 0),
            (own, 65),
            (u64::MAX >> 32, 1),
        ] {
            // All that it may not take are after one that it may.
            let busy = ask(1, first, count, 2, &image);
            assert!([libc::EINVAL, 0].contains(&busy), "{first} {count}: {busy}");
            devices.wait_until_free();
        }
        assert_eq!(foreign.shown(), Vec::<PathBuf>::new());
        let (_other, socket) = seqpacket_pair();
        let unopened = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let unopened = nix::fcntl::open(&file, unopened, Mode::empty()).unwrap();
        for (file, errno) in [
            (open(&sandbox.path("images")), libc::EINVAL),
            (open(Path::new("/dev/null")), libc::EINVAL),
            (socket, libc::EINVAL),
            (unopened, libc::EBADF),
        ] {
            assert_eq!(ask(2, own, 1, 2, &file), errno);
        }
        // Neither is granted here, and a request for it has no answer.
        for what in [0, 1, 3, u64::MAX] {
            let message = [3, 0, what].map(u64::to_le_bytes).concat();
            send(locker, &message, &[image.as_fd(), answer.as_fd()]).unwrap();
        }
        assert_eq!(ask(4, own, 1, 2, &image), 0);
    });
    devices.wait_until_free();
    drop(client);
    let target = sandbox.path("mnt/a");
    daemon.client().mount(squashfs(&file, &target)).unwrap();
    Ok(())
}

/// Whichever process of the helper is killed, and when: a device shows an image only as long
/// as there is a mount of it.
pub(crate) fn attack_30_killed_in_between(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let (devices, mut daemon, file) = start(sandbox, 420, 8)?;
    let target = sandbox.path("mnt/a");
    let socket = sandbox.path("run/sock");
    let pace = Pace::new(&[
        "kill: warden",
        "kill: locker's child",
        "kill: session",
        "kill: mounter",
        "mounted",
    ]);
    thread::scope(|scope| {
        let _over = pace.until_the_end();
        scope.spawn(|| play(&socket, &file, &target, &pace));
        let mut random = pace.random();
        while pace.goes_on() {
            for _ in 0..random.below(16) {
                random.pause();
            }
            let role = match random.below(60) {
                0 => "warden",
                number if number < 30 => "locker's child",
                number if number < 40 => "session",
                _ => "mounter",
            };
            if !strike(&daemon, role, &mut random) {
                continue;
            }
            pace.count(format!("kill: {role}"));
            if role == "warden" {
                wait_for("all of the helper ends", || {
                    (!daemon.runs() && of_the_helper().is_empty()).then_some(())
                });
                fs::remove_file(sandbox.path("log")).unwrap();
                daemon = Daemon::start(sandbox);
            }
            daemon.shorten_log(1 << 20);
        }
    });
    assert!(daemon.runs(), "it goes on");
    let mut client = daemon.client();
    wait_for("what is mounted is what the devices show", || {
        (client.list().unwrap().len() == devices.shown().len()).then_some(())
    });
    for mount in client.list().unwrap() {
        client.unmount(&mount).unwrap();
    }
    devices.wait_until_free();
    pace.tell();
    Ok(())
}

/// Mounts and unmounts until the end, with another connection when one is lost.
fn play(socket: &Path, file: &Path, target: &Path, pace: &Pace) {
    let _over = pace.until_the_end();
    while !pace.is_over() {
        let Ok(mut client) = Client::connect_to(socket) else {
            continue;
        };
        loop {
            let result = client.mount(squashfs(file, target));
            pace.count(word(&result, |_| "mounted"));
            // One that was lost may have mounted it.
            let _ = client.unmount(Unmount::new(target).unwrap());
            if result.is_err() || pace.is_over() {
                break;
            }
        }
    }
}
