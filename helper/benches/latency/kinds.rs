//! Kinds of mount that are made from more than a directory, beside the old calls and
//! beside the programs that are usually started for them.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mountwarden_client::{Block, Client, Detach, Fuse, Image, Overlay};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{getegid, geteuid};

use crate::namespace::Namespace;
use crate::raw;
use crate::report::{self, Series};
use crate::server::{Limits, Place, Server};
use crate::{Outcome, Rounds};

pub(crate) fn run(place: &Place, _: &Server, rounds: Rounds) -> Outcome<()> {
    report::section("Other kinds: a mount and its unmount, over an open connection");
    if !geteuid().is_root() {
        println!("SKIPPED: a device takes root, and so do the programs that are compared");
        return Ok(());
    }
    open_fuse_to_all(place)?;
    let server = Server::start(place, Namespace::Root, Limits::NoneAllKinds)?;
    let mut client = Client::connect_to(&server.socket)?;
    report::columns();
    let (ours, raw) = (place.at("target/ours"), place.at("target/raw"));
    match Disk::make(place) {
        Ok(disk) => block(&mut client, &disk.0, &ours, &raw, rounds)?,
        Err(error) => println!("SKIPPED block: {error}"),
    }
    fuse(&mut client, &ours, &raw, rounds)?;
    overlay(&mut client, place, &ours, &raw, rounds)?;
    detached(&mut client, &place.at("source"), &raw, rounds)?;
    match Erofs::make(place) {
        Ok(erofs) => image(&mut client, &erofs.0, &ours, &raw, rounds),
        Err(error) => {
            println!("SKIPPED image: {error}");
            Ok(())
        }
    }
}

