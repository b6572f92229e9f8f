//! Kinds of mount that are made from more than a directory, beside the old calls and
//! beside the programs that are usually started for them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use mountwarden_client::{
    Bind, Block, Client, Detach, Fuse, Image, Move, Network, Overlay, Passing, Tmpfs,
};
use mountwarden_protocol::Mount;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{getegid, geteuid};

use crate::namespace::Namespace;
use crate::raw;
use crate::report::{self, Series};
use crate::server::{Limits, Place, Server};
use crate::{Outcome, Rounds};

const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const CALLS: &str = "mount(2) + umount2(2)";
const PROGRAMS: &str = "mount(8) + umount(8)";

/// A kind, and what times it.
type Row = (&'static str, fn(&Bench<'_>, &mut Client) -> Outcome<()>);

const KINDS: [Row; 9] = [
    ("block", block),
    ("fuse", fuse),
    ("fuseblk", fuseblk),
    ("overlay", overlay),
    // Before a mount lies beneath its source, which unshare(1) could not bind then.
    ("detached", detached),
    ("idmap", idmap),
    ("move", moved),
    ("image", image),
    ("image by a loop device", looped),
];

const NETWORK: [Row; 2] = [("nfs4", nfs), ("virtiofs", virtiofs)];

/// Where it is done, and how often.
struct Bench<'a> {
    place: &'a Place,
    ours: PathBuf,
    raw: PathBuf,
    rounds: Rounds,
}

/// A way to do it, and its name.
type Way<'a> = (&'a str, &'a mut dyn FnMut() -> Outcome<()>);

pub(crate) fn run(place: &Place, _: &Server, rounds: Rounds) -> Outcome<()> {
    report::section("Other kinds: a mount and its unmount, over an open connection");
    if !geteuid().is_root() {
        println!("SKIPPED: a device takes root, and so do the programs that are compared");
        return Ok(());
    }
    open_to_all(place)?;
    table(&KINDS, place, rounds)
}

/// The servers are those of the machines that `helper/tests/kernels/run` boots.
pub(crate) fn network(place: &Place, _: &Server, rounds: Rounds) -> Outcome<()> {
    report::section("Network file systems: a mount and its unmount, over an open connection");
    if !geteuid().is_root() {
        println!("SKIPPED: the kernel mounts none in another user namespace than its first");
        return Ok(());
    }
    // One takes a second there.
    let looks = rounds.looks.div_ceil(10);
    table(&NETWORK, place, Rounds { looks, ..rounds })
}

fn table(rows: &[Row], place: &Place, rounds: Rounds) -> Outcome<()> {
    let server = Server::start(place, Namespace::Root, Limits::NoneAllKinds)?;
    let mut client = Client::connect_to(&server.socket)?;
    report::columns();
    let bench = Bench {
        place,
        ours: place.at("target/ours"),
        raw: place.at("target/raw"),
        rounds,
    };
    for (name, row) in rows {
        if let Err(error) = row(&bench, &mut client) {
            let Missing(what) = *error.downcast()?;
            println!("SKIPPED {name}: {what}");
        }
    }
    Ok(())
}

/// What this machine has not got.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Missing(String);

impl Bench<'_> {
    /// Goes each way in turn. The first is what the others are compared with.
    fn compare<const WAYS: usize>(&self, ways: [Way<'_>; WAYS]) -> Outcome<()> {
        let mut ways = ways.map(|(name, way)| (Series::new(name), way));
        for _ in 0..self.rounds.looks {
            for (series, way) in &mut ways {
                let begun = Instant::now();
                way()?;
                series.add(begun.elapsed());
            }
        }
        let mut base = None;
        for (series, _) in ways {
            base = Some(match base {
                None => report::series(series.base(), None),
                Some(base) => {
                    report::series(series, Some(base));
                    base
                }
            });
        }
        Ok(())
    }

    /// Mounts and unmounts with the old calls.
    fn calls(&self, source: &Path, kind: &str, flags: MsFlags, options: &str) -> Outcome<()> {
        mount(Some(source), &self.raw, Some(kind), flags, Some(options))?;
        Ok(umount2(&self.raw, MntFlags::UMOUNT_NOFOLLOW)?)
    }

    /// Mounts and unmounts with the programs.
    fn programs(&self, source: &Path, kind: &str, options: &str) -> Outcome<()> {
        let words = ["-t", kind, "-o", options];
        output(Command::new("mount").args(words).arg(source).arg(&self.raw))?;
        output(Command::new("umount").arg(&self.raw)).map(drop)
    }
}

