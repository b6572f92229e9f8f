//! The FUSE program that mounts a volume and serves it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mountwarden_protocol::AbsPath;
use serde::{Deserialize, Serialize};

use super::expected::Expected;
use super::said::Said;
use super::uses::Locked;
use super::{Export, InitSystem, Manager, children};
use crate::deadline::Deadline;
use crate::words::filled;
use crate::{DEFAULT_SOCKET, Error, SOCKET_VARIABLE};

const TARGET: &[u8] = b"{target}";

/// How much later than the program's deadline the launcher is given up, which keeps that.
const GRACE: Duration = Duration::from_secs(5);

/// A program that mounts an export and goes to the background when the mount is there, as each
/// `mount.TYPE` does and each program of libfuse by itself.
///
/// It is started without a shell, by its absolute path, in `/`, with the environment that is
/// listed and no other, and with no descriptor but the standard three: input and output are
/// `/dev/null`, and of standard error the first 4 KiB go into the error when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: AbsPath,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    filesystem: Option<String>,
    source: Option<String>,
    scope: Scope,
}

/// Where a program runs, on a machine that systemd runs: in a scope of its own, so that it does not
/// end with the service that has started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Of the user's own manager, which takes no permission.
    #[default]
    User,
    /// Of the system's manager, which takes one that root alone has by itself.
    System,
    /// In none: it is ended with the service, unless that says otherwise (`KillMode=`).
    None,
}

impl Scope {
    /// Whom to ask for it.
    fn manager(self) -> Option<Manager> {
        match self {
            Self::User => Some(Manager::User),
            Self::System => Some(Manager::System),
            Self::None => None,
        }
        .filter(|_| InitSystem::detect() == InitSystem::Systemd)
    }
}

impl Program {
    /// A program, which is called with its [arguments](Self::argument), `--`, the export and the
    /// mount point.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a path that is not absolute or
    /// has `.` or `..` in it.
    pub fn new(program: impl AsRef<Path>) -> Result<Self, Error> {
        let path = program.as_ref();
        Ok(Self {
            path: AbsPath::new(path)
                .map_err(|error| Error::invalid_path("program", path, error))?,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            filesystem: None,
            source: None,
            scope: Scope::default(),
        })
    }

