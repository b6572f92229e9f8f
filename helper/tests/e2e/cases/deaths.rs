//! Processes that are killed at any moment, while clients mount and unmount: what
//! is mounted is whole and granted, and the service goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};

use mountwarden_client::protocol::{Hello, Mount, Operation, Request, frame};
use mountwarden_client::{Bind, Client, Error, MountAttributes, Tmpfs, Unmount};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, Line, is_alive, status_field};
use crate::racing::{Pace, Random, check, check_status, quiet, status, word};
use crate::sandbox::Sandbox;
use crate::wire::Wire;
use crate::{Skip, roles};

const CLIENTS: usize = 4;

/// What clients mount and where; half of them a directory, half a tmpfs.
struct Load {
    socket: PathBuf,
    /// Each directory in it is a target.
    dir: PathBuf,
    shared: PathBuf,
    source: PathBuf,
    base: Vec<Line>,
}

impl Load {
    fn new(sandbox: &Sandbox) -> Self {
        Self {
            socket: sandbox.path("run/sock"),
            dir: sandbox.path("mnt"),
            shared: sandbox.make_dir("mnt/shared"),
            source: sandbox.path("src/data"),
            base: kernel::table(),
        }
    }

    fn mount(&self, client: usize, target: &Path) -> Mount {
        if client.is_multiple_of(2) {
            Bind::new(&self.source, target).unwrap().into()
        } else {
            Tmpfs::new(target).unwrap().into()
        }
    }

    /// Every mount in the table is one that was asked for, and whole.
    fn look(&self) -> Vec<Line> {
        let mut lines = kernel::table();
        lines.retain(|line| !self.base.contains(line));
        for line in &lines {
            check(line);
            let above = Path::new(&line.point).parent();
            assert_eq!(above, Some(self.dir.as_path()), "misplaced: {line:?}");
            let whole = match &line.filesystem[..] {
                "tmpfs" if line.source == "mountwarden" => {
                    let limits = "size=16384k,nr_inodes=1024";
                    line.root == "/" && line.super_options.contains(limits)
                }
                _ => line.root == "/mw/src/data",
            };
            assert!(whole, "not what was asked for: {line:?}");
            let below = lines.iter().find(|below| line.is_on(below));
            assert!(below.is_none(), "one on the other: {below:?} {line:?}");
        }
        lines
    }

    /// Mounts and unmounts until the end. Each connection has a target of its own:
    /// what one that was lost had asked for may still be done after it.
    fn play(&self, number: usize, pace: &Pace, random: &mut Random) {
        let _over = pace.until_the_end();
        let mut last: Option<PathBuf> = None;
        for connection in 0.. {
            if pace.is_over() {
                return;
            }
            let mut client = match Client::connect_to(&self.socket) {
                Ok(client) => client,
                Err(error) => {
                    lost(&error, pace);
                    random.pause();
                    continue;
                }
            };
            if let Some(last) = &last
                && let Err(error) = client.unmount(Unmount::new(last).unwrap())
                && !is_of_another(&error)
            {
                lost(&error, pace);
                continue;
            }
            let own = self.dir.join(format!("{number}-{connection}"));
            fs::create_dir(&own).unwrap();
            while self.round(number, &own, &mut client, pace, random) {}
            last = Some(own);
        }
    }

