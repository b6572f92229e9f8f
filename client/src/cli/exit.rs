//! The exit status: what a script decides by.

use std::process::ExitCode;

use crate::ErrorKind;

/// The end of `--help`.
pub(super) const HELP: &str = "\
Exit status:
   0  done, or as asked already; explain: it would be allowed; probe: alive
   1  another failure
   2  the command line is not understood
   3  denied by the policy; explain: it would be denied
   4  busy: the target holds another mount, or the mount is in use; a volume is foreign
   5  not mounted, not the mount that --id names, or a path does not exist; a volume is absent
   6  the helper cannot be reached, went away, or shares no protocol version; a
      lease was lost
   7  timed out
   8  the file system at the path is dead or does not answer
   9  a path or value that no helper accepts
  10  a limit was reached
  11  probe: the file system answers the helper nothing, so nobody can say

Environment:
  MOUNTWARDEN_SOCKET  the helper's socket, unless --socket names it
  NO_COLOR            no colour, if set to anything";

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    Denied,
    Busy,
    NotThere,
    Unavailable,
    TimedOut,
    Dead,
    Invalid,
    Limit,
    Unknown,
}

impl Exit {
    /// The status of a command that failed.
    pub(super) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Busy | ErrorKind::Foreign => Self::Busy,
            ErrorKind::NotMounted | ErrorKind::IdMismatch | ErrorKind::NotFound => Self::NotThere,
            ErrorKind::Unavailable
            | ErrorKind::ConnectionLost
            | ErrorKind::LeaseLost
            | ErrorKind::UnsupportedVersion { .. } => Self::Unavailable,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::Stale | ErrorKind::Hung => Self::Dead,
            ErrorKind::InvalidRequest => Self::Invalid,
            ErrorKind::LimitReached => Self::Limit,
            ErrorKind::Unreachable
            | ErrorKind::WrongType
            | ErrorKind::Changed
            | ErrorKind::Unsupported
            | ErrorKind::Protocol
            | ErrorKind::ProgramFailed
            | ErrorKind::ServiceManager
            | ErrorKind::Failed => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0_u8,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Denied => 3,
            Exit::Busy => 4,
            Exit::NotThere => 5,
            Exit::Unavailable => 6,
            Exit::TimedOut => 7,
            Exit::Dead => 8,
            Exit::Invalid => 9,
            Exit::Limit => 10,
            Exit::Unknown => 11,
        })
    }
}
