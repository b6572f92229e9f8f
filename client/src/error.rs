//! What can go wrong, for a program and for a person.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::escape::{Safe, SafePath};
use mountwarden_protocol::{
    DenyReason, ErrorCode, ErrorReply, InvalidFilesystem, InvalidPath, MountId, Refusal, Versions,
};

use crate::connection::Failure;
#[cfg(feature = "volume")]
use crate::volume::ProgramEnd;
use crate::{BatchFailure, SOCKET_VARIABLE};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a call did not do what was asked.
///
/// [`Error::kind`] is what a program decides by; printing the error tells a
/// person what happened, to which path and what to do. Nothing in it was taken
/// from the text of a message.
///
/// ```no_run
/// use mountwarden_client::{Client, DenyReason, ErrorKind, Tmpfs};
///
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// let mut client = Client::connect()?;
/// match client.mount(Tmpfs::new("/run/vms/7/scratch")?) {
///     Ok(mounted) => println!("mounted as {}", mounted.mount.id),
///     Err(error) => match error.kind() {
///         ErrorKind::Busy => println!("taken by mount {:?}", error.mount()),
///         ErrorKind::Denied if error.reason() == Some(DenyReason::NoGrant) => {
///             println!("this user has no grant at all");
///         }
///         _ => return Err(error),
///     },
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    /// One line that a terminal can be shown.
    message: String,
    path: Option<PathBuf>,
    reply: Option<ErrorReply>,
    batch: Option<BatchFailure>,
    #[cfg(feature = "volume")]
    program: Option<(ProgramEnd, String)>,
    source: Option<Source>,
}

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The policy does not allow it; [`Error::reason`] says why.
    Denied,
    /// The target holds a different mount ([`Error::mount`]), or the mount is in
    /// use.
    Busy,
    /// Nothing is mounted at the target.
    NotMounted,
    /// The topmost mount at the target is not the one that was named.
    IdMismatch,
    /// A path does not exist.
    NotFound,
    /// The helper's own user may not reach the path.
    Unreachable,
    /// A symbolic link, or a file of the wrong type, where a directory or a
    /// regular file belongs.
    WrongType,
    /// A path was renamed, replaced or removed while the request ran.
    Changed,
    /// The file system at the path is dead: its server is gone.
    Stale,
    /// The file system at the path does not answer.
    Hung,
    /// A mount that is not the volume's lies at its place.
    Foreign,
    /// The program that should have mounted a volume did not; [`Error::program_end`] says how it
    /// ended.
    ProgramFailed,
    /// The deadline passed, the client's or the helper's. Whether the request
    /// was carried out is not known.
    TimedOut,
    /// No helper can be reached, or it is stopping; nothing was done.
    Unavailable,
    /// The helper went away before it answered, and asking again was not safe or
    /// not possible. Whether the request was carried out is not known.
    ConnectionLost,
    /// The connection that kept this client's leases had ended, and the leased mounts
    /// end with it; what was asked was not done. The next call connects again.
    LeaseLost,
    /// A path, option or value that no helper accepts.
    InvalidRequest,
    /// A limit of the helper or of the kernel was reached.
    LimitReached,
    /// This kernel or this helper cannot do it.
    Unsupported,
    /// The client and the helper have no protocol version in common.
    UnsupportedVersion {
        /// What this client speaks.
        client: Versions,
        /// What the helper speaks.
        helper: Versions,
    },
    /// The helper broke the protocol, or says that the client did.
    Protocol,
    /// The service manager (systemd), or the way to it, failed or refused.
    ServiceManager,
    /// The kernel refused for a reason without a kind of its own
    /// ([`Error::errno`]), or a newer helper has a code that this client does
    /// not know ([`Error::reply`]).
    Failed,
}

