//! Volumes: mounts that a service keeps.
//!
//! A volume is mounted where it is [connected](Volume::connect) first, found good by whoever
//! connects it then, repaired when its server has died, and unmounted when its last use
//! [ends](Volume::disconnect), across processes and whoever of them has crashed meanwhile.
//!
//! ```no_run
//! use mountwarden_client::volume::{Export, Program, UseName, Volume};
//!
//! # fn main() -> Result<(), mountwarden_client::Error> {
//! let export = Export::new("quobyte://registry1,registry2/images")?;
//! let program = Program::quobyte("/usr/bin/mount.quobyte", None)?;
//! let volume = Volume::served("/var/lib/machines/mnt", "disk-7", export, program)?;
//!
//! let machine = UseName::new("machine-42")?;
//! volume.connect(&machine)?;
//! println!("the disk is at {}", volume.device().display());
//! volume.disconnect(&machine)?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here waits without a [deadline](Deadlines), and nothing is kept between two calls:
//! each method takes `&self`, and may run on a thread of its own.

mod children;
mod error;
mod expected;
mod export;
mod init_system;
mod manager;
mod program;
mod uses;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::{AbsPath, Kind, Mount, MountId, MountOptions, Passed, Propagation};

#[cfg(feature = "cli")]
pub(crate) use self::children::wait;
pub use self::export::Export;
pub use self::init_system::InitSystem;
pub use self::manager::{Manager, ManagerState};
#[cfg(feature = "cli")]
pub(crate) use self::program::Ended;
pub use self::program::{Program, ProgramEnd, Scope};
pub use self::uses::UseName;

use self::expected::Expected;
use self::program::Order;
use self::uses::{Locked, Uses};
use crate::client::{Builder, socket_of_environment};
use crate::deadline::Deadline;
use crate::seen::{self, Seen};
use crate::{Client, Error, ErrorKind, Health, Unmount};

/// How often a mount is looked for that a program is to make.
const PAUSE: Duration = Duration::from_millis(20);

/// More dead mounts than that at one place are not taken away in one call.
const MOST_DEAD: usize = 16;

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until another process has done its work on the same mount; a minute if not given.
    pub lock: Duration,
    /// Each request to the helper; a minute if not given.
    pub helper: Duration,
    /// From the start of the program until it has mounted; a minute if not given.
    pub program: Duration,
    /// Until the file system answers; 10 seconds if not given.
    pub answer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minute = Duration::from_mins(1);
        Self {
            lock: minute,
            helper: minute,
            program: minute,
            answer: Duration::from_secs(10),
        }
    }
}

/// What makes the mount.
#[derive(Debug, Clone)]
enum Source {
    Program(Program),
    Helper { kind: Kind, options: MountOptions },
}

/// A mount that a service keeps, at a place that its export alone decides.
#[derive(Debug, Clone)]
pub struct Volume {
    name: String,
    export: Export,
    base: AbsPath,
    target: AbsPath,
    device: AbsPath,
    source: Source,
    expected: Expected,
    deadlines: Deadlines,
    socket: Option<PathBuf>,
    launcher: PathBuf,
}

impl Volume {
    /// The volume `name` in an export that a program serves. `base` is a directory of this
    /// user's, which the helper's user can reach.
    ///
    /// # Errors
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for a base that is no absolute path, a name
    /// that is no file's, and a program of which is not known what its mounts show.
    pub fn served(
        base: impl AsRef<Path>,
        name: &str,
        export: Export,
        program: Program,
    ) -> Result<Self, Error> {
        let expected = program.expected().ok_or_else(|| {
            Error::invalid_request(
                "a program needs the type of its mounts, or how their source begins, so that they \
                 can be told from others",
            )
        })?;
        Self::new(
            base.as_ref(),
            name,
            export,
            Source::Program(program),
            expected,
        )
    }

