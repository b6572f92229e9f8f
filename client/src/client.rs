//! The client: one connection that is opened again when it was lost.

mod changes;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::{
    ErrorCode, Explanation, MountId, MountInfo, Operation, Passed, Refusal, Reply, Request, Status,
    Welcome,
};

use crate::connection::{Connection, Failure};
use crate::deadline::Deadline;
use crate::list::Pages;
use crate::{Error, Passing, Probe, probe};

/// Where the helper listens.
pub const DEFAULT_SOCKET: &str = "/run/mountwarden/mountwarden.sock";

/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "MOUNTWARDEN_SOCKET";

/// How long a call may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// A connection to the helper.
///
/// Calls block, and each has one deadline for everything that it does: connect,
/// send, wait, read, every page of a list and a second attempt. After a deadline
/// has passed or the helper has broken the protocol, the connection is dropped
/// and the next call opens a new one, so that a late reply is never taken for
/// the reply to another request.
///
/// When the connection was lost, because the helper was restarted or closed it
/// as idle, a call connects again and repeats its request, once if it was sent.
/// So a caller does not notice a restart, except by an [`unmount`] without an id:
/// that is repeated only if it was certainly not done, because it could end a mount
/// that was not there the first time. After a repeated [`mount`] the outcome may
/// read [`AlreadyMounted`](crate::Outcome::AlreadyMounted), and a repeated unmount
/// with an id succeeds when the mount is gone, whoever ended it.
///
/// A connection that the helper ends before it has welcomed the client is tried
/// again a few times, for about a second: nothing was asked on it.
///
/// # Leases
///
/// A mount that was asked for with `leased` ends when this client is dropped or its
/// process ends, however that comes about: a moment later the helper ends it lazily, that one
/// and no other. It also ends when the connection does for another reason, such as a stop
/// of the helper. That is not hidden by a new connection: the next call does nothing and
/// fails with [`LeaseLost`](crate::ErrorKind::LeaseLost); calls after it connect again.
/// [`lease_end`](Client::lease_end) gives what to wait for.
///
/// ```no_run
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{Client, Tmpfs};
/// let mut client = Client::connect()?;
/// let scratch = client.mount(Tmpfs::new("/run/vms/7/scratch")?.leased())?;
/// // ... and when `client` goes, so does `scratch`.
/// # Ok(())
/// # }
/// ```
///
/// [`mount`]: Client::mount
/// [`unmount`]: Client::unmount
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    /// Taken out for each exchange and put back only after a whole reply.
    connection: Option<Connection>,
    welcome: Welcome,
    /// The mounts that end with that connection.
    pub(crate) leases: BTreeSet<MountId>,
}

/// How to connect; made by [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use = "it does nothing until connect is called"]
pub struct Builder {
    socket: Option<PathBuf>,
    timeout: Duration,
}

impl Builder {
    /// The helper's socket. Without it: what [`SOCKET_VARIABLE`] says, else
    /// [`DEFAULT_SOCKET`].
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// How long each call may take in all, this connect included;
    /// [`DEFAULT_TIMEOUT`] if not given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when nothing can be reached
    /// at the socket, [`LimitReached`](crate::ErrorKind::LimitReached) when the
    /// helper has no room, [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
    /// [`TimedOut`](crate::ErrorKind::TimedOut), [`Protocol`](crate::ErrorKind::Protocol).
    pub fn connect(self) -> Result<Client, Error> {
        let socket = self.socket.unwrap_or_else(socket_of_environment);
        let connection = Connection::open(&socket, Deadline::after(self.timeout))
            .map_err(|failure| Error::of(failure, &socket, self.timeout))?;
        Ok(Client {
            welcome: connection.welcome(),
            connection: Some(connection),
            timeout: self.timeout,
            socket,
            leases: BTreeSet::new(),
        })
    }
}

impl Builder {
    /// As [`Client::probe`], for who needs no connection but that one.
    ///
    /// # Errors
    /// As for [`Client::probe`].
    pub fn probe(self, target: impl AsRef<Path>, within: Duration) -> Result<Probe, Error> {
        let socket = self.socket.unwrap_or_else(socket_of_environment);
        probe::ask(&socket, self.timeout, target.as_ref(), within)
    }
}

impl Client {
    /// Connects to the socket that [`SOCKET_VARIABLE`] names, else to
    /// [`DEFAULT_SOCKET`].
    ///
    /// # Errors
    /// As for [`Builder::connect`].
    pub fn connect() -> Result<Self, Error> {
        Self::builder().connect()
    }