fn pair(client: &mut Client, request: impl Into<Mount>) -> Outcome<()> {
    let mounted = client.mount(request)?;
    client.unmount(&mounted)?;
    Ok(())
}

fn block(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let disk = Disk::make(bench.place)?;
    let request = Block::new(&disk.0, "ext4", &bench.ours)?;
    bench.compare([
        (CALLS, &mut || bench.calls(&disk.0, "ext4", FLAGS, "")),
        ("block (ext4)", &mut || pair(client, request.clone())),
        (PROGRAMS, &mut || {
            bench.programs(&disk.0, "ext4", "nosuid,nodev")
        }),
    ])
}

fn image(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let erofs = Erofs::make(bench.place)?;
    let request = Image::new(&erofs.0, "erofs", &bench.ours)?;
    let flags = FLAGS | MsFlags::MS_RDONLY;
    bench.compare([
        (CALLS, &mut || bench.calls(&erofs.0, "erofs", flags, "")),
        ("image (erofs)", &mut || pair(client, request.clone())),
        ("mount(8) + umount(8), with a loop device", &mut || {
            bench.programs(&erofs.0, "erofs", "loop,ro,nosuid,nodev")
        }),
    ])
}

/// Beside it a device that shows the image all the time.
fn looped(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let image = bench.place.at("source/squashfs");
    let mut make = Command::new("mksquashfs");
    output(make.arg(bench.place.at("source/lower")).arg(&image))?;
    let disk = Disk::of(&image)?;
    let request = Image::new(&image, "squashfs", &bench.ours)?;
    let flags = FLAGS | MsFlags::MS_RDONLY;
    bench.compare([
        (CALLS, &mut || bench.calls(&disk.0, "squashfs", flags, "")),
        ("image (squashfs), with a loop device", &mut || {
            pair(client, request.clone())
        }),
        ("mount(8) + umount(8), with a loop device", &mut || {
            bench.programs(&image, "squashfs", "loop,ro,nosuid,nodev")
        }),
    ])
}

fn overlay(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let layers = ["source/upper", "source/lower"].map(|name| bench.place.at(name));
    for layer in &layers {
        fs::create_dir_all(layer)?;
    }
    let request = Overlay::new(&layers, &bench.ours)?;
    let [upper, lower] = layers.map(|layer| layer.display().to_string());
    let options = format!("lowerdir={upper}:{lower}");
    let none = Path::new("none");
    bench.compare([
        (CALLS, &mut || bench.calls(none, "overlay", FLAGS, &options)),
        ("overlay (2 layers)", &mut || pair(client, request.clone())),
        (PROGRAMS, &mut || bench.programs(none, "overlay", &options)),
    ])
}

/// Where `MOUNTWARDEN_NFS` says that a server exports its root on 127.0.0.1.
fn nfs(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    served("MOUNTWARDEN_NFS")?;
    let request = Network::new("127.0.0.1:/", "nfs4", &bench.ours)?
        .option("addr", Some("127.0.0.1"))?
        .option("vers", Some("4.2"))?;
    let source = Path::new("127.0.0.1:/");
    bench.compare([
        (CALLS, &mut || {
            bench.calls(source, "nfs4", FLAGS, "addr=127.0.0.1,vers=4.2")
        }),
        ("network (nfs4)", &mut || pair(client, request.clone())),
    ])
}