    /// The volume `name` on a mount of the helper's own: a bind, a file system on a device or in
    /// an image, or one from the network. Its source is the export.
    ///
    /// # Errors
    /// As for [`served`](Self::served), and for another kind.
    pub fn mounted(
        base: impl AsRef<Path>,
        name: &str,
        kind: Kind,
        options: MountOptions,
    ) -> Result<Self, Error> {
        let source = match &kind {
            Kind::Bind { source: path, .. }
            | Kind::Block { device: path, .. }
            | Kind::Image { file: path, .. } => path.to_string(),
            Kind::Network { source, .. } => source.to_string(),
            _ => String::new(),
        };
        let expected = Expected::of(&kind).ok_or_else(|| {
            Error::invalid_request(
                "a volume is a bind, a file system on a device, in an image or from the network, or \
                 one that a program serves",
            )
        })?;
        let source_of_mount = Source::Helper { kind, options };
        Self::new(
            base.as_ref(),
            name,
            Export::new(&source)?,
            source_of_mount,
            expected,
        )
    }

    fn new(
        base: &Path,
        name: &str,
        export: Export,
        source: Source,
        expected: Expected,
    ) -> Result<Self, Error> {
        let path = |what, path: PathBuf| {
            AbsPath::new(&path).map_err(|error| Error::invalid_path(what, &path, error))
        };
        let target = path("base", base.join(export.digest()))?;
        if name.contains('/') {
            return Err(Error::invalid_request("the name of a volume holds no '/'"));
        }
        Ok(Self {
            device: path("name", target.as_path().join(name))?,
            name: name.to_owned(),
            base: path("base", base.to_owned())?,
            target,
            export,
            source,
            expected,
            deadlines: Deadlines::default(),
            socket: None,
            launcher: "/usr/bin/mountwarden".into(),
        })
    }

    /// Other deadlines.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// The helper's socket, for this process and for the volume's program; without it, as for
    /// [`Builder::socket`].
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The `mountwarden` command, which starts the volume's program; `/usr/bin/mountwarden` if
    /// not given.
    #[must_use]
    pub fn launcher(mut self, path: impl Into<PathBuf>) -> Self {
        self.launcher = path.into();
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its export is mounted: the base and the export's [digest](Export::digest).
    #[must_use]
    pub fn target(&self) -> &AbsPath {
        &self.target
    }

    /// The volume in its export: the target and the name.
    #[must_use]
    pub fn device(&self) -> &Path {
        self.device.as_path()
    }

    /// Finds out how the mount fares, which is the topmost one at the target.
    ///
    /// # Errors
    /// Only when it cannot be found out: "stale" is an answer.
    pub fn validate(&self) -> Result<Found, Error> {
        let seen = seen::at(self.target.as_path()).map_err(|error| self.look(error))?;
        let Some(seen) = seen else {
            return Ok(Found {
                validity: Validity::Absent,
                mount: None,
            });
        };
        let mount = Topmost::of(&seen);
        let fits = self.expected.fits(&seen.line);
        // It would keep the mount in use.
        drop(seen);
        let validity = match mount.id {
            Some(id) if fits.map_err(|error| self.look(error))? => self.health(id)?,
            _ => Validity::Foreign,
        };
        Ok(Found {
            validity,
            mount: Some(mount),
        })
    }

    /// How many uses the mount has.
    ///
    /// # Errors
    /// When the files that tell cannot be read.
    pub fn uses(&self) -> Result<usize, Error> {
        self.records().count()
    }

    /// Makes sure that the volume is mounted and answers, for a use that lasts until it is
    /// [disconnected](Self::disconnect), also when this process crashes. Whoever connects it a
    /// second time for the same use changes nothing.
    ///
    /// A dead mount is ended, by its id, and made again. What is neither dead nor the volume's
    /// is left alone, and never covered.
    ///
    /// # Errors
    /// [`Foreign`](ErrorKind::Foreign), [`Hung`](ErrorKind::Hung),
    /// [`Busy`](ErrorKind::Busy) for a dead mount that is in use,
    /// [`ProgramFailed`](ErrorKind::ProgramFailed), [`TimedOut`](ErrorKind::TimedOut), and what the
    /// helper says. The volume is not in use then, and what was mounted is unmounted again.
    pub fn connect(&self, user: &UseName) -> Result<Connected, Error> {
        let records = self.records();
        let lock = records.lock(self.deadlines.lock)?;
        // Written down first, so that there is no mount at any time that nobody has claimed.
        let is_new = lock.add(user)?;
        let made = self.mount_where_needed(&lock);
        if made.is_err() && is_new {
            lock.remove(user)?;
        }
        Ok(made?.counted(lock.count()?))
    }

    /// As [`connect`](Self::connect), for a use that ends with this process.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn hold(&self) -> Result<Held, Error> {
        let records = self.records();
        let lock = records.lock(self.deadlines.lock)?;
        let file = lock.hold()?;
        let made = self.mount_where_needed(&lock)?;
        Ok(Held {
            connected: made.counted(lock.count()?),
            volume: self.clone(),
            file,
        })
    }