    /// One mount and its end; false when another connection is needed for more.
    fn round(
        &self,
        number: usize,
        own: &Path,
        client: &mut Client,
        pace: &Pace,
        random: &mut Random,
    ) -> bool {
        let shared = random.below(4) == 0;
        let target = if shared { &self.shared } else { own };
        let result = client.mount(self.mount(number, target));
        pace.count(word(&result, |_| "mounted"));
        match result {
            Ok(made) => {
                assert_eq!(made.mount.target.as_path(), target);
                let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
                assert_eq!(made.mount.attributes, forced);
                let status = status(made.mount.id.into());
                assert!(shared || status.is_some(), "not there: {made:?}");
                if let Some(status) = status {
                    assert_eq!(status.point, target.as_os_str().as_encoded_bytes());
                    check_status(&status);
                }
            }
            Err(error) if shared && is_of_another(&error) => {}
            Err(error) => {
                lost(&error, pace);
                return false;
            }
        }
        let result = client.unmount(Unmount::new(target).unwrap());
        pace.count(format!("unmount: {}", word(&result, |_| "unmounted")));
        match result {
            Ok(gone) => assert_eq!(status(gone.id.into()), None, "said to be gone: {gone:?}"),
            Err(error) if shared && is_of_another(&error) => {}
            Err(error) => {
                lost(&error, pace);
                return false;
            }
        }
        !pace.is_over()
    }

    /// Everything can be ended, and is free for whoever asks next.
    fn finish(&self, daemon: &Daemon) {
        // Processes that still end may have a target open.
        quiet(daemon);
        let mut client = daemon.client();
        let (left, listed) = (self.look(), client.list().unwrap());
        assert_eq!(left.len(), listed.len(), "{left:?} {listed:?}");
        for mount in &listed {
            client.unmount(mount).unwrap();
        }
        for target in fs::read_dir(&self.dir).unwrap() {
            let target = target.unwrap().path();
            if target.is_dir() {
                let made = client.mount(Tmpfs::new(target).unwrap()).unwrap();
                client.unmount(&made).unwrap();
            }
        }
        assert_eq!(kernel::table(), self.base);
    }
}

/// What a client is told because of another, who mounts something else at the
/// same target, or ends what is there.
fn is_of_another(error: &Error) -> bool {
    ["busy", "changed", "not-mounted"].contains(&error.kind().name())
}

/// What a client is told when a process that serves it is killed, and nothing else.
fn lost(error: &Error, pace: &Pace) {
    let name = error.kind().name();
    assert!(
        ["unavailable", "connection-lost"].contains(&name),
        "{error:?}"
    );
    pace.count(name);
}

/// Children of a process by their name; some may be missing when others end.
fn children(pid: Pid, name: &str) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    let pids = list
        .split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()));
    pids.filter(|&pid| status_field(pid, "Name").as_deref() == Some(name))
        .collect()
}

/// Kills one process of a role, if one is found that still runs.
pub(super) fn strike(daemon: &Daemon, role: &str, random: &mut Random) -> bool {
    let warden = daemon.pid();
    let victims = match role {
        "warden" => vec![warden],
        "session" => {
            let gates = children(warden, "mw-gate");
            gates
                .into_iter()
                .flat_map(|gate| children(gate, "mw-session"))
                .collect()
        }
        "locker's child" => {
            let lockers = children(warden, "mw-locker");
            lockers
                .into_iter()
                .flat_map(|locker| children(locker, "mw-locker"))
                .collect()
        }
        other => children(warden, &format!("mw-{other}")),
    };
    if victims.is_empty() {
        return false;
    }
    match kill(victims[random.below(victims.len())], Signal::SIGKILL) {
        Ok(()) => true,
        Err(Errno::ESRCH) => false,
        Err(errno) => panic!("{errno}"),
    }
}

/// The processes of any helper in this namespace that run.
pub(super) fn of_the_helper() -> Vec<Pid> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw)
        .filter(|&pid| {
            let name = status_field(pid, "Name").unwrap_or_default();
            (name.starts_with("mw-") || name == "mountwardend")
                && is_alive(pid)
                && namespace(&pid.to_string()) == own
        })
        .collect()
}