/// Where `MOUNTWARDEN_VIRTIOFS` says that the machine below shares `files`.
fn virtiofs(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    served("MOUNTWARDEN_VIRTIOFS")?;
    let request = Network::new("files", "virtiofs", &bench.ours)?;
    bench.compare([
        (CALLS, &mut || {
            bench.calls(Path::new("files"), "virtiofs", FLAGS, "")
        }),
        ("network (virtiofs)", &mut || pair(client, request.clone())),
    ])
}

fn served(variable: &str) -> Outcome<()> {
    match std::env::var_os(variable) {
        Some(_) => Ok(()),
        None => Err(Missing(format!("no server here ({variable})")).into()),
    }
}

fn fuse(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let request = Fuse::new("none", &bench.ours)?;
    let raw = &bench.raw;
    bench.compare([
        (CALLS, &mut || {
            let device = File::options().read(true).write(true).open("/dev/fuse")?;
            let (uid, gid) = (geteuid(), getegid());
            let fd = device.as_raw_fd();
            let options = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
            bench.calls(Path::new("none"), "fuse", FLAGS, &options)
        }),
        ("fuse", &mut || {
            let made = client.mount_fuse(request.clone())?;
            client.unmount(&made.mounted)?;
            Ok(())
        }),
        ("fusermount3 + fusermount3 -u", &mut || {
            let connection = fusermount_connection(raw)?;
            output(Command::new("fusermount3").arg("-u").arg(raw))?;
            drop(connection);
            Ok(())
        }),
    ])
}

/// `fusermount3` mounts no device.
fn fuseblk(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let disk = Disk::make(bench.place)?;
    let request = Fuse::new("none", &bench.ours)?.device(&disk.0, None)?;
    bench.compare([
        (CALLS, &mut || {
            let device = File::options().read(true).write(true).open("/dev/fuse")?;
            let (uid, gid) = (geteuid(), getegid());
            let fd = device.as_raw_fd();
            let options = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
            bench.calls(&disk.0, "fuseblk", FLAGS, &options)
        }),
        ("fuse on a device", &mut || {
            let made = client.mount_fuse(request.clone())?;
            client.unmount(&made.mounted)?;
            Ok(())
        }),
    ])
}

/// The helper's is locked; the calls alone make one whose flags its holder can clear.
fn detached(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let source = bench.place.at("source");
    let request = Detach::new(&source)?;
    bench.compare([
        ("open_tree + mount_setattr, not locked", &mut || {
            raw::detached(&source).map(drop)
        }),
        ("detached bind", &mut || {
            client.detach(request.clone())?;
            Ok(())
        }),
        ("mount(8) --bind in unshare(1) -rm", &mut || {
            let words = ["--map-root-user", "--mount", "mount", "--bind"];
            let mut command = Command::new("unshare");
            output(command.args(words).arg(&source).arg(&bench.raw)).map(drop)
        }),
    ])
}

fn idmap(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let (source, raw) = (bench.place.at("source"), &bench.raw);
    let held = Mapped::start()?;
    let namespace = File::open(format!("/proc/{}/ns/user", held.0.id()))?;
    let request = Bind::new(&source, &bench.ours)?;
    bench.compare([
        ("the four calls alone", &mut || {
            raw::bind_mapped(&source, raw, namespace.as_fd())?;
            Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
        }),
        ("ID-mapped bind", &mut || {
            let passing = Passing::new().idmap(&namespace);
            let mounted = client.mount_passing(request.clone(), passing)?;
            client.unmount(&mounted)?;
            Ok(())
        }),
        ("mount(8) -o X-mount.idmap + umount(8)", &mut || {
            let option = format!("bind,X-mount.idmap=/proc/{}/ns/user", held.0.id());
            bench.programs(&source, "none", &option)
        }),
    ])
}

/// A process in a user namespace of its own, in which root is itself.
struct Mapped(Child);