    /// Ends a use. With the last one goes the mount; the directory stays. A volume that nobody
    /// uses is unmounted, too.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) where files are open, [`Foreign`](ErrorKind::Foreign),
    /// [`TimedOut`](ErrorKind::TimedOut), and what the helper says. The use goes on then.
    pub fn disconnect(&self, user: &UseName) -> Result<Disconnected, Error> {
        let records = self.records();
        let lock = records.lock(self.deadlines.lock)?;
        let all = lock.count()?;
        let others = all.saturating_sub(usize::from(lock.has(user)));
        let disconnected = self.unmount_where_unused(others)?;
        lock.remove(user)?;
        Ok(disconnected)
    }

    fn records(&self) -> Uses {
        Uses::of(self.base.as_path(), &self.export)
    }

    fn client(&self) -> Builder {
        let builder = Client::builder().timeout(self.deadlines.helper);
        match &self.socket {
            Some(socket) => builder.socket(socket),
            None => builder,
        }
    }

    fn look(&self, error: io::Error) -> Error {
        Error::look(&self.target, error)
    }

    /// Whether the mount answers, which is the one with that id.
    fn health(&self, id: MountId) -> Result<Validity, Error> {
        let within = self.deadlines.answer;
        let probe = self.client().probe(&self.target, within)?;
        Ok(match probe.health {
            Health::Alive if probe.id.is_none_or(|seen| seen == id) => Validity::Good,
            Health::Alive | Health::Absent => return Err(Error::other_mount(&self.target)),
            Health::Stale { errno } => Validity::Stale { errno },
            Health::Hung { .. } => Validity::Hung,
            Health::Private => {
                let deadline = Deadline::after(within);
                let asked = children::ask(&self.launcher, &self.target, deadline);
                let asked = asked.map_err(|error| Error::not_started(&self.launcher, error))?;
                match asked {
                    Some(0) => Validity::Good,
                    Some(errno) => Validity::Stale { errno },
                    None => Validity::Hung,
                }
            }
        })
    }

    fn mount_where_needed(&self, lock: &Locked<'_>) -> Result<Made, Error> {
        let mut how = Connection::Mounted;
        for _ in 0..MOST_DEAD {
            let found = self.validate()?;
            match (found.validity, found.mount) {
                (Validity::Good, Some(mount)) => {
                    let how = match how {
                        Connection::Mounted => Connection::AlreadyGood,
                        other => other,
                    };
                    return Ok(Made { how, mount });
                }
                (Validity::Stale { .. }, Some(mount)) => {
                    self.end(&mount)?;
                    how = Connection::Repaired;
                }
                (Validity::Absent, _) => {
                    let mount = self.mount(lock)?;
                    return Ok(Made { how, mount });
                }
                (validity, mount) => {
                    let found = Found { validity, mount };
                    return Err(Error::not_good(&self.target, &found));
                }
            }
        }
        Err(Error::other_mount(&self.target))
    }