impl ErrorKind {
    /// A stable kebab-case name, the same as the [`ErrorCode`]'s where there is one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::NotMounted => "not-mounted",
            Self::IdMismatch => "id-mismatch",
            Self::NotFound => "not-found",
            Self::Unreachable => "unreachable",
            Self::WrongType => "wrong-type",
            Self::Changed => "changed",
            Self::Stale => "stale",
            Self::Hung => "hung",
            Self::Foreign => "foreign",
            Self::ProgramFailed => "program-failed",
            Self::TimedOut => "timed-out",
            Self::Unavailable => "unavailable",
            Self::ConnectionLost => "connection-lost",
            Self::LeaseLost => "lease-lost",
            Self::InvalidRequest => "invalid-request",
            Self::LimitReached => "limit-reached",
            Self::Unsupported => "unsupported",
            Self::UnsupportedVersion { .. } => "unsupported-version",
            Self::Protocol => "protocol",
            Self::ServiceManager => "service-manager",
            Self::Failed => "failed",
        }
    }

    fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidRequest => Self::InvalidRequest,
            // A version is refused only by the handshake, which names both sides'.
            ErrorCode::MalformedFrame | ErrorCode::UnsupportedVersion => Self::Protocol,
            ErrorCode::Unsupported => Self::Unsupported,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::Busy => Self::Busy,
            ErrorCode::NotMounted => Self::NotMounted,
            ErrorCode::IdMismatch => Self::IdMismatch,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Unreachable => Self::Unreachable,
            ErrorCode::WrongType => Self::WrongType,
            ErrorCode::Changed => Self::Changed,
            ErrorCode::Stale => Self::Stale,
            ErrorCode::Hung => Self::Hung,
            ErrorCode::TimedOut => Self::TimedOut,
            ErrorCode::LimitReached => Self::LimitReached,
            ErrorCode::Unavailable => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

impl Error {
    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The helper's own report, where the helper made one.
    #[must_use]
    pub fn reply(&self) -> Option<&ErrorReply> {
        self.0.reply.as_ref()
    }

    /// Why the policy refused, for [`ErrorKind::Denied`].
    #[must_use]
    pub fn reason(&self) -> Option<DenyReason> {
        self.reply()?.reason
    }

