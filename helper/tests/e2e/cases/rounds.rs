//! Mounting and unmounting over and over leaves nothing behind: no mount, descriptor,
//! loop device or memory. `MOUNTWARDEN_ROUNDS` says how often; 10,000 take minutes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use mountwarden_client::{
    Bind, Block, Client, Detach, Fuse, Image, Mounted, Move, Network, Overlay, Tmpfs,
};
use nix::unistd::Pid;

use super::batches::{end, tree};
use super::confinement::only;
use super::{idmaps, images, networked, overlays};
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::devices::{Disk, LoopDevices, open_fuse_to_all};
use crate::hostile::descriptors;
use crate::kernel::{self, descendants, named, status_field, unchanged};
use crate::sandbox::{POLICY, Sandbox};

const ROUNDS: &str = "MOUNTWARDEN_ROUNDS";
const PROCESSES: [&str; 4] = ["mw-gate", "mw-session", "mw-warden", "mw-mounter"];

/// What the helper holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: Vec<usize>,
    /// The sizes of the heaps, as `/proc/PID/status` prints them.
    heaps: Vec<Option<String>>,
}

impl Held {
    fn by(processes: &[Pid]) -> Result<Self, Skip> {
        let counts = processes
            .iter()
            .map(|&pid| descriptors(pid).map(|all| all.len()));
        let heap = |&pid: &Pid| status_field(pid, "VmData");
        Ok(Self {
            descriptors: counts.collect::<Result<_, _>>()?,
            heaps: processes.iter().map(heap).collect(),
        })
    }
}

/// All processes of one connection. Where there is a locker, its last children may still be
/// on their way out when the client has its answer, and it lets go of what they had then.
fn at_rest(daemon: &Daemon) -> Vec<Pid> {
    let mut processes = PROCESSES.map(|name| only(daemon, name)).to_vec();
    if !named(daemon.pid(), "mw-locker").is_empty() {
        let all = || descendants(daemon.pid()).len();
        wait_for("the locker's children end", || (all() == 5).then_some(()));
        let locker = only(daemon, "mw-locker");
        let held = || descriptors(locker).map_or(0, |all| all.len());
        wait_for("the locker waits", || (held() == 8).then_some(()));
        processes.push(locker);
    }
    processes
}

fn rounds() -> u32 {
    std::env::var(ROUNDS).map_or(200, |text| text.parse().expect(ROUNDS))
}

fn go_round(
    sandbox: &Sandbox,
    grant: &str,
    mut mount: impl FnMut(&mut Client) -> Mounted,
) -> Result<(), Skip> {
    go(sandbox, grant, |client| {
        let mounted = mount(client);
        client.unmount(&mounted).unwrap();
    })
}

