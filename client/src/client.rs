//! The client: one connection that is opened again when it was lost.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::{
    ErrorCode, Explanation, Kind, Mount, MountId, MountInfo, Mounted, Operation, Refusal, Reply,
    Request, Status, Unmounted, Welcome,
};

use crate::connection::{Connection, Failure};
use crate::deadline::Deadline;
use crate::list::Pages;
use crate::{Error, ErrorKind, Fuse, FuseMount, Probe, Remount, Unmount, probe};

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
    leases: BTreeSet<MountId>,
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

    /// Mounts a [`Bind`](crate::Bind), a [`Tmpfs`](crate::Tmpfs) or a
    /// [`Block`](crate::Block).
    ///
    /// Asking for what is there already is no error: the reply's
    /// [`outcome`](Mounted::outcome) tells.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) by the policy,
    /// [`Busy`](crate::ErrorKind::Busy) when the target holds a different mount,
    /// and whatever else [`ErrorKind`](crate::ErrorKind) lists.
    pub fn mount(&mut self, mount: impl Into<Mount>) -> Result<Mounted, Error> {
        let mount: Mount = mount.into();
        if let Kind::Fuse { .. } = mount.kind {
            return Err(Error::other_method("Client::mount_fuse"));
        }
        let lease = mount.lease;
        match self.call(&Request::Perform(Operation::Mount(mount)))? {
            Reply::Mounted(mounted) => {
                if lease {
                    self.leases.insert(mounted.mount.id);
                }
                Ok(mounted)
            }
            other => Err(self.misfit(&other, "a mount")),
        }
    }

    /// Mounts a [`Fuse`] file system and gives the connection that its program answers
    /// on. Until it does, whoever looks at the target waits.
    ///
    /// A second request is no [`AlreadyMounted`](crate::Outcome::AlreadyMounted): there
    /// is one connection. So after a lost connection it is not repeated either.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Fuse};
    /// let mut client = Client::connect()?;
    /// let made = client.mount_fuse(Fuse::new("sshfs", "/run/vms/7/remote")?)?;
    /// // A program of libfuse takes "/dev/fd/N" for the place, N being its number.
    /// let connection = made.connection;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::mount`]; [`Protocol`](crate::ErrorKind::Protocol) also for a
    /// reply without a connection.
    pub fn mount_fuse(&mut self, fuse: Fuse) -> Result<FuseMount, Error> {
        let mount = Mount::from(fuse);
        let lease = mount.lease;
        let request = Request::Perform(Operation::Mount(mount));
        self.check_leases(false)?;
        let deadline = Deadline::after(self.timeout);
        let exchanged = self
            .connected(deadline)
            .and_then(|connection| connection.exchange_for_descriptors(&request, deadline));
        if matches!(&exchanged, Err(failure) if failure.is_of_going_helper()) {
            self.check_leases(false)?;
        }
        let (connection, reply, descriptors) =
            exchanged.map_err(|failure| Error::of(failure, &self.socket, self.timeout))?;
        if !is_last(&reply) {
            self.connection = Some(connection);
        }
        match (reply, <[OwnedFd; 1]>::try_from(descriptors)) {
            (Reply::Mounted(mounted), Ok([connection])) => {
                if lease {
                    self.leases.insert(mounted.mount.id);
                }
                Ok(FuseMount {
                    mounted,
                    connection,
                })
            }
            (Reply::Mounted(_), Err(_)) => {
                Err(self.broken("a FUSE mount did not come with one connection"))
            }
            (Reply::Error(error), _) => Err(error.into()),
            (other, _) => Err(self.misfit(&other, "a FUSE mount")),
        }
    }

    /// Unmounts an [`Unmount`], an [`AbsPath`](crate::AbsPath), or exactly the
    /// mount that a `&Mounted` or `&MountInfo` describes.
    ///
    /// # Errors
    /// [`NotMounted`](crate::ErrorKind::NotMounted) when nothing is there,
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch) when another mount is,
    /// [`Busy`](crate::ErrorKind::Busy) when it is in use,
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost) when the helper went
    /// away with the request, and whatever else [`ErrorKind`](crate::ErrorKind)
    /// lists.
    pub fn unmount(&mut self, unmount: impl Into<Unmount>) -> Result<Unmounted, Error> {
        let unmount: mountwarden_protocol::Unmount = unmount.into().into();
        let mut call = self.begin();
        let request = Request::Perform(Operation::Unmount(unmount.clone()));
        match (self.exchange(&request, &mut call), unmount.id) {
            (Ok(Reply::Unmounted(unmounted)), _) => {
                self.leases.remove(&unmounted.id);
                Ok(unmounted)
            }
            (Ok(other), _) => Err(self.misfit(&other, "an unmount")),
            // The reply to the first attempt was lost, and ids are never used again.
            (Err(error), Some(id)) if call.sent && error.kind() == ErrorKind::NotMounted => {
                Ok(Unmounted {
                    id,
                    target: unmount.target,
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Changes the attributes of a mount that is there, and gives it as it is then.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Remount};
    /// let mut client = Client::connect()?;
    /// let sealed = client.remount(Remount::new("/run/vms/7/images")?.read_only())?;
    /// println!("{}", sealed.attributes.names().join(","));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) by the policy,
    /// [`NotMounted`](crate::ErrorKind::NotMounted) when nothing is there,
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch) when another mount is,
    /// [`Busy`](crate::ErrorKind::Busy) when it is in use or not what is lifted from,
    /// and whatever else [`ErrorKind`](crate::ErrorKind) lists.
    pub fn remount(&mut self, remount: impl Into<Remount>) -> Result<MountInfo, Error> {
        let remount: mountwarden_protocol::Remount = remount.into().into();
        match self.call(&Request::Perform(Operation::Remount(remount)))? {
            Reply::Remounted(mount) => Ok(mount),
            other => Err(self.misfit(&other, "a remount")),
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

    fn begin(&self) -> Call {
        Call {
            deadline: Deadline::after(self.timeout),
            sent: false,
            reopened: false,
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, Error> {
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
    fn exchange(&mut self, request: &Request, call: &mut Call) -> Result<Reply, Error> {
        loop {
            self.check_leases(call.sent && changes(request))?;
            match self.attempt(request, call.deadline) {
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

    fn attempt(&mut self, request: &Request, deadline: Deadline) -> Result<Reply, Failure> {
        let (connection, reply) = self.connected(deadline)?.exchange(request, deadline)?;
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

    fn misfit(&mut self, reply: &Reply, wanted: &str) -> Error {
        let got = match reply {
            Reply::Error(_) => "an error",
            Reply::Mounted(_) => "a mount",
            Reply::Unmounted(_) => "an unmount",
            Reply::List(_) => "a list",
            Reply::Explained(_) => "an explanation",
            Reply::Status(_) => "a status",
            Reply::Remounted(_) => "a remount",
            Reply::Probed(_) => "a probe",
        };
        self.broken(&format!("it answered a request for {wanted} with {got}"))
    }

    fn broken(&mut self, what: &str) -> Error {
        self.connection = None;
        Error::protocol(&self.socket, what)
    }
}

/// What the exchanges of one call share.
struct Call {
    deadline: Deadline,
    /// Whether the request was sent once and may have been carried out.
    sent: bool,
    /// Whether a connection that ended before anything was done was replaced.
    reopened: bool,
}

/// Whether a request changes the mount table.
fn changes(request: &Request) -> bool {
    matches!(request, Request::Perform(_))
}

/// Whether a request that may have been carried out can be sent again.
fn repeatable(request: &Request) -> bool {
    match request {
        Request::Perform(Operation::Unmount(unmount)) => unmount.id.is_some(),
        // What was made has ended with the connection, or will in a moment.
        Request::Perform(Operation::Mount(mount)) => !mount.lease,
        Request::Perform(Operation::Remount(_))
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

fn socket_of_environment() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE)
        .filter(|path| !path.is_empty())
        .map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}
