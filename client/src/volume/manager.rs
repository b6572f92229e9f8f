//! Asks a manager of systemd over D-Bus. No program is run for it.

use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use mountwarden_protocol::escape::{Safe, SafePath};
use zbus::connection::{Builder, Connection};
use zbus::message::Type;
use zbus::{Address, DBusError as _, MatchRule, MessageStream, OwnedObjectPath, Variant};
use zruntime::SharedRuntime;

use crate::{Error, ErrorKind};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

const DENIED: &str = "polkit does not grant it, and whom it does can do what root can: use the \
                      user's own manager (docs/volumes.md)";
const EXISTS: &str = "what was started in that scope before still runs";

/// A manager of systemd: the system's, or the calling user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The system's, process 1. Whom polkit lets start scopes there can do all that root can.
    System,
    /// That of this user, `user@UID.service`. It takes no permission, but has to run while the
    /// user is not logged in (`loginctl enable-linger`).
    User,
}

/// What a manager says of itself, as `systemctl is-system-running` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManagerState {
    /// Early in the boot.
    Initializing,
    /// Late in the boot.
    Starting,
    /// All is well.
    Running,
    /// A unit has failed.
    Degraded,
    /// The rescue or emergency mode.
    Maintenance,
    /// The system, or the user's manager, shuts down.
    Stopping,
    /// No manager is there.
    Offline,
    /// None of these.
    Unknown,
}

impl ManagerState {
    fn named(name: &str) -> Self {
        match name {
            "initializing" => Self::Initializing,
            "starting" => Self::Starting,
            "running" => Self::Running,
            "degraded" => Self::Degraded,
            "maintenance" => Self::Maintenance,
            "stopping" => Self::Stopping,
            "offline" => Self::Offline,
            _ => Self::Unknown,
        }
    }
}

/// Why a manager did not do what it was asked.
enum Failure {
    Bus(zbus::Error),
    Stopping,
    /// The job ended otherwise than done.
    Job(String),
    /// The job is done, and yet this process is elsewhere.
    Outside,
    Late(Duration),
}

impl<E: Into<zbus::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Bus(error.into())
    }
}

impl Manager {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }

    /// What the manager's state is now. Nothing is remembered.
    ///
    /// # Errors
    /// [`ServiceManager`](crate::ErrorKind::ServiceManager) where the manager cannot be asked,
    /// [`TimedOut`](crate::ErrorKind::TimedOut) where it does not answer `within` that time.
    ///
    /// # Panics
    /// In a task that zbus runs, which would wait for itself.
    pub fn state(self, within: Duration) -> Result<ManagerState, Error> {
        self.ask("tell its state", &self.socket(), within, async |bus| {
            state(bus).await
        })
    }

    /// Moves this process, with all its threads, into a new scope and waits until it is there.
    /// The scope ends with the last process in it.
    ///
    /// # Errors
    /// [`ServiceManager`](crate::ErrorKind::ServiceManager) where the manager cannot be asked,
    /// refuses, fails or is stopping, [`TimedOut`](crate::ErrorKind::TimedOut) where it is not
    /// done `within` that time: the process may or may not be in the scope then.
    ///
    /// # Panics
    /// In a task that zbus runs, which would wait for itself.
    pub fn enter_scope(self, unit: &str, description: &str, within: Duration) -> Result<(), Error> {
        let what = format!("start the scope {}", Safe(unit));
        self.ask(&what, &self.socket(), within, async |bus| {
            if state(bus).await? == ManagerState::Stopping {
                return Err(Failure::Stopping);
            }
            start_scope(bus, unit, description).await?;
            let groups = fs::read_to_string("/proc/self/cgroup").map_err(zbus::Error::from)?;
            if is_within(&groups, unit) {
                Ok(())
            } else {
                Err(Failure::Outside)
            }
        })
    }

    fn socket(self) -> PathBuf {
        match self {
            Self::System => "/run/dbus/system_bus_socket".into(),
            Self::User => format!("/run/user/{}/bus", rustix::process::geteuid().as_raw()).into(),
        }
    }

    /// One deadline for the connection and all that is asked on it.
    fn ask<T>(
        self,
        what: &str,
        socket: &Path,
        within: Duration,
        work: impl AsyncFnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let asked = async {
            let address = Address::try_from(format!("unix:path={}", socket.display()).as_str())?;
            let bus = Builder::address(address).build().await?;
            let answer = work(&bus).await;
            // Or a thread would come to do it afterwards.
            bus.graceful_shutdown().await;
            answer
        };
        let answer = zbus::block_on(async {
            let in_time = SharedRuntime::current()?.timeout(within, asked).await;
            in_time.unwrap_or(Err(Failure::Late(within)))
        });
        answer.map_err(|failure| self.failed(what, socket, &failure))
    }

    fn failed(self, what: &str, socket: &Path, failure: &Failure) -> Error {
        let why = match failure {
            Failure::Bus(zbus::Error::MethodError(name, text, _)) => {
                self.refused(name.as_str(), text.as_deref())
            }
            Failure::Bus(zbus::Error::FDO(error)) => {
                self.refused(error.name().as_str(), error.description())
            }
            Failure::Bus(error) => format!(
                "cannot be asked at {}: {}; {}",
                SafePath(socket),
                Safe(&error.to_string()),
                self.absent()
            ),
            Failure::Stopping => "is stopping and starts nothing any more".to_owned(),
            Failure::Job(result) => format!(
                "gave up (the job ended as {}); its journal says why",
                Safe(result)
            ),
            Failure::Outside => {
                "says that it did, but /proc/self/cgroup has this process elsewhere".to_owned()
            }
            Failure::Late(within) => format!("was not done within {within:?}"),
        };
        let kind = match failure {
            Failure::Late(_) => ErrorKind::TimedOut,
            _ => ErrorKind::ServiceManager,
        };
        Error::new(kind, format!("{self} did not {what}: it {why}"))
    }

    /// What a D-Bus error means, and what to do.
    fn refused(self, name: &str, text: Option<&str>) -> String {
        let (name, text) = (Safe(name), Safe(text.unwrap_or("no more is said")));
        let advice = match name.0.rsplit('.').next() {
            Some("InteractiveAuthorizationRequired" | "AccessDenied") => DENIED,
            Some("UnitExists") => EXISTS,
            Some("ServiceUnknown" | "NameHasNoOwner") => self.absent(),
            _ => "look at the journal",
        };
        format!("refused it with {name} ({text}); {advice}")
    }

    fn absent(self) -> &'static str {
        match self {
            Self::System => "it takes systemd and the system's D-Bus daemon",
            Self::User => {
                "it takes a manager for this user that runs without a login (loginctl \
                 enable-linger USER), its D-Bus daemon (Debian: dbus-user-session), and a service \
                 that may see /run/user (ProtectHome=)"
            }
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the system's manager",
            Self::User => "the user's manager",
        })
    }
}