    /// Mounts, and looks whether that is good.
    fn mount(&self, lock: &Locked<'_>) -> Result<Topmost, Error> {
        self.make_directory()
            .map_err(|error| Error::no_directory(&self.target, error))?;
        let deadline = Deadline::after(self.deadlines.program);
        let begun = self.begin(lock);
        let found = match &begun {
            // It may be a moment later that the program mounts.
            Ok(()) => self.await_mount(deadline)?,
            Err(_) => self.validate()?,
        };
        let Found { validity, mount } = found;
        match (begun, validity, mount) {
            // Also when the one that was killed for its slowness had mounted already.
            (_, Validity::Good, Some(mount)) => Ok(mount),
            (Err(error), ..) => Err(error),
            (Ok(()), Validity::Absent, _) => Err(self.nothing_mounted()),
            (Ok(()), validity, mount) => {
                let found = Found { validity, mount };
                let error = Error::not_good(&self.target, &found);
                match found.mount.filter(|_| validity != Validity::Foreign) {
                    Some(mount) => match self.end(&mount) {
                        Ok(()) => Err(error),
                        Err(left) => Err(error.and_left(&left)),
                    },
                    None => Err(error),
                }
            }
        }
    }

    /// Makes the directory, which the helper's user must be able to read, whatever the umask is.
    fn make_directory(&self) -> io::Result<()> {
        match fs::create_dir(&self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Ok(()) => fs::set_permissions(&self.target, Permissions::from_mode(0o755)),
            failed => failed,
        }
    }

    fn begin(&self, lock: &Locked<'_>) -> Result<(), Error> {
        match &self.source {
            Source::Program(program) => {
                let socket = self.socket.clone().unwrap_or_else(socket_of_environment);
                let order = Order {
                    export: &self.export,
                    target: &self.target,
                    socket: &socket,
                    launcher: &self.launcher,
                    within: self.deadlines.program,
                };
                program.start(&order, lock)
            }
            Source::Helper { kind, options } => {
                let mount = Mount {
                    kind: kind.clone(),
                    target: self.target.clone(),
                    options: *options,
                    propagation: Propagation::Private,
                    passed: Passed::empty(),
                    lease: false,
                };
                self.client().connect()?.mount(mount).map(drop)
            }
        }
    }

    fn await_mount(&self, deadline: Deadline) -> Result<Found, Error> {
        loop {
            let found = self.validate()?;
            if found.validity != Validity::Absent || !deadline.sleep(PAUSE) {
                return Ok(found);
            }
        }
    }

    fn nothing_mounted(&self) -> Error {
        match &self.source {
            Source::Program(program) => Error::nothing_mounted(program.path(), &self.target),
            Source::Helper { .. } => Error::other_mount(&self.target),
        }
    }

    /// Ends that mount. It has ended also when somebody else has done it.
    fn end(&self, mount: &Topmost) -> Result<(), Error> {
        let Some(id) = mount.id else {
            return Err(Error::other_mount(&self.target));
        };
        let unmount = Unmount::from(&self.target).id(id);
        match self.client().connect()?.unmount(unmount) {
            Err(error) if error.kind() == ErrorKind::NotMounted => Ok(()),
            ended => ended.map(drop),
        }
    }

    fn unmount_where_unused(&self, others: usize) -> Result<Disconnected, Error> {
        let (how, found) = if others > 0 {
            (Disconnection::StillUsed, None)
        } else {
            let found = self.validate()?;
            (self.unmount(&found)?, Some(found))
        };
        let warning = found.as_ref().map(|found| found.validity);
        Ok(Disconnected {
            how,
            warning: warning.filter(|validity| *validity != Validity::Good),
            mount: found.and_then(|found| found.mount),
            uses: others,
        })
    }

