//! The helper under test.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability, CapsHashSet};
use mountwarden_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::kernel::{descendants, is_alive, named};
use crate::lines;
use crate::sandbox::Sandbox;
use crate::slowly;

/// A running helper. It is killed by its own pid when the case ends.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    pub(crate) socket: PathBuf,
    cli: PathBuf,
}

/// How long to wait for something that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + slowly(PATIENCE);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The command that starts the helper as these tests do.
pub(crate) fn command(sandbox: &Sandbox) -> Command {
    let mut command = Command::new(sandbox.helper());
    command
        .arg("serve")
        .arg("--policy")
        .arg(sandbox.path("policy.toml"));
    command.arg("--socket").arg(sandbox.path("run/sock"));
    if sandbox.is_root {
        command.arg("--user").arg("nobody");
    }
    command.stdin(Stdio::null());
    command
}

/// Starts a command as a unit with ambient capabilities would: a normal user in
/// its user namespace gives the helper what root has anyway.
pub(crate) fn with_ambient<T>(
    sandbox: &Sandbox,
    held: &[Capability],
    start: impl FnOnce() -> T,
) -> T {
    if sandbox.is_root {
        return start();
    }
    let held: CapsHashSet = held.iter().copied().collect();
    caps::set(None, CapSet::Inheritable, &held).unwrap();
    caps::set(None, CapSet::Ambient, &held).unwrap();
    let result = start();
    caps::clear(None, CapSet::Ambient).unwrap();
    caps::clear(None, CapSet::Inheritable).unwrap();
    result
}

/// What a start in these tests holds.
pub(crate) const START: [Capability; 2] = [Capability::CAP_SYS_ADMIN, Capability::CAP_SETPCAP];

impl Daemon {
    /// Starts the helper and waits until it serves.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, command(sandbox))
    }

    pub(crate) fn start_with(sandbox: &Sandbox, mut command: Command) -> Self {
        let log = sandbox.path("log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let before = fs::metadata(&log).unwrap().len();
        command.stderr(stderr);
        let child = with_ambient(sandbox, &START, || command.spawn().unwrap());
        let mut daemon = Self {
            child,
            log,
            socket: sandbox.path("run/sock"),
            cli: sandbox.path("bin/mountwarden"),
        };
        wait_for("the helper serves", || {
            let log = daemon.log();
            let new = log
                .get(usize::try_from(before).unwrap()..)
                .unwrap_or_default();
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the helper ended: {status}\n{log}");
            }
            new.contains(" serves on ").then_some(())
        });
        daemon
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Empties a log that has become too long to keep.
    pub(crate) fn shorten_log(&self, most: u64) {
        if fs::metadata(&self.log).unwrap().len() > most {
            File::options()
                .write(true)
                .truncate(true)
                .open(&self.log)
                .unwrap();
        }
    }

    /// The audit lines, parsed; every line of the log must be JSON.
    pub(crate) fn audit(&self) -> Vec<Value> {
        self.lines(|event| event != "helper")
    }

    /// The lines about the helper itself.
    pub(crate) fn about_itself(&self) -> Vec<Value> {
        self.lines(|event| event == "helper")
    }

    fn lines(&self, wanted: fn(&Value) -> bool) -> Vec<Value> {
        self.log()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect(line))
            .inspect(lines::check)
            .filter(|line| wanted(&line["event"]))
            .collect()
    }

    /// The last audit line that is about an operation.
    pub(crate) fn last_audit(&self) -> Value {
        self.audit().pop().expect("an audit line")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect_to(&self.socket).unwrap()
    }

    /// The command line client, as the user who runs the tests.
    pub(crate) fn cli(&self) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .env("MOUNTWARDEN_SOCKET", &self.socket)
            .env_remove(crate::CASE);
        command.stdin(Stdio::null());
        command
    }

    /// The command line client as another user.
    pub(crate) fn cli_as(&self, uid: u32) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = self.cli();
        command.uid(uid).gid(uid);
        command
    }

    /// Asks the helper to end and waits for it.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Ends the warden as no request could, and waits for the others, which must
    /// follow: a gate that is not gone yet still listens.
    pub(crate) fn kill(self) {
        let followers = descendants(self.pid());
        self.kill_and_wait(&followers, &[]);
    }

    /// Ends all its processes at once.
    pub(crate) fn kill_all(self) {
        let all = descendants(self.pid());
        self.kill_and_wait(&all, &all[1..]);
    }

    fn kill_and_wait(mut self, all: &[Pid], others: &[Pid]) {
        self.child.kill().unwrap();
        for &pid in others {
            // One may have ended with the warden.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let signal = self.child.wait().unwrap().signal().map(Signal::try_from);
        assert_eq!(signal, Some(Ok(Signal::SIGKILL)));
        wait_for("every role ends with the warden", || {
            (!all.iter().any(|&pid| is_alive(pid))).then_some(())
        });
    }

    /// Waits for the helper's end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Whether the helper still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let gate = match self.child.try_wait() {
            Ok(None) => named(self.pid(), "mw-gate"),
            _ => Vec::new(),
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The next helper of the case must not find this one's gate.
        let end = Instant::now() + slowly(PATIENCE);
        while gate.iter().any(|&pid| is_alive(pid)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            eprintln!("--- the helper's log:\n{}", self.log());
            return;
        }
        // A kill can cut the last line short.
        for line in self.log().lines() {
            if let Ok(line) = serde_json::from_str(line) {
                lines::check(&line);
            }
        }
    }
}

/// Runs a command and gives its exit status and its two outputs.
pub(crate) fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap_or_else(|| panic!("{status}")),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}