pub(crate) fn attack_30_roles_killed_under_load(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let load = Load::new(sandbox);
    let pace = Pace::new(&[
        "kill: gate",
        "kill: warden",
        "kill: session",
        "kill: mounter",
        "mounted",
    ]);
    let mut daemon = Daemon::start(sandbox);
    let baseline = quiet(&daemon);
    std::thread::scope(|scope| {
        let _over = pace.until_the_end();
        for number in 0..CLIENTS {
            let (load, pace) = (&load, &pace);
            let mut random = pace.random().fork(number + 1);
            scope.spawn(move || load.play(number, pace, &mut random));
        }
        let mut random = pace.random();
        while pace.goes_on() {
            // Some connections live for several requests, some for none.
            for _ in 0..random.below(16) {
                random.pause();
            }
            let role = match random.below(40) {
                0 => "gate",
                1 => "warden",
                number if number.is_multiple_of(2) => "session",
                _ => "mounter",
            };
            if !strike(&daemon, role, &mut random) {
                continue;
            }
            pace.count(format!("kill: {role}"));
            if ["gate", "warden"].contains(&role) {
                wait_for("all of the helper ends", || {
                    (!daemon.runs() && of_the_helper().is_empty()).then_some(())
                });
                load.look();
                fs::remove_file(sandbox.path("log")).unwrap();
                daemon = Daemon::start(sandbox);
            }
            load.look();
            daemon.shorten_log(1 << 20);
        }
    });
    assert!(daemon.runs(), "it goes on");
    load.finish(&daemon);
    wait_for("the helper's descriptors are what they were", || {
        (quiet(&daemon) == baseline).then_some(())
    });
    pace.tell();
    Ok(())
}

/// A client that goes at any moment of a conversation.
fn leave(load: &Load, number: usize, random: &mut Random) {
    let mut wire = Wire::connect(&load.socket);
    let target = &load.dir.join(["a", "b"][number]);
    let mount = load.mount(number, target);
    let unmount = Unmount::new(target).unwrap().into();
    let mut bytes = frame::encode(&Hello::default()).unwrap();
    for operation in [Operation::Mount(mount), Operation::Unmount(unmount)] {
        bytes.extend(frame::encode(&Request::Perform(operation)).unwrap());
    }
    let end = random.below(bytes.len() + 1);
    // The helper may have closed it: what comes too early is a violation.
    let _ = wire.0.write_all(&bytes[..end]);
    match random.below(4) {
        // It hears all that it is told, and then the end.
        0 => {
            let _ = wire.0.shutdown(Shutdown::Write);
            let _ = wire.0.read_to_end(&mut Vec::new());
        }
        1 => drop(wire.0.shutdown(Shutdown::Both)),
        2 => random.pause(),
        _ => {}
    }
}

pub(crate) fn attack_30_clients_killed_under_load(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let load = Load::new(sandbox);
    let pace = Pace::new(&["kill: client", "left"]);
    let mut daemon = Daemon::start(sandbox);
    let baseline = quiet(&daemon);
    std::thread::scope(|scope| {
        let _over = pace.until_the_end();
        for number in 0..2 {
            let (load, pace) = (&load, &pace);
            let mut random = pace.random().fork(number + 1);
            scope.spawn(move || {
                let _over = pace.until_the_end();
                while pace.goes_on() {
                    leave(load, number, &mut random);
                    pace.count("left");
                    load.look();
                }
            });
        }
        let mut random = pace.random();
        while pace.goes_on() {
            let mut client = roles::command(sandbox, "load");
            client.arg(&load.socket).arg(&load.shared);
            let mut client = client.spawn().unwrap();
            for _ in 0..random.below(40) {
                random.pause();
            }
            assert_eq!(
                client.try_wait().unwrap(),
                None,
                "it does not end by itself"
            );
            client.kill().unwrap();
            client.wait().unwrap();
            pace.count("kill: client");
            load.look();
            daemon.shorten_log(1 << 20);
        }
    });
    assert!(daemon.runs(), "it goes on");
    load.finish(&daemon);
    wait_for("the helper's descriptors are what they were", || {
        (quiet(&daemon) == baseline).then_some(())
    });
    pace.tell();
    Ok(())
}