    /// The path that the failure is about: the one that the helper named, the
    /// argument that is not valid, or the socket that cannot be reached.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The kernel's error number, where it had one (`errno(3)`).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        if let Some(reply) = self.reply() {
            return reply.errno;
        }
        let source = self.0.source.as_deref()?;
        source
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error)
    }

    /// The mount that the failure is about, such as the one that makes a target
    /// busy.
    #[must_use]
    pub fn mount(&self) -> Option<MountId> {
        self.reply()?.mount
    }

    /// Which mount of a batch could not be made, and what is left of the others.
    #[must_use]
    pub fn batch(&self) -> Option<&BatchFailure> {
        self.0.batch.as_ref()
    }

    /// How the program of a volume ended.
    #[cfg(feature = "volume")]
    #[must_use]
    pub fn program_end(&self) -> Option<ProgramEnd> {
        self.0.program.as_ref().map(|(end, _)| *end)
    }

    /// The beginning of what that program wrote to its standard error, escaped. It is not in the
    /// error's own text: a program may say there what belongs in no log.
    #[cfg(feature = "volume")]
    #[must_use]
    pub fn program_said(&self) -> Option<&str> {
        self.0.program.as_ref().map(|(_, said)| said.as_str())
    }

    #[cfg(feature = "volume")]
    pub(crate) fn with_program(mut self, end: ProgramEnd, said: String) -> Self {
        self.0.program = Some((end, said));
        self
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            reply: None,
            batch: None,
            #[cfg(feature = "volume")]
            program: None,
            source: None,
        }))
    }

    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    fn with_reply(mut self, reply: ErrorReply) -> Self {
        self.0.path = reply.path.as_ref().map(|path| path.as_path().to_owned());
        self.0.reply = Some(reply);
        self
    }

    pub(crate) fn invalid_path(what: &str, path: &Path, error: InvalidPath) -> Self {
        Self::new(
            ErrorKind::InvalidRequest,
            format!("the {what} \"{}\" is refused: {error}", SafePath(path)),
        )
        .at(path)
        .caused_by(error)
    }

    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// Says which mount of a batch it was, and what could not be taken back.
    pub(crate) fn of_batch(mut self, failure: BatchFailure) -> Self {
        let message = &mut self.0.message;
        *message = format!("mount[{}]: {message}", failure.entry);
        if failure.left.is_empty() {
            message.push_str("; nothing of the batch was done");
        }
        for left in &failure.left {
            let target = SafePath(left.target.as_path());
            let id = left.id;
            // Writing to a string cannot fail.
            let _ = write!(
                message,
                "; the mount {id} at {target} could not be taken back"
            );
        }
        self.0.batch = Some(failure);
        self
    }

    pub(crate) fn invalid_value(what: &str, error: InvalidFilesystem) -> Self {
        Self::new(
            ErrorKind::InvalidRequest,
            format!("the {what} is refused: {error}"),
        )
        .caused_by(error)
    }

    /// A request that this method does not make.
    pub(crate) fn other_method(method: &str) -> Self {
        Self::new(
            ErrorKind::InvalidRequest,
            format!("a mount that brings a descriptor is asked for by {method}"),
        )
    }

    #[cfg(feature = "cli")]
    pub(crate) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let message = format!("the secret cannot be read from {}: {error}", file.display());
        Self::new(ErrorKind::InvalidRequest, message)
    }

    #[cfg(feature = "cli")]
    pub(crate) fn no_program() -> Self {
        let message = "a FUSE file system needs its program: write it after --, with {fd} for the \
                       number of its connection";
        Self::new(ErrorKind::InvalidRequest, message)
    }

    #[cfg(feature = "volume")]
    pub(crate) fn not_started(program: impl AsRef<Path>, error: std::io::Error) -> Self {
        let message = format!(
            "the program \"{}\" cannot be started: {error}",
            SafePath(program.as_ref())
        );
        Self::new(ErrorKind::Failed, message).caused_by(error)
    }

    /// Says that the mount of the program that did not start could not be ended.
    #[cfg(feature = "volume")]
    pub(crate) fn and_left(mut self, left: &Self) -> Self {
        let message = &mut self.0.message;
        message.push_str("; the mount is still there: ");
        message.push_str(&left.to_string());
        self
    }

    pub(crate) fn cannot_open(path: &Path, purpose: &str, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        let message = format!("cannot open \"{}\" to {purpose}: {error}", SafePath(path));
        Self::new(kind, message).at(path).caused_by(error)
    }

    pub(crate) fn cannot_attach(path: &Path, error: std::io::Error) -> Self {
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "; it takes a user and a mount namespace of one's own (unshare --user \
                 --map-root-user --mount)"
            }
            _ => "",
        };
        let message = format!("cannot attach at \"{}\": {error}{advice}", SafePath(path));
        let failed = Self::new(ErrorKind::Failed, message);
        failed.at(path).caused_by(error)
    }

    #[cfg(feature = "cli")]
    pub(crate) fn unreadable_file(what: &str, path: &Path, why: &str) -> Self {
        let message = format!(
            "the {what} in \"{}\" is not understood: {}",
            SafePath(path),
            Safe(why)
        );
        Self::invalid_request(message).at(path)
    }

    #[cfg(feature = "cli")]
    pub(crate) fn no_volume(path: &Path, name: &str) -> Self {
        let (file, name) = (SafePath(path), Safe(name));
        let message = format!("\"{file}\" has no volume of the name \"{name}\"");
        Self::invalid_request(message).at(path)
    }

    /// Adds what the person at the command line should do.
    #[cfg(feature = "cli")]
    pub(crate) fn advise(mut self, advice: &str) -> Self {
        self.0.message.push_str("; ");
        self.0.message.push_str(advice);
        self
    }

    /// What the command asks of its own system.
    #[cfg(feature = "cli")]
    pub(crate) fn system(what: &str, error: std::io::Error) -> Self {
        Self::new(ErrorKind::Failed, format!("cannot {what}: {error}")).caused_by(error)
    }

    pub(crate) fn protocol(socket: &Path, what: impl fmt::Display) -> Self {
        let what = what.to_string();
        Self::new(
            ErrorKind::Protocol,
            format!(
                "what answers at {} breaks mountwarden's protocol: {}; \
                 check that it is mountwardend, and that its version fits this client's",
                SafePath(socket),
                Safe(&what),
            ),
        )
        .at(socket)
    }

    /// Puts a failure of the connection to `socket` into words.
    pub(crate) fn of(failure: Failure, socket: &Path, timeout: Duration) -> Self {
        let place = SafePath(socket);
        match failure {
            Failure::Unreachable(error) => Self::unreachable(error, socket),
            Failure::Refused(refusal) => Self::refused(*refusal, socket),
            Failure::TimedOut { sent } => Self::new(
                ErrorKind::TimedOut,
                if sent {
                    format!(
                        "the helper at {place} did not answer within {timeout:?}; \
                         whether the request was carried out is not known: list the mounts to see"
                    )
                } else {
                    format!(
                        "the helper at {place} did not take the request within {timeout:?}; \
                         nothing was done: it has more clients than it serves, or it hangs"
                    )
                },
            )
            .at(socket),
            Failure::Lost { sent: true, cause } => Self::new(
                ErrorKind::ConnectionLost,
                format!(
                    "the helper at {place} went away before it answered ({}); \
                     whether the request was carried out is not known: list the mounts to see",
                    Safe(&cause.to_string()),
                ),
            )
            .at(socket)
            .caused_by(cause),
            Failure::Lost { sent: false, cause } => Self::new(
                ErrorKind::Unavailable,
                format!(
                    "the helper at {place} closed the connection ({cause}); nothing was done: \
                     try again, and look at the helper's log if it happens again"
                ),
            )
            .at(socket)
            .caused_by(cause),
            Failure::Protocol(cause) => Self::protocol(socket, &cause).caused_by(cause),
        }
    }

    /// The connection that kept these leases has ended.
    pub(crate) fn lease_lost(socket: &Path, leases: &BTreeSet<MountId>, sent: bool) -> Self {
        let ids: Vec<String> = leases.iter().map(MountId::to_string).collect();
        let rest = if sent {
            "whether the request was carried out is not known: list the mounts to see"
        } else {
            "the request was not carried out"
        };
        Self::new(
            ErrorKind::LeaseLost,
            format!(
                "the connection to the helper at {} ended, and with it the leased mounts (id {}); \
                 {rest}",
                SafePath(socket),
                ids.join(", "),
            ),
        )
        .at(socket)
    }

    fn unreachable(error: std::io::Error, socket: &Path) -> Self {
        let place = SafePath(socket);
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "no helper at {place}: the socket does not exist; check that mountwardend runs, \
                 or name its socket in {SOCKET_VARIABLE}"
            ),
            std::io::ErrorKind::ConnectionRefused => format!(
                "no helper at {place}: nothing listens on the socket; check that mountwardend runs"
            ),
            std::io::ErrorKind::PermissionDenied => format!(
                "this user may not connect to the helper at {place}; \
                 check the owner, group and mode of the socket and of the directories above it"
            ),
            _ => {
                format!("cannot connect to the helper at {place}: {error}; check the socket's path")
            }
        };
        Self::new(ErrorKind::Unavailable, message)
            .at(socket)
            .caused_by(error)
    }

    fn refused(refusal: Refusal, socket: &Path) -> Self {
        if refusal.error.code != ErrorCode::UnsupportedVersion {
            return refusal.error.into();
        }
        let (client, helper) = (Versions::SUPPORTED, refusal.versions);
        let message = format!(
            "this client speaks protocol {client}, the helper at {} {helper}: \
             install a client and a helper that share one",
            SafePath(socket)
        );
        Self::new(ErrorKind::UnsupportedVersion { client, helper }, message)
            .with_reply(refusal.error)
    }
}

/// The error that an operation would get, as
/// [`Explanation::Denied`](crate::Explanation::Denied) holds it.
impl From<ErrorReply> for Error {
    fn from(reply: ErrorReply) -> Self {
        let mut message = Safe(&reply.message).to_string();
        if message.is_empty() {
            message = format!("the helper refused ({})", reply.code);
        }
        if let Some(path) = &reply.path {
            let path = SafePath(path.as_path()).to_string();
            if !message.contains(&path) {
                message = format!("{path}: {message}");
            }
        }
        Self::new(ErrorKind::of(reply.code), message).with_reply(reply)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source: &(dyn std::error::Error + Send + Sync) = self.0.source.as_deref()?;
        Some(source)
    }
}