async fn state(bus: &Connection) -> Result<ManagerState, Failure> {
    let properties = Some("org.freedesktop.DBus.Properties");
    let property = (INTERFACE, "SystemState");
    let reply = bus
        .call_method(Some(NAME), PATH, properties, "Get", &property)
        .await?;
    let body = reply.body();
    let state: Variant<'_> = body.deserialize()?;
    Ok(ManagerState::named(<&str>::try_from(&state)?))
}

/// Starts a scope with this process in it, and waits until that is done.
async fn start_scope(bus: &Connection, unit: &str, description: &str) -> Result<(), Failure> {
    // From before the job is there, or its end may be missed.
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(NAME)
        .path(PATH)
        .interface(INTERFACE)
        .member("JobRemoved")
        .build()?;
    let mut ends = MessageStream::for_match_rule(rule, bus, None).await?;
    let properties = [
        ("Description", Variant::from(description)),
        // Whoever asks: no number, which could be another's by then or in another namespace.
        ("PIDs", Variant::from(vec![0_u32])),
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    let others: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
    let request = (unit, "fail", &properties[..], &others[..]);
    let reply = bus
        .call_method(
            Some(NAME),
            PATH,
            Some(INTERFACE),
            "StartTransientUnit",
            &request,
        )
        .await?;
    let job: OwnedObjectPath = reply.body().deserialize()?;
    while let Some(end) = poll_fn(|context| Pin::new(&mut ends).poll_next(context)).await {
        let end = end?;
        let body = end.body();
        let (_, ended, _, result): (u32, OwnedObjectPath, &str, &str) = body.deserialize()?;
        if ended == job {
            return match result {
                "done" => Ok(()),
                other => Err(Failure::Job(other.to_owned())),
            };
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Whether a process with these control groups is in the unit.
fn is_within(groups: &str, unit: &str) -> bool {
    let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path.rsplit('/').next() == Some(unit))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn state_at(socket: &Path, within: Duration) -> Result<ManagerState, Error> {
        Manager::User.ask("tell its state", socket, within, async |bus| {
            state(bus).await
        })
    }

    #[test]
    fn no_bus() {
        let place = tempfile::tempdir().unwrap();
        let error = state_at(&place.path().join("bus"), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ServiceManager);
        let message = error.to_string();
        assert!(message.contains("/bus"), "{message}");
        assert!(message.contains("loginctl enable-linger"), "{message}");
    }

    #[test]
    fn a_bus_that_says_nothing() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let error = state_at(&socket, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(listener);
    }

    #[test]
    fn a_bus_that_hangs_up() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || drop(listener.accept()));
        let error = state_at(&socket, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ServiceManager, "{error}");
        server.join().unwrap();
    }

    #[test]
    fn the_unit_of_a_process() {
        let unified = "0::/system.slice/a.service/b.scope\n";
        assert!(is_within(unified, "b.scope"));
        assert!(!is_within(unified, "a.service"));
        assert!(!is_within(unified, "cope"));
        let hybrid = "3:cpu,cpuacct:/\n1:name=systemd:/user.slice/b.scope\n0::/\n";
        assert!(is_within(hybrid, "b.scope"));
        // Where the process's own namespace of control groups begins elsewhere.
        assert!(is_within("0::/../b.scope\n", "b.scope"));
    }

    #[test]
    fn states_by_name() {
        assert_eq!(ManagerState::named("degraded"), ManagerState::Degraded);
        assert_eq!(ManagerState::named("stopping"), ManagerState::Stopping);
        assert_eq!(ManagerState::named("brand-new"), ManagerState::Unknown);
    }
}
