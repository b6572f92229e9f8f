//! What is done with a volume: it is looked at, connected, disconnected.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mountwarden_protocol::{Mount, Passed, Propagation};

use super::program::Order;
use super::uses::{Locked, Uses};
use super::{
    Connected, Connection, Disconnected, Disconnection, Found, Source, Topmost, UseName, Validity,
    Volume, children,
};
use crate::client::{Builder, socket_of_environment};
use crate::deadline::Deadline;
use crate::seen;
use crate::{Client, Error, ErrorKind, Health, Unmount};

/// How often a mount is looked for that a program is to make.
const PAUSE: Duration = Duration::from_millis(20);

/// How often a mount is looked at that is another one each time.
const MOST_LOOKS: usize = 5;

/// More dead mounts than that at one place are not taken away in one call.
const MOST_DEAD: usize = 16;

impl Volume {
    /// Finds out how the mount fares, which is the topmost one at the target.
    ///
    /// # Errors
    /// Only when it cannot be found out: "stale" is an answer.
    pub fn validate(&self) -> Result<Found, Error> {
        for _ in 0..MOST_LOOKS {
            let found = self.look()?;
            let validity = match &found.mount {
                Some(mount) if found.validity == Validity::Good => self.health(mount)?,
                _ => return Ok(found),
            };
            // Whoever answered was asked by the path.
            match validity {
                Some(validity) if self.look()? == found => return Ok(Found { validity, ..found }),
                _ => {}
            }
        }
        Err(Error::other_mount(&self.target))
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
}

/// The steps, of which none waits without a deadline.
impl Volume {
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

    /// Looks whether the topmost mount is the volume's, and asks it nothing.
    fn look(&self) -> Result<Found, Error> {
        let failed = |error| Error::look(&self.target, error);
        let Some(seen) = seen::at(self.target.as_path()).map_err(failed)? else {
            return Ok(Found {
                validity: Validity::Absent,
                mount: None,
            });
        };
        let mount = Topmost::of(&seen);
        let is_own = mount.id.is_some() && self.expected.fits(&seen.line).map_err(failed)?;
        let validity = if is_own {
            Validity::Good
        } else {
            Validity::Foreign
        };
        Ok(Found {
            validity,
            mount: Some(mount),
        })
    }

    /// How the mount answers; `None` where the helper sees another.
    fn health(&self, mount: &Topmost) -> Result<Option<Validity>, Error> {
        if matches!(self.source, Source::Program(_)) {
            return self.ask().map(Some);
        }
        let within = self.deadlines.answer;
        let probe = self.client().probe(&self.target, within)?;
        let is_it = probe.id.is_none()
            || probe.id == mount.id
            || probe.id == mount.id_at_helper(&mut self.client().connect()?)?;
        Ok(Some(match probe.health {
            Health::Alive if is_it => Validity::Good,
            Health::Alive | Health::Absent => return Ok(None),
            Health::Stale { errno } => Validity::Stale { errno },
            Health::Hung { .. } => Validity::Hung,
            Health::Private => self.ask()?,
        }))
    }

    /// How the mount answers to a process of this user's, whom a program's mount always answers.
    /// A FUSE server that takes a question and answers none keeps whoever asked until it ends,
    /// also from SIGKILL: a session of the helper's would keep one of the user's connections.
    fn ask(&self) -> Result<Validity, Error> {
        let deadline = Deadline::after(self.deadlines.answer);
        let asked = children::ask(&self.launcher, &self.target, deadline);
        let asked = asked.map_err(|error| Error::not_started(&self.launcher, error))?;
        Ok(match asked {
            Some(0) => Validity::Good,
            Some(errno) => Validity::Stale { errno },
            None => Validity::Hung,
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
        let error = match (begun, found.validity) {
            (Err(error), _) => error,
            (Ok(()), Validity::Absent) => self.nothing_mounted(),
            (Ok(()), _) => Error::not_good(&self.target, &found),
        };
        match (found.validity, found.mount) {
            // Also when the program that was killed for its slowness had mounted already.
            (Validity::Good, Some(mount)) => Ok(mount),
            (Validity::Stale { .. } | Validity::Hung, Some(mount)) => match self.end(&mount) {
                Ok(()) => Err(error),
                Err(left) => Err(error.and_left(&left)),
            },
            _ => Err(error),
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
        let mut client = self.client().connect()?;
        let Some(id) = mount.id_at_helper(&mut client)? else {
            return Err(Error::other_mount(&self.target));
        };
        let unmount = Unmount::from(&self.target).id(id);
        match client.unmount(unmount) {
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