    /// Connects to the helper at `socket`.
    ///
    /// # Errors
    /// As for [`Builder::connect`].
    pub fn connect_to(socket: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder().socket(socket).connect()
    }

    /// Connects with another socket or deadline.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use std::time::Duration;
    /// let client = mountwarden_client::Client::builder()
    ///     .socket("/run/user/1000/mountwarden.sock")
    ///     .timeout(Duration::from_secs(5))
    ///     .connect()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder {
            socket: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The mounts at places that the policy grants to this user, in the order of
    /// their ids.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) also for a list that runs in
    /// circles.
    pub fn list(&mut self) -> Result<Vec<MountInfo>, Error> {
        let mut call = self.begin();
        let mut pages = Pages::default();
        loop {
            let request = Request::List {
                after: pages.after(),
            };
            let page = match self.exchange(&request, &mut call)? {
                Reply::List(page) => page,
                other => return Err(self.misfit(&other, "a list")),
            };
            match pages.add(page) {
                Ok(true) => return Ok(pages.into_mounts()),
                Ok(false) => {}
                Err(what) => return Err(self.broken(what)),
            }
        }
    }

    /// Whether a mount of that id is in the list.
    #[cfg(feature = "volume")]
    pub(crate) fn has_mount(&mut self, id: MountId) -> Result<bool, Error> {
        let mut call = self.begin();
        let after = MountId::try_from(u64::from(id).saturating_sub(1)).ok();
        match self.exchange(&Request::List { after }, &mut call)? {
            Reply::List(page) => Ok(page.mounts.first().is_some_and(|first| first.id == id)),
            other => Err(self.misfit(&other, "a list")),
        }
    }

    /// Asks what the policy says of an operation, without doing it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Bind, Client, Explanation};
    /// let mut client = Client::connect()?;
    /// match client.explain(Bind::new("/srv/images", "/run/vms/7/images")?)? {
    ///     Explanation::Allowed { grant, .. } => println!("allowed by {grant}"),
    ///     Explanation::Denied(error) => println!("denied: {}", error.message),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Only when the question was not answered: "denied" is an answer.
    pub fn explain(&mut self, operation: impl Into<Operation>) -> Result<Explanation, Error> {
        match self.call(&Request::Explain(operation.into()))? {
            Reply::Explained(explanation) => Ok(explanation),
            other => Err(self.misfit(&other, "an explanation")),
        }
    }

