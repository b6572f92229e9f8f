//! Block devices with real file systems: files behind loop devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::Skip;
use crate::daemon::wait_for;
use crate::sandbox::Sandbox;

/// A file system on a loop device, which ends with it.
pub(crate) struct Disk {
    device: PathBuf,
    /// Keeps the device, which ends with its last user.
    _held: File,
}

impl Disk {
    /// Makes a file system of `type_name` with that type's own program, on a device.
    pub(crate) fn make(sandbox: &Sandbox, name: &str, type_name: &str) -> Result<Self, Skip> {
        let file = sandbox.path(name);
        // The smallest that each takes.
        let megabytes: u64 = match type_name {
            "xfs" => 300,
            "btrfs" => 110,
            _ => 16,
        };
        File::create(&file)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        let mut make = Command::new(format!("mkfs.{type_name}"));
        make.args(["-q"]).arg(&file);
        run(&mut make)?;
        Self::of_file(&file)
    }

    /// A device that shows a file.
    pub(crate) fn of_file(file: &Path) -> Result<Self, Skip> {
        Self::with(&[], file)
    }

    /// The same, with more words for `losetup(8)`.
    pub(crate) fn with(words: &[&str], file: &Path) -> Result<Self, Skip> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]).args(words).arg(file);
        let device = PathBuf::from(run(&mut attach)?.trim_end());
        let held = File::open(&device).unwrap();
        // While it is open or mounted that only says that it ends afterwards, however this
        // process ends (`LO_FLAGS_AUTOCLEAR`).
        let mut detach = Command::new("losetup");
        run(detach.arg("--detach").arg(&device))?;
        Ok(Self {
            device,
            _held: held,
        })
    }

    /// The path of the device.
    pub(crate) fn path(&self) -> &Path {
        &self.device
    }
}

/// Runs a program that a machine may lack; gives what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String, Skip> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Where normal users do not look.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Skip(format!(
                "{program} does not work here: {}",
                said.trim()
            )))
        }
        Err(error) => Err(Skip(format!("{program} cannot be started: {error}"))),
    }
}

/// Makes `/dev/fuse` what it is on most machines: for everybody. On some it is root's.
pub(crate) fn open_fuse_to_all(sandbox: &Sandbox) -> Result<(), Skip> {
    if sandbox.is_root {
        let node = sandbox.path("fuse");
        let mode = Mode::from_bits_truncate(0o666);
        nix::sys::stat::umask(Mode::empty());
        mknod(&node, SFlag::S_IFCHR, mode, makedev(10, 229)).unwrap();
        mount(
            Some(&node),
            "/dev/fuse",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|error| Skip(format!("there is no /dev/fuse: {error}")))?;
    }
    crate::fuse::device().map(drop)
}

/// Loop devices of a case's own that the helper's user may read.
pub(crate) struct LoopDevices {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl LoopDevices {
    /// Makes nodes, with a mode, for devices that show nothing: those from `first` on, which no
    /// other case has, or a multiple of 64 further. `losetup(8)` takes what is free, and so
    /// does another run of the tests on this machine.
    pub(crate) fn make(sandbox: &Sandbox, first: u32, count: u32, mode: u32) -> Result<Self, Skip> {
        sandbox.needs_devices()?;
        let sets = (first..).step_by(64).map(|first| Self { first, count });
        let devices = sets.take(64).find(|set| set.shown().is_empty());
        let devices = devices.ok_or(Skip("no loop devices are free".to_owned()))?;
        nix::sys::stat::umask(Mode::empty());
        let mode = Mode::from_bits_truncate(mode);
        for number in devices.numbers() {
            let node = sandbox.path(&format!("loop{number}"));
            mknod(&node, SFlag::S_IFBLK, mode, makedev(7, number.into())).unwrap();
            // Makes the device, and the machine's own node (`CONFIG_BLOCK_LEGACY_AUTOLOAD`).
            File::open(&node).map_err(|error| Skip(format!("no loop{number}: {error}")))?;
            let own = PathBuf::from(format!("/dev/loop{number}"));
            let (node, nothing) = (Some(&node), None::<&str>);
            mount(node, &own, nothing, MsFlags::MS_BIND, nothing).unwrap();
        }
        Ok(devices)
    }

    fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }

    /// As a grant names them.
    pub(crate) fn key(&self) -> String {
        let Self { first, count } = self;
        format!("loop_devices = {{ first = {first}, count = {count} }}")
    }

    /// The files that they show.
    pub(crate) fn shown(&self) -> Vec<PathBuf> {
        let files = self.numbers().filter_map(|number| {
            fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()
        });
        files.map(|file| file.trim_end().into()).collect()
    }

    /// Nothing is left in one: the kernel lets a file go a moment after its last user.
    pub(crate) fn wait_until_free(&self) {
        wait_for("no loop device shows a file", || {
            self.shown().is_empty().then_some(())
        });
    }
}