fn go(sandbox: &Sandbox, grant: &str, mut round: impl FnMut(&mut Client)) -> Result<(), Skip> {
    let policy = POLICY.replace("target = ", "move = true\ntarget = ");
    sandbox.policy(&format!(
        "{policy}{grant}\n[limits]\nrequests_per_second = 100000\n"
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let mut pairs = |count: u32| {
        for _ in 0..count {
            round(&mut client);
            daemon.shorten_log(1 << 20);
        }
    };
    // What is allocated once has been by then.
    pairs(50);
    let before = Held::by(&at_rest(&daemon))?;
    unchanged(|| pairs(rounds()));
    assert_eq!(Held::by(&at_rest(&daemon))?, before);
    Ok(())
}

pub(crate) fn bind(sandbox: &Sandbox) -> Result<(), Skip> {
    let bind = Bind::new(sandbox.path("src/data"), sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, "", |client| client.mount(bind.clone()).unwrap())
}

pub(crate) fn tmpfs(sandbox: &Sandbox) -> Result<(), Skip> {
    let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, "", |client| client.mount(tmpfs.clone()).unwrap())
}

pub(crate) fn block(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let device = disk.path().to_str().unwrap();
    let grant = format!("  [grant.block]\n  device = [\"{device}\"]\n  filesystems = [\"ext4\"]\n");
    let block = Block::new(disk.path(), "ext4", sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, &grant, |client| {
        client.mount(block.clone()).unwrap()
    })?;
    is_gone_without(disk);
    Ok(())
}

/// Nobody else holds the device: it is gone at once.
fn is_gone_without(disk: Disk) {
    let backing = format!(
        "/sys/dev/block/7:{}/loop",
        nix::sys::stat::minor(disk.path().metadata().unwrap().rdev())
    );
    drop(disk);
    assert!(fs::metadata(&backing).is_err(), "{backing}");
}

pub(crate) fn fuseblk(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    kernel::needs(6, 6, "FSCONFIG_CMD_CREATE_EXCL")?;
    open_fuse_to_all(sandbox)?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let device = disk.path().to_str().unwrap();
    let grant = format!("  [grant.fuse]\n  subtypes = [\"none\"]\n  device = [\"{device}\"]\n");
    let fuse = Fuse::new("none", sandbox.path("mnt/a")).unwrap();
    let fuse = fuse.device(disk.path(), None).unwrap();
    go_round(sandbox, &grant, |client| {
        client.mount_fuse(fuse.clone()).unwrap().mounted
    })?;
    is_gone_without(disk);
    Ok(())
}

/// There and back, beside a move that is refused.
pub(crate) fn moved(sandbox: &Sandbox) -> Result<(), Skip> {
    let (a, b) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let tmpfs = Tmpfs::new(&a).unwrap();
    let moving = |from, to| Move::new(from, to).unwrap();
    go_round(sandbox, "", |client| {
        let made = client.mount(tmpfs.clone()).unwrap();
        client.move_mount(moving(&a, &b)).unwrap();
        client.move_mount(moving(&b, &b)).unwrap_err();
        client.move_mount(moving(&b, &a)).unwrap();
        made
    })
}

/// One that is kept and ended, and one that is taken back.
pub(crate) fn batch(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let batch = tree(sandbox);
    let missing = Tmpfs::new(sandbox.path("mnt/missing")).unwrap();
    let failing = batch.clone().mount(missing);
    go(sandbox, "", |client| {
        let applied = client.apply(batch.clone()).unwrap();
        end(client, &applied);
        let error = client.apply(failing.clone()).unwrap_err();
        assert_eq!(error.batch().unwrap().left, []);
    })
}

pub(crate) fn fuse(sandbox: &Sandbox) -> Result<(), Skip> {
    open_fuse_to_all(sandbox)?;
    let grant = "  [grant.fuse]\n  subtypes = [\"none\"]\n";
    let fuse = Fuse::new("none", sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, grant, |client| {
        client.mount_fuse(fuse.clone()).unwrap().mounted
    })
}

/// Each takes a fork of the locker, and two namespaces that end with it.
pub(crate) fn detached(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY.replace("target = ", "detached = true\ntarget = ");
    sandbox.policy(&format!(
        "{policy}\n[limits]\nrequests_per_second = 100000\n"
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    let mut hand_over = |count: u32| {
        for _ in 0..count {
            drop(client.detach(detach.clone()).unwrap());
            daemon.shorten_log(1 << 20);
        }
        // The mounter lets go of its own after the client has it, and then answers this.
        client.status().unwrap();
    };
    hand_over(50);
    let before = Held::by(&at_rest(&daemon))?;
    unchanged(|| hand_over(rounds()));
    assert_eq!(Held::by(&at_rest(&daemon))?, before);
    Ok(())
}

pub(crate) fn overlay(sandbox: &Sandbox) -> Result<(), Skip> {
    overlays::supported()?;
    let layers = overlays::layers(sandbox);
    let grant = "  [grant.overlay]\n  layer = [\"@DIR@/layers\"]\n";
    let overlay = Overlay::new(layers, sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, grant, |client| {
        client.mount(overlay.clone()).unwrap()
    })
}

pub(crate) fn image(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs(6, 12, "erofs in a file")?;
    let _disk = images::OnDisk::make(sandbox)?;
    let file = images::image(sandbox, "a", "erofs")?;
    let grant = "  [grant.image]\n  file = [\"@DIR@/images\"]\n  filesystems = [\"erofs\"]\n";
    let image = Image::new(file, "erofs", sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, grant, |client| {
        client.mount(image.clone()).unwrap()
    })
}

pub(crate) fn looped_image(sandbox: &Sandbox) -> Result<(), Skip> {
    let devices = LoopDevices::make(sandbox, 428, 2, 0o644)?;
    let file = images::image(sandbox, "a", "squashfs")?;
    let grant = format!(
        "  [grant.image]\n  file = [\"@DIR@/images\"]\n  filesystems = [\"squashfs\"]\n  {}\n",
        devices.key()
    );
    let image = Image::new(file, "squashfs", sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, &grant, |client| {
        client.mount(image.clone()).unwrap()
    })?;
    devices.wait_until_free();
    Ok(())
}

/// What the kernel keeps of a server between two mounts of it is not the helper's.
pub(crate) fn network(sandbox: &Sandbox) -> Result<(), Skip> {
    networked::mounts_them(sandbox)?;
    networked::tree(networked::NFS)?;
    let grant = "  [grant.network]\n  source = [\"127.0.0.1:/\"]\n  filesystems = [\"nfs4\"]\n  \
                 options = [\"addr=127.0.0.1\", \"vers=4.2\", \"port=2049\"]\n";
    let network = networked::nfs(sandbox, "mnt/a", networked::PORT);
    go_round(sandbox, grant, |client| {
        client.mount(network.clone()).unwrap()
    })
}

pub(crate) fn virtiofs(sandbox: &Sandbox) -> Result<(), Skip> {
    networked::mounts_them(sandbox)?;
    networked::tree(networked::VIRTIOFS)?;
    let grant = "  [grant.network]\n  source = [\"files\"]\n  filesystems = [\"virtiofs\"]\n";
    let network = Network::new("files", "virtiofs", sandbox.path("mnt/a")).unwrap();
    go_round(sandbox, grant, |client| {
        client.mount(network.clone()).unwrap()
    })
}

/// Each takes two forks of the locker, of which the second enters another namespace.
pub(crate) fn idmap(sandbox: &Sandbox) -> Result<(), Skip> {
    idmaps::granted(sandbox, "")?;
    let policy = idmaps::policy("");
    sandbox.policy(&format!(
        "{policy}\n[limits]\nrequests_per_second = 100000\n"
    ));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = idmaps::plain(sandbox);
    let mut pairs = |count: u32| {
        for _ in 0..count {
            let bind = idmaps::bind(sandbox);
            let made = idmaps::ask(&mut client, bind, &namespace).unwrap();
            client.unmount(&made).unwrap();
            daemon.shorten_log(1 << 20);
        }
    };
    pairs(50);
    let before = Held::by(&at_rest(&daemon))?;
    unchanged(|| pairs(rounds()));
    assert_eq!(Held::by(&at_rest(&daemon))?, before);
    Ok(())
}