    /// The helper's version, confinement, limits and counters.
    ///
    /// # Errors
    /// When the question was not answered.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.call(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(self.misfit(&other, "a status")),
        }
    }

    /// Asks whether the file system that is mounted at `target` answers `within` a time; the
    /// helper's own deadline for a request may be shorter.
    ///
    /// This takes a connection of its own, because one on which a file system hangs is lost:
    /// this client's goes on, with its leases.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Health, Unmount};
    /// use std::time::Duration;
    /// let mut client = Client::connect()?;
    /// let probe = client.probe("/run/vms/7/images", Duration::from_secs(5))?;
    /// if let (Health::Stale { .. }, Some(id)) = (probe.health, probe.id) {
    ///     client.unmount(Unmount::new("/run/vms/7/images")?.id(id).lazy())?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) where nothing may be mounted,
    /// [`NotFound`](crate::ErrorKind::NotFound) when the path does not exist, and
    /// [`TimedOut`](crate::ErrorKind::TimedOut) when the helper itself does not answer: a hang
    /// that the kernel lets nobody end looks so.
    pub fn probe(&self, target: impl AsRef<Path>, within: Duration) -> Result<Probe, Error> {
        probe::ask(&self.socket, self.timeout, target.as_ref(), within)
    }

    /// The user that the kernel says this process is, and that the policy judges.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.welcome.uid
    }

    /// The version of the protocol that the connection speaks.
    #[must_use]
    pub fn protocol_version(&self) -> u32 {
        self.welcome.version
    }

    /// The helper's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What becomes readable when the connection ends, and the [leases](Client#leases) of
    /// this client with it; `None` while it has none. It is to be waited for only.
    #[must_use]
    pub fn lease_end(&self) -> Option<BorrowedFd<'_>> {
        let connection = self.connection.as_ref()?;
        (!self.leases.is_empty()).then(|| connection.as_fd())
    }

    fn begin<'fd>(&self) -> Call<'fd> {
        Call {
            deadline: Deadline::after(self.timeout),
            sent: false,
            reopened: false,
            passing: Passing::new(),
        }
    }

    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply, Error> {
        let mut call = self.begin();
        self.exchange(request, &mut call)
    }

    /// Fails when the leases have ended with their connection. `sent` is whether this
    /// call's request may have been carried out.
    fn check_leases(&mut self, sent: bool) -> Result<(), Error> {
        if self.connection.is_some() || self.leases.is_empty() {
            return Ok(());
        }
        let lost = std::mem::take(&mut self.leases);
        Err(Error::lease_lost(&self.socket, &lost, sent))
    }

    /// Exchanges a request for a reply that is not an error.
    fn exchange(&mut self, request: &Request, call: &mut Call<'_>) -> Result<Reply, Error> {
        loop {
            self.check_leases(call.sent && changes(request))?;
            match self.attempt(request, call) {
                Ok(Reply::Error(error)) => return Err(error.into()),
                Ok(reply) => return Ok(reply),
                Err(Failure::Lost { sent: true, .. }) if !call.sent && repeatable(request) => {
                    call.sent = true;
                }
                Err(failure) if failure.is_of_going_helper() && !call.reopened => {
                    call.reopened = true;
                }
                Err(failure) => {
                    let failure = if call.sent && changes(request) {
                        failure.after_sent()
                    } else {
                        failure
                    };
                    return Err(Error::of(failure, &self.socket, self.timeout));
                }
            }
        }
    }

    fn attempt(&mut self, request: &Request, call: &Call<'_>) -> Result<Reply, Failure> {
        let (connection, reply) = self.connected(call.deadline)?.exchange(
            request,
            call.passing.descriptors(),
            call.deadline,
        )?;
        match reply {
            // Nothing was done: as good as a refused connection.
            Reply::Error(error) if error.code == ErrorCode::Unavailable => {
                Err(Failure::Refused(Box::new(Refusal::new(error))))
            }
            reply => {
                if !is_last(&reply) {
                    self.connection = Some(connection);
                }
                Ok(reply)
            }
        }
    }

    /// The connection that is open, or a new one.
    fn connected(&mut self, deadline: Deadline) -> Result<Connection, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.socket, deadline)?,
        };
        self.welcome = connection.welcome();
        Ok(connection)
    }

    pub(crate) fn misfit(&mut self, reply: &Reply, wanted: &str) -> Error {
        let got = match reply {
            Reply::Error(_) => "an error",
            Reply::Mounted(_) => "a mount",
            Reply::Unmounted(_) => "an unmount",
            Reply::List(_) => "a list",
            Reply::Explained(_) => "an explanation",
            Reply::Status(_) => "a status",
            Reply::Remounted(_) => "a remount",
            Reply::Moved(_) => "a move",
            Reply::Probed(_) => "a probe",
            Reply::Detached(_) => "a detached mount",
            Reply::Applied(_) => "a batch",
            Reply::NotApplied(_) => "the failure of a batch",
        };
        self.broken(&format!("it answered a request for {wanted} with {got}"))
    }

    pub(crate) fn broken(&mut self, what: &str) -> Error {
        self.connection = None;
        Error::protocol(&self.socket, what)
    }
}

/// What the exchanges of one call share.
struct Call<'fd> {
    deadline: Deadline,
    /// Whether the request was sent once and may have been carried out.
    sent: bool,
    /// Whether a connection that ended before anything was done was replaced.
    reopened: bool,
    /// What goes with each attempt.
    passing: Passing<'fd>,
}

impl<'fd> Call<'fd> {
    fn passing(self, passing: Passing<'fd>) -> Self {
        Self { passing, ..self }
    }
}

/// Whether a request changes the mount table.
fn changes(request: &Request) -> bool {
    matches!(request, Request::Perform(_) | Request::Apply(_))
}

/// Whether a request that may have been carried out can be sent again.
fn repeatable(request: &Request) -> bool {
    match request {
        Request::Perform(Operation::Unmount(unmount)) => unmount.id.is_some(),
        // Done once, it covers what would be passed again; and what was leased has ended
        // with the connection, or will in a moment.
        Request::Perform(Operation::Mount(mount)) => {
            !mount.lease && !mount.passed.contains(Passed::TARGET)
        }
        // What was made of it may end in a moment; and what was moved is at its place no more.
        Request::Apply(_) | Request::Perform(Operation::Move(_)) => false,
        Request::Perform(Operation::Remount(_) | Operation::Detach(_))
        | Request::Explain(_)
        | Request::List { .. }
        | Request::Status
        | Request::Probe { .. } => true,
    }
}

/// Whether the helper ends the connection after this reply.
fn is_last(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Error(error) if matches!(
            error.code,
            ErrorCode::MalformedFrame | ErrorCode::TimedOut
        )
    )
}

pub(crate) fn socket_of_environment() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE)
        .filter(|path| !path.is_empty())
        .map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}