    fn unmount(&self, found: &Found) -> Result<Disconnection, Error> {
        match (found.validity, &found.mount) {
            (Validity::Absent, _) | (_, None) => Ok(Disconnection::Absent),
            (Validity::Foreign, _) => Err(Error::not_good(&self.target, found)),
            (Validity::Good, Some(mount)) => self.end(mount).map(|()| Disconnection::Unmounted),
            (Validity::Stale { .. } | Validity::Hung, Some(mount)) => match self.end(mount) {
                Err(error) if error.kind() == ErrorKind::Busy => Ok(Disconnection::Left),
                ended => ended.map(|()| Disconnection::Unmounted),
            },
        }
    }
}

/// How a volume's mount fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validity {
    /// It is the volume's, and answers.
    Good,
    /// It is the volume's, and its server is gone.
    Stale {
        /// The kernel's error number (`errno(3)`), such as `ENOTCONN`.
        errno: i32,
    },
    /// It is the volume's, and does not answer in time.
    Hung,
    /// What is mounted there is not the volume's.
    Foreign,
    /// Nothing is mounted there.
    Absent,
}

impl Validity {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale { .. } => "stale",
            Self::Hung => "hung",
            Self::Foreign => "foreign",
            Self::Absent => "absent",
        }
    }
}

/// What was found at the place of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How it fares.
    pub validity: Validity,
    /// The topmost mount.
    pub mount: Option<Topmost>,
}

/// The topmost mount at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topmost {
    /// Its unique id; `None` for another user's FUSE file system, of which the kernel does not
    /// tell it.
    pub id: Option<MountId>,
    /// The type of the file system, such as `fuse.quobyte`.
    pub filesystem: String,
    /// Its source, such as `quobyte@registry/volume`.
    pub source: String,
}

impl Topmost {
    fn of(seen: &Seen) -> Self {
        Self {
            id: seen.id().ok(),
            filesystem: seen.line.filesystem.to_string_lossy().into_owned(),
            source: seen.line.source.to_string_lossy().into_owned(),
        }
    }
}

/// How a volume was connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// It was good as it was.
    AlreadyGood,
    /// Nothing was there, and it was mounted.
    Mounted,
    /// A dead mount was ended, and it was mounted again.
    Repaired,
}

/// A connected volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// How.
    pub how: Connection,
    /// The mount, which is good.
    pub mount: Topmost,
    /// How many uses it has now.
    pub uses: usize,
}

/// The mount that is there now.
struct Made {
    how: Connection,
    mount: Topmost,
}

impl Made {
    fn counted(self, uses: usize) -> Connected {
        let Self { how, mount } = self;
        Connected { how, mount, uses }
    }
}

/// What became of the mount when a use ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disconnection {
    /// It was the last use, and it was unmounted.
    Unmounted,
    /// Others use it.
    StillUsed,
    /// There was none.
    Absent,
    /// It is dead, and in use: it is still there.
    Left,
}

/// A use that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnected {
    /// What became of the mount.
    pub how: Disconnection,
    /// What was wrong with it, if anything was.
    pub warning: Option<Validity>,
    /// What was at the place, where that was looked at.
    pub mount: Option<Topmost>,
    /// How many uses are left.
    pub uses: usize,
}

/// A use that ends with this process, however that comes about. The mount that it was the last
/// use of is unmounted when this is [released](Self::release), or else by whoever connects or
/// disconnects the volume next.
#[derive(Debug)]
#[must_use = "the use ends when this is dropped"]
pub struct Held {
    connected: Connected,
    volume: Volume,
    file: File,
}

impl Held {
    /// What was connected.
    #[must_use]
    pub fn connected(&self) -> &Connected {
        &self.connected
    }

    /// Ends the use, and with the last one the mount.
    ///
    /// # Errors
    /// As for [`Volume::disconnect`]; but the use has ended.
    pub fn release(self) -> Result<Disconnected, Error> {
        let records = self.volume.records();
        let lock = records.lock(self.volume.deadlines.lock)?;
        drop(self.file);
        let others = lock.count()?;
        self.volume.unmount_where_unused(others)
    }
}