    /// Quobyte's `mount.quobyte --disable-xattrs VOLUME MOUNTPOINT [-c CONFIG]`, whose mounts are
    /// `fuse.quobyte` or come from `quobyte@...`.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn quobyte(program: impl AsRef<Path>, config: Option<&AbsPath>) -> Result<Self, Error> {
        let program = Self::new(program)?
            .argument("--disable-xattrs")
            .argument("{export}")
            .argument("{target}")
            .shows_type("fuse.quobyte")
            .shows_source("quobyte@");
        Ok(match config {
            Some(config) => program.argument("-c").argument(config.as_path()),
            None => program,
        })
    }

    /// One more argument, in which `{export}` and `{target}` stand for those. Where one argument
    /// names the target, nothing is added to the arguments.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A variable of its environment, which has no others but
    /// [`SOCKET_VARIABLE`](crate::SOCKET_VARIABLE), where the helper's socket is not
    /// [`DEFAULT_SOCKET`](crate::DEFAULT_SOCKET).
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// The type of its mounts, such as `fuse.sshfs`. A mount is the volume's if this or
    /// [`shows_source`](Self::shows_source) holds.
    #[must_use]
    pub fn shows_type(mut self, filesystem: impl Into<String>) -> Self {
        self.filesystem = Some(filesystem.into());
        self
    }

    /// How the source of its mounts begins, such as `host:`.
    #[must_use]
    pub fn shows_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Where it runs when systemd does; [`Scope::User`] if not given.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    pub(super) fn path(&self) -> &AbsPath {
        &self.path
    }

    /// What its mounts show; `None` where nothing tells them from others.
    pub(super) fn expected(&self) -> Option<Expected> {
        let (filesystem, source) = (self.filesystem.clone(), self.source.clone());
        let is_known = [&filesystem, &source]
            .into_iter()
            .flatten()
            .any(|text| !text.is_empty());
        is_known.then_some(Expected::Program { filesystem, source })
    }

    /// The arguments for a mount.
    fn words(&self, export: &Export, target: &AbsPath) -> Vec<OsString> {
        let (export, target) = (OsStr::new(export.as_str()), target.as_path().as_os_str());
        let values = [("{export}", export), ("{target}", target)];
        let fill = |word: &OsString| filled(word, &values);
        let mut words: Vec<OsString> = self.arguments.iter().map(fill).collect();
        let names_target = |word: &OsString| {
            let mut parts = word.as_bytes().windows(TARGET.len());
            parts.any(|part| part == TARGET)
        };
        if !self.arguments.iter().any(names_target) {
            words.extend([OsStr::new("--"), export, target].map(OsStr::to_owned));
        }
        words
    }

    /// Starts it by the launcher, and waits until it has gone to the background.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) fn start(&self, order: &Order<'_>, lock: &Locked<'_>) -> Result<(), Error> {
        let said = Said::new().map_err(|error| Error::not_started(order.launcher, error))?;
        let mut command = self.command(order);
        let launched = lock.file().and_then(|lock| {
            // The lock goes as standard input: what is not a standard descriptor every other
            // thread that starts a program at this moment would give that, too.
            command.stdin(lock).stderr(said.file()?);
            command.stdout(Stdio::piped()).spawn()
        });
        let child = launched.map_err(|error| Error::not_started(order.launcher, error))?;
        let told = told_by(child, Deadline::after(order.within.saturating_add(GRACE)));
        match told {
            Some(Ended::Exited(0)) => Ok(()),
            Some(Ended::Exited(code)) => Err(self.failed(ProgramEnd::Exited(code), &said)),
            Some(Ended::Killed(signal)) => Err(self.failed(ProgramEnd::Killed(signal), &said)),
            Some(Ended::NotStarted { errno }) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(Error::not_started(self.path.as_path(), error))
            }
            Some(Ended::NotInScope { message, timed_out }) => {
                Err(Error::scope(&message, timed_out))
            }
            Some(Ended::TimedOut) => Err(Error::program_hangs(&self.path, order.within)),
            None => Err(Error::launcher_failed(order.launcher, &said.text())),
        }
    }

    fn command(&self, order: &Order<'_>) -> Command {
        let mut command = Command::new(order.launcher);
        command.arg0("mountwarden").args(["volume", "launch"]);
        command.arg("--within-ms");
        command.arg(order.within.as_millis().to_string());
        if let Some(manager) = self.scope.manager() {
            command.args(["--manager", manager.name()]);
            command.arg("--scope").arg(order.export.scope());
        }
        command.arg("--").arg(self.path.as_path());
        command.args(self.words(order.export, order.target));
        command.env_clear().envs(&self.environment);
        if order.socket != Path::new(DEFAULT_SOCKET) {
            command.env(SOCKET_VARIABLE, order.socket);
        }
        // So that what interrupts this process does not end the file system.
        command.process_group(0).current_dir("/");
        command
    }

    fn failed(&self, end: ProgramEnd, said: &Said) -> Error {
        Error::program_failed(&self.path, end, said.text())
    }
}

/// What is to be mounted where.
pub(super) struct Order<'v> {
    pub(super) export: &'v Export,
    pub(super) target: &'v AbsPath,
    pub(super) socket: &'v Path,
    pub(super) launcher: &'v Path,
    pub(super) within: Duration,
}

/// How the launcher says that the program has ended, before it goes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Exited(i32),
    Killed(i32),
    NotStarted { errno: i32 },
    NotInScope { message: String, timed_out: bool },
    TimedOut,
}

/// How a program has ended that should have mounted something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramEnd {
    /// With this exit status.
    Exited(i32),
    /// By this signal (`signal(7)`).
    Killed(i32),
}

/// What the launcher writes, until it ends.
fn told_by(mut child: Child, deadline: Deadline) -> Option<Ended> {
    let out = child.stdout.take();
    if !children::wait(&mut child, deadline) {
        children::abandon(child);
        return None;
    }
    let mut text = String::new();
    out?.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(program: &Program) -> Vec<OsString> {
        let export = Export::new("quobyte://reg/vol").unwrap();
        program.words(&export, &AbsPath::new("/m/{export}").unwrap())
    }

    #[test]
    fn operands_follow_two_dashes() {
        let program = Program::new("/bin/x")
            .unwrap()
            .argument("-o")
            .argument("{export}");
        let expected = ["-o", "reg/vol", "--", "reg/vol", "/m/{export}"];
        assert_eq!(words(&program), expected);
    }

    #[test]
    fn quobyte_is_called_as_it_always_was() {
        let config = AbsPath::new("/etc/quobyte.cfg").unwrap();
        let program = Program::quobyte("/usr/bin/mount.quobyte", Some(&config)).unwrap();
        let expected = [
            "--disable-xattrs",
            "reg/vol",
            "/m/{export}",
            "-c",
            "/etc/quobyte.cfg",
        ];
        assert_eq!(words(&program), expected);
        assert!(program.expected().is_some());
        let program = Program::quobyte("/usr/bin/mount.quobyte", None).unwrap();
        assert_eq!(words(&program), expected[..3]);
    }
}