impl Mapped {
    fn start() -> Outcome<Self> {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "sh", "-c", "echo; exec sleep 1000"]);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut child = Self(child.map_err(|error| Missing(error.to_string()))?);
        if let Some(said) = &mut child.0.stdout {
            said.read_exact(&mut [0])?;
        }
        Ok(child)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            println!("{} stays behind: {error}", self.0.id());
        }
    }
}

/// There and back.
fn moved(bench: &Bench<'_>, client: &mut Client) -> Outcome<()> {
    let (ours, raw) = (&bench.ours, &bench.raw);
    let [ours_too, raw_too] =
        ["target/ours-too", "target/raw-too"].map(|name| bench.place.at(name));
    for target in [&ours_too, &raw_too] {
        fs::create_dir(target)?;
    }
    let mounted = client.mount(Tmpfs::new(ours)?)?;
    let there = Move::new(ours, &ours_too)?;
    let back = Move::new(&ours_too, ours)?;
    raw::bind(&bench.place.at("source"), raw)?;
    bench.compare([
        ("move_mount, there and back", &mut || {
            raw::moved(raw, &raw_too)?;
            raw::moved(&raw_too, raw)
        }),
        ("move, there and back", &mut || {
            client.move_mount(there.clone())?;
            client.move_mount(back.clone())?;
            Ok(())
        }),
        ("mount(8) --move, there and back", &mut || {
            for (from, to) in [(raw, &raw_too), (&raw_too, raw)] {
                output(Command::new("mount").arg("--move").arg(from).arg(to))?;
            }
            Ok(())
        }),
    ])?;
    client.unmount(&mounted)?;
    Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// A loop device, which ends with it.
struct Disk(PathBuf);

impl Disk {
    /// With an ext4.
    fn make(place: &Place) -> Outcome<Self> {
        let image = place.at("image");
        File::create(&image)?.set_len(16 << 20)?;
        output(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        Self::of(&image)
    }

    fn of(image: &Path) -> Outcome<Self> {
        let device = output(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(image),
        )
        .map_err(|error| Missing(error.to_string()))?;
        Ok(Self(device.trim_end().into()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("losetup").arg("--detach").arg(&self.0)) {
            println!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// An erofs in a file on a file system of its own: the kernel reads none from a tmpfs.
struct Erofs(PathBuf);

impl Erofs {
    fn make(place: &Place) -> Outcome<Self> {
        let disk = Disk::make(place)?;
        let images = place.at("source/images");
        fs::create_dir_all(&images)?;
        mount(
            Some(&disk.0),
            &images,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        let file = images.join("erofs");
        let mut make = Command::new("mkfs.erofs");
        output(make.arg("--quiet").arg(&file).arg(place.at("source/lower")))?;
        Ok(Self(file))
    }
}

/// Makes `/dev/fuse` what it is on most machines, in this namespace: for everybody; and so
/// the loop device of the policy.
fn open_to_all(place: &Place) -> Outcome<()> {
    let nodes = place.at("nodes");
    fs::create_dir(&nodes)?;
    mount(
        Some("nodes"),
        &nodes,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let fuse = ("fuse", SFlag::S_IFCHR, makedev(10, 229));
    let device = ("loop440", SFlag::S_IFBLK, makedev(7, 440));
    for (name, kind, number) in [fuse, device] {
        let node = nodes.join(name);
        mknod(&node, kind, Mode::empty(), number)?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
        // The kernel makes a loop device, and its node, when one is opened.
        File::open(&node)?;
        let own = Path::new("/dev").join(name);
        mount(
            Some(&node),
            &own,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    Ok(())
}

/// Has the setuid program mount, which sends the connection over a socket
/// (`_FUSE_COMMFD`), where it stays.
fn fusermount_connection(at: &Path) -> Outcome<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = Command::new("fusermount3");
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    output(
        command
            .args(["-o", "nosuid,nodev,subtype=none", "--"])
            .arg(at),
    )?;
    Ok(ours)
}

fn output(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|error| Missing(format!("{program}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program}: {}", said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