/// Makes `/dev/fuse` what it is on most machines, in this namespace: for everybody.
fn open_fuse_to_all(place: &Place) -> Outcome<()> {
    let nodes = place.at("nodes");
    fs::create_dir(&nodes)?;
    mount(
        Some("nodes"),
        &nodes,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let node = nodes.join("fuse");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 229))?;
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
    mount(
        Some(&node),
        "/dev/fuse",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// An ext4 on a loop device, which ends with it.
struct Disk(PathBuf);

impl Disk {
    fn make(place: &Place) -> Outcome<Self> {
        let image = place.at("image");
        File::create(&image)?.set_len(16 << 20)?;
        output(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        let device = output(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(&image),
        )?;
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

fn image(client: &mut Client, file: &Path, ours: &Path, raw: &Path, rounds: Rounds) -> Outcome<()> {
    let mut ratios = Compared::new([
        "image (erofs)",
        "mount(2) + umount2(2)",
        "mount(8) + umount(8), with a loop device",
    ]);
    for _ in 0..rounds.looks {
        let request = Image::new(file, "erofs", ours)?;
        ratios.add([
            timed(|| {
                let mounted = client.mount(request)?;
                client.unmount(&mounted)?;
                Ok(())
            })?,
            timed(|| {
                let flags = FLAGS | MsFlags::MS_RDONLY;
                mount(Some(file), raw, Some("erofs"), flags, None::<&str>)?;
                Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
            })?,
            timed(|| {
                let options = ["-t", "erofs", "-o", "loop,ro,nosuid,nodev"];
                output(Command::new("mount").args(options).arg(file).arg(raw))?;
                output(Command::new("umount").arg(raw))?;
                Ok(())
            })?,
        ]);
    }
    ratios.print();
    Ok(())
}

fn output(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", command.get_program().display(), said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

fn block(
    client: &mut Client,
    device: &Path,
    ours: &Path,
    raw: &Path,
    rounds: Rounds,
) -> Outcome<()> {
    let mut ratios = Compared::new([
        "block (ext4)",
        "mount(2) + umount2(2)",
        "mount(8) + umount(8)",
    ]);
    for _ in 0..rounds.looks {
        let request = Block::new(device, "ext4", ours)?;
        ratios.add([
            timed(|| {
                let mounted = client.mount(request)?;
                client.unmount(&mounted)?;
                Ok(())
            })?,
            timed(|| {
                mount(Some(device), raw, Some("ext4"), FLAGS, None::<&str>)?;
                Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
            })?,
            timed(|| {
                let options = ["-t", "ext4", "-o", "nosuid,nodev"];
                output(Command::new("mount").args(options).arg(device).arg(raw))?;
                output(Command::new("umount").arg(raw))?;
                Ok(())
            })?,
        ]);
    }
    ratios.print();
    Ok(())
}

fn fuse(client: &mut Client, ours: &Path, raw: &Path, rounds: Rounds) -> Outcome<()> {
    let mut ratios = Compared::new([
        "fuse",
        "mount(2) + umount2(2)",
        "fusermount3 + fusermount3 -u",
    ]);
    let fusermount = Command::new("fusermount3").arg("-V").output();
    if let Err(error) = fusermount {
        println!("SKIPPED fuse: fusermount3: {error}");
        return Ok(());
    }
    for _ in 0..rounds.looks {
        ratios.add([
            timed(|| {
                let made = client.mount_fuse(Fuse::new("none", ours)?)?;
                client.unmount(&made.mounted)?;
                Ok(())
            })?,
            timed(|| {
                let device = File::options().read(true).write(true).open("/dev/fuse")?;
                let options = format!(
                    "fd={},rootmode=40000,user_id={},group_id={}",
                    device.as_raw_fd(),
                    geteuid(),
                    getegid()
                );
                mount(
                    Some("none"),
                    raw,
                    Some("fuse"),
                    FLAGS,
                    Some(options.as_str()),
                )?;
                Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
            })?,
            timed(|| {
                let connection = fusermount_connection(raw)?;
                output(Command::new("fusermount3").arg("-u").arg(raw))?;
                drop(connection);
                Ok(())
            })?,
        ]);
    }
    ratios.print();
    Ok(())
}

/// The helper's is locked; the calls alone make one whose flags its holder can clear.
fn detached(client: &mut Client, source: &Path, raw: &Path, rounds: Rounds) -> Outcome<()> {
    let mut ratios = Compared::new([
        "detached bind",
        "open_tree + mount_setattr, not locked",
        "mount(8) --bind in unshare(1) -rm",
    ]);
    for _ in 0..rounds.looks {
        let request = Detach::new(source)?;
        ratios.add([
            timed(|| {
                client.detach(request)?;
                Ok(())
            })?,
            timed(|| raw::detached(source).map(drop))?,
            timed(|| {
                let words = ["--map-root-user", "--mount", "mount", "--bind"];
                output(Command::new("unshare").args(words).arg(source).arg(raw))?;
                Ok(())
            })?,
        ]);
    }
    ratios.print();
    Ok(())
}

fn overlay(
    client: &mut Client,
    place: &Place,
    ours: &Path,
    raw: &Path,
    rounds: Rounds,
) -> Outcome<()> {
    let layers = [place.at("source/upper"), place.at("source/lower")];
    for layer in &layers {
        fs::create_dir_all(layer)?;
    }
    let mut ratios = Compared::new([
        "overlay (2 layers)",
        "mount(2) + umount2(2)",
        "mount(8) + umount(8)",
    ]);
    let lower = format!("lowerdir={}:{}", layers[0].display(), layers[1].display());
    for _ in 0..rounds.looks {
        let request = Overlay::new(&layers, ours)?;
        ratios.add([
            timed(|| {
                let mounted = client.mount(request)?;
                client.unmount(&mounted)?;
                Ok(())
            })?,
            timed(|| {
                let options = Some(lower.as_str());
                mount(Some("none"), raw, Some("overlay"), FLAGS, options)?;
                Ok(umount2(raw, MntFlags::UMOUNT_NOFOLLOW)?)
            })?,
            timed(|| {
                let options = ["-t", "overlay", "-o", &lower, "none"];
                output(Command::new("mount").args(options).arg(raw))?;
                output(Command::new("umount").arg(raw))?;
                Ok(())
            })?,
        ]);
    }
    ratios.print();
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

/// What is ours, what it is compared with, and what else would be done.
struct Compared([Series; 3]);

impl Compared {
    fn new([ours, raw, program]: [&str; 3]) -> Self {
        Self([
            Series::new(ours),
            Series::new(format!("  {raw}")).base(),
            Series::new(format!("  {program}")),
        ])
    }

    fn add(&mut self, times: [Duration; 3]) {
        for (series, time) in self.0.iter_mut().zip(times) {
            series.add(time);
        }
    }

    fn print(self) {
        let [ours, raw, program] = self.0;
        let raw = report::series(raw, None);
        report::series(ours, Some(raw));
        report::series(program, Some(raw));
    }
}
