//! What a service manager asks for, and the unit that asks it.

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::confinement::only;
use super::start::refused;
use crate::Skip;
use crate::daemon::{Daemon, START, command, wait_for};
use crate::sandbox::Sandbox;

/// A service manager that listens to what the helper notifies.
struct Manager(UnixDatagram, PathBuf);

impl Manager {
    fn new(sandbox: &Sandbox) -> Self {
        let path = sandbox.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        Self(socket, path)
    }

    /// The next word, or `None` after a silence that is many times as long as the
    /// time between two pings.
    fn hear(&self) -> Option<String> {
        let mut buffer = [0; 64];
        self.0
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn hears_pings(&self) {
        wait_for("a ping", || self.hear().filter(|word| word == "WATCHDOG=1"));
    }

    fn hears_nothing(&self) {
        let end = Instant::now() + Duration::from_mins(1);
        while let Some(word) = self.hear() {
            assert!(Instant::now() < end, "{word} comes without an end");
        }
    }

    /// Whether a further word would have to wait.
    fn is_full(&self) -> bool {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&self.1).unwrap();
        let mut polled = [PollFd::new(sender.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() == 0
    }

    /// The command of a helper that is watched.
    fn command(&self, sandbox: &Sandbox, microseconds: &str) -> Command {
        let mut command = command(sandbox);
        command
            .env("NOTIFY_SOCKET", &self.1)
            .env("WATCHDOG_USEC", microseconds);
        command
    }
}

pub(crate) fn the_watchdog_hears_of_gate_and_warden(sandbox: &Sandbox) -> Result<(), Skip> {
    let manager = Manager::new(sandbox);
    let daemon = Daemon::start_with(sandbox, manager.command(sandbox, "40000"));
    assert_eq!(manager.hear().as_deref(), Some("READY=1"));
    let stop_and_go = |pid: Pid| {
        manager.hears_pings();
        kill(pid, Signal::SIGSTOP).unwrap();
        manager.hears_nothing();
        kill(pid, Signal::SIGCONT).unwrap();
    };
    stop_and_go(daemon.pid());
    stop_and_go(only(&daemon, "mw-gate"));
    manager.hears_pings();
    // A manager that does not listen holds nothing up, although no more than
    // `net.unix.max_dgram_qlen` words wait for it.
    wait_for("no more fits", || manager.is_full().then_some(()));
    let mut client = daemon.client();
    client.list().unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    manager.hears_nothing();

    let mut anothers = manager.command(sandbox, "40000");
    anothers.env("WATCHDOG_PID", "1");
    let daemon = Daemon::start_with(sandbox, anothers);
    assert_eq!(manager.hear().as_deref(), Some("READY=1"));
    assert_eq!(manager.hear(), None, "another process is watched");
    daemon.stop();

    for wrong in ["", "0", "1", "soon", "-5"] {
        let error = refused(sandbox, &START, manager.command(sandbox, wrong));
        assert!(
            error.contains("read WATCHDOG_USEC: EINVAL"),
            "{wrong:?}: {error}"
        );
    }
    Ok(())
}

/// The cases run in a mount namespace of their own, as a unit with `PrivateTmp=`
/// would.
pub(crate) fn another_mount_namespace_is_noticed(sandbox: &Sandbox) -> Result<(), Skip> {
    let warned = |command| {
        let daemon = Daemon::start_with(sandbox, command);
        let log = daemon.log();
        drop(daemon);
        fs::remove_file(sandbox.path("log")).unwrap();
        log.contains("warning: the unit has a mount namespace of its own")
    };
    assert!(
        !warned(command(sandbox)),
        "nobody expects a user's helper in the machine's namespace"
    );
    let manager = Manager::new(sandbox);
    assert!(warned(manager.command(sandbox, "1000000")));
    Ok(())
}

/// The unit has none of the settings that its comment forbids.
pub(crate) fn the_unit_keeps_to_the_machines_namespace(_: &Sandbox) -> Result<(), Skip> {
    let unit = include_str!("../../../../packaging/systemd/mountwarden.service");
    let (comments, settings): (Vec<&str>, Vec<&str>) = unit
        .lines()
        .filter(|line| !line.is_empty())
        .partition(|line| line.starts_with('#'));
    let (_, listed) = unit.split_once("None of the settings").unwrap();
    let (listed, _) = listed.split_once("[Install]").unwrap();
    let forbidden: Vec<&str> = listed
        .split_whitespace()
        .filter(|word| word.ends_with('=') && comments.iter().any(|line| line.contains(word)))
        .collect();
    for known in [
        "PrivateTmp=",
        "ProtectSystem=",
        "DynamicUser=",
        "PrivateUsers=",
    ] {
        assert!(forbidden.contains(&known), "{known} is not in the comment");
    }
    for word in forbidden {
        let used = settings.iter().find(|setting| setting.starts_with(word));
        assert_eq!(used, None, "{word} is forbidden");
    }
    for wanted in [
        "User=mountwarden",
        "AmbientCapabilities=CAP_SYS_ADMIN",
        "CapabilityBoundingSet=CAP_SYS_ADMIN",
        "NoNewPrivileges=yes",
        "Restart=on-failure",
        "WatchdogSec=30s",
    ] {
        assert!(settings.contains(&wanted), "{wanted}");
    }
    Ok(())
}
