//! What can go wrong with a volume.

use std::io;
use std::path::Path;
use std::time::Duration;

use mountwarden_protocol::AbsPath;
use mountwarden_protocol::escape::{Safe, SafePath};

use super::{Found, ProgramEnd, Validity};
use crate::{Error, ErrorKind};

impl Error {
    pub(super) fn look(target: &AbsPath, error: io::Error) -> Self {
        let message = format!("cannot find out what is mounted at {target}: {error}");
        Self::new(ErrorKind::Failed, message)
            .at(target.as_path())
            .caused_by(error)
    }

    pub(super) fn uses(place: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        let message = format!(
            "the uses of the volume cannot be counted in {}: {error}; its base is a directory that \
             this user can write to",
            SafePath(place)
        );
        Self::new(kind, message).at(place)
    }

    pub(super) fn locked(path: &Path, within: Duration) -> Self {
        let message = format!(
            "another process has worked on the volume for {within:?}, and nothing was done: it \
             holds the lock {}",
            SafePath(path)
        );
        Self::new(ErrorKind::TimedOut, message).at(path)
    }

    pub(super) fn no_directory(target: &AbsPath, error: io::Error) -> Self {
        let message = format!("the directory {target} cannot be made: {error}");
        Self::new(ErrorKind::Failed, message)
            .at(target.as_path())
            .caused_by(error)
    }

    /// What was seen is not what the helper sees.
    pub(super) fn other_mount(target: &AbsPath) -> Self {
        let message = format!(
            "the helper sees another mount at {target} than this process: it was replaced just \
             now, or this process has a mount namespace of its own"
        );
        Self::new(ErrorKind::Changed, message).at(target.as_path())
    }

    /// Why a volume is not connected, which was looked at and found to be anything but good.
    pub(super) fn not_good(target: &AbsPath, found: &Found) -> Self {
        let (kind, what) = match found.validity {
            Validity::Foreign => (
                ErrorKind::Foreign,
                "another file system is mounted there; end it, or give the volume another base",
            ),
            Validity::Stale { .. } => (ErrorKind::Stale, "its server is gone"),
            Validity::Hung => (
                ErrorKind::Hung,
                "the file system does not answer; end it, or its server, before it is connected",
            ),
            Validity::Absent => (ErrorKind::NotMounted, "nothing is mounted there"),
            Validity::Good => (ErrorKind::Failed, "it is good"),
        };
        let shown = found.mount.as_ref().map_or(String::new(), |mount| {
            let (filesystem, source) = (Safe(&mount.filesystem), Safe(&mount.source));
            format!(" ({filesystem} from \"{source}\")")
        });
        let message = format!(
            "the volume at {target} is {}: {what}{shown}",
            found.validity.name()
        );
        let error = Self::new(kind, message).at(target.as_path());
        match found.validity {
            Validity::Stale { errno } => error.caused_by(io::Error::from_raw_os_error(errno)),
            _ => error,
        }
    }

    pub(super) fn program_failed(program: &AbsPath, end: ProgramEnd, said: String) -> Self {
        let how = match end {
            ProgramEnd::Exited(status) => format!("ended with status {status}"),
            ProgramEnd::Killed(signal) => format!("was ended by signal {signal}"),
        };
        let message = format!("the program {program} {how} and mounted nothing");
        Self::new(ErrorKind::ProgramFailed, message)
            .at(program.as_path())
            .with_program(end, said)
    }

    /// The launcher's own words for why the program is not in a scope, and was not started.
    pub(super) fn scope(message: &str, timed_out: bool) -> Self {
        let kind = if timed_out {
            ErrorKind::TimedOut
        } else {
            ErrorKind::ServiceManager
        };
        Self::new(kind, Safe(message).to_string())
    }

    pub(super) fn program_hangs(program: &AbsPath, within: Duration) -> Self {
        let message = format!(
            "the program {program} did not go to the background within {within:?}; it was killed"
        );
        Self::new(ErrorKind::TimedOut, message).at(program.as_path())
    }

    /// The program ended well, and nothing came of it.
    pub(super) fn nothing_mounted(program: &AbsPath, target: &AbsPath) -> Self {
        let message = format!(
            "the program {program} ended with status 0, but nothing is mounted at {target}"
        );
        Self::new(ErrorKind::ProgramFailed, message).at(target.as_path())
    }

    pub(super) fn launcher_failed(launcher: &Path, said: &str) -> Self {
        let message = format!(
            "the launcher {} ended before it said how the program fares: {said}; it is the \
             mountwarden command of this version",
            SafePath(launcher)
        );
        Self::new(ErrorKind::Failed, message).at(launcher)
    }
}
